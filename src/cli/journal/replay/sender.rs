//! Hands messages to a producer of its own, and keeps which of them Kafka has confirmed.

use std::thread;
use std::time::{Duration, Instant};

use super::confirmations::{Confirmations, Stopped};
use crate::event::Message;
use crate::journal::Lsn;
use crate::kafka::{Error, Producer, Report, Reports, SendError, Settings, Status};
use crate::metrics::{Labels, Metrics};

/// How long it waits for a report before it looks at the time.
const WAIT: Duration = Duration::from_millis(100);

/// How long what is under way has to be confirmed once a topic has ended the replay: what is not counted may be published, and is published again.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// Messages on their way.
pub(super) struct Sender {
    producer: Producer,
    reports: Reports,
    inbox: Vec<Report>,
    confirmations: Confirmations,
}

impl Sender {
    pub(super) fn new(settings: &Settings, timeout: Duration) -> Result<Self, Error> {
        // Nobody asks for these; the producer moves them all the same.
        let metrics = Metrics::new(&Labels { kafka_errors: &crate::kafka::ERROR_KINDS, ..Labels::default() });
        let metrics = metrics.map_err(|error| Error::Client(error.to_string()))?.kafka;
        let waker = thread::current();
        let reports = Reports::new(move || waker.unpark());
        let producer = Producer::new(settings, reports.clone(), Status::new(metrics.clone()), metrics)?;
        Ok(Self { producer, reports, inbox: Vec::new(), confirmations: Confirmations::new(timeout, Instant::now()) })
    }

    /// Hands over a record's message; waits where the queue is full.
    pub(super) fn send(&mut self, lsn: Lsn, topic: &str, message: &Message) -> Result<(), Stopped> {
        let result = self.hand_over(lsn, topic, message);
        if result.is_err() {
            self.confirmations.not_sent(lsn, topic);
        }
        result
    }

    fn hand_over(&mut self, lsn: Lsn, topic: &str, message: &Message) -> Result<(), Stopped> {
        self.take_reports()?;
        self.confirmations.begin(Instant::now());
        loop {
            match self.producer.send(topic, message.key.as_deref(), &message.value, &message.headers, lsn.get()) {
                Ok(()) => {
                    self.confirmations.sent(lsn, topic);
                    return Ok(());
                }
                Err(SendError::QueueFull) => self.wait()?,
                Err(SendError::Refused { verdict, error }) => {
                    return self.confirmations.refused_at_once(lsn, topic, verdict, error);
                }
            }
        }
    }

    /// Waits until nothing is under way.
    pub(super) fn finish(&mut self) -> Result<(), Stopped> {
        while self.confirmations.is_under_way() {
            self.wait()?;
        }
        Ok(())
    }

    /// Those that are to be tried alone; from now on a refusal of one is for good.
    pub(super) fn refused_among_others(&self) -> Vec<Lsn> {
        self.confirmations.refused_among_others()
    }

    /// Ends the producer, and tells all that it has to say.
    pub(super) fn end(mut self, stopped: Option<&Stopped>) -> Confirmations {
        if stopped.is_some_and(Stopped::is_of_one_topic) {
            let until = Instant::now() + SETTLE_MAX;
            while self.confirmations.is_under_way() && Instant::now() < until {
                thread::park_timeout(WAIT);
                // Why it has ended is known.
                drop(self.take_reports());
            }
        }
        let Self { producer, reports, mut inbox, mut confirmations } = self;
        // It reports on whatever it has not sent, or has no answer to.
        drop(producer);
        reports.drain(&mut inbox);
        drop(confirmations.enter(inbox.drain(..), None, Instant::now()));
        confirmations
    }

    /// Waits for the next reports.
    fn wait(&mut self) -> Result<(), Stopped> {
        thread::park_timeout(WAIT);
        self.take_reports()?;
        if self.confirmations.is_silent(Instant::now()) { Err(Stopped::Silent) } else { Ok(()) }
    }

    fn take_reports(&mut self) -> Result<(), Stopped> {
        // In this order: what was confirmed before the producer died is among the reports then.
        let dead = self.reports.fatal().map(|fatal| fatal.to_string());
        self.reports.drain(&mut self.inbox);
        self.confirmations.enter(self.inbox.drain(..), dead, Instant::now())
    }
}
