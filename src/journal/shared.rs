//! What the writer, the keeper, the readers and the handles share.
//!
//! Locks are taken in this order: files, queue, mailboxes, status; any other is held alone. Watchers are called with none held.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use uuid::Uuid;

use super::bell::Bell;
use super::config::Config;
use super::error::Error;
use super::lsn::Lsn;
use super::queue::{Activity, Queue};
use super::segment::{Segment, Spare};
use super::set_aside::{self, Kept, WithoutRoom};
use super::slot::AppendError;
use super::status::{FullReason, State, Status};
use super::storage::Storage;
use super::sync::{lock, wait};
use super::tail::Tail;
use crate::clock::Clock;
use crate::metrics;

/// Everything that the parts of a journal share.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) metrics: metrics::Journal,
    pub(super) clock: Clock,
    pub(super) identity: Uuid,
    pub(super) queue: Arc<Queue>,
    pub(super) files: Files,
    pub(super) tail: Tail,
    pub(super) durable: Durable,
    pub(super) bell: Bell,
    pub(super) status: Status,
    /// Held while a piece is set aside, so that two readers do not copy it at once.
    setting_aside: Mutex<()>,
}

impl Shared {
    pub(super) fn new(
        config: Config,
        storage: Arc<dyn Storage>,
        metrics: metrics::Journal,
        clock: Clock,
        identity: Uuid,
        files: FilesInner,
        mark: Mark,
    ) -> Self {
        let (queue, tail) = (Arc::new(Queue::new(&config)), Tail::new(config.tail_bytes_max));
        let shared = Self {
            config,
            storage,
            metrics,
            clock,
            identity,
            queue,
            files: Files { inner: Mutex::new(files), room: Condvar::new() },
            tail,
            durable: Durable { end: AtomicU64::new(mark.end.get()), mark: Mutex::new(mark) },
            bell: Bell::default(),
            status: Status::new(),
            setting_aside: Mutex::new(()),
        };
        shared.metrics.size_max_bytes.set(i64::try_from(shared.config.size_max).unwrap_or(i64::MAX));
        shared.show(&lock(&shared.files.inner));
        shared
    }

    /// Ends the journal after a failed write or sync, once: nobody is answered with success any more.
    pub(super) fn poison(&self, error: Error) {
        let Some(error) = self.status.fail(error) else { return };
        self.metrics.failed.set(1);
        self.queue.refuse_all(AppendError::Failed);
        self.stop_waiting_for_room();
        self.bell.ring();
        self.status.tell_failure(error);
    }

    /// Ends the writer even where it waits for a segment.
    pub(super) fn stop_waiting_for_room(&self) {
        lock(&self.files.inner).stopped = true;
        self.files.room.notify_all();
    }

    /// A prepared file for the next segment. Where none can be prepared, the journal is full.
    pub(super) fn take_spare(&self) -> Spares {
        let mut files = lock(&self.files.inner);
        if files.stopped {
            return Spares::NoRoom;
        }
        if let Some(spare) = files.spares.pop_front() {
            files.taken_bytes = spare.length;
            self.show(&files);
            drop(files);
            self.bell.ring();
            return Spares::One(spare);
        }
        let Some(reason) = files.blocked else { return Spares::NotYet };
        let changed = self.enter_full(reason);
        drop(files);
        if changed {
            self.status.notify();
        }
        Spares::NoRoom
    }

    /// Waits until the keeper has prepared a file, or found that it cannot.
    pub(super) fn wait_for_spare(&self) {
        let mut files = lock(&self.files.inner);
        while !files.stopped && files.spares.is_empty() && files.blocked.is_none() {
            self.queue.set_activity(Activity::WaitsForSegment);
            files = wait(&self.files.room, files);
            self.queue.set_activity(Activity::Between);
        }
    }

    /// Only while the files are locked, so that a spare that arrives meanwhile is not missed. The state tells it before the first append does.
    fn enter_full(&self, reason: FullReason) -> bool {
        let changed = self.status.change(&State::Open, State::Full(reason));
        self.metrics.full.set(1);
        self.queue.refuse_all(AppendError::Full);
        changed
    }

    /// No spare can be prepared for now.
    pub(super) fn block(&self, reason: FullReason) {
        let mut files = lock(&self.files.inner);
        files.blocked = Some(reason);
        self.status.change(&State::Full(reason), State::Full(reason));
        drop(files);
        self.files.room.notify_all();
    }

    /// A spare is being prepared: from here on the writer waits for it, where before the journal would have become full. One that is full stays so until the
    /// spare is there.
    pub(super) fn unblock(&self) {
        lock(&self.files.inner).blocked = None;
    }

    /// Makes the journal full at once, where there is nothing to write to and no spare can be prepared.
    pub(super) fn fill_if_blocked(&self) {
        let files = lock(&self.files.inner);
        if let (Some(reason), true) = (files.blocked, files.spares.is_empty()) {
            self.enter_full(reason);
        }
    }

    /// Adds a prepared file. Where the journal was full, it no longer is.
    pub(super) fn add_spare(&self, spare: Spare) {
        let mut files = lock(&self.files.inner);
        files.spares.push_back(spare);
        files.blocked = None;
        self.show(&files);
        self.queue.admit();
        self.metrics.full.set(0);
        let changed = self.status.change(&State::Full(FullReason::SizeMax), State::Open);
        drop(files);
        self.files.room.notify_all();
        if changed {
            self.status.notify();
        }
    }

