//! What a disk holds, and what its page cache shows: all that was synced stays when the power goes, and nothing else need.
//!
//! Stricter than most file systems in what it forgets, and no stricter than POSIX: a sync of a file says nothing of its name, each change of a name is lost
//! or kept by itself, and a sector that was written and not synced holds old or new bytes whatever its neighbours hold.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use fastrand::Rng;

/// Bytes that reach the disk together, or not at all.
const SECTOR: usize = 512;

/// One write in so many lets some of its file's sectors reach the disk before they are synced, as the kernel does at any time.
const WRITE_BACK_ONE_IN: u32 = 16;

/// A file or a folder, by the number that the kernel knows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Node(pub(super) u64);

/// The folder that is mounted.
pub(super) const ROOT: Node = Node(1);

type Name = (Node, OsString);

/// The disk and its cache.
#[derive(Debug)]
pub(super) struct Medium {
    files: BTreeMap<Node, File>,
    folders: BTreeSet<Node>,
    /// What is shown, and what would be found after a loss of power if nothing else were kept.
    shown: BTreeMap<Name, Node>,
    synced: BTreeMap<Name, Node>,
    /// From the second to the first, in their order.
    changes: Vec<Change>,
    next: u64,
    random: Rng,
    /// A place of a file that cannot be written.
    spoilt: Option<(Node, usize)>,
}

#[derive(Debug, Default)]
struct File {
    shown: Vec<u8>,
    synced: Vec<u8>,
    /// Sectors that a sync has to write.
    dirty: BTreeSet<usize>,
}

/// What of the unsynced a loss of power takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of it.
    All,
    /// What the seed decides: all, nothing, or a mix.
    Any,
}

#[derive(Clone, Debug)]
enum Change {
    Made { name: Name, node: Node },
    Moved { from: Name, to: Name, node: Node },
    Removed { name: Name, node: Node },
}

/// What a loss of power took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Sectors that were written and not synced.
    pub(crate) sectors: usize,
    /// Changes of names that were not synced.
    pub(crate) names: usize,
}

