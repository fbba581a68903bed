//! The journal: where a record becomes durable before anybody is told that it was received.
//!
//! It knows nothing of callbacks: a record is bytes. `docs/journal-format.md` has every byte of what is on disk; this page says why it is
//! so.
//!
//! # On disk
//!
//! A folder that one process holds by a lock:
//!
//! | name | what |
//! |---|---|
//! | `lock` | `flock`ed as long as the journal is open |
//! | `checkpoint` | two slots: identity, durable end, clean-stop flag, [`Positions`] |
//! | `<20 digits>.segment` | segments by number; the highest is written to |
//! | `spare-<20 digits>` | files of a segment's length, every block of them written and synced |
//! | `spare-<20 digits>.preparing`, `checkpoint.new` | unfinished, removed at start |
//! | `set-aside/` | corrupt pieces |
//!
//! A segment is a header page and then frames, one after the other; a frame is a batch of records that one `pwrite` and one `fdatasync`
//! make durable. The blocks of a segment are written before its use, because a sync that has no metadata to commit takes half the time, and
//! because lack of room then shows while a spare is prepared, never while a record waits for its answer.
//!
//! # Invariants
//!
//! 1. An append is answered with its LSN only after the sync of its frame has returned. Readers see only what is synced.
//! 2. At most one frame is in the making, and it is the last: the next is written when this one is synced. So only the last frame can be
//!    torn.
//! 3. LSNs are contiguous over frames and segments, and rise over changes of identity too; none is used twice under one identity.
//! 4. Every check in a segment holds its salt, a random number of this use of the file. So no frame of an earlier use passes for one of
//!    this, and nobody who sends a body can make one up. The salt is shown nowhere.
//! 5. The name of a segment is durable before its first frame is written, its header before its name, and the name of a recycled file
//!    before anything is written to it.
//! 6. Of the checkpoint, the slot that was synced last is not written to until the other one is synced.
//! 7. A segment is freed only after a checkpoint was synced whose positions lie behind it. The last segment is never freed. A published segment that is
//!    kept for a while (`retention`) is freed early where room is needed, so that it never keeps a record out.
//! 8. A failed write or sync ends everything: nothing is retried, nobody is answered with success, the process has to end. (After a failed
//!    `fsync` Linux marks the pages clean; the next one succeeds, and the data are gone.) Only lack of room, or of a file descriptor, while a
//!    spare, a set-aside file or the first checkpoint is made, a segment freed or an unfinished file removed, is no failure.
//!
//! Deliberately absent: an index (a reader walks its segment from the start, hopping over frames), compression (a sync costs more than the
//! bytes), `mmap` (its errors are signals), and any retry.
//!
//! # What recovery decides
//!
//! It reads the headers of all segments and walks the frames of the last one; older frames are checked when they are read.
//!
//! * *The end of the log* is where no valid frame header and no whole record with this salt stand up to the end of the segment. The walk
//!   looks at every aligned offset, so damage does not hide what stands behind it.
//! * *A torn tail*: damage within the last frame or behind it, at or above the checkpoint's durable end. Its records were answered to
//!   nobody, but they were received whole, and Chat does not send them again: the longest whole prefix is kept, the frame's header is
//!   written anew for it, the rest is cut.
//! * *Corruption* is any other damage: below the durable end even at the tail, or with a valid frame header behind it. The piece is copied
//!   to `set-aside/`, what is intact before and behind it is read, and readers yield [`Item::Corrupt`] for what is lost. A segment that
//!   holds corruption is not written to again.
//! * What is accepted is written once more, the rest is zeroed unless the stop was clean, and both are synced, before anything is read or
//!   appended: after a crash or a failed sync the page cache may hold what the disk does not. The folder is synced too, as a name may stand
//!   only in memory.
//! * *Records that the checkpoint knows and the log does not have*, its durable end or a position beyond the log's end: the log has lost
//!   its end, and perhaps records that the checkpoint had not heard of. The next LSN is the highest of all that are known; the identity is
//!   a new one from there, so that the unknown ones are not used again; readers yield the gap as corrupt. The same where both headers of
//!   the newest segment are bad, and where a torn frame that is cut whole was all that stood behind damage: without it, that damage looks
//!   like the end.
//! * *No good slot*: reading begins at the oldest segment, and everything in the log may be published again.
//! * *An error of the disk*, such as `EIO` for one sector, is no corruption: what stands there is not known, and may be read another time. The
//!   start fails with it, as every later one does until the sector can be read; `docs/journal-format.md` says how to go on without it.
//! * A format version that is not known, or a segment that cannot belong to this journal: an error, before anything is changed.
//!
//! # What cannot be told apart
//!
//! * Corruption of the last frame, if it was synced and the checkpoint does not say so yet (at most a second, or about a second's worth of
//!   records, before a crash), looks like a torn tail: its records behind the first bad one are cut although they were answered.
//! * A record of a torn frame that is whole is kept: it is published although its sender was never answered.
//! * A whole folder put back to an older state, checkpoint included, is a good journal: its LSNs are used again under the same identity.
//! * Where the checkpoint is lost and the log has lost its end as well, nothing says so.
//! * A disk that says it has synced what it has not.
//!
//! # Threads
//!
//! The *writer* takes what waits, writes, syncs, answers; it waits on condition variables alone. The *keeper* writes the checkpoint, frees
//! segments and prepares spares. Event loops talk to the writer through a mailbox each, which is woken once a batch.
//!
//! Writer and keeper work in steps that wait for nothing but the disk; the threads are loops that take a step and wait for the next. So a
//! simulation can take the steps in any order, in one thread.
//!
//! # Proof
//!
//! `journal/tests/crash.rs` runs all this on a simulated disk, in schedules that seeds decide, and crashes it before each operation that changes the disk, at least
//! 200,000 times in every run of the tests: what was not synced is old, new or a mix by sectors of 512 bytes, and garbage where nothing was ever synced; names
//! that were not synced are there or not. Processes are killed, too, with the page cache left behind; operations fail, syncs among them, after which reads
//! see what the disk does not have; room and file descriptors run out; writes are short. After each start the invariants are checked from outside.
//! What the model takes for granted: a sector is written whole or not at all, a synced one stays as it is, and a rename is one change. Bad
//! sectors and flipped bits are the matter of `journal/tests/recovering.rs`.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use uuid::Uuid;

