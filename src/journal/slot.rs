//! One append, between its event loop and the writer.
//!
//! A slot is answered exactly once. While it waits, the writer (taking it), its own future (dropped) and a driver (too late) compete for it by one
//! compare-and-swap; once taken, only the writer answers it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::Waker;

use super::lsn::Lsn;
use super::sync::lock;

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
    /// The journal is sealed: its owner lets nothing in for now.
    #[error("the journal is sealed")]
    Sealed,
    /// The journal is closed.
    #[error("the journal is closed")]
    Closed,
}

/// Where an append stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
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
            Self::Refused(AppendError::Sealed) => 10,
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
            10 => Self::Refused(AppendError::Sealed),
            _ => Self::Refused(AppendError::Failed),
        }
    }
}

/// One append, shared by its future, the queue and the mailbox.
#[derive(Debug)]
pub(super) struct Slot {
    stage: AtomicU8,
    lsn: AtomicU64,
    pub(super) mailbox: usize,
    waker: Mutex<Option<Waker>>,
}

impl Slot {
    /// One that waits.
    pub(super) fn new(mailbox: usize) -> Self {
        Self { stage: AtomicU8::new(Stage::Waiting.code()), lsn: AtomicU64::new(0), mailbox, waker: Mutex::new(None) }
    }

    pub(super) fn stage(&self) -> Stage {
        Stage::from_code(self.stage.load(Ordering::Acquire))
    }

    /// Moves a slot that waits; `false` where it no longer does.
    pub(super) fn settle(&self, stage: Stage) -> bool {
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

    pub(super) fn answer(&self) -> Option<Result<Lsn, AppendError>> {
        match self.stage() {
            Stage::Waiting | Stage::Taken => None,
            Stage::Durable => Some(Ok(Lsn::new(self.lsn.load(Ordering::Relaxed)))),
            Stage::Withdrawn => Some(Err(AppendError::NotTakenInTime)),
            Stage::Refused(why) => Some(Err(why)),
        }
    }

    /// Has `waker` woken when the answer is there. It may have come just now: look again.
    pub(super) fn wake_by(&self, waker: &Waker) {
        let mut place = lock(&self.waker);
        match place.as_ref() {
            Some(known) if known.will_wake(waker) => {}
            Some(_) | None => *place = Some(waker.clone()),
        }
    }

    pub(super) fn wake(&self) {
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
