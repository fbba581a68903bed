//! Exactly-once: transactions that carry the events and the positions, as a consumer of what is committed sees them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use rustix::process::Signal;

use crate::support::bridge::{Bridge, Delivery, INSTANCE, PATIENCE, Site, argument, group_full, prefix, program, simulate};
use crate::support::consumers::{self, Isolation};
use crate::support::kafka::{self, BRIDGE, Kafka};
use crate::support::{eventually, free_port};

const FULL: &str = "Group.CallbackAfterGroupFull";
pub(crate) const EXIT: &str = "Group.CallbackAfterMemberExit";

pub(crate) const KINDS: [&str; 5] = ["group-disband", "member-exit", "group-full", "unrecognized", "dead-letter"];

/// Times that the bridge is killed.
const ROUNDS: u32 = 50;

pub(crate) fn exactly_once(prefix: &str, settings: &str) -> String {
    format!("{}{settings}", Delivery::ExactlyOnce.settings(prefix))
}

/// A configuration that delivers exactly once, with a topic of positions of its own.
pub(crate) fn site(kafka: &Kafka, prefix: &str, settings: &str) -> Site {
    Site::new(&kafka.bootstrap_servers(), prefix, &exactly_once(prefix, settings))
}

pub(crate) fn make_all_but(kafka: &Kafka, prefix: &str, missing: &str) {
    for kind in KINDS.iter().filter(|kind| **kind != missing) {
        kafka.create_topic(&format!("{prefix}{kind}"), 3, &[]);
    }
    kafka.create_topic(&format!("{prefix}positions"), 8, &[("cleanup.policy", "compact")]);
}

pub(crate) fn exit(group: &str, note: &str) -> String {
    format!(
        r#"{{"CallbackCommand":"{EXIT}","GroupId":"{group}","Type":"Public","ExitType":"Quit","Operator_Account":"{note}","ExitMemberList":[],"EventTime":1}}"#
    )
}

/// The notes of a topic's exits, in the order of their partition.
pub(crate) fn notes(kafka: &Kafka, topic: &str) -> Vec<String> {
    let event = |value: &[u8]| serde_json::from_slice::<serde_json::Value>(value).unwrap();
    kafka.read(topic).iter().map(|record| event(record.value.as_ref().unwrap())["data"]["operator"].as_str().unwrap().to_owned()).collect()
}

pub(crate) fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

fn aborted(bridge: &Bridge, reason: &str) -> f64 {
    bridge.metric(&format!("chat_bridge_transactions_aborted_total{{reason=\"{reason}\"}}"))
}

pub(crate) fn published(bridge: &Bridge, topic: &str) -> f64 {
    bridge.metric(&format!("chat_bridge_events_published_total{{topic=\"{topic}\"}}"))
}

#[test]
fn events_and_positions_are_committed_together_and_a_restart_goes_on_from_them() {
    let kafka = kafka::shared();
    let prefix = prefix("once");
    let site = site(&kafka, &prefix, "");
    site.make_topics();
    let bridge = site.start();
    for number in 0..50 {
        bridge.accept(FULL, &group_full("g", number));
    }
    bridge.settled(PATIENCE);
    bridge.kill();
    let bridge = site.start();
    for number in 50..60 {
        bridge.accept(FULL, &group_full("g", number));
    }
    bridge.settled(PATIENCE);
    assert_eq!(kafka.read(&format!("{prefix}group-full")).len(), 60);
    assert!(bridge.metric("chat_bridge_transactions_committed_total") >= 2.0);
    assert_eq!(bridge.metric("chat_bridge_transactions_aborted_total"), 0.0);
    bridge.stop();
    let bridge = site.start();
    bridge.settled(PATIENCE);
    assert_eq!(bridge.recovered(), 0.0);
    bridge.stop();
    assert_eq!(kafka.read(&format!("{prefix}group-full")).len(), 60);
}

