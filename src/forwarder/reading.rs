//! The two readings of the journal: the live one, and the second one for topics that are behind.

use std::time::Instant;

use crate::clock::Timestamp;
use crate::event::DeadLetterReason;
use crate::event::Message;
use crate::journal::{Item, Lsn, Reader};
use crate::routing::{StreamId, TopicId};

use super::lane::Room;
use super::window::State;
use super::{Error, Forwarder, STRIDE};

/// A record with its message made, on its way to the producer.
pub(super) struct Held {
    pub(super) lsn: Lsn,
    pub(super) topic: TopicId,
    pub(super) stream: StreamId,
    pub(super) received: Timestamp,
    pub(super) load: Load,
}

/// What becomes of a record.
pub(super) enum Load {
    /// Its event.
    Event(Message),
    /// Its dead letter.
    DeadLetter(Message, DeadLetterReason),
    /// Nothing: the configuration discards its command.
    Discarded,
}

/// What became of an attempt to hand a record over.
pub(super) enum Handed {
    /// It is in its topic's window.
    Over,
    /// The producer's queue is full; the record comes back.
    Full(Held),
}

/// One reading of the journal for all topics that are behind and can take records.
pub(super) struct SecondReading {
    reader: Reader,
    /// The topics that it serves, by `TopicId`.
    serves: Vec<bool>,
    held: Option<Held>,
}

impl SecondReading {
    fn position(&self) -> Lsn {
        self.held.as_ref().map_or_else(|| self.reader.position(), |held| held.lsn)
    }

    fn serves(&self, topic: TopicId) -> bool {
        self.serves.get(topic.index()).copied().unwrap_or(false)
    }

    fn leave(&mut self, topic: TopicId) {
        if let Some(serves) = self.serves.get_mut(topic.index()) {
            *serves = false;
        }
    }
}

impl Forwarder {
    /// Reads on at the live end. Tells whether anything moved.
    pub(super) fn read_live(&mut self, now: Instant) -> Result<bool, Error> {
        let mut moved = false;
        for _ in 0..STRIDE {
            let held = match self.live_held.take() {
                Some(held) => held,
                None => match self.live.next().map_err(Error::Journal)? {
                    None => break,
                    Some(Item::Corrupt { from, to }) => {
                        self.pass_corrupt(from, to);
                        continue;
                    }
                    Some(Item::Record { lsn, record }) => self.prepare(lsn, record)?,
                },
            };
            let (lsn, topic, received) = (held.lsn, held.topic, held.received);
            let Some(lane) = self.lane_mut(topic) else { return Err(Error::Topic { topic: topic.index() }) };
            let room = if lane.next().is_some() { Room::Stalled } else { lane.room(now) };
            let room = if self.exactly_once.is_some() { self.room_in_transaction(&held, room, now) } else { room };
            match room {
                Room::Stalled => {
                    self.fall_behind(topic, lsn, Some(received));
                    self.ledger.left();
                    moved = true;
                }
                Room::Busy => {
                    self.live_held = Some(held);
                    break;
                }
                Room::Free => match self.hand_over(held, now)? {
                    Handed::Over => moved = true,
                    Handed::Full(held) => {
                        self.live_held = Some(held);
                        break;
                    }
                },
            }
        }
        Ok(moved)
    }

    /// Reads on for the topics that are behind and can take records. Tells whether anything moved.
    pub(super) fn read_second(&mut self, now: Instant) -> Result<bool, Error> {
        self.begin_second(now);
        let Some(mut second) = self.second.take() else { return Ok(false) };
        let mut moved = false;
        for _ in 0..STRIDE {
            if second.position() >= self.scanned() {
                self.end_second(&second);
                return Ok(true);
            }
            let held = match second.held.take() {
                Some(held) => held,
                None => match second.reader.next().map_err(Error::Journal)? {
                    None => break,
                    Some(Item::Corrupt { from, to }) => {
                        self.give_up(&second, from, to);
                        continue;
                    }
                    Some(Item::Record { lsn, record }) => self.prepare(lsn, record)?,
                },
            };
            moved = true;
            if !second.serves(held.topic) || !self.is_owed(&held) {
                continue;
            }
            let (lsn, topic, received) = (held.lsn, held.topic, held.received);
            let Some(lane) = self.lane_mut(topic) else { return Err(Error::Topic { topic: topic.index() }) };
            lane.read_up_to(lsn, received);
            let room = lane.room(now);
            let room = if self.exactly_once.is_some() { self.room_in_transaction(&held, room, now) } else { room };
            match room {
                Room::Stalled => {
                    second.leave(topic);
                    if !second.serves.contains(&true) {
                        return Ok(moved);
                    }
                }
                Room::Busy => {
                    second.held = Some(held);
                    moved = false;
                    break;
                }
                Room::Free => match self.hand_over(held, now)? {
                    Handed::Over => {
                        let Some(lane) = self.lane_mut(topic) else { continue };
                        if lane.window.state(lsn) == Some(State::Unsent) {
                            // Refused at once: what comes behind it must not go first.
                            second.leave(topic);
                        } else {
                            lane.read_up_to(lsn.next(), received);
                        }
                    }
                    Handed::Full(held) => {
                        second.held = Some(held);
                        moved = false;
                        break;
                    }
                },
            }
        }
        self.second = Some(second);
        Ok(moved)
    }

