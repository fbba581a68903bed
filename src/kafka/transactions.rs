//! The transactions of one producer, on a thread of their own: librdkafka blocks in each of these calls until the coordinator has answered.
//!
//! - One [`Order`] at a time; each ends in exactly one [`Outcome`], handed over by [`Reports::take_outcome`](super::Reports::take_outcome), or in the death of the producer, or of the owner.
//! - Whatever may be asked again is asked again here, for as long as it takes. Calls wait for a bounded time each and resume, so that dropping the producer is
//!   never held up for long.
//! - A transaction is begun as soon as the one before it has ended. The brokers know of none before its first record, so that one that stands idle holds nobody up.
//!
//! rdkafka's commit flushes first, in steps of 100 ms where anything is still under way: the owner asks for a commit only when its last report is there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::partition::{self, Entry};
use super::producer::Context;
use super::topics::{self, Presence};
use super::{Error, ErrorCode, ParkCause, Place, Settings};

/// How long one call waits before it comes back to be resumed: dropping a producer takes that long at most.
const STEP: Duration = Duration::from_millis(200);

/// Between two attempts at what Kafka refuses for now.
const AGAIN: Duration = Duration::from_secs(1);

/// How long Kafka has to tell of the topic; a producer that is dropped waits for that.
const LOOKUP_MAX: Duration = Duration::from_secs(1);

/// How long Kafka has to send the next of the positions.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Between two looks whether librdkafka has let go of the last message. Its report is there already, so this is a matter of microseconds.
const EMPTY_LOOK: Duration = Duration::from_micros(100);

/// Attempts to abort that Kafka may refuse before the producer is given up.
const ABORTS_MAX: u32 = 20;

/// What is asked of the transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Read the partition of the positions as it is, without a claim on it.
    Look,
    /// Fence whoever bore this name before, read the positions, begin the first transaction.
    Open,
    /// Make what was sent visible, and begin the next one.
    Commit,
    /// Take back what was sent, and begin the next one.
    Abort,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The partition's records at the time.
    Seen(Vec<Entry>),
    /// The partition of the positions cannot be used for now; it is tried again until it can, without another order.
    Waits(Obstacle),
    /// It can be, after it could not: it is being claimed, or read. Kafka may take seconds for that where it makes the topic of its own transactions first.
    Found,
    /// The partition's records, which nobody but us can add to any more. A transaction is begun.
    Opened(Vec<Entry>),
    /// It is committed, and the next one is begun.
    Committed,
    /// It is being aborted, because librdkafka would not commit it. Said beforehand, as the producer may die of the abort: the brokers refuse to end a transaction
    /// of which they know no partition.
    Refused(ErrorCode),
    /// It is aborted, and the next one is begun.
    Aborted,
}

/// Why the partition of the positions cannot be used for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The topic is missing, or we may not ask about it.
    Parked(ParkCause),
    /// It has so many partitions, and ours is not among them.
    TooFewPartitions(usize),
}

/// The thread, seen from its producer.
pub(super) struct Transactions {
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Transactions {
    pub(super) fn start(base: &Arc<BaseProducer<Context>>, settings: Settings, place: Place) -> Result<Self, Error> {
        let (orders, inbox) = sync_channel(1);
        let worker = Worker { base: Arc::clone(base), settings, place };
        let thread = thread::Builder::new()
            .name("transactions".to_owned())
            .spawn(move || worker.run(&inbox))
            .map_err(|error| Error::Client(format!("start its thread of transactions: {error}")))?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// One is asked for after the other, so that there is always room for it; a thread that has ended has told so.
    pub(super) fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            let _ = orders.try_send(order);
        }
    }

    /// Ends the thread; the producer's own sign of its end has been set.
    pub(super) fn stop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// What an error of a call asks for.
enum Remedy {
    /// The same call once more: it goes on in the background meanwhile.
    Again,
    Abort(ErrorCode),
    /// Another producer.
    Dead(String),
}

/// Why there is no outcome.
enum End {
    /// The owner wants none any more.
    Stopped,
    Dead(String),
}

struct Worker {
    base: Arc<BaseProducer<Context>>,
    settings: Settings,
    place: Place,
}

impl Worker {
    fn run(&self, orders: &Receiver<Order>) {
        let context = self.base.context();
        while let Ok(order) = orders.recv() {
            let outcome = catch_unwind(AssertUnwindSafe(|| match order {
                Order::Look => self.find(orders).and_then(|()| self.read(orders)).map(Outcome::Seen),
                Order::Open => self.open(orders),
                Order::Commit => self.commit(),
                Order::Abort => self.abort(None),
            }));
            match outcome {
                Ok(Ok(outcome)) => context.ended(outcome),
                Ok(Err(End::Stopped)) => return,
                Ok(Err(End::Dead(reason))) => return context.dead(&self.settings.redact(&reason)),
                Err(_) => return context.dead("the thread of transactions panicked"),
            }
        }
    }

    fn open(&self, orders: &Receiver<Order>) -> Result<Outcome, End> {
        self.find(orders)?;
        self.repeat(|| self.base.init_transactions(STEP))?;
        let entries = self.read(orders)?;
        self.begin()?;
        Ok(Outcome::Opened(entries))
    }

