//! Reads durable records in order: from memory where the reader keeps up, else from the segments.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::error::Error;
use super::frame;
use super::lsn::Lsn;
use super::shared::{Mark, Place, Shared};
use super::tail::TailFrame;
use super::walk::{Bounds, Step, Walk};

/// What a reader yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A durable record.
    Record {
        /// Where it stands.
        lsn: Lsn,
        /// Its bytes. They keep up to 1 MiB, or a record's length where that is more, in memory as long as they live.
        record: Bytes,
    },
    /// Records that cannot be read, or are not there. What was found in their place is set aside, and counted.
    Corrupt {
        /// The first of them.
        from: Lsn,
        /// The first after them.
        to: Lsn,
    },
}

/// Where the next record comes from.
enum Source {
    Unknown,
    Memory { frame: Arc<TailFrame>, at: usize },
    Segment { walk: Walk, bounds: Bounds },
}

/// A reader of durable records. For a thread that may block.
///
/// It should not stay behind the lowest position, as segments below it are freed: what is no longer there is yielded as corrupt.
pub struct Reader {
    shared: Arc<Shared>,
    next: Lsn,
    source: Source,
    /// Segment and offset behind the last frame that came from memory, where a walk can go on.
    left: Option<(u64, u64, Lsn)>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Reader").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, from: Lsn) -> Self {
        Self { shared, next: from.max(Lsn::FIRST), source: Source::Unknown, left: None }
    }

    /// The LSN of the next item.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.next
    }

    /// The next item; `None` once everything that is durable has been read. Go on when a watcher of the journal is called.
    #[expect(clippy::should_implement_trait, reason = "an iterator that ended would stay ended, and this goes on")]
    pub fn next(&mut self) -> Result<Option<Item>, Error> {
        while self.next < self.shared.durable.end() {
            let item = match &mut self.source {
                Source::Unknown => self.locate()?,
                Source::Memory { frame, at } => {
                    if let Some((lsn, record, next)) = frame.record(*at) {
                        *at = next;
                        (lsn == self.next).then_some(Item::Record { lsn, record })
                    } else {
                        self.left = Some((frame.segment, frame.end_offset, frame.end));
                        self.source = Source::Unknown;
                        None
                    }
                }
                Source::Segment { .. } => self.read_segment()?,
            };
            if let Some(item) = item {
                self.next = match &item {
                    Item::Record { lsn, .. } => lsn.next(),
                    Item::Corrupt { to, .. } => *to,
                };
                return Ok(Some(item));
            }
        }
        Ok(None)
    }

    /// Finds where the next record is.
    fn locate(&mut self) -> Result<Option<Item>, Error> {
        if let Some(frame) = self.shared.tail.frame_with(self.next) {
            self.source = Source::Memory { frame, at: frame::HEADER };
            return Ok(None);
        }
        let mark = self.shared.durable.mark();
        match self.shared.place_of(self.next) {
            Place::Within { segment, next } => {
                let bounds = bounds(segment.header.number, next, mark);
                let mut walk = match self.left.take() {
                    Some((number, offset, lsn)) if number == segment.header.number && lsn <= self.next => Walk::at(segment, offset, lsn),
                    Some(_) | None => Walk::new(segment),
                };
                walk.skip_frames_below(self.next, bounds)?;
                self.source = Source::Segment { walk, bounds };
                Ok(None)
            }
            Place::Before { next } => {
                let to = next.unwrap_or(mark.end).min(mark.end);
                Ok(Some(Item::Corrupt { from: self.next, to }))
            }
        }
    }

    /// One step of the walk. Between frames, the memory is looked into again: a reader that catches up should not stay on the disk.
    fn read_segment(&mut self) -> Result<Option<Item>, Error> {
        let Source::Segment { walk, bounds } = &mut self.source else { return Ok(None) };
        match walk.step(*bounds)? {
            Step::Record { lsn, record } if lsn == self.next => {
                self.change_source_between_frames();
                Ok(Some(Item::Record { lsn, record }))
            }
            Step::Record { .. } => Ok(None),
            Step::Damage(damage) => {
                let segment = Arc::clone(walk.segment());
                if damage.next <= self.next && damage.records() > 0 {
                    return Ok(None);
                }
                if damage.to > damage.from {
                    self.shared.set_aside(&segment, damage.from, damage.to)?;
                }
                let from = damage.first.max(self.next);
                Ok((damage.next > from).then_some(Item::Corrupt { from, to: damage.next }))
            }
            Step::End => self.end_of_segment(),
        }
    }

    fn change_source_between_frames(&mut self) {
        let Source::Segment { walk, .. } = &self.source else { return };
        if walk.is_between_frames()
            && let Some(frame) = self.shared.tail.frame_with(walk.next())
        {
            self.source = Source::Memory { frame, at: frame::HEADER };
        }
    }

    /// The segment has no more within what was durable when the walk began. It goes on there if more has become durable since; if the log goes on in another
    /// segment, what lies between is missing.
    fn end_of_segment(&mut self) -> Result<Option<Item>, Error> {
        let Source::Segment { walk, bounds: before } = &mut self.source else { return Ok(None) };
        let mark = self.shared.durable.mark();
        let Place::Within { segment, next } = self.shared.place_of(self.next) else {
            self.source = Source::Unknown;
            return Ok(None);
        };
        let now = bounds(segment.header.number, next, mark);
        let same = segment.header.number == walk.segment().header.number;
        if same && now != *before {
            *before = now;
            return Ok(None);
        }
        let missing = same.then(|| (walk.offset(), now.offset.min(segment.length), now.lsn));
        self.source = Source::Unknown;
        let Some((from, to, end)) = missing else { return Ok(None) };
        if to > from {
            self.shared.set_aside(&segment, from, to)?;
        }
        Ok((end > self.next).then_some(Item::Corrupt { from: self.next, to: end }))
    }
}

/// What may be read of a segment: up to the next segment's first record, and of the one that is written to, up to what is durable.
fn bounds(number: u64, next: Option<Lsn>, mark: Mark) -> Bounds {
    let offset = if number == mark.segment { mark.offset } else { u64::MAX };
    Bounds { lsn: next.unwrap_or(mark.end).min(mark.end), offset }
}
