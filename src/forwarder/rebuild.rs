//! The producer: built, let go of, and built anew.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Error, Forwarder, PROGRESS_MAX};
use crate::kafka::{Producer, Reports};
use crate::log;

/// How long after a producer has died the next one is built at first; each further one waits twice as long, until something is delivered.
pub(super) const REBUILD_MIN: Duration = Duration::from_millis(250);

/// The longest such wait.
const REBUILD_MAX: Duration = Duration::from_secs(10);

/// Why the producer is to be built anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rebuild {
    /// librdkafka has given up on it.
    Fatal,
    /// A setting has changed: what is under way is waited for first.
    Changed,
}

impl Forwarder {
    /// Builds the producer where there is none, or where it is to be built anew and what can be waited for has been.
    pub(super) fn ensure_producer(&mut self, now: Instant) -> Result<(), Error> {
        if let Some((cause, since)) = self.rebuild {
            let stuck = now.duration_since(self.moved_at.max(since)) >= PROGRESS_MAX;
            if cause == Rebuild::Changed && (self.in_flight() > 0 || !self.is_settled()) && !stuck {
                return Ok(());
            }
            self.forget_producer(now)?;
            self.rebuild = None;
            if cause == Rebuild::Fatal {
                self.rebuild_after = now + self.rebuild_delay;
                self.rebuild_delay = (self.rebuild_delay * 2).min(REBUILD_MAX);
            }
        }
        if self.producer.is_some() || now < self.rebuild_after {
            return Ok(());
        }
        match Producer::new(&self.settings, self.reports.clone(), self.status.clone(), self.kafka_metrics.clone()) {
            Ok(producer) => {
                let producer = Arc::new(producer);
                self.status.built();
                self.scout.use_producer(Some(Arc::clone(&producer)));
                self.producer = Some(producer);
            }
            Err(error) => {
                self.status.unbuilt(&log::with_causes(&error));
                self.rebuild_after = now + REBUILD_MAX;
            }
        }
        Ok(())
    }

    /// Lets go of the producer: whatever it held is to be sent again.
    pub(super) fn forget_producer(&mut self, now: Instant) -> Result<(), Error> {
        self.scout.use_producer(None);
        if self.producer.take().is_some() {
            self.kafka_metrics.producer_rebuilds.inc();
        }
        // What it has delivered in the meantime need not be sent again. Later reports of it must not be taken for the next one's.
        self.take_reports(now);
        self.reports = new_reports();
        if let Some(publications) = &mut self.publications {
            publications.abandon(now);
        }
        if self.exactly_once.is_some() {
            return self.lose_transaction();
        }
        let mut unsent = self.aparts.unsend();
        for lane in &mut self.lanes {
            unsent += lane.unsend();
        }
        self.metrics.republished_producer.inc_by(unsent);
        self.second = None;
        for (lane, topic) in self.lanes.iter().zip(self.routing.topics()) {
            self.metrics.forwarder.behind(&topic.name).set(i64::from(lane.next().is_some()));
        }
        Ok(())
    }
}

/// A queue of reports that wakes this thread.
pub(super) fn new_reports() -> Reports {
    let waker = thread::current();
    Reports::new(move || waker.unpark())
}
