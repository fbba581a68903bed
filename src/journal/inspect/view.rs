//! What is in a folder: what a look has found, and what it tells by itself.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;

use uuid::Uuid;

use super::super::checkpoint::{Content, Positions, Seen};
use super::super::error::Error;
use super::super::lsn::Lsn;
use super::super::report::TornTail;
use super::super::segment::{Header, Name};
use super::super::storage::Entry;
use crate::clock::Timestamp;

/// Who has the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A process holds its lock.
    InUse,
    /// Nobody; it was closed in good order.
    Closed,
    /// Nobody; it was not closed: a crash, a kill, an end by an error, or a copy made while in use.
    Left,
}

/// What the checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointState {
    /// It can be read.
    Good,
    /// There is none: of a journal that begins without room, or that has lost it.
    Absent,
    /// Neither slot is good.
    Lost,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentView {
    /// Its file's name.
    pub file: String,
    /// LSN of its first record.
    pub first: Lsn,
    /// The first LSN behind it.
    pub end: Lsn,
    /// When it came into use.
    pub created: Timestamp,
    /// The file's length.
    pub bytes: u64,
    pub(super) header: Header,
}

/// A torn tail, and where it is. The next start cuts it; nothing of it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornAt {
    /// The segment's file.
    pub file: String,
    /// Where it begins.
    pub offset: u64,
    /// What a start would keep and cut.
    pub tail: TornTail,
}

/// What is in the folder.
#[derive(Clone, Debug)]
pub struct View {
    /// Who has it.
    pub usage: Usage,
    /// Whose journal it is; `None` where nothing tells.
    pub identity: Option<Uuid>,
    /// What the checkpoint is.
    pub checkpoint: CheckpointState,
    /// How far the streams are; where the checkpoint does not tell, at the oldest record.
    pub positions: Positions,
    /// The first LSN that is not known to be durable.
    pub end: Lsn,
    /// Oldest first.
    pub segments: Vec<SegmentView>,
    /// Files that are named as segments and have no good header: name and length.
    pub headless: Vec<Entry>,
    /// Prepared files: name and length.
    pub spares: Vec<Entry>,
    /// Corrupt pieces that were kept out of the way: name and length.
    pub set_aside: Vec<Entry>,
    /// An incomplete last frame.
    pub torn_tail: Option<TornAt>,
}

impl View {
    /// Records that are not completed, those among them that cannot be read.
    #[must_use]
    pub fn unpublished_records(&self) -> u64 {
        self.end.since(self.positions.lowest()).saturating_sub(self.positions.completed_beyond)
    }

    /// Bytes of all segments, spares and set-aside files: what `journal.size_max` limits.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let segments = self.segments.iter().map(|segment| segment.bytes);
        let others = [&self.headless, &self.spares, &self.set_aside].into_iter().flatten().map(|entry| entry.length);
        segments.chain(others).fold(0, u64::saturating_add)
    }

    /// The LSN of the oldest record that is there.
    #[must_use]
    pub fn first(&self) -> Lsn {
        self.segments.first().map_or(self.end, |segment| segment.first)
    }

    pub(super) fn push(&mut self, segment: SegmentView, dir: &Path) -> Result<(), Error> {
        if let Some(last) = self.segments.last_mut() {
            if segment.first < last.first {
                let path = dir.join(&segment.file);
                return Err(Error::Foreign { path, why: "its records come before those of the segment before it" });
            }
            last.end = segment.first;
        }
        self.segments.push(segment);
        Ok(())
    }

    /// What the checkpoint tells, now that the end is known.
    pub(super) fn complete(&mut self, held: bool, checkpoint: &Seen) {
        let end = self.end;
        if let Some(last) = self.segments.last_mut() {
            last.end = end.max(last.first);
        }
        let content = content(checkpoint);
        self.checkpoint = match checkpoint {
            Seen::Absent => CheckpointState::Absent,
            Seen::Lost => CheckpointState::Lost,
            Seen::Good { .. } => CheckpointState::Good,
        };
        self.usage = match content {
            _ if held => Usage::InUse,
            Some(content) if content.clean_stop => Usage::Closed,
            Some(_) | None => Usage::Left,
        };
        self.identity = content.map(|content| content.journal).or_else(|| Some(self.segments.last()?.header.journal));
        self.positions = content.map_or_else(|| Positions::at(self.first()), |content| content.positions.clone()).within(end);
    }

    /// The segments and the files without a header, by number.
    pub(super) fn parts(&self) -> VecDeque<Part> {
        let number = |entry: &Entry| match Name::parse(&entry.name) {
            Name::Segment(number) => number,
            Name::Spare(_) | Name::Unfinished | Name::Other => 0,
        };
        let known = self.segments.iter().map(|segment| (segment.header.number, Part::Known(segment.clone())));
        let headless = self.headless.iter().map(|entry| (number(entry), Part::Headless(entry.clone())));
        let mut parts: Vec<(u64, Part)> = known.chain(headless).collect();
        parts.sort_by_key(|(number, _)| *number);
        parts.into_iter().map(|(_, part)| part).collect()
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::InUse => "a process holds its lock",
            Self::Closed => "nobody uses it; it was closed in good order",
            Self::Left => "nobody uses it; it was not closed: a crash, a kill, an end by an error, or a copy made while in use",
        })
    }
}

/// A file that is named as a segment.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Known(SegmentView),
    Headless(Entry),
}

/// What a checkpoint says, where it can be read.
pub(super) fn content(checkpoint: &Seen) -> Option<&Content> {
    match checkpoint {
        Seen::Good { content, .. } => Some(content),
        Seen::Absent | Seen::Lost => None,
    }
}
