//! One connection's part of a load: wait for the moment, send, note the answer; open the connection again where it broke.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::alarm::Alarm;
use super::client::{Answer, Body, Connection, Error, Fate};
use super::schedule::{Due, Schedule};
use super::traffic::{Drawn, PathAndHost, Traffic};
use super::{Live, OnBreak, Stop};
use crate::clock::{Clock, Timestamp};
use crate::simulate::log::{self, Line, Outcome};

/// The first pause after a failure; each further one is twice as long.
const BACKOFF_MIN: Duration = Duration::from_millis(10);

/// The longest pause: a bridge that is back is found within a second.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Latencies up to an hour are told apart, to three digits.
const LATENCY_MAX_MICROS: u64 = 3_600_000_000;

/// What the connections of one thread share.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) latency: Histogram<u64>,
    pub(super) service: Histogram<u64>,
    pub(super) refused: BTreeMap<u16, u64>,
    pub(super) acknowledged_otherwise: u64,
    pub(super) unsent: u64,
    pub(super) log: Option<LogPart>,
    /// The first reason for which the run had to end.
    pub(super) ended: Option<String>,
    pub(super) log_error: Option<log::Error>,
}

/// One thread's part of the log.
#[derive(Debug)]
pub(super) struct LogPart {
    pub(super) buffer: log::Buffer,
    pub(super) writer: Arc<log::Writer>,
}

impl Tally {
    pub(super) fn new(log: Option<Arc<log::Writer>>) -> Result<Self, hdrhistogram::CreationError> {
        let histogram = || Histogram::new_with_bounds(1, LATENCY_MAX_MICROS, 3);
        Ok(Self {
            latency: histogram()?,
            service: histogram()?,
            refused: BTreeMap::new(),
            acknowledged_otherwise: 0,
            unsent: 0,
            log: log.map(|writer| LogPart { buffer: log::Buffer::default(), writer }),
            ended: None,
            log_error: None,
        })
    }

    /// Writes what the log's buffer holds; a failure is kept and ends the run.
    pub(super) fn flush(&mut self, stop: &Stop) {
        if let Some(log) = &mut self.log
            && self.log_error.is_none()
            && let Err(error) = log.buffer.flush(&log.writer)
        {
            self.log_error = Some(error);
            stop.set();
        }
    }
}

/// What a sender is given.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) connection: u32,
    pub(super) authority: Rc<str>,
    pub(super) path: Rc<PathAndHost>,
    pub(super) timeout: Duration,
    pub(super) on_break: OnBreak,
    pub(super) schedule: Schedule,
    /// There is one where callbacks have a moment of their own.
    pub(super) alarm: Option<Alarm>,
    /// By then, what is still unsent stays so.
    pub(super) give_up: Option<Instant>,
    pub(super) traffic: Traffic,
    pub(super) clock: Clock,
    pub(super) tally: Rc<RefCell<Tally>>,
    pub(super) live: Arc<Live>,
    pub(super) stop: Stop,
}

impl Sender {
    /// Sends all that the schedule holds. Ends early when told to stop, when it gives up, or when a connection breaks that must not.
    pub(super) async fn run(mut self) {
        let mut link = Link { open: None, opened_once: false, backoff: BACKOFF_MIN };
        let mut request = Vec::new();
        while let Some(due) = self.schedule.due() {
            if !self.wait(due).await || !self.connect(&mut link).await {
                break;
            }
            let Some(mut connection) = link.open.take() else { break };
            let intended = match due {
                Due::Now => None,
                Due::At(at) => Some(at),
            };
            request.clear();
            let sent_at = self.clock.now();
            let drawn = self.traffic.draw(sent_at, &self.path, &mut request);
            self.schedule.advance();
            self.live.sent.fetch_add(1, Ordering::Relaxed);
            let sent = Instant::now();
            let result = connection.exchange(&request).await;
            let times = Times { sent_at, service: sent.elapsed(), latency: intended.unwrap_or(sent).elapsed() };
            match result {
                Ok(answer) => {
                    self.answered(drawn, times, answer);
                    link.backoff = BACKOFF_MIN;
                    link.open = (answer.fate == Fate::Kept).then_some(connection);
                }
                Err(error) => {
                    drop(connection);
                    self.note(drawn, times, Outcome::Unknown(0));
                    self.live.broken.fetch_add(1, Ordering::Relaxed);
                    if !self.goes_on_after(&error) {
                        break;
                    }
                }
            }
        }
        self.tally.borrow_mut().unsent += self.schedule.left();
    }

