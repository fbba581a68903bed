//! One topic's way out of the journal: what it has in hand, where it goes on reading, and whether it may take a record now. Pure but for the
//! instants it is given.
//!
//! A lane *flows* while the reading of the live end serves it. It falls *behind* when it cannot take a record that the live reading has in
//! hand: the others go on, and its own records are read again later, from [`Lane::next`] on. It is *held* while Kafka refuses its records;
//! held because the topic is missing or not authorised, it is *parked*, which the operator is told.

use std::time::{Duration, Instant};

use crate::clock::Timestamp;
use crate::journal::Lsn;
use crate::kafka::ParkCause;

use super::window::{State, Window};

/// Records that a window may hold. A front that waits for its dead letter lets this many go ahead; a restart would publish them again.
const WINDOW_MAX: usize = 65_536;

/// How long a lane that is full may stand without a delivery before the others go on without it.
const STALL_MAX: Duration = Duration::from_secs(1);

/// The first wait after a refusal; each further one doubles it.
const HOLD_MIN: Duration = Duration::from_millis(500);

/// The longest wait after a refusal: a topic that is there again is found within this.
const HOLD_MAX: Duration = Duration::from_secs(10);

/// Why a lane takes nothing for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldCause {
    /// Kafka says that it cannot take this topic's records: the operator is told.
    Parked(ParkCause),
    /// A report that says neither yes nor no for good: tried again.
    Refused,
    /// A transaction has failed for one of several topics, and this is one of them: each is tried alone.
    Suspected,
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    cause: HoldCause,
    until: Instant,
    delay: Duration,
    /// The wait is over and one record is tried; the next report decides.
    trial: bool,
}

/// Whether a lane may take a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It may.
    Free,
    /// Not now, but it moves: wait for it.
    Busy,
    /// Not now, and it does not move: go on without it.
    Stalled,
}

/// One topic's way out of the journal.
#[derive(Debug)]
pub struct Lane {
    /// What is in hand.
    pub window: Window,
    behind: Option<Behind>,
    hold: Option<Hold>,
    known: bool,
    retries: usize,
    /// Records with librdkafka that are out of the topic's order: tried alone, or dead letters of other topics.
    visitors: usize,
    moved_at: Instant,
    share: Share,
}

/// What of the producer's queue a topic may hold.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Records.
    pub records: usize,
    /// Bytes; one record is always allowed.
    pub bytes: usize,
}

/// Where a second reading of a topic goes on.
#[derive(Clone, Copy, Debug)]
pub struct Behind {
    /// The first record that it has not served.
    pub next: Lsn,
    /// When that was received, where it is known.
    pub received: Option<Timestamp>,
}

/// Whether a hold lets a record through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// One record, whose report decides.
    Trial,
    Shut,
}

impl Lane {
    /// A lane with that share of the queue; it begins `behind` where the checkpoint says so.
    #[must_use]
    pub fn new(share: Share, behind: Option<Behind>, now: Instant) -> Self {
        Self { window: Window::default(), behind, hold: None, known: false, retries: 0, visitors: 0, moved_at: now, share }
    }

