//! Whether the event loops turn.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often [`Heartbeat::keep`] beats in the time that a loop may go without a turn.
const BEATS: u32 = 10;

/// The registered event loops. Cheap to clone: all clones have the same loops.
#[derive(Clone, Debug)]
pub struct Heartbeats {
    start: Instant,
    stall_max: Duration,
    loops: Arc<Mutex<Vec<Arc<Loop>>>>,
}

#[derive(Debug)]
struct Loop {
    name: String,
    /// Milliseconds from `start` to the last beat.
    last: AtomicU64,
    retired: AtomicBool,
}

/// What `/livez` says.
pub(super) struct Report {
    pub(super) live: bool,
    pub(super) text: String,
}

impl Heartbeats {
    /// No loops yet; each that comes may go `stall_max` without a turn.
    #[must_use]
    pub fn new(stall_max: Duration) -> Self {
        Self { start: Instant::now(), stall_max, loops: Arc::default() }
    }

    /// A loop of that name, which has just turned.
    #[must_use]
    pub fn register(&self, name: impl Into<String>) -> Heartbeat {
        let registered =
            Arc::new(Loop { name: name.into(), last: AtomicU64::new(millis(self.start.elapsed())), retired: AtomicBool::new(false) });
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.push(Arc::clone(&registered));
        Heartbeat { start: self.start, interval: self.stall_max / BEATS, registered }
    }

    pub(super) fn report(&self) -> Report {
        self.report_after(self.start.elapsed())
    }

    /// What is said at `now`, counted from `start`.
    fn report_after(&self, now: Duration) -> Report {
        let mut report = Report { live: true, text: String::new() };
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.retain(|one| !one.retired.load(Ordering::Relaxed));
        for one in loops.iter() {
            let since = now.saturating_sub(Duration::from_millis(one.last.load(Ordering::Relaxed)));
            let turning = since <= self.stall_max;
            report.live &= turning;
            let mark = if turning { "ok     " } else { "stalled" };
            // Writing to a String cannot fail.
            let _ = writeln!(report.text, "{mark} {}: turned {} ms ago", one.name, since.as_millis());
        }
        report
    }
}

/// One event loop's place. One that is dropped without [`Heartbeat::retire`], as by a panic, stays, and stalls.
#[derive(Debug)]
pub struct Heartbeat {
    start: Instant,
    interval: Duration,
    registered: Arc<Loop>,
}

impl Heartbeat {
    /// The loop has turned. One read of the clock and one store.
    pub fn beat(&self) {
        self.registered.last.store(millis(self.start.elapsed()), Ordering::Relaxed);
    }

    /// Beats as often as is needed, for as long as it is polled; to be spawned on the loop that it stands for. Cancel safe.
    pub async fn keep(&self) {
        loop {
            self.beat();
            tokio::time::sleep(self.interval).await;
        }
    }

    /// The loop ends as it should.
    pub fn retire(self) {
        self.registered.retired.store(true, Ordering::Relaxed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(10);

    #[test]
    fn a_loop_stalls_when_it_has_not_turned_for_too_long() {
        let heartbeats = Heartbeats::new(MAX);
        assert!(heartbeats.report_after(Duration::ZERO).live);
        let heartbeat = heartbeats.register("one");
        let other = heartbeats.register("two");
        assert!(heartbeats.report_after(MAX).live);
        let late = Duration::from_hours(1);
        let report = heartbeats.report_after(late);
        assert!(!report.live && report.text.starts_with("stalled one: turned 3"), "{}", report.text);
        heartbeat.registered.last.store(millis(late), Ordering::Relaxed);
        let report = heartbeats.report_after(late);
        assert!(!report.live && report.text.contains("ok      one: turned 0 ms ago\nstalled two: "), "{}", report.text);
        other.retire();
        assert!(heartbeats.report_after(late).live);
    }

    #[test]
    fn a_loop_that_is_dropped_without_retiring_stays() {
        let heartbeats = Heartbeats::new(MAX);
        drop(heartbeats.register("one"));
        assert!(!heartbeats.report_after(Duration::from_hours(1)).live);
    }

    #[test]
    fn keeping_beats_for_as_long_as_the_loop_turns() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let heartbeats = Heartbeats::new(Duration::from_millis(10));
        let heartbeat = heartbeats.register("one");
        let first = heartbeat.registered.last.load(Ordering::Relaxed);
        runtime.block_on(async {
            let later = async {
                while heartbeat.registered.last.load(Ordering::Relaxed) < first + 20 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                () = heartbeat.keep() => {}
                () = later => {}
                () = tokio::time::sleep(Duration::from_secs(20)) => panic!("no beat came"),
            }
        });
    }
}
