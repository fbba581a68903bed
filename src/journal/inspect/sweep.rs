//! The records of a folder in order, and what is wrong between them.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::{CheckpointState, Folder, Part, SegmentView, View};
use crate::journal::error::Error;
use crate::journal::lsn::Lsn;
use crate::journal::segment::{Header, Segment};
use crate::journal::walk::{Bounds, Step, Walk};

/// Bytes that are not what was written there, and the records that this costs: perhaps none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// The file.
    pub file: PathBuf,
    /// The first bad byte.
    pub from: u64,
    /// The first byte behind it that is good again, or the end of the file.
    pub to: u64,
    /// The first record that is lost.
    pub first: Lsn,
    /// The first record behind it that is not.
    pub next: Lsn,
}

impl Corruption {
    /// Records that it costs.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.next.since(self.first)
    }
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A record whose checks hold.
    Record {
        /// Where it stands.
        lsn: Lsn,
        /// Its bytes. They keep up to 1 MiB, or a record's length where that is more, in memory as long as they live.
        record: Bytes,
    },
    /// Something that is not what was written.
    Corrupt(Corruption),
    /// Records whose segment was freed meanwhile: they are published.
    Freed {
        /// The first of them.
        from: Lsn,
        /// The first behind them.
        to: Lsn,
    },
}

/// A reading of the folder. One file is open at a time.
#[derive(Debug)]
pub struct Sweep {
    folder: Folder,
    from: Lsn,
    to: Lsn,
    /// Up to where everything is told.
    cursor: Lsn,
    parts: VecDeque<Part>,
    current: Option<Current>,
    /// Told before anything else.
    pending: VecDeque<Corruption>,
    /// Where the torn tail begins, and in which file: what is damaged behind it is no corruption.
    torn: Option<(PathBuf, u64)>,
    bytes_done: u64,
    bytes_all: u64,
}

/// The segment that is being read.
#[derive(Debug)]
struct Current {
    walk: Walk,
    bounds: Bounds,
}

impl Sweep {
    pub(super) fn new(folder: &Folder, view: &View, (asked, to): (Lsn, Lsn)) -> Self {
        let (from, to) = (asked.max(view.positions.lowest().min(view.first())), to.min(view.end));
        let mut parts = view.parts();
        if to < view.end
            && let Some(behind) = parts.iter().position(|part| matches!(part, Part::Known(segment) if segment.first >= to))
        {
            parts.truncate(behind);
        }
        // What begins and ends below is left out; a file without a header has what lies before the next one.
        while let Some(Part::Known(second)) = parts.iter().skip(1).find(|part| matches!(part, Part::Known(_))) {
            let below = second.first < asked || (second.first == asked && matches!(parts.front(), Some(Part::Known(_))));
            if !below {
                break;
            }
            parts.pop_front();
        }
        let bytes = |part: &Part| match part {
            Part::Known(segment) => segment.bytes,
            Part::Headless(entry) => entry.length,
        };
        let bytes_all = parts.iter().map(bytes).sum();
        let mut pending = VecDeque::new();
        let mut cursor = from;
        if !matches!(parts.front(), Some(Part::Headless(_))) {
            cursor = from.max(view.first().min(to));
            if from < cursor && view.checkpoint == CheckpointState::Good {
                // Unpublished, and no segment has them.
                let file = folder.dir.join("checkpoint");
                pending.push_back(Corruption { file, from: 0, to: 0, first: from, next: cursor });
            }
        }
        let torn = view.torn_tail.as_ref().map(|torn| (folder.dir.join(&torn.file), torn.offset));
        Self { folder: folder.clone(), from, to, cursor, parts, current: None, pending, torn, bytes_done: 0, bytes_all }
    }

