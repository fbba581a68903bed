//! `[kafka]`: the cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use super::properties;
use super::topics::Setting;
use super::units::Period;

/// The cluster, and what is passed on to librdkafka.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kafka {
    /// `host:port`, several with commas.
    pub bootstrap_servers: String,
    /// How often an event stands in its topic.
    pub delivery: Delivery,
    /// What tells this bridge from its siblings; the digits that end the host name where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Where the positions are kept with exactly-once, one partition an instance.
    pub positions_topic: String,
    /// How long a transaction takes records: an event can be read so much later, and what a commit costs is shared by so many more.
    pub commit_interval: Period,
    /// How many records a transaction takes at most, so that a backlog is committed in steps: half of what the producer's queue holds.
    pub commit_records: NonZeroU32,
    /// When the brokers abort a transaction whose bridge is gone: until then nobody reads beyond it.
    pub transaction_timeout: Period,
    /// Passed on to librdkafka. The keys that the bridge's promises rest on are refused, and so are secrets.
    #[serde(deserialize_with = "texts")]
    pub properties: BTreeMap<String, String>,
    /// Properties whose values are read from files, compared every few seconds.
    pub secret_files: BTreeMap<String, PathBuf>,
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            bootstrap_servers: "localhost:9092".to_owned(),
            delivery: Delivery::default(),
            instance: None,
            positions_topic: "chat-bridge.positions".to_owned(),
            commit_interval: Period::from_millis(100),
            commit_records: const { NonZeroU32::new(10_000).unwrap() },
            transaction_timeout: Period::from_secs(30),
            properties: BTreeMap::new(),
            secret_files: BTreeMap::new(),
        }
    }
}

/// How often an event stands in its topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// Once, or more often after a crash or a fault of Kafka's, with the same id.
    #[default]
    AtLeastOnce,
    /// Once for consumers that read what is committed, by transactions that carry the positions.
    ExactlyOnce,
}

impl Kafka {
    /// What tells this bridge from its siblings, as far as it is known: `instance`, else the digits that end the host's name (the ordinal of a `StatefulSet`'s
    /// pod).
    #[must_use]
    pub fn known_instance(&self) -> Option<String> {
        self.instance.clone().or_else(|| {
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            ordinal(&host).map(str::to_owned)
        })
    }
}

/// The digits that end a host's name.
fn ordinal(host: &str) -> Option<&str> {
    let digits = host.len() - host.bytes().rev().take_while(u8::is_ascii_digit).count();
    host.get(digits..).filter(|ordinal| !ordinal.is_empty())
}

/// librdkafka takes numbers and booleans as text too.
fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let settings = BTreeMap::<String, Setting>::deserialize(deserializer)?;
    Ok(settings.into_iter().map(|(name, setting)| (name, setting.0)).collect())
}

impl fmt::Debug for Kafka {
    /// Without the values of properties that are secrets, though no configuration that was loaded has any.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            bootstrap_servers,
            delivery,
            instance,
            positions_topic,
            commit_interval,
            commit_records,
            transaction_timeout,
            properties,
            secret_files,
        } = self;
        let shown = |name: &String, value: &String| if properties::is_secret(name) { "***".to_owned() } else { value.clone() };
        let properties: BTreeMap<_, _> = properties.iter().map(|(name, value)| (name, shown(name, value))).collect();
        out.debug_struct("Kafka")
            .field("bootstrap_servers", bootstrap_servers)
            .field("delivery", delivery)
            .field("instance", instance)
            .field("positions_topic", positions_topic)
            .field("commit_interval", commit_interval)
            .field("commit_records", commit_records)
            .field("transaction_timeout", transaction_timeout)
            .field("properties", &properties)
            .field("secret_files", secret_files)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ordinal_is_what_digits_end_the_host_s_name() {
        for (host, number) in [("chat-bridge-12", Some("12")), ("chat-bridge", None), ("7", Some("7")), ("", None), ("a1b", None)] {
            assert_eq!(ordinal(host), number, "{host}");
        }
    }
}
