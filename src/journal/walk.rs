//! Walks the records of one segment, across damage.
//!
//! The walk knows at each place which LSN comes next. Where neither a frame's header nor a record with that LSN stands, it looks at every aligned offset
//! for the next one that does: within a frame whose header is good for its further records, else for anything of this use of the segment. So one
//! flipped bit costs at most the record that it is in, and none where it is in a frame's header or in padding. Bodies are looked into only behind damage,
//! and what is taken there must hold the salt and an LSN that can stand there.

use std::sync::Arc;

use bytes::Bytes;

use super::error::Error;
use super::lsn::Lsn;
use super::number::{to_u64, to_usize, u64_at};
use super::record::ALIGN;
use super::segment::{PAGE_END, Segment};
use super::{frame, record};

/// Bytes read at a time, unless a record is larger.
const READ_AHEAD: usize = 256 * 1024;

/// Where the walk has to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// The first LSN that is not read.
    pub(super) lsn: Lsn,
    /// The first byte that is not read.
    pub(super) offset: u64,
}

/// Bytes that are not what was written there, and the records that this costs: perhaps none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// The first bad byte.
    pub(super) from: u64,
    /// The first byte after it that is good again.
    pub(super) to: u64,
    /// The first record that is lost.
    pub(super) first: Lsn,
    /// The first record after it that is not.
    pub(super) next: Lsn,
}

impl Damage {
    /// Records that it costs.
    pub(super) fn records(&self) -> u64 {
        self.next.since(self.first)
    }
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Record {
        lsn: Lsn,
        record: Bytes,
    },
    Damage(Damage),
    /// Nothing more of this use of the segment within the bounds.
    End,
}

/// A frame whose header is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameAt {
    pub(super) offset: u64,
    pub(super) header: frame::Header,
}

impl FrameAt {
    fn end(&self) -> u64 {
        self.offset + self.header.size()
    }
}

/// The walk over one segment.
#[derive(Debug)]
pub(super) struct Walk {
    segment: Arc<Segment>,
    window: Window,
    offset: u64,
    next: Lsn,
    /// The last frame whose header was good.
    frame: Option<FrameAt>,
}

/// What a search found.
enum Found {
    Frame(frame::Header),
    Record(Lsn),
}

impl Walk {
    /// From the segment's first record.
    pub(super) fn new(segment: Arc<Segment>) -> Self {
        let next = segment.header.first;
        Self { segment, window: Window::default(), offset: PAGE_END, next, frame: None }
    }

    /// From a place where a frame begins whose first record is `next`.
    pub(super) fn at(segment: Arc<Segment>, offset: u64, next: Lsn) -> Self {
        Self { segment, window: Window::default(), offset, next, frame: None }
    }

    pub(super) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Where the walk stands: behind the last step.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The LSN that comes next.
    pub(super) fn next(&self) -> Lsn {
        self.next
    }

    /// The last frame whose header was good.
    pub(super) fn last_frame(&self) -> Option<FrameAt> {
        self.frame
    }

    /// Passes over whole frames that end at or below `lsn`, without looking into them.
    pub(super) fn skip_frames_below(&mut self, lsn: Lsn, bounds: Bounds) -> Result<(), Error> {
        while self.next < lsn && self.is_between_frames() {
            match self.frame_at(self.offset, bounds.offset)? {
                Some(header) if header.first == self.next && header.end() <= lsn => self.leave(FrameAt { offset: self.offset, header }),
                Some(_) | None => break,
            }
        }
        Ok(())
    }

    /// The next record, or damage, or the end. Each step but the end moves on.
    pub(super) fn step(&mut self, bounds: Bounds) -> Result<Step, Error> {
        let bounds = Bounds { offset: bounds.offset.min(self.segment.length), ..bounds };
        if self.next >= bounds.lsn {
            return Ok(Step::End);
        }
        if let Some(frame) = self.within_frame() {
            return self.step_within(frame, bounds);
        }
        match self.frame_at(self.offset, bounds.offset)? {
            Some(header) if header.first == self.next => {
                let frame = FrameAt { offset: self.offset, header };
                self.enter(frame);
                self.step_within(frame, bounds)
            }
            Some(_) | None => self.step_between(bounds),
        }
    }

    /// Whether the next step begins a frame, or what should be one.
    pub(super) fn is_between_frames(&self) -> bool {
        self.within_frame().is_none()
    }

    fn within_frame(&self) -> Option<FrameAt> {
        self.frame.filter(|frame| frame.offset < self.offset && self.offset < frame.end() && self.next < frame.header.end())
    }

    fn enter(&mut self, frame: FrameAt) {
        self.next = frame.header.first;
        self.offset = frame.offset + to_u64(frame::HEADER);
        self.frame = Some(frame);
    }

    fn leave(&mut self, frame: FrameAt) {
        self.next = frame.header.end();
        self.offset = frame.end();
        self.frame = Some(frame);
    }

    /// Within a frame whose header is good.
    fn step_within(&mut self, frame: FrameAt, bounds: Bounds) -> Result<Step, Error> {
        let end = frame.end().min(bounds.offset);
        let (from, first) = (self.offset, self.next);
        let header = self.record_at(from, end)?.filter(|header| header.lsn == first);
        let step = if let Some(header) = header {
            let payload = self.payload(from, &header)?;
            self.offset = from + to_u64(header.size());
            self.next = first.next();
            if header.holds(self.segment.header.salt, &payload) {
                Step::Record { lsn: first, record: payload }
            } else {
                Step::Damage(Damage { from, to: self.offset, first, next: self.next })
            }
        } else {
            let range = (first.next(), frame.header.end());
            match self.search(from + to_u64(ALIGN), end, range, Target::Records)? {
                Some((offset, Found::Record(lsn))) => {
                    self.offset = offset;
                    self.next = lsn;
                }
                Some((_, Found::Frame(_))) | None => self.leave(frame),
            }
            Step::Damage(Damage { from, to: self.offset.min(bounds.offset), first, next: self.next })
        };
        if self.next >= frame.header.end() {
            self.leave(frame);
        }
        Ok(step)
    }

