//! Whether requests are accepted, for the handlers of all event loops and for the loops themselves: how far the end of the ingress has come, and what
//! the operator wants meanwhile.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::watch;
use tokio::time::Instant;

/// What becomes of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// They are accepted.
    Serving,
    /// They are accepted, and each answer says `Connection: close`.
    LameDuck,
    /// New ones are refused, and each answer says `Connection: close`.
    Refusing,
    /// As before, and connections are closed when their request in hand is answered.
    Stopping,
}

/// What the operator wants to become of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// They are accepted.
    Open,
    /// They are accepted, and their senders are sent elsewhere: each answer says `Connection: close`.
    LameDuck,
    /// New ones are refused with 503, and their senders sent elsewhere.
    Shut,
}

/// The stage: that of a stop, which only goes forward, or that of the operator, whichever is further.
#[derive(Debug)]
pub(super) struct Lifecycle {
    /// Read with every answer, so not behind the lock of the channel.
    stop: AtomicU8,
    intake: AtomicU8,
    /// By when a stop has to be over.
    deadline: watch::Sender<Option<Instant>>,
}

const LAME_DUCK: u8 = 1;
const REFUSING: u8 = 2;
const STOPPING: u8 = 3;

impl Lifecycle {
    pub(super) fn new() -> Self {
        Self { stop: AtomicU8::new(0), intake: AtomicU8::new(0), deadline: watch::Sender::new(None) }
    }

    pub(super) fn stage(&self) -> Stage {
        match self.stop.load(Ordering::Acquire).max(self.intake.load(Ordering::Acquire)) {
            STOPPING.. => Stage::Stopping,
            REFUSING => Stage::Refusing,
            LAME_DUCK => Stage::LameDuck,
            0 => Stage::Serving,
        }
    }

    /// What the operator wants, until something else is wanted.
    pub(super) fn set_intake(&self, intake: Intake) {
        let stage = match intake {
            Intake::Open => 0,
            Intake::LameDuck => LAME_DUCK,
            Intake::Shut => REFUSING,
        };
        self.intake.store(stage, Ordering::Release);
    }

    pub(super) fn lame_duck(&self) {
        self.stop.fetch_max(LAME_DUCK, Ordering::AcqRel);
    }

    /// Begins to stop; a second call can only bring the deadline forward.
    pub(super) fn stop(&self, deadline: Instant) {
        self.stop.fetch_max(STOPPING, Ordering::AcqRel);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_s_wish_can_be_taken_back_and_a_stop_cannot() {
        let lifecycle = Lifecycle::new();
        for (intake, stage) in [(Intake::LameDuck, Stage::LameDuck), (Intake::Shut, Stage::Refusing), (Intake::Open, Stage::Serving)] {
            lifecycle.set_intake(intake);
            assert_eq!(lifecycle.stage(), stage);
        }
        lifecycle.set_intake(Intake::Shut);
        lifecycle.lame_duck();
        assert_eq!(lifecycle.stage(), Stage::Refusing, "the lame duck of a stop does not let in again");
        lifecycle.set_intake(Intake::Open);
        assert_eq!(lifecycle.stage(), Stage::LameDuck);
        lifecycle.stop(Instant::now());
        lifecycle.set_intake(Intake::Open);
        assert_eq!(lifecycle.stage(), Stage::Stopping);
    }
}