    /// Bytes of files read so far, and of all that are to be read.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let current = self.current.as_ref().map_or(0, |current| current.walk.offset());
        (self.bytes_done.saturating_add(current).min(self.bytes_all), self.bytes_all)
    }

    /// What comes next; `None` at the end.
    #[expect(clippy::should_implement_trait, reason = "an iterator of results would have to say what follows an error")]
    pub fn next(&mut self) -> Result<Option<Found>, Error> {
        loop {
            if let Some(corruption) = self.pending.pop_front() {
                return Ok(Some(Found::Corrupt(corruption)));
            }
            let found = if self.current.is_some() {
                self.step()?
            } else {
                match self.parts.pop_front() {
                    None => return Ok(None),
                    Some(Part::Known(segment)) => self.begin(&segment)?,
                    Some(Part::Headless(entry)) => Some(self.pass_headless(entry.name, entry.length)),
                }
            };
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// Up to where the part that is being read, or was, should reach.
    fn end_of_part(&self) -> Lsn {
        let next = self.parts.iter().find_map(|part| match part {
            Part::Known(segment) => Some(segment.first),
            Part::Headless(_) => None,
        });
        next.unwrap_or(self.to).min(self.to)
    }

    fn begin(&mut self, view: &SegmentView) -> Result<Option<Found>, Error> {
        let end = self.end_of_part();
        let (segment, page) = match self.folder.open(view.header.number) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let there = self.folder.is_there(&self.folder.dir.join(&view.file))?;
                return Ok(if there { Some(self.pass_headless(view.file.clone(), view.bytes)) } else { self.freed(end) });
            }
            other => other?,
        };
        let mut bad = Header::bad_copies(&page).peekable();
        if bad.peek().is_some() && !self.folder.is_there(&segment.path)? {
            // The page was read while its next use was written over it.
            return Ok(self.freed(end));
        }
        for (from, to) in bad {
            self.pending.push_back(Corruption { file: segment.path.clone(), from, to, first: view.first, next: view.first });
        }
        let bounds = Bounds { lsn: end, offset: u64::MAX };
        let mut walk = Walk::new(Arc::new(segment));
        walk.skip_frames_below(self.from, bounds)?;
        self.current = Some(Current { walk, bounds });
        Ok(None)
    }

    fn step(&mut self) -> Result<Option<Found>, Error> {
        let Some(Current { walk, bounds }) = &mut self.current else { return Ok(None) };
        match walk.step(*bounds)? {
            Step::Record { lsn, record } => {
                self.cursor = self.cursor.max(lsn.next());
                Ok((lsn >= self.from).then_some(Found::Record { lsn, record }))
            }
            Step::Damage(damage) => {
                let segment = Arc::clone(walk.segment());
                if !self.folder.is_there(&segment.path)? {
                    return Ok(self.freed_rest(&segment));
                }
                self.cursor = self.cursor.max(damage.next);
                if self.torn.as_ref().is_some_and(|(file, from)| *file == segment.path && *from <= damage.from) {
                    return Ok(None);
                }
                let told = if damage.records() > 0 { damage.next > self.from } else { damage.first >= self.from };
                let first = damage.first.max(self.from.min(damage.next));
                let corruption = Corruption { file: segment.path.clone(), from: damage.from, to: damage.to, first, next: damage.next };
                Ok(told.then_some(Found::Corrupt(corruption)))
            }
            Step::End => self.end(),
        }
    }

    /// The segment holds no more. Where more should follow, it is missing; what a file without a header may have held is that file's to tell.
    fn end(&mut self) -> Result<Option<Found>, Error> {
        let Some(Current { walk, bounds }) = &self.current else { return Ok(None) };
        let (segment, offset, next, end) = (Arc::clone(walk.segment()), walk.offset(), walk.next(), bounds.lsn);
        if next < end && !self.folder.is_there(&segment.path)? {
            return Ok(self.freed_rest(&segment));
        }
        self.leave(&segment);
        self.cursor = self.cursor.max(next);
        if next >= end || matches!(self.parts.front(), Some(Part::Headless(_))) {
            return Ok(None);
        }
        self.cursor = end;
        let corruption = Corruption { file: segment.path.clone(), from: offset, to: segment.length, first: next, next: end };
        Ok(Some(Found::Corrupt(corruption)))
    }

    fn pass_headless(&mut self, name: String, length: u64) -> Found {
        self.bytes_done = self.bytes_done.saturating_add(length);
        let (first, next) = (self.cursor, self.end_of_part().max(self.cursor));
        self.cursor = next;
        Found::Corrupt(Corruption { file: self.folder.dir.join(name), from: 0, to: length, first, next })
    }

    fn freed_rest(&mut self, segment: &Segment) -> Option<Found> {
        self.leave(segment);
        self.freed(self.end_of_part())
    }

    fn freed(&mut self, to: Lsn) -> Option<Found> {
        let from = self.cursor;
        self.cursor = to.max(from);
        (to > from).then_some(Found::Freed { from, to })
    }

    fn leave(&mut self, segment: &Segment) {
        self.current = None;
        self.bytes_done = self.bytes_done.saturating_add(segment.length);
    }
}
