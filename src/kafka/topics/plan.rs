//! What the configuration wants of the topics, how the cluster differs, and what is done about it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::{Admin, MAX_MESSAGE_BYTES, Presence, TopicSettings};
use crate::config;
use crate::kafka::{Error, ErrorCode};

/// What the configuration says of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: u16,
    /// The copies of each partition; counts only while it is made.
    pub replication_factor: u16,
    /// Its own settings, by Kafka's names.
    pub settings: BTreeMap<String, String>,
    /// Settings that must be met, not equalled: a topic that takes larger records is as good.
    #[serde(skip)]
    pub at_least: BTreeSet<String>,
}

/// What the configuration says of the topics of these names, `dead_letter` among them.
#[must_use]
pub fn wanted<N: AsRef<str>>(topics: &config::Topics, names: &[N], dead_letter: &str) -> Vec<Wanted> {
    let one = |name: &str| {
        let own = topics.config.get(name);
        let mut settings = BTreeMap::from([(MAX_MESSAGE_BYTES.to_owned(), topics.max_message.bytes().to_string())]);
        let mut at_least = BTreeSet::from([MAX_MESSAGE_BYTES.to_owned()]);
        let mut partitions = topics.partitions.get();
        for (key, value) in own.into_iter().flatten() {
            if key == PARTITIONS {
                partitions = value.0.parse().unwrap_or(partitions);
            } else {
                at_least.remove(key);
                settings.insert(key.clone(), value.0.clone());
            }
        }
        if name == dead_letter {
            // Keys of dead letters repeat or are absent, so compaction would drop some, or refuse them.
            settings.insert("cleanup.policy".to_owned(), "delete".to_owned());
        }
        Wanted { name: name.to_owned(), partitions, replication_factor: topics.replication_factor.get(), settings, at_least }
    };
    let mut names: Vec<&str> = names.iter().map(AsRef::as_ref).chain([dead_letter]).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(one).collect()
}

/// What exactly-once needs: the topic of the positions, compacted, in segments so small that a start has read its partition in a moment.
#[must_use]
pub fn wanted_positions(kafka: &config::Kafka, topics: &config::Topics) -> Option<Wanted> {
    if kafka.delivery == config::Delivery::AtLeastOnce {
        return None;
    }
    let fixed = [("cleanup.policy", "compact"), ("segment.bytes", SEGMENT_BYTES), ("min.cleanable.dirty.ratio", "0.1")];
    let mut settings: BTreeMap<String, String> = fixed.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let mut partitions = POSITIONS_PARTITIONS;
    for (key, value) in topics.config.get(&kafka.positions_topic).into_iter().flatten() {
        if key == PARTITIONS {
            partitions = value.0.parse().unwrap_or(partitions);
        } else {
            settings.insert(key.clone(), value.0.clone());
        }
    }
    Some(Wanted {
        name: kafka.positions_topic.clone(),
        partitions,
        replication_factor: topics.replication_factor.get(),
        settings,
        at_least: BTreeSet::new(),
    })
}

/// Instances that a topic of positions has room for, unless its own settings say otherwise: each is a partition, and an empty one costs next to nothing.
const POSITIONS_PARTITIONS: u16 = 32;

/// The segment that is written to is never compacted, and every start reads it: 16 MiB are some tens of thousands of commits.
const SEGMENT_BYTES: &str = "16777216";

/// The key of a topic's table in the configuration that is not one of Kafka's settings.
const PARTITIONS: &str = "partitions";

/// How the cluster differs from the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// One a topic, by name.
    pub topics: Vec<TopicPlan>,
}

/// How one topic differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopicPlan {
    /// Its name.
    pub topic: String,
    /// How it was found.
    pub found: Found,
    /// What `topics apply` does about it, in this order.
    pub steps: Vec<Step>,
    /// Differences that nobody can undo, or only by hand.
    pub notes: Vec<String>,
}

