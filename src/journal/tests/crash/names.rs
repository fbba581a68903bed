//! Which names there are: what lookups see, and what a loss of power may leave of it.

use std::collections::BTreeMap;

use fastrand::Rng;

/// A folder or a file, whatever its name.
pub(super) type Id = u64;

/// The folder that always was.
pub(super) const ROOT: Id = 0;

/// A name in a folder.
pub(super) type Place = (Id, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File(Id),
    Folder(Id),
}

type Tree = BTreeMap<Place, Node>;

/// One change: a name that appears, or goes, or both at once.
#[derive(Clone, Debug)]
struct Change {
    gone: Option<Place>,
    come: Option<Place>,
    node: Node,
}

impl Change {
    fn places(&self) -> impl Iterator<Item = &Place> {
        self.gone.iter().chain(&self.come)
    }

    /// Whether no file system has this one without the `earlier` one: they are of one name or of one file. What is in a folder may well be durable while
    /// the folder's own name is not: then nobody finds it.
    fn needs(&self, earlier: &Self) -> bool {
        self.node == earlier.node || self.places().any(|place| earlier.places().any(|other| other == place))
    }

    fn apply(&self, tree: &mut Tree) {
        if let Some(gone) = &self.gone {
            tree.remove(gone);
        }
        if let Some(come) = &self.come {
            tree.insert(come.clone(), self.node);
        }
    }
}

/// All names of the file system.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    seen: Tree,
    disk: Tree,
    /// What the disk may lack, in order.
    unsynced: Vec<Change>,
}

impl Names {
    pub(super) fn get(&self, place: &Place) -> Option<Node> {
        self.seen.get(place).copied()
    }

    pub(super) fn within(&self, folder: Id) -> impl Iterator<Item = (&str, Node)> {
        self.seen.iter().filter(move |((within, _), _)| *within == folder).map(|((_, name), node)| (name.as_str(), *node))
    }

    pub(super) fn files(&self) -> impl Iterator<Item = Id> {
        self.seen.values().filter_map(|node| match node {
            Node::File(id) => Some(*id),
            Node::Folder(_) => None,
        })
    }

    pub(super) fn add(&mut self, place: Place, node: Node) {
        self.change(Change { gone: None, come: Some(place), node });
    }

    pub(super) fn remove(&mut self, place: Place, node: Node) {
        self.change(Change { gone: Some(place), come: None, node });
    }

    pub(super) fn rename(&mut self, from: Place, to: Place, node: Node) {
        self.change(Change { gone: Some(from), come: Some(to), node });
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.unsynced.push(change);
    }

    /// Makes durable what has changed in a folder, and what that needs.
    pub(super) fn sync(&mut self, folder: Id) {
        let mut wanted: Vec<bool> = self.unsynced.iter().map(|change| change.places().any(|place| place.0 == folder)).collect();
        for later in (0..wanted.len()).rev().filter(|index| wanted[*index]).collect::<Vec<_>>() {
            self.want(later, &mut wanted);
        }
        self.settle(&wanted);
    }

    fn want(&self, later: usize, wanted: &mut [bool]) {
        wanted[later] = true;
        for earlier in (0..later).rev() {
            if !wanted[earlier] && self.unsynced[later].needs(&self.unsynced[earlier]) {
                self.want(earlier, wanted);
            }
        }
    }

    /// Of what was not synced some reaches the disk: a beginning of it, as with a file system that keeps its journal in order, or each change for itself, as
    /// far as it does not need another.
    pub(super) fn crash(&mut self, rng: &mut Rng) {
        let count = self.unsynced.len();
        let mut wanted = vec![false; count];
        if rng.bool() {
            let first = rng.usize(0..=count);
            wanted[..first].fill(true);
        } else {
            for index in 0..count {
                let possible = (0..index).all(|earlier| wanted[earlier] || !self.unsynced[index].needs(&self.unsynced[earlier]));
                wanted[index] = possible && rng.bool();
            }
        }
        self.settle(&wanted);
        self.unsynced.clear();
        self.seen.clone_from(&self.disk);
    }

    /// Some of it reaches the disk though the sync has failed; the rest may do so later.
    pub(super) fn sync_in_vain(&mut self, rng: &mut Rng) {
        let first = rng.usize(0..=self.unsynced.len());
        let wanted: Vec<bool> = (0..self.unsynced.len()).map(|index| index < first).collect();
        self.settle(&wanted);
    }

    fn settle(&mut self, wanted: &[bool]) {
        let mut rest = Vec::new();
        for (change, wanted) in self.unsynced.drain(..).zip(wanted) {
            if *wanted {
                change.apply(&mut self.disk);
            } else {
                rest.push(change);
            }
        }
        self.unsynced = rest;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn place(name: &str) -> Place {
        (ROOT, name.to_owned())
    }

    fn crashes(names: &Names) -> BTreeSet<Vec<String>> {
        let outcome = |seed| {
            let mut left = names.clone();
            left.crash(&mut Rng::with_seed(seed));
            left.within(ROOT).map(|(name, _)| name.to_owned()).collect()
        };
        (0..200).map(outcome).collect()
    }

    fn all(outcomes: &[&[&str]]) -> BTreeSet<Vec<String>> {
        outcomes.iter().map(|names| names.iter().map(|name| (*name).to_owned()).collect()).collect()
    }

    #[test]
    fn changes_of_different_files_are_durable_each_for_itself_and_those_of_one_in_order() {
        let mut names = Names::default();
        names.add(place("a"), Node::File(1));
        names.add(place("b"), Node::File(2));
        names.rename(place("a"), place("c"), Node::File(1));
        assert_eq!(crashes(&names), all(&[&[], &["a"], &["b"], &["a", "b"], &["c"], &["b", "c"]]));
        names.sync(ROOT);
        assert_eq!(crashes(&names), all(&[&["b", "c"]]));
        names.remove(place("b"), Node::File(2));
        assert_eq!(crashes(&names), all(&[&["b", "c"], &["c"]]));
    }

    #[test]
    fn what_a_synced_folder_holds_is_lost_with_the_folders_own_name() {
        let mut names = Names::default();
        names.add(place("folder"), Node::Folder(1));
        names.add((1, "file".to_owned()), Node::File(2));
        names.sync(1);
        assert_eq!(crashes(&names), all(&[&[], &["folder"]]));
    }
}
