//! The positions as they stand in Kafka: what a bridge that delivers exactly once writes with its events, and reads before it sends any. Pure.
//!
//! One partition an instance, compacted. Keys are `INSTANCE/JOURNAL/STREAM`, and `*` for all streams that have no record of their own, as in a checkpoint: so a
//! new journal under an old instance finds nothing and begins at its own beginning, and the old one is still known if its folder comes back.
//!
//! ```text
//! 7/5f0c…/*            {"position":1204,"completed_beyond":9,"mark":{"lsn":1203,"received_us":1795310298123456},"producer":"0b5c…","transaction":17}
//! 7/5f0c…/member-exit  {"position":1190}
//! ```
//!
//! `producer` and `transaction` tell whose commit it was, and the mark tells a journal from an older copy of itself that went another way. Where one was taken for
//! that, `repeated_below` is there too, until all below it is published once more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::journal::{Lsn, Positions};
use crate::kafka::Entry;

use super::transaction::Stamp;

/// Stands for all streams that have no record of their own.
const ALL: &str = "*";

/// A record that lies below the position, by which its journal is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Where it stands.
    pub lsn: Lsn,
    /// When its callback was received.
    pub received: Timestamp,
}

/// What one journal has in Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// How far its streams are.
    pub positions: Positions,
    /// A record below them.
    pub mark: Option<Mark>,
    /// Where some of their streams lack records that an earlier run may have published without them: those lie below this.
    pub repeated_below: Option<Lsn>,
}

/// What the partition holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Of this journal.
    pub own: Option<Stored>,
    /// The last commit of all.
    pub last: Option<Stamp>,
    /// The streams of this journal that have a record.
    pub listed: BTreeMap<String, Lsn>,
}

/// What stands there was written by another version, or by somebody else.
#[derive(Debug, thiserror::Error)]
#[error("read the value of {key}")]
pub struct Unreadable {
    key: String,
    #[source]
    source: serde_json::Error,
}

#[derive(Serialize, Deserialize)]
struct All {
    position: u64,
    completed_beyond: u64,
    mark: Option<MarkForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repeated_below: Option<u64>,
    producer: Uuid,
    transaction: u64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct MarkForm {
    lsn: u64,
    received_us: i64,
}

#[derive(Serialize, Deserialize)]
struct One {
    position: u64,
}

/// Whose positions they are.
#[derive(Clone, Debug)]
pub struct Owner {
    /// The number of the instance.
    pub instance: u16,
    /// The journal's identity.
    pub journal: Uuid,
}

impl Owner {
    fn key(&self, stream: &str) -> Vec<u8> {
        format!("{}/{}/{stream}", self.instance, self.journal).into_bytes()
    }

    /// Makes out what the partition holds; the entries come in their order.
    pub fn read(&self, entries: &[Entry]) -> Result<Found, Unreadable> {
        let mut found = Found::default();
        let mut all = None;
        for entry in entries {
            let key = String::from_utf8_lossy(&entry.key).into_owned();
            let Some((owner, stream)) = split(&key) else { continue };
            let own = owner == format!("{}/{}", self.instance, self.journal);
            let Some(value) = entry.value.as_deref() else {
                if own {
                    found.listed.remove(stream);
                }
                continue;
            };
            if stream == ALL {
                let value: All = serde_json::from_slice(value).map_err(|source| Unreadable { key: key.clone(), source })?;
                found.last = Some(Stamp { producer: value.producer, number: value.transaction });
                if own {
                    all = Some(value);
                }
            } else if own {
                let value: One = serde_json::from_slice(value).map_err(|source| Unreadable { key: key.clone(), source })?;
                found.listed.insert(stream.to_owned(), Lsn::new(value.position));
            }
        }
        found.own = all.map(|all| {
            let scanned = Lsn::new(all.position);
            let positions = Positions {
                scanned,
                behind: found.listed.iter().map(|(stream, lsn)| (stream.clone(), *lsn)).collect(),
                completed_beyond: all.completed_beyond,
                sent_bound: scanned,
            };
            let mark = all.mark.map(|mark| Mark { lsn: Lsn::new(mark.lsn), received: Timestamp::from_micros(mark.received_us) });
            Stored { positions, mark, repeated_below: all.repeated_below.map(Lsn::new) }
        });
        Ok(found)
    }

    /// The records that turn what is `listed` into `stored`: keys, and values or their absence.
    #[must_use]
    pub fn records(&self, stored: &Stored, stamp: Stamp, listed: &BTreeMap<String, Lsn>) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let Positions { scanned, behind, completed_beyond, .. } = &stored.positions;
        let all = All {
            position: scanned.get(),
            completed_beyond: *completed_beyond,
            mark: stored.mark.map(|mark| MarkForm { lsn: mark.lsn.get(), received_us: mark.received.micros() }),
            repeated_below: stored.repeated_below.map(Lsn::get),
            producer: stamp.producer,
            transaction: stamp.number,
        };
        let mut records = Vec::new();
        for (stream, lsn) in behind {
            if listed.get(stream) != Some(lsn) {
                records.push((self.key(stream), Some(json(&One { position: lsn.get() }))));
            }
        }
        for stream in listed.keys().filter(|stream| !behind.iter().any(|(known, _)| known == *stream)) {
            records.push((self.key(stream), None));
        }
        records.push((self.key(ALL), Some(json(&all))));
        records
    }
}

/// Owner and stream of a key; a stream's name may hold slashes, what is before it holds one.
fn split(key: &str) -> Option<(&str, &str)> {
    let (at, _) = key.match_indices('/').nth(1)?;
    Some((key.get(..at)?, key.get(at + 1..)?))
}