impl Medium {
    /// An empty folder; the seed decides what survives.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            files: BTreeMap::new(),
            folders: BTreeSet::from([ROOT]),
            shown: BTreeMap::new(),
            synced: BTreeMap::new(),
            changes: Vec::new(),
            next: ROOT.0 + 1,
            random: Rng::with_seed(seed),
            spoilt: None,
        }
    }

    pub(super) fn find(&self, folder: Node, name: &OsStr) -> Option<Node> {
        self.shown.get(&(folder, name.to_owned())).copied()
    }

    pub(super) fn list(&self, folder: Node) -> Vec<(OsString, Node)> {
        let within = self.shown.iter().filter(|((parent, _), _)| *parent == folder);
        within.map(|((_, name), node)| (name.clone(), *node)).collect()
    }

    pub(super) fn is_folder(&self, node: Node) -> bool {
        self.folders.contains(&node)
    }

    /// `None` of what is no file.
    pub(super) fn length(&self, file: Node) -> Option<usize> {
        self.files.get(&file).map(|file| file.shown.len())
    }

    /// Bytes of all files.
    pub(super) fn size(&self) -> usize {
        self.files.values().map(|file| file.shown.len()).sum()
    }

    pub(super) fn make_file(&mut self, folder: Node, name: &OsStr) -> Node {
        let node = self.make(folder, name);
        self.files.insert(node, File::default());
        node
    }

    pub(super) fn make_folder(&mut self, folder: Node, name: &OsStr) -> Node {
        let node = self.make(folder, name);
        self.folders.insert(node);
        node
    }

    fn make(&mut self, folder: Node, name: &OsStr) -> Node {
        let node = Node(self.next);
        self.next += 1;
        self.change(Change::Made { name: (folder, name.to_owned()), node });
        node
    }

    pub(super) fn rename(&mut self, node: Node, from: (Node, &OsStr), to: (Node, &OsStr)) {
        self.change(Change::Moved { from: (from.0, from.1.to_owned()), to: (to.0, to.1.to_owned()), node });
    }

    pub(super) fn remove(&mut self, node: Node, folder: Node, name: &OsStr) {
        self.change(Change::Removed { name: (folder, name.to_owned()), node });
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.shown);
        self.changes.push(change);
    }

    pub(super) fn read(&self, file: Node, offset: usize, length: usize) -> Option<&[u8]> {
        let bytes = &self.files.get(&file)?.shown;
        let end = bytes.len().min(offset.saturating_add(length));
        Some(bytes.get(offset..end).unwrap_or_default())
    }

    pub(super) fn write(&mut self, file: Node, offset: usize, bytes: &[u8]) -> Option<()> {
        let file = self.files.get_mut(&file)?;
        let end = offset + bytes.len();
        if end > file.shown.len() {
            file.set_length(end);
        }
        file.shown[offset..end].copy_from_slice(bytes);
        file.dirty.extend(offset / SECTOR..end.div_ceil(SECTOR));
        if self.random.u32(..WRITE_BACK_ONE_IN) == 0 {
            // Never all of them: a file that was written to and not synced has something to lose.
            let early: Vec<usize> = file.dirty.iter().copied().skip(1).filter(|_| self.random.bool()).collect();
            for sector in early {
                file.write_back(sector);
            }
        }
        Some(())
    }

    /// Writes that begin there fail from now on.
    ///
    /// One failure would not do: the kernel makes several requests of a large write, and where one of the later ones fails, the caller is told that less was
    /// written, and no error. It learns of that where it goes on with the rest.
    pub(super) fn spoil(&mut self, file: Node, offset: usize) {
        self.spoilt = Some((file, offset));
    }

    pub(super) fn is_spoilt(&self, file: Node, offset: usize) -> bool {
        self.spoilt == Some((file, offset))
    }

    /// Whoever opens the file finds it in order.
    pub(super) fn repair(&mut self, file: Node) {
        self.spoilt = self.spoilt.filter(|(spoilt, _)| *spoilt != file);
    }

    pub(super) fn set_length(&mut self, file: Node, length: usize) -> Option<()> {
        self.files.get_mut(&file)?.set_length(length);
        Some(())
    }

    /// Makes durable what a file holds; not its name.
    pub(super) fn sync_file(&mut self, file: Node) {
        if let Some(file) = self.files.get_mut(&file) {
            file.synced.resize(file.shown.len(), 0);
            while let Some(sector) = file.dirty.first().copied() {
                file.write_back(sector);
            }
        }
    }

    /// A sync that fails, as Linux has it: what is shown stays, the disk does not have it, and no later sync writes it.
    pub(super) fn fail_sync(&mut self, file: Node) {
        if let Some(file) = self.files.get_mut(&file) {
            file.dirty.clear();
        }
    }

    /// Makes durable which names a folder holds.
    pub(super) fn sync_folder(&mut self, folder: Node) {
        let (here, elsewhere): (Vec<_>, Vec<_>) = std::mem::take(&mut self.changes).into_iter().partition(|change| change.touches(folder));
        self.changes = elsewhere;
        for change in here {
            change.apply(&mut self.synced);
        }
    }

    /// What is shown from now on is what is left.
    pub(super) fn lose_power(&mut self, extent: Extent) -> Lost {
        let mut lost = Lost::default();
        let changes = std::mem::take(&mut self.changes);
        let (kept, first_ones) = match extent {
            Extent::All => (0.0, None),
            Extent::Any => {
                // A journaling file system keeps the first changes of names, POSIX any.
                let first_ones = self.random.bool().then(|| self.random.usize(..=changes.len()));
                ([0.0, 0.1, 0.5, 0.9, 1.0][self.random.usize(..5)], first_ones)
            }
        };
        for (index, change) in changes.iter().enumerate() {
            if first_ones.map_or_else(|| self.random.f64() < kept, |first| index < first) {
                change.apply(&mut self.synced);
            } else {
                lost.names += 1;
            }
        }
        self.forget_what_has_no_name();
        self.shown = self.synced.clone();
        for file in self.files.values_mut() {
            lost.sectors += file.lose_power(&mut self.random, kept);
        }
        lost
    }

    fn forget_what_has_no_name(&mut self) {
        let mut reached = BTreeSet::from([ROOT]);
        loop {
            let found: BTreeSet<Node> =
                self.synced.iter().filter(|((folder, _), _)| reached.contains(folder)).map(|(_, node)| *node).collect();
            let before = reached.len();
            reached.extend(found);
            if reached.len() == before {
                break;
            }
        }
        self.synced.retain(|(folder, _), _| reached.contains(folder));
        self.files.retain(|node, _| reached.contains(node));
        self.folders.retain(|node| reached.contains(node));
    }
}

