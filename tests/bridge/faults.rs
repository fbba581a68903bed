//! What Kafka can do to the bridge: topics that are missing, not allowed or too small, brokers that stand still or die, credentials that are wrong.
//! Callbacks are answered all the time, and all of them arrive.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use crate::support::bridge::{APP, Bridge, Client, PATIENCE, Site, group_full, prefix};
use crate::support::kafka::{self, BRIDGE, Kafka, Record};
use crate::support::{eventually, free_port};

const FULL: &str = "Group.CallbackAfterGroupFull";
const EXIT: &str = "Group.CallbackAfterMemberExit";
const OTHER: &str = "Group.CallbackAfterSendMsg";

const KINDS: [&str; 5] = ["group-disband", "member-exit", "group-full", "unrecognized", "dead-letter"];

fn exit(group: &str, note: &str) -> String {
    format!(
        r#"{{"CallbackCommand":"{EXIT}","GroupId":"{group}","Type":"Public","ExitType":"Quit","Operator_Account":"{note}","ExitMemberList":[],"EventTime":1}}"#
    )
}

/// A callback of one group on a connection that is kept; its number stands where the operator does.
fn numbered_exit(number: u64) -> String {
    let body = exit("one", &number.to_string());
    format!("POST /?SdkAppid={APP}&CallbackCommand={EXIT} HTTP/1.1\r\nHost: b\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn make_all_but(kafka: &Kafka, prefix: &str, missing: &str) {
    for kind in KINDS.iter().filter(|kind| **kind != missing) {
        kafka.create_topic(&format!("{prefix}{kind}"), 3, &[]);
    }
}

fn header<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    record.headers.iter().find(|(known, _)| known == name).map(|(_, value)| std::str::from_utf8(value).unwrap())
}

fn operators(records: &[Record]) -> Vec<String> {
    let event = |record: &Record| serde_json::from_slice::<serde_json::Value>(record.value.as_ref().unwrap()).unwrap();
    records.iter().map(|record| event(record)["data"]["operator"].as_str().unwrap().to_owned()).collect()
}

fn parked(bridge: &Bridge, topic: &str) -> bool {
    bridge.metric(&format!("chat_bridge_topic_parked{{topic=\"{topic}\"}}")) == 1.0
}

fn is_parked(bridge: &Bridge, topic: &str) {
    eventually(&format!("{topic} is parked"), PATIENCE, || parked(bridge, topic).then_some(()));
    let ready = bridge.page("/readyz");
    assert_eq!(ready.status, 200, "a parked topic only informs: {}", ready.body);
    assert!(ready.body.contains(topic), "{}", ready.body);
}

#[test]
fn a_missing_topic_is_parked_while_others_flow_and_resumes_by_itself_in_order() {
    let kafka = kafka::shared();
    let prefix = prefix("missing");
    make_all_but(&kafka, &prefix, "member-exit");
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, "");
    let bridge = site.start();
    let topic = format!("{prefix}member-exit");
    // More than is read of a backlog in one go.
    let mut client = Client::connect(bridge.public);
    let backlog: String = (0..1000).map(numbered_exit).collect();
    client.send(backlog);
    assert_eq!(client.statuses(1000), BTreeMap::from([(200, 1000)]));
    for number in 0..50 {
        bridge.accept(FULL, &group_full("other", number));
    }
    is_parked(&bridge, &topic);
    eventually("the others flow", PATIENCE, || {
        (bridge.metric(&format!("chat_bridge_events_published_total{{topic=\"{prefix}group-full\"}}")) == 50.0).then_some(())
    });
    assert_eq!(bridge.metric("chat_bridge_journal_unpublished_records"), 1000.0);

    kafka.create_topic(&topic, 3, &[]);
    // What comes while it resumes stays behind what has waited.
    let published = format!("chat_bridge_events_published_total{{topic=\"{topic}\"}}");
    let mut next = 1000..;
    eventually("it resumes", PATIENCE, || {
        client.send((&mut next).take(20).map(numbered_exit).collect::<String>());
        assert_eq!(client.statuses(20), BTreeMap::from([(200, 20)]));
        (bridge.metric(&published) >= 1000.0).then_some(())
    });
    bridge.settled(PATIENCE);
    assert!(!parked(&bridge, &topic));
    let expected: Vec<String> = (0..next.start).map(|number| number.to_string()).collect();
    assert_eq!(operators(&kafka.read(&topic)), expected);
    let log = bridge.stop();
    let warnings = log.lines().filter(|line| line.contains("topic parked") && line.contains(&topic)).count();
    assert_eq!(warnings, 1, "one warning a change of state: {log}");
    assert!(log.contains("chat-bridge topics apply"), "the warning says what helps: {log}");
}