/// Numbers and their names can always be written.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// The streams that are listed once `stored` is there.
#[must_use]
pub fn listed(stored: &Stored) -> BTreeMap<String, Lsn> {
    stored.positions.behind.iter().cloned().collect()
}

/// Records that were completed below the positions: of two states of one journal, the later one has more.
#[must_use]
pub fn completed(positions: &Positions) -> u64 {
    positions.lowest().get().saturating_add(positions.completed_beyond)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner { instance: 7, journal: Uuid::from_u128(1) };
    const STAMP: Stamp = Stamp { producer: Uuid::from_u128(5), number: 3 };

    fn stored(scanned: u64, behind: &[(&str, u64)]) -> Stored {
        let positions = Positions {
            scanned: Lsn::new(scanned),
            behind: behind.iter().map(|(stream, lsn)| ((*stream).to_owned(), Lsn::new(*lsn))).collect(),
            completed_beyond: 2,
            sent_bound: Lsn::new(scanned),
        };
        Stored { positions, mark: Some(Mark { lsn: Lsn::new(scanned - 1), received: Timestamp::from_micros(77) }), repeated_below: None }
    }

    /// What a partition holds after these commits.
    fn partition(commits: &[(Owner, Stored, Stamp)]) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (owner, stored, stamp) in commits {
            let listed = owner.read(&entries).unwrap().listed;
            entries.extend(owner.records(stored, *stamp, &listed).into_iter().map(|(key, value)| Entry { key, value }));
        }
        entries
    }

    #[test]
    fn what_was_written_last_is_read_back() {
        let commits = [
            (OWNER, stored(10, &[("member-exit", 4), ("command:A/B", 6)]), Stamp { number: 1, ..STAMP }),
            (OWNER, stored(20, &[("member-exit", 4), ("command:A/B", 15)]), Stamp { number: 2, ..STAMP }),
            (OWNER, stored(30, &[("command:A/B", 15), ("dead-letter", 29)]), STAMP),
        ];
        let entries = partition(&commits);
        let found = OWNER.read(&entries).unwrap();
        assert_eq!(found.last, Some(STAMP));
        assert_eq!(found.own, Some(stored(30, &[("command:A/B", 15), ("dead-letter", 29)])));
        assert_eq!(found.listed, listed(&commits[2].1));
        // What has not changed is not written again, what is caught up is taken away.
        assert_eq!(entries.len(), 3 + 2 + 3);
        assert_eq!(entries.iter().filter(|entry| entry.value.is_none()).count(), 1);
    }

    #[test]
    fn what_may_be_repeated_is_told_until_it_is_over_and_is_no_part_of_the_form_then() {
        let begun = Stored { repeated_below: Some(Lsn::new(25)), ..stored(10, &[]) };
        let mut entries = partition(&[(OWNER, begun.clone(), STAMP)]);
        assert_eq!(OWNER.read(&entries).unwrap().own, Some(begun));
        entries.extend(partition(&[(OWNER, stored(30, &[]), STAMP)]));
        assert_eq!(OWNER.read(&entries).unwrap().own, Some(stored(30, &[])));
        assert!(!String::from_utf8_lossy(entries.last().unwrap().value.as_ref().unwrap()).contains("repeated"));
    }

    #[test]
    fn compaction_changes_nothing() {
        let entries = partition(&[
            (OWNER, stored(10, &[("member-exit", 4)]), Stamp { number: 1, ..STAMP }),
            (OWNER, stored(20, &[("group-full", 7)]), Stamp { number: 2, ..STAMP }),
            (OWNER, stored(30, &[("group-full", 8)]), STAMP),
        ]);
        let latest = |(at, entry): &(usize, &Entry)| !entries.iter().skip(at + 1).any(|later| later.key == entry.key);
        let compacted: Vec<Entry> = entries.iter().enumerate().filter(latest).map(|(_, entry)| entry.clone()).collect();
        assert!(compacted.len() < entries.len());
        assert_eq!(OWNER.read(&compacted).unwrap(), OWNER.read(&entries).unwrap());
        let without_tombstones: Vec<Entry> = compacted.into_iter().filter(|entry| entry.value.is_some()).collect();
        assert_eq!(OWNER.read(&without_tombstones).unwrap(), OWNER.read(&entries).unwrap());
    }

    #[test]
    fn another_journal_under_the_same_instance_has_positions_of_its_own() {
        let other = Owner { journal: Uuid::from_u128(2), ..OWNER };
        let entries = partition(&[(OWNER, stored(10, &[]), STAMP), (other.clone(), stored(5, &[]), Stamp { number: 9, ..STAMP })]);
        let third = Owner { journal: Uuid::from_u128(3), ..OWNER };
        assert_eq!(third.read(&entries).unwrap().own, None);
        let found = OWNER.read(&entries).unwrap();
        assert_eq!((found.own, found.last.map(|last| last.number)), (Some(stored(10, &[])), Some(9)), "the last commit is anybody's");
        assert_eq!(other.read(&entries).unwrap().own, Some(stored(5, &[])));
    }

    #[test]
    fn what_another_version_has_written_is_told_and_never_passed_over() {
        let mut entries = partition(&[(OWNER, stored(10, &[]), STAMP)]);
        entries.push(Entry { key: b"no such key".to_vec(), value: Some(b"x".to_vec()) });
        assert!(OWNER.read(&entries).is_ok(), "what is not of this make at all is nobody's");
        entries.push(Entry { key: OWNER.key("member-exit"), value: Some(br#"{"at":5}"#.to_vec()) });
        let error = OWNER.read(&entries).unwrap_err().to_string();
        assert!(error.contains("member-exit"), "{error}");
    }
}
