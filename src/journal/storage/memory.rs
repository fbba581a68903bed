//! A file system in memory for tests: it fails, runs out of room, writes short or holds a sync back where a test says so.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use super::{Entry, File, Lock, Storage};

/// What can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) enum Operation {
    Create,
    Open,
    Read,
    Write,
    Sync,
    Rename,
    Remove,
    SyncDir,
}

/// One fault: the `skip`-th matching operation after it was set, and `times` in all.
#[derive(Clone, Debug)]
struct Fault {
    operation: Operation,
    path_part: String,
    skip: usize,
    times: usize,
    kind: io::ErrorKind,
}

#[derive(Debug)]
struct Inner {
    files: BTreeMap<PathBuf, Arc<Mutex<Vec<u8>>>>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    faults: Vec<Fault>,
    /// Bytes that all files together may have.
    capacity: u64,
    /// At most so many bytes a write, where set.
    short_write: Option<usize>,
    /// Syncs of paths that hold this text wait.
    held: Option<String>,
    /// Syncs that wait now.
    waiting: usize,
    /// What was done, in order.
    done: Vec<(Operation, PathBuf)>,
}

/// The file system. Clones are the same one.
#[derive(Clone, Debug)]
pub(in crate::journal) struct Memory {
    shared: Arc<(Mutex<Inner>, Condvar)>,
}

