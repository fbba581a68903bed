//! When each callback ought to be sent.
//!
//! In the open loop the k-th callback of the run has its moment at k / rate, whatever became of those before it, and belongs to connection k modulo the
//! number of connections. In the closed loop a connection's next callback is due once its last is answered.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// What decides when the next callback is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As soon as the connection's last one is answered.
    Closed,
    /// By schedule: so many a second, of all connections together.
    Open(NonZeroU32),
}

/// How long a run is. Whichever comes first ends it; one that has neither runs until it is stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// For so long.
    pub duration: Option<Duration>,
    /// So many callbacks, of all connections together.
    pub count: Option<u64>,
}

/// Which of the callbacks are a connection's: one in `connections`, by turns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) connection: u32,
    pub(super) connections: NonZeroU32,
}

/// When a callback is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Now,
    At(Instant),
}

/// The schedule of one connection.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    start: Instant,
    pace: Pace,
    turn: Turn,
    duration: Option<Duration>,
    /// How many callbacks of the whole run there are, where that is known.
    total: Option<u64>,
    next: u64,
}

impl Schedule {
    pub(super) fn new(start: Instant, pace: Pace, extent: Extent, turn: Turn) -> Self {
        let total = match pace {
            Pace::Closed => extent.count,
            Pace::Open(rate) => {
                let timed = extent.duration.map(|duration| (duration.as_nanos() * u128::from(rate.get())).div_ceil(1_000_000_000));
                let timed = timed.map(|count| u64::try_from(count).unwrap_or(u64::MAX));
                timed.into_iter().chain(extent.count).min()
            }
        };
        Self { start, pace, turn, duration: extent.duration, total, next: u64::from(turn.connection) }
    }

    /// Whether there is one more, and when it is due. The same answer until [`Schedule::advance`].
    pub(super) fn due(&self) -> Option<Due> {
        if self.total.is_some_and(|total| self.next >= total) {
            return None;
        }
        match self.pace {
            Pace::Closed => self.duration.is_none_or(|duration| self.start.elapsed() < duration).then_some(Due::Now),
            Pace::Open(rate) => Some(Due::At(self.start + offset(self.next, rate))),
        }
    }

    /// The connection's next callback was sent.
    pub(super) fn advance(&mut self) {
        self.next = self.next.saturating_add(u64::from(self.turn.connections.get()));
    }

    /// How many of the connection's callbacks are left; 0 where their number was never known.
    pub(super) fn left(&self) -> u64 {
        self.total.map_or(0, |total| total.saturating_sub(self.next).div_ceil(u64::from(self.turn.connections.get())))
    }

    /// When the last callback of the run is due, where that is known.
    pub(super) fn end(&self) -> Option<Instant> {
        match (self.pace, self.total) {
            (Pace::Open(rate), Some(total)) => Some(self.start + offset(total, rate)),
            (Pace::Open(_) | Pace::Closed, _) => self.duration.map(|duration| self.start + duration),
        }
    }
}

fn offset(index: u64, rate: NonZeroU32) -> Duration {
    let nanos = u128::from(index) * 1_000_000_000 / u128::from(rate.get());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(connection: u32, connections: u32) -> Turn {
        Turn { connection, connections: NonZeroU32::new(connections).unwrap() }
    }

    fn offsets(schedule: &mut Schedule) -> Vec<u128> {
        let mut offsets = Vec::new();
        while let Some(Due::At(at)) = schedule.due() {
            offsets.push(at.duration_since(schedule.start).as_millis());
            schedule.advance();
        }
        offsets
    }

    #[test]
    fn the_connections_share_the_schedule_by_turns() {
        let pace = Pace::Open(NonZeroU32::new(100).unwrap());
        let extent = Extent { duration: Some(Duration::from_millis(65)), count: None };
        let start = Instant::now();
        let mut all: Vec<u128> = Vec::new();
        for (connection, expected) in [(0, vec![0, 30, 60]), (1, vec![10, 40]), (2, vec![20, 50])] {
            let mut schedule = Schedule::new(start, pace, extent, turn(connection, 3));
            assert_eq!(schedule.left(), u64::try_from(expected.len()).unwrap());
            let offsets = offsets(&mut schedule);
            assert_eq!(offsets, expected);
            assert_eq!(schedule.left(), 0);
            all.extend(offsets);
        }
        assert_eq!(all.len(), 7);
    }

    #[test]
    fn whichever_of_duration_and_count_comes_first_ends_it() {
        let pace = Pace::Open(NonZeroU32::new(100).unwrap());
        for (duration, count, expected) in [(Some(65), Some(3), 3), (Some(65), Some(30), 7), (None, Some(5), 5)] {
            let extent = Extent { duration: duration.map(Duration::from_millis), count };
            assert_eq!(offsets(&mut Schedule::new(Instant::now(), pace, extent, turn(0, 1))).len(), expected);
        }
    }

    #[test]
    fn a_closed_loop_ends_by_its_count_or_its_duration() {
        let mut schedule = Schedule::new(Instant::now(), Pace::Closed, Extent { duration: None, count: Some(4) }, turn(1, 3));
        assert_eq!((schedule.due(), schedule.left(), schedule.end()), (Some(Due::Now), 1, None));
        schedule.advance();
        assert_eq!(schedule.due(), None);
        let extent = Extent { duration: Some(Duration::ZERO), count: None };
        assert_eq!(Schedule::new(Instant::now(), Pace::Closed, extent, turn(0, 1)).due(), None);
    }
}
