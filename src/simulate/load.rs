//! Callbacks as load: connections that are kept open, a pace, a mix, and what came of it.
//!
//! Each connection sends one callback at a time, and all callbacks of its own groups, so that what one group's callbacks went through is one line of events. A
//! callback is sent once: one that got no answer is unknown, and is not tried again, because Chat's callbacks are not retried by default.
//! In the open loop a callback has its moment by schedule, and its latency counts from there, so that a server that stalls cannot slow down the clock it is measured by.

mod alarm;
mod client;
mod schedule;
mod sender;
mod signature;
mod summary;
mod target;
mod traffic;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::Notify;

pub use client::DURABLE;
pub use schedule::{Extent, Pace};
pub use signature::{Error as TokenError, Token};
pub(super) use summary::or_dash;
pub use summary::{Ended, Percentiles, Summary};
pub use target::{Target, TargetError};
pub use traffic::{Shape, group_id};

use super::log;
use crate::clock::Clock;
use alarm::Alarm;
use schedule::{Schedule, Turn};
use sender::{Sender, Tally};
use signature::Signer;
use traffic::{PathAndHost, Traffic};

/// The log's buffers reach the file at least so often.
const FLUSH_PERIOD: Duration = Duration::from_secs(1);

/// What becomes of the run when a connection breaks, or cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBreak {
    /// The run ends.
    End,
    /// The connection is opened again, after a pause that grows from 10 ms to 1 s; the callback in flight is unknown.
    Reopen,
}

/// A load.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to.
    pub target: Target,
    /// How many connections are kept open.
    pub connections: NonZeroU32,
    /// How many threads serve them. One sends some tens of thousands a second.
    pub threads: NonZeroU16,
    /// When the next callback is due.
    pub pace: Pace,
    /// How long it goes on.
    pub extent: Extent,
    /// Which callbacks.
    pub shape: Shape,
    /// Signs, where there is one.
    pub token: Option<Token>,
    /// How long an answer may take, and a connection to be opened.
    pub timeout: Duration,
    /// How long after the last scheduled moment what is late is still sent.
    pub catch_up: Duration,
    /// What a broken connection means.
    pub on_break: OnBreak,
    /// Where the log is written.
    pub log: Option<PathBuf>,
    /// Where each topic's partitions end now, for the log.
    pub offsets: BTreeMap<String, Vec<i64>>,
}

/// Why there was no load, or its log is not whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Each connection needs a group of its own.
    #[error("{connections} connections need at least as many groups, not {groups}")]
    TooFewGroups {
        /// How many connections were asked for.
        connections: NonZeroU32,
        /// How many groups were asked for.
        groups: NonZeroU32,
    },
    /// The log could not be written.
    #[error(transparent)]
    Log(#[from] log::Error),
    /// The system refused a thread or an event loop.
    #[error("failed to start a sending thread")]
    Thread(#[source] io::Error),
    /// A sending thread did not live to give its figures.
    #[error("a sending thread panicked")]
    Panicked,
    /// The histograms cannot be made.
    #[error("failed to make a histogram")]
    Histogram(#[from] hdrhistogram::CreationError),
    /// The histograms cannot be added.
    #[error("failed to add up the histograms")]
    Sum(#[from] hdrhistogram::AdditionError),
}

/// Figures that move while the load runs.
#[derive(Debug, Default)]
pub struct Live {
    sent: AtomicU64,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    broken: AtomicU64,
    reopened: AtomicU64,
    connect_failures: AtomicU64,
}

/// The figures of a [`Live`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Callbacks sent.
    pub sent: u64,
    /// Answered 200.
    pub acknowledged: u64,
    /// Refused.
    pub refused: u64,
    /// Neither.
    pub unknown: u64,
    /// Connections that broke with a callback in flight.
    pub broken: u64,
    /// Connections opened again.
    pub reopened: u64,
    /// Attempts to connect that failed.
    pub connect_failures: u64,
}

impl Live {
    /// The figures now.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let get = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        Figures {
            sent: get(&self.sent),
            acknowledged: get(&self.acknowledged),
            refused: get(&self.refused),
            unknown: get(&self.unknown),
            broken: get(&self.broken),
            reopened: get(&self.reopened),
            connect_failures: get(&self.connect_failures),
        }
    }
}

/// Ends a load from outside. Its clones are one and the same.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<StopState>);