impl Change {
    fn touches(&self, folder: Node) -> bool {
        match self {
            Self::Made { name, .. } | Self::Removed { name, .. } => name.0 == folder,
            Self::Moved { from, to, .. } => from.0 == folder || to.0 == folder,
        }
    }

    /// Whichever of the changes before it were kept: a node never has two names, and a renamed one never none.
    fn apply(&self, names: &mut BTreeMap<Name, Node>) {
        match self {
            Self::Made { name, node } => drop(names.insert(name.clone(), *node)),
            Self::Moved { to, node, .. } => {
                names.retain(|_, known| known != node);
                names.insert(to.clone(), *node);
            }
            Self::Removed { name, node } => {
                if names.get(name) == Some(node) {
                    names.remove(name);
                }
            }
        }
    }
}

impl File {
    fn set_length(&mut self, length: usize) {
        let before = self.shown.len();
        self.shown.resize(length, 0);
        if length > before {
            self.dirty.extend(before / SECTOR..length.div_ceil(SECTOR));
        } else {
            self.dirty.retain(|sector| sector * SECTOR < length);
        }
    }

    /// Lets one sector reach the disk. What lies beyond the synced length is there as soon as the length is.
    fn write_back(&mut self, sector: usize) {
        let end = self.shown.len().min((sector + 1) * SECTOR);
        if self.synced.len() < end {
            return;
        }
        self.synced[sector * SECTOR..end].copy_from_slice(&self.shown[sector * SECTOR..end]);
        self.dirty.remove(&sector);
    }

