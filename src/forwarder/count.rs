//! What a completed record moves: at once with at-least-once, with the commit that carries it with exactly-once.

use std::collections::BTreeMap;

use crate::clock::Timestamp;
use crate::event::DeadLetterReason;
use crate::metrics::{self, Completion, Republication};
use crate::routing::{Routing, TopicId};

use super::Forwarder;

/// What a commit adds to the metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events, by topic.
    pub published: BTreeMap<usize, u64>,
    /// Dead letters, by reason.
    pub dead_lettered: BTreeMap<&'static str, u64>,
    /// Records lost to corruption.
    pub corrupt: u64,
    /// Records whose command is discarded.
    pub discarded: u64,
    /// Of those that go to Kafka, the ones that an earlier run may have published.
    pub republished: u64,
    /// Records that had been completed, and are owed again since the configuration has changed.
    pub owed_again: u64,
    /// When the callbacks of the published ones were received.
    pub received: Vec<Timestamp>,
}

impl Tally {
    /// Records that leave the journal with it.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.published.values().chain(self.dead_lettered.values()).sum::<u64>() + self.corrupt + self.discarded
    }
}

/// The handles of metrics that are moved for each record, looked up once.
pub(super) struct Counters {
    pub(super) forwarder: metrics::Forwarder,
    pub(super) journal: metrics::Journal,
    pub(super) published: prometheus::IntCounter,
    pub(super) dead_lettered: prometheus::IntCounter,
    pub(super) corrupt: prometheus::IntCounter,
    pub(super) discarded: prometheus::IntCounter,
    pub(super) republished_restart: prometheus::IntCounter,
    pub(super) republished_producer: prometheus::IntCounter,
    /// By [`TopicId`].
    pub(super) topics: Vec<prometheus::IntCounter>,
}

impl Counters {
    pub(super) fn new(forwarder: metrics::Forwarder, journal: metrics::Journal, routing: &Routing) -> Self {
        Self {
            published: forwarder.completed(Completion::Published),
            dead_lettered: forwarder.completed(Completion::DeadLettered),
            corrupt: forwarder.completed(Completion::Corrupt),
            discarded: forwarder.completed(Completion::Discarded),
            republished_restart: forwarder.republished(Republication::Restart),
            republished_producer: forwarder.republished(Republication::Producer),
            topics: routing.topics().iter().map(|topic| forwarder.published(&topic.name)).collect(),
            forwarder,
            journal,
        }
    }
}

impl Counters {
    /// Counts what a commit has completed.
    pub(super) fn add(&self, tally: &Tally, now: Timestamp) {
        for (topic, count) in &tally.published {
            self.published.inc_by(*count);
            if let Some(counter) = self.topics.get(*topic) {
                counter.inc_by(*count);
            }
        }
        for (reason, count) in &tally.dead_lettered {
            self.dead_lettered.inc_by(*count);
            self.forwarder.dead_letters(reason).inc_by(*count);
        }
        for received in &tally.received {
            self.forwarder.delivery_latency_seconds.observe(received.until(now).as_secs_f64());
        }
        self.republished_restart.inc_by(tally.republished);
        self.corrupt.inc_by(tally.corrupt);
        self.discarded.inc_by(tally.discarded);
        self.journal.recovered_records.inc_by(tally.owed_again);
        self.journal.unpublished_records.add(signed(tally.owed_again));
        self.journal.unpublished_records.sub(signed(tally.completed()));
    }

    /// Records that an earlier run had completed, and that this one had found unpublished.
    pub(super) fn add_earlier(&self, records: u64) {
        self.forwarder.completed(Completion::Earlier).inc_by(records);
        self.journal.unpublished_records.sub(signed(records));
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Forwarder {
    /// A record was delivered for the first time.
    pub(super) fn count_completed(&mut self, topic: TopicId, reason: Option<DeadLetterReason>, received: Option<Timestamp>) {
        if let Some(tally) = self.tally() {
            match reason {
                None => *tally.published.entry(topic.index()).or_default() += 1,
                Some(reason) => *tally.dead_lettered.entry(reason.label()).or_default() += 1,
            }
            tally.received.extend(received);
            return;
        }
        match reason {
            None => {
                self.metrics.published.inc();
                if let Some(counter) = self.metrics.topics.get(topic.index()) {
                    counter.inc();
                }
            }
            Some(reason) => {
                self.metrics.dead_lettered.inc();
                self.metrics.forwarder.dead_letters(reason.label()).inc();
            }
        }
        self.metrics.journal.unpublished_records.dec();
    }

    /// A record's command is discarded since it was received.
    pub(super) fn count_discarded(&mut self) {
        if let Some(tally) = self.tally() {
            tally.discarded += 1;
            return;
        }
        self.metrics.discarded.inc();
        self.metrics.journal.unpublished_records.dec();
    }

    /// Records were lost to corruption.
    pub(super) fn count_corrupt(&mut self, records: u64) {
        if let Some(tally) = self.tally() {
            tally.corrupt += records;
            return;
        }
        self.metrics.corrupt.inc_by(records);
        self.metrics.journal.unpublished_records.sub(signed(records));
    }

    /// A record that had been completed is owed again.
    pub(super) fn count_owed_again(&mut self) {
        if let Some(tally) = self.tally() {
            tally.owed_again += 1;
            return;
        }
        self.metrics.journal.recovered_records.inc();
        self.metrics.journal.unpublished_records.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_completes_what_leaves_the_journal() {
        let mut tally = Tally { corrupt: 1, discarded: 2, republished: 9, owed_again: 50, ..Tally::default() };
        tally.published.insert(0, 4);
        tally.published.insert(3, 8);
        tally.dead_lettered.insert("too_large", 16);
        assert_eq!(tally.completed(), 31);
    }
}
