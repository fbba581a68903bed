//! Those who use the journal, and the journal's own parts, each in steps.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::promises::{Promises, STREAMS, stream_of};
use crate::clock::Timestamp;
use crate::journal::keeper::{Keeper, Pace};
use crate::journal::record::Salt;
use crate::journal::shared::Shared;
use crate::journal::slot::Stage;
use crate::journal::writer::{Step, Writer};
use crate::journal::{Item, Lsn, Positions, Reader, frame, record};

/// Who may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Actor {
    Sender,
    Writer,
    Keeper,
    Forwarder,
    Clock,
}

impl Actor {
    pub(super) fn any(rng: &mut Rng) -> Self {
        match rng.u8(0..16) {
            0..=3 => Self::Sender,
            4..=8 => Self::Writer,
            9..=10 => Self::Keeper,
            11..=14 => Self::Forwarder,
            _ => Self::Clock,
        }
    }
}

/// A part of the crew that nobody may use while it acts: an operation of the disk within its step may have others act.
#[derive(Debug)]
pub(super) struct Berth<T>(Mutex<Option<T>>);

impl<T> Berth<T> {
    fn new(one: T) -> Self {
        Self(Mutex::new(Some(one)))
    }

    fn set(&self, one: Option<T>) -> Option<T> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), one)
    }

    /// `None` where it is acting already.
    fn with<R>(&self, act: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut one = self.set(None)?;
        let done = act(&mut one);
        self.set(Some(one));
        Some(done)
    }
}

/// A forwarder to a broker that acknowledges when it likes, in order for each stream.
struct Forwarder {
    reader: Reader,
    /// Where it began.
    start: Positions,
    /// Handed to the broker and not acknowledged.
    in_flight: VecDeque<(usize, Lsn)>,
}

/// What goes wrong in the crew on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mistake {
    #[default]
    None,
    /// Positions count what was handed to the broker as published.
    PositionsOfSent,
    /// Every use of a segment has the same salt.
    StaleSalt,
}

/// The parts of one open journal, and those who use it.
pub(super) struct Crew {
    pub(super) shared: Arc<Shared>,
    writer: Berth<Writer>,
    keeper: Berth<Keeper>,
    forwarder: Berth<Forwarder>,
    now: Mutex<Instant>,
    mailbox: usize,
    mistake: Mistake,
}

const IN_FLIGHT_MAX: usize = 6;

impl Crew {
    pub(super) fn new(shared: Arc<Shared>, mut writer: Writer, keeper: Keeper, positions: Positions, mistake: Mistake) -> Self {
        let (mailbox, _) = shared.queue.add_mailbox();
        let reader = Reader::new(Arc::clone(&shared), positions.lowest());
        if mistake == Mistake::StaleSalt {
            writer.salt = || Salt(1);
        }
        let forwarder = Forwarder { reader, start: positions, in_flight: VecDeque::new() };
        Self {
            shared,
            writer: Berth::new(writer),
            keeper: Berth::new(keeper),
            forwarder: Berth::new(forwarder),
            now: Mutex::new(Instant::now()),
            mailbox,
            mistake,
        }
    }

