//! The topics as the proof reads them: their names, and where their partitions end.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;

use super::command::Command;

/// The kinds that a name may be given for, and whose topics are read.
pub const KINDS: [&str; 5] = ["group-disband", "member-exit", "group-full", "unrecognized", "dead-letter"];

/// Which cluster, and how to speak to it.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// `host:port`, several with commas.
    pub bootstrap_servers: String,
    /// Passed on to librdkafka.
    pub properties: BTreeMap<String, String>,
    /// How long one question to it may take.
    pub timeout: Duration,
}

/// What librdkafka said. Its own error names its cause in its text and once more as its source; this one says it once.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Said(Box<KafkaError>);

impl From<KafkaError> for Said {
    fn from(error: KafkaError) -> Self {
        Self(Box::new(error))
    }
}

/// Why Kafka could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// librdkafka does not take the settings.
    #[error("failed to set up the Kafka client")]
    Settings(#[source] Said),
    /// The cluster does not answer.
    #[error("failed to ask Kafka at {bootstrap_servers} for {what}")]
    Unavailable {
        /// Whom.
        bootstrap_servers: String,
        /// What was asked for.
        what: String,
        /// librdkafka's word.
        #[source]
        source: Said,
    },
    /// A kind that has no topic here.
    #[error("\"{0}\" is none of group-disband, member-exit, group-full, unrecognized, dead-letter")]
    UnknownKind(String),
}

/// The topics by name; several kinds may share one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    names: Vec<String>,
    /// Where in `names` the topic of each of [`KINDS`] stands.
    by_kind: [usize; KINDS.len()],
}

impl Topics {
    /// The prefix and the kind, but for the kinds that have a name of their own.
    pub fn new(prefix: &str, own: &BTreeMap<String, String>) -> Result<Self, Error> {
        if let Some(unknown) = own.keys().find(|kind| !KINDS.contains(&kind.as_str())) {
            return Err(Error::UnknownKind(unknown.clone()));
        }
        let mut names: Vec<String> = Vec::new();
        let by_kind = KINDS.map(|kind| {
            let name = own.get(kind).cloned().unwrap_or_else(|| format!("{prefix}{kind}"));
            names.iter().position(|known| *known == name).unwrap_or_else(|| {
                names.push(name);
                names.len() - 1
            })
        });
        Ok(Self { names, by_kind })
    }

    /// The names, each once.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The place among the names of a command's topic.
    pub(crate) fn of_command(&self, command: Command) -> Option<usize> {
        self.by_kind.get(command.index()).copied()
    }

    /// The place among the names of the dead letters' topic.
    pub(crate) const fn of_dead_letters(&self) -> usize {
        let [.., dead_letter] = self.by_kind;
        dead_letter
    }
}

impl Cluster {
    /// A consumer that reads by assignment: it joins no group and stores no offsets.
    pub(crate) fn consumer(&self) -> Result<BaseConsumer, Error> {
        let mut settings = ClientConfig::new();
        settings
            .set("bootstrap.servers", &self.bootstrap_servers)
            // librdkafka asks for a group's name even of a consumer that never joins one.
            .set("group.id", "chat-bridge-simulate")
            .set("client.id", "chat-bridge-simulate")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "100");
        settings.extend(self.properties.iter().map(|(key, value)| (key.clone(), value.clone())));
        settings
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("allow.auto.create.topics", "false");
        BaseConsumer::from_config(&settings).map_err(|source| Error::Settings(source.into()))
    }

    /// How many partitions each of the topics has; what is not there is absent.
    pub(crate) fn partitions(&self, consumer: &BaseConsumer, topics: &Topics) -> Result<BTreeMap<usize, i32>, Error> {
        // All topics are asked for: a question for one that is missing could make it.
        let metadata = consumer.fetch_metadata(None, self.timeout).map_err(|source| self.unavailable("its topics", source))?;
        let mut found = BTreeMap::new();
        for topic in metadata.topics() {
            if let Some(index) = topics.names().iter().position(|name| name == topic.name())
                && topic.error().is_none()
            {
                found.insert(index, i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX));
            }
        }
        Ok(found)
    }

    /// The first offset of a partition that is still there, and the one after its last.
    pub(crate) fn bounds(&self, consumer: &BaseConsumer, topic: &str, partition: i32) -> Result<(i64, i64), Error> {
        consumer
            .fetch_watermarks(topic, partition, self.timeout)
            .map_err(|source| self.unavailable(&format!("the offsets of {topic}/{partition}"), source))
    }

    /// Where each topic's partitions end now.
    pub fn end_offsets(&self, topics: &Topics) -> Result<BTreeMap<String, Vec<i64>>, Error> {
        let consumer = self.consumer()?;
        let mut ends = BTreeMap::new();
        for (index, partitions) in self.partitions(&consumer, topics)? {
            let Some(name) = topics.names().get(index) else { continue };
            let offsets = (0..partitions).map(|partition| self.bounds(&consumer, name, partition).map(|(_, end)| end));
            ends.insert(name.clone(), offsets.collect::<Result<_, _>>()?);
        }
        Ok(ends)
    }

    pub(crate) fn unavailable(&self, what: &str, source: KafkaError) -> Error {
        Error::Unavailable { bootstrap_servers: self.bootstrap_servers.clone(), what: what.to_owned(), source: source.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_the_prefix_or_a_name_of_its_own() {
        let own =
            BTreeMap::from([("group-full".to_owned(), "im.full".to_owned()), ("unrecognized".to_owned(), "chat.member-exit".to_owned())]);
        let topics = Topics::new("chat.", &own).unwrap();
        assert_eq!(topics.names(), ["chat.group-disband", "chat.member-exit", "im.full", "chat.dead-letter"]);
        assert_eq!(Command::ALL.map(|command| topics.of_command(command)), [Some(0), Some(1), Some(2)]);
        assert_eq!(topics.of_dead_letters(), 3);
    }

    #[test]
    fn a_name_for_a_kind_that_is_none_is_refused() {
        let own = BTreeMap::from([("group-fall".to_owned(), "x".to_owned())]);
        assert!(matches!(Topics::new("chat.", &own), Err(Error::UnknownKind(kind)) if kind == "group-fall"));
    }
}
