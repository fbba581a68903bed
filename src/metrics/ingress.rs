//! The metrics of the public side.

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, Registry};

use super::{Labels, counter, counters, gauge, histogram};

/// Labels of `chat_bridge_callbacks_total` beside the refusals.
const ACCEPTED: [&str; 2] = ["accepted", "durable"];
const DISCARDED: [&str; 2] = ["discarded", "configuration"];
const REFUSED: &str = "refused";

/// What the public side moves.
#[derive(Clone, Debug)]
pub struct Ingress {
    callbacks: IntCounterVec,
    pub(super) accepted: IntCounter,
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
    pub(super) fn new(registry: &Registry, labels: &Labels<'_>) -> Result<Self, prometheus::Error> {
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
