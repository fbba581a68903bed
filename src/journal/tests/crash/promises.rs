//! What was promised to those around the journal, and whether a journal that was found keeps it.
//!
//! It stands outside of the machine that crashes: the senders' answers and the broker's acknowledgements are known whatever becomes of the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use crate::journal::record::Salt;
use crate::journal::slot::{AppendError, Slot};
use crate::journal::{Lsn, Positions, RecoveryReport, Start};

/// What a sender knows of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// No answer yet, or one that says that nobody knows.
    Open,
    /// Durable.
    Answered,
    /// Never to become durable.
    Refused,
}

#[derive(Clone, Debug)]
struct Sent {
    payload: Arc<[u8]>,
    fate: Fate,
    /// Where it was seen.
    lsn: Option<Lsn>,
}

/// Streams of the model's forwarder.
pub(super) const STREAMS: [&str; 3] = ["a", "b", "c"];

/// The stream of a record.
pub(super) fn stream_of(record: usize) -> usize {
    record % STREAMS.len()
}

/// All promises.
#[derive(Clone, Debug)]
pub(super) struct Promises {
    records: Vec<Sent>,
    waiting: Vec<(usize, Arc<Slot>)>,
    /// From the first record on that was answered or read.
    identity: Option<Uuid>,
    /// Which record anybody has ever seen there.
    seen: BTreeMap<Lsn, usize>,
    /// What the broker has.
    published: BTreeSet<Lsn>,
    /// Every positions that were handed over.
    handed_over: Vec<Positions>,
    /// The last of them that the running journal knows.
    current: Positions,
    /// The last stop was in good order, and nothing has happened since.
    closed: bool,
    /// Salts of segments by number.
    salts: BTreeMap<u64, Salt>,
}

type Check = Result<(), String>;

impl Promises {
    pub(super) fn new() -> Self {
        Self {
            records: Vec::new(),
            waiting: Vec::new(),
            identity: None,
            seen: BTreeMap::new(),
            published: BTreeSet::new(),
            handed_over: vec![Positions::at(Lsn::FIRST)],
            current: Positions::at(Lsn::FIRST),
            closed: false,
            salts: BTreeMap::new(),
        }
    }

    /// The number of the next record.
    pub(super) fn next_record(&self) -> usize {
        self.records.len()
    }

    /// A record was given to the journal, or was refused at once. Its payload begins with its number.
    pub(super) fn sent(&mut self, payload: Arc<[u8]>, slot: Result<Arc<Slot>, AppendError>) {
        let record = self.records.len();
        let fate = if slot.is_ok() { Fate::Open } else { Fate::Refused };
        self.records.push(Sent { payload, fate, lsn: None });
        if let Ok(slot) = slot {
            self.waiting.push((record, slot));
        }
    }

