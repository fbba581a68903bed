//! Waiting for a moment to some tens of microseconds.
//!
//! The timer of tokio goes by whole milliseconds, rounded up: by it, every callback of a schedule would be sent up to a millisecond late, and that much would
//! stand in each latency. The kernel's timers do not.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime};
use tokio::io::unix::AsyncFd;

/// A timer of the kernel, for one who waits.
#[derive(Debug)]
pub(super) struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// Must be called where an event loop runs.
    pub(super) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, and asks for no more than an OwnedFd gives: a descriptor that stays open and the same"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self(timer))
    }

    /// Waits until the moment; at once where it has passed. Cancel safe.
    pub(super) async fn wait_until(&mut self, at: Instant) -> io::Result<()> {
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec { it_interval: never, it_value: timespec(left) };
        // This also forgets an earlier alarm that nobody waited for.
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            let mut expirations = [0; 8];
            if let Ok(read) = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut expirations)?)) {
                return read.map(|_| ());
            }
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rings_at_its_moment_and_not_before() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut alarm = Alarm::new().unwrap();
            for micros in [0, 300, 1_700, 5_000] {
                let at = Instant::now() + Duration::from_micros(micros);
                alarm.wait_until(at).await.unwrap();
                assert!(Instant::now() >= at, "{micros}");
            }
        });
    }

    #[test]
    fn one_that_nobody_waited_for_does_not_ring_later() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut alarm = Alarm::new().unwrap();
            // On a busy machine its moment may have come before it is set: then it has not been left either.
            while tokio::time::timeout(Duration::ZERO, alarm.wait_until(Instant::now() + Duration::from_millis(5))).await.is_ok() {}
            let later = Instant::now() + Duration::from_millis(30);
            alarm.wait_until(later).await.unwrap();
            assert!(Instant::now() >= later);
        });
    }
}
