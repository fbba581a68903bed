//! What opening found and did, for the operator.

use uuid::Uuid;

use super::lsn::Lsn;

/// What the folder was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Empty: a journal begins.
    New,
    /// Closed in good order.
    Clean,
    /// Left by a crash, or copied while in use.
    Unclean,
}

/// An incomplete last frame, of which nothing was ever answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// Records of it that were whole, and are kept.
    pub kept_records: u64,
    /// Records of it that are cut, as far as one can tell.
    pub cut_records: u64,
    /// Bytes that are cut, as far as one can tell.
    pub cut_bytes: u64,
}

/// What opening found and did; the caller tells the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryReport {
    /// What the folder was.
    pub start: Start,
    /// The journal's identity.
    pub identity: Uuid,
    /// The identity before, where a new one was taken because the log has lost its end.
    pub identity_before: Option<Uuid>,
    /// The first LSN that some stream may lack.
    pub lowest: Lsn,
    /// The LSN of the next record.
    pub end: Lsn,
    /// Records that are not completed, those among them that cannot be read.
    pub unpublished_records: u64,
    /// Segments that hold records.
    pub segments: usize,
    /// The torn tail that was cut.
    pub torn_tail: Option<TornTail>,
    /// Files that were added to `set-aside/`.
    pub set_aside: Vec<String>,
    /// Records that are known to be lost, each range by its first LSN and the first one after it.
    pub lost: Vec<(Lsn, Lsn)>,
    /// No slot of the checkpoint was good, or it was gone: reading begins at the oldest segment, and records may be published once more.
    pub checkpoint_lost: bool,
}
