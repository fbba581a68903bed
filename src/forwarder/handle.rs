//! The forwarder from outside: how it is started, what it can be asked for, and what it tells while it runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

use tokio::sync::oneshot;

use crate::journal::Lsn;
use crate::kafka::ParkCause;

use super::{Error, Forwarder, Parts};

/// What a running forwarder is asked for and tells. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    order: AtomicU8,
    drained: AtomicBool,
    /// All below it is completed.
    completed_end: AtomicU64,
    parked: Mutex<BTreeMap<String, ParkCause>>,
}

/// What the forwarder is to do; only ever raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    Forward,
    /// End once the journal is empty, or nothing moves.
    Drain,
    /// Hand over nothing more; wait for outstanding reports as long as they come.
    Finish,
    /// End now.
    Abandon,
}

impl Order {
    const fn code(self) -> u8 {
        match self {
            Self::Forward => 0,
            Self::Drain => 1,
            Self::Finish => 2,
            Self::Abandon => 3,
        }
    }
}

impl Handle {
    /// Goes on until the journal is empty or 5 s bring no delivery, then ends.
    pub fn drain(&self) {
        self.order(Order::Drain);
    }

    /// Hands over nothing more, waits for the outstanding delivery reports as long as they come, then ends.
    pub fn finish(&self) {
        self.order(Order::Finish);
    }

    /// Ends now; what is outstanding is published again by the next start.
    pub fn abandon(&self) {
        self.order(Order::Abandon);
    }

    /// The topics that are parked, and why.
    #[must_use]
    pub fn parked(&self) -> BTreeMap<String, ParkCause> {
        self.shared.parked().clone()
    }

    /// An LSN below which every record is completed. It moves whenever the forwarder finds nothing left to do.
    #[must_use]
    pub fn completed_end(&self) -> Lsn {
        Lsn::new(self.shared.completed_end.load(Ordering::Acquire))
    }

    /// Whether a drain has found the journal empty.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.shared.drained.load(Ordering::Acquire)
    }

    fn order(&self, order: Order) {
        self.shared.order.fetch_max(order.code(), Ordering::AcqRel);
        self.thread.unpark();
    }
}

impl Shared {
    /// A drain has found the journal empty.
    pub(super) fn set_drained(&self) {
        self.drained.store(true, Ordering::Release);
    }

    /// Everything below is completed.
    pub(super) fn set_completed_end(&self, end: Lsn) {
        self.completed_end.store(end.get(), Ordering::Release);
    }

    pub(super) fn set_parked(&self, topic: &str, cause: ParkCause) {
        self.parked().insert(topic.to_owned(), cause);
    }

    pub(super) fn clear_parked(&self, topic: &str) {
        self.parked().remove(topic);
    }

    fn parked(&self) -> MutexGuard<'_, BTreeMap<String, ParkCause>> {
        // No step under this lock can leave it half done.
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn order(&self) -> Order {
        let code = self.order.load(Ordering::Acquire);
        [Order::Forward, Order::Drain, Order::Finish].into_iter().find(|order| order.code() == code).unwrap_or(Order::Abandon)
    }
}

/// A forwarder on a thread of its own.
#[derive(Debug)]
pub struct Forwarding {
    handle: Handle,
    ended: Option<oneshot::Receiver<Result<(), Error>>>,
}

impl Forwarding {
    /// What it can be asked.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Resolves when its thread has ended; at once, and with nothing to say, where it has resolved before. Cancel safe.
    pub async fn ended(&mut self) -> Result<(), Error> {
        let Some(ended) = &mut self.ended else { return Ok(()) };
        let result = ended.await.unwrap_or(Err(Error::Ended));
        self.ended = None;
        result
    }
}

/// Starts the forwarder on a thread of its own.
///
/// # Errors
/// Where the system gives no thread.
pub fn start(parts: Parts) -> std::io::Result<Forwarding> {
    let shared = Arc::new(Shared::default());
    let for_thread = Arc::clone(&shared);
    let (end, ended) = oneshot::channel();
    let thread = thread::Builder::new().name("forwarder".to_owned()).spawn(move || {
        let result = Forwarder::new(parts, for_thread).and_then(Forwarder::run);
        // Nobody waits for it where the process ends in haste.
        drop(end.send(result));
    })?;
    Ok(Forwarding { handle: Handle { shared, thread: thread.thread().clone() }, ended: Some(ended) })
}
