//! `[kafka]`: the cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use super::properties;
use super::topics::Setting;

/// The cluster, and what is passed on to librdkafka.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kafka {
    /// `host:port`, several with commas.
    pub bootstrap_servers: String,
    /// What tells this bridge from its siblings; the digits that end the host name where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Passed on to librdkafka. The keys that the bridge's promises rest on are refused, and so are secrets.
    #[serde(deserialize_with = "texts")]
    pub properties: BTreeMap<String, String>,
    /// Properties whose values are read from files, compared every few seconds.
    pub secret_files: BTreeMap<String, PathBuf>,
}

impl Default for Kafka {
    fn default() -> Self {
        Self { bootstrap_servers: "localhost:9092".to_owned(), instance: None, properties: BTreeMap::new(), secret_files: BTreeMap::new() }
    }
}

/// librdkafka takes numbers and booleans as text too.
fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let settings = BTreeMap::<String, Setting>::deserialize(deserializer)?;
    Ok(settings.into_iter().map(|(name, setting)| (name, setting.0)).collect())
}

impl fmt::Debug for Kafka {
    /// Without the values of properties that are secrets, though no configuration that was loaded has any.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bootstrap_servers, instance, properties, secret_files } = self;
        let shown = |name: &String, value: &String| if properties::is_secret(name) { "***".to_owned() } else { value.clone() };
        let properties: BTreeMap<_, _> = properties.iter().map(|(name, value)| (name, shown(name, value))).collect();
        out.debug_struct("Kafka")
            .field("bootstrap_servers", bootstrap_servers)
            .field("instance", instance)
            .field("properties", &properties)
            .field("secret_files", secret_files)
            .finish()
    }
}
