//! Each kind of violation is found, and nothing else is: in records made by hand, and in `cluster`, in topics.

mod cluster;

use std::collections::BTreeMap;

use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::clock::Timestamp;
use crate::simulate::command::Command;
use crate::simulate::identity::{Identity, RunMark};
use crate::simulate::load::group_id;
use crate::simulate::log::{Line, Outcome};
use observed::{Copied, EventId, HeadersAgree, Letter};

const RUN: Uuid = Uuid::from_u128(0xF00D << 64);
const RECEIVED: &str = "2026-11-21T20:00:00.000Z";
const RECEIVED_MILLIS: i64 = 1_795_291_200_000;

/// A record as a bridge publishes it.
#[derive(Clone, Debug)]
struct Record {
    topic: &'static str,
    key: Option<String>,
    value: Vec<u8>,
    headers: Vec<(&'static str, String)>,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Structured,
    Binary,
}

fn topic(command: Command) -> &'static str {
    match command {
        Command::GroupDisband => "chat.group-disband",
        Command::MemberExit => "chat.member-exit",
        Command::GroupFull => "chat.group-full",
    }
}

fn id(connection: u32, number: u32) -> String {
    format!("{:032x}", (u128::from(connection) << 64) | u128::from(number) | 1 << 127)
}

fn line(number: u32, outcome: Outcome) -> Line {
    Line {
        connection: 0,
        number,
        command: Command::MemberExit,
        group: 7,
        outcome,
        sent: Timestamp::from_micros(0),
        latency: Duration::from_micros(900),
    }
}

fn event(line: &Line, mode: Mode) -> Record {
    let id = id(line.connection, line.number);
    let group = group_id(line.group);
    let data = json!({"group_id": group, "members": ["a"], "extra":
        {"SimulatorRun": RUN, "SimulatorConnection": line.connection, "SimulatorNumber": line.number}});
    let (value, headers) = match mode {
        Mode::Structured => {
            let event = json!({"specversion": "1.0", "id": id, "type": line.command.event_type(), "subject": group,
                "chatcommand": line.command.word(), "chatreceivedtime": RECEIVED, "data": data});
            let content_type = "application/cloudevents+json".to_owned();
            (event, vec![("content-type", content_type), ("ce_id", id), ("ce_type", line.command.event_type().to_owned())])
        }
        Mode::Binary => {
            let headers = vec![
                ("content-type", "application/json".to_owned()),
                ("ce_id", id),
                ("ce_type", line.command.event_type().to_owned()),
                ("ce_subject", group.clone()),
                ("ce_chatcommand", line.command.word().to_owned()),
                ("ce_chatreceivedtime", RECEIVED.to_owned()),
            ];
            (data, headers)
        }
    };
    Record { topic: topic(line.command), key: Some(group), value: serde_json::to_vec(&value).unwrap(), headers }
}

fn dead_letter(line: &Line) -> Record {
    let group = group_id(line.group);
    let body = json!({"CallbackCommand": line.command.word(), "GroupId": group,
        "SimulatorRun": RUN, "SimulatorConnection": line.connection, "SimulatorNumber": line.number});
    let headers =
        vec![("dl_reason", "too_large".to_owned()), ("dl_received_time", RECEIVED.to_owned()), ("ce_id", id(line.connection, line.number))];
    Record { topic: "chat.dead-letter", key: Some(group), value: serde_json::to_vec(&body).unwrap(), headers }
}

impl Record {
    fn message(&self) -> OwnedMessage {
        let headers =
            self.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        let timestamp = rdkafka::Timestamp::CreateTime(RECEIVED_MILLIS + 25);
        let key = self.key.clone().map(String::into_bytes);
        OwnedMessage::new(Some(self.value.clone()), key, self.topic.to_owned(), timestamp, 0, 0, Some(headers))
    }
}

fn copied(record: &Record) -> Copied {
    match observed::read(&record.message()) {
        Observed::Callback(copied) => *copied,
        other @ (Observed::Foreign | Observed::Unreadable) => panic!("{other:?}"),
    }
}

fn topics() -> Topics {
    Topics::new("chat.", &BTreeMap::new()).unwrap()
}

