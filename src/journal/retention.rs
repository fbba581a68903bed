//! How long published segments stay, so that they can be replayed.
//!
//! The time of a segment counts from the moment at which a synced checkpoint calls all of it published, as seen by this process: after a start it counts
//! anew, for nothing on disk says when that was. So a segment stays too long rather than too short a time. Room for new records goes before it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Timestamp;

/// The published segments that are still there, oldest first, and since when each is published.
#[derive(Debug)]
pub(super) struct Retention {
    period: Duration,
    published: VecDeque<(u64, Timestamp)>,
}

impl Retention {
    pub(super) fn new(period: Duration) -> Self {
        Self { period, published: VecDeque::new() }
    }

    /// The segments of these numbers, oldest first, are published, and no others. Tells how many those are.
    pub(super) fn note(&mut self, numbers: impl Iterator<Item = u64>, now: Timestamp) -> usize {
        let mut known = std::mem::take(&mut self.published);
        for number in numbers {
            let mut since = now;
            while let Some((other, known_since)) = known.front().copied().filter(|(other, _)| *other <= number) {
                known.pop_front();
                if other == number {
                    since = known_since;
                }
            }
            self.published.push_back((number, since));
        }
        self.published.len()
    }

    /// How much longer a segment stays; `None` where it is not known to be published.
    pub(super) fn left(&self, number: u64, now: Timestamp) -> Option<Duration> {
        if self.period.is_zero() {
            return Some(Duration::ZERO);
        }
        let (_, since) = self.published.iter().find(|(other, _)| *other == number)?;
        Some(self.period.saturating_sub(since.until(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_segment_stays_for_the_period_from_when_it_was_first_known_to_be_published() {
        let mut retention = Retention::new(Duration::from_secs(10));
        assert_eq!(retention.left(3, at(0)), None);
        assert_eq!(retention.note([3, 4].into_iter(), at(0)), 2);
        assert_eq!(retention.note([3, 4, 6].into_iter(), at(5)), 3);
        for (number, now, left) in [(3, 0, Some(10)), (4, 9, Some(1)), (6, 9, Some(6)), (3, 10, Some(0)), (3, 99, Some(0)), (5, 9, None)] {
            assert_eq!(retention.left(number, at(now)), left.map(Duration::from_secs), "{number} at {now}");
        }
        assert_eq!(retention.note([4, 6].into_iter(), at(11)), 2);
        assert_eq!((retention.left(3, at(11)), retention.left(6, at(11))), (None, Some(Duration::from_secs(4))));
        // A clock that goes back keeps it longer.
        assert_eq!(retention.left(6, at(-3600)), Some(Duration::from_secs(10)));
    }

    #[test]
    fn without_a_period_nothing_stays() {
        assert_eq!(Retention::new(Duration::ZERO).left(1, at(0)), Some(Duration::ZERO));
    }
}
