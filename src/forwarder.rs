//! From the journal to Kafka: reads the records in order, makes their events, hands them to the producer, and keeps for each topic the LSN up
//! to which it has its records.
//!
//! One thread owns all of it. What it promises:
//! - A record leaves the journal only when a delivery report (with exactly-once: the commit of its transaction) says that Kafka has its event or its dead
//!   letter. Nothing is skipped or dropped.
//! - Within a topic, records are sent in the order of the journal. A record that Kafka refuses for good leaves that order: it becomes a dead letter.
//! - A topic that cannot take its records, or does not move, keeps no other waiting. Its records stay in the journal and are read a second time
//!   once it takes them again; several such topics share one second reading. With exactly-once Kafka makes an exception: a partition that cannot take the end of its
//!   transaction keeps it from beginning another one.
//! - The lowest position frees segments; a restart goes on from the positions and sends nothing that they say is there.
//!
//! What is deliberately absent: a queue of its own (librdkafka's is small, the journal is the buffer), a retry of anything that librdkafka
//! retries by itself, and any knowledge of HTTP.

pub mod apart;
pub mod lane;
pub mod positions;
pub mod stored;
pub mod transaction;
pub mod window;

mod count;
mod delivery;
mod dispatch;
mod exactly_once;
mod handle;
mod parts;
mod reading;
mod rebuild;
mod scout;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::callback::Callback;
use crate::clock::{Clock, Timestamp};
use crate::durable_file;
use crate::journal::{Item, Journal, Lsn, Positions, Reader, Start};
use crate::kafka::{self, Producer, Report, Reports};
use crate::metrics;
use crate::routing::{Routing, TopicId};
use crate::traces::Publications;

pub use handle::{Forwarding, Handle, start};
pub use parts::{Config, Error, Limits, Parts};

use apart::Aparts;
use count::Counters;
use exactly_once::{ExactlyOnce, Recovered};
use handle::{Order, Shared};
use lane::{Behind, Lane, Share};
use positions::Ledger;
use reading::{Held, SecondReading};
use rebuild::{REBUILD_MIN, Rebuild, new_reports};
use scout::Scout;

/// No topic holds more of the producer's queue, in records and in bytes, than one part in so many: several that stand still leave room for others.
const QUEUE_SHARES: usize = 8;

/// How long the thread sleeps at most where nothing wakes it: the pace of whatever depends on time alone.
const TICK: Duration = Duration::from_millis(50);

/// How long records and reports gather before they are taken in one go, where there were some just now. The producer waits for more anyway
/// (`linger.ms`), so this costs little freshness.
const GATHER: Duration = Duration::from_millis(4);

/// How often the positions are handed to the journal, which writes them at its own pace.
const POSITIONS_EVERY: Duration = Duration::from_millis(25);

/// How long a drain goes on without a delivery before it gives up: Kafka is not there, and what is left is safe in the journal.
const PROGRESS_MAX: Duration = Duration::from_secs(5);

/// Records read in one go before reports are looked at again.
const STRIDE: usize = 256;

/// The state of the forwarder's thread.
struct Forwarder {
    config: Config,
    journal: Journal,
    routing: Arc<Routing>,
    settings: kafka::Settings,
    status: kafka::Status,
    kafka_metrics: metrics::Kafka,
    metrics: Counters,
    clock: Clock,
    shared: Arc<Shared>,

    /// The reading of the live end.
    live: Reader,
    /// What the live reading has in hand and could not yet hand over.
    live_held: Option<Held>,
    /// The reading for topics that are behind.
    second: Option<SecondReading>,
    /// One a topic, by [`TopicId`].
    lanes: Vec<Lane>,
    /// LSNs below which a stream has its records, by `StreamId`: an earlier run's positions.
    floors: Vec<Lsn>,
    aparts: Aparts,
    /// Reads records apart, which are read in order mostly.
    apart_reader: Option<Reader>,
    ledger: Ledger,

    producer: Option<Arc<Producer>>,
    reports: Reports,
    /// Swapped with the queue of reports, so that neither is allocated anew.
    inbox: Vec<Report>,
    scout: Scout,
    /// Why the producer is to be built anew, and since when, where it is.
    rebuild: Option<(Rebuild, Instant)>,
    rebuild_after: Instant,
    rebuild_delay: Duration,
    /// The smallest `max.message.bytes` of our topics, where it is known.
    message_max: Option<u64>,

    moved_at: Instant,
    positions_at: Instant,
    /// As they were last handed over: what has not changed is not written again.
    positions_before: Option<Positions>,
    /// The record that the live reading comes to next, and when it was received, as they were last looked up.
    unread: Option<(Lsn, Option<Timestamp>)>,
    /// What exactly-once adds; `None` with at-least-once.
    exactly_once: Option<ExactlyOnce>,
    /// The spans of what is with librdkafka; `None` where none are recorded.
    publications: Option<Publications>,
}

