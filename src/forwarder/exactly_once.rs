//! Exactly-once: what a transaction asks for is done here, and what becomes of it.
//!
//! The readings, lanes and windows are those of at-least-once. What differs: a record enters a transaction and counts once that is committed; the positions go
//! to Kafka in the same transaction, and to the journal's checkpoint after it; a refusal aborts all of it and begins again from the positions that were committed
//! last, where the culprit then is alone in a transaction, as an event once more and then as a dead letter, so that none is ever behind its topic's position without having left.

mod failure;
mod records;

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::callback::Callback;
use crate::config;
use crate::journal::{Item, Journal, Lsn, Positions};
use crate::kafka::transactions::{Obstacle, Order, Outcome};
use crate::kafka::{Entry as Kept, ParkCause, Place, SendError};
use crate::metrics::Abort;

use super::count::Tally;
use super::stored::{self, Mark, Owner, Stored};
use super::transaction::{InFlight, Limits, Move, Transaction};
use super::{Error, Forwarder, Ledger, REBUILD_MIN, Start};

/// How long the end of the process waits for what is under way, so that no open transaction is left behind for the readers to wait for.
const END_MAX: Duration = Duration::from_secs(2);

/// Between two looks at it.
const END_LOOK: Duration = Duration::from_millis(5);

/// The number of a position with librdkafka: no record's.
const POSITION: u64 = u64::MAX;

/// What exactly-once adds to the forwarder.
pub(super) struct ExactlyOnce {
    transaction: Transaction,
    owner: Owner,
    topic: String,
    /// The journal's end when it was opened: nothing of an earlier run lies beyond it.
    end: Lsn,
    /// The positions that were committed last; before Kafka's are read, those of the journal's checkpoint.
    committed: Positions,
    /// Whether they are of a commit of this process. Until then what Kafka has may be of a journal that ours is an older copy of.
    claimed: bool,
    /// Whether Kafka's have been read: what an earlier run had committed is counted once, and an older copy told once.
    read: bool,
    /// The LSN below which an earlier run may have published what Kafka's positions do not show.
    sent_before: Lsn,
    /// The LSN below which what is committed may be a repetition of what an earlier run published.
    repeated_below: Option<Lsn>,
    /// The streams that have a record of their own in Kafka.
    listed: BTreeMap<String, Lsn>,
    /// What the commit that is under way carries.
    closing: Option<Stored>,
    mark: Option<Mark>,
    obstacle: Option<Obstacle>,
    /// Why librdkafka would not commit the transaction of the moment.
    cause: Option<String>,
}

/// How the journal was found.
pub(super) struct Recovered<'a> {
    pub(super) positions: &'a Positions,
    pub(super) start: Start,
    pub(super) end: Lsn,
}

impl ExactlyOnce {
    pub(super) fn new(kafka: &config::Kafka, place: &Place, journal: &Journal, recovered: &Recovered<'_>) -> Self {
        let Recovered { positions, start, end } = *recovered;
        let limits = Limits { interval: kafka.commit_interval.get(), records: u64::from(kafka.commit_records.get()) };
        Self {
            transaction: Transaction::new(limits),
            owner: Owner { instance: place.partition, journal: journal.identity() },
            topic: place.topic.clone(),
            end,
            committed: positions.clone(),
            claimed: false,
            read: false,
            sent_before: Ledger::new(positions, start, end).sent_bound(),
            repeated_below: None,
            listed: BTreeMap::new(),
            closing: None,
            mark: None,
            obstacle: None,
            cause: None,
        }
    }
}

impl Forwarder {
    /// Whether records may be handed over.
    pub(super) fn takes_records(&self) -> bool {
        self.exactly_once.as_ref().is_none_or(|this| this.transaction.is_open())
    }

    /// Whether nothing waits for a commit.
    pub(super) fn is_settled(&self) -> bool {
        self.exactly_once.as_ref().is_none_or(|this| this.transaction.is_settled())
    }

