//! A transaction that is not committed: whose fault it is, and where it begins again.

use std::time::Instant;

use crate::kafka::{ErrorCode, Verdict};
use crate::metrics::Abort;
use crate::routing::TopicId;

use super::super::lane::HoldCause;
use super::super::{Error, Forwarder};

impl Forwarder {
    /// What is not delivered while other things are belongs to topics that stand: each is tried alone later.
    pub(super) fn give_up_on_what_stands(&mut self, now: Instant) {
        let standing: Vec<TopicId> = self
            .lanes
            .iter()
            .enumerate()
            .filter(|(_, lane)| lane.window.in_flight() > 0)
            .filter_map(|(index, _)| self.routing.topic_at(index))
            .collect();
        for topic in standing {
            self.hold(topic, HoldCause::Refused, now);
        }
        if let Some(this) = &mut self.exactly_once {
            this.transaction.failed(Abort::Stalled, now);
        }
    }

    /// The transaction is aborted: all begins again from what was committed last.
    pub(super) fn rewind(&mut self, now: Instant) -> Result<(), Error> {
        let Some(this) = &mut self.exactly_once else { return Ok(()) };
        let why = this.transaction.failure().unwrap_or(Abort::Failed);
        self.metrics.forwarder.aborted(why).inc();
        tracing::debug!(reason = why.label(), "transaction aborted; it is repeated");
        this.closing = None;
        let cause = this.cause.take();
        if this.transaction.rewound(now) {
            tracing::warn!(cause = cause.as_deref().unwrap_or("unknown"), "transactions fail again and again; they are repeated");
        }
        let positions = this.committed.clone();
        self.start_from(&positions)
    }

    /// Finds whose fault it is where no report has told. The coordinator refuses a topic without saying which: each of them is then tried alone.
    pub(super) fn blame(&mut self, cause: ErrorCode, now: Instant) {
        let Some(this) = &mut self.exactly_once else { return };
        tracing::debug!(%cause, "transaction refused");
        this.cause = Some(cause.to_string());
        let Verdict::Park(parked) = cause.verdict() else { return };
        if this.transaction.failure().is_some_and(|why| why != Abort::Failed) || this.transaction.is_delivered() {
            return;
        }
        this.transaction.blamed(Abort::Parked);
        match this.transaction.topics().to_vec().as_slice() {
            [topic] => self.hold(*topic, HoldCause::Parked(parked), now),
            topics => {
                for topic in topics {
                    self.hold(*topic, HoldCause::Suspected, now);
                }
            }
        }
    }
}
