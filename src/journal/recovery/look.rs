//! What is read before anything of the folder is touched, and decides whether this program may touch it at all.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use super::super::checkpoint::{Checkpoint, Content, Found};
use super::super::error::{Context, Error};
use super::super::number::to_usize;
use super::super::segment::{Header, Name, PAGE, Page, Segment};
use super::super::set_aside::{self, Holdings};
use super::super::storage::{Storage, read_exact_at};
use super::CHECKPOINT_NEW;

/// What was read before anything is touched.
pub(super) struct Seen {
    pub(super) checkpoint: Found,
    pub(super) segments: VecDeque<Arc<Segment>>,
    /// Files named as segments whose header cannot be read, by number.
    pub(super) headless: Vec<u64>,
    pub(super) spares: Vec<(u64, u64)>,
    pub(super) unfinished: Vec<String>,
    pub(super) holdings: Holdings,
}

/// Reads the checkpoint and the headers of all segments; changes nothing.
pub(super) fn look(storage: &dyn Storage, dir: &Path) -> Result<Seen, Error> {
    let checkpoint = Checkpoint::find(storage, dir)?;
    let mut numbers = Vec::new();
    let mut spares = Vec::new();
    let mut unfinished = Vec::new();
    for entry in storage.list(dir).context("list", dir)? {
        match Name::parse(&entry.name) {
            Name::Segment(number) => numbers.push((number, entry.length)),
            Name::Spare(number) => spares.push((number, entry.length)),
            Name::Unfinished => unfinished.push(entry.name),
            Name::Other if entry.name == CHECKPOINT_NEW => unfinished.push(entry.name),
            Name::Other => {}
        }
    }
    numbers.sort_unstable();
    let mut segments = VecDeque::new();
    let mut headless = Vec::new();
    for (number, length) in numbers {
        match open_segment(storage, dir, number, length)? {
            Some(segment) => segments.push_back(Arc::new(segment)),
            None => headless.push(number),
        }
    }
    check_order(&segments)?;
    if let Found::Good(_, content) = &checkpoint {
        check_identity(&segments, content)?;
    }
    let holdings = set_aside::holdings(storage, dir)?;
    Ok(Seen { checkpoint, segments, headless, spares, unfinished, holdings })
}

/// `None` where neither copy of the header is good.
fn open_segment(storage: &dyn Storage, dir: &Path, number: u64, length: u64) -> Result<Option<Segment>, Error> {
    let path = Segment::path(dir, number);
    let file = storage.open(&path).context("open", &path)?;
    let mut page = vec![0; PAGE.min(to_usize(length))];
    read_exact_at(file.as_ref(), &mut page, 0).context("read", &path)?;
    match Header::parse(&page) {
        Page::Known(header) if header.number == number => Ok(Some(Segment { header, path, length, file })),
        Page::Known(_) => Err(Error::Foreign { path, why: "its name and its header have different numbers" }),
        Page::Unknown(version) => Err(Error::UnknownVersion { path, version }),
        Page::Bad => Ok(None),
    }
}

fn check_order(segments: &VecDeque<Arc<Segment>>) -> Result<(), Error> {
    for (one, next) in segments.iter().zip(segments.iter().skip(1)) {
        if next.header.first < one.header.first {
            return Err(Error::Foreign { path: next.path.clone(), why: "its records come before those of the segment before it" });
        }
    }
    Ok(())
}

/// Segments from before a change of identity bear the old one.
fn check_identity(segments: &VecDeque<Arc<Segment>>, content: &Content) -> Result<(), Error> {
    let foreign = segments.iter().find(|segment| segment.header.first >= content.since && segment.header.journal != content.journal);
    match foreign {
        Some(segment) => Err(Error::Foreign { path: segment.path.clone(), why: "the checkpoint is of a journal with another identity" }),
        None => Ok(()),
    }
}
