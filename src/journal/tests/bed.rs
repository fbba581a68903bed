//! What the tests stand on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::journal::checkpoint::{Checkpoint, Content};
use crate::journal::record::{self, Salt};
use crate::journal::segment::{Header, PAGE, Segment};
use crate::journal::storage::memory::Memory;
use crate::journal::storage::{Storage, write_all_at};
use crate::journal::{AppendError, Config, Item, Journal, Lsn, Opened, Positions, frame, open};
use crate::metrics::{Labels, Metrics};

/// Every wait for a condition ends by then, in failure.
const DEADLINE: Duration = Duration::from_secs(5);

pub(super) const SEGMENT: u64 = 128 * 1024;

/// What the path of the first segment's file holds: it was opened when it was the first spare.
pub(super) const FIRST_SEGMENT: &str = "spare-00000000000000000001";

/// A journal's folder in memory, and small limits.
pub(super) struct Bed {
    pub(super) memory: Memory,
    pub(super) config: Config,
    pub(super) metrics: Metrics,
}

impl Bed {
    pub(super) fn new() -> Self {
        Self::on(Memory::new())
    }

    pub(super) fn on(memory: Memory) -> Self {
        Self { memory, config: small("/journal"), metrics: metrics() }
    }

    pub(super) fn open(&self) -> Opened {
        self.try_open().expect("must open")
    }

    /// Opens it and appends one record, so that the first segment is in use.
    pub(super) fn open_used(&self) -> Journal {
        let journal = self.open().journal;
        assert_eq!(append(&journal, &[b"first".to_vec()]), [Ok(Lsn::FIRST)]);
        journal
    }

    pub(super) fn try_open(&self) -> Result<Opened, crate::journal::Error> {
        open(self.config.clone(), Arc::new(self.memory.clone()), self.metrics.journal.clone(), clock())
    }

    /// What a start finds after this process was killed now.
    pub(super) fn killed(&self) -> Self {
        Self { memory: self.memory.fork(), config: self.config.clone(), metrics: metrics() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.config.dir.join(name)
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.memory.names(&self.config.dir)
    }

    /// Files in `set-aside/`.
    pub(super) fn set_aside(&self) -> Vec<String> {
        self.memory
            .list(&self.config.dir.join("set-aside"))
            .map(|entries| entries.into_iter().map(|entry| entry.name).collect())
            .unwrap_or_default()
    }

    pub(super) fn segment_path(&self, number: u64) -> PathBuf {
        Segment::path(&self.config.dir, number)
    }
}

pub(super) fn small(dir: impl Into<PathBuf>) -> Config {
    Config {
        dir: dir.into(),
        size_max: 8 * SEGMENT,
        segment_size: SEGMENT,
        free_space_min: 0,
        sync_interval_min: Duration::ZERO,
        room_retry_interval: Duration::from_millis(5),
        checkpoint_write_interval: Duration::from_millis(1),
        checkpoint_sync_interval: Duration::from_millis(5),
        ..Config::new(&config::Journal::default(), 48 * 1024)
    }
}

pub(super) fn metrics() -> Metrics {
    Metrics::new(&Labels::default()).expect("metrics")
}

pub(super) fn clock() -> Clock {
    Clock::manual(Timestamp::from_micros(1_670_574_414_123_000))
}

/// Runs on an event loop with one mailbox.
pub(super) fn with_appender<T>(journal: &Journal, act: impl AsyncFnOnce(crate::journal::Appender) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let (appender, driver) = journal.appender();
        let driving = tokio::spawn(driver.run());
        let done = act(appender).await;
        driving.abort();
        done
    })
}

/// Appends one after the other: a frame each.
pub(super) fn append(journal: &Journal, payloads: &[Vec<u8>]) -> Vec<Result<Lsn, AppendError>> {
    with_appender(journal, async |appender| {
        let mut answers = Vec::new();
        for payload in payloads {
            answers.push(appender.append(payload.clone()).await);
        }
        answers
    })
}

