//! Wall-clock time: the system's, and one that tests set by hand.
//!
//! Deadlines and latencies inside the process use [`std::time::Instant`] and never this: the wall clock may jump.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment, in microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The last moment that RFC 3339 can write: the end of the year 9999.
    const MILLIS_MAX: i64 = 253_402_300_799_999;

    /// A moment so many microseconds after 1970.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// A moment so many milliseconds after 1970; `None` outside the years 1970 to 9999, which is what RFC 3339 can write.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Option<Self> {
        if millis >= 0 && millis <= Self::MILLIS_MAX { Some(Self(millis * 1_000)) } else { None }
    }

    /// Microseconds since 1970.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Whole milliseconds since 1970.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// Whole seconds since 1970.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// How long before `later` this was; zero where it was not before.
    #[must_use]
    pub fn until(self, later: Self) -> Duration {
        Duration::from_micros(u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds: `2022-12-09T08:26:54.123Z`. A moment outside 1970 to 9999 is written as the nearest one inside.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.millis().clamp(0, Self::MILLIS_MAX);
        let since = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
        write!(out, "{}", humantime::format_rfc3339_millis(UNIX_EPOCH + since))
    }
}

/// Where the time comes from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start` until [`Clock::set`] moves it; its clones move with it.
    #[must_use]
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(start.0))))
    }

    /// The time now. A system clock before 1970 reads as 1970.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
            }
            Source::Manual(micros) => Timestamp(micros.load(Ordering::Acquire)),
        }
    }

    /// Moves a clock made by [`Clock::manual`]; the system's clock stays as it is.
    pub fn set(&self, now: Timestamp) {
        if let Source::Manual(micros) = &self.0 {
            micros.store(now.0, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_written_as_rfc_3339_with_milliseconds() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_670_574_414_123, "2022-12-09T08:26:54.123Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Timestamp::from_millis(millis).map(|time| time.to_string()).as_deref(), Some(text));
        }
    }

    #[test]
    fn only_what_rfc_3339_can_write_is_a_timestamp() {
        assert_eq!(Timestamp::from_millis(-1), None);
        assert_eq!(Timestamp::from_millis(253_402_300_800_000), None);
        assert_eq!(Timestamp::from_micros(i64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn a_manual_clock_moves_with_its_clones() {
        let clock = Clock::manual(Timestamp::from_micros(5));
        let other = clock.clone();
        clock.set(Timestamp::from_micros(9));
        assert_eq!(other.now(), Timestamp::from_micros(9));
        assert_eq!(Timestamp::from_micros(5).until(other.now()), Duration::from_micros(4));
        assert_eq!(Timestamp::from_micros(9).until(Timestamp::from_micros(5)), Duration::ZERO);
    }
}
