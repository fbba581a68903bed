//! The topics as the cluster has them: what exists, what they are set to; creating and changing them.
//!
//! All functions wait on the calling thread, each for a bounded time, and may be called inside an async runtime's thread too (they would block it). None makes a
//! topic by asking for it.

mod plan;
mod wait;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ConfigSource, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode as Code;

pub use plan::{
    Change, Creation, Found, MorePartitions, Outcome, Plan, Step, TopicPlan, Wanted, apply, create_missing, plan, wanted, wanted_positions,
};

use super::producer::{is_echo, log};
use super::{Error, ErrorCode, Settings, creation};

/// The setting that limits the size of a batch, and so of a record.
pub const MAX_MESSAGE_BYTES: &str = "max.message.bytes";

/// How long a change that the controller has made takes at most to reach the other brokers.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks whether it has.
const SETTLED_LOOK: Duration = Duration::from_millis(50);

/// Whether a topic is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is, with so many partitions, each in so many copies.
    Exists {
        /// Its partitions.
        partitions: usize,
        /// The copies of its first partition.
        replicas: usize,
    },
    /// It is not, or no topic can bear its name.
    Missing,
    /// We may not even ask; it may exist or not.
    NotAuthorised,
    /// Kafka could not say: it was not reached, or the topic is just being made.
    Unknown,
}

/// What the cluster says of topics, within `timeout` altogether, and the error that ended the asking, if one did.
pub(super) fn lookup<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> (BTreeMap<String, Presence>, Option<KafkaError>) {
    let deadline = Instant::now() + timeout;
    let mut found: BTreeMap<String, Presence> = topics.iter().map(|topic| ((*topic).to_owned(), Presence::Unknown)).collect();
    for topic in topics {
        // A zero timeout would make librdkafka give up before it has asked.
        let remaining = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match client.fetch_metadata(Some(topic), remaining) {
            Ok(metadata) => {
                for topic in metadata.topics() {
                    found.insert(topic.name().to_owned(), presence(topic));
                }
            }
            // Whatever hinders one request hinders the next, and each would wait its whole time.
            Err(error) => return (found, Some(error)),
        }
    }
    (found, None)
}

fn presence(topic: &rdkafka::metadata::MetadataTopic) -> Presence {
    match topic.error().map(Code::from) {
        None => {
            let partitions = topic.partitions();
            let replicas = partitions.first().map_or(0, |partition| partition.replicas().len());
            Presence::Exists { partitions: partitions.len(), replicas }
        }
        Some(Code::UnknownTopicOrPartition | Code::InvalidTopic) => Presence::Missing,
        Some(Code::TopicAuthorizationFailed) => Presence::NotAuthorised,
        Some(_) => Presence::Unknown,
    }
}

/// A setting of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// What holds, whoever set it; `None` where Kafka keeps it to itself.
    pub value: Option<String>,
    /// Whether it was set on this very topic, where others come from the cluster.
    pub own: bool,
}

/// The settings of one topic, by name.
pub type TopicSettings = BTreeMap<String, Setting>;

/// How large a record each topic takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageLimits {
    /// `max.message.bytes` of each topic that tells it.
    pub topics: BTreeMap<String, u64>,
}

impl MessageLimits {
    /// The smallest; `None` where none is known, for want of the right to ask.
    #[must_use]
    pub fn smallest(&self) -> Option<u64> {
        self.topics.values().min().copied()
    }
}

/// A connection for asking about topics and changing them. Make it when it is needed and drop it: nothing keeps it alive.
pub struct Admin {
    /// Asks for metadata, and hears why the brokers cannot be reached, which an `AdminClient` keeps to itself.
    ear: BaseProducer<Ear>,
    client: AdminClient<DefaultClientContext>,
    timeout: Duration,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Admin").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Admin {
    /// Makes the clients; Kafka need not be there. Each operation has `timeout` in all.
    pub fn new(settings: &Settings, timeout: Duration) -> Result<Self, Error> {
        let ear = Ear { settings: settings.clone(), heard: Mutex::default(), echo: Mutex::default() };
        let ear = settings.admin().create_with_context(ear).map_err(|error| creation(&error))?;
        let client = settings.admin().create_with_context(DefaultClientContext).map_err(|error| creation(&error))?;
        Ok(Self { ear, client, timeout })
    }