    /// What the transaction of the moment is to count; `None` with at-least-once.
    pub(super) fn tally(&mut self) -> Option<&mut Tally> {
        let this = self.exactly_once.as_mut()?;
        this.transaction.touched(Instant::now());
        Some(this.transaction.tally())
    }

    /// The positions that a restart goes on from.
    pub(super) fn last_positions(&self) -> Positions {
        self.exactly_once.as_ref().map_or_else(|| self.positions(), |this| this.committed.clone())
    }

    /// How long the thread may sleep where nothing wakes it.
    pub(super) fn tick(&self, now: Instant) -> Duration {
        let closes_in = self.exactly_once.as_ref().and_then(|this| this.transaction.closes_in(now));
        closes_in.map_or(super::TICK, |closes_in| closes_in.min(super::TICK))
    }

    /// Goes on with the transaction. Tells whether anything moved.
    pub(super) fn turn_transaction(&mut self, now: Instant) -> Result<bool, Error> {
        if self.exactly_once.is_none() {
            return Ok(false);
        }
        let mut moved = false;
        while let Some(outcome) = self.reports.take_outcome() {
            moved = true;
            self.take_outcome(outcome, now)?;
        }
        let records = self.in_flight();
        let (Some(this), Some(producer)) = (&mut self.exactly_once, &self.producer) else { return Ok(moved) };
        let transaction = &mut this.transaction;
        let next = transaction.next(InFlight { records, messages: producer.in_flight() }, now);
        moved |= next != Move::None;
        match next {
            Move::None => {}
            Move::Look => {
                transaction.looking();
                producer.order(Order::Look);
            }
            Move::Open => {
                transaction.opening();
                producer.order(Order::Open);
            }
            Move::Introduce => self.introduce(now),
            Move::SendPositions => self.send_positions(now),
            Move::Commit => {
                transaction.committing();
                producer.order(Order::Commit);
            }
            Move::GiveUp => self.give_up_on_what_stands(now),
            Move::Abort => {
                transaction.aborting();
                producer.order(Order::Abort);
            }
            Move::Rewind => self.rewind(now)?,
        }
        Ok(moved)
    }

    fn take_outcome(&mut self, outcome: Outcome, now: Instant) -> Result<(), Error> {
        let Some(this) = &mut self.exactly_once else { return Ok(()) };
        match outcome {
            Outcome::Seen(entries) => {
                let found = this.owner.read(&entries).map_err(Error::Positions)?;
                if this.transaction.looked(found.last) {
                    return Err(Error::Superseded { instance: this.owner.instance.to_string() });
                }
            }
            Outcome::Waits(obstacle) => self.stand_before(obstacle),
            Outcome::Found => self.pass_obstacle(),
            Outcome::Opened(entries) => {
                // Of a producer that has died since it told of the obstacle nothing else is heard.
                self.pass_obstacle();
                self.opened(&entries, now)?;
            }
            Outcome::Committed => self.committed(now),
            Outcome::Refused(cause) => self.blame(cause, now),
            Outcome::Aborted => this.transaction.aborted(),
        }
        Ok(())
    }

    /// The partition of the positions cannot be used: everything waits in the journal.
    fn stand_before(&mut self, obstacle: Obstacle) {
        let Some(this) = &mut self.exactly_once else { return };
        if this.obstacle.replace(obstacle) == Some(obstacle) {
            return;
        }
        let (topic, instance) = (&this.topic, this.owner.instance);
        let cause = match obstacle {
            Obstacle::Parked(cause) => {
                tracing::warn!(%topic, cause = cause.as_str(), remedy = "chat-bridge topics apply", "topic of the positions cannot be used; all records wait in the journal");
                cause
            }
            Obstacle::TooFewPartitions(partitions) => {
                let remedy = "topics.config, then chat-bridge topics apply --yes";
                tracing::warn!(%topic, partitions, instance, remedy, "topic of the positions has no partition for this instance; all records wait in the journal");
                ParkCause::Missing
            }
        };
        self.metrics.forwarder.parked(topic).set(1);
        self.shared.set_parked(topic, cause);
    }