impl Forwarder {
    fn new(parts: Parts, shared: Arc<Shared>) -> Result<Self, Error> {
        let Parts {
            config,
            journal,
            positions,
            start,
            end,
            routing,
            kafka,
            status,
            kafka_metrics,
            metrics,
            journal_metrics,
            clock,
            tracer,
        } = parts;
        durable_file::remove_all_unfinished(&config.oversized_dir);
        let now = Instant::now();
        let waker = thread::current();
        journal.watch(Arc::new(move || waker.unpark()));
        let scout = Scout::start(&config, &kafka, &routing, thread::current()).map_err(Error::Thread)?;
        let exactly_once = kafka
            .positions()
            .map(|place| ExactlyOnce::new(&config.kafka, place, &journal, &Recovered { positions: &positions, start, end }));
        let mut forwarder = Self {
            live: journal.reader(positions.scanned),
            live_held: None,
            second: None,
            lanes: lanes(&kafka, &routing, now),
            floors: Vec::new(),
            aparts: Aparts::default(),
            apart_reader: None,
            ledger: Ledger::new(&positions, start, end),
            producer: None,
            reports: new_reports(),
            inbox: Vec::new(),
            scout,
            rebuild: None,
            rebuild_after: now,
            rebuild_delay: REBUILD_MIN,
            message_max: None,
            moved_at: now,
            positions_at: now,
            positions_before: None,
            unread: None,
            metrics: Counters::new(metrics, journal_metrics, &routing),
            config,
            journal,
            routing,
            settings: kafka,
            status,
            kafka_metrics,
            clock,
            shared,
            exactly_once,
            publications: tracer.map(Publications::new),
        };
        forwarder.lay_out(&positions)?;
        Ok(forwarder)
    }

    /// Has everything begin where these positions are: nothing is in hand, and what lies below them is not read again.
    fn lay_out(&mut self, positions: &Positions) -> Result<(), Error> {
        let behind: Vec<_> = positions.behind.iter().map(|(stream, lsn)| (stream.clone(), lsn.get())).collect();
        self.floors = self.routing.positions_from(&behind, positions.scanned.get()).into_iter().map(Lsn::new).collect();
        for (topic, lane) in self.routing.topics().iter().zip(&mut self.lanes) {
            let lowest = topic.streams.iter().filter_map(|stream| self.floors.get(stream.index())).min().copied();
            let behind = match lowest.filter(|lowest| *lowest < positions.scanned) {
                Some(next) => Some(Behind { next, received: received_of(&self.journal, next)? }),
                None => None,
            };
            self.metrics.forwarder.behind(&topic.name).set(i64::from(behind.is_some()));
            lane.start_over(behind);
        }
        self.live = self.journal.reader(positions.scanned);
        self.live_held = None;
        self.second = None;
        Ok(())
    }

    fn run(mut self) -> Result<(), Error> {
        let mut drain_since = None;
        let mut idle = true;
        loop {
            let now = Instant::now();
            let mut moved = self.take_reports(now);
            moved |= self.turn_transaction(now)?;
            self.ensure_producer(now)?;
            self.take_findings(now);
            let order = self.shared.order();
            if order == Order::Abandon {
                break;
            }
            if order < Order::Finish && self.rebuild.is_none() && self.takes_records() {
                moved |= self.send_aparts(now)?;
                moved |= self.read_second(now)?;
                moved |= self.read_live(now)?;
            }
            self.hand_over_positions(now)?;
            if order >= Order::Drain && self.may_end(order, *drain_since.get_or_insert(now), now) {
                break;
            }
            if !moved && self.is_empty() {
                self.shared.set_completed_end(self.live.position());
            }
            if moved {
                idle = false;
            } else if std::mem::replace(&mut idle, true) {
                thread::park_timeout(self.tick(now));
            } else {
                // While records come, being woken for each batch of them costs more than reading them.
                thread::sleep(GATHER);
            }
        }
        self.end_transaction()?;
        if let Some(publications) = &mut self.publications {
            publications.abandon(Instant::now());
        }
        self.journal.set_positions(self.last_positions());
        self.scout.stop();
        Ok(())
    }

    /// Whether a drain is over: nothing left, or nothing moves.
    fn may_end(&self, order: Order, since: Instant, now: Instant) -> bool {
        let in_hand = self.in_flight();
        let empty = self.is_empty() && self.live.position() >= self.journal.durable_end();
        if empty {
            self.shared.set_drained();
        }
        let stuck = now.duration_since(self.moved_at.max(since)) >= PROGRESS_MAX;
        empty || stuck || (order == Order::Finish && in_hand == 0 && self.is_settled())
    }

