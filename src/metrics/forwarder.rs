//! The metrics of the forwarder, and the labels that it counts by.

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::{Labels, counter, counters, gauges, histogram};

/// How a record was completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Kafka has its event.
    Published,
    /// Kafka has its dead letter.
    DeadLettered,
    /// It could not be read, and was set aside.
    Corrupt,
    /// The configuration discards its command since it was received.
    Discarded,
    /// An earlier run had completed it, which only Kafka's positions knew.
    Earlier,
}

/// Why a transaction was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// A record is larger than its topic takes.
    TooLarge,
    /// A broker refused a record for what it is.
    RefusedByBroker,
    /// A topic is missing or not authorised.
    Parked,
    /// A topic refuses its records for now.
    Refused,
    /// A topic's records were not delivered while others were.
    Stalled,
    /// librdkafka or the coordinator has said so, and names no topic.
    Failed,
    /// The bridge ended.
    Stopped,
}

/// Why a record was handed to Kafka once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Republication {
    /// An earlier run may have published it.
    Restart,
    /// The producer had to be built anew, or the topic took it no more for a time.
    Producer,
}

/// What the forwarder moves.
#[derive(Clone, Debug)]
pub struct Forwarder {
    completed: IntCounterVec,
    republished: IntCounterVec,
    published: IntCounterVec,
    dead_letters: IntCounterVec,
    parked: IntGaugeVec,
    behind: IntGaugeVec,
    /// Transactions that were committed.
    pub transactions_committed: IntCounter,
    transactions_aborted: IntCounterVec,
    /// From the first record of a transaction to the end of its commit, seconds.
    pub transaction_duration_seconds: Histogram,
    /// Records a committed transaction.
    pub transaction_records: Histogram,
    /// From the receipt of a callback to the delivery report of its event, or to its commit, seconds.
    pub delivery_latency_seconds: Histogram,
    /// Dead letters whose body had to be written to a file because it was too large for the dead-letter topic.
    pub oversized: IntCounter,
}

impl Forwarder {
    pub(super) fn new(registry: &Registry, labels: &Labels<'_>) -> Result<Self, prometheus::Error> {
        let completed = counters(registry, "records_completed_total", "Records that left the journal, by outcome.", &["outcome"])?;
        for outcome in Completion::ALL {
            completed.with_label_values(&[outcome.label()]);
        }
        let republished = counters(registry, "records_republished_total", "Records handed to Kafka once more, by reason.", &["reason"])?;
        for reason in [Republication::Restart, Republication::Producer] {
            republished.with_label_values(&[reason.label()]);
        }
        let published = counters(registry, "events_published_total", "Events that Kafka has confirmed, by topic.", &["topic"])?;
        let parked = gauges(registry, "topic_parked", "1 while a topic cannot take its records.", &["topic"])?;
        let behind = gauges(registry, "topic_behind", "1 while a topic's records wait in the journal and others go on.", &["topic"])?;
        for topic in labels.topics {
            published.with_label_values(&[topic]);
            parked.with_label_values(&[topic]);
            behind.with_label_values(&[topic]);
        }
        if let Some(topic) = labels.positions {
            parked.with_label_values(&[topic]);
        }
        let transactions_aborted =
            counters(registry, "transactions_aborted_total", "Transactions that were aborted, by reason.", &["reason"])?;
        for reason in Abort::ALL {
            transactions_aborted.with_label_values(&[reason.label()]);
        }
        let dead_letters = counters(registry, "dead_letters_total", "Dead letters that Kafka has confirmed, by reason.", &["reason"])?;
        for reason in labels.dead_letters {
            dead_letters.with_label_values(&[reason]);
        }
        Ok(Self {
            completed,
            republished,
            published,
            dead_letters,
            parked,
            behind,
            transactions_committed: counter(registry, "transactions_committed_total", "Transactions that were committed.")?,
            transactions_aborted,
            transaction_duration_seconds: histogram(
                registry,
                "transaction_duration_seconds",
                "From the first record of a transaction to the end of its commit.",
                &[0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0],
            )?,
            transaction_records: histogram(
                registry,
                "transaction_records",
                "Records of a committed transaction.",
                &[0.0, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 2048.0, 4096.0, 8192.0, 16_384.0],
            )?,
            delivery_latency_seconds: histogram(
                registry,
                "delivery_latency_seconds",
                "From the receipt of a callback to the delivery report of its event, or to its commit.",
                &[0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0, 86_400.0],
            )?,
            oversized: counter(registry, "oversized_total", "Bodies too large even for the dead-letter topic, written to oversized/.")?,
        })
    }

    /// The counter of one outcome.
    #[must_use]
    pub fn completed(&self, outcome: Completion) -> IntCounter {
        self.completed.with_label_values(&[outcome.label()])
    }

    /// The counter of one reason.
    #[must_use]
    pub fn republished(&self, reason: Republication) -> IntCounter {
        self.republished.with_label_values(&[reason.label()])
    }

    /// The counter of one reason.
    #[must_use]
    pub fn aborted(&self, reason: Abort) -> IntCounter {
        self.transactions_aborted.with_label_values(&[reason.label()])
    }

    /// The counter of one topic, which must be one of [`Labels::topics`].
    #[must_use]
    pub fn published(&self, topic: &str) -> IntCounter {
        self.published.with_label_values(&[topic])
    }

    /// The counter of one reason, which must be one of [`Labels::dead_letters`].
    #[must_use]
    pub fn dead_letters(&self, reason: &'static str) -> IntCounter {
        self.dead_letters.with_label_values(&[reason])
    }

    /// The gauge of one topic, which must be one of [`Labels::topics`].
    #[must_use]
    pub fn parked(&self, topic: &str) -> IntGauge {
        self.parked.with_label_values(&[topic])
    }

    /// The gauge of one topic, which must be one of [`Labels::topics`].
    #[must_use]
    pub fn behind(&self, topic: &str) -> IntGauge {
        self.behind.with_label_values(&[topic])
    }
}

impl Completion {
    const ALL: [Self; 5] = [Self::Published, Self::DeadLettered, Self::Corrupt, Self::Discarded, Self::Earlier];

    const fn label(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::DeadLettered => "dead_lettered",
            Self::Corrupt => "corrupt",
            Self::Discarded => "discarded",
            Self::Earlier => "earlier",
        }
    }
}

impl Abort {
    const ALL: [Self; 7] = [Self::TooLarge, Self::RefusedByBroker, Self::Parked, Self::Refused, Self::Stalled, Self::Failed, Self::Stopped];

    /// The label, and the word for it in the log.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::RefusedByBroker => "refused_by_broker",
            Self::Parked => "parked",
            Self::Refused => "refused",
            Self::Stalled => "stalled",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

impl Republication {
    const fn label(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Producer => "producer",
        }
    }
}