    fn now(&self) -> Instant {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pass(&self, time: Duration) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) += time;
        self.set_clock(i64::try_from(time.as_micros()).unwrap());
    }

    /// Somebody sets the wall clock, by so many microseconds.
    pub(super) fn set_clock(&self, by: i64) {
        let clock = &self.shared.clock;
        clock.set(Timestamp::from_micros(clock.now().micros() + by));
    }

    /// One step of the writer; `None` where it is in one.
    pub(super) fn write(&self) -> Option<Step> {
        self.writer.with(Writer::step)
    }

    /// What of the keeper's work is due; `None` where it is at it.
    pub(super) fn keep(&self) -> Option<()> {
        let now = self.now();
        self.keeper.with(|keeper| {
            if self.shared.status.failure().is_none()
                && let Err(error) = keeper.turn(now, Pace::AtOnce)
            {
                self.shared.poison(error);
            }
        })
    }

    /// The keeper's last act.
    pub(super) fn finish(&self) {
        let now = self.now();
        self.keeper.with(|keeper| {
            if self.shared.status.failure().is_none()
                && let Err(error) = keeper.finish(now)
            {
                self.shared.poison(error);
            }
        });
    }

    /// Sends a few records, or withdraws some that wait.
    pub(super) fn send(&self, rng: &mut Rng, promises: &Mutex<Promises>) {
        match rng.u8(0..12) {
            0 => {
                let promises = promises.lock().unwrap_or_else(PoisonError::into_inner);
                let count = promises.waiting().count();
                if let Some(slot) = promises.waiting().nth(rng.usize(0..count.max(1))) {
                    slot.settle(Stage::Withdrawn);
                }
            }
            1 => self.shared.queue.sweep(Instant::now() + self.shared.config.answer_max),
            _ => {
                for _ in 0..rng.usize(1..5) {
                    self.send_one(rng, &mut promises.lock().unwrap_or_else(PoisonError::into_inner));
                }
            }
        }
    }

    pub(super) fn send_one(&self, rng: &mut Rng, promises: &mut Promises) {
        let number = promises.next_record();
        let mut payload = u32::try_from(number).unwrap().to_le_bytes().to_vec();
        let files = self.shared.files.inner.lock().unwrap_or_else(PoisonError::into_inner);
        promises.note_salts(files.segments.iter().map(|segment| (segment.header.number, segment.header.salt)));
        let known = promises.salts_below(files.segments.back().map_or(0, |segment| segment.header.number));
        drop(files);
        match rng.choice(known) {
            Some(salt) if rng.u8(0..3) == 0 => forge(rng, &mut payload, salt, self.shared.durable.end()),
            Some(_) | None => {
                let most = if rng.u8(0..8) == 0 { self.shared.config.record_max } else { 200 };
                let length = rng.usize(payload.len()..=most);
                payload.resize_with(length, || rng.u8(..));
            }
        }
        let slot = self.shared.queue.push(self.mailbox, payload.clone());
        promises.sent(payload.into(), slot);
    }

    /// One step of the forwarder; `None` where it is in one. An error is that of the reader.
    pub(super) fn forward(&self, rng: &mut Rng, promises: &Mutex<Promises>) -> Option<Result<(), String>> {
        self.forwarder.with(|forwarder| match rng.u8(0..8) {
            0..=3 if forwarder.in_flight.len() < IN_FLIGHT_MAX => self.read_on(forwarder, promises).map(drop),
            4..=6 => {
                // The broker is slow with one of the streams.
                let stream = if rng.u8(0..4) == 0 { STREAMS.len() - 1 } else { rng.usize(0..STREAMS.len() - 1) };
                forwarder.acknowledge(stream, &mut promises.lock().unwrap_or_else(PoisonError::into_inner));
                Ok(())
            }
            _ => {
                self.hand_over(forwarder, &mut promises.lock().unwrap_or_else(PoisonError::into_inner));
                Ok(())
            }
        })
    }

    /// Reads all that there is, has all of it acknowledged, and hands over the positions.
    pub(super) fn forward_all(&self, promises: &Mutex<Promises>) -> Option<Result<(), String>> {
        self.forwarder.with(|forwarder| {
            while self.read_on(forwarder, promises)? {}
            let mut promises = promises.lock().unwrap_or_else(PoisonError::into_inner);
            for stream in 0..STREAMS.len() {
                while forwarder.acknowledge(stream, &mut promises) {}
            }
            self.hand_over(forwarder, &mut promises);
            Ok(())
        })
    }

    /// Hands the next record to the broker; `false` where there is none.
    fn read_on(&self, forwarder: &mut Forwarder, promises: &Mutex<Promises>) -> Result<bool, String> {
        let Some((lsn, record)) = next_record(&mut forwarder.reader, &self.shared, promises)? else { return Ok(false) };
        let stream = stream_of(record);
        if lsn >= position(&forwarder.start, stream) {
            forwarder.in_flight.push_back((stream, lsn));
        }
        Ok(true)
    }

    fn hand_over(&self, forwarder: &Forwarder, promises: &mut Promises) {
        let positions = forwarder.positions(self.mistake, promises);
        promises.hand_over(positions.clone());
        self.shared.bell.set_positions(positions);
    }
}