/// A load that outlives the bridges that it is sent to.
fn load(port: u16, log: &Path) -> Child {
    let target = format!("http://127.0.0.1:{port}/");
    program()
        .args(["simulate", "load", "--target", &target, "--connections", "16", "--rate", "2000", "--duration", "1h", "--groups", "64"])
        .args(["--seed", "7", "--continue-on-error", "--log", argument(log)])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn after_fifty_kills_under_load_a_consumer_of_what_is_committed_counts_each_event_once() {
    let kafka = kafka::shared();
    let prefix = prefix("fifty");
    let port = free_port();
    let site = site(&kafka, &prefix, "");
    site.make_topics();
    site.change("http.listen = \"127.0.0.1:0\"", &format!("http.listen = \"127.0.0.1:{port}\""));
    let mut bridge = site.start();
    let log = site.file("load.log");
    let mut load = load(port, &log);
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..ROUNDS {
        // Somewhere in a transaction: before its first record, among its records, in its commit.
        eventually("events are committed", PATIENCE, || (bridge.metric("chat_bridge_events_published_total") >= 1.0).then_some(()));
        let enough = bridge.accepted() + f64::from(random.u32(0..400));
        eventually("the round's callbacks are accepted", PATIENCE, || (bridge.accepted() >= enough).then_some(()));
        bridge.kill();
        bridge = site.start();
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&load), Signal::INT).unwrap();
    let ended = eventually("the load ends", PATIENCE, || load.try_wait().unwrap());
    assert!(ended.code().is_some(), "{ended}");
    bridge.settled(PATIENCE);
    bridge.stop();

    let servers = kafka.bootstrap_servers();
    let (status, report) = simulate(&[
        "verify",
        "--log",
        argument(&log),
        "--bootstrap-servers",
        &servers,
        "--prefix",
        &prefix,
        "--format",
        "json",
        "--timeout",
        "30s",
        "--exactly-once",
    ]);
    assert!(status.success(), "{status}: {report}");
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let found = report["acknowledged_found"].as_u64().unwrap() + report["unknown_found"].as_u64().unwrap();
    let topics = KINDS.map(|kind| format!("{prefix}{kind}"));
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let committed = consumers::count(&servers, Isolation::ReadCommitted, &topics, PATIENCE);
    assert_eq!((committed.records, committed.ids, committed.repeated.len()), (found, found, 0), "{committed:?}");
    // The kills did hit transactions: whoever reads those too sees events twice.
    let all = consumers::count(&servers, Isolation::ReadUncommitted, &topics, PATIENCE);
    assert!(all.records > committed.records, "{all:?}");
}

#[test]
fn a_bridge_whose_name_another_has_taken_ends_with_69_and_the_other_begins_at_its_own_beginning() {
    let kafka = kafka::shared();
    let prefix = prefix("zombie");
    let old = site(&kafka, &prefix, "");
    old.make_topics();
    let mut zombie = old.start();
    for number in 0..20 {
        zombie.accept(FULL, &group_full("old", number));
    }
    zombie.settled(PATIENCE);

    // Another folder under the same name: its journal has never been heard of, so that nothing of it is taken for published.
    let new = site(&kafka, &prefix, "");
    let bridge = new.start();
    for number in 0..5 {
        bridge.accept(FULL, &group_full("new", number));
    }
    bridge.settled(PATIENCE);
    let keys = |name: &str| kafka.keys(&format!("{prefix}group-full")).iter().filter(|key| *key == name).count();
    assert_eq!((keys("old"), keys("new")), (20, 5));

    zombie.accept(FULL, &group_full("late", 1));
    let log = zombie.ended_with(69, PATIENCE);
    assert!(log.contains("another bridge works under that name"), "{log}");
    bridge.accept(FULL, &group_full("new", 5));
    bridge.settled(PATIENCE);
    assert_eq!((keys("old"), keys("new"), keys("late")), (20, 6, 0));
    bridge.stop();

    // Its folder is no worse for it: what it could not publish is published once it has its name to itself.
    let bridge = old.start();
    bridge.settled(PATIENCE);
    assert_eq!((keys("old"), keys("new"), keys("late")), (20, 6, 1));
    bridge.stop();
}

