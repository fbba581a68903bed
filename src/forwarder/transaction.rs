//! With exactly-once: how far the transaction of the moment is, who may enter it, and what its commit will count. Pure but for the instants it is given.
//!
//! ```text
//!           ┌── Look ──┐            first thing in it          time, count, one that must be alone
//! Away ─────┤          ├─ Open ─► Open ──────────────► Open ──────────────► Closing ─► Committing ─► Open
//!           └──────────┘            ▲                   │ a report that says no  │            │
//!                                   └── Aborted ◄─ Aborting ◄──────── Failing ◄──┴────────────┘
//! ```
//!
//! A record counts as completed once the transaction that carried it is committed, and the positions are carried by the same transaction. An abort is a restart
//! from the positions that were committed last, so that nothing has to be undone one by one.

mod state;

use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::journal::Lsn;
use crate::metrics::Abort;
use crate::routing::TopicId;

use super::count::Tally;
use state::{Blame, Phase, Seen};

pub use state::{Company, Done, InFlight, Limits, Move, Stamp};

/// How long what was sent may take to be delivered, where other topics' records are: a topic that stands must not hold up those who read the others.
const DELIVERY_MAX: Duration = Duration::from_secs(5);

/// The same for a record that is tried alone: all others wait for it.
const TRIAL_MAX: Duration = Duration::from_secs(1);

/// How long a transaction that has failed waits for the reports that tell whose fault it is.
const REPORTS_MAX: Duration = Duration::from_secs(1);

/// The first wait after an abort that is nobody's fault; each further one doubles it.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest such wait.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The transactions of a forwarder that delivers exactly once.
#[derive(Debug)]
pub struct Transaction {
    limits: Limits,
    phase: Phase,
    /// When the first thing entered the one of the moment, or the brokers heard of it.
    since: Option<Instant>,
    /// Whether a commit has something to tell.
    touched: bool,
    introduced: bool,
    /// Since when something of it is delivered and something is not, once it is closed.
    moving: Option<Instant>,
    records: u64,
    delivered: u64,
    topics: Vec<TopicId>,
    alone: Option<Lsn>,
    failure: Option<Abort>,
    blame: Blame,
    tally: Tally,
    stamp: Stamp,
    seen: Seen,
    /// Whether it has been looked at since the last producer was lost.
    looked: bool,
    /// A commit that was asked for and never answered.
    doubt: Option<(Stamp, Tally)>,
    pause: Option<(Instant, Duration)>,
}