/// Records of that size that differ.
pub(super) fn payloads(count: usize, size: usize) -> Vec<Vec<u8>> {
    (0..count).map(|index| payload(index, size)).collect()
}

pub(super) fn payload(index: usize, size: usize) -> Vec<u8> {
    let mut bytes = format!("record {index} ").into_bytes();
    bytes.resize(size.max(bytes.len()), u8::try_from(index % 251).unwrap());
    bytes
}

pub(super) fn read_all(journal: &Journal, from: Lsn) -> Vec<Item> {
    let mut reader = journal.reader(from);
    let mut items = Vec::new();
    while let Some(item) = reader.next().expect("must read") {
        items.push(item);
    }
    assert_eq!(reader.position(), journal.durable_end());
    items
}

pub(super) fn record_at(lsn: u64, payload: &[u8]) -> Item {
    Item::Record { lsn: Lsn::new(lsn), record: payload.to_vec().into() }
}

pub(super) fn corrupt(from: u64, to: u64) -> Item {
    Item::Corrupt { from: Lsn::new(from), to: Lsn::new(to) }
}

/// Records from `first` on.
pub(super) fn records(first: u64, payloads: &[Vec<u8>]) -> Vec<Item> {
    (first..).zip(payloads).map(|(lsn, payload)| record_at(lsn, payload)).collect()
}

pub(super) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// A folder written by hand.
pub(super) struct Image {
    pub(super) journal: Uuid,
    pub(super) salt: Salt,
    pub(super) bytes: Vec<u8>,
    /// Where each frame begins, and behind the last, where it ends.
    pub(super) frames: Vec<usize>,
    pub(super) end: Lsn,
}

impl Image {
    /// A segment that begins with LSN `first`, on top of whatever `before` holds from an earlier use.
    pub(super) fn new(first: u64, number: u64, salt: u64, mut before: Vec<u8>) -> Self {
        let journal = Uuid::from_u128(77);
        let header = Header { journal, number, first: Lsn::new(first), salt: Salt(salt), created: clock().now() };
        before.resize(usize::try_from(SEGMENT).unwrap(), 0);
        before[..PAGE].copy_from_slice(&header.encode());
        Self { journal, salt: Salt(salt), bytes: before, frames: vec![PAGE], end: Lsn::new(first) }
    }

    pub(super) fn push(&mut self, payloads: &[Vec<u8>]) {
        let room = payloads.iter().map(|payload| record::size(payload.len())).sum();
        let mut builder = frame::Builder::new(self.salt, self.end, room);
        for payload in payloads {
            builder.push(payload);
        }
        let (header, bytes) = builder.finish();
        let at = *self.frames.last().unwrap();
        self.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
        self.frames.push(at + bytes.len());
        self.end = header.end();
    }

    /// A folder with this segment and a checkpoint.
    pub(super) fn folder(&self, durable_end: u64, positions: Positions) -> Bed {
        let bed = Bed::new();
        put(&bed.memory, &bed.config.dir, &[(1, &self.bytes)]);
        write_checkpoint(&bed, self.journal, durable_end, positions);
        bed
    }
}

/// Writes segment files by number.
pub(super) fn put(memory: &Memory, dir: &Path, segments: &[(u64, &Vec<u8>)]) {
    memory.create_dir(dir).unwrap();
    for (number, bytes) in segments {
        let file = memory.create(&Segment::path(dir, *number)).unwrap();
        write_all_at(file.as_ref(), bytes, 0).unwrap();
        file.sync_data().unwrap();
    }
}

pub(super) fn write_checkpoint(bed: &Bed, journal: Uuid, durable_end: u64, positions: Positions) {
    let storage: Arc<dyn Storage> = Arc::new(bed.memory.clone());
    let content = Content { journal, since: Lsn::FIRST, durable_end: Lsn::new(durable_end), clean_stop: false, positions };
    Checkpoint::create(&storage, &bed.config.dir, &content).unwrap();
}
