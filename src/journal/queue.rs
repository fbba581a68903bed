//! From the event loops to the writer and back.
//!
//! An append puts its record into the shared queue, and waits for its slot to be answered. The writer takes what waits, makes it durable, answers the slots,
//! and wakes each event loop once a batch: a lane collects the answered slots of one event loop, and its driver wakes the callbacks there, without
//! crossing threads again. The driver also withdraws what has waited for `answer_max`: the writer cannot, as it may be held up in a sync.
//!
//! A slot is answered exactly once. While it waits, the writer (taking it), its own future (dropped) and a driver (too late) compete for it by one
//! compare-and-swap; once taken, only the writer answers it.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::config::Config;
use super::lsn::Lsn;
use super::sync::{lock, wait, wait_timeout};
use super::{frame, record};

/// Why a record was not made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The journal has no room.
    #[error("the journal is full")]
    Full,
    /// `waiting_records_max` or `waiting_bytes_max` is reached.
    #[error("too many records wait for the writer")]
    TooManyWaiting,
    /// The writer had not taken it within `answer_max`; it is withdrawn and never becomes durable.
    #[error("the writer did not take the record in time")]
    NotTakenInTime,
    /// Larger than `record_max`.
    #[error("the record is larger than the largest allowed")]
    TooLarge,
    /// A write or a sync has failed. Whether this record is durable is not known.
    #[error("the journal has failed")]
    Failed,
    /// The journal is closed.
    #[error("the journal is closed")]
    Closed,
}

/// Where an append stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    Taken,
    Durable,
    /// Its future was dropped before the writer took it.
    Withdrawn,
    Refused(AppendError),
}

impl Stage {
    const fn code(self) -> u8 {
        match self {
            Self::Waiting => 0,
            Self::Taken => 1,
            Self::Durable => 2,
            Self::Withdrawn => 3,
            Self::Refused(AppendError::Full) => 4,
            Self::Refused(AppendError::TooManyWaiting) => 5,
            Self::Refused(AppendError::NotTakenInTime) => 6,
            Self::Refused(AppendError::TooLarge) => 7,
            Self::Refused(AppendError::Failed) => 8,
            Self::Refused(AppendError::Closed) => 9,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Waiting,
            1 => Self::Taken,
            2 => Self::Durable,
            3 => Self::Withdrawn,
            4 => Self::Refused(AppendError::Full),
            5 => Self::Refused(AppendError::TooManyWaiting),
            6 => Self::Refused(AppendError::NotTakenInTime),
            7 => Self::Refused(AppendError::TooLarge),
            9 => Self::Refused(AppendError::Closed),
            _ => Self::Refused(AppendError::Failed),
        }
    }
}

/// One append, shared by its future, the queue and the lane.
#[derive(Debug)]
pub(super) struct Slot {
    stage: AtomicU8,
    lsn: AtomicU64,
    lane: usize,
    waker: Mutex<Option<Waker>>,
}

impl Slot {
    fn stage(&self) -> Stage {
        Stage::from_code(self.stage.load(Ordering::Acquire))
    }