#[derive(Debug, Default)]
struct StopState {
    set: AtomicBool,
    notify: Notify,
}

impl Stop {
    /// Nothing more is sent; what is in flight may still be answered.
    pub fn set(&self) {
        self.0.set.store(true, Ordering::Release);
        self.0.notify.notify_waiters();
    }

    /// Whether it was set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.set.load(Ordering::Acquire)
    }

    /// Sleeps; `false` where it was set before the time came.
    async fn sleep_until(&self, at: Instant) -> bool {
        let notified = self.0.notify.notified();
        if self.is_set() {
            return false;
        }
        tokio::select! {
            biased;
            () = notified => false,
            () = tokio::time::sleep_until(at.into()) => !self.is_set(),
        }
    }

    /// As [`Stop::sleep_until`], to the microsecond as far as the kernel can.
    async fn wait_until(&self, at: Instant, alarm: &mut Alarm) -> bool {
        let notified = self.0.notify.notified();
        if self.is_set() {
            return false;
        }
        let rung = tokio::select! {
            biased;
            () = notified => return false,
            rung = alarm.wait_until(at) => rung,
        };
        match rung {
            Ok(()) => !self.is_set(),
            // A timer that the kernel takes away is no reason to stop: late is better than never.
            Err(_) => self.sleep_until(at).await,
        }
    }
}

/// Runs a load to its end, on threads of its own. `live` moves meanwhile; `stop` ends it early.
pub fn run(config: &Config, live: &Arc<Live>, stop: &Stop) -> Result<Summary, Error> {
    let Config { connections, .. } = *config;
    if config.shape.groups < connections {
        return Err(Error::TooFewGroups { connections, groups: config.shape.groups });
    }
    let clock = Clock::system();
    let writer = match &config.log {
        None => None,
        Some(path) => {
            let mut header = log::Header::new(config.shape.run, clock.now());
            header.seed = config.shape.seed;
            header.app = config.shape.app;
            header.connections = connections.get();
            header.groups = config.shape.groups.get();
            header.offsets.clone_from(&config.offsets);
            Some(Arc::new(log::Writer::create(path, &header)?))
        }
    };
    let start = Instant::now();
    let threads = u32::from(config.threads.get()).min(connections.get());
    let part = Part { config, writer: writer.as_ref(), clock: &clock, start, live, stop };
    let tallies = std::thread::scope(|scope| {
        let mut handles = Vec::new();
        for thread in 0..threads {
            let mine = (thread..connections.get()).step_by(usize::try_from(threads).unwrap_or(usize::MAX));
            let builder = std::thread::Builder::new().name(format!("load-{thread}"));
            match builder.spawn_scoped(scope, move || part.run(mine)) {
                Ok(handle) => handles.push(handle),
                Err(error) => {
                    stop.set();
                    return Err(Error::Thread(error));
                }
            }
        }
        handles.into_iter().map(|handle| handle.join().unwrap_or(Err(Error::Panicked))).collect::<Result<Vec<_>, _>>()
    })?;
    let elapsed = start.elapsed();
    let summary = summarise(config, tallies, live.figures(), Finish { elapsed, stopped: stop.is_set() })?;
    if let Some(writer) = writer {
        writer.finish()?;
    }
    Ok(summary)
}

/// What the sending threads share.
#[derive(Clone, Copy)]
struct Part<'a> {
    config: &'a Config,
    writer: Option<&'a Arc<log::Writer>>,
    clock: &'a Clock,
    start: Instant,
    live: &'a Arc<Live>,
    stop: &'a Stop,
}