/// Judges records that stand in this order, each with its partition.
fn judge(lines: &[Line], records: &[(Record, i32)]) -> (checks::Counts, Findings) {
    judge_with(Repetitions::Count, lines, records)
}

fn judge_with(repetitions: Repetitions, lines: &[Line], records: &[(Record, i32)]) -> (checks::Counts, Findings) {
    let topics = topics();
    let mut checks = Checks::new(topics.clone(), repetitions);
    for line in lines {
        checks.sent(line);
    }
    for ((record, partition), offset) in records.iter().zip(0..) {
        let topic = topics.names().iter().position(|name| name == record.topic).unwrap();
        checks.found(&copied(record), Place { topic, partition: *partition, offset });
    }
    checks.finish()
}

fn in_order(lines: &[Line]) -> Vec<(Record, i32)> {
    lines.iter().map(|line| (event(line, Mode::Structured), 0)).collect()
}

fn found(findings: &Findings) -> Vec<(Violation, u64)> {
    findings.iter().map(|(violation, finding)| (violation, finding.count)).collect()
}

fn acknowledged(numbers: std::ops::Range<u32>) -> Vec<Line> {
    numbers.map(|number| line(number, Outcome::Acknowledged)).collect()
}

#[test]
fn what_is_as_it_ought_to_be_holds() {
    let lines = acknowledged(0..5);
    let (counts, findings) = judge(&lines, &in_order(&lines));
    assert!(findings.is_empty(), "{findings:?}");
    assert_eq!((counts.acknowledged, counts.acknowledged_found, counts.records, counts.repetitions), (5, 5, 5, 0));
}

#[test]
fn repetitions_of_one_id_are_counted_and_keep_the_order() {
    let lines = acknowledged(0..5);
    let mut records = in_order(&lines);
    let again: Vec<_> = records[1..4].to_vec();
    records.splice(4..4, again);
    let (counts, findings) = judge(&lines, &records);
    assert!(findings.is_empty(), "{findings:?}");
    assert_eq!((counts.records, counts.repetitions), (8, 3));
    let (counts, findings) = judge_with(Repetitions::Violate, &lines, &records);
    assert_eq!((counts.repetitions, found(&findings)), (3, vec![(Violation::Repeated, 3)]));
}

#[test]
fn an_acknowledged_callback_that_is_not_there_is_missing() {
    let lines = acknowledged(0..5);
    let mut records = in_order(&lines);
    records.remove(2);
    let (_, findings) = judge(&lines, &records);
    assert_eq!(found(&findings), [(Violation::Missing, 1)]);
    let (_, finding) = findings.iter().next().unwrap();
    assert!(finding.examples[0].contains("callback 0/2"), "{finding:?}");
}

#[test]
fn an_event_that_was_never_sent_is_invented() {
    let lines = acknowledged(0..3);
    let mut records = in_order(&lines);
    records.push((event(&line(3, Outcome::Acknowledged), Mode::Structured), 0));
    let mut elsewhere = line(0, Outcome::Acknowledged);
    elsewhere.connection = 9;
    records.push((event(&elsewhere, Mode::Binary), 0));
    let (_, findings) = judge(&lines, &records);
    assert_eq!(found(&findings), [(Violation::Invented, 2)]);
}

#[test]
fn a_refused_callback_must_not_be_there_and_an_unknown_one_may() {
    let lines =
        [line(0, Outcome::Acknowledged), line(1, Outcome::Refused(503)), line(2, Outcome::Unknown(0)), line(3, Outcome::Unknown(0))];
    let (counts, findings) = judge(&lines, &in_order(&lines[..3]));
    assert_eq!(found(&findings), [(Violation::RefusedPublished, 1)]);
    assert_eq!((counts.acknowledged, counts.refused, counts.unknown, counts.unknown_found), (1, 1, 2, 1));
}

#[test]
fn a_repetition_with_another_id_is_found() {
    let lines = acknowledged(0..2);
    let mut records = in_order(&lines);
    let mut again = event(&lines[0], Mode::Binary);
    again.headers[1].1 = id(5, 5);
    records.push((again, 0));
    assert_eq!(found(&judge(&lines, &records).1), [(Violation::SeveralIds, 1)]);
}