    /// The partition of the positions can be used.
    fn pass_obstacle(&mut self) {
        let Some(this) = &mut self.exactly_once else { return };
        if this.obstacle.take().is_some() {
            tracing::info!(topic = %this.topic, partition = this.owner.instance, "topic of the positions can be used");
            self.metrics.forwarder.parked(&this.topic).set(0);
            self.shared.clear_parked(&this.topic);
        }
    }

    /// Nobody but us can write any more: where the positions are is where we go on.
    fn opened(&mut self, entries: &[Kept], now: Instant) -> Result<(), Error> {
        let Some(this) = &mut self.exactly_once else { return Ok(()) };
        let found = this.owner.read(entries).map_err(Error::Positions)?;
        let confirmed = this.transaction.opened(Uuid::new_v4(), found.last, now);
        if let Some(tally) = confirmed {
            self.metrics.forwarder.transactions_committed.inc();
            self.metrics.add(&tally, self.clock.now());
        }
        let before = this.committed.clone();
        let claimed = this.claimed;
        let (positions, mark, repeated_below) = match &found.own {
            Some(own) if !claimed && is_foreign(&self.journal, own, this.end)? => {
                if !this.read {
                    tracing::error!(
                        position = own.positions.scanned.get(),
                        end = this.end.get(),
                        "kafka's positions are not of this journal but of one that it is an older copy of: what was published since may be published once more"
                    );
                }
                (before.clone(), None, Some(own.positions.scanned.min(this.end)))
            }
            Some(own) if stored::completed(&own.positions) >= stored::completed(&before) => {
                (own.positions.clone(), own.mark, own.repeated_below)
            }
            Some(_) => {
                tracing::warn!("kafka's positions are older than the journal's checkpoint, which is taken");
                (before.clone(), None, Some(this.sent_before))
            }
            None => (before.clone(), None, Some(this.sent_before)),
        };
        tracing::info!(
            topic = %this.topic, partition = this.owner.instance, found = found.own.is_some(), position = positions.scanned.get(),
            "positions read; events are published in transactions"
        );
        this.listed = found.listed;
        this.mark = mark;
        this.closing = None;
        this.committed = positions.clone();
        if !claimed {
            this.repeated_below = repeated_below.filter(|bound| *bound > positions.lowest());
        }
        if !std::mem::replace(&mut this.read, true) {
            self.metrics.add_earlier(stored::completed(&positions).saturating_sub(stored::completed(&before)));
        }
        self.start_from(&positions)
    }

    /// Begins where these positions are, as a restart would.
    fn start_from(&mut self, positions: &Positions) -> Result<(), Error> {
        self.ledger = Ledger::new(positions, Start::Clean, positions.scanned);
        self.lay_out(positions)
    }

    /// The positions are handed over as they are once all that is in the transaction is delivered: they are seen together with it, or not at all.
    fn send_positions(&mut self, now: Instant) {
        let Some(this) = &self.exactly_once else { return };
        let (mark, repeated_below) = (this.mark, this.repeated_below);

        let in_hand: usize = self.lanes.iter().map(|lane| lane.window.len()).sum();
        let mut ledger = self.ledger.clone();
        ledger.passed(u64::try_from(in_hand).unwrap_or(u64::MAX));
        let positions = self.positions_by(&ledger, super::Lane::reached);
        let repeated_below = repeated_below.filter(|bound| *bound > positions.lowest());
        let stored = Stored { positions, mark, repeated_below };
        if self.send_stored(&stored, now)
            && let Some(this) = &mut self.exactly_once
        {
            this.closing = Some(stored);
            this.transaction.positions_sent();
        }
    }

