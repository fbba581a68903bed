//! The journal: where a callback becomes durable before it is answered.
//!
//! It knows nothing of callbacks: a record's payload is bytes.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use crate::clock::Clock;
use crate::metrics;

pub mod storage;

use storage::Storage;

/// Position of a record in the journal. The first is 1; they are contiguous and never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// The first LSN of a journal.
    pub const FIRST: Self = Self(1);

    /// The LSN of that number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The LSN after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// The folder, and every limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The folder.
    pub dir: PathBuf,
    /// Segments, spares and set-aside files together, bytes.
    pub size_max: u64,
    /// One segment, bytes.
    pub segment_size: u64,
    /// Room left free on the file system, bytes.
    pub free_space_min: u64,
    /// An append that the writer has not taken by then is withdrawn.
    pub answer_max: Duration,
    /// The largest record, bytes.
    pub record_max: usize,
}

impl Config {
    /// The settings, with the largest record that the ingress can make.
    #[must_use]
    pub fn new(settings: &crate::config::Journal, record_max: usize) -> Self {
        Self {
            dir: settings.dir.clone(),
            size_max: settings.size_max.bytes(),
            segment_size: settings.segment_size.bytes(),
            free_space_min: settings.free_space_min.bytes(),
            answer_max: settings.answer_max.get(),
            record_max,
        }
    }
}

/// Why the journal could not be opened, read or closed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process uses the folder.
    #[error("use {path}: another process has locked it")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
}

/// An open journal and what opening it found.
#[derive(Debug)]
pub struct Opened {
    /// The handle.
    pub journal: Journal,
    /// How far the streams were.
    pub positions: Positions,
    /// What the operator should be told.
    pub report: RecoveryReport,
}

/// What recovery found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {}

/// How far the streams are. A stream has every record below `scanned`, but for those in `behind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positions {
    /// Every stream that is not in `behind` has its records below this.
    pub scanned: Lsn,
    /// Stream, and the first LSN that it may lack.
    pub behind: Vec<(String, Lsn)>,
    /// Records in `lowest()..scanned` that are completed.
    pub completed_beyond: u64,
    /// No record at or above it had been handed to Kafka.
    pub sent_bound: Lsn,
}

impl Positions {
    /// The first LSN that some stream may lack.
    #[must_use]
    pub fn lowest(&self) -> Lsn {
        self.behind.iter().map(|(_, lsn)| *lsn).fold(self.scanned, Lsn::min)
    }
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullReason {
    /// `journal.size_max` is reached.
    SizeMax,
    /// Less than `journal.free_space_min` would be left free.
    FreeSpaceMin,
    /// The file system or a quota has no room.
    NoSpace,
}

/// Whether callbacks can be made durable.
#[derive(Clone, Debug)]
pub enum State {
    /// They can.
    Open,
    /// There is no room; it goes on by itself when there is.
    Full(FullReason),
    /// A write or a sync has failed: nothing is durable from here on.
    Failed(Arc<Error>),
    /// Closed.
    Closed,
}

/// Why a record was not made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// No room.
    #[error("the journal is full")]
    Full,
    /// `waiting_records_max` or `waiting_bytes_max` is reached.
    #[error("too many records wait")]
    TooManyWaiting,
    /// The writer had not taken it within `answer_max`; it is withdrawn.
    #[error("not taken in time")]
    NotTakenInTime,
    /// Larger than `record_max`.
    #[error("larger than the largest record")]
    TooLarge,
    /// A write or a sync has failed. Whether the record is durable is unknown.
    #[error("the journal has failed")]
    Failed,
    /// The journal is closed.
    #[error("the journal is closed")]
    Closed,
}

/// What a reader yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A durable record.
    Record {
        /// Where it stands.
        lsn: Lsn,
        /// Its bytes.
        record: Bytes,
    },
    /// Records that cannot be read.
    Corrupt {
        /// The first of them.
        from: Lsn,
        /// The first after them.
        to: Lsn,
    },
}

/// The handle. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {}

/// Opens the folder, recovering what is there.
pub fn open(config: Config, storage: Arc<dyn Storage>, metrics: metrics::Journal, clock: Clock) -> Result<Opened, Error> {
    drop((config, storage, metrics, clock));
    unimplemented!()
}

impl Journal {
    /// The two halves of one event loop's access: call it once for each.
    #[must_use]
    pub fn lane(&self) -> (Appender, LaneDriver) {
        unimplemented!()
    }

    /// A reader whose first item is at `from`.
    #[must_use]
    pub fn reader(&self, from: Lsn) -> Reader {
        drop(from);
        unimplemented!()
    }

    /// Hands over how far the streams are. Cheap, never blocks on the disk.
    pub fn set_positions(&self, positions: Positions) {
        drop(positions);
        unimplemented!()
    }

    /// Whether callbacks can be made durable.
    #[must_use]
    pub fn state(&self) -> State {
        unimplemented!()
    }

    /// The first LSN that is not yet durable.
    #[must_use]
    pub fn durable_end(&self) -> Lsn {
        unimplemented!()
    }

    /// The journal's identity.
    #[must_use]
    pub fn identity(&self) -> Uuid {
        unimplemented!()
    }

    /// Has `waker` called after each sync, on a change of state, and on failure.
    pub fn watch(&self, waker: Arc<dyn Fn() + Send + Sync>) {
        drop(waker);
        unimplemented!()
    }

    /// Resolves when the journal has failed. Cancel safe.
    pub async fn failed(&self) -> Arc<Error> {
        std::future::pending().await
    }

    /// Makes what waits durable, ends the threads, and syncs the last checkpoint with the clean-stop flag. Blocks.
    pub fn close(self) -> Result<(), Error> {
        unimplemented!()
    }
}

/// Appends from one event loop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Appender {}

impl Appender {
    /// Resolves when the record is durable. Cancel safe: dropped, the record is withdrawn unless the writer has taken it.
    pub async fn append(&self, record: Vec<u8>) -> Result<Lsn, AppendError> {
        drop(record);
        std::future::pending().await
    }
}

/// Wakes the appends of one event loop: spawn `run` on it.
#[derive(Debug)]
pub struct LaneDriver {}

impl LaneDriver {
    /// Ends when the journal is closed or has failed, and every append of the lane has its answer.
    pub async fn run(self) {
        std::future::pending().await
    }
}

/// Reads durable records in order. For a thread that may block.
#[derive(Debug)]
pub struct Reader {}

impl Reader {
    /// The next item; `None` once it has reached `durable_end`.
    pub fn next(&mut self) -> Result<Option<Item>, Error> {
        unimplemented!()
    }

    /// The LSN of the next item.
    #[must_use]
    pub fn position(&self) -> Lsn {
        unimplemented!()
    }
}
