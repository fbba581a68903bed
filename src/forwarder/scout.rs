//! Asks Kafka, and the files that secrets come from, on a thread of its own, so that the forwarder never waits for an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::config;
use crate::kafka::topics::{self, Admin, MessageLimits, Presence};
use crate::kafka::{self, ParkCause, Producer, Settings};
use crate::routing::{Routing, TopicId};

use super::lane::HoldCause;
use super::{Config, Forwarder, Limits, Rebuild};

/// How often topics that are not known to be there are looked up.
const LOOKUP_EVERY: Duration = Duration::from_secs(1);

/// How often the limits of the topics are asked for.
const LIMITS_EVERY: Duration = Duration::from_mins(10);

/// How soon that is tried again where Kafka was not there.
const LIMITS_AGAIN: Duration = Duration::from_secs(10);

/// How often files are compared: Kubernetes swaps links, so their times say nothing.
const FILES_EVERY: Duration = Duration::from_secs(5);

/// How long Kafka has for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What the forwarder asks and is told.
pub(super) struct Scout {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    asked: Condvar,
    forwarder: Thread,
}

#[derive(Default)]
struct State {
    producer: Option<Arc<Producer>>,
    /// Topics that are not known to be there.
    unknown: BTreeSet<String>,
    limits_asked: bool,
    stop: bool,
    findings: Findings,
}

/// What has been found out since the forwarder last looked.
#[derive(Default)]
struct Findings {
    presence: BTreeMap<String, Presence>,
    limits: Option<MessageLimits>,
    settings: Option<Settings>,
}

impl Scout {
    /// Starts the thread; every topic of the routing counts as not known to be there.
    pub(super) fn start(config: &Config, settings: &Settings, routing: &Routing, forwarder: Thread) -> std::io::Result<Self> {
        let published = routing.topics().iter().filter(|topic| routing.is_published(topic));
        let names: Vec<String> = published.map(|topic| topic.name.clone()).collect();
        let dead_letter = routing.topic(routing.topic_of(routing.dead_letter())).name.clone();
        let state = State { unknown: names.iter().cloned().collect(), ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), asked: Condvar::new(), forwarder });
        let errand = Errand {
            shared: Arc::clone(&shared),
            kafka: config.kafka.clone(),
            topics: config.topics.clone(),
            settings: settings.clone(),
            names,
            dead_letter,
            create: config.topics.create,
            limits: config.limits,
            limits_known: false,
            small: BTreeSet::new(),
        };
        thread::Builder::new().name("scout".to_owned()).spawn(move || errand.run())?;
        Ok(Self { shared })
    }

    /// Topics are looked up with the producer's own client, so that what is learned is its knowledge too.
    pub(super) fn use_producer(&self, producer: Option<Arc<Producer>>) {
        self.shared.lock().producer = producer;
        self.shared.asked.notify_one();
    }

    /// A topic is not known to be there: it is looked up until it is.
    pub(super) fn ask_topic(&self, name: &str) {
        self.shared.lock().unknown.insert(name.to_owned());
        self.shared.asked.notify_one();
    }

    /// A record was too large: the limits may have changed.
    pub(super) fn ask_limits(&self) {
        self.shared.lock().limits_asked = true;
        self.shared.asked.notify_one();
    }

    /// Ends the thread once its question of the moment is answered, which nobody waits for: it holds nothing.
    pub(super) fn stop(&self) {
        let mut state = self.shared.lock();
        state.stop = true;
        state.producer = None;
        drop(state);
        self.shared.asked.notify_one();
    }

    fn findings(&self) -> Findings {
        std::mem::take(&mut self.shared.lock().findings)
    }
}

impl Shared {
    /// No step under this lock can leave it half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Forwarder {
    /// Acts on what the scout has found out.
    pub(super) fn take_findings(&mut self, now: Instant) {
        let findings = self.scout.findings();
        for (name, presence) in findings.presence {
            let Some(topic) =
                self.routing.topics().iter().position(|topic| topic.name == name).and_then(|index| self.routing.topic_at(index))
            else {
                continue;
            };
            match presence {
                Presence::Exists { .. } => self.topic_found(topic),
                Presence::Missing => self.hold(topic, HoldCause::Parked(ParkCause::Missing), now),
                Presence::NotAuthorised => self.hold(topic, HoldCause::Parked(ParkCause::NotAuthorised), now),
                Presence::Unknown => {}
            }
        }
        if let Some(settings) = findings.settings {
            tracing::info!("kafka's secrets or certificates have changed");
            self.settings = settings.with_batches_below(self.message_max);
            self.rebuild.get_or_insert((Rebuild::Changed, now));
        }
        if let Some(limits) = findings.limits {
            self.message_max = limits.smallest();
            self.kafka_metrics.message_max_bytes.set(self.message_max.and_then(|max| i64::try_from(max).ok()).unwrap_or(0));
            let settings = self.settings.clone().with_batches_below(self.message_max);
            if settings.batch_bytes() != self.settings.batch_bytes() {
                tracing::info!(batch_bytes = settings.batch_bytes(), "the smallest max.message.bytes of our topics has changed");
                self.settings = settings;
                self.rebuild.get_or_insert((Rebuild::Changed, now));
            }
        }
    }

    fn topic_found(&mut self, topic: TopicId) {
        // In a transaction nothing waits in the window, so that only the record that is tried next tells.
        let owed = self.exactly_once.is_some() || topic == self.dead_letter_topic() && self.aparts.owe_dead_letters();
        let Some(lane) = self.lane_mut(topic) else { return };
        if owed && lane.held() == Some(HoldCause::Parked(ParkCause::NotAuthorised)) {
            // Whether it may be written, only the next record tells.
            lane.looked_up();
        } else if let Some(HoldCause::Parked(_)) = lane.found() {
            tracing::info!(topic = %self.routing.topic(topic).name, "topic found");
            self.unpark(topic);
        }
    }
}

