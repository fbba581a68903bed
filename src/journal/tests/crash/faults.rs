//! Which operations fail, and how.

use std::io;
use std::ops::Range;

use fastrand::Rng;
use rustix::io::Errno;

use super::disk::Operation;

/// Bytes of a small file system: from one with room for a segment or two to one with room for all that a journal of the model may have.
const CAPACITY: Range<usize> = 16 * 1024..128 * 1024;

const UNLIMITED: usize = usize::MAX / 2;

/// What becomes of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Fails(io::ErrorKind),
    /// No descriptor is left.
    NoDescriptor,
}

impl Outcome {
    pub(super) fn is_failure(self) -> bool {
        self != Self::Done
    }

    pub(super) fn or_fail(self) -> io::Result<()> {
        match self {
            Self::Done => Ok(()),
            Self::Fails(kind) => Err(kind.into()),
            Self::NoDescriptor => Err(Errno::MFILE.into()),
        }
    }
}

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// No file can be opened anew.
    Descriptors,
    /// Nothing can be made, and no file grows.
    Space,
    /// Changes of names fail now and then, too, as they do where a file system copies before it changes.
    Names,
}

/// The faults of one life of the journal, counted by its operations.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    rng: Rng,
    operations: u64,
    reads: u64,
    /// Reads and writes are short or interrupted now and then.
    choppy: bool,
    /// This operation fails with an error of the disk.
    broken: Option<u64>,
    broken_read: Option<u64>,
    /// There is no room during these operations.
    full: Option<(Range<u64>, Lack)>,
    /// Bytes that all files together may have.
    capacity: usize,
    failed: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Self::none()
    }
}

impl Faults {
    pub(super) fn none() -> Self {
        Self {
            rng: Rng::with_seed(0),
            operations: 0,
            reads: 0,
            choppy: false,
            broken: None,
            broken_read: None,
            full: None,
            capacity: UNLIMITED,
            failed: false,
        }
    }

    /// Some faults within about so many operations, or none.
    pub(super) fn some(rng: &mut Rng, within: u64) -> Self {
        let mut faults = Self { rng: rng.fork(), choppy: rng.u8(0..3) == 0, ..Self::none() };
        match rng.u8(0..8) {
            0..=2 => faults.broken = Some(rng.u64(0..within)),
            3 => faults.broken_read = Some(rng.u64(0..within / 2)),
            4 | 5 => {
                let from = rng.u64(0..within);
                let lack = [Lack::Descriptors, Lack::Space, Lack::Names][rng.usize(0..3)];
                faults.full = Some((from..from + rng.u64(1..within), lack));
            }
            6 => faults.capacity = rng.usize(CAPACITY),
            _ => {}
        }
        faults
    }

    /// From here on nothing fails.
    pub(super) fn end(&mut self) {
        (self.choppy, self.broken, self.broken_read, self.full, self.capacity) = (false, None, None, None, UNLIMITED);
    }

    pub(super) fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// Whether an operation has failed so that a journal may say that it has.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    fn lack(&self) -> Option<Lack> {
        self.full.as_ref().filter(|(when, _)| when.contains(&self.operations)).map(|(_, lack)| *lack)
    }

    fn is_full(&self) -> bool {
        self.lack().is_some_and(|lack| lack != Lack::Descriptors)
    }

    /// What becomes of an operation that is not refused for its size.
    pub(super) fn decide(&mut self, operation: Operation) -> Outcome {
        let (number, lack, full) = (self.operations, self.lack(), self.is_full());
        self.operations += 1;
        if self.broken == Some(number) {
            self.failed = true;
            return Outcome::Fails(io::ErrorKind::Other);
        }
        match operation {
            Operation::Create if lack == Some(Lack::Descriptors) => Outcome::NoDescriptor,
            Operation::Create | Operation::CreateDir if full => {
                // Without its folder, a journal cannot be opened.
                self.failed |= operation == Operation::CreateDir;
                Outcome::Fails(io::ErrorKind::StorageFull)
            }
            Operation::Rename | Operation::Remove | Operation::SyncDir if lack == Some(Lack::Names) && self.rng.bool() => {
                // A segment that cannot get its name, or whose name cannot be made durable, ends the journal. A file that cannot go does not.
                self.failed |= operation != Operation::Remove;
                Outcome::Fails(io::ErrorKind::StorageFull)
            }
            Operation::Write(..) if self.choppy && self.rng.u8(0..8) == 0 => Outcome::Fails(io::ErrorKind::Interrupted),
            Operation::Create
            | Operation::CreateDir
            | Operation::Rename
            | Operation::Remove
            | Operation::SyncDir
            | Operation::Sync
            | Operation::Write(..) => Outcome::Done,
        }
    }

    /// How many bytes of a write are taken, and what is said of it.
    pub(super) fn write(&mut self, outcome: Outcome, length: usize, growth: usize, used: usize) -> (usize, Outcome) {
        match outcome {
            Outcome::Fails(io::ErrorKind::Interrupted) => return (0, outcome),
            // Some of it may have been taken.
            Outcome::Fails(_) | Outcome::NoDescriptor => return (self.rng.usize(0..=length), outcome),
            Outcome::Done => {}
        }
        let room = if self.is_full() { 0 } else { self.capacity.saturating_sub(used) };
        let fits = length - growth.saturating_sub(room).min(length);
        if fits == 0 && length > 0 {
            return (0, Outcome::Fails(io::ErrorKind::StorageFull));
        }
        let count = if self.choppy && fits > 1 && self.rng.u8(0..4) == 0 { self.rng.usize(1..fits) } else { fits };
        (count, Outcome::Done)
    }

    /// How many bytes a read may yield.
    pub(super) fn read(&mut self, length: usize) -> io::Result<usize> {
        let number = self.reads;
        self.reads += 1;
        if self.broken_read == Some(number) {
            self.failed = true;
            return Err(io::ErrorKind::Other.into());
        }
        if self.choppy && length > 1 {
            match self.rng.u8(0..16) {
                0 => return Err(io::ErrorKind::Interrupted.into()),
                1 => return Ok(self.rng.usize(1..length)),
                _ => {}
            }
        }
        Ok(length)
    }

    pub(super) fn free_space(&self, used: usize) -> u64 {
        let room = if self.is_full() { 0 } else { self.capacity.saturating_sub(used) };
        u64::try_from(room).unwrap()
    }
}