impl Memory {
    pub(in crate::journal) fn new() -> Self {
        let inner = Inner {
            files: BTreeMap::new(),
            dirs: BTreeSet::new(),
            locks: BTreeSet::new(),
            faults: Vec::new(),
            capacity: u64::MAX / 2,
            short_write: None,
            held: None,
            waiting: 0,
            done: Vec::new(),
        };
        Self { shared: Arc::new((Mutex::new(inner), Condvar::new())) }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.shared.0.lock().unwrap())
    }

    /// The same contents as they are now, apart from this one: what a killed process leaves behind.
    pub(in crate::journal) fn fork(&self) -> Self {
        let copy = Self::new();
        self.with(|inner| {
            copy.with(|other| {
                other.dirs = inner.dirs.clone();
                other.files =
                    inner.files.iter().map(|(path, data)| (path.clone(), Arc::new(Mutex::new(data.lock().unwrap().clone())))).collect();
            });
        });
        copy
    }

    /// Has operations on paths that hold `path_part` fail: `skip` of them succeed first, then `times` fail.
    pub(in crate::journal) fn fail(&self, operation: Operation, path_part: &str, skip: usize, times: usize, kind: io::ErrorKind) {
        self.with(|inner| inner.faults.push(Fault { operation, path_part: path_part.to_owned(), skip, times, kind }));
    }

    /// Ends all faults.
    pub(in crate::journal) fn heal(&self) {
        self.with(|inner| inner.faults.clear());
    }

    pub(in crate::journal) fn set_capacity(&self, bytes: u64) {
        self.with(|inner| inner.capacity = bytes);
    }

    pub(in crate::journal) fn set_short_writes(&self, bytes: usize) {
        self.with(|inner| inner.short_write = Some(bytes));
    }

    /// Syncs of paths that hold `path_part` wait until [`Memory::release_syncs`].
    pub(in crate::journal) fn hold_syncs(&self, path_part: &str) {
        self.with(|inner| inner.held = Some(path_part.to_owned()));
    }

    pub(in crate::journal) fn release_syncs(&self) {
        self.with(|inner| inner.held = None);
        self.shared.1.notify_all();
    }

    /// Syncs that wait now.
    pub(in crate::journal) fn waiting_syncs(&self) -> usize {
        self.with(|inner| inner.waiting)
    }

    pub(in crate::journal) fn names(&self, dir: &Path) -> Vec<String> {
        self.list(dir).unwrap().into_iter().map(|entry| entry.name).collect()
    }

    pub(in crate::journal) fn contents(&self, path: &Path) -> Vec<u8> {
        self.with(|inner| inner.files[path].lock().unwrap().clone())
    }

    /// Changes a file behind the journal's back.
    pub(in crate::journal) fn edit(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let data = self.with(|inner| Arc::clone(&inner.files[path]));
        change(&mut data.lock().unwrap());
    }

    /// What was done since the last call, in order.
    pub(in crate::journal) fn take_done(&self) -> Vec<(Operation, PathBuf)> {
        self.with(|inner| std::mem::take(&mut inner.done))
    }

    fn enter(&self, operation: Operation, path: &Path) -> io::Result<()> {
        self.with(|inner| {
            inner.done.push((operation, path.to_owned()));
            let text = path.to_string_lossy();
            for fault in &mut inner.faults {
                if fault.operation != operation || !text.contains(&fault.path_part) {
                    continue;
                }
                if fault.skip > 0 {
                    fault.skip -= 1;
                } else if fault.times > 0 {
                    fault.times -= 1;
                    return Err(fault.kind.into());
                }
            }
            Ok(())
        })
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Storage for Memory {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.with(|inner| inner.dirs.insert(path.to_owned()).then_some(()).ok_or_else(|| io::ErrorKind::AlreadyExists.into()))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.with(|inner| {
            if !inner.dirs.contains(dir) {
                return Err(not_found());
            }
            let within = inner.files.iter().filter(|(path, _)| path.parent() == Some(dir));
            Ok(within
                .map(|(path, data)| Entry {
                    name: path.file_name().unwrap().to_string_lossy().into_owned(),
                    length: u64::try_from(data.lock().unwrap().len()).unwrap(),
                })
                .collect())
        })
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.enter(Operation::Create, path)?;
        let data = Arc::new(Mutex::new(Vec::new()));
        self.with(|inner| inner.files.insert(path.to_owned(), Arc::clone(&data)));
        Ok(Box::new(MemoryFile { storage: self.clone(), path: path.to_owned(), data }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.enter(Operation::Open, path)?;
        let data = self.with(|inner| inner.files.get(path).cloned()).ok_or_else(not_found)?;
        Ok(Box::new(MemoryFile { storage: self.clone(), path: path.to_owned(), data }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.enter(Operation::Rename, from)?;
        self.with(|inner| {
            let data = inner.files.remove(from).ok_or_else(not_found)?;
            inner.files.insert(to.to_owned(), data);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.enter(Operation::Remove, path)?;
        self.with(|inner| inner.files.remove(path).map(|_| ()).ok_or_else(not_found))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.enter(Operation::SyncDir, dir)
    }

    fn free_space(&self, _dir: &Path) -> io::Result<u64> {
        self.with(|inner| Ok(inner.capacity.saturating_sub(used(inner))))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let taken = self.with(|inner| inner.locks.insert(path.to_owned()));
        if taken {
            Ok(Box::new(MemoryLock { storage: self.clone(), path: path.to_owned() }))
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }
}

fn used(inner: &Inner) -> u64 {
    inner.files.values().map(|data| u64::try_from(data.lock().unwrap().len()).unwrap()).sum()
}

/// A renamed file keeps the path under which it was opened, as far as faults go.
#[derive(Debug)]
struct MemoryFile {
    storage: Memory,
    path: PathBuf,
    data: Arc<Mutex<Vec<u8>>>,
}

impl File for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.storage.enter(Operation::Read, &self.path)?;
        let data = self.data.lock().unwrap();
        let from = usize::try_from(offset).unwrap().min(data.len());
        let count = buffer.len().min(data.len() - from);
        buffer[..count].copy_from_slice(&data[from..from + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.storage.enter(Operation::Write, &self.path)?;
        let at = usize::try_from(offset).unwrap();
        let (room, short) = self.storage.with(|inner| (inner.capacity.saturating_sub(used(inner)), inner.short_write));
        let mut data = self.data.lock().unwrap();
        let count = bytes.len().min(short.unwrap_or(usize::MAX));
        let longer = (at + count).saturating_sub(data.len());
        if u64::try_from(longer).unwrap() > room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let end = data.len().max(at + count);
        data.resize(end, 0);
        data[at..at + count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn sync_data(&self) -> io::Result<()> {
        let text = self.path.to_string_lossy().into_owned();
        let (mutex, condvar) = &*self.storage.shared;
        let held = |inner: &Inner| inner.held.as_ref().is_some_and(|part| text.contains(part));
        let mut inner = mutex.lock().unwrap();
        if held(&inner) {
            inner.waiting += 1;
            while held(&inner) {
                inner = condvar.wait(inner).unwrap();
            }
            inner.waiting -= 1;
        }
        drop(inner);
        self.storage.enter(Operation::Sync, &self.path)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(u64::try_from(self.data.lock().unwrap().len()).unwrap())
    }
}

#[derive(Debug)]
struct MemoryLock {
    storage: Memory,
    path: PathBuf,
}

impl Lock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.storage.with(|inner| inner.locks.remove(&self.path));
    }
}