/// How a topic was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// It exists.
    Exists,
    /// It does not.
    Missing,
    /// We may not ask.
    NotAuthorised,
    /// Kafka could not say.
    Unknown,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Step {
    /// Make the topic.
    Create(Wanted),
    /// Set what differs, keep the rest.
    Change {
        /// By name.
        settings: BTreeMap<String, Change>,
    },
    /// Add partitions. Keys move, so it is done only where it is asked for.
    AddPartitions {
        /// As it is.
        from: usize,
        /// As it shall be.
        to: usize,
    },
}

/// A setting's value as it is and as it shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// As it is.
    pub from: Option<String>,
    /// As it shall be.
    pub to: String,
}

/// Whether topics that exist may get more partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MorePartitions {
    /// No: the keys of a topic would move to other partitions, and order be lost once.
    Refuse,
    /// Yes.
    Allow,
}

/// What became of a topic that was to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creation {
    /// Its name.
    pub topic: String,
    /// Done (by us or by somebody quicker), or Kafka's reason against it.
    pub outcome: Result<(), ErrorCode>,
}

/// What became of a step.
#[derive(Debug)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It was not allowed to be done.
    Held,
    /// It could not be done.
    Failed(Error),
}

impl Outcome {
    /// Why it could not be done.
    #[must_use]
    pub const fn error(&self) -> Option<&Error> {
        match self {
            Self::Failed(error) => Some(error),
            Self::Done | Self::Held => None,
        }
    }
}

/// Compares the cluster with the configuration.
pub fn plan(admin: &Admin, wanted: &[Wanted]) -> Result<Plan, Error> {
    let names: Vec<&str> = wanted.iter().map(|topic| topic.name.as_str()).collect();
    let found = admin.describe(&names)?;
    let existing: Vec<&str> = names.iter().filter(|name| matches!(found.get(**name), Some(Presence::Exists { .. }))).copied().collect();
    let settings = admin.settings(&existing)?;
    let one = |wanted: &Wanted| {
        let presence = found.get(&wanted.name).copied().unwrap_or(Presence::Unknown);
        compare(wanted, presence, settings.get(&wanted.name))
    };
    Ok(Plan { topics: wanted.iter().map(one).collect() })
}

/// Does what the plan says, topic after topic; `told` hears of each step. One that fails does not hinder the next.
pub fn apply(admin: &Admin, plan: &Plan, more: MorePartitions, mut told: impl FnMut(&TopicPlan, &Step, Outcome)) {
    for topic in &plan.topics {
        for step in &topic.steps {
            let outcome = match (step, more) {
                (Step::Create(wanted), _) => create(admin, wanted).map(|()| Outcome::Done),
                (Step::Change { settings }, _) => {
                    let changes = settings.iter().map(|(name, change)| (name.clone(), change.to.clone())).collect();
                    admin.change_settings(&topic.topic, &changes).map(|()| Outcome::Done)
                }
                (Step::AddPartitions { .. }, MorePartitions::Refuse) => Ok(Outcome::Held),
                (Step::AddPartitions { to, .. }, MorePartitions::Allow) => {
                    admin.add_partitions(&topic.topic, *to).and_then(|()| admin.seen(&topic.topic, *to)).map(|()| Outcome::Done)
                }
            };
            told(topic, step, outcome.unwrap_or_else(Outcome::Failed));
        }
    }
}

/// Makes a topic, and waits until it is seen: brokers show it with all its partitions at once, however many somebody quicker has given it.
fn create(admin: &Admin, wanted: &Wanted) -> Result<(), Error> {
    match admin.create(&[wanted])?.into_iter().next().map(|made| made.outcome) {
        Some(Err(code)) => Err(Error::Refused { operation: "create the topic", code }),
        Some(Ok(())) | None => admin.seen(&wanted.name, 1),
    }
}

