//! Corrupt pieces, kept out of the way in `set-aside/` for a person to look at.
//!
//! A piece's name is made of the segment's number and the offset, so that a second look at the same damage does not add another.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::error::{Context, Error};
use super::number::{to_u64, to_usize};
use super::segment::{self, Segment};
use super::storage::{Storage, write_all_at};

pub(super) const DIR: &str = "set-aside";
pub(super) const PARTIAL_SUFFIX: &str = ".partial";
/// Of a longer piece, only so many bytes are copied; the segment itself holds the rest until it is freed.
pub(super) const PIECE_MAX: u64 = 8 * 1024 * 1024;
/// Bytes copied at a time.
const COPY_STEP: usize = 1024 * 1024;

/// What became of a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// Copied now, to this file.
    New { name: String, bytes: u64 },
    /// An earlier look has copied it.
    Known,
    /// There was no room, or no descriptor, for a copy.
    NoRoom,
}

/// Pieces that found no room, by number of the segment and offset: each is counted once, however often it is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WithoutRoom(BTreeSet<(u64, u64)>);

impl WithoutRoom {
    /// Notes what became of a piece, and tells whether it is to be counted.
    pub(super) fn note(&mut self, segment: &Segment, from: u64, kept: &Kept) -> bool {
        let piece = (segment.header.number, from);
        match kept {
            Kept::New { .. } => !self.0.remove(&piece),
            Kept::Known => false,
            Kept::NoRoom => self.0.insert(piece),
        }
    }

    /// Forgets those of segments below this number, which are freed.
    pub(super) fn forget_below(&mut self, number: u64) {
        self.0 = self.0.split_off(&(number, 0));
    }
}

/// What the folder holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holdings {
    /// Bytes of all its pieces.
    pub(super) bytes: u64,
    /// The highest number of a segment of which it has something.
    pub(super) highest: u64,
    /// Copies that a crash has left unfinished.
    pub(super) unfinished: Vec<PathBuf>,
}

/// What is there; changes nothing.
pub(super) fn holdings(storage: &dyn Storage, dir: &Path) -> Result<Holdings, Error> {
    let path = dir.join(DIR);
    let entries = match storage.list(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Holdings::default()),
        Err(error) => return Err(error).context("list", &path),
    };
    let number = |name: &str| name.get(..20).and_then(segment::digits).unwrap_or(0);
    let (unfinished, entries): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.name.ends_with(PARTIAL_SUFFIX));
    Ok(Holdings {
        unfinished: unfinished.iter().map(|entry| path.join(&entry.name)).collect(),
        bytes: entries.iter().map(|entry| entry.length).sum(),
        highest: entries.iter().map(|entry| number(&entry.name)).max().unwrap_or(0),
    })
}

/// Copies `from..to` of a segment, synced before it bears its name.
pub(super) fn keep(storage: &dyn Storage, dir: &Path, segment: &Segment, from: u64, to: u64) -> Result<Kept, Error> {
    let folder = dir.join(DIR);
    let name = format!("{:020}-{from:010}", segment.header.number);
    let path = folder.join(&name);
    let known = match storage.open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other.context("open", &path).map(|_| true),
    };
    let kept = known.and_then(|known| {
        if known {
            return Ok(Kept::Known);
        }
        make_folder(storage, dir, &folder)?;
        copy(storage, &folder, &name, segment, (from, to))
    });
    kept.or_else(|error| if error.is_shortage() { Ok(Kept::NoRoom) } else { Err(error) })
}

/// Moves a whole file there, whose header cannot be read.
pub(super) fn keep_file(storage: &dyn Storage, dir: &Path, path: &Path) -> Result<String, Error> {
    let folder = dir.join(DIR);
    make_folder(storage, dir, &folder)?;
    let name = path.file_name().unwrap_or_default();
    storage.rename(path, &folder.join(name)).context("rename", path)?;
    storage.sync_dir(&folder).context("sync", &folder)?;
    storage.sync_dir(dir).context("sync", dir)?;
    Ok(name.to_string_lossy().into_owned())
}

fn make_folder(storage: &dyn Storage, dir: &Path, folder: &Path) -> Result<(), Error> {
    match storage.create_dir(folder) {
        Ok(()) => storage.sync_dir(dir).context("sync", dir),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).context("create", folder),
    }
}

fn copy(storage: &dyn Storage, folder: &Path, name: &str, segment: &Segment, (from, to): (u64, u64)) -> Result<Kept, Error> {
    let end = to.min(segment.length).min(from.saturating_add(PIECE_MAX));
    let partial = folder.join(format!("{name}{PARTIAL_SUFFIX}"));
    let made = write_copy(storage, &partial, segment, (from, end))
        .and_then(|()| storage.rename(&partial, &folder.join(name)).context("rename", &partial));
    if let Err(error) = made {
        if error.is_shortage() {
            remove_if_there(storage, &partial)?;
        }
        return Err(error);
    }
    storage.sync_dir(folder).context("sync", folder)?;
    Ok(Kept::New { name: name.to_owned(), bytes: end.saturating_sub(from) })
}

/// There may have been no room even to create it.
fn remove_if_there(storage: &dyn Storage, path: &Path) -> Result<(), Error> {
    match storage.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.context("remove", path),
    }
}

fn write_copy(storage: &dyn Storage, partial: &Path, segment: &Segment, (from, end): (u64, u64)) -> Result<(), Error> {
    let file = storage.create(partial).context("create", partial)?;
    let mut at = from;
    while at < end {
        let mut block = vec![0; to_usize(end - at).min(COPY_STEP)];
        segment.read(&mut block, at)?;
        write_all_at(file.as_ref(), &block, at - from).context("write to", partial)?;
        at += to_u64(block.len());
    }
    file.sync_data().context("sync", partial)
}
