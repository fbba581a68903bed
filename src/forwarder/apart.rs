//! Records that left their topic's order: to be tried once more alone, or owed as a dead letter. Pure.
//!
//! Kafka refuses a whole batch for one record that is too large, so a refusal for good is believed only of a record that was sent alone. Until
//! its dead letter is delivered, a record holds back the position of its own topic: nothing is let go of before something else has it.

use std::collections::BTreeMap;

use crate::event::DeadLetterReason;
use crate::journal::Lsn;
use crate::routing::TopicId;

/// What is to be done with a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send its event once more, with nothing else of its topic under way.
    Retry,
    /// Send it to the dead-letter topic.
    DeadLetter {
        /// Why no topic of its own could take it.
        reason: DeadLetterReason,
        /// The error's own words, from librdkafka.
        detail: String,
        /// Whether it was refused once among others.
        attempt: Attempt,
    },
    /// Write its body to a file, for the dead-letter topic cannot take it either; then send the dead letter without it.
    Oversized {
        /// Why no topic of its own could take it.
        reason: DeadLetterReason,
        /// The error's own words, from librdkafka.
        detail: String,
    },
}

/// How a dead letter is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// As any record.
    Among,
    /// With nothing else of the dead-letter topic under way, because a refusal may have been meant for a neighbour in its batch.
    Alone,
}

/// One record apart.
#[derive(Clone, Debug)]
pub struct Apart {
    /// Whose position it holds back.
    pub topic: TopicId,
    /// What is to be done.
    pub step: Step,
    /// Whether it is with librdkafka now.
    pub in_flight: bool,
}

/// All records apart, in the order of the journal.
#[derive(Debug, Default)]
pub struct Aparts {
    records: BTreeMap<Lsn, Apart>,
}

impl Aparts {
    /// Takes a record out of its topic's order.
    pub fn insert(&mut self, lsn: Lsn, topic: TopicId, step: Step) {
        self.records.insert(lsn, Apart { topic, step, in_flight: false });
    }

    /// One record.
    #[must_use]
    pub fn get(&self, lsn: Lsn) -> Option<&Apart> {
        self.records.get(&lsn)
    }

    /// One record, to be changed.
    pub fn get_mut(&mut self, lsn: Lsn) -> Option<&mut Apart> {
        self.records.get_mut(&lsn)
    }

    /// A record is completed.
    pub fn remove(&mut self, lsn: Lsn) -> Option<Apart> {
        self.records.remove(&lsn)
    }

    /// Records below that are of no more interest.
    pub fn forget_below(&mut self, lsn: Lsn) {
        self.records = self.records.split_off(&lsn);
    }

    /// The producer is gone: nothing is with librdkafka any more. Tells how many were.
    pub fn unsend(&mut self) -> u64 {
        let mut unsent = 0;
        for apart in self.records.values_mut() {
            if std::mem::take(&mut apart.in_flight) {
                unsent += 1;
            }
        }
        unsent
    }

    /// What may be sent next: for each topic its first record to be tried, and every dead letter that is owed.
    #[must_use]
    pub fn due(&self) -> Vec<(Lsn, TopicId, Step)> {
        let mut tried = Vec::new();
        let mut due = Vec::new();
        for (lsn, apart) in &self.records {
            if apart.step == Step::Retry {
                if tried.contains(&apart.topic) {
                    continue;
                }
                tried.push(apart.topic);
            }
            if !apart.in_flight {
                due.push((*lsn, apart.topic, apart.step.clone()));
            }
        }
        due
    }

    /// Whether the dead-letter topic is owed anything.
    #[must_use]
    pub fn owe_dead_letters(&self) -> bool {
        self.records.values().any(|apart| apart.step != Step::Retry)
    }

    /// Records with librdkafka.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.records.values().filter(|apart| apart.in_flight).count()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::routing::Routing;

    #[test]
    fn one_record_of_a_topic_is_tried_at_a_time_and_in_order() {
        let routing = Routing::new(&config::Topics::default());
        let (first, second) = (routing.topic_at(0).unwrap(), routing.topic_at(1).unwrap());
        let mut aparts = Aparts::default();
        aparts.insert(Lsn::new(9), first, Step::Retry);
        aparts.insert(Lsn::new(4), first, Step::Retry);
        aparts.insert(Lsn::new(6), second, Step::Retry);
        let due: Vec<_> = aparts.due().into_iter().map(|(lsn, ..)| lsn.get()).collect();
        assert_eq!(due, [4, 6]);
        aparts.get_mut(Lsn::new(4)).unwrap().in_flight = true;
        let due: Vec<_> = aparts.due().into_iter().map(|(lsn, ..)| lsn.get()).collect();
        assert_eq!(due, [6], "9 waits for 4");
        aparts.get_mut(Lsn::new(4)).unwrap().step =
            Step::DeadLetter { reason: DeadLetterReason::TooLarge, detail: String::new(), attempt: Attempt::Among };
        let due: Vec<_> = aparts.due().into_iter().map(|(lsn, ..)| lsn.get()).collect();
        assert_eq!(due, [6, 9], "a dead letter holds up no other record of its topic");
        assert_eq!(aparts.unsend(), 1);
    }
}