impl Forwarder {
    /// The oldest record of a stream; `false` where none is in flight.
    fn acknowledge(&mut self, stream: usize, promises: &mut Promises) -> bool {
        let oldest = self.in_flight.iter().position(|(of, _)| *of == stream);
        let Some((_, lsn)) = oldest.and_then(|index| self.in_flight.remove(index)) else { return false };
        promises.publish(lsn);
        true
    }

    fn positions(&self, mistake: Mistake, promises: &Promises) -> Positions {
        let scanned = self.reader.position().max(self.start.scanned);
        let reached = |stream: usize| {
            let lacking = self.in_flight.iter().find(|(of, _)| *of == stream).filter(|_| mistake != Mistake::PositionsOfSent);
            lacking.map_or_else(|| position(&self.start, stream).max(self.reader.position()), |(_, lsn)| *lsn)
        };
        let all = (0..STREAMS.len()).map(|stream| (stream, reached(stream)));
        let behind = all.filter(|(_, lsn)| *lsn < scanned).map(|(stream, lsn)| (STREAMS[stream].to_owned(), lsn)).collect();
        let mut positions = Positions { scanned, behind, completed_beyond: 0, sent_bound: scanned };
        positions.completed_beyond = completed_beyond(&positions, promises);
        positions
    }
}

/// Records from the lowest position up to scanned that are below their own stream's.
pub(super) fn completed_beyond(positions: &Positions, promises: &Promises) -> u64 {
    let range = (positions.lowest().get()..positions.scanned.get()).map(Lsn::new);
    let completed = range.filter(|lsn| promises.stream_at(*lsn).is_some_and(|stream| *lsn < position(positions, stream)));
    u64::try_from(completed.count()).unwrap()
}

fn position(positions: &Positions, stream: usize) -> Lsn {
    positions.behind.iter().find(|(name, _)| name == STREAMS[stream]).map_or(positions.scanned, |(_, lsn)| *lsn)
}

/// The next record of a reader, and which one it is. In a crash nothing is corrupted, so nothing is ever missing.
pub(super) fn next_record(reader: &mut Reader, shared: &Shared, promises: &Mutex<Promises>) -> Result<Option<(Lsn, usize)>, String> {
    let expected = reader.position();
    match reader.next() {
        Ok(None) => Ok(None),
        Ok(Some(Item::Record { lsn, record })) if lsn == expected => {
            let mut promises = promises.lock().unwrap_or_else(PoisonError::into_inner);
            promises.take_answers(shared.identity)?;
            promises.read(shared.identity, lsn, &record).map(|record| Some((lsn, record)))
        }
        Ok(Some(other)) => Err(format!("at LSN {expected} a reader yields {other:?}")),
        Err(error) => Err(format!("at LSN {expected} a reader fails: {error:?}")),
    }
}

/// A body that holds a frame made with the salt of an earlier use of a file, where the walk behind damage would look for one.
fn forge(rng: &mut Rng, payload: &mut Vec<u8>, salt: Salt, end: Lsn) {
    payload.resize(payload.len() + (record::HEADER + payload.len()).next_multiple_of(record::ALIGN) - record::HEADER - payload.len(), 0);
    let first = Lsn::new(end.get() + rng.u64(0..4));
    let forged = [0xFF; 24];
    let mut builder = frame::Builder::new(salt, first, 2 * record::size(forged.len()));
    builder.push(&forged);
    builder.push(&forged);
    payload.extend_from_slice(&builder.finish().1);
    payload.resize_with(payload.len() + rng.usize(0..600), || 0);
}
