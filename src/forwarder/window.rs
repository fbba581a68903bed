//! What of one topic is in hand: the records that were sent and do not yet lie below the topic's position. Pure.
//!
//! Records enter in the order of their LSNs. The front leaves once it is completed, and with it all completed ones behind it: what the window
//! holds therefore begins with a record that Kafka does not yet have. An entry that Kafka refused stays, as [`State::Unsent`], so that a second
//! reading of the journal finds what is still owed and skips what is done.

use std::collections::VecDeque;

use crate::clock::Timestamp;
use crate::journal::Lsn;

/// Where a record in the window stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// With librdkafka, its delivery report outstanding.
    Sent,
    /// Refused for now: to be read and sent again.
    Unsent,
    /// Taken out of the topic's order: to be tried alone, or owed as a dead letter.
    Apart,
    /// Completed.
    Done,
}

/// One record in the window.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Where it stands in the journal.
    pub lsn: Lsn,
    /// When its callback was received.
    pub received: Timestamp,
    /// Bytes of its message.
    pub size: usize,
    /// Where it stands in the window.
    pub state: State,
}

/// The records of one topic between its position and the last one sent.
#[derive(Debug, Default)]
pub struct Window {
    entries: VecDeque<Entry>,
    in_flight: usize,
    in_flight_bytes: usize,
    unsent: usize,
}

impl Window {
    /// A record that was sent. It must lie behind all that are in the window.
    pub fn push(&mut self, entry: Entry) {
        debug_assert!(self.entries.back().is_none_or(|back| back.lsn < entry.lsn), "records enter in order");
        self.count_in(entry.state, entry.size);
        self.entries.push_back(entry);
    }

    /// Where a record stands; `None` where it is not in the window: it lies below the position, or was never sent.
    #[must_use]
    pub fn state(&self, lsn: Lsn) -> Option<State> {
        self.index(lsn).and_then(|index| self.entries.get(index)).map(|entry| entry.state)
    }

    /// When a record was received; `None` where it is not in the window.
    #[must_use]
    pub fn received(&self, lsn: Lsn) -> Option<Timestamp> {
        self.index(lsn).and_then(|index| self.entries.get(index)).map(|entry| entry.received)
    }

    /// Moves a record to another state and tells what it was before; `None` where it is not in the window.
    pub fn set(&mut self, lsn: Lsn, state: State) -> Option<State> {
        let index = self.index(lsn)?;
        let entry = self.entries.get_mut(index)?;
        let (before, size) = (std::mem::replace(&mut entry.state, state), entry.size);
        self.count_out(before, size);
        self.count_in(state, size);
        Some(before)
    }

    fn count_in(&mut self, state: State, size: usize) {
        match state {
            State::Sent => {
                self.in_flight += 1;
                self.in_flight_bytes += size;
            }
            State::Unsent => self.unsent += 1,
            State::Apart | State::Done => {}
        }
    }