impl Part<'_> {
    fn run(self, connections: impl Iterator<Item = u32>) -> Result<Tally, Error> {
        // However this ends, the other threads must not go on without it.
        let result = self.run_whole(connections);
        if result.is_err() {
            self.stop.set();
        }
        result
    }

    fn run_whole(self, connections: impl Iterator<Item = u32>) -> Result<Tally, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
        let tally = Rc::new(RefCell::new(Tally::new(self.writer.cloned())?));
        let local = tokio::task::LocalSet::new();
        let authority: Rc<str> = self.config.target.authority.as_str().into();
        let path = Rc::new(self.config.target.request.clone());
        let entered = runtime.enter();
        let senders = connections.map(|connection| self.sender(connection, &authority, &path, &tally));
        let senders = senders.collect::<Result<Vec<_>, _>>().map_err(Error::Thread)?;
        drop(entered);
        let senders: Vec<_> = senders.into_iter().map(|sender| local.spawn_local(sender.run())).collect();
        let flushing = local.spawn_local({
            let (tally, stop) = (Rc::clone(&tally), self.stop.clone());
            async move {
                let mut interval = tokio::time::interval(FLUSH_PERIOD);
                loop {
                    interval.tick().await;
                    tally.borrow_mut().flush(&stop);
                }
            }
        });
        let mut panicked = false;
        local.block_on(&runtime, async {
            for sender in senders {
                panicked |= sender.await.is_err();
            }
        });
        flushing.abort();
        drop(local);
        drop(runtime);
        if panicked {
            return Err(Error::Panicked);
        }
        tally.borrow_mut().flush(self.stop);
        let mut tally = Rc::into_inner(tally).ok_or(Error::Panicked)?.into_inner();
        match tally.log_error.take() {
            Some(error) => Err(error.into()),
            None => Ok(tally),
        }
    }

    fn sender(self, connection: u32, authority: &Rc<str>, path: &Rc<PathAndHost>, tally: &Rc<RefCell<Tally>>) -> io::Result<Sender> {
        let Config { pace, extent, connections, timeout, catch_up, on_break, .. } = *self.config;
        let turn = Turn { connection, connections };
        let schedule = Schedule::new(self.start, pace, extent, turn);
        let signer = self.config.token.clone().map(Signer::new);
        let alarm = match pace {
            Pace::Closed => None,
            Pace::Open(_) => Some(Alarm::new()?),
        };
        Ok(Sender {
            connection,
            authority: Rc::clone(authority),
            path: Rc::clone(path),
            timeout,
            on_break,
            give_up: schedule.end().map(|end| end + catch_up),
            schedule,
            alarm,
            traffic: Traffic::new(self.config.shape.clone(), turn, signer),
            clock: self.clock.clone(),
            tally: Rc::clone(tally),
            live: Arc::clone(self.live),
            stop: self.stop.clone(),
        })
    }
}

#[derive(Clone, Copy)]
struct Finish {
    elapsed: Duration,
    stopped: bool,
}

fn summarise(config: &Config, tallies: Vec<Tally>, figures: Figures, finish: Finish) -> Result<Summary, Error> {
    let mut whole: Option<(Histogram<u64>, Histogram<u64>)> = None;
    let mut refused: BTreeMap<u16, u64> = BTreeMap::new();
    let (mut acknowledged_otherwise, mut unsent, mut broke) = (0, 0, None);
    for tally in tallies {
        for (status, count) in tally.refused {
            *refused.entry(status).or_default() += count;
        }
        acknowledged_otherwise += tally.acknowledged_otherwise;
        unsent += tally.unsent;
        broke = broke.or(tally.ended);
        match &mut whole {
            None => whole = Some((tally.latency, tally.service)),
            Some((latency, service)) => {
                latency.add(tally.latency)?;
                service.add(tally.service)?;
            }
        }
    }
    let (latency_seconds, service_seconds) =
        whole.map_or((None, None), |(latency, service)| (Percentiles::of_micros(&latency), Percentiles::of_micros(&service)));
    let ended = match (broke, finish.stopped) {
        (Some(why), _) => Ended::Broken(why),
        (None, true) => Ended::Stopped,
        (None, false) => Ended::Complete,
    };
    let seconds = finish.elapsed.as_secs_f64();
    Ok(Summary {
        run: config.shape.run,
        seed: config.shape.seed,
        ended,
        seconds,
        sent: figures.sent,
        acknowledged: figures.acknowledged,
        acknowledged_otherwise,
        refused,
        unknown: figures.unknown,
        unsent,
        broken: figures.broken,
        reopened: figures.reopened,
        connect_failures: figures.connect_failures,
        acknowledged_per_second: per_second(figures.acknowledged, seconds),
        latency_seconds,
        service_seconds,
    })
}

/// Events a second, 0 where no time has passed.
pub(crate) fn per_second(count: u64, seconds: f64) -> f64 {
    #[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "counts beyond 2^53 do not occur, and std has no other way")]
    let count = count as f64;
    if seconds > 0.0 { count / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests;
