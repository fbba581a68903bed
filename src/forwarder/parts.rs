//! What the forwarder is made of, and why it ends.

use std::path::PathBuf;
use std::sync::Arc;

use crate::callback::DecodeError;
use crate::clock::Clock;
use crate::config;
use crate::journal::{self, Journal, Lsn, Positions, Start};
use crate::kafka;
use crate::metrics;
use crate::routing::Routing;
use crate::traces::Tracer;

use super::stored;

/// What the forwarder needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where an event's attributes stand.
    pub mode: config::Mode,
    /// What tells this bridge from its siblings; stands in dead letters that name a file.
    pub instance: String,
    /// Where bodies are kept that even the dead-letter topic cannot take.
    pub oversized_dir: PathBuf,
    /// The cluster; its secret files are read again when they change.
    pub kafka: config::Kafka,
    /// How the topics are to be made, and whether.
    pub topics: config::Topics,
    /// Whether the cluster can be asked how large a message may be.
    pub limits: Limits,
}

/// Whether the cluster can be asked how large a message may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limits {
    /// Every Kafka can; whether we may is another matter.
    Asked,
    /// The embedded cluster cannot, and would let us wait.
    Unasked,
}

/// What the forwarder is made of.
#[derive(Debug)]
pub struct Parts {
    /// Its own settings.
    pub config: Config,
    /// Where records come from.
    pub journal: Journal,
    /// The positions as the checkpoint has them.
    pub positions: Positions,
    /// How the journal was found.
    pub start: Start,
    /// The journal's end when it was opened.
    pub end: Lsn,
    /// Command to topic.
    pub routing: Arc<Routing>,
    /// How producers are built.
    pub kafka: kafka::Settings,
    /// Where producers say how their brokers are.
    pub status: kafka::Status,
    /// The metrics of producers.
    pub kafka_metrics: metrics::Kafka,
    /// Its metrics.
    pub metrics: metrics::Forwarder,
    /// The gauges of the journal that only completions move.
    pub journal_metrics: metrics::Journal,
    /// The wall clock.
    pub clock: Clock,
    /// Who records its spans; none where nobody does.
    pub tracer: Option<Tracer>,
}

/// Why the forwarder's thread ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal could not be read.
    #[error("read the journal")]
    Journal(#[source] journal::Error),
    /// A record is intact and yet not one that this version can read: a newer one wrote it.
    #[error("read record {lsn}")]
    Record {
        /// Which.
        lsn: Lsn,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
    /// Its thread ended although nobody had asked it to: by a panic, which has said so itself.
    #[error("keep its thread running")]
    Ended,
    /// The system gives no thread.
    #[error("start a thread")]
    Thread(#[source] std::io::Error),
    /// A topic that the routing does not have: a fault of the program.
    #[error("find topic {topic} among those of the configuration")]
    Topic {
        /// Its number.
        topic: usize,
    },
    /// Kafka's positions are not of this version's making.
    #[error("read the positions in Kafka")]
    Positions(#[source] stored::Unreadable),
    /// Another bridge bears our name and has taken over.
    #[error("go on as instance {instance}: another bridge works under that name since, and its transactions fence ours")]
    Superseded {
        /// The name.
        instance: String,
    },
    /// A body could not be kept in a file.
    #[error("write {path}")]
    Oversized {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
}