    /// Moves a slot that waits; `false` where it no longer does.
    fn settle(&self, stage: Stage) -> bool {
        self.stage.compare_exchange(Stage::Waiting.code(), stage.code(), Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The writer takes it: from here on only the writer answers.
    pub(super) fn take(&self) -> bool {
        self.settle(Stage::Taken)
    }

    /// The answer to a taken slot.
    pub(super) fn durable(&self, lsn: Lsn) {
        self.lsn.store(lsn.get(), Ordering::Relaxed);
        self.stage.store(Stage::Durable.code(), Ordering::Release);
    }

    /// The answer to a taken slot.
    pub(super) fn refuse(&self, why: AppendError) {
        self.stage.store(Stage::Refused(why).code(), Ordering::Release);
    }

    fn answer(&self) -> Option<Result<Lsn, AppendError>> {
        match self.stage() {
            Stage::Waiting | Stage::Taken => None,
            Stage::Durable => Some(Ok(Lsn::new(self.lsn.load(Ordering::Relaxed)))),
            Stage::Withdrawn => Some(Err(AppendError::NotTakenInTime)),
            Stage::Refused(why) => Some(Err(why)),
        }
    }

    fn wake(&self) {
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A record on its way to the writer.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) record: Vec<u8>,
    pub(super) slot: Arc<Slot>,
    since: Instant,
}

/// Answered slots of one event loop, on their way back.
#[derive(Debug, Default)]
struct Lane {
    back: Mutex<Back>,
}

#[derive(Debug, Default)]
struct Back {
    ready: Vec<Arc<Slot>>,
    driver: Option<Waker>,
    ended: bool,
}

/// Answered slots, by lane, so that each lane is woken once. Kept by whoever answers, for its capacity.
#[derive(Debug, Default)]
pub(super) struct Answers {
    lanes: Vec<Vec<Arc<Slot>>>,
}

impl Answers {
    /// Adds a slot that has its answer.
    pub(super) fn push(&mut self, slot: Arc<Slot>) {
        if self.lanes.len() <= slot.lane {
            self.lanes.resize_with(slot.lane + 1, Vec::new);
        }
        if let Some(lane) = self.lanes.get_mut(slot.lane) {
            lane.push(slot);
        }
    }
}

/// What the writer got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    /// At least one record; some may have been withdrawn since.
    Batch,
    /// What waits first does not fit into the rest of the segment.
    NoRoom,
    /// Nothing waits, and nothing will.
    Ended,
}

/// The queue between the event loops and the writer.
#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    /// The writer waits here for records.
    filled: Condvar,
    /// The keeper waits here for a moment without a batch.
    quiet: Condvar,
    lanes: Mutex<Vec<Arc<Lane>>>,
    records_max: usize,
    bytes_max: usize,
    record_max: usize,
    answer_max: Duration,
    batch_records_max: usize,
    batch_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Why nothing is let in now.
    refusal: Option<AppendError>,
    /// Nothing comes after what waits.
    closing: bool,
    writer: Activity,
    keeper_waits: bool,
}

/// What the writer is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Activity {
    /// On its way to the next batch.
    #[default]
    Between,
    WaitsForRecords,
    HasBatch,
    /// It waits for a segment, so that a batch that waits is no reason to pause the preparation of one.
    WaitsForSegment,
}

