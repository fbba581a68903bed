//! The counts behind the checkpoint: which records lie below their topic's position, and which wait to be read again. Pure.

use crate::journal::{Lsn, Positions, Start};

/// How far beyond a checkpoint's live reading a run may have handed records to Kafka before it was killed. A checkpoint is written every 100 ms
/// while there is anything to say, so this is a million records a second.
const SENT_AHEAD: u64 = 100_000;

/// Counts records by what a restart would do with them.
///
/// Let *L* be the lowest position. A record at or above *L* is completed for a restart only if it lies below the position of its own topic;
/// the checkpoint says how many of those there are, so that the next start knows what is unpublished without reading the journal.
#[derive(Clone, Debug)]
pub struct Ledger {
    lowest_at_start: Lsn,
    below_position: u64,
    waiting: u64,
    sent_bound_at_start: Lsn,
}

/// Whether a record that a second reading takes up was counted as unpublished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owed {
    /// It was.
    Once,
    /// It was completed; since then the configuration has changed so that it cannot be told from those that were not.
    Again,
}

impl Ledger {
    /// The counts as the checkpoint left them; `end` is the journal's.
    #[must_use]
    pub fn new(recovered: &Positions, start: Start, end: Lsn) -> Self {
        let lowest = recovered.lowest();
        let range = recovered.scanned.get().saturating_sub(lowest.get());
        Self {
            lowest_at_start: lowest,
            below_position: recovered.completed_beyond,
            waiting: range.saturating_sub(recovered.completed_beyond),
            sent_bound_at_start: match start {
                Start::New | Start::Clean => recovered.sent_bound,
                Start::Unclean => end.min(Lsn::new(recovered.scanned.get().saturating_add(SENT_AHEAD))),
            },
        }
    }

    /// So many further records lie below their topic's position.
    pub fn passed(&mut self, records: u64) {
        self.below_position += records;
    }

    /// The live reading has left a record for its topic's second reading.
    pub fn left(&mut self) {
        self.waiting += 1;
    }

    /// A second reading has taken one up.
    pub fn taken_up(&mut self) -> Owed {
        if let Some(waiting) = self.waiting.checked_sub(1) {
            self.waiting = waiting;
            return Owed::Once;
        }
        // It counts as below its position until it is completed once more.
        self.below_position = self.below_position.saturating_sub(1);
        Owed::Again
    }

    /// No topic is behind any more: what still counts as left was lost to corruption since the live reading saw it. Tells how many those are.
    pub fn settle(&mut self) -> u64 {
        let lost = std::mem::take(&mut self.waiting);
        self.below_position += lost;
        lost
    }

    /// Whether an earlier run may have handed this record to Kafka.
    #[must_use]
    pub fn may_be_repeated(&self, lsn: Lsn) -> bool {
        lsn < self.sent_bound_at_start
    }

    /// The LSN at which that ends.
    #[must_use]
    pub fn sent_bound(&self) -> Lsn {
        self.sent_bound_at_start
    }

    /// The checkpoint for a live reading at `scanned`, with the streams that lack records below it.
    #[must_use]
    pub fn checkpoint(&self, scanned: Lsn, behind: Vec<(String, Lsn)>) -> Positions {
        let mut positions = Positions { scanned, behind, completed_beyond: 0, sent_bound: scanned };
        let below_lowest = positions.lowest().get().saturating_sub(self.lowest_at_start.get());
        positions.completed_beyond = self.below_position.saturating_sub(below_lowest);
        positions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(scanned: u64, behind: &[(&str, u64)], completed_beyond: u64) -> Positions {
        Positions {
            scanned: Lsn::new(scanned),
            behind: behind.iter().map(|(name, lsn)| ((*name).to_owned(), Lsn::new(*lsn))).collect(),
            completed_beyond,
            sent_bound: Lsn::new(scanned),
        }
    }

    #[test]
    fn a_checkpoint_counts_what_a_restart_skips() {
        let mut ledger = Ledger::new(&start(1, &[], 0), Start::New, Lsn::new(1));
        // Records 1 to 10: 4 and 7 are of a topic that is behind, the others are published.
        ledger.passed(8);
        ledger.left();
        ledger.left();
        let positions = ledger.checkpoint(Lsn::new(11), vec![("a".to_owned(), Lsn::new(4))]);
        assert_eq!(positions.completed_beyond, 5, "5, 6, 8, 9 and 10");

        let mut next = Ledger::new(&positions, Start::Clean, Lsn::new(11));
        assert_eq!(next.waiting, 2);
        next.taken_up();
        next.taken_up();
        next.passed(2);
        assert_eq!(next.settle(), 0);
        assert_eq!(next.checkpoint(Lsn::new(11), Vec::new()).completed_beyond, 0);
    }

    #[test]
    fn what_was_left_and_is_never_read_again_is_lost_and_said() {
        let mut ledger = Ledger::new(&start(1, &[], 0), Start::New, Lsn::new(1));
        ledger.left();
        ledger.left();
        assert_eq!(ledger.taken_up(), Owed::Once);
        ledger.passed(1);
        assert_eq!(ledger.settle(), 1);
        assert_eq!(ledger.checkpoint(Lsn::new(3), Vec::new()).completed_beyond, 0);
    }

    #[test]
    fn what_is_owed_again_after_a_change_of_the_configuration_is_counted_again() {
        let mut ledger = Ledger::new(&start(11, &[("a", 1)], 9), Start::Clean, Lsn::new(11));
        assert_eq!(ledger.taken_up(), Owed::Once);
        assert_eq!(ledger.taken_up(), Owed::Again);
        ledger.passed(2);
        assert_eq!(ledger.checkpoint(Lsn::new(11), Vec::new()).completed_beyond, 0);
    }

    #[test]
    fn only_what_lies_below_the_bound_may_be_a_repetition() {
        let ledger = Ledger::new(&start(50, &[], 0), Start::Clean, Lsn::new(80));
        assert!(ledger.may_be_repeated(Lsn::new(49)));
        assert!(!ledger.may_be_repeated(Lsn::new(50)));
        // A run that was killed may have sent all that it had, but for what came after its end.
        let ledger = Ledger::new(&start(50, &[], 0), Start::Unclean, Lsn::new(80));
        assert!(ledger.may_be_repeated(Lsn::new(79)));
        assert!(!ledger.may_be_repeated(Lsn::new(80)));
    }
}
