//! Hands messages to a producer of its own, and keeps which of them Kafka has confirmed.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use crate::event::Message;
use crate::journal::Lsn;
use crate::kafka::{Error, ParkCause, Producer, Report, Reports, SendError, Settings, Status, Verdict};
use crate::metrics::{Labels, Metrics};

/// How long it waits for a report before it looks at the time.
const WAIT: Duration = Duration::from_millis(100);

/// Why a replay goes no further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stopped {
    /// Nothing was confirmed for as long as it was to wait.
    #[error("Kafka confirms nothing")]
    Silent,
    /// The topic is gone, or the right to it.
    #[error("topic {topic} {}", match .cause { ParkCause::Missing => "does not exist", ParkCause::NotAuthorised => "may not be written to" })]
    Topic { topic: String, cause: ParkCause },
    /// Kafka answered that it cannot take a record now.
    #[error("Kafka does not take records of {topic} now: {error}")]
    Refused { topic: String, error: String },
    /// The producer is of no more use.
    #[error("the producer failed: {0}")]
    Failed(String),
}

/// What is known of a record that is not confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    UnderWay,
    /// Neither yes nor no for good.
    Open,
    /// For good, but among others, for one of which it may have been meant.
    RefusedAmongOthers(String),
    Refused(String),
}

/// Messages on their way. An LSN is under way once at a time.
pub(super) struct Sender {
    producer: Producer,
    reports: Reports,
    inbox: Vec<Report>,
    timeout: Duration,
    moved_at: Instant,
    ledger: Ledger,
}

impl Sender {
    pub(super) fn new(settings: &Settings, timeout: Duration) -> Result<Self, Error> {
        // Nobody asks for these; the producer moves them all the same.
        let metrics = Metrics::new(&Labels { kafka_errors: &crate::kafka::ERROR_KINDS, ..Labels::default() });
        let metrics = metrics.map_err(|error| Error::Client(error.to_string()))?.kafka;
        let waker = thread::current();
        let reports = Reports::new(move || waker.unpark());
        let producer = Producer::new(settings, reports.clone(), Status::new(metrics.clone()), metrics)?;
        Ok(Self { producer, reports, inbox: Vec::new(), timeout, moved_at: Instant::now(), ledger: Ledger::default() })
    }

    /// Hands over a record's message; waits where the queue is full.
    pub(super) fn send(&mut self, lsn: Lsn, topic: &str, message: &Message) -> Result<(), Stopped> {
        self.ledger.sent(lsn, topic);
        self.take_reports()?;
        loop {
            match self.producer.send(topic, message.key.as_deref(), &message.value, &message.headers, lsn.get()) {
                Ok(()) => return Ok(()),
                Err(SendError::QueueFull) => self.wait()?,
                Err(SendError::Refused { verdict, error }) => return self.ledger.settle(lsn, verdict, Some(error.to_string())),
            }
        }
    }

    /// Waits until nothing is under way.
    pub(super) fn finish(&mut self) -> Result<(), Stopped> {
        while self.ledger.is_under_way() {
            self.wait()?;
        }
        Ok(())
    }

    /// Waits for the next reports.
    fn wait(&mut self) -> Result<(), Stopped> {
        thread::park_timeout(WAIT);
        self.take_reports()?;
        if self.moved_at.elapsed() >= self.timeout { Err(Stopped::Silent) } else { Ok(()) }
    }

    fn take_reports(&mut self) -> Result<(), Stopped> {
        if let Some(fatal) = self.reports.fatal() {
            return Err(Stopped::Failed(fatal.to_string()));
        }
        let mut inbox = std::mem::take(&mut self.inbox);
        self.reports.drain(&mut inbox);
        let mut result = Ok(());
        for report in inbox.drain(..) {
            if report.verdict == Verdict::Delivered {
                self.moved_at = Instant::now();
            }
            // Of several, the first is told; all are entered.
            result = result.and(self.ledger.settle(Lsn::new(report.opaque), report.verdict, report.error.map(|error| error.to_string())));
        }
        self.inbox = inbox;
        result
    }

    /// Records that Kafka has confirmed.
    pub(super) fn confirmed(&self) -> u64 {
        self.ledger.confirmed
    }

    /// Of records that are neither confirmed nor refused for good, the first.
    pub(super) fn first_unconfirmed(&self) -> Option<Lsn> {
        self.ledger.first_unconfirmed()
    }

    /// Those that are to be tried alone; from now on a refusal of one is for good.
    pub(super) fn refused_among_others(&self) -> Vec<Lsn> {
        self.ledger.refused_among_others()
    }

    /// What Kafka does not take: LSN, topic, its word.
    pub(super) fn refused(&self) -> impl Iterator<Item = (Lsn, &str, &str)> {
        self.ledger.records.iter().filter_map(|(lsn, (topic, state))| match state {
            State::Refused(error) | State::RefusedAmongOthers(error) => Some((*lsn, topic.as_str(), error.as_str())),
            State::UnderWay | State::Open => None,
        })
    }
}