impl Transaction {
    /// None is open, nothing is known of the partition of the positions.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            phase: Phase::Away,
            since: None,
            touched: false,
            introduced: false,
            moving: None,
            records: 0,
            delivered: 0,
            topics: Vec::new(),
            alone: None,
            failure: None,
            blame: Blame::Nobody,
            tally: Tally::default(),
            stamp: Stamp { producer: Uuid::nil(), number: 0 },
            seen: Seen::Unread,
            looked: false,
            doubt: None,
            pause: None,
        }
    }

    /// Whether it takes records.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether there is nothing that a commit or an abort would have to end.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        match self.phase {
            Phase::Open => self.since.is_none(),
            Phase::Away | Phase::Looking | Phase::Opening => true,
            Phase::Introducing { .. }
            | Phase::Closing { .. }
            | Phase::Committing
            | Phase::Failing { .. }
            | Phase::Aborting
            | Phase::Aborted => false,
        }
    }

    /// Whether a record may enter now. One that must be alone closes what is there for it.
    pub fn admits(&mut self, company: Company, now: Instant) -> bool {
        if self.phase != Phase::Open || self.pause.is_some_and(|(until, _)| now < until) {
            return false;
        }
        if company == Company::None && self.touched {
            self.close(now);
            return false;
        }
        if company == Company::None && !self.introduced {
            self.phase = Phase::Introducing { sent: false };
            self.since = Some(now);
            return false;
        }
        true
    }

    /// [`Move::Introduce`] is done.
    pub fn introducing(&mut self) {
        self.phase = Phase::Introducing { sent: true };
    }

    /// A record was handed over.
    pub fn entered(&mut self, lsn: Lsn, topic: TopicId, company: Company, now: Instant) {
        self.touched(now);
        self.records += 1;
        if !self.topics.contains(&topic) {
            self.topics.push(topic);
        }
        if company == Company::None {
            self.alone = Some(lsn);
        }
        if (company == Company::None || self.records >= self.limits.records) && self.phase == Phase::Open {
            self.close(now);
        }
    }

    /// Something happened that the positions have to tell.
    pub fn touched(&mut self, now: Instant) {
        self.since.get_or_insert(now);
        self.touched = true;
    }

    /// It takes no more, and is committed as soon as all is delivered.
    pub fn close(&mut self, now: Instant) {
        self.phase = Phase::Closing { since: now, positions_sent: false };
    }

    /// A record was delivered.
    pub fn delivered(&mut self) {
        self.delivered += 1;
    }

    /// It cannot be committed any more. The first reason that names somebody counts: what librdkafka takes back along with it has none of its own.
    pub fn failed(&mut self, why: Abort, now: Instant) {
        if self.failure.is_none_or(|known| known == Abort::Failed) {
            self.failure = Some(why);
        }
        if matches!(self.phase, Phase::Open | Phase::Introducing { .. } | Phase::Closing { .. }) {
            self.phase = Phase::Failing { since: now };
        }
    }

    /// What is to be done; asked for again and again.
    pub fn next(&mut self, in_flight: InFlight, now: Instant) -> Move {
        match self.phase {
            Phase::Away => {
                // Who has never been at work cannot have been followed by anybody.
                if self.looked || self.seen == Seen::Unread { Move::Open } else { Move::Look }
            }
            Phase::Open => {
                if self.since.is_some_and(|since| now.duration_since(since) >= self.limits.interval) {
                    self.close(now);
                    return self.next(in_flight, now);
                }
                Move::None
            }
            Phase::Closing { positions_sent: false, .. } if self.alone.is_none() || in_flight.records == 0 => Move::SendPositions,
            Phase::Closing { positions_sent: true, .. } if in_flight.is_none() => Move::Commit,
            Phase::Closing { since, positions_sent } => {
                if self.alone.is_some() {
                    return if now.duration_since(since) >= TRIAL_MAX { Move::GiveUp } else { Move::None };
                }
                // The positions are something else that is delivered: a topic may be the only one that has records in it.
                if self.delivered > 0 || (positions_sent && in_flight.is_of_records_alone()) {
                    let moving = *self.moving.get_or_insert(now);
                    return if now.duration_since(moving) >= DELIVERY_MAX { Move::GiveUp } else { Move::None };
                }
                Move::None
            }
            Phase::Introducing { sent: false } => Move::Introduce,
            Phase::Introducing { sent: true } => {
                if in_flight.is_none() {
                    self.phase = Phase::Open;
                    self.introduced = true;
                }
                Move::None
            }
            Phase::Failing { since } => {
                let is_told = self.failure.is_some_and(|why| why != Abort::Failed);
                if is_told || in_flight.is_none() || now.duration_since(since) >= REPORTS_MAX { Move::Abort } else { Move::None }
            }
            // Each report has to be seen before its record is sent again, or it would be taken for the second one's.
            Phase::Aborted if in_flight.records == 0 => Move::Rewind,
            Phase::Looking | Phase::Opening | Phase::Committing | Phase::Aborting | Phase::Aborted => Move::None,
        }
    }

    /// [`Move::Look`] is under way.
    pub fn looking(&mut self) {
        self.phase = Phase::Looking;
    }

    /// The partition ends with this stamp. Tells whether somebody else has been at work since we last knew. Whoever takes the name commits at once, so one without any
    /// commit is of a topic that was made anew.
    #[must_use]
    pub fn looked(&mut self, last: Option<Stamp>) -> bool {
        let ours = self.seen == Seen::Unread
            || last.is_none()
            || self.seen == Seen::Ends(last)
            || self.doubt.as_ref().is_some_and(|(stamp, _)| Some(*stamp) == last);
        self.phase = Phase::Away;
        self.looked = ours;
        !ours
    }

    /// [`Move::Open`] is under way.
    pub fn opening(&mut self) {
        self.phase = Phase::Opening;
    }

    /// The first transaction of this producer is begun; the partition ended with this stamp. What a commit that was in doubt counts comes back where it has
    /// happened. The first transaction is committed at once: from then on the partition tells that we are at work.
    pub fn opened(&mut self, producer: Uuid, last: Option<Stamp>, now: Instant) -> Option<Tally> {
        let confirmed = self.doubt.take().filter(|(stamp, _)| Some(*stamp) == last).map(|(_, tally)| tally);
        self.begin(Stamp { producer, number: 1 });
        self.seen = Seen::Ends(last);
        self.looked = false;
        self.touched(now);
        self.close(now);
        confirmed
    }

    /// [`Move::SendPositions`] is done.
    pub fn positions_sent(&mut self) {
        if let Phase::Closing { positions_sent, .. } = &mut self.phase {
            *positions_sent = true;
        }
    }

    /// [`Move::Commit`] is under way.
    pub fn committing(&mut self) {
        self.phase = Phase::Committing;
    }

    /// It is committed, the next one is begun.
    pub fn committed(&mut self) -> Done {
        self.seen = Seen::Ends(Some(self.stamp));
        self.pause = None;
        let done = Done { tally: std::mem::take(&mut self.tally), since: self.since, records: self.records, alone: self.alone };
        self.begin(Stamp { number: self.stamp.number + 1, ..self.stamp });
        done
    }

    /// [`Move::Abort`] is under way.
    pub fn aborting(&mut self) {
        self.phase = Phase::Aborting;
    }

    /// It is aborted, the next one is begun.
    pub fn aborted(&mut self) {
        self.phase = Phase::Aborted;
    }

    /// Somebody is held for the failure, so that the next try is another one.
    pub fn blamed(&mut self, why: Abort) {
        self.failure = Some(why);
        self.blame = Blame::Somebody;
    }

    /// [`Move::Rewind`] is done. Tells whether it has come to be more than a mishap: a second abort in a row that is nobody's fault.
    pub fn rewound(&mut self, now: Instant) -> bool {
        let before = self.pause.map(|(_, delay)| delay);
        if self.blame == Blame::Nobody && self.failure.is_none_or(|why| why == Abort::Failed) {
            let delay = self.pause.map_or(PAUSE_MIN, |(_, delay)| (delay * 2).min(PAUSE_MAX));
            self.pause = Some((now + delay, delay));
        }
        self.begin(Stamp { number: self.stamp.number + 1, ..self.stamp });
        before == Some(PAUSE_MIN) && self.is_troubled()
    }

    /// Whether one abort follows the other, and nobody is to blame.
    #[must_use]
    pub fn is_troubled(&self) -> bool {
        self.pause.is_some_and(|(_, delay)| delay > PAUSE_MIN)
    }

    /// The producer is gone.
    pub fn lost(&mut self) {
        if self.phase == Phase::Committing {
            self.doubt = Some((self.stamp, std::mem::take(&mut self.tally)));
        }
        self.begin(self.stamp);
        self.phase = Phase::Away;
        self.looked = false;
    }

    fn begin(&mut self, stamp: Stamp) {
        self.stamp = stamp;
        self.phase = Phase::Open;
        self.since = None;
        self.touched = false;
        self.introduced = false;
        self.moving = None;
        self.blame = Blame::Nobody;
        self.records = 0;
        self.delivered = 0;
        self.topics.clear();
        self.alone = None;
        self.failure = None;
        self.tally = Tally::default();
    }

    /// How long until its age closes it; `None` where that does not matter.
    #[must_use]
    pub fn closes_in(&self, now: Instant) -> Option<Duration> {
        let since = self.since.filter(|_| self.phase == Phase::Open)?;
        Some(self.limits.interval.saturating_sub(now.duration_since(since)))
    }

    /// What its positions bear.
    #[must_use]
    pub const fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Why it failed.
    #[must_use]
    pub fn failure(&self) -> Option<Abort> {
        self.failure
    }

    /// Whose records are in it.
    #[must_use]
    pub fn topics(&self) -> &[TopicId] {
        &self.topics
    }

    /// Whether it holds records, and all of them were delivered: then it is the positions that were not.
    #[must_use]
    pub const fn is_delivered(&self) -> bool {
        self.delivered == self.records
    }

    /// What its commit adds to the metrics.
    pub fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::routing::Routing;

    const LIMITS: Limits = Limits { interval: Duration::from_millis(100), records: 3 };
    const NOTHING: InFlight = InFlight { records: 0, messages: 0 };

    fn topic(index: usize) -> TopicId {
        Routing::new(&config::Topics::default()).topic_at(index).unwrap()
    }

    fn under_way(records: usize) -> InFlight {
        InFlight { records, messages: u64::try_from(records).unwrap() }
    }

    fn enter(transaction: &mut Transaction, lsn: u64, company: Company, now: Instant) {
        assert!(transaction.admits(company, now), "{lsn}");
        transaction.entered(Lsn::new(lsn), topic(0), company, now);
    }

    /// One whose producer has read the positions and committed its claim.
    fn open(now: Instant) -> Transaction {
        let mut transaction = Transaction::new(LIMITS);
        assert_eq!(transaction.next(NOTHING, now), Move::Open);
        transaction.opening();
        assert_eq!(transaction.next(NOTHING, now), Move::None);
        assert_eq!(transaction.opened(Uuid::from_u128(1), None, now), None);
        assert!(!transaction.admits(Company::Any, now), "the claim goes first");
        commit(&mut transaction, now);
        transaction
    }

    /// The brokers hear of it before a record enters that they may refuse.
    fn introduce(transaction: &mut Transaction, now: Instant) {
        assert!(!transaction.admits(Company::None, now));
        assert_eq!(transaction.next(NOTHING, now), Move::Introduce);
        transaction.introducing();
        assert!(!transaction.is_open() && !transaction.is_settled());
        assert_eq!(transaction.next(InFlight { records: 0, messages: 1 }, now), Move::None);
        assert!(!transaction.is_open());
        assert_eq!(transaction.next(NOTHING, now), Move::None);
        assert!(transaction.is_open());
    }

    fn abort(transaction: &mut Transaction, why: Abort, now: Instant) {
        transaction.failed(why, now);
        assert_eq!(transaction.next(NOTHING, now), Move::Abort);
        transaction.aborting();
        transaction.aborted();
        assert_eq!(transaction.next(NOTHING, now), Move::Rewind);
        let was_troubled = transaction.is_troubled();
        assert_eq!(transaction.rewound(now), !was_troubled && transaction.is_troubled(), "it is told once");
    }

    fn commit(transaction: &mut Transaction, now: Instant) -> Done {
        assert_eq!(transaction.next(NOTHING, now), Move::SendPositions);
        transaction.positions_sent();
        assert_eq!(transaction.next(InFlight { records: 0, messages: 1 }, now), Move::None, "the positions are under way");
        assert_eq!(transaction.next(NOTHING, now), Move::Commit);
        transaction.committing();
        assert_eq!(transaction.next(NOTHING, now), Move::None);
        let done = transaction.committed();
        assert!(transaction.is_open() && transaction.is_settled());
        done
    }

    #[test]
    fn it_is_committed_by_its_age_and_by_its_records() {
        let start = Instant::now();
        let mut transaction = open(start);
        assert_eq!(transaction.next(NOTHING, start + Duration::from_mins(1)), Move::None, "an empty one has no age");
        enter(&mut transaction, 1, Company::Any, start);
        assert_eq!(transaction.next(under_way(1), start + Duration::from_millis(99)), Move::None);
        assert_eq!(transaction.closes_in(start + Duration::from_millis(99)), Some(Duration::from_millis(1)));
        assert_eq!(transaction.next(under_way(1), start + LIMITS.interval), Move::SendPositions, "together with what is under way");
        assert!(!transaction.admits(Company::Any, start));
        transaction.positions_sent();
        assert_eq!(transaction.next(under_way(1), start), Move::None);
        transaction.delivered();
        assert_eq!(transaction.next(NOTHING, start), Move::Commit);
        transaction.committing();
        assert_eq!(transaction.committed().records, 1);
        for lsn in 2..=4 {
            enter(&mut transaction, lsn, Company::Any, start);
        }
        assert!(!transaction.admits(Company::Any, start), "three are enough");
        assert_eq!(transaction.next(under_way(3), start), Move::SendPositions);
    }

    #[test]
    fn whoever_must_be_alone_waits_for_the_others_and_they_for_him() {
        let start = Instant::now();
        let mut transaction = open(start);
        enter(&mut transaction, 1, Company::Any, start);
        assert!(!transaction.admits(Company::None, start), "another is in it");
        assert!(!transaction.admits(Company::Any, start), "it is closed for him");
        transaction.delivered();
        commit(&mut transaction, start);
        introduce(&mut transaction, start);
        enter(&mut transaction, 2, Company::None, start);
        assert!(!transaction.admits(Company::Any, start));
        assert_eq!(transaction.next(under_way(1), start), Move::None, "positions only once he is delivered");
        transaction.delivered();
        assert_eq!(commit(&mut transaction, start).alone, Some(Lsn::new(2)));
    }

    #[test]
    fn a_refusal_aborts_and_what_it_took_along_does_not_hide_its_reason() {
        let start = Instant::now();
        let mut transaction = open(start);
        enter(&mut transaction, 1, Company::Any, start);
        enter(&mut transaction, 2, Company::Any, start);
        transaction.failed(Abort::Failed, start);
        assert_eq!(transaction.next(under_way(1), start), Move::None, "the other report may tell more");
        transaction.failed(Abort::TooLarge, start);
        transaction.failed(Abort::Parked, start);
        assert_eq!(transaction.failure(), Some(Abort::TooLarge));
        assert!(!transaction.admits(Company::Any, start));
        assert_eq!(transaction.next(under_way(1), start), Move::Abort, "nothing more has to be told");
        transaction.aborting();
        assert_eq!(transaction.next(NOTHING, start), Move::None);
        transaction.aborted();
        assert_eq!(transaction.next(under_way(1), start), Move::None, "its report would be taken for the next one's");
        assert_eq!(transaction.next(NOTHING, start), Move::Rewind);
        transaction.tally().corrupt += 1;
        assert!(!transaction.rewound(start), "somebody is to blame");
        assert_eq!(transaction.tally(), &mut Tally::default());
        assert!(transaction.admits(Company::Any, start), "the next one is another one");
    }

    #[test]
    fn after_an_abort_that_is_nobodys_fault_it_waits_longer_each_time_until_a_commit() {
        let start = Instant::now();
        let mut transaction = open(start);
        let mut now = start;
        for wait in [PAUSE_MIN, PAUSE_MIN * 2, PAUSE_MIN * 4] {
            enter(&mut transaction, 1, Company::Any, now);
            abort(&mut transaction, Abort::Failed, now);
            let almost = wait.saturating_sub(Duration::from_millis(1));
            assert!(!transaction.admits(Company::Any, now + almost), "{wait:?}");
            assert_eq!(transaction.is_troubled(), wait > PAUSE_MIN);
            now += wait;
        }
        enter(&mut transaction, 1, Company::Any, now);
        transaction.delivered();
        transaction.close(now);
        commit(&mut transaction, now);
        assert!(!transaction.is_troubled());
        enter(&mut transaction, 2, Company::Any, now);
        abort(&mut transaction, Abort::Failed, now);
        assert!(transaction.admits(Company::Any, now + PAUSE_MIN));
        enter(&mut transaction, 2, Company::Any, now + PAUSE_MIN);
        transaction.failed(Abort::Failed, now);
        transaction.blamed(Abort::Parked);
        abort(&mut transaction, Abort::Failed, now);
        assert!(transaction.admits(Company::Any, now + PAUSE_MIN), "somebody is held for it");
    }

    #[test]
    fn one_that_the_brokers_have_heard_of_is_ended_even_if_nobody_comes() {
        let start = Instant::now();
        let mut transaction = open(start);
        introduce(&mut transaction, start);
        assert!(transaction.admits(Company::Any, start), "whoever was to be alone has been held in the meantime");
        assert_eq!(transaction.next(NOTHING, start + LIMITS.interval), Move::SendPositions);
    }

    #[test]
    fn reports_that_never_come_do_not_hold_an_abort_up() {
        let start = Instant::now();
        let mut transaction = open(start);
        enter(&mut transaction, 1, Company::Any, start);
        transaction.failed(Abort::Failed, start);
        assert_eq!(transaction.next(under_way(1), start + REPORTS_MAX), Move::Abort);
    }

    #[test]
    fn what_stands_while_others_move_is_given_up_and_what_stands_with_all_others_is_waited_for() {
        let start = Instant::now();
        let late = start + DELIVERY_MAX;
        let later = late + DELIVERY_MAX;
        let with_a_position = |records| InFlight { messages: under_way(records).messages + 1, ..under_way(records) };
        for in_flight in [with_a_position(1), under_way(1)] {
            // One of two is delivered, or there is but one and the positions are.
            let mut transaction = open(start);
            enter(&mut transaction, 1, Company::Any, start);
            enter(&mut transaction, 2, Company::Any, start);
            transaction.close(start);
            transaction.positions_sent();
            assert_eq!(transaction.next(with_a_position(2), late), Move::None, "Kafka is away");
            if in_flight == with_a_position(1) {
                transaction.delivered();
            }
            assert_eq!(transaction.next(in_flight, late), Move::None, "the others come as well");
            assert_eq!(transaction.next(in_flight, later), Move::GiveUp);
        }
        let mut transaction = open(start);
        introduce(&mut transaction, start);
        enter(&mut transaction, 1, Company::None, start);
        assert_eq!(transaction.next(under_way(1), start + TRIAL_MAX), Move::GiveUp, "one that is tried holds up all others");
    }

    #[test]
    fn a_commit_whose_answer_never_came_counts_where_it_has_happened() {
        let start = Instant::now();
        let in_doubt = |transaction: &mut Transaction| {
            enter(transaction, 1, Company::Any, start);
            transaction.tally().discarded = 7;
            transaction.delivered();
            transaction.close(start);
            transaction.positions_sent();
            assert_eq!(transaction.next(NOTHING, start), Move::Commit);
            transaction.committing();
            let stamp = transaction.stamp();
            transaction.lost();
            assert!(transaction.is_settled() && !transaction.is_open());
            assert_eq!(transaction.next(NOTHING, start), Move::Look);
            transaction.looking();
            stamp
        };
        let mut transaction = open(start);
        let before = Stamp { number: transaction.stamp().number - 1, ..transaction.stamp() };
        let stamp = in_doubt(&mut transaction);
        assert!(!transaction.looked(Some(stamp)), "it is our own");
        assert_eq!(transaction.next(NOTHING, start), Move::Open);
        transaction.opening();
        assert_eq!(transaction.opened(Uuid::from_u128(2), Some(stamp), start).map(|tally| tally.discarded), Some(7));

        let mut transaction = open(start);
        in_doubt(&mut transaction);
        assert!(!transaction.looked(Some(before)), "it did not happen, and nobody else was there");
        transaction.opening();
        assert_eq!(transaction.opened(Uuid::from_u128(2), Some(before), start), None);
    }

    #[test]
    fn somebody_else_who_has_committed_since_has_taken_our_name() {
        let start = Instant::now();
        let mut transaction = open(start);
        let other = Stamp { producer: Uuid::from_u128(9), number: 1 };
        enter(&mut transaction, 1, Company::Any, start);
        transaction.lost();
        assert_eq!(transaction.next(NOTHING, start), Move::Look);
        transaction.looking();
        assert!(transaction.looked(Some(other)));
        assert_eq!(transaction.next(NOTHING, start), Move::Look, "and it stays so");
        // Where there is no commit at all, nobody has: the topic was made anew.
        let mut transaction = open(start);
        transaction.lost();
        assert!(!transaction.looked(None));
        // A producer that dies before it is open has taken nothing over: the next one looks as well.
        let mut transaction = open(start);
        transaction.lost();
        assert!(!transaction.looked(Some(Stamp { number: transaction.stamp().number - 1, ..transaction.stamp() })));
        assert_eq!(transaction.next(NOTHING, start), Move::Open);
        transaction.opening();
        transaction.lost();
        assert_eq!(transaction.next(NOTHING, start), Move::Look);
    }
}