#[test]
fn one_id_of_two_callbacks_is_found() {
    let lines = acknowledged(0..3);
    let mut records: Vec<_> = lines.iter().map(|line| (event(line, Mode::Binary), 0)).collect();
    records[2].0.headers[1].1 = id(0, 0);
    assert_eq!(found(&judge(&lines, &records).1), [(Violation::SharedId, 1)]);
}

#[test]
fn two_events_that_changed_places_are_found() {
    let lines = acknowledged(0..4);
    let mut records = in_order(&lines);
    records.swap(1, 2);
    assert_eq!(found(&judge(&lines, &records).1), [(Violation::OutOfOrder, 1)]);
}

#[test]
fn the_order_is_that_of_each_group_and_topic() {
    // Another group, and another command, may overtake.
    let mut lines = acknowledged(0..4);
    lines[1].group = 8;
    lines[2].command = Command::GroupFull;
    let mut records = in_order(&lines);
    records.reverse();
    let (_, findings) = judge(&lines, &records);
    assert_eq!(found(&findings), [(Violation::OutOfOrder, 1)], "only 0 and 3 are of one group and topic");
}

#[test]
fn an_unknown_callback_may_come_late_but_not_let_earlier_ones_come_later() {
    let mut lines = acknowledged(0..3);
    lines[1].outcome = Outcome::Unknown(0);
    let mut records = in_order(&lines);
    records.swap(1, 2);
    assert!(judge(&lines, &records).1.is_empty(), "1 was never answered, so that 2 may stand before it");
    let mut records = in_order(&lines);
    records.swap(0, 1);
    assert_eq!(found(&judge(&lines, &records).1), [(Violation::OutOfOrder, 1)], "0 was answered before 1 was sent");
}

#[test]
fn a_wrong_key_is_found() {
    let lines = acknowledged(0..3);
    let mut records = in_order(&lines);
    records[0].0.key = None;
    records[1].0.key = Some("@TGS#other".to_owned());
    assert_eq!(found(&judge(&lines, &records).1), [(Violation::WrongKey, 2)]);
}

#[test]
fn a_group_in_two_partitions_is_found() {
    let lines = acknowledged(0..3);
    let mut records = in_order(&lines);
    records[2].1 = 4;
    assert_eq!(found(&judge(&lines, &records).1), [(Violation::SplitGroup, 1)]);
}

#[test]
fn a_wrong_topic_is_found() {
    let lines = acknowledged(0..4);
    let mut records = in_order(&lines);
    records[0].0.topic = "chat.group-full";
    records[1].0.topic = "chat.unrecognized";
    records[2].0 = dead_letter(&lines[2]);
    records[2].0.topic = "chat.member-exit";
    records[3].0.topic = "chat.dead-letter";
    assert_eq!(found(&judge(&lines, &records).1), [(Violation::WrongTopic, 4)]);
}

#[test]
fn a_dead_letter_is_counted_as_there() {
    let lines = acknowledged(0..2);
    let records = [(event(&lines[0], Mode::Structured), 0), (dead_letter(&lines[1]), 3)];
    let (counts, findings) = judge(&lines, &records);
    assert!(findings.is_empty(), "{findings:?}");
    assert_eq!((counts.acknowledged_found, counts.dead_letters), (2, 1));
}

#[test]
fn content_that_is_not_what_was_sent_is_found() {
    let sent = line(0, Outcome::Acknowledged);
    let mut other_group = sent;
    other_group.group = 8;
    let mut other_command = sent;
    other_command.command = Command::GroupFull;
    let mut groups = event(&other_group, Mode::Structured);
    groups.key = Some(group_id(7));
    let mut commands = event(&other_command, Mode::Structured);
    commands.topic = "chat.member-exit";
    let mut headers = event(&sent, Mode::Structured);
    headers.headers[1].1 = id(3, 3);
    let mut no_headers = event(&sent, Mode::Structured);
    no_headers.headers.truncate(1);
    // The group shows in the data and in the subject.
    for (record, times) in [(groups, 2), (commands, 1), (headers, 1), (no_headers, 1)] {
        assert_eq!(found(&judge(&[sent], &[(record.clone(), 0)]).1), [(Violation::WrongContent, times)], "{record:?}");
    }
}