    /// Slots that have no answer yet.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.waiting.iter().map(|(_, slot)| slot)
    }

    /// Takes note of the answers that have come.
    pub(super) fn take_answers(&mut self, identity: Uuid) -> Check {
        let waiting = std::mem::take(&mut self.waiting);
        for (record, slot) in waiting {
            match slot.answer() {
                None => self.waiting.push((record, slot)),
                Some(Ok(lsn)) => {
                    self.records[record].fate = Fate::Answered;
                    self.see(identity, lsn, record)?;
                }
                Some(Err(AppendError::Failed)) => {}
                Some(Err(_)) => self.records[record].fate = Fate::Refused,
            }
        }
        Ok(())
    }

    /// How many records were answered as durable.
    pub(super) fn answered(&self) -> usize {
        self.records.iter().filter(|sent| sent.fate == Fate::Answered).count()
    }

    /// The machine has stopped: nobody is answered any more.
    pub(super) fn stop(&mut self) {
        self.waiting.clear();
    }

    fn see(&mut self, identity: Uuid, lsn: Lsn, record: usize) -> Check {
        let known = *self.identity.get_or_insert(identity);
        if known != identity {
            return Err(format!("LSN {lsn} has another identity than what was seen before"));
        }
        if let Some(other) = self.seen.insert(lsn, record)
            && other != record
        {
            return Err(format!("LSN {lsn} is used twice: for record {other} and for record {record}"));
        }
        match self.records[record].lsn.replace(lsn) {
            Some(other) if other != lsn => Err(format!("record {record} stands at LSN {lsn} and stood at LSN {other}")),
            Some(_) | None => Ok(()),
        }
    }

    /// A reader has yielded a record. Tells which one it is.
    pub(super) fn read(&mut self, identity: Uuid, lsn: Lsn, payload: &[u8]) -> Result<usize, String> {
        let number = payload.first_chunk().map_or(usize::MAX, |number| usize::try_from(u32::from_le_bytes(*number)).unwrap());
        let Some(sent) = self.records.get(number).filter(|sent| *sent.payload == *payload) else {
            return Err(format!("LSN {lsn} holds what was never appended: {} bytes that begin {:?}", payload.len(), payload.get(..4)));
        };
        if sent.fate == Fate::Refused {
            return Err(format!("record {number} was refused, and stands at LSN {lsn}"));
        }
        self.see(identity, lsn, number).map(|()| number)
    }

    /// The broker has acknowledged it.
    pub(super) fn publish(&mut self, lsn: Lsn) {
        self.published.insert(lsn);
    }

    /// The forwarder has handed over positions.
    pub(super) fn hand_over(&mut self, positions: Positions) {
        self.current.clone_from(&positions);
        self.handed_over.push(positions);
    }

    /// The journal was closed in good order.
    pub(super) fn closed(&mut self) {
        self.closed = true;
    }

    /// A start begins. Tells whether the last stop was in good order: only the first start after it can know.
    pub(super) fn begin_start(&mut self) -> bool {
        std::mem::take(&mut self.closed)
    }

    /// Whether the positions that a start has found were reached.
    pub(super) fn check_start(&mut self, closed: bool, positions: &Positions, report: &RecoveryReport) -> Check {
        if report.identity_before.is_some() || self.identity.is_some_and(|known| known != report.identity) {
            return Err(format!("the identity has changed: {report:?}"));
        }
        if !report.set_aside.is_empty() || !report.lost.is_empty() || (report.checkpoint_lost && self.identity.is_some()) {
            return Err(format!("a crash looks like corruption: {report:?}"));
        }
        if !self.handed_over.contains(positions) {
            return Err(format!("nobody has handed over {positions:?}"));
        }
        if closed && (report.start != Start::Clean || *positions != self.current) {
            return Err(format!("it was closed at {:?} and starts {:?} at {positions:?}", self.current, report.start));
        }
        if positions.scanned > report.end || positions.sent_bound > report.end {
            return Err(format!("{positions:?} lies beyond the end, {}", report.end));
        }
        for lsn in (1..positions.scanned.get()).map(Lsn::new) {
            let Some(record) = self.seen.get(&lsn) else {
                return Err(format!("{positions:?} lies beyond LSN {lsn}, which nobody has seen"));
            };
            let stream = STREAMS[stream_of(*record)];
            let reached = positions.behind.iter().find(|(name, _)| name == stream).map_or(positions.scanned, |(_, lsn)| *lsn);
            if lsn < reached && !self.published.contains(&lsn) {
                return Err(format!("{positions:?} runs ahead of LSN {lsn}, which is not published"));
            }
        }
        self.current.clone_from(positions);
        Ok(())
    }

    /// Whether the journal, whose records from `lowest` up to `end` have just been read, has all that was answered.
    pub(super) fn check_end(&self, end: Lsn) -> Check {
        let beyond = |sent: &Sent| sent.fate == Fate::Answered && sent.lsn.is_some_and(|lsn| lsn >= end);
        match self.records.iter().position(beyond) {
            Some(record) => Err(format!("record {record} was answered with {:?}, and the log ends at LSN {end}", self.records[record].lsn)),
            None => Ok(()),
        }
    }

    /// The segments that there are now.
    pub(super) fn note_salts(&mut self, segments: impl Iterator<Item = (u64, Salt)>) {
        self.salts.extend(segments);
    }

    /// Salts of segments below that number. Somebody may have got hold of them.
    pub(super) fn salts_below(&self, number: u64) -> Vec<Salt> {
        self.salts.range(..number).map(|(_, salt)| *salt).collect()
    }

    /// The stream of the record that stands there.
    pub(super) fn stream_at(&self, lsn: Lsn) -> Option<usize> {
        self.seen.get(&lsn).map(|record| stream_of(*record))
    }
}
