//! A drain that the operator asks for: the bridge takes no callbacks any more and publishes what it has, so that its volume can go.
//!
//! - At first callbacks are still taken, for `shutdown.lame_duck`, while the bridge is unready and each answer says `Connection: close`: until those in front of
//!   it have noticed. Then they are refused with 503, because a callback that is answered 200 after the journal was found empty would go with the volume.
//! - *Empty* is said only when nothing can come any more (the journal is sealed, nothing waits for it or is on its way to the disk) and all that is durable is
//!   completed. So it stays true for as long as the bridge is drained.
//! - The mark is a file in the journal's folder, synced with its folder before the order is answered. A start that finds it begins drained, and takes no callback.
//! - A drain ends by itself `admin.drain_ttl` after it was last asked for: one that was forgotten must not cost callbacks for ever. The mark holds the time of that
//!   order by the wall clock; where the clock has gone back since, the drain begins its time anew with a restart.

use std::convert::Infallible;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::admin::drain::{Error, Moment, Order, Report};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::durable_file;
use crate::forwarder;
use crate::ingress::{Ingress, Intake};
use crate::journal::Journal;
use crate::kafka::settings::instance;
use crate::metrics;

/// How often it is looked whether something is due.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The mark's name in the journal's folder.
const MARK: &str = "drain";

/// What a drain does something to, or looks at.
pub(super) struct Parts {
    pub(super) journal: Journal,
    pub(super) ingress: Arc<Ingress>,
    pub(super) forwarder: forwarder::Handle,
    pub(super) journal_metrics: metrics::Journal,
}

/// The operator's drain.
pub(super) struct Drain {
    instance: String,
    mark: PathBuf,
    ttl: Duration,
    lame_duck: Duration,
    clock: Clock,
    metrics: metrics::Bridge,
    parts: OnceLock<Parts>,
    /// Whoever changes the mark holds it. Never waited for but by those who give orders: the disk may take its time.
    marking: Mutex<()>,
    state: Mutex<Option<Draining>>,
}

#[derive(Clone, Copy, Debug)]
struct Draining {
    since: Timestamp,
    expires: Timestamp,
    /// As `expires`, by a clock that does not jump.
    until: Instant,
    refuse_at: Instant,
    refuses: bool,
    empty_since: Option<Timestamp>,
}

/// What is to be done that waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Expiry,
}

