//! What must hold between a load's log and the topics. Pure: callbacks of the log go in, then records of the topics, then the findings come out.
//!
//! A callback takes 24 bytes, a group 24, so that five million callbacks stay far below a gigabyte; the ids are compared once all is read, by sorting.

use super::observed::{Copied, EventId, HeadersAgree, Letter};
use super::report::{Findings, Violation};
use crate::simulate::command::Command;
use crate::simulate::load::group_id;
use crate::simulate::log::{Line, Outcome};
use crate::simulate::topics::Topics;

/// Where a record stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Its topic's place among the [`Topics`].
    pub(super) topic: usize,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

/// What became of a callback, without the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Acknowledged,
    Refused,
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    id: EventId,
    group: u32,
    command: Command,
    fate: Fate,
    seen: bool,
}

/// The last first occurrence of a group's events in one topic.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    /// The highest number so far, plus one; 0 before the first.
    next: u32,
    partition: i32,
}

/// Whether events may stand in their topics more than once, with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repetitions {
    /// They may: at-least-once.
    Count,
    /// They may not: exactly-once.
    Violate,
}

/// Counts that are no violations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) acknowledged: u64,
    pub(super) refused: u64,
    pub(super) unknown: u64,
    /// Records of the run.
    pub(super) records: u64,
    /// Acknowledged callbacks that were found.
    pub(super) acknowledged_found: u64,
    /// Unknown callbacks that were found.
    pub(super) unknown_found: u64,
    /// Records beyond the first of their callback.
    pub(super) repetitions: u64,
    pub(super) dead_letters: u64,
}

/// What a record was, to its callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occurrence {
    First,
    Repeated,
    /// Of no callback that was sent.
    Invented,
}

/// The checks of one run.
#[derive(Debug)]
pub(super) struct Checks {
    topics: Topics,
    repetitions: Repetitions,
    /// By connection, then by number.
    sent: Vec<Vec<Sent>>,
    /// By group, then by command.
    last: Vec<[Last; Command::ALL.len()]>,
    counts: Counts,
    findings: Findings,
}

impl Checks {
    pub(super) fn new(topics: Topics, repetitions: Repetitions) -> Self {
        Self { topics, repetitions, sent: Vec::new(), last: Vec::new(), counts: Counts::default(), findings: Findings::default() }
    }

    /// Takes a callback of the log; those of a connection come in the order of their numbers.
    pub(super) fn sent(&mut self, line: &Line) {
        let (Ok(connection), Ok(group)) = (usize::try_from(line.connection), usize::try_from(line.group)) else { return };
        if self.sent.len() <= connection {
            self.sent.resize(connection + 1, Vec::new());
        }
        if self.last.len() <= group {
            self.last.resize(group + 1, <[Last; Command::ALL.len()]>::default());
        }
        let fate = match line.outcome {
            Outcome::Acknowledged => {
                self.counts.acknowledged += 1;
                Fate::Acknowledged
            }
            Outcome::Refused(_) => {
                self.counts.refused += 1;
                Fate::Refused
            }
            Outcome::Unknown(_) => {
                self.counts.unknown += 1;
                Fate::Unknown
            }
        };
        if let Some(of_connection) = self.sent.get_mut(connection) {
            of_connection.push(Sent { id: EventId::default(), group: line.group, command: line.command, fate, seen: false });
        }
    }

    /// How many acknowledged callbacks were not found yet.
    pub(super) const fn awaited(&self) -> u64 {
        self.counts.acknowledged - self.counts.acknowledged_found
    }

    pub(super) const fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes a record of this run. Records of one partition come in the order of their offsets.
    pub(super) fn found(&mut self, copied: &Copied, place: Place) -> Occurrence {
        self.counts.records += 1;
        let Checks { topics, repetitions, sent, last, counts, findings } = self;
        let mut witness = Witness { topics, findings, copied, place };
        let of_connection = usize::try_from(copied.identity.connection).ok().and_then(|connection| sent.get_mut(connection));
        let callback = of_connection.zip(usize::try_from(copied.identity.number).ok()).and_then(|(sent, number)| sent.get_mut(number));
        let Some(callback) = callback else {
            witness.finds(Violation::Invented, "never sent");
            return Occurrence::Invented;
        };
        witness.check_content(callback);
        if matches!(copied.letter, Letter::Dead { .. }) {
            counts.dead_letters += 1;
        }
        if callback.seen {
            counts.repetitions += 1;
            if *repetitions == Repetitions::Violate {
                witness.finds(Violation::Repeated, "stands there a second time");
            }
            if callback.id != copied.id {
                witness.finds(Violation::SeveralIds, "bears another id than before");
            }
            return Occurrence::Repeated;
        }
        callback.seen = true;
        callback.id = copied.id;
        match callback.fate {
            Fate::Acknowledged => counts.acknowledged_found += 1,
            Fate::Unknown => counts.unknown_found += 1,
            Fate::Refused => witness.finds(Violation::RefusedPublished, "was refused, and is there"),
        }
        if matches!(copied.letter, Letter::Event { .. })
            && let Some(last) = usize::try_from(callback.group).ok().and_then(|group| last.get_mut(group))
            && let Some(last) = last.get_mut(callback.command.index())
        {
            witness.check_order(*callback, last);
        }
        Occurrence::First
    }

