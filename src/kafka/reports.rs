//! The queue of what a producer has to tell: delivery reports, the ends of orders to its transactions, its death.
//!
//! Written by the producer's threads, read by one thread in bulk; that is woken when there is something new in a queue that it had drained.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::transactions::Outcome;
use super::verdict::{ErrorCode, Verdict};

/// What became of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The number it was sent with.
    pub opaque: u64,
    /// What is to be done about its record.
    pub verdict: Verdict,
    /// librdkafka's or the broker's error; `None` where it was delivered.
    pub error: Option<ErrorCode>,
    /// The partition it went to; -1 where it got none.
    pub partition: i32,
    /// Its place in the partition; meaningless unless it was delivered.
    pub offset: i64,
}

/// The producer is of no more use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fatal {
    /// Why, without secrets.
    pub reason: String,
}

impl fmt::Display for Fatal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.reason)
    }
}

/// The queue of the delivery reports of one producer: written by its poll thread, read by one thread. Cheap to clone.
#[derive(Clone)]
pub struct Reports(Arc<Queue>);

struct Queue {
    waiting: Mutex<Waiting>,
    wake: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Waiting {
    reports: Vec<Report>,
    outcomes: VecDeque<Outcome>,
    doubtful: u64,
    fatal: Option<Fatal>,
}

impl Reports {
    /// An empty queue. `wake` is called from the poll thread when there is something new in a queue that had been drained; it must be cheap (an unpark).
    #[must_use]
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(Queue { waiting: Mutex::default(), wake: Box::new(wake) }))
    }

    /// Moves all reports to the end of `into`, oldest first. Waits for nothing.
    pub fn drain(&self, into: &mut Vec<Report>) {
        let mut waiting = self.lock();
        if into.is_empty() {
            // Both vectors keep their room, so a steady flow allocates nothing.
            std::mem::swap(&mut waiting.reports, into);
        } else {
            into.append(&mut waiting.reports);
        }
    }

    /// Whether the producer is dead, and why. It stays so.
    #[must_use]
    pub fn fatal(&self) -> Option<Fatal> {
        self.lock().fatal.clone()
    }

    /// What became of the orders to the transactions, the oldest first.
    #[must_use]
    pub fn take_outcome(&self) -> Option<Outcome> {
        self.lock().outcomes.pop_front()
    }

    pub(super) fn push_outcome(&self, outcome: Outcome) {
        self.lock().outcomes.push_back(outcome);
        (self.0.wake)();
    }

    /// How many records may be there twice because librdkafka numbered them anew, since this was asked last: an upper bound, told within seconds.
    #[must_use]
    pub fn take_doubtful(&self) -> u64 {
        std::mem::take(&mut self.lock().doubtful)
    }

    pub(super) fn doubt(&self, records: u64) {
        self.lock().doubtful += records;
        (self.0.wake)();
    }

    pub(super) fn push(&self, report: Report) {
        let mut waiting = self.lock();
        let was_empty = waiting.reports.is_empty();
        waiting.reports.push(report);
        drop(waiting);
        if was_empty {
            (self.0.wake)();
        }
    }

    pub(super) fn append(&self, reports: &mut Vec<Report>) {
        if reports.is_empty() {
            return;
        }
        let mut waiting = self.lock();
        let was_empty = waiting.reports.is_empty();
        waiting.reports.append(reports);
        drop(waiting);
        if was_empty {
            (self.0.wake)();
        }
    }

    /// Whether this is news.
    pub(super) fn fail(&self, reason: &str) -> bool {
        let mut waiting = self.lock();
        if waiting.fatal.is_some() {
            return false;
        }
        waiting.fatal = Some(Fatal { reason: reason.to_owned() });
        drop(waiting);
        (self.0.wake)();
        true
    }

    /// A panic leaves whole reports behind, so the queue is good even then.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Reports {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Reports").field("waiting", &self.lock().reports.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn report(opaque: u64) -> Report {
        Report { opaque, verdict: Verdict::Delivered, error: None, partition: 0, offset: 0 }
    }

    #[test]
    fn the_reader_is_woken_once_for_all_that_comes_before_it_drains() {
        let woken = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&woken);
        let reports = Reports::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let mut drained = Vec::new();
        reports.push(report(1));
        reports.push(report(2));
        reports.append(&mut vec![report(3), report(4)]);
        reports.append(&mut Vec::new());
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        reports.drain(&mut drained);
        reports.append(&mut vec![report(5)]);
        assert_eq!(woken.load(Ordering::Relaxed), 2);
        reports.drain(&mut drained);
        assert_eq!(drained.iter().map(|report| report.opaque).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_dead_producer_is_told_once_and_wakes_the_reader() {
        let woken = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&woken);
        let reports = Reports::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(reports.fatal(), None);
        assert!(reports.fail("first"));
        assert!(!reports.fail("second"));
        assert_eq!(reports.fatal(), Some(Fatal { reason: "first".to_owned() }));
        assert_eq!(woken.load(Ordering::Relaxed), 1);
    }
}