impl Drain {
    pub(super) fn new(config: &Config, clock: Clock, metrics: metrics::Bridge) -> Self {
        Self {
            instance: instance(&config.kafka),
            mark: config.journal.dir.join(MARK),
            ttl: config.admin.drain_ttl.get(),
            lame_duck: config.shutdown.lame_duck.get(),
            clock,
            metrics,
            parts: OnceLock::new(),
            marking: Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// Looks for the mark of an earlier run, and seals the journal where there is one that counts. To be called when the journal is open and nothing is taken yet.
    pub(super) fn resume(&self, journal: &Journal) -> Result<(), Error> {
        durable_file::remove_unfinished(&self.mark);
        let now = self.clock.now();
        let over = |why| {
            tracing::warn!(why, "the drain that an earlier run was asked for does not count any more: callbacks are accepted");
            durable_file::remove(&self.mark).map_err(|source| self.failed("remove", source))
        };
        let asked = match read(&self.mark).map_err(|source| self.failed("read", source))? {
            Mark::None => return Ok(()),
            Mark::Unreadable => return over("its mark cannot be read"),
            Mark::Asked(asked) => asked,
        };
        let Some(left) = self.ttl.checked_sub(asked.until(now)).filter(|left| !left.is_zero()) else {
            return over("admin.drain_ttl is over");
        };
        let begun = Instant::now();
        let expires = after(now, left);
        let draining = Draining { since: asked, expires, until: begun + left, refuse_at: begun, refuses: true, empty_since: None };
        tracing::warn!(since = %asked, %expires, "the bridge was drained before it started: callbacks are refused");
        journal.seal();
        *self.lock() = Some(draining);
        self.metrics.draining.set(1);
        Ok(())
    }

    /// From here on orders are carried out.
    pub(super) fn complete(&self, parts: Parts) {
        if self.is_shut() {
            parts.ingress.set_intake(Intake::Shut);
        }
        drop(self.parts.set(parts));
    }

    /// Whether callbacks are refused because of it.
    pub(super) fn is_shut(&self) -> bool {
        self.lock().is_some_and(|draining| draining.refuses)
    }

    /// Since when the bridge is drained, or on its way there.
    pub(super) fn since(&self) -> Option<Timestamp> {
        self.lock().map(|draining| draining.since)
    }

    /// Carries an order out. The mark is on disk, or gone from it, before anything changes. Waits for the disk.
    pub(super) fn order(&self, order: Order) -> Result<Report, Error> {
        let parts = self.parts.get().ok_or(Error::Starting)?;
        match order {
            Order::Tell => {}
            Order::Begin => {
                let _marking = lock(&self.marking);
                let now = self.clock.now();
                if let Err(source) = write(&self.mark, now) {
                    if self.since().is_none() {
                        // It may stand there all the same, and must not drain the next start.
                        drop(fs::remove_file(&self.mark));
                    }
                    return Err(self.failed("write", source));
                }
                self.begin(&mut self.lock(), parts, now);
            }
            Order::End => {
                let _marking = lock(&self.marking);
                durable_file::remove(&self.mark).map_err(|source| self.failed("remove", source))?;
                if self.since().is_some() {
                    tracing::info!("drain ended by the operator: callbacks are accepted again");
                }
                self.end(&mut self.lock(), parts);
            }
        }
        let mut state = self.lock();
        Self::look_for_the_end(&mut state, parts, &self.clock);
        Ok(report(&self.instance, *state, parts))
    }

    fn begin(&self, state: &mut Option<Draining>, parts: &Parts, now: Timestamp) {
        let begun = Instant::now();
        let (expires, until) = (after(now, self.ttl), begun + self.ttl);
        if let Some(draining) = state {
            draining.expires = expires;
            draining.until = until;
            return;
        }
        tracing::warn!(lame_duck = ?self.lame_duck, %expires, "drain begins: unready, callbacks are still accepted");
        parts.ingress.set_intake(Intake::LameDuck);
        self.metrics.draining.set(1);
        *state = Some(Draining { since: now, expires, until, refuse_at: begun + self.lame_duck, refuses: false, empty_since: None });
    }

    fn end(&self, state: &mut Option<Draining>, parts: &Parts) {
        *state = None;
        parts.journal.unseal();
        parts.ingress.set_intake(Intake::Open);
        self.metrics.draining.set(0);
    }

    /// Does what is due, until it is dropped. Cancel safe.
    pub(super) async fn run(self: Arc<Self>) -> Infallible {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(parts) = self.parts.get() else { continue };
            if self.step(parts, Instant::now()) == Due::Expiry {
                let expired = Arc::clone(&self);
                drop(tokio::task::spawn_blocking(move || expired.expire()).await);
            }
        }
    }

    /// Goes on from the lame duck, and looks whether the journal is empty. Waits for nothing.
    fn step(&self, parts: &Parts, now: Instant) -> Due {
        let mut state = self.lock();
        let Some(draining) = state.as_mut() else { return Due::Nothing };
        if now >= draining.until {
            return Due::Expiry;
        }
        if !draining.refuses && now >= draining.refuse_at {
            parts.ingress.set_intake(Intake::Shut);
            parts.journal.seal();
            draining.refuses = true;
            tracing::warn!("drain: callbacks are refused from here on");
        }
        Self::look_for_the_end(&mut state, parts, &self.clock);
        Due::Nothing
    }

    fn expire(&self) {
        let _marking = lock(&self.marking);
        let Some(parts) = self.parts.get() else { return };
        // An order that came first has given it more time.
        if !self.lock().is_some_and(|draining| Instant::now() >= draining.until) {
            return;
        }
        tracing::warn!("drain expired: callbacks are accepted again");
        if let Err(error) = durable_file::remove(&self.mark) {
            // The next start finds it, and that it is over.
            tracing::warn!(%error, mark = %self.mark.display(), "the mark of a drain that is over could not be removed");
        }
        self.end(&mut self.lock(), parts);
    }

    /// Notes when the journal is empty for good.
    fn look_for_the_end(state: &mut Option<Draining>, parts: &Parts, clock: &Clock) {
        let Some(draining) = state.as_mut().filter(|draining| draining.refuses && draining.empty_since.is_none()) else { return };
        // In this order: once it is still, its end stays where it is.
        if parts.journal.is_still() && parts.forwarder.completed_end() >= parts.journal.durable_end() {
            draining.empty_since = Some(clock.now());
            tracing::info!("drain: the journal is empty, and nothing comes any more");
        }
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> Error {
        Error::Mark { operation, path: self.mark.clone(), source }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Draining>> {
        lock(&self.state)
    }
}

/// No step under one of these locks can leave something half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn report(instance: &str, state: Option<Draining>, parts: &Parts) -> Report {
    Report {
        instance: instance.to_owned(),
        draining: state.is_some(),
        since: state.map(|draining| Moment(draining.since)),
        expires: state.map(|draining| Moment(draining.expires)),
        accepting: !state.is_some_and(|draining| draining.refuses),
        unpublished: u64::try_from(parts.journal_metrics.unpublished_records.get()).unwrap_or(0),
        parked: parts.forwarder.parked().into_keys().collect(),
        empty_since: state.and_then(|draining| draining.empty_since).map(Moment),
    }
}

fn after(moment: Timestamp, period: Duration) -> Timestamp {
    Timestamp::from_micros(moment.micros().saturating_add(i64::try_from(period.as_micros()).unwrap_or(i64::MAX)))
}

/// What is found where the mark would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    None,
    /// It says nothing that can be read.
    Unreadable,
    /// When the order was given that it is of.
    Asked(Timestamp),
}

/// When the bridge whose journal stands in `dir` was asked to drain, where that still stands there; none where the mark says nothing.
///
/// # Errors
/// Where the mark cannot be read.
pub fn drained_since(dir: &Path) -> io::Result<Option<Timestamp>> {
    Ok(match read(&dir.join(MARK))? {
        Mark::Asked(since) => Some(since),
        Mark::None | Mark::Unreadable => None,
    })
}

fn read(mark: &Path) -> io::Result<Mark> {
    let text = match fs::read_to_string(mark) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Mark::None),
        Err(error) if error.kind() == ErrorKind::InvalidData => return Ok(Mark::Unreadable),
        Err(error) => return Err(error),
    };
    let since = humantime::parse_rfc3339(text.trim()).ok().and_then(|moment| moment.duration_since(UNIX_EPOCH).ok());
    let since = since.and_then(|since| i64::try_from(since.as_micros()).ok());
    Ok(since.map_or(Mark::Unreadable, |micros| Mark::Asked(Timestamp::from_micros(micros))))
}

fn write(mark: &Path, asked: Timestamp) -> io::Result<()> {
    durable_file::write(mark, format!("{asked}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_and_one_that_says_nothing_is_told_from_none() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join(MARK);
        assert_eq!(read(&mark).unwrap(), Mark::None);
        let asked = Timestamp::from_micros(1_795_291_200_123_000);
        write(&mark, asked).unwrap();
        assert_eq!(read(&mark).unwrap(), Mark::Asked(asked));
        assert_eq!(fs::read_to_string(&mark).unwrap(), format!("{asked}\n"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else stays behind");
        for contents in [&b""[..], b"yesterday", b"\xff"] {
            fs::write(&mark, contents).unwrap();
            assert_eq!(read(&mark).unwrap(), Mark::Unreadable, "{contents:?}");
        }
        durable_file::remove(&mark).unwrap();
        assert_eq!(read(&mark).unwrap(), Mark::None);
    }
}