#[test]
fn a_parked_topic_can_be_renamed_over_a_restart_and_nothing_is_repeated() {
    let kafka = kafka::shared();
    let prefix = prefix("renamed");
    make_all_but(&kafka, &prefix, "member-exit");
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, "");
    let bridge = site.start();
    for number in 0..20 {
        bridge.accept(EXIT, &exit("one", &number.to_string()));
        bridge.accept(FULL, &group_full("other", number));
        bridge.accept(OTHER, &format!(r#"{{"GroupId":"g","EventTime":{number}}}"#));
    }
    is_parked(&bridge, &format!("{prefix}member-exit"));
    eventually("the others flow", PATIENCE, || (bridge.metric("chat_bridge_journal_unpublished_records") == 20.0).then_some(()));
    bridge.stop();

    let new = format!("{prefix}exits");
    kafka.create_topic(&new, 3, &[]);
    site.configure(&kafka.bootstrap_servers(), &prefix, &format!("[topics.names]\n\"{EXIT}\" = \"{new}\"\n"));
    let bridge = site.start();
    assert_eq!(bridge.metric("chat_bridge_journal_recovered_records_total"), 20.0);
    bridge.settled(PATIENCE);
    let expected: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(operators(&kafka.read(&new)), expected);
    assert_eq!(kafka.read(&format!("{prefix}group-full")).len(), 20, "what a topic has is not sent again");
    assert_eq!(kafka.read(&format!("{prefix}unrecognized")).len(), 20);
    bridge.stop();
}

#[test]
fn a_parked_topic_s_command_can_be_discarded() {
    let kafka = kafka::shared();
    let prefix = prefix("discarded");
    make_all_but(&kafka, &prefix, "member-exit");
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, "");
    let bridge = site.start();
    for number in 0..5 {
        bridge.accept(EXIT, &exit("one", &number.to_string()));
    }
    is_parked(&bridge, &format!("{prefix}member-exit"));
    bridge.stop();
    site.configure(&kafka.bootstrap_servers(), &prefix, &format!("topics.discard = [\"{EXIT}\"]\n"));
    let bridge = site.start();
    bridge.settled(PATIENCE);
    assert_eq!(bridge.metric("chat_bridge_records_completed_total{outcome=\"discarded\"}"), 5.0);
    assert!(!bridge.page("/readyz").body.contains("member-exit"), "nobody misses the topic any more");
    bridge.stop();
}

#[test]
fn missing_topics_are_made_where_the_configuration_says_so() {
    let kafka = kafka::shared();
    let prefix = prefix("create");
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, "topics.create = true");
    let bridge = site.start();
    bridge.accept(FULL, &group_full("g", 1));
    bridge.settled(PATIENCE);
    assert_eq!(kafka.read(&format!("{prefix}group-full")).len(), 1);
    bridge.stop();
}

#[test]
fn a_topic_without_rights_is_parked_and_resumes_once_they_are_granted() {
    let kafka = kafka::shared();
    let prefix = prefix("rights");
    make_all_but(&kafka, &prefix, "");
    for kind in KINDS {
        kafka.grant(BRIDGE, &format!("{prefix}{kind}"), "Describe");
        if kind != "member-exit" {
            kafka.grant(BRIDGE, &format!("{prefix}{kind}"), "Write");
        }
    }
    let password = tempfile::NamedTempFile::new().unwrap();
    fs::write(password.path(), BRIDGE.password).unwrap();
    let site = secured(&kafka, &prefix, password.path());
    let bridge = site.start();
    let topic = format!("{prefix}member-exit");
    for number in 0..10 {
        bridge.accept(EXIT, &exit("one", &number.to_string()));
        bridge.accept(FULL, &group_full("other", number));
    }
    is_parked(&bridge, &topic);
    eventually("the others flow", PATIENCE, || (bridge.metric("chat_bridge_journal_unpublished_records") == 10.0).then_some(()));
    kafka.grant(BRIDGE, &topic, "Write");
    bridge.settled(PATIENCE);
    let expected: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    assert_eq!(operators(&kafka.read(&topic)), expected);
    // And away again, while it runs.
    kafka.revoke(BRIDGE, &topic);
    let mut next = 10..;
    let mut send = || bridge.accept(EXIT, &exit("one", &next.next().unwrap().to_string()));
    eventually("the right is gone", PATIENCE, || {
        send();
        parked(&bridge, &topic).then_some(())
    });
    for number in 0..20 {
        send();
        bridge.accept(FULL, &group_full("other", number));
    }
    let others = format!("chat_bridge_events_published_total{{topic=\"{prefix}group-full\"}}");
    eventually("the others flow", PATIENCE, || (bridge.metric(&others) == 30.0).then_some(()));
    kafka.grant(BRIDGE, &topic, "Describe");
    kafka.grant(BRIDGE, &topic, "Write");
    bridge.settled(PATIENCE);
    let expected: Vec<String> = (0..next.start).map(|number| number.to_string()).collect();
    assert_eq!(operators(&kafka.read(&topic)), expected, "what waited is there, once and in order");
    bridge.stop();
}