    /// Whether all that was read is completed.
    fn is_empty(&self) -> bool {
        self.is_settled()
            && self.in_flight() == 0
            && self.live_held.is_none()
            && self.aparts.is_empty()
            && self.lanes.iter().all(Lane::is_idle)
    }

    /// Records with librdkafka.
    fn in_flight(&self) -> usize {
        self.lanes.iter().map(|lane| lane.window.in_flight()).sum::<usize>() + self.aparts.in_flight()
    }

    /// How far the live reading is: the first LSN that it has neither handed over nor left to a second reading.
    fn scanned(&self) -> Lsn {
        self.live_held.as_ref().map_or_else(|| self.live.position(), |held| held.lsn)
    }

    fn positions(&self) -> Positions {
        self.positions_by(&self.ledger, Lane::position)
    }

    /// Positions with what `of_lane` says of a lane whose live reading is so far.
    fn positions_by(&self, ledger: &Ledger, of_lane: impl Fn(&Lane, Lsn) -> Lsn) -> Positions {
        let scanned = self.scanned();
        let position = |stream| {
            let lane = self.lanes.get(self.routing.topic_of(stream).index())?;
            let floor = self.floors.get(stream.index())?;
            Some(of_lane(lane, scanned).max(*floor).min(scanned).get())
        };
        let positions: Vec<_> = self.routing.streams().map(|stream| position(stream).unwrap_or(scanned.get())).collect();
        let behind = self.routing.behind(&positions, scanned.get());
        ledger.checkpoint(scanned, behind.into_iter().map(|(stream, lsn)| (stream, Lsn::new(lsn))).collect())
    }

    fn hand_over_positions(&mut self, now: Instant) -> Result<(), Error> {
        if now.duration_since(self.positions_at) < POSITIONS_EVERY {
            return Ok(());
        }
        self.positions_at = now;
        let oldest = self.lanes.iter().filter_map(Lane::oldest).chain(self.live_held.as_ref().map(|held| held.received)).min();
        let oldest = if oldest.is_none() { self.oldest_unread()? } else { oldest };
        #[expect(clippy::cast_precision_loss, clippy::as_conversions, reason = "microseconds since 1970 fit 52 bits for centuries")]
        let seconds = oldest.map_or(0.0, |oldest| oldest.micros() as f64 / 1e6);
        self.metrics.journal.oldest_unpublished_timestamp_seconds.set(seconds);
        if self.exactly_once.is_some() {
            // Only a commit moves them.
            return Ok(());
        }
        let positions = self.positions();
        if self.positions_before.as_ref() != Some(&positions) {
            self.journal.set_positions(positions.clone());
            self.positions_before = Some(positions);
        }
        Ok(())
    }

    /// When the next record of the live reading was received, as far as that can be read: what waits for a producer or a transaction has an age too.
    fn oldest_unread(&mut self) -> Result<Option<Timestamp>, Error> {
        let lsn = self.live.position();
        if lsn >= self.journal.durable_end() {
            return Ok(None);
        }
        if let Some((known, received)) = self.unread
            && known == lsn
        {
            return Ok(received);
        }
        let received = received_of(&self.journal, lsn)?;
        self.unread = Some((lsn, received));
        Ok(received)
    }

    fn dead_letter_topic(&self) -> TopicId {
        self.routing.topic_of(self.routing.dead_letter())
    }

    fn lane_mut(&mut self, topic: TopicId) -> Option<&mut Lane> {
        self.lanes.get_mut(topic.index())
    }

    /// The latency of a record that was received then.
    fn observe_latency(&self, received: Timestamp, now: Timestamp) {
        self.metrics.forwarder.delivery_latency_seconds.observe(received.until(now).as_secs_f64());
    }
}

/// One a topic, all of them at their beginning.
fn lanes(kafka: &kafka::Settings, routing: &Routing, now: Instant) -> Vec<Lane> {
    let part = |whole: u64| (usize::try_from(whole).unwrap_or(usize::MAX) / QUEUE_SHARES).max(1);
    let share = Share { records: part(kafka.queue_max_messages()), bytes: part(kafka.queue_max_bytes()) };
    let lane = |topic| {
        let mut lane = Lane::new(share, None, now);
        if !routing.is_published(topic) {
            // Its records only leave the journal: whether there is such a topic does not matter.
            lane.looked_up();
        }
        lane
    };
    routing.topics().iter().map(lane).collect()
}

/// When the record at `lsn` was received, so that a backlog shows its age from the start; `None` where it cannot be read.
fn received_of(journal: &Journal, lsn: Lsn) -> Result<Option<Timestamp>, Error> {
    let item = journal.reader(lsn).next().map_err(Error::Journal)?;
    let Some(Item::Record { record, .. }) = item else { return Ok(None) };
    Ok(Callback::decode(record).ok().map(|callback| callback.received))
}