impl Queue {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            inner: Mutex::new(Inner::default()),
            filled: Condvar::new(),
            quiet: Condvar::new(),
            lanes: Mutex::new(Vec::new()),
            records_max: config.waiting_records_max,
            bytes_max: config.waiting_bytes_max,
            record_max: config.record_max,
            answer_max: config.answer_max,
            batch_records_max: config.batch_records_max,
            batch_bytes_max: config.batch_bytes_max,
        }
    }

    /// Lets a record in, at the end.
    fn push(&self, lane: usize, record: Vec<u8>) -> Result<Arc<Slot>, AppendError> {
        if record.len() > self.record_max {
            return Err(AppendError::TooLarge);
        }
        let slot = Arc::new(Slot { stage: AtomicU8::new(Stage::Waiting.code()), lsn: AtomicU64::new(0), lane, waker: Mutex::new(None) });
        let waiting = Waiting { record, slot: Arc::clone(&slot), since: Instant::now() };
        let mut inner = lock(&self.inner);
        if let Some(refusal) = inner.refusal {
            return Err(refusal);
        }
        if inner.waiting.len() >= self.records_max || inner.bytes.saturating_add(waiting.record.len()) > self.bytes_max {
            return Err(AppendError::TooManyWaiting);
        }
        inner.bytes += waiting.record.len();
        inner.waiting.push_back(waiting);
        let wake = inner.writer == Activity::WaitsForRecords;
        if wake {
            inner.writer = Activity::Between;
        }
        drop(inner);
        if wake {
            self.filled.notify_one();
        }
        Ok(slot)
    }

    /// Waits for records and moves a batch of them into `batch`: as many as its limits and `room` allow, and at least one.
    pub(super) fn take(&self, room: usize, batch: &mut Vec<Waiting>) -> Take {
        let mut inner = lock(&self.inner);
        inner.writer = Activity::Between;
        if std::mem::take(&mut inner.keeper_waits) {
            self.quiet.notify_all();
        }
        loop {
            inner.drop_settled();
            if let Some(front) = inner.waiting.front() {
                let size = frame::HEADER.saturating_add(record::size(front.record.len()));
                if size > room {
                    return Take::NoRoom;
                }
                self.fill(&mut inner, room - frame::HEADER, batch);
                inner.writer = Activity::HasBatch;
                return Take::Batch;
            }
            if inner.closing {
                return Take::Ended;
            }
            inner.writer = Activity::WaitsForRecords;
            inner = wait(&self.filled, inner);
        }
    }

    fn fill(&self, inner: &mut Inner, room: usize, batch: &mut Vec<Waiting>) {
        let (mut size, mut payload) = (0_usize, 0_usize);
        while let Some(front) = inner.waiting.front() {
            let length = front.record.len();
            size = size.saturating_add(record::size(length));
            payload = payload.saturating_add(length);
            let first = batch.is_empty();
            let fits = size <= room && batch.len() < self.batch_records_max && payload <= self.batch_bytes_max;
            if !first && !fits {
                break;
            }
            inner.bytes = inner.bytes.saturating_sub(length);
            batch.extend(inner.waiting.pop_front());
        }
    }

    /// Says that the writer begins, or ends, to wait for a segment.
    pub(super) fn set_activity(&self, activity: Activity) {
        lock(&self.inner).writer = activity;
        self.quiet.notify_all();
    }

    /// Returns at once where no batch is in hand or waits, or where the writer waits for a segment; else when the batch in hand is done, or after `most`.
    pub(super) fn wait_for_quiet(&self, most: Duration) {
        let until = Instant::now() + most;
        let mut inner = lock(&self.inner);
        while inner.is_busy() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            inner.keeper_waits = true;
            inner = wait_timeout(&self.quiet, inner, left);
        }
    }

    /// Lets nothing in from here on and answers all that wait with `why`. Only a lack of room ever ends again.
    pub(super) fn refuse_all(&self, why: AppendError) {
        let mut answers = Answers::default();
        let mut inner = lock(&self.inner);
        if !inner.has_ended() {
            inner.refusal = Some(why);
        }
        inner.closing |= inner.has_ended();
        inner.bytes = 0;
        for waiting in inner.waiting.drain(..) {
            if waiting.slot.settle(Stage::Refused(why)) {
                answers.push(waiting.slot);
            }
        }
        drop(inner);
        self.filled.notify_all();
        self.give(&mut answers);
    }

    /// Lets records in again, where only a lack of room had kept them out.
    pub(super) fn admit(&self) {
        let mut inner = lock(&self.inner);
        if inner.refusal == Some(AppendError::Full) {
            inner.refusal = None;
        }
    }

    /// Lets nothing in from here on; what waits is still taken.
    pub(super) fn close(&self) {
        let mut inner = lock(&self.inner);
        inner.closing = true;
        if !inner.has_ended() {
            inner.refusal = Some(AppendError::Closed);
        }
        drop(inner);
        self.filled.notify_all();
    }

    /// Ends every lane. The last act, when every slot has its answer.
    pub(super) fn end_lanes(&self) {
        for lane in lock(&self.lanes).iter() {
            let mut back = lock(&lane.back);
            back.ended = true;
            let driver = back.driver.take();
            drop(back);
            if let Some(driver) = driver {
                driver.wake();
            }
        }
    }

    /// Hands answered slots to their lanes, waking each lane once.
    pub(super) fn give(&self, answers: &mut Answers) {
        for (index, slots) in answers.lanes.iter_mut().enumerate().filter(|(_, slots)| !slots.is_empty()) {
            let Some(lane) = lock(&self.lanes).get(index).cloned() else { continue };
            let mut back = lock(&lane.back);
            back.ready.append(slots);
            let driver = back.driver.take();
            drop(back);
            if let Some(driver) = driver {
                driver.wake();
            }
        }
    }

    /// Withdraws what has waited for `answer_max`.
    fn sweep(&self) {
        let mut answers = Answers::default();
        let mut inner = lock(&self.inner);
        if inner.waiting.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(front) = inner.waiting.front() {
            let late = now.saturating_duration_since(front.since) >= self.answer_max;
            if late && front.slot.settle(Stage::Refused(AppendError::NotTakenInTime)) {
                answers.push(Arc::clone(&front.slot));
            }
            if front.slot.stage() == Stage::Waiting {
                break;
            }
            inner.drop_front();
        }
        drop(inner);
        self.give(&mut answers);
    }
}

impl Inner {
    /// Whether nothing will ever be let in again.
    fn has_ended(&self) -> bool {
        matches!(self.refusal, Some(AppendError::Failed | AppendError::Closed))
    }

    /// Whether a batch is in hand or waits, and could go on.
    fn is_busy(&self) -> bool {
        match self.writer {
            Activity::HasBatch => true,
            Activity::WaitsForSegment => false,
            Activity::Between | Activity::WaitsForRecords => !self.waiting.is_empty(),
        }
    }

