//! The main path: callbacks in, events out, as consumers of other languages see them.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::bridge::{APP, PATIENCE, Site, group_full, prefix};
use crate::support::consumers::{self, Event, Language};
use crate::support::kafka::{self, Kafka, Record};

const DISBAND: &str = "Group.CallbackAfterGroupDestroyed";
const EXIT: &str = "Group.CallbackAfterMemberExit";
const FULL: &str = "Group.CallbackAfterGroupFull";

const DISBANDED: &str = r#"{"CallbackCommand":"Group.CallbackAfterGroupDestroyed","GroupId":"@TGS#2J4SZEAEL","Type":"Public","Owner_Account":"leckie",
 "Name":"MyFirstGroup","MemberList":[{"Member_Account":"leckie"},{"Member_Account":"peter"}],"EventTime":"1670574414123"}"#;
const EXITED: &str = r#"{"CallbackCommand":"Group.CallbackAfterMemberExit","GroupId":"@TGS#2J4SZEAEL","Type":"Public","ExitType":"Kicked",
 "Operator_Account":"leckie","ExitMemberList":[{"Member_Account":"jared"},{"Member_Account":"tommy"}],"EventTime":1670574414123,"Weight":1e15}"#;

fn header<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    record.headers.iter().find(|(known, _)| known == name).map(|(_, value)| std::str::from_utf8(value).unwrap())
}

/// Posts one callback of each sort, and waits until all are published.
fn publish(kafka: &Kafka, prefix: &str, mode: &str) -> Site {
    let site = Site::new(&kafka.bootstrap_servers(), prefix, &format!("events.mode = \"{mode}\""));
    site.make_topics();
    let bridge = site.start();
    bridge.accept(DISBAND, DISBANDED);
    bridge.accept(EXIT, EXITED);
    bridge.accept(FULL, &group_full("@TGS#FULL", 1_670_574_414_123));
    bridge.accept(
        "Group.CallbackAfterSendMsg",
        r#"{"CallbackCommand":"Group.CallbackAfterSendMsg","GroupId":"g","Random":2804799576,"Huge":1.50e2}"#,
    );
    bridge.settled(PATIENCE);
    bridge.stop();
    site
}

fn topics(prefix: &str) -> [String; 4] {
    ["group-disband", "member-exit", "group-full", "unrecognized"].map(|kind| format!("{prefix}{kind}"))
}

