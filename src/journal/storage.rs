//! The seam between the journal and the disk: exactly the operations that the journal uses, and nothing of it reaches the disk by another way.
//!
//! [`Disk`] is the real file system. Tests put one in its place that fails where they say.

mod disk;
#[cfg(test)]
pub(super) mod memory;

use std::fmt;
use std::io;
use std::path::Path;

pub use disk::Disk;

/// A file system as the journal uses one. Every call blocks.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Makes a folder within one that exists. One that exists already is an error of kind [`io::ErrorKind::AlreadyExists`].
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// The files of a folder, in no order. Folders within it and names that are not UTF-8 are left out, and so is what loses its name meanwhile.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    /// An empty file to read and write; what stood there is gone.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// An existing file to read and write.
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// An existing file to read alone, for whoever looks on and must change nothing.
    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.open(path)
    }
    /// Renames a file, over whatever bears the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes durable which names a folder holds.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that this process may still use on the file system of a folder.
    fn free_space(&self, dir: &Path) -> io::Result<u64>;
    /// Locks a file, made if it is absent, until the lock is dropped. Where another process holds it: an error of kind
    /// [`io::ErrorKind::WouldBlock`].
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
    /// Whether somebody holds the lock of this file, which need not exist.
    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        match self.lock(path) {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// An open file.
pub trait File: Send + Sync + fmt::Debug {
    /// Reads up to `buffer.len()` bytes; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes up to `bytes.len()` bytes, making the file longer where it ends before.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes durable what was written, and as much of the file's metadata as reading it back needs.
    fn sync_data(&self) -> io::Result<()>;
    /// The file's length.
    fn length(&self) -> io::Result<u64>;
}

/// A held lock.
pub trait Lock: Send + Sync + fmt::Debug {}

/// A file in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its length.
    pub length: u64,
}

/// Fills `buffer`; a file that ends before is an error of kind [`io::ErrorKind::UnexpectedEof`].
pub(super) fn read_exact_at(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut rest = buffer;
    let mut at = offset;
    while !rest.is_empty() {
        match file.read_at(rest, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                rest = rest.get_mut(count..).unwrap_or_default();
                at += super::number::to_u64(count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all of `bytes`.
pub(super) fn write_all_at(file: &dyn File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut rest = bytes;
    let mut at = offset;
    while !rest.is_empty() {
        match file.write_at(rest, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                rest = rest.get(count..).unwrap_or_default();
                at += super::number::to_u64(count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
