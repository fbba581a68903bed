//! Whether a producer may have published something twice by itself.
//!
//! A broker knows a message that comes a second time by its producer's id and epoch and by its number there. librdkafka takes a new epoch where the numbers have
//! got out of step: a batch was refused for now, and the next of its partition was on its way and is out of order. Whatever it has in hand then gets new
//! numbers. Where the answer to some of that was lost with its connection, the broker may have it already, and takes it for something new. No report tells:
//! only the statistics show that there is a new epoch, and that connections broke.

/// What a producer's statistics count up that matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Ids and epochs that the producer was given.
    pub(super) epochs: u64,
    /// Connections that ended, and requests whose answers did not come.
    pub(super) breaks: u64,
}

/// One producer's statistics, one after the other.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    last: Seen,
    broke: bool,
}

impl Doubt {
    /// Whether what was in hand since the last statistics may be there twice; `failed` is how many reports since then were of failures.
    ///
    /// A failure for good makes a gap in the numbers, so that a new epoch follows too: that one is harmless unless an answer was lost about then.
    pub(super) fn arises(&mut self, seen: Seen, failed: u64) -> bool {
        let renewed = self.last.epochs > 0 && seen.epochs > self.last.epochs;
        // Brokers that are forgotten take their counts along.
        let breaks = seen.breaks != self.last.breaks;
        let broke_before = std::mem::replace(&mut self.broke, breaks);
        self.last = seen;
        renewed && (failed == 0 || breaks || broke_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_epoch_is_doubted_unless_a_failure_explains_it_and_no_answer_was_lost() {
        let seen = |epochs, breaks| Seen { epochs, breaks };
        for (statistics, expected) in [
            // Its first id.
            (vec![(seen(0, 0), 0), (seen(1, 0), 0), (seen(1, 3), 0)], vec![false, false, false]),
            (vec![(seen(1, 0), 0), (seen(2, 0), 0)], vec![false, true]),
            (vec![(seen(1, 0), 0), (seen(2, 0), 7)], vec![false, false]),
            (vec![(seen(1, 0), 0), (seen(2, 1), 7)], vec![false, true]),
            // The answer was lost before the last statistics.
            (vec![(seen(1, 0), 0), (seen(1, 1), 0), (seen(2, 1), 7), (seen(2, 1), 0)], vec![false, false, true, false]),
            (vec![(seen(1, 5), 0), (seen(1, 5), 0), (seen(2, 2), 7)], vec![false, false, true]),
        ] {
            let mut doubt = Doubt::default();
            let told: Vec<bool> = statistics.iter().map(|(seen, failed)| doubt.arises(*seen, *failed)).collect();
            assert_eq!(told, expected, "{statistics:?}");
        }
    }
}