/// The thread's own state.
struct Errand {
    shared: Arc<Shared>,
    kafka: config::Kafka,
    topics: config::Topics,
    settings: Settings,
    names: Vec<String>,
    dead_letter: String,
    /// Missing topics are still to be made.
    create: bool,
    limits: Limits,
    /// They have been asked for, with whatever outcome, since Kafka was first reached.
    limits_known: bool,
    /// Topics that were found to take less than `topics.max_message`, so that each is said once.
    small: BTreeSet<String>,
}

impl Errand {
    fn run(mut self) {
        let mut limits_at = Instant::now();
        let mut limits_asked_at = limits_at;
        let mut lookup_at = Instant::now();
        let mut files_at = Instant::now() + FILES_EVERY;
        loop {
            let mut state = self.shared.lock();
            let now = Instant::now();
            let next = match (&state.producer, self.create || !state.unknown.is_empty()) {
                (None, _) => files_at,
                (Some(_), true) => lookup_at.min(limits_at).min(files_at),
                (Some(_), false) => limits_at.min(files_at),
            };
            let asked_at = if state.limits_asked { limits_asked_at + LIMITS_AGAIN } else { limits_at };
            let next = next.min(asked_at);
            if !state.stop && now < next {
                state = self.shared.asked.wait_timeout(state, next - now).unwrap_or_else(PoisonError::into_inner).0;
            }
            if state.stop {
                return;
            }
            let Some(producer) = state.producer.clone() else {
                drop(state);
                files_at = self.compare_files(files_at);
                continue;
            };
            let unknown = state.unknown.clone();
            drop(state);

            let now = Instant::now();
            if now >= lookup_at && (self.create || !unknown.is_empty()) {
                self.create_missing();
                self.look_up(&producer, &unknown);
                lookup_at = Instant::now() + LOOKUP_EVERY;
            }
            if now >= asked_at {
                self.shared.lock().limits_asked = false;
                limits_asked_at = now;
                limits_at = Instant::now() + if self.ask_limits() { LIMITS_EVERY } else { LIMITS_AGAIN };
            }
            files_at = self.compare_files(files_at);
        }
    }

    fn look_up(&mut self, producer: &Producer, unknown: &BTreeSet<String>) {
        let names: Vec<&str> = unknown.iter().map(String::as_str).collect();
        let presence = producer.lookup(&names, ANSWER_MAX);
        // Nothing is sent before batches are known to stay below every topic's limit, for a record that is too large takes its batch along.
        if !self.limits_known && presence.values().any(|presence| *presence != Presence::Unknown) {
            self.ask_limits();
        }
        let mut state = self.shared.lock();
        for (name, presence) in presence {
            if matches!(presence, Presence::Exists { .. }) {
                state.unknown.remove(&name);
            }
            state.findings.presence.insert(name, presence);
        }
        drop(state);
        self.shared.forwarder.unpark();
    }

    /// Makes the topics that are missing, and tries again until all are there.
    fn create_missing(&mut self) {
        if !self.create {
            return;
        }
        let mut wanted = topics::wanted(&self.topics, &self.names, &self.dead_letter);
        wanted.extend(topics::wanted_positions(&self.kafka, &self.topics));
        match Admin::new(&self.settings, ANSWER_MAX).and_then(|admin| topics::create_missing(&admin, &wanted)) {
            Ok(creations) => {
                self.create = false;
                for creation in creations {
                    match creation.outcome {
                        Ok(()) => tracing::info!(topic = %creation.topic, "topic made"),
                        Err(error) => {
                            tracing::warn!(topic = %creation.topic, %error, "topic could not be made; it is tried again");
                            self.create = true;
                        }
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "missing topics could not be made; it is tried again"),
        }
    }

    /// Tells whether there was an answer, be it that we may not ask.
    fn ask_limits(&mut self) -> bool {
        self.limits_known = true;
        if self.limits == Limits::Unasked {
            return true;
        }
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let limits = match Admin::new(&self.settings, ANSWER_MAX).and_then(|admin| admin.message_limits(&names)) {
            Ok(limits) => limits,
            Err(error) => {
                tracing::debug!(%error, "limits of the topics could not be asked for");
                return matches!(error, kafka::Error::Refused { .. });
            }
        };
        for (topic, limit) in &limits.topics {
            if *limit >= self.topics.max_message.bytes() {
                self.small.remove(topic);
            } else if self.small.insert(topic.clone()) {
                tracing::warn!(
                    topic = %topic,
                    max_message_bytes = limit,
                    wanted = self.topics.max_message.bytes(),
                    "topic takes less than topics.max_message; what is larger becomes a dead letter"
                );
            }
        }
        self.shared.lock().findings.limits = Some(limits);
        self.shared.forwarder.unpark();
        true
    }

    /// Compares the files where it is time; tells when it is next.
    fn compare_files(&mut self, due: Instant) -> Instant {
        if Instant::now() < due {
            return due;
        }
        match self.settings.fingerprint_now() {
            Ok(fingerprint) if fingerprint == self.settings.fingerprint() => {}
            Ok(_) => match Settings::load(&self.kafka, &self.topics) {
                Ok(settings) => {
                    self.settings = settings.clone();
                    self.shared.lock().findings.settings = Some(settings);
                    self.shared.forwarder.unpark();
                }
                Err(error) => tracing::debug!(%error, "kafka's secret files could not be read; they are read again"),
            },
            Err(error) => tracing::debug!(%error, "kafka's secret files could not be compared; they are read again"),
        }
        Instant::now() + FILES_EVERY
    }
}