    /// The positions as they are: those of the transaction's end come behind them.
    fn introduce(&mut self, now: Instant) {
        let Some(this) = &self.exactly_once else { return };
        let stored = Stored { positions: this.committed.clone(), mark: this.mark, repeated_below: this.repeated_below };
        if self.send_stored(&stored, now)
            && let Some(this) = &mut self.exactly_once
        {
            this.transaction.introducing();
        }
    }

    /// Tells whether all of it was handed over; where it was not, there is no room for now, or the transaction has failed.
    fn send_stored(&mut self, stored: &Stored, now: Instant) -> bool {
        let (Some(this), Some(producer)) = (&mut self.exactly_once, &self.producer) else { return false };
        for (key, value) in this.owner.records(stored, this.transaction.stamp(), &this.listed) {
            match producer.send_position(&key, value.as_deref(), POSITION) {
                Ok(()) => {}
                // The same ones again once there is room: of two with one key in a transaction the second counts.
                Err(SendError::QueueFull) => return false,
                Err(SendError::Refused { .. }) => {
                    this.transaction.failed(Abort::Failed, now);
                    return false;
                }
            }
        }
        true
    }

    fn committed(&mut self, now: Instant) {
        let Some(this) = &mut self.exactly_once else { return };
        if this.transaction.is_troubled() {
            tracing::info!("transactions are committed again");
        }
        let done = this.transaction.committed();
        if let Some(stored) = this.closing.take() {
            this.listed = stored::listed(&stored);
            this.committed = stored.positions;
            this.claimed = true;
        }
        self.aparts.forget_below(this.committed.lowest());
        if let Some(lsn) = done.alone {
            self.aparts.remove(lsn);
        }
        self.journal.set_positions(this.committed.clone());
        self.metrics.add(&done.tally, self.clock.now());
        let metrics = &self.metrics.forwarder;
        metrics.transactions_committed.inc();
        #[expect(clippy::cast_precision_loss, clippy::as_conversions, reason = "a transaction has at most 2^32 records")]
        metrics.transaction_records.observe(done.records as f64);
        if let Some(since) = done.since {
            metrics.transaction_duration_seconds.observe(now.duration_since(since).as_secs_f64());
        }
        self.moved_at = now;
        self.rebuild_delay = REBUILD_MIN;
    }

    /// The producer is gone. The next one begins from Kafka's positions; until those are read, nothing that lies beyond the last commit may count as done.
    pub(super) fn lose_transaction(&mut self) -> Result<(), Error> {
        let Some(this) = &mut self.exactly_once else { return Ok(()) };
        this.transaction.lost();
        this.closing = None;
        let positions = this.committed.clone();
        self.start_from(&positions)
    }

    /// Aborts what the end of the process would leave open, where Kafka is there to do so: until its timeout nobody could read beyond it.
    pub(super) fn end_transaction(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + END_MAX;
        if self.shared.order() == super::Order::Abandon {
            return Ok(());
        }
        while !self.is_settled() && self.producer.is_some() && self.reports.fatal().is_none() && Instant::now() < deadline {
            let now = Instant::now();
            self.take_reports(now);
            if let Some(this) = &mut self.exactly_once {
                this.transaction.failed(Abort::Stopped, now);
            }
            self.turn_transaction(now)?;
            thread::park_timeout(END_LOOK);
        }
        Ok(())
    }
}

/// Whether positions are of a journal that went another way than ours: ours is an older copy of it, so that its LSNs are used a second time.
fn is_foreign(journal: &Journal, stored: &Stored, end: Lsn) -> Result<bool, Error> {
    if stored.positions.scanned > end {
        return Ok(true);
    }
    let Some(mark) = stored.mark else { return Ok(false) };
    match journal.reader(mark.lsn).next().map_err(Error::Journal)? {
        Some(Item::Record { lsn, record }) if lsn == mark.lsn => {
            let callback = Callback::decode(record).map_err(|source| Error::Record { lsn, source })?;
            Ok(callback.received != mark.received)
        }
        // It is freed or lost: there is nothing to compare.
        Some(Item::Record { .. } | Item::Corrupt { .. }) | None => Ok(false),
    }
}