#[test]
fn a_load_without_an_acknowledged_callback_proves_nothing() {
    let lines = [line(0, Outcome::Refused(403))];
    assert_eq!(found(&judge(&lines, &[]).1), [(Violation::NothingAcknowledged, 1)]);
}

#[test]
fn a_record_is_read_in_either_mode_and_as_a_dead_letter() {
    let sent = line(3, Outcome::Acknowledged);
    for (record, letter) in [
        (event(&sent, Mode::Structured), None),
        (event(&sent, Mode::Binary), None),
        (dead_letter(&sent), Some(Letter::Dead { reason: "too_large".to_owned() })),
    ] {
        let event = Letter::Event {
            event_type: "tencent.chat.member-exit.v1".to_owned(),
            command: Some(sent.command.word().to_owned()),
            subject: Some(group_id(7)),
            headers: HeadersAgree::Yes,
        };
        let expected = Copied {
            identity: Identity { run: RunMark::of(RUN), connection: 0, number: 3 },
            id: EventId::of(&id(0, 3)),
            key: Some(group_id(7).into_bytes()),
            group_id: Some(group_id(7)),
            letter: letter.unwrap_or(event),
            delay_millis: Some(25),
        };
        assert_eq!(copied(&record), expected);
    }
}

#[test]
fn an_unrecognized_event_bears_the_body_as_it_was() {
    let mut record = event(&line(3, Outcome::Acknowledged), Mode::Binary);
    record.value =
        br#"{"GroupId":"g","SimulatorRun":"00000000-0000-f00d-0000-000000000000","SimulatorConnection":4,"SimulatorNumber":5}"#.to_vec();
    let copied = copied(&record);
    assert_eq!(copied.identity, Identity { run: RunMark::of(RUN), connection: 4, number: 5 });
    assert_eq!(copied.group_id.as_deref(), Some("g"));
}

#[test]
fn a_dead_letter_whose_body_lies_elsewhere_is_known_by_its_headers() {
    let lines = acknowledged(0..2);
    let identity = Identity { run: RunMark::of(RUN), connection: 0, number: 1 };
    let mut letter = dead_letter(&lines[1]);
    letter.value.clear();
    assert_eq!(observed::read(&letter.message()), Observed::Unreadable);
    letter.headers.push(("dl_file", "x-1".to_owned()));
    assert_eq!(observed::read(&letter.message()), Observed::Foreign);
    letter.headers.push(("dl_query", format!("SdkAppid=1&RequestId={}", identity.request_id())));
    assert_eq!(copied(&letter).identity, identity);
    let mut records = in_order(&lines[..1]);
    records.push((letter, 0));
    let (counts, findings) = judge(&lines, &records);
    assert!(findings.is_empty(), "{findings:?}");
    assert_eq!((counts.acknowledged_found, counts.dead_letters), (2, 1));
    records[1].0.key = Some(group_id(8));
    assert_eq!(found(&judge(&lines, &records).1), [(Violation::WrongKey, 1), (Violation::WrongContent, 1)]);
}

#[test]
fn what_is_no_simulators_is_foreign_and_what_is_no_event_unreadable() {
    let sent = line(3, Outcome::Acknowledged);
    let mut foreign = event(&sent, Mode::Structured);
    foreign.value = serde_json::to_vec(&json!({"id": "x", "type": "t", "data": {"group_id": "g", "extra": null}})).unwrap();
    assert_eq!(observed::read(&foreign.message()), Observed::Foreign);
    let mut unreadable = event(&sent, Mode::Binary);
    unreadable.value.clear();
    assert_eq!(observed::read(&unreadable.message()), Observed::Unreadable);
    let mut headless = event(&sent, Mode::Binary);
    headless.headers.clear();
    assert_eq!(observed::read(&headless.message()), Observed::Unreadable);
}

#[test]
fn ids_are_told_apart_whatever_their_form() {
    let texts = ["5f0c00000000000000000000000000aa", "5f0c00000000000000000000000000ab", "5F0C00000000000000000000000000AA", "", "x", "y"];
    for (index, text) in texts.iter().enumerate() {
        for other in &texts[..index] {
            assert_ne!(EventId::of(text), EventId::of(other), "{text} {other}");
        }
        assert_eq!(EventId::of(text), EventId::of(text));
    }
}