    /// A topic's records from `from` on are left to a second reading; one that has gone past them is begun anew.
    pub(super) fn fall_behind(&mut self, topic: TopicId, from: Lsn, received: Option<Timestamp>) {
        if let Some(second) = &mut self.second {
            second.leave(topic);
        }
        let Some(lane) = self.lane_mut(topic) else { return };
        let news = lane.next().is_none();
        lane.fall_behind(from, received);
        if news {
            self.show_behind(topic, 1);
        }
    }

    /// Begins a second reading where a topic needs one and can take records; one that is under way takes further topics along, from where the
    /// first of them is.
    fn begin_second(&mut self, now: Instant) {
        let position = self.second.as_ref().map(SecondReading::position);
        let mut from = position;
        let mut joined = false;
        let mut serves: Vec<bool> = match &self.second {
            Some(second) => second.serves.clone(),
            None => vec![false; self.lanes.len()],
        };
        for (lane, serves) in self.lanes.iter_mut().zip(&mut serves) {
            let Some(next) = lane.next() else {
                *serves = false;
                continue;
            };
            if *serves {
                continue;
            }
            if lane.can_catch_up(now) {
                *serves = true;
                joined = true;
                from = Some(from.map_or(next, |from| from.min(next)));
            }
        }
        let Some(from) = from else { return };
        match &mut self.second {
            Some(second) if position == Some(from) => {
                second.serves = serves;
            }
            _ if joined => self.second = Some(SecondReading { reader: self.journal.reader(from), serves, held: None }),
            _ => {}
        }
    }

    /// The second reading has met the live one.
    fn end_second(&mut self, second: &SecondReading) {
        for index in 0..self.lanes.len() {
            if second.serves.get(index).copied().unwrap_or(false) {
                if let Some(lane) = self.lanes.get_mut(index) {
                    lane.caught_up();
                }
                if let Some(topic) = self.routing.topic_at(index) {
                    self.show_behind(topic, 0);
                }
            }
        }
        if self.lanes.iter().all(|lane| lane.next().is_none()) {
            let lost = self.ledger.settle();
            if lost > 0 {
                tracing::error!(records = lost, "records that waited for their topic were lost to corruption");
                self.count_corrupt(lost);
            }
        }
    }

    /// Whether a second reading still has to send a record.
    fn is_owed(&self, held: &Held) -> bool {
        let floor = self.floors.get(held.stream.index()).copied();
        if floor.is_some_and(|floor| held.lsn < floor) {
            return false;
        }
        let Some(lane) = self.lanes.get(held.topic.index()) else { return true };
        lane.next().is_some_and(|next| held.lsn >= next) && lane.owes(held.lsn)
    }

    fn pass_corrupt(&mut self, from: Lsn, to: Lsn) {
        let records = to.get().saturating_sub(from.get());
        self.ledger.passed(records);
        self.count_corrupt(records);
    }

    /// Records that were to be sent again and can be read no more. Of the others in the range the live reading has counted those that it could not
    /// read either; what it had left for later shows in the ledger once all have caught up.
    fn give_up(&mut self, second: &SecondReading, from: Lsn, to: Lsn) {
        let mut lost = 0;
        for (lane, serves) in self.lanes.iter_mut().zip(&second.serves) {
            if *serves {
                lost += lane.window.give_up(from, to);
                self.ledger.passed(lane.window.advance());
            }
        }
        if lost > 0 {
            tracing::error!(records = lost, from = from.get(), to = to.get(), "records that were to be sent again were lost to corruption");
            self.count_corrupt(lost);
        }
    }
}
