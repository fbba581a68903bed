//! Consumers of other languages, with the CloudEvents SDK of each: what teams behind the topics would write.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use super::kafka::{java, locked, made, run};
use super::tests_dir;

/// A consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    /// `tests/consumers/java`: kafka-clients, io.cloudevents.
    Java,
    /// `tests/consumers/python`: confluent-kafka, cloudevents.
    Python,
}

/// An event as a consumer has understood it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Event {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<String>,
    /// Why the SDK could not read it; then nothing follows.
    #[serde(default)]
    pub(crate) error: Option<String>,
    #[serde(default)]
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) r#type: String,
    #[serde(default)]
    pub(crate) source: String,
    #[serde(default)]
    pub(crate) subject: Option<String>,
    #[serde(default)]
    pub(crate) time: Option<String>,
    /// Attributes beyond the specification's own.
    #[serde(default)]
    pub(crate) extensions: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    pub(crate) data: serde_json::Value,
}

/// The first `count` events of the topics, read from their beginning, by topic, partition and offset.
///
/// # Panics
/// Where they do not come in time.
pub(crate) fn events(language: Language, bootstrap_servers: &str, topics: &[&str], count: usize, timeout: Duration) -> Vec<Event> {
    let program = match language {
        Language::Java => [java(), vec!["Events".to_owned()]].concat(),
        Language::Python => python(),
    };
    let mut command = Command::new(&program[0]);
    command.args(&program[1..]).args([bootstrap_servers, &count.to_string(), &timeout.as_secs().to_string()]).args(topics);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{language:?}: {}", String::from_utf8_lossy(&done.stderr));
    let mut events: Vec<Event> = done.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(event).collect();
    events.sort_by(|a, b| (&a.topic, a.partition, a.offset).cmp(&(&b.topic, b.partition, b.offset)));
    events
}

/// What a Java consumer counts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Counted {
    pub(crate) records: u64,
    /// Different ids of events.
    pub(crate) ids: u64,
    /// Ids that stand more than once, and how often.
    pub(crate) repeated: BTreeMap<String, u64>,
}

/// Which records a consumer is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    ReadCommitted,
    ReadUncommitted,
}

/// Counts each event of the topics, as they are now, with the Java client.
///
/// # Panics
/// Where their ends cannot be reached in time.
pub(crate) fn count(bootstrap_servers: &str, isolation: Isolation, topics: &[&str], timeout: Duration) -> Counted {
    let isolation = match isolation {
        Isolation::ReadCommitted => "read_committed",
        Isolation::ReadUncommitted => "read_uncommitted",
    };
    let program = java();
    let mut command = Command::new(&program[0]);
    command.args(&program[1..]).args(["Count", bootstrap_servers, isolation, &timeout.as_secs().to_string()]).args(topics);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&done.stdout)))
}

fn event(line: &[u8]) -> Event {
    serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(line)))
}

/// The interpreter of a virtual environment that is made once, and the program.
fn python() -> Vec<String> {
    let (target, _lock) = locked();
    let requirements = tests_dir("consumers/python/requirements.txt");
    let environment = made(&target, "python", &[&requirements], |folder| {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder));
        run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&requirements));
    });
    [environment.join("bin/python"), tests_dir("consumers/python/events.py")].map(|path| path.display().to_string()).to_vec()
}
