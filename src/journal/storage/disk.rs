//! The real file system.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock, statvfs};
use rustix::io::Errno;

use super::{Entry, File, Lock, Storage};
use crate::journal::sync;

/// How often a lock is tried for. Who only asks whether it is held takes it for a moment (see [`Storage::is_locked`]), which must not turn a start away.
const LOCK_ATTEMPTS: u32 = 5;
/// Between two attempts; to ask takes some microseconds.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The real file system: `pread`, `pwrite`, `fdatasync`, `flock`.
///
/// A folder that was synced once stays open: a later sync of it needs no descriptor, of which the process may have none left.
#[derive(Debug, Default)]
pub struct Disk {
    folders: Mutex<BTreeMap<PathBuf, Arc<fs::File>>>,
}

impl Disk {
    /// The open folder of that name, opened anew where another one stands there now.
    fn folder(&self, dir: &Path) -> io::Result<Arc<fs::File>> {
        let there = fs::metadata(dir)?;
        let mut folders = sync::lock(&self.folders);
        if let Some(folder) = folders.get(dir) {
            let open = folder.metadata()?;
            if (open.dev(), open.ino()) == (there.dev(), there.ino()) {
                return Ok(Arc::clone(folder));
            }
        }
        let folder = Arc::new(fs::File::open(dir)?);
        folders.insert(dir.to_owned(), Arc::clone(&folder));
        Ok(folder)
    }
}

impl Storage for Disk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                // It lost its name since the folder was read: who looks on beside a bridge meets that all the time.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                entries.push(Entry { name, length: metadata.len() });
            }
        }
        Ok(entries)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Box::new(DiskFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Box::new(DiskFile(file)))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(DiskFile(fs::File::open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.folder(dir)?.sync_all()
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        let found = statvfs(dir)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        lock(path, || thread::sleep(LOCK_PAUSE))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        let file = match fs::File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        // Nothing tells who holds such a lock but to try for it. It goes with the file, at once; and those who ask keep nobody else from asking.
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// Tries some times, with a pause in between.
fn lock(path: &Path, mut pause: impl FnMut()) -> io::Result<Box<dyn Lock>> {
    let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let mut attempts = 1;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Box::new(DiskLock { _file: file })),
            Err(Errno::WOULDBLOCK) if attempts < LOCK_ATTEMPTS => {
                attempts += 1;
                pause();
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[derive(Debug)]
struct DiskFile(fs::File);

impl File for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(&self.0, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(&self.0, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

/// The lock lasts as long as the file is open.
#[derive(Debug)]
struct DiskLock {
    _file: fs::File,
}

impl Lock for DiskLock {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_would_block_until_the_first_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let disk = Disk::default();
        let first = disk.lock(&path).unwrap();
        assert_eq!(disk.lock(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(disk.is_locked(&path).unwrap());
        drop(first);
        assert!(!disk.is_locked(&path).unwrap());
        disk.lock(&path).unwrap();
        assert!(!disk.is_locked(&dir.path().join("absent")).unwrap());
        assert!(!dir.path().join("absent").exists(), "to ask makes nothing");
    }

    #[test]
    fn who_asks_whether_it_is_locked_turns_no_start_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        drop(Disk::default().lock(&path).unwrap());
        let asking = fs::File::open(&path).unwrap();
        flock(&asking, FlockOperation::NonBlockingLockShared).unwrap();
        let mut asking = Some(asking);
        lock(&path, || drop(asking.take())).unwrap();
    }

    #[test]
    fn files_are_listed_with_their_length_and_folders_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::default();
        disk.create_dir(&dir.path().join("within")).unwrap();
        assert_eq!(disk.create_dir(&dir.path().join("within")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let file = disk.create(&dir.path().join("one")).unwrap();
        super::super::write_all_at(file.as_ref(), b"abc", 2).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(dir.path()).unwrap();
        assert_eq!(disk.list(dir.path()).unwrap(), [Entry { name: "one".to_owned(), length: 5 }]);
        assert!(disk.free_space(dir.path()).unwrap() > 0);
    }

    #[test]
    fn a_folder_stays_open_for_its_syncs_unless_another_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let within = dir.path().join("within");
        let disk = Disk::default();
        disk.create_dir(&within).unwrap();
        disk.sync_dir(&within).unwrap();
        let first = disk.folder(&within).unwrap();
        assert!(Arc::ptr_eq(&first, &disk.folder(&within).unwrap()));
        fs::remove_dir(&within).unwrap();
        assert_eq!(disk.sync_dir(&within).unwrap_err().kind(), io::ErrorKind::NotFound);
        disk.create_dir(&within).unwrap();
        disk.sync_dir(&within).unwrap();
        assert_eq!(disk.folder(&within).unwrap().metadata().unwrap().ino(), fs::metadata(&within).unwrap().ino());
        assert!(!Arc::ptr_eq(&first, &disk.folder(&within).unwrap()));
    }
}
