//! How far the end of the ingress has come, for the handlers of all event loops and for the loops themselves.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::watch;
use tokio::time::Instant;

/// What becomes of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// They are accepted.
    Serving,
    /// They are accepted, and each answer says `Connection: close`.
    LameDuck,
    /// New ones are refused, and connections are closed when their request in hand is answered.
    Stopping,
}

/// The stage, which only goes forward.
#[derive(Debug)]
pub(super) struct Lifecycle {
    /// Read with every answer, so not behind the lock of the channel.
    stage: AtomicU8,
    /// By when a stop has to be over.
    deadline: watch::Sender<Option<Instant>>,
}

const LAME_DUCK: u8 = 1;
const STOPPING: u8 = 2;

impl Lifecycle {
    pub(super) fn new() -> Self {
        Self { stage: AtomicU8::new(0), deadline: watch::Sender::new(None) }
    }

    pub(super) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            STOPPING.. => Stage::Stopping,
            LAME_DUCK => Stage::LameDuck,
            0 => Stage::Serving,
        }
    }

    pub(super) fn lame_duck(&self) {
        self.stage.fetch_max(LAME_DUCK, Ordering::AcqRel);
    }

    /// Begins to stop; a second call can only bring the deadline forward.
    pub(super) fn stop(&self, deadline: Instant) {
        self.stage.fetch_max(STOPPING, Ordering::AcqRel);
        self.deadline.send_if_modified(|kept| {
            let sooner = kept.is_none_or(|kept| deadline < kept);
            if sooner {
                *kept = Some(deadline);
            }
            sooner
        });
    }

    /// Where the deadline of a stop is seen, once there is one.
    pub(super) fn deadline(&self) -> watch::Receiver<Option<Instant>> {
        self.deadline.subscribe()
    }
}
