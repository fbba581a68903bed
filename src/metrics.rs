//! Every metric: its name, its help and its labels, by the part that moves it.
//!
//! All names begin with `chat_bridge_`, are in base units, and exist at zero from the start. Labels are closed sets: enums of this module, or
//! what the configuration names. Nothing that a request carries becomes a label. `docs/metrics.md` lists the same names; a test holds the two together.

use prometheus::core::Collector;
use prometheus::{Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

/// What every name begins with.
const PREFIX: &str = "chat_bridge_";

/// The registry and the handles of each part. Cheap to clone: all clones move the same numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// What the public side moves.
    pub ingress: Ingress,
    /// What the journal moves.
    pub journal: Journal,
    /// What the forwarder moves.
    pub forwarder: Forwarder,
    /// What the client of Kafka moves.
    pub kafka: Kafka,
    /// What the sending of spans moves.
    pub traces: Traces,
    /// What the process as a whole moves.
    pub bridge: Bridge,
}

/// The closed sets that only the configuration and the program's tables know.
#[derive(Clone, Debug, Default)]
pub struct Labels<'a> {
    /// Every reason of a refusal.
    pub refusals: &'a [&'a str],
    /// The commands that the bridge knows; all others count as `other`.
    pub commands: &'a [&'a str],
    /// The topics that the configuration names, the dead-letter topic among them.
    pub topics: &'a [&'a str],
    /// The topic of the positions, where there is one.
    pub positions: Option<&'a str>,
    /// Every reason of a dead letter.
    pub dead_letters: &'a [&'a str],
    /// Every kind of error that the client of Kafka tells apart.
    pub kafka_errors: &'a [&'a str],
}