    /// Where a frame should begin and does not: behind a frame whose header is bad, or at the end.
    fn step_between(&mut self, bounds: Bounds) -> Result<Step, Error> {
        let (from, first) = (self.offset, self.next);
        if let Some(header) = self.record_at(from, bounds.offset)?.filter(|header| header.lsn == first) {
            let payload = self.payload(from, &header)?;
            self.offset = from + to_u64(header.size());
            self.next = first.next();
            return Ok(if header.holds(self.segment.header.salt, &payload) {
                Step::Record { lsn: first, record: payload }
            } else {
                Step::Damage(Damage { from, to: self.offset, first, next: self.next })
            });
        }
        // No more records can lie between here and there than fit.
        let most = bounds.offset.saturating_sub(from) / to_u64(record::size(0));
        let range = (first, bounds.lsn.min(first.plus(most.saturating_add(1))));
        let Some((offset, found)) = self.search(from, bounds.offset, range, Target::Anything)? else { return Ok(Step::End) };
        match found {
            Found::Frame(header) => self.enter(FrameAt { offset, header }),
            Found::Record(lsn) => {
                self.offset = offset;
                self.next = lsn;
            }
        }
        Ok(Step::Damage(Damage { from, to: offset, first, next: self.next }))
    }

    fn frame_at(&mut self, offset: u64, end: u64) -> Result<Option<frame::Header>, Error> {
        let bytes = self.window.get(&self.segment, offset, frame::HEADER, end)?;
        Ok(bytes.and_then(|bytes| frame::parse(&bytes, self.segment.header.salt)))
    }

    /// The header of a record that ends by `end`.
    fn record_at(&mut self, offset: u64, end: u64) -> Result<Option<record::Header>, Error> {
        let bytes = self.window.get(&self.segment, offset, record::HEADER, end)?;
        let header = bytes.and_then(|bytes| record::parse(&bytes, self.segment.header.salt));
        Ok(header.filter(|header| offset + to_u64(header.size()) <= end))
    }

    /// Only for a header that [`Walk::record_at`] has found.
    fn payload(&mut self, offset: u64, header: &record::Header) -> Result<Bytes, Error> {
        let start = offset + to_u64(record::HEADER);
        let end = offset + to_u64(header.size());
        Ok(self.window.get(&self.segment, start, header.payload(), end)?.unwrap_or_default())
    }

    /// The first aligned place in `from..to` where a header with an LSN of `range` stands; of a record, only where its bytes hold too.
    fn search(&mut self, from: u64, to: u64, range: (Lsn, Lsn), target: Target) -> Result<Option<(u64, Found)>, Error> {
        let magic = u32::from_le_bytes(frame::MAGIC);
        let mut at = from;
        while at < to {
            let length = to_usize(to - at).min(READ_AHEAD);
            let Some(block) = self.window.get(&self.segment, at, length, to)? else { break };
            for word in block.chunks_exact(ALIGN) {
                let value = u64_at(word, 0).unwrap_or_default();
                if value & u64::from(u32::MAX) == u64::from(magic) && target == Target::Anything {
                    if let Some(header) = self.frame_at(at, to)?.filter(|header| header.first >= range.0 && header.first < range.1) {
                        return Ok(Some((at, Found::Frame(header))));
                    }
                } else if value >= range.0.get() && value < range.1.get() && self.whole_record_at(at, to)? {
                    return Ok(Some((at, Found::Record(Lsn::new(value)))));
                }
                at += to_u64(ALIGN);
            }
            if length < ALIGN {
                break;
            }
        }
        Ok(None)
    }

    fn whole_record_at(&mut self, offset: u64, end: u64) -> Result<bool, Error> {
        let Some(header) = self.record_at(offset, end)? else { return Ok(false) };
        let payload = self.payload(offset, &header)?;
        Ok(header.holds(self.segment.header.salt, &payload))
    }
}

/// What a search looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Records,
    Anything,
}

/// A piece of a segment in memory. Records are slices of it.
#[derive(Debug, Default)]
struct Window {
    start: u64,
    bytes: Bytes,
}

impl Window {
    /// `length` bytes from `offset`; `None` where they do not end by `end`. Nothing at or behind `end` is read: it may still change.
    fn get(&mut self, segment: &Segment, offset: u64, length: usize, end: u64) -> Result<Option<Bytes>, Error> {
        let end = end.min(segment.length);
        let rest = to_usize(end.saturating_sub(offset));
        if rest < length {
            return Ok(None);
        }
        if let Some(slice) = self.slice(offset, length) {
            return Ok(Some(slice));
        }
        let mut bytes = vec![0; length.max(READ_AHEAD).min(rest)];
        segment.read(&mut bytes, offset)?;
        *self = Self { start: offset, bytes: bytes.into() };
        Ok(self.slice(offset, length))
    }

    fn slice(&self, offset: u64, length: usize) -> Option<Bytes> {
        let from = to_usize(offset.checked_sub(self.start)?);
        let to = from.checked_add(length)?;
        (to <= self.bytes.len()).then(|| self.bytes.slice(from..to))
    }
}