/// Makes the topics that are missing and leaves the others alone. The answer names the topics that were missing; an error is one of reaching Kafka at all.
pub fn create_missing(admin: &Admin, wanted: &[Wanted]) -> Result<Vec<Creation>, Error> {
    let names: Vec<&str> = wanted.iter().map(|topic| topic.name.as_str()).collect();
    let found = admin.describe(&names)?;
    let missing = super::missing(&found);
    let missing: Vec<&Wanted> = wanted.iter().filter(|topic| missing.contains(topic.name.as_str())).collect();
    admin.create(&missing)
}

fn compare(wanted: &Wanted, presence: Presence, settings: Option<&TopicSettings>) -> TopicPlan {
    let mut plan = TopicPlan { topic: wanted.name.clone(), found: presence.into(), steps: Vec::new(), notes: Vec::new() };
    match presence {
        Presence::Missing => plan.steps.push(Step::Create(wanted.clone())),
        Presence::NotAuthorised => plan.notes.push("not authorised to describe it".to_owned()),
        Presence::Unknown => plan.notes.push("Kafka does not tell".to_owned()),
        Presence::Exists { partitions, replicas } => {
            match settings {
                None => plan.notes.push("not authorised to read its settings".to_owned()),
                Some(settings) => plan.compare_settings(wanted, settings),
            }
            plan.compare_shape(wanted, partitions, replicas);
        }
    }
    plan
}

impl TopicPlan {
    fn compare_settings(&mut self, wanted: &Wanted, settings: &TopicSettings) {
        let mut changes = BTreeMap::new();
        for (name, value) in &wanted.settings {
            let now = settings.get(name).and_then(|setting| setting.value.clone());
            let good = if wanted.at_least.contains(name) { reaches(now.as_deref(), value) } else { same(now.as_deref(), value) };
            if !good {
                changes.insert(name.clone(), Change { from: now, to: value.clone() });
            }
        }
        if !changes.is_empty() {
            self.steps.push(Step::Change { settings: changes });
        }
    }

    fn compare_shape(&mut self, wanted: &Wanted, partitions: usize, replicas: usize) {
        let to = usize::from(wanted.partitions);
        if partitions < to {
            self.steps.push(Step::AddPartitions { from: partitions, to });
        } else if partitions > to {
            self.notes.push(format!("more partitions than configured ({partitions}, not {to}); Kafka takes none away"));
        }
        if replicas != usize::from(wanted.replication_factor) {
            self.notes.push(format!(
                "another replication factor than configured ({replicas}, not {}); only a reassignment changes it",
                wanted.replication_factor
            ));
        }
    }
}

/// Whether a setting holds what it shall: lists in any order, all else letter by letter.
pub(super) fn same(now: Option<&str>, wanted: &str) -> bool {
    let list = |text: &str| text.split(',').map(|word| word.trim().to_owned()).collect::<BTreeSet<_>>();
    now.is_some_and(|now| list(now) == list(wanted))
}

fn reaches(now: Option<&str>, least: &str) -> bool {
    match (now.and_then(|now| now.parse::<u64>().ok()), least.parse::<u64>()) {
        (Some(now), Ok(least)) => now >= least,
        (None, _) | (_, Err(_)) => false,
    }
}

impl From<Presence> for Found {
    fn from(presence: Presence) -> Self {
        match presence {
            Presence::Exists { .. } => Self::Exists,
            Presence::Missing => Self::Missing,
            Presence::NotAuthorised => Self::NotAuthorised,
            Presence::Unknown => Self::Unknown,
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Exists => "exists",
            Self::Missing => "missing",
            Self::NotAuthorised => "not authorised",
            Self::Unknown => "unknown",
        })
    }
}

