//! `[events]`: the shape in which events are published.

use serde::{Deserialize, Serialize};

/// The shape of events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// Where the attributes stand.
    pub mode: Mode,
}

/// Where an event's attributes stand (`CloudEvents` 1.0, Kafka protocol binding, section 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The whole event as one JSON document in the value.
    #[default]
    Structured,
    /// Attributes in `ce_` headers, data in the value.
    Binary,
}
