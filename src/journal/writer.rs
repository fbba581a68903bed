//! The writer thread: one frame a batch, one write and one sync a frame.
//!
//! It waits for records, or for a segment. What arrives while it syncs, and within `sync_interval_min` of that sync's beginning, makes the next batch. All
//! waiting is in the loop; a step waits for nothing but the disk.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use uuid::Uuid;

use super::error::{Context, Error};
use super::frame::Builder;
use super::lsn::Lsn;
use super::number::{to_u64, to_usize};
use super::queue::{Answers, Take, Waiting};
use super::record::{self, Salt};
use super::segment::{Header, PAGE_END, Segment, Spare};
use super::shared::{Mark, Shared, Spares};
use super::slot::{AppendError, Slot};
use super::storage::write_all_at;
use super::tail::TailFrame;

/// Where the next frame goes.
pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    pub(super) offset: u64,
}

impl Active {
    /// Room for frames.
    fn room(&self) -> usize {
        to_usize(self.segment.length.saturating_sub(self.offset))
    }
}

/// What a step has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There may be more to do.
    Done,
    /// Nothing waits to be written.
    WaitForRecords,
    /// The next record has no segment to go to before the keeper has prepared one.
    WaitForSpare,
    /// Nothing will ever be written again.
    Ended,
}

/// The writer's own.
pub(super) struct Writer {
    shared: Arc<Shared>,
    active: Option<Active>,
    /// Number of the next segment.
    number: u64,
    /// LSN of the next record.
    next: Lsn,
    /// No sync begins before.
    earliest: Instant,
    batch: Vec<Waiting>,
    answers: Answers,
    /// A salt that no use of a segment has had.
    pub(super) salt: fn() -> Salt,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, active: Option<Active>, number: u64) -> Self {
        let next = shared.durable.end();
        Self { shared, active, number, next, earliest: Instant::now(), batch: Vec::new(), answers: Answers::default(), salt: random_salt }
    }

    /// Until the queue is closed and empty, or a write or a sync fails.
    pub(super) fn run(mut self) {
        loop {
            self.shared.queue.gather(self.earliest);
            match self.step() {
                Step::Done => {}
                Step::WaitForRecords => self.shared.queue.wait_for_records(),
                Step::WaitForSpare => self.shared.wait_for_spare(),
                Step::Ended => return,
            }
        }
    }

    /// One batch, or one segment begun.
    pub(super) fn step(&mut self) -> Step {
        let room = self.active.as_ref().map_or(0, Active::room);
        let done = match self.shared.queue.take(room, &mut self.batch) {
            Take::Batch => self.commit(),
            Take::NoRoom => self.roll(),
            Take::Nothing => return Step::WaitForRecords,
            Take::Ended => return Step::Ended,
        };
        done.unwrap_or_else(|error| {
            self.shared.poison(error);
            self.answer_batch(|_, slot| slot.refuse(AppendError::Failed));
            Step::Ended
        })
    }

    /// Makes the batch durable and answers it.
    fn commit(&mut self) -> Result<Step, Error> {
        self.batch.retain(|waiting| waiting.slot.take());
        let Some(active) = self.active.as_mut().filter(|_| !self.batch.is_empty()) else { return Ok(Step::Done) };
        let size = self.batch.iter().map(|waiting| record::size(waiting.record.len())).sum();
        let mut builder = Builder::new(active.segment.header.salt, self.next, size);
        for waiting in &self.batch {
            builder.push(&waiting.record);
        }
        let (header, bytes) = builder.finish();
        let (records, length) = (u64::from(header.count), to_u64(bytes.len()));
        let metrics = &self.shared.metrics;

        self.earliest = Instant::now() + self.shared.config.sync_interval_min;
        active.segment.write(&bytes, active.offset)?;
        metrics.appended_records.inc_by(records);
        metrics.appended_bytes.inc_by(length);
        let started = Instant::now();
        active.segment.sync()?;
        metrics.sync_duration_seconds.observe(started.elapsed().as_secs_f64());
        if let Some(failure) = self.shared.status.failure() {
            return Err(Error::Poisoned(failure));
        }

        metrics.synced_records.inc_by(records);
        metrics.synced_bytes.inc_by(length);
        metrics.durable_records.inc_by(records);
        metrics.batch_records.observe(f64::from(header.count));
        metrics.unpublished_records.add(i64::from(header.count));
        active.offset += length;
        self.next = header.end();
        let number = active.segment.header.number;
        self.shared.tail.push(TailFrame::new(header, number, active.offset, Bytes::from(bytes)));
        self.shared.durable.advance(Mark { end: self.next, segment: number, offset: active.offset });
        self.answer_batch(|index, slot| slot.durable(header.first.plus(to_u64(index))));
        self.shared.status.notify();
        self.shared.bell.advance();
        Ok(Step::Done)
    }

    fn answer_batch(&mut self, answer: impl Fn(usize, &Slot)) {
        for (index, waiting) in self.batch.drain(..).enumerate() {
            answer(index, &waiting.slot);
            self.answers.push(waiting.slot);
        }
        self.shared.queue.give(&mut self.answers);
    }

    /// Goes on in a fresh segment, or leaves the journal full.
    fn roll(&mut self) -> Result<Step, Error> {
        let spare = match self.shared.take_spare() {
            Spares::One(spare) => spare,
            Spares::NotYet => return Ok(Step::WaitForSpare),
            Spares::NoRoom => return Ok(Step::Done),
        };
        let segment = Arc::new(self.begin(spare)?);
        self.number += 1;
        self.shared.add_segment(Arc::clone(&segment));
        self.active = Some(Active { segment, offset: PAGE_END });
        Ok(Step::Done)
    }

    /// Makes a segment of a spare. Its header is durable before the file bears the segment's name, and the name is durable before the first frame.
    fn begin(&self, spare: Spare) -> Result<Segment, Error> {
        let shared = &self.shared;
        let header =
            Header { journal: shared.identity, number: self.number, first: self.next, salt: (self.salt)(), created: shared.clock.now() };
        write_all_at(spare.file.as_ref(), &header.encode(), 0).context("write to", &spare.path)?;
        spare.file.sync_data().context("sync", &spare.path)?;
        let dir = &shared.config.dir;
        let path = Segment::path(dir, self.number);
        shared.storage.rename(&spare.path, &path).context("rename", &spare.path)?;
        shared.storage.sync_dir(dir).context("sync", dir)?;
        Ok(Segment { header, path, length: spare.length, file: spare.file })
    }
}

/// From the system's random numbers. A UUID fixes six bits, none of them at the same place in both halves.
fn random_salt() -> Salt {
    let (high, low) = Uuid::new_v4().as_u64_pair();
    Salt(high ^ low)
}

impl Drop for Writer {
    /// Also where the thread panics: nobody must wait for ever, and nobody be told that nothing happened.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.poison(Error::Died { thread: "writer" });
        }
        self.answer_batch(|_, slot| slot.refuse(AppendError::Failed));
        self.shared.queue.end_mailboxes();
    }
}