impl Metrics {
    /// Registers every metric, each series at zero.
    ///
    /// # Errors
    /// Where two metrics bear one name; that is a fault of this module, which its test shows.
    pub fn new(labels: &Labels<'_>) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let bridge = Bridge::new(&registry)?;
        let ingress = Ingress::new(&registry, labels)?;
        let journal = Journal::new(&registry, &ingress)?;
        let forwarder = Forwarder::new(&registry, labels)?;
        let kafka = Kafka::new(&registry, labels)?;
        let traces = Traces::new(&registry)?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self { registry, ingress, journal, forwarder, kafka, traces, bridge })
    }

    /// All series in Prometheus' text format.
    ///
    /// # Errors
    /// Where a family has no series; that is a fault of this module, which its test shows.
    pub fn encode(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::with_capacity(32 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// The content type of [`Metrics::encode`].
    #[must_use]
    pub fn content_type(&self) -> &'static str {
        prometheus::TEXT_FORMAT
    }

    /// The registry, for tests and for whoever wants to walk the families.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

/// Labels of `chat_bridge_callbacks_total` beside the refusals.
const ACCEPTED: [&str; 2] = ["accepted", "durable"];
const DISCARDED: [&str; 2] = ["discarded", "configuration"];
const REFUSED: &str = "refused";

/// What the public side moves.
#[derive(Clone, Debug)]
pub struct Ingress {
    callbacks: IntCounterVec,
    accepted: IntCounter,
    /// Callbacks that the configuration discards.
    pub discarded: IntCounter,
    by_command: IntCounterVec,
    /// From the end of a request's headers to its answer, seconds.
    pub answer_duration_seconds: Histogram,
    /// How far `RequestTime` was from now, either way, seconds.
    pub request_time_skew_seconds: Histogram,
    /// Connections open now.
    pub connections: IntGauge,
    /// The limit of [`Ingress::connections`].
    pub connections_max: IntGauge,
    /// Bytes of bodies in hand now.
    pub bodies_bytes: IntGauge,
    /// The limit of [`Ingress::bodies_bytes`].
    pub bodies_max_bytes: IntGauge,
    /// Connections that could not be accepted (file descriptors used up, for instance).
    pub accept_errors: IntCounter,
    /// Times that a tokens file could not be read again and the last good tokens stayed in force.
    pub tokens_reload_failures: IntCounter,
    /// When the certificate of the public port ends, seconds since 1970; 0 without TLS.
    pub certificate_not_after_seconds: IntGauge,
    /// Times that the files of `[http.tls]` could not be used and the last good ones stayed in force.
    pub certificate_reload_failures: IntCounter,
}

impl Ingress {
    fn new(registry: &Registry, labels: &Labels<'_>) -> Result<Self, prometheus::Error> {
        let callbacks = counters(
            registry,
            "callbacks_total",
            "Requests by outcome (accepted, discarded, refused) and reason.",
            &["outcome", "reason"],
        )?;
        for reason in labels.refusals {
            callbacks.with_label_values(&[REFUSED, reason]);
        }
        let by_command = counters(
            registry,
            "callbacks_by_command_total",
            "Accepted and discarded callbacks by command; unknown ones are other.",
            &["command"],
        )?;
        for command in labels.commands.iter().chain(&[OTHER]) {
            by_command.with_label_values(&[command]);
        }
        Ok(Self {
            accepted: callbacks.with_label_values(&ACCEPTED),
            discarded: callbacks.with_label_values(&DISCARDED),
            callbacks,
            by_command,
            answer_duration_seconds: histogram(
                registry,
                "answer_duration_seconds",
                "From the end of a request's headers to its answer.",
                &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 5.0, 10.0],
            )?,
            request_time_skew_seconds: histogram(
                registry,
                "request_time_skew_seconds",
                "Distance of RequestTime from our clock, either way; over 60 is refused.",
                &[1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 3600.0],
            )?,
            connections: gauge(registry, "connections", "Connections open now.")?,
            connections_max: gauge(registry, "connections_max", "Limit of open connections.")?,
            bodies_bytes: gauge(registry, "bodies_bytes", "Bytes of bodies in hand now.")?,
            bodies_max_bytes: gauge(registry, "bodies_max_bytes", "Limit of bytes of bodies in hand.")?,
            accept_errors: counter(registry, "accept_errors_total", "Connections that could not be accepted.")?,
            tokens_reload_failures: counter(
                registry,
                "tokens_reload_failures_total",
                "Times that a tokens file could not be read again; the last good tokens stayed in force.",
            )?,
            certificate_not_after_seconds: gauge(
                registry,
                "certificate_not_after_timestamp_seconds",
                "When the certificate of the public port ends, seconds since 1970; 0 without TLS.",
            )?,
            certificate_reload_failures: counter(
                registry,
                "certificate_reload_failures_total",
                "Times that the files of http.tls could not be used; the last good ones stayed in force.",
            )?,
        })
    }

    /// The counter of the refusals for one reason, which must be one of [`Labels::refusals`].
    #[must_use]
    pub fn refused(&self, reason: &'static str) -> IntCounter {
        self.callbacks.with_label_values(&[REFUSED, reason])
    }

    /// The counter of one command; of `other` where it is `None`.
    #[must_use]
    pub fn command(&self, command: Option<&'static str>) -> IntCounter {
        self.by_command.with_label_values(&[command.unwrap_or(OTHER)])
    }
}

/// The label of whatever stands in no table.
const OTHER: &str = "other";