impl fmt::Display for Step {
    /// What is to be done, in one line.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(wanted) => {
                write!(out, "create: partitions={}, replication_factor={}", wanted.partitions, wanted.replication_factor)?;
                wanted.settings.iter().try_for_each(|(name, value)| write!(out, ", {name}={value}"))
            }
            Self::Change { settings } => {
                out.write_str("set:")?;
                let one = |(at, (name, change)): (usize, (&String, &Change))| {
                    let from = change.from.as_deref().unwrap_or("unknown");
                    write!(out, "{} {name}={} (now {from})", if at == 0 { "" } else { "," }, change.to)
                };
                settings.iter().enumerate().try_for_each(one)
            }
            Self::AddPartitions { from, to } => {
                write!(out, "add partitions: from {from} to {to}; keys move to other partitions, so only with --yes")
            }
        }
    }
}

impl Plan {
    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.iter().all(|topic| topic.steps.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::super::Setting;
    use super::*;

    fn configured() -> config::Topics {
        let mut topics = config::Topics { partitions: NonZeroU16::new(4).unwrap(), ..config::Topics::default() };
        let own = [("partitions", "12"), ("retention.ms", "86400000"), ("cleanup.policy", "compact")];
        topics.config.insert("im.full".to_owned(), own.map(|(key, value)| (key.to_owned(), config::Setting(value.to_owned()))).into());
        topics
    }

    fn one<'a>(wanted: &'a [Wanted], name: &str) -> &'a Wanted {
        wanted.iter().find(|topic| topic.name == name).unwrap()
    }

    fn settings(values: &[(&str, &str)]) -> TopicSettings {
        let setting = |(name, value): &(&str, &str)| ((*name).to_owned(), Setting { value: Some((*value).to_owned()), own: false });
        values.iter().map(setting).collect()
    }

    #[test]
    fn a_topic_is_wanted_with_its_own_settings_over_the_common_ones() {
        let wanted = wanted(&configured(), &["im.full", "chat.a", "chat.a"], "chat.dead-letter");
        assert_eq!(wanted.len(), 3);
        let full = one(&wanted, "im.full");
        assert_eq!((full.partitions, full.replication_factor), (12, 3));
        let expected = [("cleanup.policy", "compact"), ("max.message.bytes", "9437184"), ("retention.ms", "86400000")];
        assert_eq!(full.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>(), expected);
        assert_eq!(one(&wanted, "chat.a").partitions, 4);
        assert_eq!(one(&wanted, "chat.dead-letter").settings.get("cleanup.policy").map(String::as_str), Some("delete"));
        assert_eq!(one(&wanted, "chat.a").settings.get("cleanup.policy"), None);
    }

    #[test]
    fn a_dead_letter_topic_is_never_compacted_even_where_its_own_settings_ask_for_it() {
        let wanted = wanted(&configured(), &["chat.a"], "im.full");
        assert_eq!(one(&wanted, "im.full").settings.get("cleanup.policy").map(String::as_str), Some("delete"));
    }

    #[test]
    fn a_topic_of_positions_is_wanted_with_exactly_once_alone_and_compacted() {
        let mut topics = configured();
        let mut kafka = config::Kafka::default();
        assert_eq!(wanted_positions(&kafka, &topics), None);
        kafka.delivery = config::Delivery::ExactlyOnce;
        let wanted = wanted_positions(&kafka, &topics).unwrap();
        assert_eq!((wanted.name.as_str(), wanted.partitions, wanted.replication_factor), ("chat-bridge.positions", 32, 3));
        assert_eq!(wanted.settings.get("cleanup.policy").map(String::as_str), Some("compact"));
        assert!(!wanted.settings.contains_key(MAX_MESSAGE_BYTES));
        let own = BTreeMap::from([("partitions".to_owned(), config::Setting("100".to_owned()))]);
        topics.config.insert("chat-bridge.positions".to_owned(), own);
        assert_eq!(wanted_positions(&kafka, &topics).unwrap().partitions, 100);
    }

    #[test]
    fn what_differs_becomes_a_step_and_what_cannot_be_changed_a_note() {
        let wanted = wanted(&configured(), &["im.full", "chat.a"], "chat.dead-letter");
        let full = one(&wanted, "im.full");
        let exists = |partitions| Presence::Exists { partitions, replicas: 3 };
        let good = settings(&[
            ("max.message.bytes", "9437184"),
            ("retention.ms", "86400000"),
            ("cleanup.policy", "compact"),
            ("segment.bytes", "1"),
        ]);
        assert_eq!(compare(full, exists(12), Some(&good)).steps, []);

        let fewer = compare(full, exists(6), Some(&good));
        assert_eq!((fewer.steps, fewer.notes.len()), (vec![Step::AddPartitions { from: 6, to: 12 }], 0));
        let more = compare(full, exists(24), Some(&good));
        assert_eq!((more.steps.len(), more.notes.len()), (0, 1));
        let copies = compare(full, Presence::Exists { partitions: 12, replicas: 1 }, Some(&good));
        assert_eq!((copies.steps.len(), copies.notes.len()), (0, 1));

        let other = settings(&[("max.message.bytes", "1048588"), ("retention.ms", "604800000"), ("cleanup.policy", "compact")]);
        let Some(Step::Change { settings: changes }) = compare(full, exists(12), Some(&other)).steps.pop() else { panic!("no change") };
        let change = |from: &str, to: &str| Change { from: Some(from.to_owned()), to: to.to_owned() };
        assert_eq!(changes.len(), 2);
        assert_eq!(changes.get("max.message.bytes"), Some(&change("1048588", "9437184")));
        assert_eq!(changes.get("retention.ms"), Some(&change("604800000", "86400000")));
    }

    #[test]
    fn larger_records_than_wanted_are_good_unless_the_topic_s_own_settings_say_a_size() {
        let mut topics = configured();
        let larger = settings(&[("max.message.bytes", "20000000"), ("retention.ms", "86400000"), ("cleanup.policy", "compact")]);
        let exists = Presence::Exists { partitions: 12, replicas: 3 };
        assert_eq!(compare(one(&wanted(&topics, &["im.full"], "d"), "im.full"), exists, Some(&larger)).steps, []);
        let own = topics.config.get_mut("im.full").unwrap();
        own.insert("max.message.bytes".to_owned(), config::Setting("9437184".to_owned()));
        assert_eq!(compare(one(&wanted(&topics, &["im.full"], "d"), "im.full"), exists, Some(&larger)).steps.len(), 1);
    }

    #[test]
    fn only_a_topic_that_is_known_to_be_missing_is_made() {
        let wanted = wanted(&configured(), &["chat.a"], "chat.dead-letter");
        let a = one(&wanted, "chat.a");
        assert_eq!(compare(a, Presence::Missing, None).steps, [Step::Create(a.clone())]);
        for presence in [Presence::NotAuthorised, Presence::Unknown, Presence::Exists { partitions: 4, replicas: 3 }] {
            let plan = compare(a, presence, None);
            assert_eq!((plan.steps.len(), plan.notes.len()), (0, 1), "{presence:?}");
        }
    }

    #[test]
    fn steps_read_as_lines_and_as_json() {
        let wanted = wanted(&configured(), &["chat.a"], "chat.dead-letter");
        let create = Step::Create(one(&wanted, "chat.a").clone());
        assert_eq!(create.to_string(), "create: partitions=4, replication_factor=3, max.message.bytes=9437184");
        let json = serde_json::to_value(&create).unwrap();
        assert_eq!(json.get("do").and_then(|what| what.as_str()), Some("create"));
        assert_eq!(json.get("partitions").and_then(serde_json::Value::as_u64), Some(4));
        let add = serde_json::to_string(&Step::AddPartitions { from: 1, to: 2 }).unwrap();
        assert_eq!(add, r#"{"do":"add_partitions","from":1,"to":2}"#);
    }
}