use crate::clock::Clock;
use crate::metrics;

mod appender;
mod bell;
mod checkpoint;
mod config;
mod error;
mod frame;
pub mod inspect;
mod keeper;
mod lsn;
mod number;
mod queue;
mod reader;
mod record;
mod recovery;
mod report;
mod retention;
mod segment;
mod set_aside;
mod shared;
mod slot;
mod status;
pub mod storage;
mod survey;
mod sync;
mod tail;
mod walk;
mod writer;

pub use appender::{Appender, MailboxDriver};
pub use checkpoint::Positions;
pub use config::Config;
pub use error::{Class, Error};
pub use lsn::Lsn;
pub use reader::{Item, Reader};
pub use report::{RecoveryReport, Start, TornTail};
pub use slot::AppendError;
pub use status::{FullReason, State};

use bell::Stop;
use keeper::Keeper;
use recovery::Recovered;
use shared::{FilesInner, Mark, Shared};
use storage::{Lock, Storage};
use writer::{Active, Writer};

#[cfg(test)]
mod tests;

/// An open journal, and what opening it found.
#[derive(Debug)]
pub struct Opened {
    /// The handle.
    pub journal: Journal,
    /// How far the streams were.
    pub positions: Positions,
    /// What the operator should be told.
    pub report: RecoveryReport,
}

/// Opens the folder, recovers what is there, and starts the journal's two threads. Blocks; where nothing can be written to yet, until a first segment is
/// prepared. Where there is no room for one, the journal opens in [`State::Full`].
pub fn open(config: Config, storage: Arc<dyn Storage>, metrics: metrics::Journal, clock: Clock) -> Result<Opened, Error> {
    config.check()?;
    let Parts { shared, writer, keeper, lock, positions, report } = assemble(config, storage, metrics, clock)?;
    let owner = Owner { shared, threads: Mutex::new(Threads::default()), _lock: lock };
    {
        let mut threads = sync::lock(&owner.threads);
        threads.writer = Some(spawn("journal-writer", move || writer.run())?);
        threads.keeper = Some(spawn("journal-keeper", move || keeper.run())?);
    }
    Ok(Opened { journal: Journal { owner: Arc::new(owner) }, positions, report })
}

/// A recovered journal, before its threads run.
struct Parts {
    shared: Arc<Shared>,
    writer: Writer,
    keeper: Keeper,
    lock: Box<dyn Lock>,
    positions: Positions,
    report: RecoveryReport,
}

/// Recovers the folder and puts the parts together. Each works in steps that wait for nothing but the disk; the threads are loops around them.
fn assemble(config: Config, storage: Arc<dyn Storage>, metrics: metrics::Journal, clock: Clock) -> Result<Parts, Error> {
    let Recovered {
        lock,
        checkpoint,
        content,
        segments,
        spares,
        set_aside_bytes,
        without_room,
        next_segment,
        next_spare,
        end_offset,
        writable,
        report,
    } = recovery::recover(&config, &storage, &metrics)?;
    let last = segments.back().cloned();
    let mark = Mark { end: content.durable_end, segment: last.as_ref().map_or(0, |segment| segment.header.number), offset: end_offset };
    let files = FilesInner::new(segments, spares, set_aside_bytes, without_room);
    let shared = Arc::new(Shared::new(config, storage, metrics, clock, content.journal, files, mark));
    let mut keeper = Keeper::new(Arc::clone(&shared), checkpoint, content.since, content.positions.clone(), next_spare);
    let active = last.filter(|_| writable).map(|segment| Active { segment, offset: end_offset });
    if active.is_none() {
        keeper.prepare_first(Instant::now())?;
    }
    let writer = Writer::new(Arc::clone(&shared), active, next_segment);
    Ok(Parts { shared, writer, keeper, lock, positions: content.positions, report })
}