/// What the journal moves.
#[derive(Clone, Debug)]
pub struct Journal {
    /// Records that became durable. It is `chat_bridge_callbacks_total{outcome="accepted"}`: a callback counts as accepted when it is durable, even
    /// if its sender has hung up.
    pub durable_records: IntCounter,
    /// Bytes written to segments.
    pub appended_bytes: IntCounter,
    /// Records written to segments.
    pub appended_records: IntCounter,
    /// Bytes made durable.
    pub synced_bytes: IntCounter,
    /// Records made durable.
    pub synced_records: IntCounter,
    /// Records a batch.
    pub batch_records: Histogram,
    /// One `fdatasync` of a segment, seconds.
    pub sync_duration_seconds: Histogram,
    /// Segments, spares and set-aside files together.
    pub size_bytes: IntGauge,
    /// The limit of [`Journal::size_bytes`].
    pub size_max_bytes: IntGauge,
    /// Segment files that hold records.
    pub segments: IntGauge,
    /// Segment files whose records are all completed.
    pub published_segments: IntGauge,
    /// Segments freed before `journal.retention` was over, because their room was needed.
    pub retention_cut_short: IntCounter,
    /// Prepared segment files that wait for their use.
    pub spares: IntGauge,
    /// 1 while no room is left.
    pub full: IntGauge,
    /// 1 once a write or a sync has failed.
    pub failed: IntGauge,
    /// Records durable and not yet completed.
    pub unpublished_records: IntGauge,
    /// When the oldest unpublished record was received, seconds since 1970; 0 where there is none.
    pub oldest_unpublished_timestamp_seconds: Gauge,
    /// Records that were unpublished at start.
    pub recovered_records: IntCounter,
    /// Torn tails that were cut at start.
    pub torn_tails: IntCounter,
    /// Corrupt pieces that were set aside.
    pub set_aside: IntCounter,
    /// New journal identities that were taken because the log had lost its end.
    pub identity_changes: IntCounter,
    /// Both slots of the checkpoint were bad at start.
    pub checkpoint_losses: IntCounter,
}

impl Journal {
    fn new(registry: &Registry, ingress: &Ingress) -> Result<Self, prometheus::Error> {
        Ok(Self {
            durable_records: ingress.accepted.clone(),
            appended_bytes: counter(registry, "journal_appended_bytes_total", "Bytes written to segments.")?,
            appended_records: counter(registry, "journal_appended_records_total", "Records written to segments.")?,
            synced_bytes: counter(registry, "journal_synced_bytes_total", "Bytes made durable.")?,
            synced_records: counter(registry, "journal_synced_records_total", "Records made durable.")?,
            batch_records: histogram(
                registry,
                "journal_batch_records",
                "Records made durable by one sync.",
                &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0],
            )?,
            sync_duration_seconds: histogram(
                registry,
                "journal_sync_duration_seconds",
                "Duration of one fdatasync of a segment.",
                &[0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5],
            )?,
            size_bytes: gauge(registry, "journal_size_bytes", "Segments, spares and set-aside files together.")?,
            size_max_bytes: gauge(registry, "journal_size_max_bytes", "Limit of the journal's size.")?,
            segments: gauge(registry, "journal_segments", "Segment files that hold records.")?,
            published_segments: gauge(registry, "journal_published_segments", "Segment files whose records are all completed.")?,
            retention_cut_short: counter(
                registry,
                "journal_retention_cut_short_total",
                "Published segments freed before journal.retention was over, for room.",
            )?,
            spares: gauge(registry, "journal_spare_segments", "Prepared segment files that wait for their use.")?,
            full: gauge(registry, "journal_full", "1 while the journal has no room for callbacks.")?,
            failed: gauge(registry, "journal_failed", "1 once a write or a sync has failed.")?,
            unpublished_records: gauge(registry, "journal_unpublished_records", "Records durable and not yet completed.")?,
            oldest_unpublished_timestamp_seconds: real_gauge(
                registry,
                "journal_oldest_unpublished_timestamp_seconds",
                "When the oldest unpublished record was received, seconds since 1970; 0 where there is none.",
            )?,
            recovered_records: counter(registry, "journal_recovered_records_total", "Records that were unpublished at start.")?,
            torn_tails: counter(registry, "journal_torn_tails_total", "Incomplete last frames that were cut at start.")?,
            set_aside: counter(registry, "journal_set_aside_total", "Corrupt pieces that were set aside.")?,
            identity_changes: counter(
                registry,
                "journal_identity_changes_total",
                "New journal identities taken because the log had lost its end.",
            )?,
            checkpoint_losses: counter(registry, "journal_checkpoint_losses_total", "Starts at which no slot of the checkpoint was good.")?,
        })
    }
}

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
    fn new(registry: &Registry, labels: &Labels<'_>) -> Result<Self, prometheus::Error> {
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

/// What a broker's connection does, as librdkafka's statistics have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerState {
    /// Connected, authenticated, usable.
    Up,
    /// On the way there: connecting, in the TLS or SASL handshake.
    Connecting,
    /// Not connected because nothing asks for it: it leads none of our partitions.
    Idle,
    /// Not connected.
    Down,
}