/// A bridge that is stopped within a transaction until the brokers have ended it, and that goes on after what happens `meanwhile`: each event is there once.
fn goes_on_after_its_transaction_was_ended(kafka: &Kafka, prefix: &str, meanwhile: impl FnOnce(&Site)) {
    let site = site(kafka, prefix, "kafka.transaction_timeout = \"5s\"\nkafka.commit_interval = \"1s\"\n");
    site.change("topics.partitions = 6", "topics.partitions = 1");
    site.make_topics();
    let bridge = site.start();
    bridge.accept(FULL, &group_full("g", 0));
    bridge.settled(PATIENCE);
    let topic = format!("{prefix}group-full");
    let stable_end = || kafka.end(&topic, 0, "read_committed");
    let before = stable_end();
    bridge.accept(FULL, &group_full("g", 1));
    // The commit is most of a second away.
    eventually("the record is in an open transaction", PATIENCE, || (kafka.end(&topic, 0, "read_uncommitted") > before).then_some(()));
    bridge.signal(Signal::STOP);
    assert_eq!(stable_end(), before, "it was not committed in time for this test");
    eventually("the brokers have ended the transaction", PATIENCE, || (stable_end() > before).then_some(()));
    meanwhile(&site);
    bridge.signal(Signal::CONT);
    bridge.accept(FULL, &group_full("g", 2));
    bridge.settled(PATIENCE);
    assert_eq!(kafka.read(&topic).len(), 3);
    assert!(bridge.metric("chat_bridge_kafka_producer_rebuilds_total") >= 1.0);
    bridge.stop();
}

#[test]
fn a_transaction_that_the_brokers_have_ended_is_repeated_and_nobody_takes_it_for_another_bridge() {
    goes_on_after_its_transaction_was_ended(&kafka::shared(), &prefix("paused"), |_| {});
}

#[test]
fn a_topic_of_positions_that_was_made_anew_is_no_other_bridge_either() {
    let (kafka, prefix) = (kafka::shared(), prefix("anew"));
    goes_on_after_its_transaction_was_ended(&kafka, &prefix, |site| {
        kafka.delete_topic(&format!("{prefix}positions"));
        site.make_topics();
    });
}

#[test]
fn a_missing_topic_holds_nobody_up_and_resumes_in_order() {
    let kafka = kafka::shared();
    let prefix = prefix("oncemissing");
    make_all_but(&kafka, &prefix, "member-exit");
    let site = site(&kafka, &prefix, "");
    let bridge = site.start();
    let (topic, other) = (format!("{prefix}member-exit"), format!("{prefix}group-full"));
    for number in 0..50 {
        bridge.accept(EXIT, &exit("one", &number.to_string()));
        bridge.accept(FULL, &group_full("other", number));
    }
    eventually("the others flow", PATIENCE, || (published(&bridge, &other) == 50.0).then_some(()));
    eventually("the topic is parked", PATIENCE, || {
        (bridge.metric(&format!("chat_bridge_topic_parked{{topic=\"{topic}\"}}")) == 1.0).then_some(())
    });
    assert_eq!(bridge.unpublished(), 50.0);
    // What waits is in the positions: a crash repeats nothing of the others.
    bridge.kill();
    let bridge = site.start();
    for number in 50..60 {
        bridge.accept(EXIT, &exit("one", &number.to_string()));
        bridge.accept(FULL, &group_full("other", number));
    }
    eventually("the others flow", PATIENCE, || (published(&bridge, &other) == 10.0).then_some(()));
    kafka.create_topic(&topic, 3, &[]);
    bridge.settled(PATIENCE);
    assert_eq!(notes(&kafka, &topic), numbers(0..60));
    assert_eq!(kafka.read(&other).len(), 60);
    bridge.stop();
}

