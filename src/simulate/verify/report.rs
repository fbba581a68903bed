//! What the proof came to, as text and JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use uuid::Uuid;

use crate::simulate::load::{Percentiles, or_dash};

/// So many examples of each violation are kept.
const EXAMPLES_MAX: usize = 5;

/// A promise that did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Violation {
    /// The load has no acknowledged callback, so that nothing is proved.
    NothingAcknowledged,
    /// An acknowledged callback is in no topic.
    Missing,
    /// An event of this run whose callback was never sent.
    Invented,
    /// A callback was refused, and is published all the same.
    RefusedPublished,
    /// Two events of one callback have two ids.
    SeveralIds,
    /// Events of two callbacks have one id.
    SharedId,
    /// Of two callbacks of one group, sent one after the other, the second stands before the first.
    OutOfOrder,
    /// Events of one group stand in two partitions of a topic.
    SplitGroup,
    /// A callback is published more than once, where that was asked not to be.
    Repeated,
    /// The key is not the `GroupId`.
    WrongKey,
    /// The topic is not that of the command.
    WrongTopic,
    /// Type, command, subject, group or headers are not those of what was sent.
    WrongContent,
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::NothingAcknowledged => "nothing acknowledged",
            Self::Missing => "missing",
            Self::Invented => "invented",
            Self::RefusedPublished => "refused, yet published",
            Self::SeveralIds => "several ids of one callback",
            Self::SharedId => "one id of several callbacks",
            Self::OutOfOrder => "out of order",
            Self::SplitGroup => "a group in several partitions",
            Self::Repeated => "repeated",
            Self::WrongKey => "wrong key",
            Self::WrongTopic => "wrong topic",
            Self::WrongContent => "wrong content",
        })
    }
}

/// How often a promise did not hold, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How often.
    pub count: u64,
    /// The first few.
    pub examples: Vec<String>,
}

/// All violations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Findings(BTreeMap<Violation, Finding>);

impl Findings {
    pub(super) fn add(&mut self, violation: Violation, example: impl FnOnce() -> String) {
        let finding = self.0.entry(violation).or_default();
        finding.count += 1;
        if finding.examples.len() < EXAMPLES_MAX {
            finding.examples.push(example());
        }
    }

    /// How often a promise did not hold.
    #[must_use]
    pub fn count(&self, violation: Violation) -> u64 {
        self.0.get(&violation).map_or(0, |finding| finding.count)
    }

    /// Each violation that there is.
    pub fn iter(&self) -> impl Iterator<Item = (Violation, &Finding)> {
        self.0.iter().map(|(violation, finding)| (*violation, finding))
    }

    /// Whether all held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What the proof came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Which run.
    pub run: Uuid,
    /// Whether every promise held.
    pub holds: bool,
    /// Callbacks that were answered 200.
    pub acknowledged: u64,
    /// Callbacks that were refused.
    pub refused: u64,
    /// Callbacks of which the load does not know.
    pub unknown: u64,
    /// Acknowledged callbacks that were found.
    pub acknowledged_found: u64,
    /// Unknown callbacks that were found.
    pub unknown_found: u64,
    /// Records of this run, repetitions included.
    pub records: u64,
    /// Records beyond the first of their callback.
    pub repetitions: u64,
    /// Of the records, dead letters.
    pub dead_letters: u64,
    /// Records that are no simulator's, or another run's.
    pub others: u64,
    /// Records that are neither an event nor a dead letter.
    pub unreadable: u64,
    /// Topics that do not exist.
    pub missing_topics: Vec<String>,
    /// From the receipt of a callback to the timestamp of its first record, seconds.
    pub receipt_to_kafka_seconds: Option<Percentiles>,
    /// What did not hold.
    pub violations: Findings,
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "run               {}", self.run)?;
        writeln!(out, "acknowledged      {}, {} of them found", self.acknowledged, self.acknowledged_found)?;
        writeln!(out, "unknown           {}, {} of them found: not answered, so either is right", self.unknown, self.unknown_found)?;
        writeln!(out, "refused           {}", self.refused)?;
        writeln!(out, "records           {}, {} of them repetitions, {} dead letters", self.records, self.repetitions, self.dead_letters)?;
        writeln!(out, "other records     {}, and {} unreadable", self.others, self.unreadable)?;
        if !self.missing_topics.is_empty() {
            writeln!(out, "topics not there  {}", self.missing_topics.join(", "))?;
        }
        writeln!(out, "receipt to Kafka  {}", or_dash(self.receipt_to_kafka_seconds.as_ref()))?;
        for (violation, finding) in self.violations.iter() {
            writeln!(out, "VIOLATED: {violation}: {}", finding.count)?;
            for example in &finding.examples {
                writeln!(out, "    {example}")?;
            }
        }
        out.write_str(if self.holds { "every promise holds" } else { "NOT every promise holds" })
    }
}
