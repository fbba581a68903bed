//! What wakes the keeper.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

use super::checkpoint::Positions;
use super::sync::{lock, wait, wait_timeout};

/// How the keeper is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// With a last checkpoint that says so.
    Clean,
    /// As it is.
    Abrupt,
}

/// What wakes the keeper.
#[derive(Debug, Default)]
pub(super) struct Bell {
    inner: Mutex<Inbox>,
    rung: Condvar,
    /// Something that the checkpoint should hold has changed since it was written. Set by every batch, so the keeper is woken only when it was not set.
    advanced: AtomicBool,
}

#[derive(Debug, Default)]
struct Inbox {
    rang: bool,
    positions: Option<Positions>,
    stop: Option<Stop>,
}

impl Bell {
    /// Wakes the keeper.
    pub(super) fn ring(&self) {
        lock(&self.inner).rang = true;
        self.rung.notify_one();
    }

    /// The checkpoint should be written when its time has come.
    pub(super) fn advance(&self) {
        if !self.advanced.swap(true, Ordering::AcqRel) {
            self.ring();
        }
    }

    pub(super) fn set_positions(&self, positions: Positions) {
        lock(&self.inner).positions = Some(positions);
        self.advance();
    }

    pub(super) fn stop(&self, how: Stop) {
        lock(&self.inner).stop = Some(how);
        self.ring();
    }

    /// Whether the checkpoint should be written.
    pub(super) fn has_advanced(&self) -> bool {
        self.advanced.load(Ordering::Acquire)
    }

    /// Before the checkpoint is written: what comes later asks for another one.
    pub(super) fn take_positions(&self) -> Option<Positions> {
        self.advanced.store(false, Ordering::Release);
        lock(&self.inner).positions.take()
    }

    /// Waits until the bell rings, or until that moment.
    pub(super) fn wait(&self, until: Option<Instant>) -> Option<Stop> {
        let mut inner = lock(&self.inner);
        while !inner.rang && inner.stop.is_none() {
            inner = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => wait(&self.rung, inner),
                Some(left) if left.is_zero() => break,
                Some(left) => wait_timeout(&self.rung, inner, left),
            };
        }
        inner.rang = false;
        inner.stop
    }
}