    /// Whether the topics are there.
    ///
    /// # Errors
    /// Where no broker answered; a topic that could not be told about is [`Presence::Unknown`].
    pub fn describe(&self, topics: &[&str]) -> Result<BTreeMap<String, Presence>, Error> {
        let (found, error) = lookup(self.ear.client(), topics, self.timeout);
        match error {
            None => Ok(found),
            Some(error) => Err(self.unreachable(&error)),
        }
    }

    /// The topics' settings. A topic whose settings may not be read, or that does not exist, is absent.
    pub fn settings(&self, topics: &[&str]) -> Result<BTreeMap<String, TopicSettings>, Error> {
        let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        if resources.is_empty() {
            return Ok(BTreeMap::new());
        }
        let described = self.wait("read the topics' settings", self.client.describe_configs(&resources, &self.options()))?;
        let mut settings = BTreeMap::new();
        for resource in described.into_iter().flatten() {
            let rdkafka::admin::OwnedResourceSpecifier::Topic(topic) = resource.specifier else { continue };
            // rdkafka 0.39 does not pass on a resource's own error; without settings there was one, for every topic has some.
            if resource.entries.is_empty() {
                continue;
            }
            let entry = |entry: rdkafka::admin::ConfigEntry| {
                let own = entry.source == ConfigSource::DynamicTopic;
                (entry.name, Setting { value: entry.value.filter(|_| !entry.is_sensitive), own })
            };
            settings.insert(topic, resource.entries.into_iter().map(entry).collect());
        }
        Ok(settings)
    }

    /// How large a record each topic takes, as far as we may ask.
    pub fn message_limits(&self, topics: &[&str]) -> Result<MessageLimits, Error> {
        let limit =
            |(topic, settings): (String, TopicSettings)| Some((topic, settings.get(MAX_MESSAGE_BYTES)?.value.as_ref()?.parse().ok()?));
        Ok(MessageLimits { topics: self.settings(topics)?.into_iter().filter_map(limit).collect() })
    }

    /// Makes topics. One that is there already counts as made.
    pub fn create(&self, topics: &[&Wanted]) -> Result<Vec<Creation>, Error> {
        let new: Vec<NewTopic<'_>> = topics.iter().map(|topic| new_topic(topic)).collect();
        if new.is_empty() {
            return Ok(Vec::new());
        }
        let made = self.wait("create topics", self.client.create_topics(&new, &self.options()))?;
        let creation = |made: Result<String, (String, Code)>| match made {
            // It may be there already: another bridge has been quicker.
            Ok(topic) | Err((topic, Code::TopicAlreadyExists)) => Creation { topic, outcome: Ok(()) },
            Err((topic, code)) => Creation { topic, outcome: Err(ErrorCode(code)) },
        };
        Ok(made.into_iter().map(creation).collect())
    }

    /// Gives a topic more partitions, `partitions` in all.
    pub fn add_partitions(&self, topic: &str, partitions: usize) -> Result<(), Error> {
        let new = [NewPartitions::new(topic, partitions)];
        let made = self.wait("add partitions", self.client.create_partitions(&new, &self.options()))?;
        first("add partitions", made)
    }

    /// Changes some of a topic's own settings and keeps the others.
    ///
    /// Kafka's request behind this replaces all of a topic's own settings (rdkafka 0.39 has no other), so they are read first and written back with the changes, and
    /// read until all are there. A change that somebody else makes in between, a matter of milliseconds, is lost; where they cannot be read
    /// whole, nothing is written.
    pub fn change_settings(&self, topic: &str, changes: &BTreeMap<String, String>) -> Result<(), Error> {
        let operation = "change a topic's settings";
        let refused = |code| Error::Refused { operation, code: ErrorCode(code) };
        let before = self.settings(&[topic])?.remove(topic).ok_or_else(|| refused(Code::TopicAuthorizationFailed))?;
        let mut all = BTreeMap::new();
        for (name, setting) in before.into_iter().filter(|(_, setting)| setting.own) {
            let value = changes.get(&name).cloned().or(setting.value).ok_or_else(|| refused(Code::InvalidConfig))?;
            all.insert(name, value);
        }
        all.extend(changes.clone());
        let mut alter = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for (name, value) in &all {
            alter = alter.set(name, value);
        }
        let altered = self.wait(operation, self.client.alter_configs(&[alter], &self.options()))?;
        first(
            operation,
            altered.into_iter().map(|altered| altered.map(|_| topic.to_owned()).map_err(|(_, code)| (topic.to_owned(), code))).collect(),
        )?;
        self.settled(topic, &all)
    }

