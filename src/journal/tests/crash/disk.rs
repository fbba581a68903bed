//! A file system that keeps what was synced, and of the rest what a loss of power may leave.
//!
//! Reads see what was written, whether the disk holds it or not. A sync makes it durable; one that fails leaves some of it on the disk, and the rest
//! clean in memory, where reads see it and no later sync writes it. Names are made durable by a sync of their folder, apart from the files' bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;

use super::content::Content;
use super::faults::{Faults, Outcome};
use super::names::{Id, Names, Node, Place, ROOT};
use crate::journal::storage::{Entry, File, Lock, Storage};

/// An operation that changes what a loss of power leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    CreateDir,
    Create,
    /// So many bytes at this offset.
    Write(usize, u64),
    Sync,
    Rename,
    Remove,
    SyncDir,
}

/// Is told of every operation before it is done, with nothing locked.
pub(super) trait Watch: Send + Sync {
    fn before(&self, operation: Operation, path: &Path);
}

/// What a disk says of its syncs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Honesty {
    #[default]
    Honest,
    /// Syncs of folders do nothing once the journal is open.
    NoDirSync,
    /// Syncs of segments do nothing: records are answered before they are durable.
    NoSegmentSync,
    /// Syncs of the checkpoint do nothing once the journal is open: what it allows to be freed is gone before it is durable.
    NoCheckpointSync,
    /// Syncs of segments do nothing until the journal is open: records are read before they are durable.
    NoRecoverySync,
}

#[derive(Clone, Debug, Default)]
struct State {
    names: Names,
    files: BTreeMap<Id, Arc<Content>>,
    last_id: Id,
    faults: Faults,
    honesty: Honesty,
    opened: bool,
}

/// The file system. Clones are the same one.
#[derive(Clone)]
pub(super) struct Disk {
    state: Arc<Mutex<State>>,
    locks: Arc<Mutex<BTreeSet<PathBuf>>>,
    watch: Arc<Mutex<Option<Arc<dyn Watch>>>>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Disk").finish_non_exhaustive()
    }
}

impl Disk {
    pub(super) fn new(honesty: Honesty) -> Self {
        Self::of(State { honesty, ..State::default() })
    }

    fn of(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)), locks: Arc::default(), watch: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Apart from this one: what a process that was killed leaves. Reads see what was written, and the disk may lack it.
    pub(super) fn killed(&self) -> Self {
        let mut state = self.state().clone();
        state.faults = Faults::none();
        state.opened = false;
        Self::of(state)
    }

    /// Apart from this one: what a loss of power leaves.
    pub(super) fn crashed(&self, rng: &mut Rng) -> Self {
        let killed = self.killed();
        let mut state = killed.state();
        let old = state.some_bytes(rng);
        state.names.crash(rng);
        let named: BTreeSet<Id> = state.names.files().collect();
        state.files.retain(|id, _| named.contains(id));
        for content in state.files.values_mut().filter(|content| !content.is_safe()) {
            Arc::make_mut(content).crash(rng, &old);
        }
        drop(state);
        killed
    }

    pub(super) fn set_watch(&self, watch: Option<Arc<dyn Watch>>) {
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = watch;
    }

    pub(super) fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// From here on nothing fails.
    pub(super) fn end_faults(&self) {
        self.state().faults.end();
    }

    /// Whether an operation has failed so that a journal may say that it has.
    pub(super) fn has_failed(&self) -> bool {
        self.state().faults.has_failed()
    }

    /// The journal is open now.
    pub(super) fn set_opened(&self) {
        self.state().opened = true;
    }

    fn enter(&self, operation: Operation, path: &Path) -> Outcome {
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(watch) = watch {
            watch.before(operation, path);
        }
        self.state().faults.decide(operation)
    }

    fn open_file(&self, id: Id, path: &Path) -> Box<dyn File> {
        Box::new(DiskFile { disk: self.clone(), id, path: path.to_owned() })
    }
}

impl State {
    fn folder(&self, path: &Path) -> io::Result<Id> {
        let mut folder = ROOT;
        for part in path.components() {
            match part {
                Component::RootDir => {}
                Component::Normal(name) => {
                    let place = (folder, name.to_string_lossy().into_owned());
                    let Some(Node::Folder(id)) = self.names.get(&place) else { return Err(io::ErrorKind::NotFound.into()) };
                    folder = id;
                }
                Component::Prefix(_) | Component::CurDir | Component::ParentDir => return Err(io::ErrorKind::InvalidInput.into()),
            }
        }
        Ok(folder)
    }