#[test]
fn java_and_python_consumers_read_the_same_events_in_either_mode() {
    let kafka = kafka::shared();
    for mode in ["structured", "binary"] {
        let prefix = prefix(mode);
        publish(&kafka, &prefix, mode);
        let names = topics(&prefix);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for language in [Language::Java, Language::Python] {
            let events = consumers::events(language, &kafka.bootstrap_servers(), &names, 4, PATIENCE);
            assert_eq!(events.len(), 4, "{language:?} {mode}: {events:?}");
            let by_type = |kind: &str| -> &Event {
                events
                    .iter()
                    .find(|event| event.r#type == format!("tencent.chat.{kind}.v1"))
                    .unwrap_or_else(|| panic!("{language:?} {mode} {kind}: {events:?}"))
            };
            let exit = by_type("member-exit");
            assert_eq!(exit.error, None);
            assert_eq!(exit.source, format!("/tencent-chat/apps/{APP}"));
            assert_eq!(exit.key.as_deref(), Some("@TGS#2J4SZEAEL"));
            assert_eq!(exit.subject.as_deref(), Some("@TGS#2J4SZEAEL"));
            assert!(exit.time.as_deref().unwrap().starts_with("2022-12-09T08:26:54.123"), "{exit:?}");
            assert_eq!(exit.extensions.get("chatcommand"), Some(&Value::from(EXIT)));
            assert_eq!(exit.data["exit_type"], "kicked");
            assert_eq!(exit.data["members"], json!(["jared", "tommy"]));
            assert_eq!(by_type("group-disband").data["group_name"], "MyFirstGroup");
            assert_eq!(by_type("group-full").data, json!({"group_id": "@TGS#FULL"}));
            assert_eq!(by_type("unrecognized").data["Random"], json!(2_804_799_576_u64));
            let ids: BTreeSet<&str> = events.iter().map(|event| event.id.as_str()).collect();
            assert!(ids.len() == 4 && ids.iter().all(|id| id.len() == 32), "{ids:?}");
        }
    }
}

#[test]
fn an_event_has_the_key_s_partition_the_headers_and_the_very_bytes_of_what_is_passed_on() {
    let kafka = kafka::shared();
    let prefix = prefix("bytes");
    publish(&kafka, &prefix, "structured");
    let records = kafka.read(&format!("{prefix}member-exit"));
    let [record] = records.as_slice() else { panic!("{records:?}") };
    let value = std::str::from_utf8(record.value.as_ref().unwrap()).unwrap();
    assert!(value.contains(r#""extra":{"Weight":1e15}"#), "{value}");
    let event: Value = serde_json::from_str(value).unwrap();
    assert_eq!(header(record, "content-type"), Some("application/cloudevents+json"));
    assert_eq!(header(record, "ce_id"), event["id"].as_str());
    assert_eq!(header(record, "ce_type"), Some("tencent.chat.member-exit.v1"));
    assert_eq!(record.headers.len(), 3, "{:?}", record.headers);
    let control = format!("{prefix}control");
    kafka.create_topic(&control, 6, &[]);
    assert_eq!(record.partition, kafka.publish_with_java(&control, b"@TGS#2J4SZEAEL"), "the Java client's choice");
    // What is passed on is never printed anew, be it a number that no number type holds.
    let records = kafka.read(&format!("{prefix}unrecognized"));
    assert!(std::str::from_utf8(records[0].value.as_ref().unwrap()).unwrap().contains("\"Huge\":1.50e2"), "{records:?}");
}

#[test]
fn what_is_malformed_is_answered_and_becomes_a_dead_letter_with_its_reason() {
    let kafka = kafka::shared();
    let prefix = prefix("malformed");
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, "");
    site.make_topics();
    let bridge = site.start();
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let cases: [(&str, &[u8], &str); 8] = [
        (FULL, b"not json", "not_json"),
        (FULL, b"\xff\xfe", "not_json"),
        (FULL, b"{\"GroupId\":\"a\x00\"}", "not_json"),
        (FULL, deep.as_bytes(), "not_json"),
        (FULL, br#"{"CallbackCommand":"Group.CallbackAfterGroupFull"}"#, "wrong_shape"),
        (FULL, br#"{"GroupId":"a","GroupId":"b"}"#, "wrong_shape"),
        (FULL, br#"{"GroupId":7}"#, "wrong_shape"),
        (FULL, br#"{"CallbackCommand":"Group.CallbackAfterMemberExit","GroupId":"a"}"#, "command_mismatch"),
    ];
    for (command, body, _) in &cases {
        let answer = bridge.post_query(&format!("SdkAppid={APP}&CallbackCommand={command}&Sign=secret-sign&RequestTime=1"), body);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    bridge.settled(PATIENCE);
    let mut records = kafka.read(&format!("{prefix}dead-letter"));
    assert_eq!(records.len(), cases.len());
    for (command, body, reason) in &cases {
        let at =
            records.iter().position(|record| record.value.as_deref() == Some(*body)).unwrap_or_else(|| panic!("{reason}: {records:?}"));
        let record = records.remove(at);
        assert_eq!(header(&record, "dl_reason"), Some(*reason));
        assert_eq!(header(&record, "dl_command"), Some(*command));
        assert_eq!(header(&record, "dl_topic"), Some(format!("{prefix}group-full").as_str()));
        assert!(
            header(&record, "ce_id").is_some() && header(&record, "dl_received_time").is_some() && header(&record, "dl_detail").is_some()
        );
        let query = header(&record, "dl_query").unwrap();
        assert!(query.contains("RequestTime=1") && !query.contains("secret-sign"), "{query}");
    }
    let metrics = bridge.metrics();
    assert_eq!(metrics["chat_bridge_dead_letters_total{reason=\"not_json\"}"], 4.0);
    assert_eq!(metrics["chat_bridge_dead_letters_total{reason=\"wrong_shape\"}"], 3.0);
    assert_eq!(metrics["chat_bridge_dead_letters_total{reason=\"command_mismatch\"}"], 1.0);
    let log = bridge.stop();
    assert!(!log.contains("secret-sign") && !log.contains("not json"), "{log}");
}

#[test]
fn names_discards_and_answers_are_as_configured() {
    let kafka = kafka::shared();
    let prefix = prefix("configured");
    let settings = format!(
        "topics.discard = [\"Group.CallbackAfterReadReceipt\"]\n\
         [topics.names]\n\"Group.CallbackAfterGroupFull\" = \"{prefix}im.full\"\n\"Custom.Command\" = \"{prefix}custom\"\n\
         [answers]\n\"Group.CallbackBeforeSendMsg\" = {{ error_code = 10100, error_info = \"closed\" }}\n"
    );
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, &settings);
    site.make_topics();
    let bridge = site.start();
    bridge.accept(FULL, &group_full("named", 1));
    bridge.accept("Custom.Command", r#"{"CallbackCommand":"Custom.Command","GroupId":"own"}"#);
    bridge.accept("Group.CallbackAfterReadReceipt", r#"{"GroupId":"gone"}"#);
    bridge.accept("Group.CallbackBeforeApplyJoinGroup", r#"{"GroupId":"allowed"}"#);
    let answer = bridge.post("Group.CallbackBeforeSendMsg", r#"{"GroupId":"refused"}"#);
    let said: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((answer.status, &said), (200, &json!({"ActionStatus": "FAIL", "ErrorInfo": "closed", "ErrorCode": 10100})));
    bridge.settled(PATIENCE);
    let keys = |topic: &str| -> Vec<String> {
        let mut keys: Vec<String> =
            kafka.read(&format!("{prefix}{topic}")).iter().map(|record| String::from_utf8(record.key.clone().unwrap()).unwrap()).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys("im.full"), ["named"]);
    assert_eq!(keys("custom"), ["own"]);
    assert_eq!(keys("unrecognized"), ["allowed", "refused"]);
    assert_eq!(bridge.metric("chat_bridge_callbacks_total{outcome=\"discarded\""), 1.0);
    bridge.stop();
}

#[test]
fn the_same_callback_bears_the_same_id_and_the_trace_goes_along() {
    let kafka = kafka::shared();
    let prefix = prefix("ids");
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, "");
    site.make_topics();
    let bridge = site.start();
    let body = group_full("again", 1_670_574_414_123);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for _ in 0..2 {
        let head = format!(
            "POST /?SdkAppid={APP}&CallbackCommand={FULL} HTTP/1.1\r\nHost: b\r\ntraceparent: {trace}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(crate::support::bridge::exchange(bridge.public, head.as_bytes()).status, 200);
    }
    bridge.settled(PATIENCE);
    let records = kafka.read(&format!("{prefix}group-full"));
    assert_eq!(records.len(), 2);
    assert_eq!(header(&records[0], "ce_id"), header(&records[1], "ce_id"));
    assert_eq!(header(&records[0], "traceparent"), Some(trace));
    bridge.stop();
}

#[test]
fn dev_shows_an_event_without_anything_set_up() {
    let mut command = crate::support::bridge::program();
    command.args(["dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--format", "json"]);
    let dev = crate::support::bridge::Dev::start(command);
    let answer = crate::support::bridge::exchange(
        dev.public,
        format!("POST /?SdkAppid=1&CallbackCommand={FULL} HTTP/1.1\r\nHost: b\r\nContent-Length: 13\r\nConnection: close\r\n\r\n{{\"GroupId\":1}}").as_bytes(),
    );
    assert_eq!(answer.status, 200);
    let dead = dev.next(Duration::from_secs(20));
    assert_eq!((&dead["topic"], &dead["headers"]["dl_reason"]), (&json!("chat.dead-letter"), &json!("wrong_shape")));
    let body = group_full("dev", 1_670_574_414_123);
    let request = format!(
        "POST /?SdkAppid=1&CallbackCommand={FULL} HTTP/1.1\r\nHost: b\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(crate::support::bridge::exchange(dev.public, request.as_bytes()).status, 200);
    let event = dev.next(Duration::from_secs(20));
    assert_eq!((&event["topic"], &event["value"]["data"]["group_id"]), (&json!("chat.group-full"), &json!("dev")));
    assert_eq!(dev.interrupt().code(), Some(0));
}