fn secured(kafka: &Kafka, prefix: &str, password: &std::path::Path) -> Site {
    let properties: Vec<String> = kafka.sasl_properties(BRIDGE).into_iter().map(|(key, value)| format!("{key:?} = {value:?}")).collect();
    let settings = format!("[kafka.properties]\n{}\n[kafka.secret_files]\n\"sasl.password\" = {password:?}\n", properties.join("\n"));
    Site::new(&kafka.sasl_servers(), prefix, &settings)
}

#[test]
fn a_wrong_password_is_told_and_the_right_one_is_taken_without_a_restart() {
    let kafka = kafka::shared();
    let prefix = prefix("password");
    make_all_but(&kafka, &prefix, "");
    for kind in KINDS {
        kafka.grant(BRIDGE, &format!("{prefix}{kind}"), "Write");
        kafka.grant(BRIDGE, &format!("{prefix}{kind}"), "Describe");
    }
    let password = tempfile::NamedTempFile::new().unwrap();
    fs::write(password.path(), "not-the-sesame").unwrap();
    let site = secured(&kafka, &prefix, password.path());
    let bridge = site.start();
    for number in 0..10 {
        bridge.accept(FULL, &group_full("g", number));
    }
    eventually("the refusal shows", PATIENCE, || (bridge.metric("chat_bridge_kafka_authentication_failed") == 1.0).then_some(()));
    let ready = bridge.page("/readyz");
    assert_eq!(ready.status, 200, "{}", ready.body);
    assert!(!ready.body.contains("sesame"), "{}", ready.body);
    fs::write(password.path(), BRIDGE.password).unwrap();
    bridge.settled(PATIENCE);
    assert_eq!(kafka.read(&format!("{prefix}group-full")).len(), 10);
    eventually("the refusal is over", PATIENCE, || (bridge.metric("chat_bridge_kafka_authentication_failed") == 0.0).then_some(()));
    let log = bridge.stop();
    assert!(!log.contains("sesame"), "no secret is logged: {log}");
    assert_eq!(log.lines().filter(|line| line.contains("authentication failed")).count(), 1, "{log}");
}

#[test]
fn a_certificate_that_is_none_any_more_is_told_and_the_right_one_is_taken_without_a_restart() {
    let kafka = kafka::shared();
    let prefix = prefix("certificate");
    make_all_but(&kafka, &prefix, "");
    for kind in KINDS {
        kafka.grant(BRIDGE, &format!("{prefix}{kind}"), "Write");
        kafka.grant(BRIDGE, &format!("{prefix}{kind}"), "Describe");
    }
    let secrets = tempfile::tempdir().unwrap();
    let (password, authority) = (secrets.path().join("password"), secrets.path().join("ca.pem"));
    fs::write(&password, BRIDGE.password).unwrap();
    fs::copy(kafka.ca(), &authority).unwrap();
    let site = secured(&kafka, &prefix, &password);
    site.change(&format!("\"ssl.ca.location\" = {:?}", kafka.ca()), &format!("\"ssl.ca.location\" = {authority:?}"));
    let bridge = site.start();
    bridge.accept(FULL, &group_full("g", 0));
    bridge.settled(PATIENCE);
    let producer = || bridge.page("/readyz").body.lines().find(|line| line.contains("kafka producer")).map(str::to_owned);
    assert_eq!(producer(), None);

    fs::write(&authority, "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n").unwrap();
    let told = eventually("no producer can be built", PATIENCE, producer);
    assert!(told.starts_with("note    kafka producer: cannot be built: ") && told.contains("ssl.ca.location"), "{told}");
    assert_eq!(bridge.page("/readyz").status, 200, "callbacks are kept meanwhile");
    bridge.accept(FULL, &group_full("g", 1));
    fs::copy(kafka.ca(), &authority).unwrap();
    bridge.settled(PATIENCE);
    assert_eq!(producer(), None);
    assert_eq!(kafka.read(&format!("{prefix}group-full")).len(), 2);
    let log = bridge.stop();
    assert_eq!(log.lines().filter(|line| line.contains("producer cannot be built")).count(), 1, "{log}");
}

