//! Whether the journal can be written to, and who is told when that changes.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::watch;

use super::error::Error;
use super::sync::lock;

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullReason {
    /// `journal.size_max` is reached.
    SizeMax,
    /// Less than `journal.free_space_min` would be left free.
    FreeSpaceMin,
    /// The file system or a quota has no room.
    NoSpace,
    /// The process or the machine has no file descriptor left.
    NoDescriptor,
}

impl fmt::Display for FullReason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::SizeMax => "journal.size_max is reached",
            Self::FreeSpaceMin => "less than journal.free_space_min would be left free",
            Self::NoSpace => "the file system or a quota has no room",
            Self::NoDescriptor => "no file descriptor is left",
        })
    }
}

/// Whether records can be made durable.
#[derive(Clone, Debug)]
pub enum State {
    /// They can.
    Open,
    /// There is no room; it goes on by itself when there is.
    Full(FullReason),
    /// A write or a sync has failed: nothing becomes durable any more.
    Failed(Arc<Error>),
    /// The journal is closed.
    Closed,
}

/// What is called when something has changed.
pub(super) type Watcher = Arc<dyn Fn() + Send + Sync>;

/// The state, and who wants to know of it.
pub(super) struct Status {
    state: Mutex<State>,
    failed: watch::Sender<Option<Arc<Error>>>,
    watchers: RwLock<Vec<Watcher>>,
}

impl Status {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State::Open), failed: watch::Sender::new(None), watchers: RwLock::new(Vec::new()) }
    }

    pub(super) fn state(&self) -> State {
        lock(&self.state).clone()
    }

    /// The failure that poisoned the journal.
    pub(super) fn failure(&self) -> Option<Arc<Error>> {
        match &*lock(&self.state) {
            State::Failed(error) => Some(Arc::clone(error)),
            State::Open | State::Full(_) | State::Closed => None,
        }
    }

    pub(super) fn failures(&self) -> watch::Receiver<Option<Arc<Error>>> {
        self.failed.subscribe()
    }

    /// From one state to another; `false` where it is in a third. Reasons are not compared.
    pub(super) fn change(&self, from: &State, to: State) -> bool {
        let mut state = lock(&self.state);
        let matches = std::mem::discriminant(&*state) == std::mem::discriminant(from);
        if matches {
            *state = to;
        }
        matches
    }

    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        if !matches!(*state, State::Failed(_)) {
            *state = State::Closed;
        }
    }

    pub(super) fn watch(&self, watcher: Watcher) {
        self.watchers.write().unwrap_or_else(PoisonError::into_inner).push(watcher);
    }

    pub(super) fn notify(&self) {
        for watcher in self.watchers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            watcher();
        }
    }

    /// The first failure, once. `None` where there was one before.
    pub(super) fn fail(&self, error: Error) -> Option<Arc<Error>> {
        let error = Arc::new(error);
        let mut state = lock(&self.state);
        if matches!(*state, State::Failed(_)) {
            return None;
        }
        *state = State::Failed(Arc::clone(&error));
        Some(error)
    }

    /// Tells those who wait for a failure.
    pub(super) fn tell_failure(&self, error: Arc<Error>) {
        self.failed.send_replace(Some(error));
        self.notify();
    }
}
