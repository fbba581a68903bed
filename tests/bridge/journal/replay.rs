//! What `journal replay` publishes, and leaves out, where Kafka stands, refuses, or serves a bridge that delivers exactly once.

use std::fs;

use serde_json::{Value, json};

use super::{FULL, OTHER, Run, is_told_to_be_published, journal, unpublished};
use crate::exactly_once::{EXIT, KINDS, exactly_once, exit};
use crate::support::bridge::{PATIENCE, Site, group_full, prefix};
use crate::support::kafka::{self, BRIDGE, BROKERS, Kafka};

/// A stopped bridge's journal of published callbacks: the first is an exit, and so is each `exits`th one after it.
fn published(kafka: &Kafka, prefix: &str, callbacks: usize, exits: usize) -> Site {
    let site = Site::new(&kafka.bootstrap_servers(), prefix, "");
    site.make_topics();
    let bridge = site.start();
    for number in 0..callbacks {
        if number % exits == 0 {
            bridge.accept(EXIT, &exit("g", &number.to_string()));
        } else {
            bridge.accept(FULL, &group_full("g", u64::try_from(number).unwrap()));
        }
    }
    bridge.settled(PATIENCE);
    is_told_to_be_published(&site, u64::try_from(callbacks).unwrap() + 1);
    bridge.stop();
    site
}

fn records(kafka: &Kafka, topic: &str) -> usize {
    kafka.read(topic).len()
}

fn replay(site: &Site, arguments: &[&str]) -> Run {
    journal(site, &[&["replay", "--yes", "--format", "json"], arguments].concat())
}

#[test]
fn beside_a_bridge_that_delivers_exactly_once_a_replay_takes_no_part_in_its_transactions() {
    let kafka = kafka::shared();
    let prefix = prefix("replay-once");
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, &exactly_once(&prefix, ""));
    site.make_topics();
    let bridge = site.start();
    for number in 0..20 {
        bridge.accept(FULL, &group_full("g", number));
    }
    bridge.settled(PATIENCE);
    is_told_to_be_published(&site, 21);
    let replayed = replay(&site, &["--timeout", "20s"]).good().json();
    assert_eq!((&replayed["sent"]["republished"], &replayed["sent"]["unknown"]), (&json!(20), &json!(0)), "{replayed}");
    let topic = format!("{prefix}group-full");
    assert_eq!(kafka.read(&topic).len(), 40);
    // Its name is still its own.
    bridge.accept(FULL, &group_full("g", 20));
    bridge.settled(PATIENCE);
    assert_eq!(kafka.read(&topic).len(), 41);
    assert_eq!(bridge.metric("chat_bridge_kafka_producer_rebuilds_total"), 0.0);
    bridge.stop();
}

#[test]
fn where_a_topic_stands_a_replay_ends_tells_what_is_published_and_goes_on_from_there() {
    let mut kafka = kafka::exclusive();
    let site = published(&kafka, &prefix("stands"), 600, 2);
    let prefix = prefix("stands-again");
    site.configure(&kafka.bootstrap_servers(), &prefix, "");
    let (full, exits) = (format!("{prefix}group-full"), format!("{prefix}member-exit"));
    let [stands, goes, ..] = BROKERS;
    kafka.create_topic_at(goes, &full, 1);
    kafka.create_topic_at(stands, &exits, 1);
    kafka.stop_brokers(&[stands]);
    let stopped = replay(&site, &["--timeout", "3s"]);
    let sent = &stopped.json()["sent"];
    assert_eq!((stopped.code, &sent["republished"], &sent["unknown"]), (69, &json!(300), &json!(300)), "{stopped:?}");
    assert_eq!((&sent["resume_from_lsn"], &sent["refused"]), (&json!(1), &json!([])), "{stopped:?}");
    assert!(stopped.stderr.contains("Kafka confirms nothing; go on with --from-lsn 1"), "{stopped:?}");
    kafka.heal();
    assert_eq!(records(&kafka, &full), 300);
    // What the broker finds in its sockets, it may still take.
    let twice = records(&kafka, &exits);

    let resumed = replay(&site, &["--from-lsn", "1"]).good().json();
    assert_eq!((&resumed["sent"]["republished"], &resumed["sent"]["unknown"]), (&json!(600), &json!(0)), "{resumed}");
    assert_eq!((records(&kafka, &full), records(&kafka, &exits)), (600, 300 + twice));
}

