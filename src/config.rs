//! The tree of settings, one file a section.

mod admin;
mod answers;
mod apps;
mod events;
mod http;
mod journal;
mod kafka;
mod log;
mod shutdown;
mod topics;
mod units;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use admin::Admin;
pub use answers::Answer;
pub use apps::App;
pub use events::{Events, Mode};
pub use http::Http;
pub use journal::Journal;
pub use kafka::Kafka;
pub use log::{Format, Level, Log};
pub use shutdown::Shutdown;
pub use topics::{Setting, Topics};
pub use units::{Period, Size};

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The public listener.
    pub http: Http,
    /// The operator's listener.
    pub admin: Admin,
    /// Whose callbacks are accepted.
    pub apps: Vec<App>,
    /// Where callbacks become durable.
    pub journal: Journal,
    /// The cluster.
    pub kafka: Kafka,
    /// The topics.
    pub topics: Topics,
    /// The shape of events.
    pub events: Events,
    /// The fixed answers of before-commands, by command.
    pub answers: BTreeMap<String, Answer>,
    /// How the bridge ends.
    pub shutdown: Shutdown,
    /// What is logged.
    pub log: Log,
}
