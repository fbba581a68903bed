//! `[topics]`: what the topics are called, and how they are made.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use super::units::Size;

/// So many topics there may be at most: the forwarder has 12 bits to say which one a delivery report is about.
pub const TOPICS_MAX: usize = 1 << 12;

/// The topics' names, and the settings of those that we create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Topics {
    /// What every topic's name begins with, unless it is named outright.
    pub prefix: String,
    /// The topic of commands that have none of their own; prefix + `unrecognized` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unrecognized: Option<String>,
    /// The topic of what no topic of its own could take; prefix + `dead-letter` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<String>,
    /// Commands that are answered and counted, neither kept nor published.
    pub discard: BTreeSet<String>,
    /// Make missing topics at start.
    pub create: bool,
    /// Partitions of a topic that we create: room for six consumers of a group, and few enough that batches stay large.
    pub partitions: NonZeroU16,
    /// Copies of a topic that we create.
    pub replication_factor: NonZeroU16,
    /// `max.message.bytes` of a topic that we create: the event of a callback of `http.body_max` fits.
    pub max_message: Size,
    /// The topic of one command, by its name; also gives one to a command that the bridge does not know.
    pub names: BTreeMap<String, String>,
    /// A topic's own settings for `topics apply`, by the topic's name: `partitions`, and Kafka's own.
    pub config: BTreeMap<String, BTreeMap<String, Setting>>,
}

/// A command that the bridge knows by itself. The settings of topics are judged with these in mind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownCommand<'a> {
    /// Chat's name of it.
    pub name: &'a str,
    /// What the name of its topic ends with, unless it is named outright.
    pub kind: &'a str,
}

impl Topics {
    /// The topic of a command that the bridge knows.
    pub(super) fn name_of(&self, command: KnownCommand<'_>) -> String {
        self.names.get(command.name).cloned().unwrap_or_else(|| format!("{}{}", self.prefix, command.kind))
    }

    /// Every topic that there is by these settings.
    pub(super) fn all_names(&self, known: &[KnownCommand<'_>]) -> BTreeSet<String> {
        let own = known.iter().map(|command| self.name_of(*command));
        own.chain(self.names.values().cloned()).chain([self.unrecognized_name(), self.dead_letter_name()]).collect()
    }

    /// The topic of commands that have none of their own.
    #[must_use]
    pub fn unrecognized_name(&self) -> String {
        self.unrecognized.clone().unwrap_or_else(|| format!("{}unrecognized", self.prefix))
    }

    /// The topic of dead letters.
    #[must_use]
    pub fn dead_letter_name(&self) -> String {
        self.dead_letter.clone().unwrap_or_else(|| format!("{}dead-letter", self.prefix))
    }
}

/// A topic's setting: Kafka takes them all as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Setting(pub String);

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Setting;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("text, a number or a boolean")
            }

            fn visit_str<E>(self, text: &str) -> Result<Setting, E> {
                Ok(Setting(text.to_owned()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Setting, E> {
                Ok(Setting(number.to_string()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Setting, E> {
                Ok(Setting(number.to_string()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Setting, E> {
                Ok(Setting(number.to_string()))
            }

            fn visit_bool<E>(self, truth: bool) -> Result<Setting, E> {
                Ok(Setting(truth.to_string()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Default for Topics {
    fn default() -> Self {
        Self {
            prefix: "chat.".to_owned(),
            unrecognized: None,
            dead_letter: None,
            discard: BTreeSet::new(),
            create: false,
            partitions: const { NonZeroU16::new(6).unwrap() },
            replication_factor: const { NonZeroU16::new(3).unwrap() },
            max_message: Size::from_mib(9),
            names: BTreeMap::new(),
            config: BTreeMap::new(),
        }
    }
}