#[test]
fn what_is_too_large_becomes_a_dead_letter_and_what_is_too_large_for_that_lies_in_a_file() {
    let kafka = kafka::shared();
    let prefix = prefix("large");
    for (kind, max) in [
        ("group-disband", "1000000"),
        ("member-exit", "20000"),
        ("group-full", "1000000"),
        ("unrecognized", "1000000"),
        ("dead-letter", "60000"),
    ] {
        kafka.create_topic(&format!("{prefix}{kind}"), 1, &[("max.message.bytes", max), ("compression.type", "producer")]);
    }
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, "[kafka.properties]\n\"compression.codec\" = \"none\"\n");
    let bridge = site.start();
    let noise = |length: usize| -> String { (0..length).map(|_| fastrand::alphanumeric()).collect() };
    let large = exit("g", &noise(40_000));
    let huge = exit("g", &noise(100_000));
    for number in 0..30 {
        bridge.accept(EXIT, &exit("g", &number.to_string()));
        if number == 10 {
            bridge.accept(EXIT, &large);
        }
        if number == 20 {
            bridge.accept(EXIT, &huge);
        }
    }
    bridge.settled(PATIENCE);
    let expected: Vec<String> = (0..30).map(|number| number.to_string()).collect();
    assert_eq!(operators(&kafka.read(&format!("{prefix}member-exit"))), expected, "the small ones arrive, in order, once");
    let letters = kafka.read(&format!("{prefix}dead-letter"));
    assert_eq!(letters.len(), 2);
    assert!(letters.iter().all(|letter| header(letter, "dl_reason") == Some("too_large") && letter.key.as_deref() == Some(b"g")));
    assert!(letters.iter().any(|letter| letter.value.as_deref() == Some(large.as_bytes())));
    let away = letters.iter().find(|letter| letter.value.as_deref() == Some(b"")).unwrap();
    assert_eq!(header(away, "dl_instance"), Some("7"));
    let file = site.journal().join("oversized").join(header(away, "dl_file").unwrap());
    let in_journal = fs::read_dir(site.journal()).unwrap().map(|entry| entry.unwrap().path());
    for path in [site.journal(), file.clone()].into_iter().chain(in_journal) {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o027, 0, "{}: {mode:o}", path.display());
    }
    assert_eq!(fs::read(file).unwrap(), huge.as_bytes());
    assert_eq!(bridge.metric("chat_bridge_dead_letters_total{reason=\"too_large\"}"), 2.0);
    bridge.stop();
}

#[test]
fn kafka_standing_still_or_dying_holds_nothing_up_but_the_events() {
    let mut kafka = kafka::exclusive();
    let prefix = prefix("broker");
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, "");
    site.make_topics();
    let bridge = site.start();
    let mut next = 0;
    let mut send = |bridge: &Bridge, count: u64| {
        for _ in 0..count {
            bridge.accept(EXIT, &exit("one", &next.to_string()));
            next += 1;
        }
    };
    send(&bridge, 20);
    kafka.stop();
    send(&bridge, 20);
    kafka.cont();
    send(&bridge, 20);
    kafka.kill();
    send(&bridge, 20);
    eventually("the loss shows", PATIENCE, || {
        bridge.page("/readyz").body.lines().any(|line| line.contains("kafka brokers") && line.contains("none")).then_some(())
    });
    assert_eq!(bridge.page("/readyz").status, 200, "Kafka being down does not make the bridge unready");
    kafka.restart();
    send(&bridge, 20);
    bridge.settled(PATIENCE);
    let expected: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    assert_eq!(operators(&kafka.read(&format!("{prefix}member-exit"))), expected);
    let log = bridge.stop();
    let warnings = log.lines().filter(|line| line.contains("\"WARN\"")).count();
    assert!(warnings <= 12, "one warning a change of state: {log}");
}

#[test]
fn the_bridge_starts_without_kafka_and_publishes_once_it_is_there() {
    let kafka = kafka::shared();
    let prefix = prefix("without");
    let site = Site::new(&format!("127.0.0.1:{}", free_port()), &prefix, "shutdown.drain_max = \"1s\"");
    let bridge = site.start();
    for number in 0..10 {
        bridge.accept(FULL, &group_full("g", number));
    }
    let log = bridge.stop();
    assert!(log.contains("stays in the journal"), "{log}");
    site.configure(&kafka.bootstrap_servers(), &prefix, "");
    site.make_topics();
    let bridge = site.start();
    assert_eq!(bridge.metric("chat_bridge_journal_recovered_records_total"), 10.0);
    bridge.settled(PATIENCE);
    assert_eq!(kafka.read(&format!("{prefix}group-full")).len(), 10);
    bridge.stop();
    // A start after that finds nothing to do, and repeats nothing.
    let bridge = site.start();
    assert_eq!(bridge.metric("chat_bridge_journal_recovered_records_total"), 0.0);
    bridge.settled(Duration::from_secs(10));
    bridge.stop();
    assert_eq!(kafka.read(&format!("{prefix}group-full")).len(), 10);
}