    /// Drops what no longer waits, at the front.
    fn drop_settled(&mut self) {
        while self.waiting.front().is_some_and(|front| front.slot.stage() != Stage::Waiting) {
            self.drop_front();
        }
    }

    fn drop_front(&mut self) {
        if let Some(front) = self.waiting.pop_front() {
            self.bytes = self.bytes.saturating_sub(front.record.len());
        }
    }
}

/// The two halves of one event loop's access.
pub(super) fn lane(queue: &Arc<Queue>) -> (Appender, LaneDriver) {
    let lane = Arc::new(Lane::default());
    let mut lanes = lock(&queue.lanes);
    let index = lanes.len();
    lanes.push(Arc::clone(&lane));
    drop(lanes);
    // A journal that has ended by now would never end this lane.
    let ended = lock(&queue.inner).has_ended();
    if ended {
        lock(&lane.back).ended = true;
    }
    (Appender { queue: Arc::clone(queue), lane: index }, LaneDriver { queue: Arc::clone(queue), lane })
}

/// Appends from one event loop. Cheap to clone.
#[derive(Clone)]
pub struct Appender {
    queue: Arc<Queue>,
    lane: usize,
}

impl fmt::Debug for Appender {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Appender").field("lane", &self.lane).finish_non_exhaustive()
    }
}

impl Appender {
    /// Resolves when the record is durable, with its LSN. Needs the lane's [`LaneDriver`] to run.
    ///
    /// Cancel safe: where it is dropped before the writer has taken the record, the record is withdrawn and never becomes durable; after that, it
    /// becomes durable all the same.
    pub async fn append(&self, record: Vec<u8>) -> Result<Lsn, AppendError> {
        let slot = self.queue.push(self.lane, record)?;
        Answer { slot }.await
    }
}

/// Waits for one slot's answer; withdraws it when dropped before the writer has taken it.
struct Answer {
    slot: Arc<Slot>,
}

impl Future for Answer {
    type Output = Result<Lsn, AppendError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(answer) = self.slot.answer() {
            return Poll::Ready(answer);
        }
        let mut waker = lock(&self.slot.waker);
        match waker.as_ref() {
            Some(waker) if waker.will_wake(context.waker()) => {}
            Some(_) | None => *waker = Some(context.waker().clone()),
        }
        drop(waker);
        // The answer may have come between the look and the waker.
        self.slot.answer().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.slot.settle(Stage::Withdrawn);
    }
}

/// Wakes the appends of one event loop, and withdraws those that have waited too long.
pub struct LaneDriver {
    queue: Arc<Queue>,
    lane: Arc<Lane>,
}

impl fmt::Debug for LaneDriver {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("LaneDriver").finish_non_exhaustive()
    }
}

impl LaneDriver {
    /// How late after `answer_max` an append is withdrawn at most.
    const SWEEP_INTERVAL_MAX: Duration = Duration::from_millis(50);
    const SWEEP_INTERVAL_MIN: Duration = Duration::from_millis(1);

    /// Spawn it on the event loop of the lane's [`Appender`], in a Tokio runtime with time enabled. It ends once the journal is closed or has failed and
    /// every append has its answer.
    pub async fn run(self) {
        let interval = (self.queue.answer_max / 4).clamp(Self::SWEEP_INTERVAL_MIN, Self::SWEEP_INTERVAL_MAX);
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ready = Vec::new();
        loop {
            tokio::select! {
                biased;
                more = poll_fn(|context| self.lane.poll_ready(context, &mut ready)) => {
                    for slot in ready.drain(..) {
                        slot.wake();
                    }
                    if more == More::No {
                        return;
                    }
                }
                _ = ticks.tick() => self.queue.sweep(),
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    Yes,
    No,
}

impl Lane {
    fn poll_ready(&self, context: &Context<'_>, ready: &mut Vec<Arc<Slot>>) -> Poll<More> {
        let mut back = lock(&self.back);
        if !back.ready.is_empty() {
            std::mem::swap(&mut back.ready, ready);
            return Poll::Ready(More::Yes);
        }
        if back.ended {
            return Poll::Ready(More::No);
        }
        match back.driver.as_ref() {
            Some(driver) if driver.will_wake(context.waker()) => {}
            Some(_) | None => back.driver = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}