    /// Waits until the broker that is asked has heard of all these settings from the controller. rdkafka 0.39 does not pass on that Kafka has refused some, so
    /// this is what tells.
    fn settled(&self, topic: &str, expected: &BTreeMap<String, String>) -> Result<(), Error> {
        let deadline = Instant::now() + self.timeout.min(SETTLED_WITHIN);
        loop {
            let now = self.settings(&[topic])?.remove(topic).unwrap_or_default();
            let holds = |(name, value): (&String, &String)| {
                now.get(name).is_some_and(|setting| setting.own && plan::same(setting.value.as_deref(), value))
            };
            if expected.iter().all(holds) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::NotTaken { topic: topic.to_owned() });
            }
            std::thread::sleep(SETTLED_LOOK);
        }
    }

    /// Waits until the brokers show the topic with so many partitions: they hear of it from the controller after it has answered.
    fn seen(&self, topic: &str, least: usize) -> Result<(), Error> {
        let deadline = Instant::now() + self.timeout.min(SETTLED_WITHIN);
        loop {
            let found = self.describe(&[topic])?;
            if matches!(found.get(topic), Some(Presence::Exists { partitions, .. }) if *partitions >= least) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::Unseen { topic: topic.to_owned() });
            }
            std::thread::sleep(SETTLED_LOOK);
        }
    }

    fn options(&self) -> AdminOptions {
        AdminOptions::new().request_timeout(Some(self.timeout)).operation_timeout(Some(self.timeout))
    }

    fn wait<T>(&self, operation: &'static str, answer: impl Future<Output = KafkaResult<T>>) -> Result<T, Error> {
        // librdkafka keeps the time itself; the second limit is for the case that it does not.
        let Some(answer) = wait::for_at_most(self.timeout + Duration::from_secs(5), answer) else {
            return Err(self.unreachable(&KafkaError::AdminOp(Code::OperationTimedOut)));
        };
        answer.map_err(|error| {
            let KafkaError::AdminOp(code) = error else { return Error::Client(error.to_string()) };
            let gone = [Code::OperationTimedOut, Code::BrokerTransportFailure, Code::AllBrokersDown, Code::Authentication, Code::SSL];
            if gone.contains(&code) { self.unreachable(&error) } else { Error::Refused { operation, code: ErrorCode(code) } }
        })
    }

    /// The most telling of what the connections have reported, for `error` itself says only that the time is over.
    fn unreachable(&self, error: &KafkaError) -> Error {
        self.ear.poll(Duration::from_millis(10));
        let heard = self.ear.context().heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let telling = [&[Code::Authentication, Code::SSL][..], &[Code::Resolve], &[Code::BrokerTransportFailure]];
        let reason =
            telling.iter().find_map(|codes| heard.iter().rev().find(|(code, _)| codes.contains(code)).map(|(_, reason)| reason.clone()));
        Error::Unreachable(reason.unwrap_or_else(|| error.to_string()))
    }
}

fn new_topic(topic: &Wanted) -> NewTopic<'_> {
    let mut new = NewTopic::new(&topic.name, i32::from(topic.partitions), TopicReplication::Fixed(i32::from(topic.replication_factor)));
    for (name, value) in &topic.settings {
        new = new.set(name, value);
    }
    new
}

fn first(operation: &'static str, results: Vec<Result<String, (String, Code)>>) -> Result<(), Error> {
    match results.into_iter().next() {
        Some(Ok(_)) => Ok(()),
        Some(Err((_, code))) => Err(Error::Refused { operation, code: ErrorCode(code) }),
        None => Err(Error::Refused { operation, code: ErrorCode(Code::NoError) }),
    }
}

/// Remembers the last errors of the connections.
struct Ear {
    settings: Settings,
    heard: Mutex<Vec<(Code, String)>>,
    echo: Mutex<Option<(Code, String)>>,
}

/// Errors that are remembered: enough for each of a cluster's brokers to have been tried.
const HEARD_MAX: usize = 64;

impl ClientContext for Ear {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(&self.settings, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        let reason = self.settings.redact(reason);
        if is_echo(&self.echo, code, &reason) {
            return;
        }
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.len() < HEARD_MAX {
            heard.push((code, reason));
        }
    }
}

impl ProducerContext for Ear {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// The names of `topics` that do not exist.
#[must_use]
pub fn missing(found: &BTreeMap<String, Presence>) -> BTreeSet<&str> {
    found.iter().filter(|(_, presence)| **presence == Presence::Missing).map(|(topic, _)| topic.as_str()).collect()
}