#[test]
fn a_replay_that_may_not_write_to_a_topic_counts_all_that_it_has_published() {
    let kafka = kafka::shared();
    let site = published(&kafka, &prefix("rights"), 600, 600);
    let prefix = prefix("rights-again");
    for kind in KINDS {
        kafka.create_topic(&format!("{prefix}{kind}"), 1, &[]);
        kafka.grant(BRIDGE, &format!("{prefix}{kind}"), "Describe");
    }
    let (full, exits) = (format!("{prefix}group-full"), format!("{prefix}member-exit"));
    kafka.grant(BRIDGE, &full, "Write");
    let password = site.file("password");
    fs::write(&password, BRIDGE.password).unwrap();
    let properties: Vec<String> = kafka.sasl_properties(BRIDGE).into_iter().map(|(key, value)| format!("{key:?} = {value:?}")).collect();
    let secrets = format!("[kafka.properties]\n{}\n[kafka.secret_files]\n\"sasl.password\" = {password:?}\n", properties.join("\n"));
    site.configure(&kafka.sasl_servers(), &prefix, &secrets);
    let stopped = replay(&site, &[]);
    let sent = &stopped.json()["sent"];
    assert_eq!((stopped.code, &sent["resume_from_lsn"]), (69, &json!(1)), "{stopped:?}");
    assert!(stopped.stderr.contains(&format!("topic {exits} may not be written to; go on with --from-lsn 1")), "{stopped:?}");
    // What was on its way when the topic refused.
    assert_eq!((&sent["republished"], &sent["unknown"]), (&json!(records(&kafka, &full)), &json!(0)), "{stopped:?}");
    assert_ne!(sent["republished"], json!(0), "{stopped:?}");

    kafka.grant(BRIDGE, &exits, "Write");
    let resumed = replay(&site, &["--from-lsn", "1"]).good().json();
    assert_eq!(resumed["sent"]["republished"], json!(600), "{resumed}");
    assert_eq!(records(&kafka, &exits), 1);
}

#[test]
fn what_is_not_published_yet_is_not_replayed_and_what_is_too_large_is_told() {
    let site = unpublished(&prefix("not-yet"));
    let run = journal(&site, &["replay", "--yes", "--format", "json"]).good();
    let plan = run.json();
    assert_eq!((&plan["plan"]["topics"], &plan["plan"]["left_out"]["unpublished"]), (&json!({}), &json!(50)), "{plan}");
    assert_eq!(plan["sent"], Value::Null);

    let kafka = kafka::shared();
    let prefix = prefix("too-large");
    let (site, bridge) = super::published(&kafka, &prefix);
    // No compression makes it smaller.
    let digits: String = (0..4000).map(|_| char::from_digit(fastrand::u32(..16), 16).unwrap()).collect();
    bridge.accept(OTHER, &format!(r#"{{"CallbackCommand":"{OTHER}","GroupId":"two","Text":"{digits}"}}"#));
    is_told_to_be_published(&site, 8);
    let small = format!("{prefix}small");
    kafka.create_topic(&small, 1, &[("max.message.bytes", "2000")]);
    let run = journal(&site, &["replay", "--topic", &small, "--yes", "--format", "json"]);
    let sent = &run.json()["sent"];
    assert_eq!((run.code, &sent["republished"], &sent["stopped"]), (69, &json!(5), &Value::Null), "{run:?}");
    let [refused] = sent["refused"].as_array().unwrap().as_slice() else { panic!("{run:?}") };
    assert_eq!((&refused["lsn"], &refused["topic"]), (&json!(7), &json!(small)), "{run:?}");
    assert_eq!(kafka.read(&small).len(), 5);
    bridge.stop();
}
