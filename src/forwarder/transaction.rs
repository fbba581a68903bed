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

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::journal::Lsn;
use crate::kafka::ErrorCode;
use crate::metrics::Abort;
use crate::routing::TopicId;

/// How long what was sent may take to be delivered, where other topics' records are: a topic that stands must not hold up those who read the others.
const DELIVERY_MAX: Duration = Duration::from_secs(5);

/// How long a transaction that has failed waits for the reports that tell whose fault it is.
const REPORTS_MAX: Duration = Duration::from_secs(1);

/// The first wait after an abort that is nobody's fault; each further one doubles it.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest such wait.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// When a transaction has taken enough.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Its age.
    pub interval: Duration,
    /// Its records.
    pub records: u64,
}

/// With whom a record may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Company {
    /// With any other.
    Any,
    /// With none: whether Kafka takes it is in doubt, and the others would be aborted with it.
    None,
}

/// What bears witness of a commit: whose it was, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// One life of one producer.
    pub producer: Uuid,
    /// Counted by the producer.
    pub number: u64,
}

/// What we know of the partition of the positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Nothing: it was never read.
    Unread,
    /// It ended with this commit when we last knew.
    Ends(Option<Stamp>),
}

/// What is under way with librdkafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Records whose report has not been seen.
    pub records: usize,
    /// Messages, the positions among them, of which librdkafka has not reported.
    pub messages: u64,
}

impl InFlight {
    const fn is_none(self) -> bool {
        self.records == 0 && self.messages == 0
    }
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Nothing but to wait.
    None,
    /// See whether somebody else has come to work under our name.
    Look,
    /// Fence whoever bore it before, and read the positions.
    Open,
    /// Add the positions to the transaction.
    SendPositions,
    /// Commit it.
    Commit,
    /// Something in it is not delivered, though other things are: hold whom it belongs to, and call it failed.
    GiveUp,
    /// Abort it.
    Abort,
    /// Begin again from what was committed last.
    Rewind {
        /// Why librdkafka would not commit it, where it has said so.
        cause: Option<ErrorCode>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Without a producer, or one that was asked nothing yet.
    Away,
    Looking,
    Opening,
    /// It takes records.
    Open,
    Closing {
        since: Instant,
        positions_sent: bool,
    },
    Committing,
    Failing {
        since: Instant,
    },
    Aborting,
    Aborted {
        cause: Option<ErrorCode>,
    },
}

/// What a commit adds to the metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events, by topic.
    pub published: BTreeMap<usize, u64>,
    /// Dead letters, by reason.
    pub dead_lettered: BTreeMap<&'static str, u64>,
    /// Records lost to corruption.
    pub corrupt: u64,
    /// Records whose command is discarded.
    pub discarded: u64,
    /// Records that had been completed, and are owed again since the configuration has changed.
    pub owed_again: u64,
    /// When the callbacks of the published ones were received.
    pub received: Vec<Timestamp>,
}

impl Tally {
    /// Records that leave the journal with it.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.published.values().chain(self.dead_lettered.values()).sum::<u64>() + self.corrupt + self.discarded
    }
}

/// The transactions of a forwarder that delivers exactly once.
#[derive(Debug)]
pub struct Transaction {
    limits: Limits,
    phase: Phase,
    /// When the first thing entered the one of the moment.
    since: Option<Instant>,
    records: u64,
    delivered: u64,
    topics: Vec<TopicId>,
    alone: Option<Lsn>,
    failure: Option<Abort>,
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
            records: 0,
            delivered: 0,
            topics: Vec::new(),
            alone: None,
            failure: None,
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
            Phase::Closing { .. } | Phase::Committing | Phase::Failing { .. } | Phase::Aborting | Phase::Aborted { .. } => false,
        }
    }

    /// Whether a record may enter now. One that must be alone closes what is there for it.
    pub fn admits(&mut self, company: Company, now: Instant) -> bool {
        if self.phase != Phase::Open || self.pause.is_some_and(|(until, _)| now < until) {
            return false;
        }
        if company == Company::None && self.since.is_some() {
            self.close(now);
            return false;
        }
        true
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
        if matches!(self.phase, Phase::Open | Phase::Closing { .. }) {
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
            Phase::Closing { since, .. } => {
                let others_move = self.delivered > 0 || self.alone.is_some();
                if others_move && now.duration_since(since) >= DELIVERY_MAX { Move::GiveUp } else { Move::None }
            }
            Phase::Failing { since } => {
                if in_flight.is_none() || now.duration_since(since) >= REPORTS_MAX {
                    Move::Abort
                } else {
                    Move::None
                }
            }
            // Each report has to be seen before its record is sent again, or it would be taken for the second one's.
            Phase::Aborted { cause } if in_flight.records == 0 => Move::Rewind { cause },
            Phase::Looking | Phase::Opening | Phase::Committing | Phase::Aborting | Phase::Aborted { .. } => Move::None,
        }
    }

    /// [`Move::Look`] is under way.
    pub fn looking(&mut self) {
        self.phase = Phase::Looking;
    }

    /// The partition ends with this stamp. Tells whether somebody else has been at work since we last knew.
    #[must_use]
    pub fn looked(&mut self, last: Option<Stamp>) -> bool {
        let ours = self.seen == Seen::Unread
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
    pub fn aborted(&mut self, cause: Option<ErrorCode>) {
        self.phase = Phase::Aborted { cause };
    }

    /// [`Move::Rewind`] is done; `blame` says whether somebody is held for it, so that the next try is another one.
    pub fn rewound(&mut self, blame: Blame, now: Instant) {
        if blame == Blame::Nobody {
            let delay = self.pause.map_or(PAUSE_MIN, |(_, delay)| (delay * 2).min(PAUSE_MAX));
            self.pause = Some((now + delay, delay));
        }
        self.begin(Stamp { number: self.stamp.number + 1, ..self.stamp });
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
        self.records = 0;
        self.delivered = 0;
        self.topics.clear();
        self.alone = None;
        self.failure = None;
        self.tally = Tally::default();
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

/// What was committed.
#[derive(Clone, Debug)]
pub struct Done {
    /// What it adds to the metrics.
    pub tally: Tally,
    /// When the first thing entered it.
    pub since: Option<Instant>,
    /// Its records.
    pub records: u64,
    /// Its record, where that had to be alone.
    pub alone: Option<Lsn>,
}

/// Whether an abort is somebody's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// A topic is held or a record apart: the next transaction is another one.
    Somebody,
    /// It may fail again as it is.
    Nobody,
}
