//! The last durable frames in memory, for readers that keep up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::lsn::Lsn;
use super::number::{to_usize, u32_at, u64_at};
use super::sync::lock;
use super::{frame, record};

/// A durable frame: the very buffer that was written.
#[derive(Debug)]
pub(super) struct TailFrame {
    pub(super) first: Lsn,
    /// The first LSN behind it.
    pub(super) end: Lsn,
    /// Number of its segment.
    pub(super) segment: u64,
    /// Offset of the first byte behind it in the segment.
    pub(super) end_offset: u64,
    bytes: Bytes,
}

impl TailFrame {
    pub(super) fn new(header: frame::Header, segment: u64, end_offset: u64, bytes: Bytes) -> Self {
        Self { first: header.first, end: header.end(), segment, end_offset, bytes }
    }

    /// The record that begins at `at`, and where the next one does. The checks were computed from these bytes and are not looked at again.
    pub(super) fn record(&self, at: usize) -> Option<(Lsn, Bytes, usize)> {
        let header = self.bytes.get(at..at.checked_add(record::HEADER)?)?;
        let (lsn, length) = (u64_at(header, 0)?, to_usize(u64::from(u32_at(header, 8)?)));
        let start = at + record::HEADER;
        let end = start.checked_add(length)?;
        (end <= self.bytes.len()).then(|| (Lsn::new(lsn), self.bytes.slice(start..end), at + record::size(length)))
    }
}

/// The frames, oldest first.
#[derive(Debug)]
pub(super) struct Tail {
    inner: Mutex<Inner>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Inner {
    frames: VecDeque<Arc<TailFrame>>,
    bytes: usize,
}

impl Tail {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { inner: Mutex::new(Inner::default()), bytes_max }
    }

    /// Adds the newest frame, and lets go of the oldest beyond the limit.
    pub(super) fn push(&self, frame: TailFrame) {
        let mut inner = lock(&self.inner);
        inner.bytes += frame.bytes.len();
        inner.frames.push_back(Arc::new(frame));
        while inner.bytes > self.bytes_max {
            let Some(oldest) = inner.frames.pop_front() else { break };
            inner.bytes = inner.bytes.saturating_sub(oldest.bytes.len());
        }
    }

    /// The frame that holds `lsn`.
    pub(super) fn frame_with(&self, lsn: Lsn) -> Option<Arc<TailFrame>> {
        let inner = lock(&self.inner);
        let after = inner.frames.partition_point(|frame| frame.first <= lsn);
        let frame = inner.frames.get(after.checked_sub(1)?)?;
        (lsn < frame.end).then(|| Arc::clone(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Salt;
    use super::*;

    fn frame(first: u64, payloads: &[&[u8]]) -> TailFrame {
        let mut builder = frame::Builder::new(Salt(1), Lsn::new(first), payloads.iter().map(|payload| record::size(payload.len())).sum());
        for payload in payloads {
            builder.push(payload);
        }
        let (header, bytes) = builder.finish();
        TailFrame::new(header, 1, 0, bytes.into())
    }

    #[test]
    fn a_frame_is_found_by_any_of_its_lsns_until_it_is_let_go() {
        let size = 2 * (frame::HEADER + 2 * record::size(1));
        let tail = Tail::new(size);
        tail.push(frame(1, &[b"a", b"b"]));
        tail.push(frame(5, &[b"c", b"d"]));
        for (lsn, first) in [(0, None), (1, Some(1)), (2, Some(1)), (3, None), (4, None), (5, Some(5)), (6, Some(5)), (7, None)] {
            assert_eq!(tail.frame_with(Lsn::new(lsn)).map(|frame| frame.first.get()), first, "{lsn}");
        }
        tail.push(frame(7, &[b"e"]));
        assert!(tail.frame_with(Lsn::new(1)).is_none());
        let found = tail.frame_with(Lsn::new(6)).unwrap();
        let (lsn, record, next) = found.record(frame::HEADER).unwrap();
        assert_eq!((lsn, record.as_ref()), (Lsn::new(5), b"c".as_slice()));
        let (lsn, record, next) = found.record(next).unwrap();
        assert_eq!((lsn, record.as_ref()), (Lsn::new(6), b"d".as_slice()));
        assert!(found.record(next).is_none());
    }
}