fn spawn(name: &'static str, run: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>, Error> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map_err(|source| Error::Io {
        operation: "start the thread",
        path: name.into(),
        source,
    })
}

/// The handle. Cheap to clone. When the last one is dropped without [`Journal::close`], the threads end as they would in a crash: nothing is lost, and
/// the next start recovers.
#[derive(Clone)]
pub struct Journal {
    owner: Arc<Owner>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Journal").field("identity", &self.identity()).field("durable_end", &self.durable_end()).finish_non_exhaustive()
    }
}

impl Journal {
    /// The two halves of one event loop's access. Call it once for each event loop, and have the driver run there.
    #[must_use]
    pub fn appender(&self) -> (Appender, MailboxDriver) {
        appender::appender(&self.owner.shared.queue)
    }

    /// A reader whose first item is at `from`.
    #[must_use]
    pub fn reader(&self, from: Lsn) -> Reader {
        Reader::new(Arc::clone(&self.owner.shared), from)
    }

    /// Hands over how far the streams are. Cheap: the checkpoint is written at most every 100 ms, and synced at most every second and before a segment is
    /// freed.
    pub fn set_positions(&self, positions: Positions) {
        self.owner.shared.bell.set_positions(positions);
    }

    /// Whether records can be made durable.
    #[must_use]
    pub fn state(&self) -> State {
        self.owner.shared.status.state()
    }

    /// The first LSN that is not durable yet.
    #[must_use]
    pub fn durable_end(&self) -> Lsn {
        self.owner.shared.durable.end()
    }

    /// The journal's identity. No LSN is used twice under one identity.
    #[must_use]
    pub fn identity(&self) -> Uuid {
        self.owner.shared.identity
    }

    /// Has `waker` called after each batch that became durable and after each change of state, from the journal's threads. It must be cheap, and not call
    /// the journal.
    pub fn watch(&self, waker: Arc<dyn Fn() + Send + Sync>) {
        self.owner.shared.status.watch(waker);
    }

    /// Resolves when a write or a sync has failed, with the error; the process should end then. Cancel safe.
    pub async fn failed(&self) -> Arc<Error> {
        let mut failures = self.owner.shared.status.failures();
        loop {
            if let Some(error) = failures.borrow_and_update().clone() {
                return error;
            }
            if failures.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Lets nothing in until [`Journal::unseal`]; what waits still becomes durable. For all clones.
    pub fn seal(&self) {
        self.owner.shared.queue.seal();
    }

    /// Lets records in again.
    pub fn unseal(&self) {
        self.owner.shared.queue.unseal();
    }

    /// Whether nothing waits or is on its way to the disk. While the journal is sealed it stays so, and [`Journal::durable_end`] stays where it is.
    #[must_use]
    pub fn is_still(&self) -> bool {
        self.owner.shared.queue.is_still()
    }

    /// Makes durable what waits, lets nothing more in, ends the threads, and syncs the last checkpoint with the clean-stop flag. Blocks. For all clones:
    /// they are closed, too.
    pub fn close(self) -> Result<(), Error> {
        self.owner.close()
    }
}

/// What ends when the last handle goes.
struct Owner {
    shared: Arc<Shared>,
    threads: Mutex<Threads>,
    /// Dropped last: nobody else may use the folder while a thread does.
    _lock: Box<dyn Lock>,
}

#[derive(Default)]
struct Threads {
    writer: Option<thread::JoinHandle<()>>,
    keeper: Option<thread::JoinHandle<()>>,
}

impl Owner {
    fn close(&self) -> Result<(), Error> {
        let mut threads = sync::lock(&self.threads);
        self.shared.queue.close();
        join(threads.writer.take());
        self.shared.bell.stop(Stop::Clean);
        join(threads.keeper.take());
        self.shared.status.close();
        self.shared.status.notify();
        self.shared.status.failure().map_or(Ok(()), |failure| Err(Error::Poisoned(failure)))
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let mut threads = sync::lock(&self.threads);
        self.shared.queue.refuse_all(AppendError::Closed);
        self.shared.stop_waiting_for_room();
        self.shared.bell.stop(Stop::Abrupt);
        join(threads.writer.take());
        join(threads.keeper.take());
        self.shared.status.close();
    }
}

/// A thread that panicked has poisoned the journal on its way out, so that its end is known.
fn join(thread: Option<thread::JoinHandle<()>>) {
    if let Some(thread) = thread {
        drop(thread.join());
    }
}
