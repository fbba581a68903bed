//! Delivery reports: what each verdict does to its record and to its topic.

use std::sync::Arc;
use std::time::Instant;

use crate::event::DeadLetterReason;
use crate::journal::Lsn;
use crate::kafka::{DeadLetterCause, ErrorCode, ParkCause, Verdict};
use crate::routing::TopicId;
use crate::traces;

use super::apart::{Apart, Attempt, Step};
use super::dispatch::Ticket;
use super::lane::HoldCause;
use super::window::State;
use super::{Forwarder, REBUILD_MIN, Rebuild};

/// What librdkafka says of a record: at once, or in a delivery report.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    pub(super) error: Option<ErrorCode>,
}

impl Answer {
    /// The error's own words; they hold nothing of the record.
    pub(super) fn detail(self) -> String {
        self.error.map(|error| error.to_string()).unwrap_or_default()
    }
}

/// A refusal for good.
pub(super) struct Refusal {
    pub(super) cause: DeadLetterCause,
    pub(super) detail: String,
}

impl Forwarder {
    /// Takes the reports that have come in. Tells whether there were any.
    pub(super) fn take_reports(&mut self, now: Instant) -> bool {
        let mut inbox = std::mem::take(&mut self.inbox);
        self.reports.drain(&mut inbox);
        let doubtful = self.reports.take_doubtful();
        if self.exactly_once.is_none() {
            // In a transaction librdkafka numbers nothing anew: that is aborted first.
            self.metrics.republished_producer.inc_by(doubtful);
        }
        if self.rebuild.is_none()
            && let Some(fatal) = self.reports.fatal()
        {
            tracing::debug!(reason = %fatal, "producer has failed for good");
            self.rebuild = Some((Rebuild::Fatal, now));
        }
        let any = !inbox.is_empty();
        let clock = self.clock.now();
        for report in inbox.drain(..) {
            let Some(ticket) = Ticket::unpack(report.opaque, &self.routing) else { continue };
            if matches!(report.verdict, Verdict::Delivered) {
                self.moved_at = now;
                self.rebuild_delay = REBUILD_MIN;
                if self.exactly_once.is_none()
                    && let Some(received) = self.lanes.get(ticket.topic.index()).and_then(|lane| lane.window.received(ticket.lsn))
                {
                    self.observe_latency(received, clock);
                }
            }
            if let Some(publications) = &mut self.publications {
                let error = report.error.map(|error| error.to_string());
                let place = error.is_none().then_some((report.partition, report.offset));
                publications.reported(ticket.lsn.get(), traces::Report { place, error }, now);
            }
            self.settle(ticket, Answer { verdict: report.verdict, error: report.error }, now);
        }
        self.inbox = inbox;
        any
    }

    /// Does what a verdict says.
    pub(super) fn settle(&mut self, ticket: Ticket, answer: Answer, now: Instant) {
        if self.exactly_once.is_some() {
            self.settle_in_transaction(ticket, answer, now);
            return;
        }
        let Ticket { lsn, topic, reason } = ticket;
        if let Some(apart) = self.aparts.get_mut(lsn) {
            apart.in_flight = false;
            let apart = apart.clone();
            self.settle_apart(ticket, &apart, answer, now);
            return;
        }
        match answer.verdict {
            Verdict::Delivered => {
                if self.done(topic, lsn) == Some(State::Sent) {
                    self.count_completed(topic, reason, None);
                }
                self.resume(topic, now);
            }
            Verdict::DeadLetter(_) => self.set_apart(ticket, answer, now),
            Verdict::Park(cause) => self.refuse(topic, lsn, HoldCause::Parked(cause), now),
            Verdict::Wait => {
                self.metrics.republished_producer.inc();
                self.refuse(topic, lsn, HoldCause::Refused, now);
            }
            Verdict::Rebuild => {
                self.unsend(topic, lsn);
                self.metrics.republished_producer.inc();
                self.rebuild = Some((Rebuild::Fatal, now));
            }
        }
    }

    fn settle_apart(&mut self, ticket: Ticket, apart: &Apart, answer: Answer, now: Instant) {
        let Ticket { lsn, topic, reason } = ticket;
        let sent_to = self.target(topic, &apart.step);
        if let Some(lane) = self.lane_mut(sent_to) {
            lane.visitor_reported();
        }
        match answer.verdict {
            Verdict::Delivered => {
                self.end_retry(topic, apart);
                self.aparts.remove(lsn);
                self.done(topic, lsn);
                self.count_completed(sent_to, reason, None);
                self.resume(sent_to, now);
            }
            Verdict::DeadLetter(cause) => {
                self.end_retry(topic, apart);
                let step = self.next_step(ticket, apart, Refusal { cause, detail: answer.detail() }, now);
                self.aparts.insert(lsn, topic, step);
            }
            Verdict::Park(cause) => self.hold(sent_to, HoldCause::Parked(cause), now),
            Verdict::Wait => {
                self.metrics.republished_producer.inc();
                self.hold(sent_to, HoldCause::Refused, now);
            }
            Verdict::Rebuild => {
                self.metrics.republished_producer.inc();
                self.rebuild = Some((Rebuild::Fatal, now));
            }
        }
    }