    /// Waits until the partition is there.
    fn find(&self, orders: &Receiver<Order>) -> Result<(), End> {
        let (topic, partition) = (self.place.topic.as_str(), usize::from(self.place.partition));
        let mut told = None;
        loop {
            let (found, _) = topics::lookup(self.base.client(), &[topic], LOOKUP_MAX);
            let obstacle = match found.get(topic) {
                Some(Presence::Exists { partitions, .. }) if *partitions > partition => {
                    if told.is_some() {
                        self.base.context().ended(Outcome::Found);
                    }
                    return Ok(());
                }
                Some(Presence::Exists { partitions, .. }) => Some(Obstacle::TooFewPartitions(*partitions)),
                Some(Presence::Missing) => Some(Obstacle::Parked(ParkCause::Missing)),
                Some(Presence::NotAuthorised) => Some(Obstacle::Parked(ParkCause::NotAuthorised)),
                Some(Presence::Unknown) | None => None,
            };
            if let Some(obstacle) = obstacle
                && told != Some(obstacle)
            {
                told = Some(obstacle);
                self.base.context().ended(Outcome::Waits(obstacle));
            }
            pause(orders)?;
        }
    }

    fn read(&self, orders: &Receiver<Order>) -> Result<Vec<Entry>, End> {
        loop {
            match partition::read_to_end(&self.settings, &self.place, SILENCE_MAX, || !self.base.context().is_stopping()) {
                Ok(entries) => return Ok(entries),
                Err(error) => tracing::debug!(%error, "positions could not be read; they are read again"),
            }
            pause(orders)?;
        }
    }

    fn commit(&self) -> Result<Outcome, End> {
        self.wait_until_empty()?;
        loop {
            self.check_stop()?;
            match self.base.commit_transaction(STEP).map_err(remedy) {
                Ok(()) => {
                    self.begin()?;
                    return Ok(Outcome::Committed);
                }
                Err(Remedy::Again) => {}
                Err(Remedy::Abort(cause)) => return self.abort(Some(cause)),
                Err(Remedy::Dead(reason)) => return Err(End::Dead(reason)),
            }
        }
    }

    fn abort(&self, cause: Option<ErrorCode>) -> Result<Outcome, End> {
        // A transaction that has failed cannot be begun anew, and this tells why; it changes nothing, for one is under way.
        let cause = cause.or_else(|| match self.base.begin_transaction().map_err(remedy) {
            Err(Remedy::Abort(cause)) => Some(cause),
            Ok(()) | Err(Remedy::Again | Remedy::Dead(_)) => None,
        });
        if let Some(cause) = cause {
            self.base.context().ended(Outcome::Refused(cause));
        }
        let mut refused = 0;
        loop {
            self.check_stop()?;
            match self.base.abort_transaction(STEP).map_err(remedy) {
                Ok(()) => {
                    self.begin()?;
                    return Ok(Outcome::Aborted);
                }
                Err(Remedy::Again) => {}
                Err(Remedy::Abort(code)) => {
                    refused += 1;
                    if refused >= ABORTS_MAX {
                        return Err(End::Dead(format!("abort the transaction: {code}")));
                    }
                    thread::sleep(STEP);
                }
                Err(Remedy::Dead(reason)) => return Err(End::Dead(reason)),
            }
        }
    }

    fn begin(&self) -> Result<(), End> {
        self.repeat(|| self.base.begin_transaction())
    }

    /// For calls outside of a transaction: there is nothing to abort.
    fn repeat(&self, call: impl Fn() -> Result<(), KafkaError>) -> Result<(), End> {
        loop {
            self.check_stop()?;
            let begun = Instant::now();
            match call().map_err(remedy) {
                Ok(()) => return Ok(()),
                // One that came back at once must not be asked without end.
                Err(Remedy::Again) => thread::sleep(STEP.saturating_sub(begun.elapsed())),
                Err(Remedy::Abort(code)) => return Err(End::Dead(code.to_string())),
                Err(Remedy::Dead(reason)) => return Err(End::Dead(reason)),
            }
        }
    }

    fn wait_until_empty(&self) -> Result<(), End> {
        while self.base.in_flight_count() > 0 {
            self.check_stop()?;
            thread::sleep(EMPTY_LOOK);
        }
        Ok(())
    }

    fn check_stop(&self) -> Result<(), End> {
        if self.base.context().is_stopping() { Err(End::Stopped) } else { Ok(()) }
    }
}

/// Nothing is ordered meanwhile: what comes is the end.
fn pause(orders: &Receiver<Order>) -> Result<(), End> {
    match orders.recv_timeout(AGAIN) {
        Err(RecvTimeoutError::Timeout) => Ok(()),
        Ok(_) | Err(RecvTimeoutError::Disconnected) => Err(End::Stopped),
    }
}

fn remedy(error: KafkaError) -> Remedy {
    let KafkaError::Transaction(error) = error else {
        // The flush before a commit: something is still under way.
        return if error == KafkaError::Flush(Code::OperationTimedOut) { Remedy::Again } else { Remedy::Dead(error.to_string()) };
    };
    if error.is_fatal() {
        Remedy::Dead(format!("{}: {}", error.code(), error.string()))
    } else if error.txn_requires_abort() {
        Remedy::Abort(ErrorCode(error.code()))
    } else if error.is_retriable() {
        Remedy::Again
    } else {
        Remedy::Dead(format!("{}: {}", error.code(), error.string()))
    }
}
