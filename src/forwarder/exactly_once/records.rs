//! A record in a transaction: how it enters, and what its report says.

use std::time::Instant;

use crate::kafka::{DeadLetterCause, ErrorCode, SendError, Verdict};
use crate::metrics::Abort;

use super::super::apart::Step;
use super::super::delivery::{Answer, Refusal};
use super::super::dispatch::{Made, Ticket, size_of};
use super::super::lane::{HoldCause, Lane, Room};
use super::super::reading::{Handed, Held, Load};
use super::super::stored::Mark;
use super::super::transaction::Company;
use super::super::window::{Entry, State};
use super::super::{Error, Forwarder};

impl Forwarder {
    /// Takes a record into the transaction of the moment, where that is the right one for it.
    pub(in super::super) fn hand_over_in_transaction(&mut self, held: Held, now: Instant) -> Result<Handed, Error> {
        let step = self.aparts.get(held.lsn).map(|apart| apart.step.clone());
        let on_trial = self.lanes.get(held.topic.index()).is_some_and(Lane::is_on_trial);
        let company = if step.is_some() || on_trial { Company::None } else { Company::Any };
        if !self.exactly_once.as_mut().is_some_and(|this| this.transaction.admits(company, now)) {
            return Ok(Handed::Full(held));
        }
        let (message, reason) = match (&held.load, &step) {
            (Load::Discarded, _) => {
                self.discard(&held);
                return Ok(Handed::Over);
            }
            (Load::Event(message), None | Some(Step::Retry)) => (message.clone(), None),
            (Load::DeadLetter(message, reason), None | Some(Step::Retry)) => (message.clone(), Some(*reason)),
            (Load::Event(_) | Load::DeadLetter(..), Some(step)) => match self.make_apart(held.lsn, held.topic, step)? {
                Made::Message(message, reason) => (message, reason),
                Made::Lost => {
                    // It was read a moment ago, and can be read no more.
                    self.enter(held.topic, Entry { lsn: held.lsn, received: held.received, size: 0, state: State::Done });
                    self.give_up_apart(held.lsn, held.topic);
                    return Ok(Handed::Over);
                }
                Made::NoRoom => {
                    self.hold(self.dead_letter_topic(), HoldCause::Refused, now);
                    return Ok(Handed::Full(held));
                }
            },
        };
        let ticket = Ticket { lsn: held.lsn, topic: held.topic, reason };
        let target = step.as_ref().map_or(held.topic, |step| self.target(held.topic, step));
        let refused = match self.send(target, &message, ticket) {
            Ok(()) => None,
            Err(SendError::QueueFull) => return Ok(Handed::Full(held)),
            Err(SendError::Refused { verdict, error }) => Some(Answer { verdict, error: Some(error) }),
        };
        self.enter(held.topic, Entry { lsn: held.lsn, received: held.received, size: size_of(&message), state: State::Sent });
        if let Some(lane) = self.lane_mut(held.topic) {
            lane.sent(now);
        }
        if let Some(this) = &mut self.exactly_once {
            this.transaction.entered(held.lsn, target, company, now);
            if this.mark.is_none_or(|mark| mark.lsn < held.lsn) {
                this.mark = Some(Mark { lsn: held.lsn, received: held.received });
            }
        }
        if let Some(answer) = refused {
            self.settle(ticket, answer, now);
        }
        Ok(Handed::Over)
    }

    /// A record that is owed as a dead letter waits for the dead-letter topic, and its own topic with it: no position passes over it.
    pub(in super::super) fn room_in_transaction(&mut self, held: &Held, room: Room, now: Instant) -> Room {
        if room != Room::Free || self.aparts.is_empty() {
            return room;
        }
        let Some(step) = self.aparts.get(held.lsn).map(|apart| apart.step.clone()) else { return room };
        let target = self.target(held.topic, &step);
        if target == held.topic || self.lane_mut(target).is_some_and(|lane| lane.takes(now)) {
            return room;
        }
        self.hold(held.topic, HoldCause::Refused, now);
        Room::Stalled
    }

    /// Does what a verdict says of a record of the transaction.
    pub(in super::super) fn settle_in_transaction(&mut self, ticket: Ticket, answer: Answer, now: Instant) {
        let Ticket { lsn, topic, reason } = ticket;
        let apart = self.aparts.get(lsn).cloned();
        let sent_to = apart.as_ref().map_or(topic, |apart| self.target(topic, &apart.step));
        let received = self.lanes.get(topic.index()).and_then(|lane| lane.window.received(lsn));
        let was_sent = self.done(topic, lsn) == Some(State::Sent);
        let why = match answer.verdict {
            Verdict::Delivered => {
                if was_sent {
                    if let Some(this) = &mut self.exactly_once {
                        this.transaction.delivered();
                        if this.repeated_below.is_some_and(|bound| lsn < bound) {
                            this.transaction.tally().republished += 1;
                        }
                    }
                    self.count_completed(sent_to, reason, received);
                }
                self.resume(sent_to, now);
                return;
            }
            Verdict::DeadLetter(cause) => {
                if cause == DeadLetterCause::TooLarge {
                    self.scout.ask_limits();
                }
                let step = match &apart {
                    None => Step::Retry,
                    Some(apart) => self.next_step(ticket, apart, Refusal { cause, detail: answer.detail() }, now),
                };
                tracing::debug!(lsn = lsn.get(), error = ?answer.error, ?step, "record refused in a transaction");
                self.aparts.insert(lsn, topic, step);
                match cause {
                    DeadLetterCause::TooLarge => Abort::TooLarge,
                    DeadLetterCause::RefusedByBroker => Abort::RefusedByBroker,
                }
            }
            Verdict::Park(cause) => {
                self.hold(sent_to, HoldCause::Parked(cause), now);
                Abort::Parked
            }
            // What librdkafka takes back because the transaction has failed is no fault of the record's.
            Verdict::Rebuild => Abort::Failed,
            Verdict::Wait if answer.error.is_none_or(ErrorCode::is_state) => Abort::Failed,
            Verdict::Wait => {
                self.hold(sent_to, HoldCause::Refused, now);
                Abort::Refused
            }
        };
        if let Some(this) = &mut self.exactly_once {
            this.transaction.failed(why, now);
        }
    }
}
