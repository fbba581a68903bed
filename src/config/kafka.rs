//! `[kafka]`: the cluster.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The cluster, and what is passed on to librdkafka.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kafka {
    /// `host:port`, several with commas.
    pub bootstrap_servers: String,
    /// What tells this bridge from its siblings; the digits that end the host name where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Passed on to librdkafka. The keys that the bridge's promises rest on are refused, and so are secrets.
    pub properties: BTreeMap<String, String>,
    /// Properties whose values are read from files, compared every few seconds.
    pub secret_files: BTreeMap<String, PathBuf>,
}

impl Default for Kafka {
    fn default() -> Self {
        Self { bootstrap_servers: "localhost:9092".to_owned(), instance: None, properties: BTreeMap::new(), secret_files: BTreeMap::new() }
    }
}