/// A site whose bridge has the rights that it needs, and the password in a file.
pub(crate) fn site_with_rights(kafka: &Kafka, prefix: &str) -> Site {
    for kind in KINDS.into_iter().chain(["positions"]) {
        for right in ["Describe", "Write"] {
            kafka.grant(BRIDGE, &format!("{prefix}{kind}"), right);
        }
    }
    // What the bridge reads back, and the name that its transactions bear: nothing else, no group and no right of the cluster.
    kafka.grant(BRIDGE, &format!("{prefix}positions"), "Read");
    kafka.grant_transactions(BRIDGE, &format!("{prefix}positions-{INSTANCE}"));
    let properties: Vec<String> = kafka.sasl_properties(BRIDGE).into_iter().map(|(key, value)| format!("{key:?} = {value:?}")).collect();
    let site = Site::new(&kafka.sasl_servers(), prefix, "");
    let password = site.file("password");
    fs::write(&password, BRIDGE.password).unwrap();
    let secrets = format!("[kafka.properties]\n{}\n[kafka.secret_files]\n\"sasl.password\" = {password:?}\n", properties.join("\n"));
    site.configure(&kafka.sasl_servers(), prefix, &exactly_once(prefix, &secrets));
    site
}

#[test]
fn a_topic_whose_rights_are_withdrawn_is_found_among_the_others_of_its_transaction_and_tried_alone() {
    let kafka = kafka::shared();
    let prefix = prefix("oncerights");
    make_all_but(&kafka, &prefix, "");
    let site = site_with_rights(&kafka, &prefix);
    let bridge = site.start();
    let (topic, other) = (format!("{prefix}member-exit"), format!("{prefix}group-full"));
    let mut next = 0;
    let mut send = |bridge: &Bridge| {
        for _ in 0..10 {
            bridge.accept(EXIT, &exit("one", &next.to_string()));
            bridge.accept(FULL, &group_full("other", next));
            next += 1;
        }
    };
    send(&bridge);
    bridge.settled(PATIENCE);
    kafka.revoke(BRIDGE, &topic);
    kafka.grant(BRIDGE, &topic, "Describe");
    eventually("the right is gone", PATIENCE, || {
        bridge.accept(EXIT, &exit("two", "late"));
        (bridge.metric(&format!("chat_bridge_topic_parked{{topic=\"{topic}\"}}")) == 1.0).then_some(())
    });
    send(&bridge);
    eventually("the others flow", PATIENCE, || (published(&bridge, &other) == 20.0).then_some(()));
    assert!(aborted(&bridge, "parked") >= 1.0);
    kafka.grant(BRIDGE, &topic, "Write");
    bridge.settled(PATIENCE);
    let all = notes(&kafka, &topic);
    let ordered: Vec<String> = all.iter().filter(|note| *note != "late").cloned().collect();
    assert_eq!(ordered, numbers(0..20));
    let ids: BTreeSet<Vec<u8>> = kafka.read(&other).into_iter().map(|record| record.value.unwrap()).collect();
    assert_eq!((ids.len(), kafka.read(&other).len()), (20, 20));
    bridge.stop();
}

#[test]
fn what_is_too_large_becomes_a_dead_letter_and_nothing_around_it_is_repeated() {
    let kafka = kafka::shared();
    let prefix = prefix("oncelarge");
    for (kind, max) in [
        ("group-disband", "1000000"),
        ("member-exit", "20000"),
        ("group-full", "1000000"),
        ("unrecognized", "1000000"),
        ("dead-letter", "60000"),
    ] {
        kafka.create_topic(&format!("{prefix}{kind}"), 1, &[("max.message.bytes", max), ("compression.type", "producer")]);
    }
    kafka.create_topic(&format!("{prefix}positions"), 8, &[("cleanup.policy", "compact")]);
    let site = site(&kafka, &prefix, "[kafka.properties]\n\"compression.codec\" = \"none\"\n");
    let bridge = site.start();
    let noise = |length: usize| -> String { (0..length).map(|_| fastrand::alphanumeric()).collect() };
    let (large, huge) = (exit("g", &noise(40_000)), exit("g", &noise(100_000)));
    // One alone.
    bridge.accept(EXIT, &large);
    bridge.settled(PATIENCE);
    let dead = |kafka: &Kafka| kafka.read(&format!("{prefix}dead-letter"));
    assert_eq!(dead(&kafka).len(), 1);
    // And two among small ones, of this topic and of another.
    for number in 0..30 {
        bridge.accept(EXIT, &exit("g", &number.to_string()));
        bridge.accept(FULL, &group_full("other", number));
        match number {
            10 => bridge.accept(EXIT, &large),
            20 => bridge.accept(EXIT, &huge),
            _ => {}
        }
    }
    bridge.settled(PATIENCE);
    assert_eq!(notes(&kafka, &format!("{prefix}member-exit")), numbers(0..30));
    assert_eq!(kafka.read(&format!("{prefix}group-full")).len(), 30);
    let letters = dead(&kafka);
    assert_eq!(letters.len(), 3);
    assert_eq!(letters.iter().filter(|letter| letter.value.as_deref() == Some(large.as_bytes())).count(), 2);
    assert_eq!(letters.iter().filter(|letter| letter.value.as_deref() == Some(b"")).count(), 1);
    assert_eq!(bridge.metric("chat_bridge_dead_letters_total{reason=\"too_large\"}"), 3.0);
    assert!(aborted(&bridge, "too_large") >= 3.0);
    bridge.stop();
    // The dead letters went with their positions.
    let bridge = site.start();
    bridge.settled(PATIENCE);
    bridge.stop();
    assert_eq!(dead(&kafka).len(), 3);
}