    /// What follows where a record that was apart is refused for good as well.
    pub(super) fn next_step(&mut self, ticket: Ticket, apart: &Apart, refusal: Refusal, now: Instant) -> Step {
        let Ticket { topic, reason, .. } = ticket;
        let too_large = refusal.cause == DeadLetterCause::TooLarge;
        match &apart.step {
            Step::Retry => match reason {
                // A record of the dead-letter topic itself: only its body can be left out.
                Some(reason) if too_large => Step::Oversized { reason, detail: refusal.detail },
                Some(_) => {
                    self.hold(topic, HoldCause::Refused, now);
                    if let Some(lane) = self.lane_mut(topic) {
                        lane.retry_begins();
                    }
                    Step::Retry
                }
                None => Step::DeadLetter { reason: reason_of(refusal.cause), detail: refusal.detail, attempt: Attempt::Among },
            },
            Step::DeadLetter { reason, detail, attempt: Attempt::Among } if too_large => {
                Step::DeadLetter { reason: *reason, detail: detail.clone(), attempt: Attempt::Alone }
            }
            Step::DeadLetter { reason, detail, attempt: Attempt::Alone } if too_large => {
                Step::Oversized { reason: *reason, detail: detail.clone() }
            }
            step @ (Step::DeadLetter { .. } | Step::Oversized { .. }) => {
                self.hold(self.dead_letter_topic(), HoldCause::Refused, now);
                step.clone()
            }
        }
    }

    fn end_retry(&mut self, topic: TopicId, apart: &Apart) {
        if apart.step == Step::Retry
            && let Some(lane) = self.lane_mut(topic)
        {
            lane.retry_ends();
        }
    }

    /// A record that was refused for good is tried once more, alone.
    fn set_apart(&mut self, ticket: Ticket, answer: Answer, now: Instant) {
        tracing::debug!(lsn = ticket.lsn.get(), error = ?answer.error, "record refused; it is tried once more alone");
        self.moved_at = now;
        if matches!(answer.verdict, Verdict::DeadLetter(DeadLetterCause::TooLarge)) {
            self.scout.ask_limits();
        }
        let Some(lane) = self.lane_mut(ticket.topic) else { return };
        lane.window.set(ticket.lsn, State::Apart);
        lane.retry_begins();
        self.aparts.insert(ticket.lsn, ticket.topic, Step::Retry);
    }

    fn unsend(&mut self, topic: TopicId, lsn: Lsn) {
        if let Some(lane) = self.lane_mut(topic) {
            lane.window.set(lsn, State::Unsent);
        }
    }

    fn refuse(&mut self, topic: TopicId, lsn: Lsn, cause: HoldCause, now: Instant) {
        self.unsend(topic, lsn);
        let received = self.lanes.get(topic.index()).and_then(|lane| lane.window.received(lsn));
        self.fall_behind(topic, lsn, received);
        self.hold(topic, cause, now);
    }

    /// A topic takes nothing for now; the operator is told once.
    pub(super) fn hold(&mut self, topic: TopicId, cause: HoldCause, now: Instant) {
        let routing = Arc::clone(&self.routing);
        let name = &routing.topic(topic).name;
        let Some(lane) = self.lane_mut(topic) else { return };
        let parked_before = matches!(lane.held(), Some(HoldCause::Parked(_)));
        let news = lane.hold(cause, now);
        match cause {
            HoldCause::Parked(cause) => {
                if news {
                    tracing::warn!(topic = %name, cause = cause.as_str(), remedy = remedy(cause), "topic parked; its records wait in the journal");
                    self.metrics.forwarder.parked(name).set(1);
                    self.shared.set_parked(name, cause);
                }
                if cause == ParkCause::Missing
                    && let Some(lane) = self.lane_mut(topic)
                {
                    lane.lost();
                }
                self.scout.ask_topic(name);
            }
            HoldCause::Refused => {
                if news {
                    tracing::warn!(topic = %name, "topic refuses records for now; they are sent again");
                }
                if parked_before {
                    self.unpark(topic);
                }
            }
            HoldCause::Suspected => {}
        }
    }

    /// Something was delivered to a topic: whatever held it is over.
    pub(super) fn resume(&mut self, topic: TopicId, now: Instant) {
        let Some(lane) = self.lane_mut(topic) else { return };
        let Some(cause) = lane.delivered(now).filter(|cause| *cause != HoldCause::Suspected) else { return };
        tracing::info!(topic = %self.routing.topic(topic).name, "topic takes its records again");
        if let HoldCause::Parked(_) = cause {
            self.unpark(topic);
        }
    }

    /// A topic is no longer parked.
    pub(super) fn unpark(&self, topic: TopicId) {
        let name = &self.routing.topic(topic).name;
        self.metrics.forwarder.parked(name).set(0);
        self.shared.clear_parked(name);
    }

    pub(super) fn show_behind(&self, topic: TopicId, behind: i64) {
        self.metrics.forwarder.behind(&self.routing.topic(topic).name).set(behind);
    }
}

fn reason_of(cause: DeadLetterCause) -> DeadLetterReason {
    match cause {
        DeadLetterCause::TooLarge => DeadLetterReason::TooLarge,
        DeadLetterCause::RefusedByBroker => DeadLetterReason::RefusedByBroker,
    }
}

fn remedy(cause: ParkCause) -> &'static str {
    match cause {
        ParkCause::Missing => "chat-bridge topics apply",
        ParkCause::NotAuthorised => "grant Write and Describe on the topic",
    }
}
