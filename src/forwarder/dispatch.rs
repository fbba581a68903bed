//! A record on its way out: made into its message, handed to the producer, entered into its topic's window.

use std::fs;
use std::io;
use std::time::Instant;

use bytes::Bytes;

use crate::callback::Callback;
use crate::config;
use crate::durable_file;
use crate::event::dead_letter::{self, Grounds, Place};
use crate::event::{self, DeadLetterReason, Message, Normalised};
use crate::journal::{Item, Lsn, Reader};
use crate::kafka::SendError;
use crate::routing::{Routing, TopicId};
use crate::traces::{self, Destination};

use super::apart::{Attempt, Step};
use super::delivery::Answer;
use super::lane::{HoldCause, Lane, Room};
use super::positions::Owed;
use super::reading::{Handed, Held, Load};
use super::window::{Entry, State};
use super::{Error, Forwarder};

/// How far behind a record apart its reader may stand and still be the quickest way there.
const APART_NEAR: u64 = 4096;

/// What a delivery report says it is about, in the 64 bits that librdkafka carries for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) lsn: Lsn,
    /// Whose window the record is in.
    pub(super) topic: TopicId,
    /// Why it is a dead letter, where it is one.
    pub(super) reason: Option<DeadLetterReason>,
}

// Every topic that the configuration may name has a number of its own.
const _: () = assert!(config::TOPICS_MAX <= 1 << Ticket::TOPIC_BITS);

impl Ticket {
    const LSN_BITS: u32 = 48;
    const REASON_BITS: u32 = 4;
    const TOPIC_BITS: u32 = u64::BITS - Self::LSN_BITS - Self::REASON_BITS;

    /// LSN in the low 48 bits (a million records a second for eight years), then the reason, then the topic.
    pub(super) fn pack(self) -> u64 {
        let reason = self.reason.and_then(|reason| DeadLetterReason::ALL.iter().position(|known| *known == reason));
        let reason = reason.and_then(|index| u64::try_from(index + 1).ok()).unwrap_or(0);
        let topic = u64::try_from(self.topic.index()).unwrap_or(u64::MAX);
        (topic << (Self::LSN_BITS + Self::REASON_BITS)) | (reason << Self::LSN_BITS) | self.lsn.get()
    }

    /// `None` where it is not a ticket of this routing.
    pub(super) fn unpack(opaque: u64, routing: &Routing) -> Option<Self> {
        let lsn = Lsn::new(opaque & ((1 << Self::LSN_BITS) - 1));
        let reason = (opaque >> Self::LSN_BITS) & ((1 << Self::REASON_BITS) - 1);
        let topic = opaque >> (Self::LSN_BITS + Self::REASON_BITS);
        let topic = routing.topic_at(usize::try_from(topic).ok()?)?;
        let reason = match reason.checked_sub(1) {
            Some(index) => Some(*DeadLetterReason::ALL.get(usize::try_from(index).ok()?)?),
            None => None,
        };
        Some(Self { lsn, topic, reason })
    }
}

impl Forwarder {
    /// Makes a record's message.
    pub(super) fn prepare(&self, lsn: Lsn, record: Bytes) -> Result<Held, Error> {
        let callback = Callback::decode(record).map_err(|source| Error::Record { lsn, source })?;
        let received = callback.received;
        let (stream, load) = match event::normalise(&callback, &self.routing, self.config.mode) {
            Normalised::Event { stream, .. } if self.routing.is_discarded(&callback.command) => (stream, Load::Discarded),
            Normalised::Event { stream, message } => (stream, Load::Event(message)),
            Normalised::DeadLetter(letter) => (self.routing.dead_letter(), Load::DeadLetter(letter.message, letter.reason)),
        };
        Ok(Held { lsn, topic: self.routing.topic_of(stream), stream, received, load })
    }

    /// Hands a record to the producer and enters it into its topic's window.
    pub(super) fn hand_over(&mut self, held: Held, now: Instant) -> Result<Handed, Error> {
        if self.exactly_once.is_some() {
            return self.hand_over_in_transaction(held, now);
        }
        let (message, reason) = match &held.load {
            Load::Discarded => {
                self.discard(&held);
                return Ok(Handed::Over);
            }
            Load::Event(message) => (message, None),
            Load::DeadLetter(message, reason) => (message, Some(*reason)),
        };
        let ticket = Ticket { lsn: held.lsn, topic: held.topic, reason };
        let refused = match self.send(held.topic, message, ticket) {
            Ok(()) => None,
            Err(SendError::QueueFull) => return Ok(Handed::Full(held)),
            Err(SendError::Refused { verdict, error }) => Some(Answer { verdict, error: Some(error) }),
        };
        if self.ledger.may_be_repeated(held.lsn) {
            self.metrics.republished_restart.inc();
        }
        let entry = Entry { lsn: held.lsn, received: held.received, size: size_of(message), state: State::Sent };
        self.enter(held.topic, entry);
        if let Some(lane) = self.lane_mut(held.topic) {
            lane.sent(now);
        }
        if let Some(answer) = refused {
            self.settle(ticket, answer, now);
        }
        Ok(Handed::Over)
    }

