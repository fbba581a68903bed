//! The proof: what a load's log says was acknowledged is in the topics, and what is there was sent.
//!
//! It reads the topics one after the other, each from where the load found it (or its beginning) to where it ended when it was looked at, and begins again as long
//! as acknowledged callbacks are missing and something new of them came within the timeout. It joins no group and stores no offsets, so that it disturbs nobody. What is published
//! after it has ended it cannot judge: the bridge ought to be idle by then.

mod checks;
mod observed;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

pub use checks::Repetitions;
pub use report::{Finding, Findings, Report, Violation};

use super::identity::RunMark;
use super::load::Percentiles;
use super::log::{self, Header};
use super::topics::{self, Cluster, Said, Topics};
use checks::{Checks, Occurrence, Place};
use observed::Observed;

/// How long one look for the next record takes.
const POLL: Duration = Duration::from_millis(100);

/// The pause before the topics are looked at again.
const PAUSE: Duration = Duration::from_millis(200);

/// Delays up to a week are told apart, to three digits.
const DELAY_MAX_MICROS: u64 = 7 * 24 * 3_600_000_000;

/// So many records go by between two words on the progress.
const PROGRESS_EVERY: u64 = 1_000;

/// A proof.
#[derive(Clone, Debug)]
pub struct Config {
    /// The load's log.
    pub log: PathBuf,
    /// The cluster.
    pub cluster: Cluster,
    /// The topics.
    pub topics: Topics,
    /// How long to wait where nothing new comes.
    pub timeout: Duration,
    /// Whether events may stand there more than once.
    pub repetitions: Repetitions,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Acknowledged callbacks.
    pub acknowledged: u64,
    /// Of these, found so far.
    pub found: u64,
    /// Records read, whoever's they are.
    pub records: u64,
}

/// Why there is no proof, either way.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The load's log cannot be read.
    #[error(transparent)]
    Log(#[from] log::Error),
    /// Kafka cannot be asked.
    #[error(transparent)]
    Topics(#[from] topics::Error),
    /// None of the topics is there: nothing was published yet, or to topics of other names.
    #[error("none of the topics exists: {}; --prefix and --topic must name the bridge's own", .0.join(", "))]
    NoTopics(Vec<String>),
    /// Kafka falls silent before the end of a topic.
    #[error("failed to read {topic}: nothing came for {seconds} s{}", last.as_ref().map(|last| format!(" ({last})")).unwrap_or_default())]
    Silent {
        /// Of which topic.
        topic: String,
        /// How long.
        seconds: u64,
        /// The last error that librdkafka told.
        last: Option<Said>,
    },
    /// The consumer cannot be told what to read.
    #[error("failed to read {topic}")]
    Assign {
        /// Which topic.
        topic: String,
        /// librdkafka's word.
        #[source]
        source: Said,
    },
    /// The histogram cannot be made.
    #[error("failed to make a histogram")]
    Histogram(#[from] hdrhistogram::CreationError),
}

/// Reads the log and the topics, and judges.
pub fn run(config: &Config, progress: &mut dyn FnMut(Progress)) -> Result<Report, Error> {
    let mut checks = Checks::new(config.topics.clone(), config.repetitions);
    let header = log::read(&config.log, |_, line| checks.sent(&line))?;
    let consumer = config.cluster.consumer()?;
    let mut reading = Reading {
        config,
        consumer,
        next: BTreeMap::new(),
        checks,
        delays: Histogram::new_with_bounds(1, DELAY_MAX_MICROS, 3)?,
        read: 0,
        others: 0,
        unreadable: 0,
        missing_topics: BTreeSet::new(),
        header,
    };
    let mut found = 0;
    let mut since = Instant::now();
    loop {
        reading.pass(progress)?;
        if reading.checks.awaited() == 0 {
            break;
        }
        if reading.checks.counts().acknowledged_found > found {
            found = reading.checks.counts().acknowledged_found;
            since = Instant::now();
        }
        if since.elapsed() >= config.timeout {
            break;
        }
        // Nothing is assigned now, so that this only gives librdkafka's events their turn.
        drop(reading.consumer.poll(PAUSE));
    }
    if reading.missing_topics.len() == config.topics.names().len() {
        return Err(Error::NoTopics(reading.missing_topics.into_iter().collect()));
    }
    Ok(reading.finish())
}

struct Reading<'a> {
    config: &'a Config,
    consumer: BaseConsumer,
    header: Header,
    /// The next offset, by topic and partition.
    next: BTreeMap<(usize, i32), i64>,
    checks: Checks,
    delays: Histogram<u64>,
    read: u64,
    others: u64,
    unreadable: u64,
    missing_topics: BTreeSet<String>,
}

/// The part of a partition that one pass reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    next: i64,
    /// The end as it was when the pass looked; never read beyond on purpose, though a fetch may bring more.
    end: i64,
}