    fn count_out(&mut self, state: State, size: usize) {
        match state {
            State::Sent => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.in_flight_bytes = self.in_flight_bytes.saturating_sub(size);
            }
            State::Unsent => self.unsent = self.unsent.saturating_sub(1),
            State::Apart | State::Done => {}
        }
    }

    /// Records that wait to be sent again and can be read no more: they are done. Tells how many there are from `from` up to `to`.
    pub fn give_up(&mut self, from: Lsn, to: Lsn) -> u64 {
        let lost = |entry: &&mut Entry| entry.state == State::Unsent && entry.lsn >= from && entry.lsn < to;
        let mut given_up = 0;
        for entry in self.entries.iter_mut().filter(lost) {
            entry.state = State::Done;
            given_up += 1;
            self.unsent = self.unsent.saturating_sub(1);
        }
        given_up
    }

    /// Takes the completed records off the front; tells how many.
    pub fn advance(&mut self) -> u64 {
        let mut advanced = 0;
        while self.entries.front().is_some_and(|front| front.state == State::Done) {
            self.entries.pop_front();
            advanced += 1;
        }
        advanced
    }

    /// All that is with librdkafka has to be sent again: the producer is gone. Tells how many records that are.
    pub fn unsend(&mut self) -> u64 {
        let mut unsent = 0;
        for entry in &mut self.entries {
            if entry.state == State::Sent {
                entry.state = State::Unsent;
                unsent += 1;
            }
        }
        self.in_flight = 0;
        self.in_flight_bytes = 0;
        self.unsent += usize::try_from(unsent).unwrap_or(usize::MAX);
        unsent
    }

    /// Whether any record is to be sent again.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.unsent > 0
    }

    /// The first record that is to be sent again.
    #[must_use]
    pub fn first_unsent(&self) -> Option<Lsn> {
        self.entries.iter().find(|entry| entry.state == State::Unsent).map(|entry| entry.lsn)
    }

    /// The first record that is not completed, and when it was received.
    #[must_use]
    pub fn front(&self) -> Option<(Lsn, Timestamp)> {
        self.entries.front().map(|entry| (entry.lsn, entry.received))
    }

    /// Records whose delivery report is outstanding.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Bytes of them.
    #[must_use]
    pub fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes
    }

    /// Records in the window, completed ones behind an open one among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether all that was sent is completed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn index(&self, lsn: Lsn) -> Option<usize> {
        self.entries.binary_search_by(|entry| entry.lsn.cmp(&lsn)).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn lsn(number: u64) -> Lsn {
        Lsn::new(number)
    }

    fn time(number: u64) -> Timestamp {
        Timestamp::from_micros(i64::try_from(number).unwrap())
    }

    fn sent(number: u64) -> Entry {
        Entry { lsn: lsn(number), received: time(number), size: 10, state: State::Sent }
    }

    #[test]
    fn the_front_leaves_only_when_it_is_done() {
        let mut window = Window::default();
        for number in [3, 5, 8] {
            window.push(sent(number));
        }
        assert_eq!(window.in_flight_bytes(), 30);
        assert_eq!(window.set(lsn(5), State::Done), Some(State::Sent));
        assert_eq!(window.advance(), 0);
        assert_eq!(window.front(), Some((lsn(3), time(3))));
        assert_eq!(window.in_flight(), 2);
        window.set(lsn(3), State::Done);
        assert_eq!(window.advance(), 2);
        assert_eq!(window.front(), Some((lsn(8), time(8))));
        assert_eq!(window.state(lsn(5)), None);
    }

    #[test]
    fn what_the_producer_loses_is_sent_again_and_what_is_done_is_not() {
        let mut window = Window::default();
        for number in 1..=4 {
            window.push(sent(number));
        }
        window.set(lsn(2), State::Done);
        window.set(lsn(3), State::Apart);
        assert_eq!(window.unsend(), 2);
        assert_eq!(window.in_flight(), 0);
        assert_eq!(window.first_unsent(), Some(lsn(1)));
        assert_eq!(window.state(lsn(2)), Some(State::Done));
        assert_eq!(window.state(lsn(3)), Some(State::Apart));
        assert_eq!(window.in_flight_bytes(), 0);
    }

    #[test]
    fn what_can_be_read_no_more_holds_nothing_back() {
        let mut window = Window::default();
        for number in 1..=4 {
            window.push(sent(number));
        }
        window.set(lsn(1), State::Unsent);
        window.set(lsn(2), State::Unsent);
        assert_eq!(window.give_up(lsn(1), lsn(2)), 1);
        assert_eq!(window.advance(), 1);
        assert!(window.has_unsent());
        assert_eq!(window.give_up(lsn(2), lsn(9)), 1, "what was sent may still arrive");
        assert!(!window.has_unsent());
        assert_eq!(window.front().map(|(front, _)| front), Some(lsn(2)));
    }

    proptest! {
        /// Against a map: whatever the order of the reports, the front is the first record that is not done and nothing is lost or counted twice.
        #[test]
        fn the_window_is_the_longest_completed_prefix(
            reports in proptest::collection::vec((0_usize..40, 0_u8..4), 0..200),
            gaps in proptest::collection::vec(1_u64..5, 40),
        ) {
            let mut window = Window::default();
            let mut model = BTreeMap::new();
            let mut numbers = Vec::new();
            let mut next = 1;
            for gap in gaps {
                next += gap;
                numbers.push(next);
                window.push(sent(next));
                model.insert(next, State::Sent);
            }
            let mut advanced = 0;
            for (index, state) in reports {
                let state = [State::Sent, State::Unsent, State::Apart, State::Done][usize::from(state)];
                if model.get(&numbers[index]).is_some_and(|now| *now != State::Done) {
                    window.set(lsn(numbers[index]), state);
                    model.insert(numbers[index], state);
                }
                advanced += window.advance();
                let prefix = model.values().take_while(|state| **state == State::Done).count();
                prop_assert_eq!(advanced, u64::try_from(prefix).unwrap());
                prop_assert_eq!(window.front().map(|(front, _)| front), numbers.get(prefix).map(|number| lsn(*number)));
                prop_assert_eq!(window.has_unsent(), window.first_unsent().is_some());
                prop_assert_eq!(window.in_flight_bytes(), window.in_flight() * 10);
                prop_assert_eq!(window.in_flight(), model.values().filter(|state| **state == State::Sent).count());
            }
        }
    }
}