/// Which records are not confirmed, and why.
#[derive(Debug, Default)]
struct Ledger {
    records: BTreeMap<Lsn, (String, State)>,
    under_way: usize,
    /// Records that were refused once already.
    tried: BTreeSet<Lsn>,
    confirmed: u64,
}

impl Ledger {
    fn sent(&mut self, lsn: Lsn, topic: &str) {
        if let Some((_, State::RefusedAmongOthers(_))) = self.records.insert(lsn, (topic.to_owned(), State::UnderWay)) {
            self.tried.insert(lsn);
        }
        self.under_way += 1;
    }

    fn is_under_way(&self) -> bool {
        self.under_way > 0
    }

    fn settle(&mut self, lsn: Lsn, verdict: Verdict, error: Option<String>) -> Result<(), Stopped> {
        let Some((topic, state)) = self.records.get_mut(&lsn).filter(|(_, state)| *state == State::UnderWay) else { return Ok(()) };
        self.under_way = self.under_way.saturating_sub(1);
        *state = State::Open;
        let topic = topic.clone();
        match (verdict, error) {
            (Verdict::Delivered, _) => {
                self.records.remove(&lsn);
                self.confirmed += 1;
                Ok(())
            }
            (Verdict::DeadLetter(_), Some(error)) => {
                *state = if self.tried.contains(&lsn) { State::Refused(error) } else { State::RefusedAmongOthers(error) };
                Ok(())
            }
            (Verdict::Park(cause), _) => Err(Stopped::Topic { topic, cause }),
            (Verdict::DeadLetter(_) | Verdict::Wait, None) => Ok(()),
            (Verdict::Wait, Some(error)) => Err(Stopped::Refused { topic, error }),
            (Verdict::Rebuild, error) => Err(Stopped::Failed(error.unwrap_or_default())),
        }
    }

    fn refused_among_others(&self) -> Vec<Lsn> {
        let state = |(lsn, (_, state)): (&Lsn, &(String, State))| matches!(state, State::RefusedAmongOthers(_)).then_some(*lsn);
        self.records.iter().filter_map(state).collect()
    }

    fn first_unconfirmed(&self) -> Option<Lsn> {
        self.records.iter().find(|(_, (_, state))| matches!(state, State::UnderWay | State::Open)).map(|(lsn, _)| *lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::DeadLetterCause;

    fn lsn(number: u64) -> Lsn {
        Lsn::new(number)
    }

    const TOO_LARGE: Verdict = Verdict::DeadLetter(DeadLetterCause::TooLarge);

    fn ledger(records: u64) -> Ledger {
        let mut ledger = Ledger::default();
        for number in 1..=records {
            ledger.sent(lsn(number), "t");
        }
        ledger
    }

    #[test]
    fn a_replay_goes_on_from_the_first_record_that_is_not_confirmed() {
        let mut ledger = ledger(4);
        for number in [1, 3] {
            assert_eq!(ledger.settle(lsn(number), Verdict::Delivered, None), Ok(()));
        }
        assert_eq!((ledger.confirmed, ledger.first_unconfirmed()), (2, Some(lsn(2))));
        let stopped = ledger.settle(lsn(2), Verdict::Park(ParkCause::Missing), Some("gone".to_owned()));
        assert_eq!(stopped.unwrap_err().to_string(), "topic t does not exist");
        assert_eq!((ledger.first_unconfirmed(), ledger.is_under_way()), (Some(lsn(2)), true));
        let stopped = ledger.settle(lsn(4), Verdict::Wait, Some("a quota".to_owned()));
        assert!(matches!(stopped, Err(Stopped::Refused { .. })));
        assert!(!ledger.is_under_way());
    }

    #[test]
    fn a_refusal_for_good_is_believed_of_a_record_that_was_sent_alone() {
        let mut ledger = ledger(2);
        let error = || Some("too large".to_owned());
        for number in [1, 2] {
            assert_eq!(ledger.settle(lsn(number), TOO_LARGE, error()), Ok(()));
        }
        assert_eq!((ledger.first_unconfirmed(), ledger.refused_among_others()), (None, vec![lsn(1), lsn(2)]), "they are tried again");
        ledger.sent(lsn(1), "t");
        assert_eq!(ledger.settle(lsn(1), Verdict::Delivered, None), Ok(()));
        ledger.sent(lsn(2), "t");
        assert_eq!(ledger.settle(lsn(2), TOO_LARGE, error()), Ok(()));
        let states: Vec<&State> = ledger.records.values().map(|(_, state)| state).collect();
        assert_eq!((ledger.confirmed, states), (1, vec![&State::Refused("too large".to_owned())]));
    }
}
