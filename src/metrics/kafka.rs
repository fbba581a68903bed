//! The metrics of the client of Kafka.

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::{Labels, counter, counters, gauge, gauges, real_gauge};

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
    pub(super) fn new(registry: &Registry, labels: &Labels<'_>) -> Result<Self, prometheus::Error> {
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