/// What the client of Kafka moves.
#[derive(Clone, Debug)]
pub struct Kafka {
    /// Messages handed to librdkafka and not yet reported on.
    pub queue_messages: IntGauge,
    /// The limit of [`Kafka::queue_messages`].
    pub queue_max_messages: IntGauge,
    /// Bytes handed to librdkafka and not yet reported on.
    pub queue_bytes: IntGauge,
    brokers: IntGaugeVec,
    /// 1 while the TLS or SASL handshake with the brokers fails.
    pub authentication_failed: IntGauge,
    errors: IntCounterVec,
    /// Producers that were built anew: after a fatal error, or because a secret has changed.
    pub producer_rebuilds: IntCounter,
    /// The slowest broker's round trip, 99th percentile, seconds.
    pub broker_rtt_p99_seconds: Gauge,
    /// Requests that librdkafka has sent again.
    pub request_retries: IntCounter,
    /// The smallest `max.message.bytes` of our topics, as far as we may ask for it.
    pub message_max_bytes: IntGauge,
}

impl Kafka {
    fn new(registry: &Registry, labels: &Labels<'_>) -> Result<Self, prometheus::Error> {
        let brokers = gauges(registry, "kafka_brokers", "Brokers by the state of our connection to them.", &["state"])?;
        for state in [BrokerState::Up, BrokerState::Connecting, BrokerState::Idle, BrokerState::Down] {
            brokers.with_label_values(&[state.label()]);
        }
        let errors = counters(registry, "kafka_errors_total", "Errors that librdkafka reported, by kind.", &["kind"])?;
        for kind in labels.kafka_errors {
            errors.with_label_values(&[kind]);
        }
        Ok(Self {
            queue_messages: gauge(registry, "kafka_queue_messages", "Messages handed to librdkafka and not yet reported on.")?,
            queue_max_messages: gauge(registry, "kafka_queue_max_messages", "Limit of messages in librdkafka's queue.")?,
            queue_bytes: gauge(registry, "kafka_queue_bytes", "Bytes handed to librdkafka and not yet reported on.")?,
            brokers,
            authentication_failed: gauge(
                registry,
                "kafka_authentication_failed",
                "1 while the TLS or SASL handshake with the brokers fails.",
            )?,
            errors,
            producer_rebuilds: counter(
                registry,
                "kafka_producer_rebuilds_total",
                "Producers built anew after a fatal error or a changed secret.",
            )?,
            broker_rtt_p99_seconds: real_gauge(registry, "kafka_broker_rtt_p99_seconds", "Slowest broker's round trip, 99th percentile.")?,
            request_retries: counter(registry, "kafka_request_retries_total", "Requests that librdkafka has sent again.")?,
            message_max_bytes: gauge(registry, "kafka_message_max_bytes", "Smallest max.message.bytes of our topics; 0 where unknown.")?,
        })
    }

    /// The gauge of one state.
    #[must_use]
    pub fn brokers(&self, state: BrokerState) -> IntGauge {
        self.brokers.with_label_values(&[state.label()])
    }

    /// The counter of one kind, which must be one of [`Labels::kafka_errors`].
    #[must_use]
    pub fn errors(&self, kind: &'static str) -> IntCounter {
        self.errors.with_label_values(&[kind])
    }
}

impl BrokerState {
    const fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Connecting => "connecting",
            Self::Idle => "idle",
            Self::Down => "down",
        }
    }
}

