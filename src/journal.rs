//! The journal: where a record becomes durable before anybody is told that it was received.
//!
//! It knows nothing of callbacks: a record is bytes.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::thread;

use uuid::Uuid;

use crate::clock::Clock;
use crate::metrics;

mod checkpoint;
mod config;
mod error;
mod frame;
mod keeper;
mod lsn;
mod number;
mod queue;
mod reader;
mod record;
mod recovery;
mod segment;
mod set_aside;
mod shared;
pub mod storage;
mod survey;
mod sync;
mod tail;
mod walk;
mod writer;

pub use checkpoint::Positions;
pub use config::Config;
pub use error::{Class, Error};
pub use lsn::Lsn;
pub use queue::{AppendError, Appender, LaneDriver};
pub use reader::{Item, Reader};
pub use recovery::{RecoveryReport, Start, TornTail};
pub use shared::{FullReason, State};

use keeper::Keeper;
use recovery::Recovered;
use shared::{FilesInner, Mark, Shared, Stop};
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
    let Recovered { lock, checkpoint, content, segments, spares, set_aside_bytes, next_segment, next_spare, end_offset, writable, report } =
        recovery::recover(&config, &storage, &metrics)?;
    let last = segments.back().cloned();
    let mark = Mark { end: content.durable_end, segment: last.as_ref().map_or(0, |segment| segment.header.number), offset: end_offset };
    let files = FilesInner::new(segments, spares, set_aside_bytes);
    let shared = Arc::new(Shared::new(config, storage, metrics, clock, content.journal, files, mark));
    let mut keeper = Keeper::new(Arc::clone(&shared), checkpoint, content.since, content.positions.clone(), next_spare);
    let active = last.filter(|_| writable).map(|segment| Active { segment, offset: end_offset });
    if active.is_none() {
        keeper.prepare_first()?;
    }
    let writer = Writer::new(Arc::clone(&shared), active, next_segment);
    let owner = Owner { shared, threads: Mutex::new(Threads::default()), _lock: lock };
    {
        let mut threads = sync::lock(&owner.threads);
        threads.writer = Some(spawn("journal-writer", move || writer.run())?);
        threads.keeper = Some(spawn("journal-keeper", move || keeper.run())?);
    }
    Ok(Opened { journal: Journal { owner: Arc::new(owner) }, positions: content.positions, report })
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
    pub fn lane(&self) -> (Appender, LaneDriver) {
        queue::lane(&self.owner.shared.queue)
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
