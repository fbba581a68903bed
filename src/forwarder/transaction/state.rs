//! What a transaction is told, what it asks for, and where it stands.

use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::journal::Lsn;

use super::super::count::Tally;

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
pub(super) enum Seen {
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
    pub(super) const fn is_none(self) -> bool {
        self.records == 0 && self.messages == 0
    }

    /// Whether there is a record under way, and no position. A report that is on its way to us can only make it true too early.
    pub(super) fn is_of_records_alone(self) -> bool {
        self.records > 0 && usize::try_from(self.messages).is_ok_and(|messages| messages <= self.records)
    }
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Nothing but to wait.
    None,
    /// Make the brokers know of the transaction, by what the partition of the positions has anyhow, before a record that they may refuse enters it: one that they know
    /// nothing of they would not abort.
    Introduce,
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
    Rewind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Without a producer, or one that was asked nothing yet.
    Away,
    Looking,
    Opening,
    /// The brokers hear of it, for the sake of one who must be alone.
    Introducing {
        sent: bool,
    },
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
    Aborted,
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
pub(super) enum Blame {
    /// A topic is held or a record apart: the next transaction is another one.
    Somebody,
    /// It may fail again as it is.
    Nobody,
}