/// What the process as a whole moves.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// 1 while new callbacks can be made durable.
    pub ready: IntGauge,
    /// 1 while the operator has the bridge drained.
    pub draining: IntGauge,
}

impl Bridge {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let build = gauges(registry, "build_info", "1; its label tells the version.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            ready: gauge(registry, "ready", "1 while new callbacks can be made durable.")?,
            draining: gauge(registry, "draining", "1 while the operator has the bridge drained.")?,
        })
    }
}

/// Why a finished span did not reach the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanLoss {
    /// More wait than the queue holds.
    QueueFull,
    /// The collector was away, or busy, for all tries.
    Unreachable,
    /// The collector does not take it.
    Rejected,
    /// The bridge ended first.
    Stopped,
}

impl SpanLoss {
    const ALL: [Self; 4] = [Self::QueueFull, Self::Unreachable, Self::Rejected, Self::Stopped];

    const fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Unreachable => "unreachable",
            Self::Rejected => "rejected",
            Self::Stopped => "stopped",
        }
    }
}

/// What the sending of spans moves.
#[derive(Clone, Debug)]
pub struct Traces {
    /// Spans that the collector has taken.
    pub exported: IntCounter,
    dropped: IntCounterVec,
}

impl Traces {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let dropped =
            counters(registry, "spans_dropped_total", "Finished spans that did not reach the collector, by reason.", &["reason"])?;
        for loss in SpanLoss::ALL {
            dropped.with_label_values(&[loss.label()]);
        }
        Ok(Self { exported: counter(registry, "spans_exported_total", "Spans that the collector has taken.")?, dropped })
    }

    /// The counter of one loss.
    #[must_use]
    pub fn dropped(&self, loss: SpanLoss) -> IntCounter {
        self.dropped.with_label_values(&[loss.label()])
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    register(registry, IntCounter::new(format!("{PREFIX}{name}"), help)?)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(Opts::new(format!("{PREFIX}{name}"), help), labels)?)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    register(registry, IntGauge::new(format!("{PREFIX}{name}"), help)?)
}

