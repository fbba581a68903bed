//! What of the last segment counts: its torn tail is told from corruption, and what is accepted is made durable.
//!
//! A crash can tear only the last frame, and nothing of that frame was answered. So damage is a torn tail where all of these hold: it lies behind the
//! last frame whose header is good, or within that frame; and the records it costs are not known to be durable. Any other damage is corruption.

use std::sync::Arc;

use super::error::Error;
use super::frame;
use super::lsn::Lsn;
use super::number::{to_u64, to_usize};
use super::report::TornTail;
use super::segment::{PAGE_END, Segment};
use super::walk::{Bounds, Damage, FrameAt, Step, Walk};

/// Bytes written again at a time.
const COPY_STEP: u64 = 1024 * 1024;

/// What was found in the last segment, and decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Survey {
    /// The first LSN that is not in the segment.
    pub(super) end: Lsn,
    /// Where the frames end: what stands behind is no part of the log.
    pub(super) cut: u64,
    /// Damage before that.
    pub(super) corrupt: Vec<Damage>,
    pub(super) torn: Option<TornTail>,
    /// Where the torn tail begins; what is damaged behind it is no corruption.
    pub(super) torn_from: u64,
    /// A frame whose header has to be written anew: of a torn frame, the records that are kept.
    repair: Option<FrameAt>,
}

impl Survey {
    /// Whether a walk found all but the damage that the cut torn frame stood behind.
    fn ends_before_damage(&self, again: &Walked) -> bool {
        self.torn.is_some()
            && self
                .corrupt
                .split_last()
                .is_some_and(|(last, others)| last.to == self.cut && again.end == last.first && again.damages == others)
    }
}

/// What becomes of the bytes behind the log's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Pieces of a torn frame must not look like the log's once new frames stand before them.
    Zero,
    /// The journal was closed in good order: nothing was written there in this use of the segment.
    Leave,
}

/// Where the walk came to its end.
struct Walked {
    damages: Vec<Damage>,
    end: Lsn,
    offset: u64,
    last_frame: Option<FrameAt>,
    /// What stands there begins like a frame.
    resembles_frame: bool,
}

/// Walks the segment; changes nothing. Every record below `durable_end` was durable.
pub(super) fn examine(segment: &Arc<Segment>, durable_end: Lsn) -> Result<Survey, Error> {
    let walked = walk(segment)?;
    Ok(decide(walked, durable_end))
}

/// Writes what is accepted once more, cuts the rest, and syncs: the page cache may hold what the disk does not. Tells where the records end that can be
/// found from now on: before [`Survey::end`] where a torn frame that was cut whole was all that showed that damage before it is not the end.
pub(super) fn rewrite(segment: &Arc<Segment>, survey: &Survey, rest: Rest) -> Result<Lsn, Error> {
    segment.write(&segment.header.encode(), 0)?;
    let mut at = PAGE_END;
    while at < survey.cut {
        let mut block = vec![0; to_usize(COPY_STEP.min(survey.cut - at))];
        segment.read(&mut block, at)?;
        segment.write(&block, at)?;
        at += to_u64(block.len());
    }
    if let Some(frame) = survey.repair {
        segment.write(&frame.header.encode(segment.header.salt), frame.offset)?;
    }
    if rest == Rest::Zero || survey.torn.is_some() {
        segment.zero_from(survey.cut)?;
    }
    segment.sync()?;
    // What was written must be what was examined: pages may have been read from the disk anew in between.
    let again = walk(segment)?;
    let same = again.end == survey.end && again.damages == survey.corrupt;
    if same || survey.ends_before_damage(&again) { Ok(again.end) } else { Err(Error::Unstable { path: segment.path.clone() }) }
}

fn walk(segment: &Arc<Segment>) -> Result<Walked, Error> {
    let mut walk = Walk::new(Arc::clone(segment));
    let bounds = Bounds { lsn: Lsn::MAX, offset: segment.length };
    let mut damages = Vec::new();
    loop {
        match walk.step(bounds)? {
            Step::Record { .. } => {}
            Step::Damage(damage) => damages.push(damage),
            Step::End => break,
        }
    }
    let offset = walk.offset().min(segment.length);
    let mut bytes = vec![0; frame::HEADER.min(to_usize(segment.length - offset))];
    segment.read(&mut bytes, offset)?;
    let resembles_frame = frame::resembles(&bytes, segment.header.salt);
    Ok(Walked { damages, end: walk.next(), offset, last_frame: walk.last_frame(), resembles_frame })
}

fn decide(walked: Walked, durable_end: Lsn) -> Survey {
    let Walked { mut damages, end, offset, last_frame, resembles_frame } = walked;
    let behind = last_frame.map_or(0, |frame| frame.offset);
    let tail_at = damages.iter().position(|damage| damage.from > behind && damage.first >= durable_end);
    let Some(tail) = tail_at.map(|index| damages.split_off(index)) else {
        let torn =
            (resembles_frame && end >= durable_end).then(|| TornTail { kept_records: 0, cut_records: 0, cut_bytes: to_u64(frame::HEADER) });
        return Survey { end, cut: offset, corrupt: damages, torn, torn_from: offset, repair: None };
    };
    let (kept_end, cut, repair) = cut(&tail, last_frame, end, offset);
    let torn = TornTail {
        kept_records: repair.map_or(0, |frame| u64::from(frame.header.count)),
        cut_records: end.since(kept_end),
        cut_bytes: offset.saturating_sub(cut),
    };
    let torn_from = tail.first().map_or(cut, |damage| damage.from.min(cut));
    Survey { end: kept_end, cut, corrupt: damages, torn: Some(torn), torn_from, repair }
}

/// The longest whole prefix of the torn frame: its end, where it is cut, and the frame that the prefix makes.
fn cut(tail: &[Damage], last_frame: Option<FrameAt>, end: Lsn, offset: u64) -> (Lsn, u64, Option<FrameAt>) {
    let Some(first) = tail.first() else { return (end, offset, None) };
    if first.records() == 0 && first.to - first.from == to_u64(frame::HEADER) {
        // Only the frame's header is missing, and its records follow.
        let (kept_end, cut) = tail.get(1).map_or((end, offset), |next| (next.first, next.from));
        return (kept_end, cut, prefix(first.from, first.first, kept_end, cut));
    }
    match last_frame.filter(|frame| first.from > frame.offset && first.from < frame.offset + frame.header.size()) {
        Some(frame) if first.first == frame.header.first => (frame.header.first, frame.offset, None),
        Some(frame) => (first.first, first.from, prefix(frame.offset, frame.header.first, first.first, first.from)),
        None => (first.first, first.from, None),
    }
}

fn prefix(offset: u64, first: Lsn, end: Lsn, cut: u64) -> Option<FrameAt> {
    let count = u32::try_from(end.since(first)).ok().filter(|count| *count > 0)?;
    let length = u32::try_from(cut.checked_sub(offset + to_u64(frame::HEADER))?).ok()?;
    Some(FrameAt { offset, header: frame::Header { first, count, length } })
}