    /// Enters a record into its topic's window, or moves it there where it was sent before.
    pub(super) fn enter(&mut self, topic: TopicId, entry: Entry) {
        let Some(lane) = self.lanes.get_mut(topic.index()) else { return };
        if lane.window.set(entry.lsn, entry.state).is_some() {
            return;
        }
        lane.window.push(entry);
        if lane.next().is_some() && self.ledger.taken_up() == Owed::Again {
            self.count_owed_again();
        }
    }

    /// Sends what is apart: records to be tried alone, and dead letters that are owed.
    pub(super) fn send_aparts(&mut self, now: Instant) -> Result<bool, Error> {
        // With exactly-once they are not out of order: the readings come to them.
        if self.aparts.is_empty() || self.producer.is_none() || self.exactly_once.is_some() {
            return Ok(false);
        }
        let mut moved = false;
        for (lsn, topic, step) in self.aparts.due() {
            let target = self.target(topic, &step);
            let Some(lane) = self.lanes.get_mut(target.index()) else { continue };
            let free = match step {
                Step::Retry | Step::DeadLetter { attempt: Attempt::Alone, .. } => lane.is_ready_for_one(now),
                Step::DeadLetter { attempt: Attempt::Among, .. } | Step::Oversized { .. } => lane.room(now) == Room::Free,
            };
            if free {
                match self.send_apart(lsn, topic, &step, now)? {
                    Sent::Yes => moved = true,
                    Sent::Later => break,
                }
            }
        }
        Ok(moved)
    }

    /// Where a record apart goes.
    pub(super) fn target(&self, topic: TopicId, step: &Step) -> TopicId {
        match step {
            Step::Retry => topic,
            Step::DeadLetter { .. } | Step::Oversized { .. } => self.dead_letter_topic(),
        }
    }

    fn send_apart(&mut self, lsn: Lsn, topic: TopicId, step: &Step, now: Instant) -> Result<Sent, Error> {
        let (message, reason) = match self.make_apart(lsn, topic, step)? {
            Made::Message(message, reason) => (message, reason),
            Made::Lost => {
                self.give_up_apart(lsn, topic);
                return Ok(Sent::Yes);
            }
            Made::NoRoom => {
                self.hold(self.dead_letter_topic(), HoldCause::Refused, now);
                return Ok(Sent::Later);
            }
        };
        let ticket = Ticket { lsn, topic, reason };
        let target = self.target(topic, step);
        let refused = match self.send(target, &message, ticket) {
            Ok(()) => None,
            Err(SendError::QueueFull) => return Ok(Sent::Later),
            Err(SendError::Refused { verdict, error }) => Some(Answer { verdict, error: Some(error) }),
        };
        if let Some(apart) = self.aparts.get_mut(lsn) {
            apart.in_flight = true;
        }
        if let Some(lane) = self.lane_mut(target) {
            lane.visitor_sent();
            lane.sent(now);
        }
        if let Some(answer) = refused {
            self.settle(ticket, answer, now);
        }
        Ok(Sent::Yes)
    }

    /// Makes the message of a record that is apart.
    pub(super) fn make_apart(&mut self, lsn: Lsn, topic: TopicId, step: &Step) -> Result<Made, Error> {
        let Some(record) = self.read_apart(lsn)? else { return Ok(Made::Lost) };
        let callback = Callback::decode(record).map_err(|source| Error::Record { lsn, source })?;
        let name = &self.routing.topic(topic).name;
        let (message, reason) = match step {
            Step::Retry => match event::normalise(&callback, &self.routing, self.config.mode) {
                Normalised::Event { message, .. } => (message, None),
                Normalised::DeadLetter(letter) => (letter.message, Some(letter.reason)),
            },
            Step::DeadLetter { reason, detail, .. } => {
                (dead_letter::message(&callback, &Grounds { reason: *reason, detail, topic: name }), Some(*reason))
            }
            Step::Oversized { reason, detail } => {
                let Some(file) = self.keep_oversized(lsn, &callback.body)? else { return Ok(Made::NoRoom) };
                let place = Place { instance: &self.config.instance, file: &file };
                let grounds = Grounds { reason: *reason, detail, topic: name };
                (dead_letter::message_without_body(&callback, &grounds, &place), Some(*reason))
            }
        };
        Ok(Made::Message(message, reason))
    }

    /// One record; `None` where it can be read no more. Records apart are asked for in order mostly, so the reader of the last one goes on.
    fn read_apart(&mut self, lsn: Lsn) -> Result<Option<Bytes>, Error> {
        let near = |reader: &Reader| reader.position() <= lsn && lsn.get() - reader.position().get() <= APART_NEAR;
        let mut reader = match self.apart_reader.take().filter(near) {
            Some(reader) => reader,
            None => self.journal.reader(lsn),
        };
        while let Some(item) = reader.next().map_err(Error::Journal)? {
            match item {
                Item::Record { lsn: found, record } if found == lsn => {
                    self.apart_reader = Some(reader);
                    return Ok(Some(record));
                }
                Item::Record { lsn: found, .. } if found > lsn => break,
                Item::Corrupt { to, .. } if to > lsn => break,
                Item::Record { .. } | Item::Corrupt { .. } => {}
            }
        }
        Ok(None)
    }