fn real_gauge(registry: &Registry, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
    register(registry, Gauge::new(format!("{PREFIX}{name}"), help)?)
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    register(registry, IntGaugeVec::new(Opts::new(format!("{PREFIX}{name}"), help), labels)?)
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
    register(registry, Histogram::with_opts(HistogramOpts::new(format!("{PREFIX}{name}"), help).buckets(buckets.to_vec()))?)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use prometheus::proto::{Metric, MetricType};

    use super::*;

    const LABELS: Labels<'static> = Labels {
        refusals: &["one", "two"],
        commands: &["Group.CallbackAfterGroupFull"],
        topics: &["chat.group-full", "chat.dead-letter"],
        positions: Some("chat-bridge.positions"),
        dead_letters: &["not_json"],
        kafka_errors: &["transport"],
    };

    /// What a family is: its type, the names of its labels, its help.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Family {
        form: String,
        labels: BTreeSet<String>,
        help: String,
    }

    fn families() -> BTreeMap<String, Family> {
        let metrics = Metrics::new(&LABELS).unwrap();
        let gathered = metrics.registry().gather();
        let families = gathered.iter().map(|family| {
            let form = match family.get_field_type() {
                MetricType::COUNTER => "counter",
                MetricType::GAUGE => "gauge",
                MetricType::HISTOGRAM => "histogram",
                MetricType::SUMMARY | MetricType::UNTYPED => "other",
            };
            let labels = family.get_metric().iter().flat_map(Metric::get_label).map(|label| label.name().to_owned());
            (family.name().to_owned(), Family { form: form.to_owned(), labels: labels.collect(), help: family.help().to_owned() })
        });
        families.collect()
    }

    /// The page has every metric in a row `| name | type | labels | help | what moves it |`.
    #[test]
    fn the_page_and_the_registry_have_the_same_metrics() {
        let page = include_str!("../docs/metrics.md");
        let mut documented = BTreeMap::new();
        for line in page.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [name, form, labels, help, moved] = cells.as_slice() else { panic!("a row has five cells: {line}") };
            assert!(!moved.is_empty(), "{line}");
            let labels = labels.split(',').map(|label| label.trim().trim_matches('`').to_owned()).filter(|label| !label.is_empty());
            let family = Family { form: (*form).to_owned(), labels: labels.collect(), help: (*help).to_owned() };
            assert!(documented.insert(name.trim_matches('`').to_owned(), family).is_none(), "twice: {line}");
        }
        let registered = families();
        for (name, family) in &registered {
            assert_eq!(documented.get(name), Some(family), "{name} in docs/metrics.md");
        }
        for name in documented.keys() {
            assert!(registered.contains_key(name), "{name} is in docs/metrics.md alone");
        }
    }

    /// Headings are the same on every page, and no page sends its reader to a metric that does not exist.
    #[test]
    fn runbooks_have_the_same_parts_and_name_metrics_that_exist() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbooks");
        let index = std::fs::read_to_string(folder.join("README.md")).unwrap();
        let registered = families();
        let mut pages = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name == "README.md" {
                continue;
            }
            pages += 1;
            assert!(index.contains(&format!("]({name})")), "{name} is in the index");
            let page = std::fs::read_to_string(&path).unwrap();
            let headings: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
            assert_eq!(headings, ["Meaning", "Impact", "Diagnosis", "Mitigation", "Verify"], "{name}");
            // A colon is in the name of a recorded rule (`instance:chat_bridge_...`), which is not a metric of ours.
            for word in page.split(|character: char| !(character.is_ascii_alphanumeric() || matches!(character, '_' | ':'))) {
                let Some(metric) = word.starts_with(PREFIX).then_some(word) else { continue };
                let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| metric.strip_suffix(suffix)).unwrap_or(metric);
                assert!(registered.contains_key(family), "{metric} in {name}");
            }
        }
        assert!(pages > 10, "the pages are there");
    }

    #[test]
    fn names_are_ours_in_base_units_and_counters_end_in_total() {
        for (name, family) in families() {
            assert!(name.starts_with(PREFIX) || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), family.form == "counter", "{name}");
            assert!(["_ms", "_millis", "_kb", "_mb", "_percent"].iter().all(|unit| !name.contains(unit)), "{name}");
            assert!(family.help.ends_with('.') && !family.help.contains('|'), "{name}: {}", family.help);
        }
    }

    #[test]
    fn every_series_of_a_closed_set_is_there_from_the_start() {
        let text = String::from_utf8(Metrics::new(&LABELS).unwrap().encode().unwrap()).unwrap();
        for series in [
            "chat_bridge_callbacks_total{outcome=\"accepted\",reason=\"durable\"} 0",
            "chat_bridge_callbacks_total{outcome=\"discarded\",reason=\"configuration\"} 0",
            "chat_bridge_callbacks_total{outcome=\"refused\",reason=\"two\"} 0",
            "chat_bridge_callbacks_by_command_total{command=\"other\"} 0",
            "chat_bridge_records_completed_total{outcome=\"dead_lettered\"} 0",
            "chat_bridge_events_published_total{topic=\"chat.group-full\"} 0",
            "chat_bridge_topic_parked{topic=\"chat.dead-letter\"} 0",
            "chat_bridge_dead_letters_total{reason=\"not_json\"} 0",
            "chat_bridge_kafka_errors_total{kind=\"transport\"} 0",
            "chat_bridge_kafka_brokers{state=\"up\"} 0",
            concat!("chat_bridge_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|line| line == series), "{series}");
        }
    }

    #[test]
    fn a_record_that_became_durable_is_an_accepted_callback() {
        let metrics = Metrics::new(&LABELS).unwrap();
        metrics.journal.durable_records.inc_by(3);
        let text = String::from_utf8(metrics.encode().unwrap()).unwrap();
        assert!(text.contains("chat_bridge_callbacks_total{outcome=\"accepted\",reason=\"durable\"} 3\n"));
    }
}