    /// The findings, once all is read.
    pub(super) fn finish(mut self) -> (Counts, Findings) {
        if self.counts.acknowledged == 0 {
            self.findings
                .add(Violation::NothingAcknowledged, || "the load has no acknowledged callback, so that nothing is proved".to_owned());
        }
        let found = self.counts.records - self.counts.repetitions;
        let mut ids = Vec::with_capacity(usize::try_from(found).unwrap_or(0));
        for (connection, of_connection) in self.sent.iter().enumerate() {
            for (number, callback) in of_connection.iter().enumerate() {
                if callback.seen {
                    ids.push((callback.id, (connection, number)));
                } else if callback.fate == Fate::Acknowledged {
                    let (command, group) = (callback.command.word(), group_id(callback.group));
                    self.findings.add(Violation::Missing, || {
                        format!("callback {connection}/{number} ({command}, {group}) was acknowledged, and is not there")
                    });
                }
            }
        }
        ids.sort_unstable_by_key(|(id, _)| *id);
        for pair in ids.windows(2) {
            if let [(first, (a, b)), (second, (c, d))] = pair
                && first == second
            {
                self.findings.add(Violation::SharedId, || format!("callbacks {a}/{b} and {c}/{d} bear the same id"));
            }
        }
        (self.counts, self.findings)
    }
}

/// One record, and where its violations are written down.
struct Witness<'a> {
    topics: &'a Topics,
    findings: &'a mut Findings,
    copied: &'a Copied,
    place: Place,
}

impl Witness<'_> {
    /// What the record says of itself, against what was sent.
    fn check_content(&mut self, callback: &Sent) {
        let expected = group_id(callback.group);
        if self.copied.key.as_deref() != Some(expected.as_bytes()) {
            self.finds(Violation::WrongKey, &format!("its key is not {expected}"));
        }
        if self.copied.group_id.as_deref() != Some(&expected) {
            self.finds(Violation::WrongContent, &format!("its group is not {expected}"));
        }
        match &self.copied.letter {
            Letter::Dead { reason } => {
                if self.place.topic != self.topics.of_dead_letters() {
                    self.finds(Violation::WrongTopic, &format!("a dead letter ({reason}) outside of the dead letters' topic"));
                }
            }
            Letter::Event { event_type, command, subject, headers } => {
                let sent = callback.command;
                if self.topics.of_command(sent) != Some(self.place.topic) {
                    self.finds(Violation::WrongTopic, &format!("not the topic of {}", sent.word()));
                }
                if event_type != sent.event_type() || command.as_deref() != Some(sent.word()) {
                    self.finds(Violation::WrongContent, &format!("its type is {event_type}, and a {} was sent", sent.word()));
                }
                if subject.as_deref() != Some(&expected) {
                    self.finds(Violation::WrongContent, &format!("its subject is not {expected}"));
                }
                if *headers == HeadersAgree::No {
                    self.finds(Violation::WrongContent, "its headers say other than its attributes");
                }
            }
        }
    }

    /// First occurrences of a group's events in a topic stand in one partition, in the order of sending. A callback that got no answer may still have been
    /// in the bridge's hands when the next one was sent, so that nothing is known of its place before later ones.
    fn check_order(&mut self, callback: Sent, last: &mut Last) {
        let number = self.copied.identity.number;
        if last.next > 0 && last.partition != self.place.partition {
            self.finds(Violation::SplitGroup, &format!("events of its group stand in partition {} too", last.partition));
        }
        if number < last.next && callback.fate != Fate::Unknown {
            self.finds(Violation::OutOfOrder, &format!("comes after number {} of its group", last.next - 1));
        }
        last.next = last.next.max(number.saturating_add(1));
        last.partition = self.place.partition;
    }

    fn finds(&mut self, violation: Violation, what: &str) {
        let Self { topics, copied, place, .. } = self;
        self.findings.add(violation, || {
            let topic = topics.names().get(place.topic).map_or("?", String::as_str);
            let identity = copied.identity;
            format!("{topic}/{} at {}: callback {}/{}: {what}", place.partition, place.offset, identity.connection, identity.number)
        });
    }
}