    fn place(&self, path: &Path) -> io::Result<Place> {
        let folder = self.folder(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((folder, name.to_string_lossy().into_owned()))
    }

    fn file(&self, path: &Path) -> io::Result<(Place, Id)> {
        let place = self.place(path)?;
        match self.names.get(&place) {
            Some(Node::File(id)) => Ok((place, id)),
            Some(Node::Folder(_)) | None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn next_id(&mut self) -> Id {
        self.last_id += 1;
        self.last_id
    }

    fn content(&mut self, id: Id) -> &mut Content {
        Arc::make_mut(self.files.entry(id).or_default())
    }

    fn used(&self) -> usize {
        self.names.files().filter_map(|id| self.files.get(&id)).map(|content| content.length()).sum()
    }

    /// Of any file: what a block that was never synced may show.
    fn some_bytes(&self, rng: &mut Rng) -> Vec<u8> {
        let which = rng.usize(0..self.files.len().max(1));
        let Some(content) = self.files.values().nth(which).filter(|content| !content.is_safe() || rng.bool()) else { return Vec::new() };
        let mut bytes = vec![0; content.length()];
        content.read(&mut bytes, 0);
        bytes
    }

    /// Whether a sync of this file does what it says.
    fn is_honest(&self, path: &Path) -> bool {
        let checkpoint = path.to_string_lossy().contains("checkpoint");
        match self.honesty {
            Honesty::Honest | Honesty::NoDirSync => true,
            Honesty::NoSegmentSync => checkpoint,
            Honesty::NoCheckpointSync => !checkpoint || !self.opened,
            Honesty::NoRecoverySync => checkpoint || self.opened,
        }
    }
}

impl Storage for Disk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        // A name that is taken shows before anything can fail.
        let taken = |state: &State| state.place(path).is_ok_and(|place| state.names.get(&place).is_some());
        if taken(&self.state()) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.enter(Operation::CreateDir, path).or_fail()?;
        let mut state = self.state();
        let place = state.place(path)?;
        let id = state.next_id();
        state.names.add(place, Node::Folder(id));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let state = self.state();
        let folder = state.folder(dir)?;
        let entries = state.names.within(folder).filter_map(|(name, node)| match node {
            Node::File(id) => {
                let length = state.files.get(&id).map_or(0, |content| content.length());
                Some(Entry { name: name.to_owned(), length: u64::try_from(length).unwrap() })
            }
            Node::Folder(_) => None,
        });
        Ok(entries.collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.enter(Operation::Create, path).or_fail()?;
        let mut state = self.state();
        let place = state.place(path)?;
        let id = if let Some(Node::File(id)) = state.names.get(&place) {
            state.content(id).truncate();
            id
        } else {
            let id = state.next_id();
            state.content(id);
            state.names.add(place, Node::File(id));
            id
        };
        drop(state);
        Ok(self.open_file(id, path))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let (_, id) = self.state().file(path)?;
        Ok(self.open_file(id, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.enter(Operation::Rename, from).or_fail()?;
        let mut state = self.state();
        let (place, id) = state.file(from)?;
        let target = state.place(to)?;
        state.names.rename(place, target, Node::File(id));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.enter(Operation::Remove, path).or_fail()?;
        let mut state = self.state();
        let (place, id) = state.file(path)?;
        state.names.remove(place, Node::File(id));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let outcome = self.enter(Operation::SyncDir, dir);
        let mut state = self.state();
        let folder = state.folder(dir)?;
        if outcome.is_failure() {
            let State { names, faults, .. } = &mut *state;
            names.sync_in_vain(faults.rng());
        } else if state.honesty != Honesty::NoDirSync || !state.opened {
            state.names.sync(folder);
        }
        outcome.or_fail()
    }

    fn free_space(&self, _dir: &Path) -> io::Result<u64> {
        let state = self.state();
        Ok(state.faults.free_space(state.used()))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if locks.insert(path.to_owned()) {
            Ok(Box::new(Held { locks: Arc::clone(&self.locks), path: path.to_owned() }))
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }
}

/// An open file, by its identity: renaming or removing its name does not change it.
#[derive(Debug)]
struct DiskFile {
    disk: Disk,
    id: Id,
    path: PathBuf,
}

impl File for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        let count = state.faults.read(buffer.len())?;
        let offset = usize::try_from(offset).unwrap();
        Ok(state.files.get(&self.id).map_or(0, |content| content.read(&mut buffer[..count], offset)))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let outcome = self.disk.enter(Operation::Write(bytes.len(), offset), &self.path);
        let at = usize::try_from(offset).unwrap();
        let mut state = self.disk.state();
        let growth = state.files.get(&self.id).map_or(0, |content| content.growth(at, bytes.len()));
        let used = state.used();
        let (count, outcome) = state.faults.write(outcome, bytes.len(), growth, used);
        if count > 0 {
            state.content(self.id).write(&bytes[..count], at);
        }
        outcome.or_fail().map(|()| count)
    }

    fn sync_data(&self) -> io::Result<()> {
        let outcome = self.disk.enter(Operation::Sync, &self.path);
        let mut state = self.disk.state();
        if outcome.is_failure() {
            let State { files, faults, .. } = &mut *state;
            let content = Arc::make_mut(files.entry(self.id).or_default());
            content.sync_in_vain(faults.rng());
        } else if state.is_honest(&self.path) {
            state.content(self.id).sync();
        }
        outcome.or_fail()
    }

    fn length(&self) -> io::Result<u64> {
        let state = self.disk.state();
        Ok(state.files.get(&self.id).map_or(0, |content| u64::try_from(content.length()).unwrap()))
    }
}

#[derive(Debug)]
struct Held {
    locks: Arc<Mutex<BTreeSet<PathBuf>>>,
    path: PathBuf,
}

impl Lock for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
    }
}
