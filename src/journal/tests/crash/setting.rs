//! What all simulations of one seed share.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::crew::Mistake;
use crate::journal::shared::Shared;
use crate::journal::{Config, RecoveryReport, Start};
use crate::metrics;

/// What all simulations of one seed share.
pub(super) struct Setting {
    pub(super) seed: u64,
    pub(super) config: Config,
    pub(super) metrics: metrics::Journal,
    pub(super) mistake: Mistake,
    /// Only the crash before this operation of the first simulation.
    pub(super) only: Option<u64>,
    /// Crashes so far.
    pub(super) crashes: AtomicU64,
    pub(super) tally: Arc<Tally>,
    /// Before which operation of the first simulation the crash was that broke a promise.
    pub(super) broken_by: Mutex<Option<u64>>,
    /// What was done, where somebody wants to know.
    pub(super) trace: Option<Mutex<Vec<String>>>,
}

/// What happens to a journal. A simulation in which one of these never does proves less than it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    CleanStart,
    UncleanStart,
    /// A start in a folder whose oldest segment has been freed.
    SegmentFreed,
    /// A start in a folder whose oldest segment is published and stays for a while.
    Retained,
    TornTail,
    /// Some records of a torn tail are kept.
    PrefixKept,
    /// A start ends with a fault of the disk.
    FailedStart,
    /// A fault of the disk ends the journal.
    FailedLife,
    /// There is no room for a while.
    Full,
}

impl Event {
    pub(super) const ALL: [Self; 9] = [
        Self::CleanStart,
        Self::UncleanStart,
        Self::SegmentFreed,
        Self::Retained,
        Self::TornTail,
        Self::PrefixKept,
        Self::FailedStart,
        Self::FailedLife,
        Self::Full,
    ];
}

/// How often each event was.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<BTreeMap<Event, u64>>);

impl Tally {
    pub(super) fn add(&self, event: Event) {
        *hold(&self.0).entry(event).or_default() += 1;
    }

    pub(super) fn of(&self, event: Event) -> u64 {
        hold(&self.0).get(&event).copied().unwrap_or_default()
    }
}

impl Setting {
    pub(super) fn count(&self, report: &RecoveryReport, shared: &Shared) {
        match report.start {
            Start::New => {}
            Start::Clean => self.tally.add(Event::CleanStart),
            Start::Unclean => self.tally.add(Event::UncleanStart),
        }
        if let Some(torn) = &report.torn_tail {
            self.tally.add(if torn.kept_records > 0 { Event::PrefixKept } else { Event::TornTail });
        }
        let files = hold(&shared.files.inner);
        if files.segments.front().is_some_and(|oldest| oldest.header.number > 1) {
            self.tally.add(Event::SegmentFreed);
        }
        if !self.config.retention.is_zero() && files.segments.get(1).is_some_and(|second| second.header.first <= report.lowest) {
            self.tally.add(Event::Retained);
        }
    }

    pub(super) fn note(&self, depth: usize, text: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            hold(trace).push(format!("{:indent$}{}", "", text(), indent = 4 * depth));
        }
    }
}

pub(super) fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
