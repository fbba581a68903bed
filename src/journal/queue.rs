//! From the event loops to the writer and back.
//!
//! An append puts its record into the shared queue, and waits for its slot to be answered. The writer takes what waits, makes it durable, answers the slots,
//! and wakes each event loop once a batch: a mailbox collects the answered slots of one event loop, and its driver wakes the callbacks there, without
//! crossing threads again. The driver also withdraws what has waited for `answer_max`: the writer cannot, as it may be held up in a sync.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::appender::Mailbox;
use super::config::Config;
use super::slot::{AppendError, Slot, Stage};
use super::sync::{lock, wait, wait_timeout};
use super::{frame, record};

/// A record on its way to the writer.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) record: Vec<u8>,
    pub(super) slot: Arc<Slot>,
    since: Instant,
}

/// Answered slots, by mailbox, so that each mailbox is woken once. Kept by whoever answers, for its capacity.
#[derive(Debug, Default)]
pub(super) struct Answers {
    mailboxes: Vec<Vec<Arc<Slot>>>,
}

impl Answers {
    /// Adds a slot that has its answer.
    pub(super) fn push(&mut self, slot: Arc<Slot>) {
        if self.mailboxes.len() <= slot.mailbox {
            self.mailboxes.resize_with(slot.mailbox + 1, Vec::new);
        }
        if let Some(mailbox) = self.mailboxes.get_mut(slot.mailbox) {
            mailbox.push(slot);
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
    /// Nothing waits.
    Nothing,
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
    mailboxes: Mutex<Vec<Arc<Mailbox>>>,
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
    /// Nothing is let in because the owner says so; what waits is still taken.
    sealed: bool,
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
            mailboxes: Mutex::new(Vec::new()),
            records_max: config.waiting_records_max,
            bytes_max: config.waiting_bytes_max,
            record_max: config.record_max,
            answer_max: config.answer_max,
            batch_records_max: config.batch_records_max,
            batch_bytes_max: config.batch_bytes_max,
        }
    }

    /// Adds a mailbox for one event loop, and tells its number.
    pub(super) fn add_mailbox(&self) -> (usize, Arc<Mailbox>) {
        let mailbox = Arc::new(Mailbox::default());
        let mut mailboxes = lock(&self.mailboxes);
        let number = mailboxes.len();
        mailboxes.push(Arc::clone(&mailbox));
        drop(mailboxes);
        // A journal that has ended by now will not end this mailbox.
        if lock(&self.inner).has_ended() {
            mailbox.end();
        }
        (number, mailbox)
    }

    /// How long an append may wait for the writer.
    pub(super) fn answer_max(&self) -> Duration {
        self.answer_max
    }

    /// Lets a record in, at the end.
    pub(super) fn push(&self, mailbox: usize, record: Vec<u8>) -> Result<Arc<Slot>, AppendError> {
        if record.len() > self.record_max {
            return Err(AppendError::TooLarge);
        }
        let slot = Arc::new(Slot::new(mailbox));
        let waiting = Waiting { record, slot: Arc::clone(&slot), since: Instant::now() };
        let mut inner = lock(&self.inner);
        if let Some(refusal) = inner.refusal {
            return Err(refusal);
        }
        if inner.sealed {
            return Err(AppendError::Sealed);
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

    /// Lets records gather until that moment; where nothing comes any more, it returns at once.
    pub(super) fn gather(&self, until: Instant) {
        let mut inner = lock(&self.inner);
        while !inner.closing {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.between(&mut inner);
            inner = wait_timeout(&self.filled, inner, left);
        }
    }

    /// The writer has no batch in hand.
    fn between(&self, inner: &mut Inner) {
        inner.writer = Activity::Between;
        if std::mem::take(&mut inner.keeper_waits) {
            self.quiet.notify_all();
        }
    }

    /// Moves a batch of what waits into `batch`: as many as its limits and `room` allow, and at least one.
    pub(super) fn take(&self, room: usize, batch: &mut Vec<Waiting>) -> Take {
        let mut inner = lock(&self.inner);
        self.between(&mut inner);
        inner.drop_settled();
        let Some(front) = inner.waiting.front() else { return if inner.closing { Take::Ended } else { Take::Nothing } };
        if frame::HEADER.saturating_add(record::size(front.record.len())) > room {
            return Take::NoRoom;
        }
        self.fill(&mut inner, room - frame::HEADER, batch);
        inner.writer = Activity::HasBatch;
        Take::Batch
    }

    /// Waits until something waits to be taken, or nothing more will.
    pub(super) fn wait_for_records(&self) {
        let mut inner = lock(&self.inner);
        while inner.waiting.is_empty() && !inner.closing {
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

    /// Lets nothing in until it is unsealed; what waits is still taken.
    pub(super) fn seal(&self) {
        lock(&self.inner).sealed = true;
    }

    /// The end of [`Queue::seal`].
    pub(super) fn unseal(&self) {
        lock(&self.inner).sealed = false;
    }

    /// Whether nothing waits, and nothing is in the writer's hands. While the queue is sealed it stays so.
    pub(super) fn is_still(&self) -> bool {
        let mut inner = lock(&self.inner);
        inner.drop_settled();
        inner.waiting.is_empty() && inner.writer != Activity::HasBatch
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

    /// Ends every mailbox. The last act, when every slot has its answer.
    pub(super) fn end_mailboxes(&self) {
        for mailbox in lock(&self.mailboxes).iter() {
            mailbox.end();
        }
    }

    /// Hands answered slots to their mailboxes, waking each mailbox once.
    pub(super) fn give(&self, answers: &mut Answers) {
        for (index, slots) in answers.mailboxes.iter_mut().enumerate().filter(|(_, slots)| !slots.is_empty()) {
            let Some(mailbox) = lock(&self.mailboxes).get(index).cloned() else { continue };
            mailbox.give(slots);
        }
    }

    /// Withdraws what has waited for `answer_max` by `now`.
    pub(super) fn sweep(&self, now: Instant) {
        let mut answers = Answers::default();
        let mut inner = lock(&self.inner);
        if inner.waiting.is_empty() {
            return;
        }
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