impl Reading<'_> {
    /// Reads all topics to where they end now.
    fn pass(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<(), Error> {
        let partitions = self.config.cluster.partitions(&self.consumer, &self.config.topics)?;
        for (topic, name) in self.config.topics.names().iter().enumerate() {
            match partitions.get(&topic) {
                None => {
                    self.missing_topics.insert(name.clone());
                }
                Some(count) => {
                    self.missing_topics.remove(name);
                    let spans = self.spans(topic, name, *count)?;
                    if !spans.is_empty() {
                        self.read_topic(topic, name, spans, progress)?;
                    }
                }
            }
        }
        progress(self.progress());
        Ok(())
    }

    fn progress(&self) -> Progress {
        let counts = self.checks.counts();
        Progress { acknowledged: counts.acknowledged, found: counts.acknowledged_found, records: self.read }
    }

    /// What is unread of each partition; a partition that is read to its end is not among them.
    fn spans(&self, topic: usize, name: &str, partitions: i32) -> Result<BTreeMap<i32, Span>, Error> {
        let start = self.header.offsets.get(name);
        let mut spans = BTreeMap::new();
        for partition in 0..partitions {
            let (first, end) = self.config.cluster.bounds(&self.consumer, name, partition)?;
            let from_log = || start.zip(usize::try_from(partition).ok()).and_then(|(start, partition)| start.get(partition)).copied();
            let next = self.next.get(&(topic, partition)).copied().or_else(from_log).unwrap_or(first);
            // A topic that was made again begins anew, below what was read of the former one.
            let next = if (first..=end).contains(&next) { next } else { first };
            if next < end {
                spans.insert(partition, Span { next, end });
            }
        }
        Ok(spans)
    }

    fn read_topic(
        &mut self,
        topic: usize,
        name: &str,
        mut spans: BTreeMap<i32, Span>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), Error> {
        let failed = |source: KafkaError| Error::Assign { topic: name.to_owned(), source: source.into() };
        let mut assignment = TopicPartitionList::with_capacity(spans.len());
        for (partition, span) in &spans {
            assignment.add_partition_offset(name, *partition, Offset::Offset(span.next)).map_err(failed)?;
        }
        self.consumer.assign(&assignment).map_err(failed)?;
        let mut heard = Instant::now();
        let mut last = None;
        while !spans.is_empty() {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    // librdkafka drops what it fetched for a former assignment; this makes sure of it.
                    if message.topic() != name {
                        continue;
                    }
                    let place = Place { topic, partition: message.partition(), offset: message.offset() };
                    let observed = observed::read(&message);
                    drop(message);
                    heard = Instant::now();
                    self.next.insert((topic, place.partition), place.offset + 1);
                    if spans.get(&place.partition).is_some_and(|span| place.offset + 1 >= span.end) {
                        spans.remove(&place.partition);
                    }
                    self.take(&observed, place);
                    if self.read.is_multiple_of(PROGRESS_EVERY) {
                        progress(self.progress());
                    }
                }
                // The rest up to the end is what transactions leave behind: markers, and what is not committed.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    heard = Instant::now();
                    spans.remove(&partition);
                }
                Some(Err(error)) => last = Some(Said::from(error)),
                None => {}
            }
            if heard.elapsed() >= self.config.timeout {
                return Err(Error::Silent { topic: name.to_owned(), seconds: self.config.timeout.as_secs(), last });
            }
        }
        self.consumer.unassign().map_err(failed)
    }

    fn take(&mut self, observed: &Observed, place: Place) {
        self.read += 1;
        match observed {
            Observed::Callback(copied) if copied.identity.run == RunMark::of(self.header.run) => {
                if self.checks.found(copied, place) == Occurrence::First
                    && let Some(millis) = copied.delay_millis
                {
                    // A delay below zero is one of clocks; it counts as none.
                    let micros = u64::try_from(millis).unwrap_or(0).saturating_mul(1_000);
                    self.delays.saturating_record(micros.max(1));
                }
            }
            Observed::Callback(_) | Observed::Foreign => self.others += 1,
            Observed::Unreadable => self.unreadable += 1,
        }
    }

    fn finish(self) -> Report {
        let (counts, violations) = self.checks.finish();
        Report {
            run: self.header.run,
            holds: violations.is_empty(),
            acknowledged: counts.acknowledged,
            refused: counts.refused,
            unknown: counts.unknown,
            acknowledged_found: counts.acknowledged_found,
            unknown_found: counts.unknown_found,
            records: counts.records,
            repetitions: counts.repetitions,
            dead_letters: counts.dead_letters,
            others: self.others,
            unreadable: self.unreadable,
            missing_topics: self.missing_topics.into_iter().collect(),
            receipt_to_kafka_seconds: Percentiles::of_micros(&self.delays),
            violations,
        }
    }
}

#[cfg(test)]
mod tests;