#[test]
fn an_older_copy_of_a_journal_loses_nothing_that_it_is_given() {
    let kafka = kafka::shared();
    let prefix = prefix("restored");
    let site = site(&kafka, &prefix, "");
    site.make_topics();
    let publish = |range: std::ops::Range<u32>| {
        let bridge = site.start();
        for number in range {
            bridge.accept(EXIT, &exit("g", &number.to_string()));
        }
        bridge.settled(PATIENCE);
        bridge.stop()
    };
    publish(0..10);
    let copy = site.file("copy");
    copy_folder(&site.journal(), &copy);
    publish(10..20);
    let restore = || {
        fs::remove_dir_all(site.journal()).unwrap();
        copy_folder(&copy, &site.journal());
    };

    // Kafka's positions lie beyond its end.
    restore();
    let log = publish(20..25);
    assert!(log.contains("an older copy"), "{log}");
    // They do not, but what lies below them is something else.
    restore();
    site.configure(&format!("127.0.0.1:{}", free_port()), &prefix, &exactly_once(&prefix, "shutdown.drain_max = \"0s\""));
    let bridge = site.start();
    for number in 25..50 {
        bridge.accept(EXIT, &exit("g", &number.to_string()));
    }
    bridge.kill();
    site.configure(&kafka.bootstrap_servers(), &prefix, &exactly_once(&prefix, ""));
    let log = publish(50..51);
    assert!(log.contains("an older copy"), "{log}");
    let found: BTreeSet<String> = notes(&kafka, &format!("{prefix}member-exit")).into_iter().collect();
    assert_eq!(found, numbers(0..51).into_iter().collect());
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn without_a_partition_for_its_positions_a_bridge_keeps_all_and_says_why() {
    let kafka = kafka::shared();
    let prefix = prefix("partition");
    let site = site(&kafka, &prefix, "");
    for kind in KINDS {
        kafka.create_topic(&format!("{prefix}{kind}"), 3, &[]);
    }
    let positions = format!("{prefix}positions");
    let bridge = site.start();
    bridge.accept(FULL, &group_full("g", 1));
    let parked = || bridge.metric(&format!("chat_bridge_topic_parked{{topic=\"{positions}\"}}"));
    eventually("the topic of the positions is parked", PATIENCE, || (parked() == 1.0).then_some(()));
    assert!(bridge.page("/readyz").body.contains(&positions));
    kafka.create_topic(&positions, 7, &[("cleanup.policy", "compact")]);
    eventually("it has too few partitions", PATIENCE, || bridge.log().contains("no partition for this instance").then_some(()));
    assert_eq!(bridge.unpublished(), 1.0);
    kafka.delete_topic(&positions);
    site.make_topics();
    bridge.settled(PATIENCE);
    assert_eq!(parked(), 0.0);
    assert_eq!(kafka.read(&format!("{prefix}group-full")).len(), 1);
    // It is no longer called missing while Kafka is asked for the transactions.
    let log = bridge.log();
    let (usable, read) = (log.find("topic of the positions can be used"), log.find("events are published in transactions"));
    assert!(usable.is_some() && usable < read, "{log}");
    bridge.stop();
}