    /// The number of sectors that were lost.
    fn lose_power(&mut self, random: &mut Rng, kept: f64) -> usize {
        let (synced, shown) = (self.synced.len(), self.shown.len());
        let length = [synced, shown, random.usize(synced.min(shown)..=synced.max(shown))][random.usize(..3)];
        let mut lost = 0;
        let mut left = std::mem::take(&mut self.synced);
        left.resize(length, 0);
        for sector in std::mem::take(&mut self.dirty) {
            let from = sector * SECTOR;
            let end = length.min(shown).min(from + SECTOR);
            if random.f64() < kept {
                if from < end {
                    left[from..end].copy_from_slice(&self.shown[from..end]);
                }
                continue;
            }
            lost += 1;
            if from >= synced && from < end && random.bool() {
                // Never synced: whatever stood on the disk there.
                left[from..end].iter_mut().for_each(|byte| *byte = random.u8(..));
            }
        }
        self.synced.clone_from(&left);
        self.shown = left;
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(medium: &Medium) -> Vec<String> {
        medium.list(ROOT).into_iter().map(|(name, _)| name.into_string().unwrap()).collect()
    }

    #[test]
    fn what_was_synced_stays_whatever_came_after_it() {
        for seed in 0..200 {
            let mut medium = Medium::new(seed);
            let file = medium.make_file(ROOT, OsStr::new("a"));
            medium.write(file, 0, &[1; 3 * SECTOR]).unwrap();
            medium.sync_file(file);
            medium.sync_folder(ROOT);
            medium.write(file, SECTOR, &[2; SECTOR]).unwrap();
            medium.make_file(ROOT, OsStr::new("b"));
            medium.lose_power(Extent::Any);
            assert_eq!(medium.find(ROOT, OsStr::new("a")), Some(file), "seed {seed}");
            let left = medium.read(file, 0, 4 * SECTOR).unwrap();
            assert_eq!((left.len(), &left[..SECTOR], &left[2 * SECTOR..]), (3 * SECTOR, &[1; SECTOR][..], &[1; SECTOR][..]), "seed {seed}");
            let sector = &left[SECTOR..2 * SECTOR];
            assert!(sector == [1; SECTOR] || sector == [2; SECTOR], "seed {seed}: a sector is torn");
        }
    }

    #[test]
    fn what_was_not_synced_is_lost_in_every_mix() {
        let mut seen = BTreeSet::new();
        let mut found = BTreeSet::new();
        for seed in 0..400 {
            let mut medium = Medium::new(seed);
            let file = medium.make_file(ROOT, OsStr::new("a"));
            medium.write(file, 0, &[1; 2 * SECTOR]).unwrap();
            medium.sync_file(file);
            medium.sync_folder(ROOT);
            medium.write(file, 0, &[2; 2 * SECTOR]).unwrap();
            medium.rename(file, (ROOT, OsStr::new("a")), (ROOT, OsStr::new("b")));
            medium.make_file(ROOT, OsStr::new("c"));
            medium.lose_power(Extent::Any);
            let left = medium.read(file, 0, 2 * SECTOR).unwrap();
            seen.insert((left[0], left[SECTOR]));
            found.insert(names(&medium).concat());
        }
        assert_eq!(seen, [(1, 1), (1, 2), (2, 1), (2, 2)].into());
        assert_eq!(found, ["a", "ac", "b", "bc"].map(str::to_owned).into());
    }

    #[test]
    fn a_file_whose_name_was_not_synced_can_be_gone_and_a_folder_takes_what_is_in_it_along() {
        let mut gone = [0; 2];
        for seed in 0..200 {
            let mut medium = Medium::new(seed);
            let file = medium.make_file(ROOT, OsStr::new("file"));
            medium.write(file, 0, b"whole").unwrap();
            medium.sync_file(file);
            let folder = medium.make_folder(ROOT, OsStr::new("folder"));
            let within = medium.make_file(folder, OsStr::new("within"));
            medium.sync_file(within);
            medium.sync_folder(folder);
            medium.lose_power(Extent::Any);
            match medium.find(ROOT, OsStr::new("file")) {
                Some(found) => assert_eq!(medium.read(found, 0, 9), Some(&b"whole"[..]), "seed {seed}"),
                None => gone[0] += 1,
            }
            if medium.find(ROOT, OsStr::new("folder")).is_none() {
                gone[1] += 1;
                assert_eq!(medium.length(within), None, "seed {seed}");
            }
        }
        assert!(gone.iter().all(|gone| (20..180).contains(gone)), "{gone:?}");
    }

    #[test]
    fn after_a_failed_sync_the_next_one_writes_nothing_and_the_cache_shows_what_the_disk_does_not_have() {
        let mut medium = Medium::new(1);
        let file = medium.make_file(ROOT, OsStr::new("a"));
        medium.write(file, 0, &[1; SECTOR]).unwrap();
        medium.sync_file(file);
        medium.sync_folder(ROOT);
        medium.random = Rng::with_seed(3);
        medium.write(file, 0, &[2; SECTOR]).unwrap();
        medium.fail_sync(file);
        medium.sync_file(file);
        assert_eq!(medium.read(file, 0, SECTOR), Some(&[2; SECTOR][..]));
        medium.lose_power(Extent::Any);
        assert_eq!(medium.read(file, 0, SECTOR), Some(&[1; SECTOR][..]));
    }
}