    /// Waits for the moment; `false` where the run stops first.
    async fn wait(&mut self, due: Due) -> bool {
        match due {
            Due::Now => !self.stop.is_set() && !self.is_over(),
            Due::At(at) if at <= Instant::now() => !self.stop.is_set() && !self.is_over(),
            Due::At(at) => match &mut self.alarm {
                Some(alarm) => self.stop.wait_until(at, alarm).await,
                None => self.stop.sleep_until(at).await,
            },
        }
    }

    fn is_over(&self) -> bool {
        self.give_up.is_some_and(|at| at <= Instant::now())
    }

    /// Sees to it that the connection is open; `false` where the run ends first.
    async fn connect(&self, link: &mut Link) -> bool {
        if link.open.as_ref().is_some_and(|connection| !connection.is_closed()) {
            return true;
        }
        loop {
            match Connection::open(&self.authority, self.timeout).await {
                Ok(connection) => {
                    link.open = Some(connection);
                    if link.opened_once {
                        self.live.reopened.fetch_add(1, Ordering::Relaxed);
                    }
                    link.opened_once = true;
                    return true;
                }
                Err(error) => {
                    self.live.connect_failures.fetch_add(1, Ordering::Relaxed);
                    if !self.goes_on_after(&error) {
                        return false;
                    }
                }
            }
            let pause = Instant::now() + link.backoff;
            link.backoff = (link.backoff * 2).min(BACKOFF_MAX);
            if !self.stop.sleep_until(pause).await || self.is_over() {
                return false;
            }
        }
    }

    fn goes_on_after(&self, error: &Error) -> bool {
        match self.on_break {
            OnBreak::Reopen => true,
            OnBreak::End => {
                let mut tally = self.tally.borrow_mut();
                if tally.ended.is_none() {
                    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
                    tally.ended = Some(format!("connection {}: {error}{cause}", self.connection));
                }
                self.stop.set();
                false
            }
        }
    }

    fn answered(&self, drawn: Drawn, times: Times, answer: Answer) {
        let outcome = match (answer.status, answer.body) {
            (200, body) => {
                if body != Body::Durable {
                    self.tally.borrow_mut().acknowledged_otherwise += 1;
                }
                Outcome::Acknowledged
            }
            // A gateway's 5xx tells nothing of what became of the callback behind it; the bridge's own has the bridge's form.
            (status, Body::Refusal) | (status @ 400..=499, _) => Outcome::Refused(status),
            (status, Body::Durable | Body::Other) => Outcome::Unknown(status),
        };
        self.note(drawn, times, outcome);
    }

    fn note(&self, drawn: Drawn, times: Times, outcome: Outcome) {
        let mut tally = self.tally.borrow_mut();
        match outcome {
            Outcome::Acknowledged => {
                self.live.acknowledged.fetch_add(1, Ordering::Relaxed);
                tally.latency.saturating_record(micros(times.latency));
                tally.service.saturating_record(micros(times.service));
            }
            Outcome::Refused(status) => {
                self.live.refused.fetch_add(1, Ordering::Relaxed);
                *tally.refused.entry(status).or_default() += 1;
            }
            Outcome::Unknown(_) => {
                self.live.unknown.fetch_add(1, Ordering::Relaxed);
            }
        }
        if let Some(log) = &mut tally.log {
            let Drawn { number, command, group } = drawn;
            let line = Line { connection: self.connection, number, command, group, outcome, sent: times.sent_at, latency: times.latency };
            if log.buffer.push(&line) {
                tally.flush(&self.stop);
            }
        }
    }
}

/// The connection of a sender, while it has one.
#[derive(Debug)]
struct Link {
    open: Option<Connection>,
    opened_once: bool,
    backoff: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Times {
    sent_at: Timestamp,
    latency: Duration,
    service: Duration,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1)
}
