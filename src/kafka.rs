//! What the forwarder needs of Kafka: a producer whose every message ends in exactly one [`Report`], the topics' state, and their creation.
//!
//! - [`producer`]: messages in, reports out; its own poll thread.
//! - [`settings`]: what librdkafka is told, and the files behind it.
//! - [`verdict`]: the closed table from librdkafka's errors to what is to be done about a record.
//! - [`statistics`]: brokers, authentication and queue, for `/readyz`, the metrics and the log.
//! - [`topics`]: what exists, what is missing, what differs; creating and changing.
//! - [`transactions`]: for exactly-once, what happens between the first record and the commit; its own thread.
//! - [`embedded`]: a cluster in memory, for `chat-bridge dev`.
//!
//! This module knows nothing of callbacks and events: a message is a topic, a key, bytes and headers.

mod doubt;
pub mod embedded;
pub mod producer;
pub mod settings;
pub mod statistics;
pub mod tail;
pub mod topics;
pub mod transactions;
pub mod verdict;

mod partition;
mod reports;

use std::io;
use std::path::PathBuf;

use rdkafka::error::KafkaError;

pub use partition::Entry;
pub use producer::{Producer, SendError};
pub use reports::{Fatal, Report, Reports};
pub use settings::{Fingerprint, Place, Settings};
pub use statistics::{Connection, Snapshot, Status};
pub use verdict::{DeadLetterCause, ERROR_KINDS, ErrorCode, ParkCause, Verdict};

/// Why a client could not be made, or Kafka not asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that the settings name could not be read.
    #[error("read {path} for {key}", path = .path.display())]
    File {
        /// The librdkafka property.
        key: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// librdkafka does not take a property. The value is left out: it may be a secret.
    #[error("set {key}: {reason}")]
    Property {
        /// The librdkafka property.
        key: String,
        /// What librdkafka said.
        reason: String,
    },
    /// librdkafka could not make a client of these settings, or not start what belongs to it.
    #[error("make a client of Kafka: {0}")]
    Client(String),
    /// No broker answered in time; the text is the most telling of what the connections reported.
    #[error("reach Kafka: {0}")]
    Unreachable(String),
    /// Kafka answered, and refused.
    #[error("{operation}: {code}")]
    Refused {
        /// What was asked of Kafka.
        operation: &'static str,
        /// Kafka's word.
        code: ErrorCode,
    },
    /// Kafka has the settings as they were. rdkafka 0.39 keeps its reason to itself: a value that it finds invalid, or no right to change them.
    #[error("change the settings of {topic}: Kafka did not take them: a value is invalid, or the right to AlterConfigs is missing")]
    NotTaken {
        /// The topic.
        topic: String,
    },
    /// The controller has changed a topic, and the brokers do not show it. It may be a matter of seconds.
    #[error("see the change of {topic}: the brokers do not show it yet")]
    Unseen {
        /// The topic.
        topic: String,
    },
}

impl Error {
    /// Whether an operator must change the configuration, where the others may pass by themselves.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::File { .. } | Self::Property { .. } | Self::Client(_) | Self::NotTaken { .. } => true,
            Self::Unreachable(_) | Self::Unseen { .. } => false,
            Self::Refused { code, .. } => code.blames_the_request(),
        }
    }
}

/// An error of making a client. The value of a bad property stays out of the text.
fn creation(error: &KafkaError) -> Error {
    if let KafkaError::ClientConfig(_, reason, key, value) = error {
        let reason = if value.is_empty() { reason.clone() } else { reason.replace(value.as_str(), "***") };
        return Error::Property { key: key.clone(), reason };
    }
    if let KafkaError::ClientCreation(reason) = error {
        return Error::Client(reason.clone());
    }
    Error::Client(error.to_string())
}