    pub(super) fn send(&mut self, topic: TopicId, message: &Message, ticket: Ticket) -> Result<(), SendError> {
        let Some(producer) = &self.producer else { return Err(SendError::QueueFull) };
        let name = &self.routing.topic(topic).name;
        let Message { key, value, headers, id } = message;
        let begun = self.publications.as_ref().and_then(|publications| publications.begin(headers));
        let (Some(sending), Some(publications)) = (begun, &mut self.publications) else {
            return producer.send(name, key.as_deref(), value, headers, ticket.pack());
        };
        let destination = Destination {
            topic: name,
            id: *id,
            lsn: ticket.lsn.get(),
            body_bytes: value.len(),
            dead_letter: ticket.reason.map(DeadLetterReason::label),
        };
        let (begun, now) = (self.clock.now(), Instant::now());
        let sent = producer.send(name, key.as_deref(), value, &sending.headers(headers), ticket.pack());
        match sent {
            Err(SendError::QueueFull) => {}
            Ok(()) => publications.sent(sending, &destination, begun, now),
            Err(SendError::Refused { error, .. }) => {
                publications.sent(sending, &destination, begun, now);
                let refused = traces::Report { place: None, error: Some(error.to_string()) };
                publications.reported(ticket.lsn.get(), refused, Instant::now());
            }
        }
        sent
    }

    /// A command that the configuration has come to discard since its callback was received.
    pub(super) fn discard(&mut self, held: &Held) {
        self.enter(held.topic, Entry { lsn: held.lsn, received: held.received, size: 0, state: State::Done });
        self.done(held.topic, held.lsn);
        self.count_discarded();
    }

    /// The journal has set it aside, and counted it.
    pub(super) fn give_up_apart(&mut self, lsn: Lsn, topic: TopicId) {
        tracing::error!(lsn = lsn.get(), "record that was to be sent again was lost to corruption");
        if let Some(apart) = self.aparts.remove(lsn)
            && apart.step == Step::Retry
            && let Some(lane) = self.lane_mut(topic)
        {
            lane.retry_ends();
        }
        self.done(topic, lsn);
        self.count_corrupt(1);
    }

    /// A record of a topic's window is completed.
    pub(super) fn done(&mut self, topic: TopicId, lsn: Lsn) -> Option<State> {
        let lane: &mut Lane = self.lanes.get_mut(topic.index())?;
        let before = lane.window.set(lsn, State::Done);
        let passed = lane.window.advance();
        self.ledger.passed(passed);
        before
    }

    /// Keeps a body in a file of its own, named by journal and LSN, synced with its folder before anything names it; an earlier try may have done so
    /// already. `None` where there is no room: that is for later.
    fn keep_oversized(&self, lsn: Lsn, body: &[u8]) -> Result<Option<String>, Error> {
        let dir = &self.config.oversized_dir;
        let name = format!("{}-{:020}", self.journal.identity(), lsn.get());
        let path = dir.join(&name);
        if path.exists() {
            durable_file::sync_folder_of(&path).map_err(|source| Error::Oversized { path, source })?;
            return Ok(Some(name));
        }
        let write = || -> io::Result<()> {
            fs::create_dir_all(dir)?;
            durable_file::write(&path, body)?;
            durable_file::sync_folder_of(dir)
        };
        match write() {
            Ok(()) => {
                self.metrics.forwarder.oversized.inc();
                Ok(Some(name))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Ok(None),
            Err(source) => Err(Error::Oversized { path, source }),
        }
    }
}

/// The bytes of a message that count for its topic's share.
pub(super) fn size_of(message: &Message) -> usize {
    message.value.len() + message.key.as_ref().map_or(0, Vec::len)
}

/// The message of a record that is apart.
pub(super) enum Made {
    /// This, and why it is a dead letter, where it is one.
    Message(Message, Option<DeadLetterReason>),
    /// The record can be read no more.
    Lost,
    /// The disk has no room for its body.
    NoRoom,
}

/// What became of an attempt to send a record apart.
enum Sent {
    /// It is under way, or settled.
    Yes,
    /// The producer's queue is full, or the disk is.
    Later,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn a_ticket_survives_librdkafka() {
        let routing = Routing::new(&config::Topics::default());
        for reason in DeadLetterReason::ALL.into_iter().map(Some).chain([None]) {
            for topic in (0..).map_while(|index| routing.topic_at(index)) {
                let ticket = Ticket { lsn: Lsn::new((1 << 48) - 1), topic, reason };
                assert_eq!(Ticket::unpack(ticket.pack(), &routing), Some(ticket));
            }
        }
        assert_eq!(Ticket::unpack(u64::MAX, &routing), None);
    }
}