    /// Adds the newest segment.
    pub(super) fn add_segment(&self, segment: Arc<Segment>) {
        let mut files = lock(&self.files.inner);
        files.segments.push_back(segment);
        files.taken_bytes = 0;
        self.show(&files);
    }

    /// Takes out the oldest segment, if it lies wholly below `lowest` and is not the newest.
    pub(super) fn take_segment_below(&self, lowest: Lsn) -> Option<Arc<Segment>> {
        let mut files = lock(&self.files.inner);
        let second = files.segments.get(1)?;
        let number = second.header.number;
        if second.header.first > lowest {
            return None;
        }
        files.without_room.forget_below(number);
        let oldest = files.segments.pop_front();
        self.show(&files);
        oldest
    }

    /// Puts back the oldest segment, which could not be freed.
    pub(super) fn put_back(&self, segment: Arc<Segment>) {
        let mut files = lock(&self.files.inner);
        files.segments.push_front(segment);
        self.show(&files);
    }

    /// The segment that holds `lsn`, if it is readable at all.
    pub(super) fn place_of(&self, lsn: Lsn) -> Place {
        let files = lock(&self.files.inner);
        let after = files.segments.partition_point(|segment| segment.header.first <= lsn);
        let next = files.segments.get(after).map(|segment| segment.header.first);
        match after.checked_sub(1).and_then(|index| files.segments.get(index)) {
            Some(segment) => Place::Within { segment: Arc::clone(segment), next },
            None => Place::Before { next },
        }
    }

    /// Keeps a corrupt piece, and counts it.
    pub(super) fn set_aside(&self, segment: &Segment, from: u64, to: u64) -> Result<Kept, Error> {
        let _alone = lock(&self.setting_aside);
        let kept = set_aside::keep(self.storage.as_ref(), &self.config.dir, segment, from, to)?;
        let mut files = lock(&self.files.inner);
        if files.without_room.note(segment, from, &kept) {
            self.metrics.set_aside.inc();
        }
        if let Kept::New { bytes, .. } = &kept {
            files.set_aside_bytes = files.set_aside_bytes.saturating_add(*bytes);
            self.show(&files);
        }
        drop(files);
        Ok(kept)
    }

    fn show(&self, files: &FilesInner) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.size_bytes.set(i64::try_from(files.size()).unwrap_or(i64::MAX));
        self.metrics.segments.set(count(files.segments.len()));
        self.metrics.spares.set(count(files.spares.len()));
    }
}

/// What there is for the next segment.
#[derive(Debug)]
pub(super) enum Spares {
    One(Spare),
    /// The keeper is preparing one.
    NotYet,
    /// It cannot, or nothing is to be begun any more.
    NoRoom,
}

/// Where an LSN is to be read.
#[derive(Debug)]
pub(super) enum Place {
    /// In this segment; `next` is the first LSN of the segment after it.
    Within { segment: Arc<Segment>, next: Option<Lsn> },
    /// Before every segment; `next` is the first LSN of the oldest.
    Before { next: Option<Lsn> },
}

/// The segments and the spares.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) inner: Mutex<FilesInner>,
    /// The writer waits here for a spare.
    room: Condvar,
}

#[derive(Debug)]
pub(super) struct FilesInner {
    /// Oldest first; the last one is written to.
    pub(super) segments: VecDeque<Arc<Segment>>,
    /// In the order of their making; the oldest is used first.
    pub(super) spares: VecDeque<Spare>,
    pub(super) set_aside_bytes: u64,
    without_room: WithoutRoom,
    /// Of the spare that the writer is making a segment of.
    taken_bytes: u64,
    /// Why no spare can be prepared.
    pub(super) blocked: Option<FullReason>,
    stopped: bool,
}

impl FilesInner {
    pub(super) fn new(segments: VecDeque<Arc<Segment>>, spares: VecDeque<Spare>, set_aside_bytes: u64, without_room: WithoutRoom) -> Self {
        Self { segments, spares, set_aside_bytes, without_room, taken_bytes: 0, blocked: None, stopped: false }
    }

    /// Bytes of all of them.
    pub(super) fn size(&self) -> u64 {
        let segments: u64 = self.segments.iter().map(|segment| segment.length).sum();
        let spares: u64 = self.spares.iter().map(|spare| spare.length).sum();
        segments.saturating_add(spares).saturating_add(self.set_aside_bytes).saturating_add(self.taken_bytes)
    }
}

/// Up to where the log is durable.
#[derive(Debug)]
pub(super) struct Durable {
    end: AtomicU64,
    mark: Mutex<Mark>,
}

/// A place in the log: the first LSN that is not durable, and where it would stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) end: Lsn,
    /// Number of the segment that was written last; 0 where there is none.
    pub(super) segment: u64,
    pub(super) offset: u64,
}

impl Durable {
    pub(super) fn end(&self) -> Lsn {
        Lsn::new(self.end.load(Ordering::Acquire))
    }

    pub(super) fn mark(&self) -> Mark {
        *lock(&self.mark)
    }

    pub(super) fn advance(&self, mark: Mark) {
        *lock(&self.mark) = mark;
        self.end.store(mark.end.get(), Ordering::Release);
    }
}