    /// A hold whose wait is over lets one record through.
    fn gate(&mut self, now: Instant) -> Gate {
        match &mut self.hold {
            None => Gate::Open,
            Some(hold) if now < hold.until => Gate::Shut,
            Some(hold) => {
                hold.trial = true;
                Gate::Trial
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.window.in_flight() + self.visitors
    }

    /// Whether it may take a record now.
    pub fn room(&mut self, now: Instant) -> Room {
        let has_share = match self.gate(now) {
            Gate::Shut => return Room::Stalled,
            Gate::Trial => self.in_flight() == 0,
            Gate::Open => self.in_flight() < self.share.records && self.window.in_flight_bytes() < self.share.bytes,
        };
        // What is to be sent again is in the window already, however full that is.
        let has_place = self.window.len() < WINDOW_MAX || self.window.has_unsent();
        if self.known && self.retries == 0 && has_share && has_place {
            Room::Free
        } else if now.duration_since(self.moved_at) < STALL_MAX {
            Room::Busy
        } else {
            Room::Stalled
        }
    }

    /// Nothing is in hand, and its second reading is where the positions have it; whether it may take anything is as before.
    pub fn start_over(&mut self, behind: Option<Behind>) {
        self.window = Window::default();
        self.behind = behind;
        self.retries = 0;
        self.visitors = 0;
    }

    /// The topic is there.
    pub fn looked_up(&mut self) {
        self.known = true;
    }

    /// The topic has been looked up and is there. That ends a hold for its absence, which it tells; whether we may write, only a report tells.
    pub fn found(&mut self) -> Option<HoldCause> {
        self.known = true;
        let over = self.hold.is_some_and(|hold| match hold.cause {
            HoldCause::Parked(ParkCause::Missing) => true,
            HoldCause::Parked(ParkCause::NotAuthorised) => self.window.is_empty() && self.behind.is_none(),
            HoldCause::Refused | HoldCause::Suspected => false,
        });
        if over { self.hold.take().map(|hold| hold.cause) } else { None }
    }

    /// The topic is not there: it takes nothing until it is found.
    pub fn lost(&mut self) {
        self.known = false;
    }

    /// Whether one record may be sent with nothing else of the topic under way, though others wait for it.
    pub fn is_ready_for_one(&mut self, now: Instant) -> bool {
        self.gate(now) != Gate::Shut && self.known && self.in_flight() == 0
    }

    /// Whether a record of another topic, its dead letter, may be sent to it.
    pub fn takes(&mut self, now: Instant) -> bool {
        self.gate(now) != Gate::Shut && self.known
    }

    /// Whether what is sent to it now is the one record that ends its hold, or makes it longer.
    #[must_use]
    pub fn is_on_trial(&self) -> bool {
        self.hold.is_some()
    }

    /// A record out of the topic's order was handed over.
    pub fn visitor_sent(&mut self) {
        self.visitors += 1;
    }

    /// The report on it is there.
    pub fn visitor_reported(&mut self) {
        self.visitors = self.visitors.saturating_sub(1);
    }

    /// The producer is gone: all that was with it is to be sent again. Tells how many records of the window that are.
    pub fn unsend(&mut self) -> u64 {
        self.visitors = 0;
        let unsent = self.window.unsend();
        if let Some(first) = self.window.first_unsent() {
            self.fall_behind(first, self.window.received(first));
        }
        unsent
    }

    /// Something was delivered. Tells whether that ended a hold, and of what cause.
    pub fn delivered(&mut self, now: Instant) -> Option<HoldCause> {
        self.moved_at = now;
        self.known = true;
        self.hold.take().map(|hold| hold.cause)
    }

    /// A record was handed over: a lane that had been idle counts as moving from here on.
    pub fn sent(&mut self, now: Instant) {
        if self.window.in_flight() <= 1 {
            self.moved_at = now;
        }
    }

    /// Kafka refuses the topic's records for now. Tells whether that is news.
    pub fn hold(&mut self, cause: HoldCause, now: Instant) -> bool {
        match &mut self.hold {
            Some(hold) if hold.cause == cause => {
                // Reports of the records that were with librdkafka when it began are the same refusal, not further ones.
                if hold.trial {
                    hold.delay = (hold.delay * 2).min(HOLD_MAX);
                    hold.until = now + hold.delay;
                    hold.trial = false;
                }
                false
            }
            other => {
                let wait = if cause == HoldCause::Suspected { Duration::ZERO } else { HOLD_MIN };
                *other = Some(Hold { cause, until: now + wait, delay: HOLD_MIN, trial: false });
                true
            }
        }
    }

    /// Why it takes nothing, where it is held.
    #[must_use]
    pub fn held(&self) -> Option<HoldCause> {
        self.hold.map(|hold| hold.cause)
    }

    /// A record of this lane is to be tried alone: nothing else is sent until it is settled.
    pub fn retry_begins(&mut self) {
        self.retries += 1;
    }

    /// The end of [`Lane::retry_begins`].
    pub fn retry_ends(&mut self) {
        self.retries = self.retries.saturating_sub(1);
    }

    /// The live reading goes on without it; its records from `next` on are read again later.
    pub fn fall_behind(&mut self, next: Lsn, received: Option<Timestamp>) {
        match &mut self.behind {
            Some(behind) if behind.next <= next => {}
            behind => *behind = Some(Behind { next, received }),
        }
    }

    /// Where its second reading goes on, where it is behind.
    #[must_use]
    pub fn next(&self) -> Option<Lsn> {
        self.behind.map(|behind| behind.next)
    }

    /// Its second reading has served all below `next`.
    pub fn read_up_to(&mut self, next: Lsn, received: Timestamp) {
        if let Some(behind) = &mut self.behind {
            behind.next = next;
            behind.received = Some(received);
        }
    }

    /// Its second reading has met the live one.
    pub fn caught_up(&mut self) {
        self.behind = None;
    }

    /// Whether a second reading would get anywhere.
    pub fn can_catch_up(&mut self, now: Instant) -> bool {
        self.behind.is_some() && self.room(now) == Room::Free
    }

    /// The LSN up to which the topic has its records; `scanned` is how far the live reading is.
    #[must_use]
    pub fn position(&self, scanned: Lsn) -> Lsn {
        let front = self.window.front().map_or(scanned, |(lsn, _)| lsn);
        self.behind.map_or(front, |behind| front.min(behind.next)).min(scanned)
    }

    /// The same as [`Lane::position`] would be if all that is in hand were delivered.
    #[must_use]
    pub fn reached(&self, scanned: Lsn) -> Lsn {
        self.behind.map_or(scanned, |behind| behind.next.min(scanned))
    }

    /// When its oldest unpublished record was received, as far as that is known.
    #[must_use]
    pub fn oldest(&self) -> Option<Timestamp> {
        let front = self.window.front().map(|(_, received)| received);
        let behind = self.behind.and_then(|behind| behind.received);
        match (front, behind) {
            (Some(front), Some(behind)) => Some(front.min(behind)),
            (front, behind) => front.or(behind),
        }
    }

    /// Whether nothing of it is in hand or waits to be read again.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.window.is_empty() && self.behind.is_none()
    }

    /// What a second reading does with a record of this lane.
    #[must_use]
    pub fn owes(&self, lsn: Lsn) -> bool {
        match self.window.state(lsn) {
            Some(state) => state == State::Unsent,
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(number: u64) -> Lsn {
        Lsn::new(number)
    }

    const SHARE: Share = Share { records: 2, bytes: 1000 };

    fn lane(now: Instant) -> Lane {
        let mut lane = Lane::new(SHARE, None, now);
        lane.found();
        lane
    }

    fn sent(number: u64) -> crate::forwarder::window::Entry {
        let received = Timestamp::from_micros(i64::try_from(number).unwrap());
        crate::forwarder::window::Entry { lsn: lsn(number), received, size: 10, state: State::Sent }
    }

    #[test]
    fn a_full_lane_is_waited_for_until_it_stalls() {
        let start = Instant::now();
        let mut lane = lane(start);
        for number in 1..=2 {
            assert_eq!(lane.room(start), Room::Free);
            lane.window.push(sent(number));
            lane.sent(start);
        }
        assert_eq!(lane.room(start), Room::Busy);
        assert_eq!(lane.room(start + STALL_MAX), Room::Stalled);
        lane.window.set(lsn(1), State::Done);
        lane.delivered(start + STALL_MAX);
        assert_eq!(lane.room(start + STALL_MAX), Room::Free);
    }

    #[test]
    fn a_topic_that_was_not_looked_up_takes_nothing() {
        let start = Instant::now();
        let mut lane = Lane::new(SHARE, None, start);
        assert_eq!(lane.room(start), Room::Busy);
        assert_eq!(lane.room(start + STALL_MAX), Room::Stalled);
        lane.found();
        assert_eq!(lane.room(start + STALL_MAX), Room::Free);
    }

    #[test]
    fn a_held_lane_is_tried_with_one_record_and_waits_longer_each_time() {
        let start = Instant::now();
        let mut lane = lane(start);
        let cause = HoldCause::Parked(ParkCause::Missing);
        assert!(lane.hold(cause, start), "the first refusal is news");
        assert!(!lane.hold(cause, start), "a second one is not");
        assert_eq!(lane.room(start), Room::Stalled);
        let later = start + HOLD_MIN;
        assert_eq!(lane.room(later), Room::Free);
        lane.window.push(sent(1));
        assert_ne!(lane.room(later), Room::Free, "one record is the trial");
        lane.window.set(lsn(1), State::Unsent);
        assert!(!lane.hold(cause, later));
        let last = later + HOLD_MIN * 2;
        assert_eq!(lane.room(last.checked_sub(Duration::from_millis(1)).unwrap()), Room::Stalled, "it waits twice as long");
        assert_eq!(lane.room(last), Room::Free);
        lane.window.set(lsn(1), State::Sent);
        assert_eq!(lane.delivered(last), Some(cause));
        assert_eq!(lane.held(), None);
    }

    #[test]
    fn the_position_is_the_first_record_that_the_topic_lacks() {
        let start = Instant::now();
        let mut lane = lane(start);
        assert_eq!(lane.position(lsn(10)), lsn(10));
        lane.window.push(sent(4));
        lane.window.push(sent(6));
        assert_eq!(lane.position(lsn(10)), lsn(4));
        lane.fall_behind(lsn(8), Some(Timestamp::from_micros(8)));
        assert_eq!(lane.position(lsn(10)), lsn(4));
        lane.window.set(lsn(4), State::Done);
        lane.window.set(lsn(6), State::Done);
        lane.window.advance();
        assert_eq!(lane.position(lsn(10)), lsn(8));
        assert_eq!(lane.oldest(), Some(Timestamp::from_micros(8)));
        lane.caught_up();
        assert_eq!(lane.position(lsn(10)), lsn(10));
        assert!(lane.is_idle());
    }

    #[test]
    fn when_the_producer_is_gone_it_goes_back_to_the_first_record_without_a_report() {
        let start = Instant::now();
        let mut lane = lane(start);
        lane.window.push(sent(4));
        lane.window.push(sent(6));
        lane.window.set(lsn(4), State::Done);
        lane.visitor_sent();
        assert_ne!(lane.room(start), Room::Free, "a visitor takes part of the share");
        assert_eq!(lane.unsend(), 1);
        assert_eq!(lane.next(), Some(lsn(6)));
        assert_eq!(lane.oldest(), Some(Timestamp::from_micros(4)));
        assert_eq!(lane.room(start), Room::Free);
        assert!(!lane.owes(lsn(4)));
        assert!(lane.owes(lsn(6)));
        assert!(lane.owes(lsn(7)));
    }

    #[test]
    fn a_few_large_records_are_a_share_as_well() {
        let start = Instant::now();
        let mut lane = Lane::new(Share { records: 100, bytes: 15 }, None, start);
        lane.found();
        lane.window.push(sent(1));
        assert_eq!(lane.room(start), Room::Free);
        lane.window.push(sent(2));
        assert_eq!(lane.room(start), Room::Busy);
    }

    #[test]
    fn a_full_window_does_not_keep_out_what_is_in_it() {
        let start = Instant::now();
        let mut lane = Lane::new(Share { records: WINDOW_MAX * 2, bytes: usize::MAX }, None, start);
        lane.found();
        for number in 1..=u64::try_from(WINDOW_MAX).unwrap() {
            lane.window.push(sent(number));
        }
        assert_eq!(lane.room(start), Room::Busy);
        lane.unsend();
        assert_eq!(lane.room(start), Room::Free);
    }
}
