//! What `/readyz` says, from the parts as they come to be.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use crate::admin::Condition;
use crate::forwarder;
use crate::journal::{self, Journal};
use crate::kafka::{self, Connection};

use super::bridge::Phase;
use super::drain::Drain;

/// The conditions, and where they come from.
pub(super) struct Conditions {
    phase: Arc<Phase>,
    drain: Arc<Drain>,
    parts: OnceLock<Observed>,
}

struct Observed {
    journal: Journal,
    status: kafka::Status,
    forwarder: forwarder::Handle,
}

impl Conditions {
    pub(super) fn new(phase: Arc<Phase>, drain: Arc<Drain>) -> Self {
        Self { phase, drain, parts: OnceLock::new() }
    }

    /// From here on the parts themselves are looked at.
    pub(super) fn complete(&self, journal: Journal, status: kafka::Status, forwarder: forwarder::Handle) {
        drop(self.parts.set(Observed { journal, status, forwarder }));
    }

    pub(super) fn list(&self) -> Vec<Condition> {
        let started = self.phase.started.load(Ordering::Acquire);
        let draining = match (self.phase.draining.load(Ordering::Acquire), self.drain.since()) {
            (true, _) => deciding("draining", false, "the bridge stops"),
            (false, Some(since)) => deciding("draining", false, format!("the operator has asked for it at {since}")),
            (false, None) => deciding("draining", true, "no"),
        };
        let mut conditions = vec![deciding("starting", started, if started { "callbacks are accepted" } else { "not yet" }), draining];
        let Some(parts) = self.parts.get() else {
            conditions.push(deciding("journal", false, "recovery"));
            return conditions;
        };
        conditions.push(match parts.journal.state() {
            journal::State::Open => deciding("journal", true, "callbacks can be made durable"),
            journal::State::Full(reason) => deciding("journal", false, format!("full: {reason}")),
            journal::State::Failed(error) => deciding("journal", false, format!("failed: {error}")),
            journal::State::Closed => deciding("journal", false, "closed"),
        });
        let kafka = parts.status.snapshot();
        conditions.push(match kafka.connection {
            Connection::Up => informing(
                "kafka brokers",
                true,
                kafka.brokers.map_or_else(
                    || "reached; how many are up is not known yet".to_owned(),
                    |brokers| format!("{} up, {} down", brokers.up, brokers.down),
                ),
            ),
            Connection::Starting => informing("kafka brokers", false, "not reached yet"),
            Connection::Lost => informing("kafka brokers", false, "none can be reached; callbacks wait in the journal"),
        });
        conditions.push(match kafka.authentication {
            Some(reason) => informing("kafka authentication", false, reason),
            None => informing("kafka authentication", true, "no refusal"),
        });
        if let Some(reason) = kafka.unbuilt {
            conditions.push(informing("kafka producer", false, format!("cannot be built: {reason}; callbacks wait in the journal")));
        } else if let Some(reason) = kafka.fatal {
            conditions.push(informing("kafka producer", false, reason));
        }
        for (topic, cause) in parts.forwarder.parked() {
            conditions.push(informing(format!("topic {topic}"), false, format!("parked: {}", cause.as_str())));
        }
        conditions
    }
}

fn deciding(name: &'static str, ok: bool, reason: impl Into<String>) -> Condition {
    Condition { name: name.into(), ok, reason: reason.into(), decides: true }
}

fn informing(name: impl Into<Cow<'static, str>>, ok: bool, reason: impl Into<String>) -> Condition {
    Condition { name: name.into(), ok, reason: reason.into(), decides: false }
}
