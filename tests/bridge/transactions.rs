//! Exactly-once where something is wrong around the transactions: a topic that stands, positions that are another journal's, an earlier run that published without them.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::exactly_once::{copy_folder, exit, make_all_but, notes, numbers, published, site, site_with_rights};
use crate::support::bridge::{Bridge, Delivery, INSTANCE, PATIENCE, POSITIONS, Site, group_full, prefix};
use crate::support::kafka::{self, BRIDGE, BROKERS, Kafka};
use crate::support::proxy::Weather;
use crate::support::{eventually, free_port};

const FULL: &str = "Group.CallbackAfterGroupFull";
const EXIT: &str = "Group.CallbackAfterMemberExit";

const STARTED: &str = "positions read";

fn send(bridge: &Bridge, range: std::ops::Range<u32>) {
    for number in range {
        bridge.accept(EXIT, &exit("g", &number.to_string()));
    }
}

fn republished(bridge: &Bridge) -> f64 {
    bridge.metric("chat_bridge_records_republished_total")
}

fn committed(bridge: &Bridge) -> f64 {
    bridge.metric("chat_bridge_transactions_committed_total")
}

fn stalled(bridge: &Bridge) -> f64 {
    bridge.metric("chat_bridge_transactions_aborted_total{reason=\"stalled\"}")
}

/// Repetitions in the topic of the exits, each of which has a note of its own.
fn repetitions(kafka: &Kafka, prefix: &str) -> usize {
    let mut notes = notes(kafka, &format!("{prefix}member-exit"));
    let all = notes.len();
    notes.sort();
    notes.dedup();
    all - notes.len()
}

/// A run without Kafka: what it accepts stays in the journal.
fn keeping(site: &Site, prefix: &str, range: std::ops::Range<u32>) -> Bridge {
    let settings = format!("{}shutdown.drain_max = \"1ms\"\n", Delivery::ExactlyOnce.settings(prefix));
    site.configure(&format!("127.0.0.1:{}", free_port()), prefix, &settings);
    let bridge = site.start();
    send(&bridge, range);
    bridge
}

/// Puts a copy in a journal's place.
fn put_back(site: &Site) {
    std::fs::remove_dir_all(site.journal()).unwrap();
    copy_folder(&site.file("copy"), &site.journal());
}

#[test]
fn an_older_copy_is_one_until_its_own_positions_are_committed() {
    let kafka = kafka::shared();
    let prefix = prefix("claim");
    make_all_but(&kafka, &prefix, "");
    let site = site_with_rights(&kafka, &prefix);
    let run = |range| {
        let bridge = site.start();
        send(&bridge, range);
        bridge.settled(PATIENCE);
        bridge.stop();
    };
    run(0..10);
    copy_folder(&site.journal(), &site.file("copy"));
    run(10..20);
    put_back(&site);

    // The first commit of all is refused, so that the producer dies of it before the copy has positions of its own.
    let positions = format!("{prefix}positions");
    kafka.revoke(BRIDGE, &positions);
    for right in ["Describe", "Read"] {
        kafka.grant(BRIDGE, &positions, right);
    }
    let bridge = site.start();
    send(&bridge, 20..25);
    let starts = || bridge.lines().iter().filter(|line| line.contains(STARTED)).count();
    eventually("the positions are read again", PATIENCE, || (starts() >= 2).then_some(()));
    assert_eq!(committed(&bridge), 0.0);
    kafka.grant(BRIDGE, &positions, "Write");
    bridge.settled(PATIENCE);
    let log = bridge.stop();
    assert!(log.contains("an older copy"), "{log}");
    assert_eq!(notes(&kafka, &format!("{prefix}member-exit")), numbers(0..25));
}

#[test]
fn what_an_older_copy_publishes_once_more_is_counted() {
    let kafka = kafka::shared();
    let prefix = prefix("oncecopy");
    let site = site(&kafka, &prefix, "");
    site.make_topics();
    keeping(&site, &prefix, 0..10).stop();
    copy_folder(&site.journal(), &site.file("copy"));
    let configure = |settings: &str| {
        site.configure(&kafka.bootstrap_servers(), &prefix, &format!("{}{settings}", Delivery::ExactlyOnce.settings(&prefix)));
    };
    configure("");
    let bridge = site.start();
    send(&bridge, 10..15);
    bridge.settled(PATIENCE);
    assert_eq!(republished(&bridge), 0.0, "what was only kept is no repetition");
    bridge.stop();
    assert_eq!(repetitions(&kafka, &prefix), 0);

    put_back(&site);
    // Killed with its positions committed and its records not: those are repetitions for the next run as well.
    configure("kafka.commit_interval = \"7s\"\n");
    let bridge = site.start();
    eventually("the positions are committed", PATIENCE, || (committed(&bridge) >= 1.0).then_some(()));
    assert_eq!(republished(&bridge), 0.0, "what is not committed nobody has seen");
    bridge.kill();
    configure("");
    let bridge = site.start();
    send(&bridge, 15..20);
    bridge.settled(PATIENCE);
    assert_eq!((repetitions(&kafka, &prefix), republished(&bridge)), (10, 10.0), "{}", bridge.log());
    bridge.kill();

    let bridge = site.start();
    send(&bridge, 20..25);
    bridge.settled(PATIENCE);
    assert_eq!((repetitions(&kafka, &prefix), republished(&bridge)), (10, 0.0), "{}", bridge.log());
    bridge.stop();
}

#[test]
fn what_a_run_without_transactions_may_have_published_is_counted() {
    let kafka = kafka::shared();
    let prefix = prefix("oncelater");
    let site = site(&kafka, &prefix, "");
    site.make_topics();
    keeping(&site, &prefix, 0..10).kill();
    // As a run leaves it that is killed before it can write a checkpoint.
    copy_folder(&site.journal(), &site.file("copy"));
    site.configure(&kafka.bootstrap_servers(), &prefix, "");
    let bridge = site.start();
    bridge.settled(PATIENCE);
    bridge.kill();
    put_back(&site);
    site.configure(&kafka.bootstrap_servers(), &prefix, &Delivery::ExactlyOnce.settings(&prefix));
    let bridge = site.start();
    send(&bridge, 10..15);
    bridge.settled(PATIENCE);
    assert_eq!((repetitions(&kafka, &prefix), republished(&bridge)), (10, 10.0), "{}", bridge.log());
    bridge.stop();
}

#[test]
fn what_waits_for_a_first_transaction_has_an_age() {
    let prefix = prefix("onceage");
    let site = Site::new("", &prefix, "");
    let oldest = |bridge: &Bridge| bridge.metric("chat_bridge_journal_oldest_unpublished_timestamp_seconds");
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let bridge = keeping(&site, &prefix, 0..1);
    let age = |bridge: &Bridge| eventually("its age shows", PATIENCE, || Some(oldest(bridge)).filter(|oldest| *oldest > 0.0));
    let first = age(&bridge);
    assert!(first > before - 1.0, "{first} {before}");
    send(&bridge, 1..2);
    bridge.kill();
    let bridge = site.start();
    assert_eq!(age(&bridge), first, "the oldest");
    bridge.stop();
}

#[test]
fn a_topic_whose_leader_the_bridge_does_not_reach_holds_the_others_up_for_seconds() {
    let kafka = kafka::exclusive();
    let prefix = prefix("standing");
    let well = kafka.coordinator(&format!("{prefix}positions-{INSTANCE}"));
    let standing = BROKERS.into_iter().find(|broker| *broker != well).unwrap();
    for kind in ["group-disband", "group-full", "unrecognized", "dead-letter"] {
        kafka.create_topic_at(well, &format!("{prefix}{kind}"), 3);
    }
    kafka.create_topic_at(well, &format!("{prefix}positions"), POSITIONS);
    let (topic, other) = (format!("{prefix}member-exit"), format!("{prefix}group-full"));
    kafka.create_topic_at(standing, &topic, 1);
    let site = Site::new(&kafka.proxied_servers(), &prefix, &Delivery::ExactlyOnce.settings(&prefix));
    let bridge = site.start();
    send(&bridge, 0..5);
    bridge.settled(PATIENCE);

    kafka.cut_off(standing);
    // Alone in its transaction: nothing else tells that the other brokers are well.
    send(&bridge, 5..10);
    eventually("the transaction is given up", PATIENCE / 2, || (stalled(&bridge) >= 1.0).then_some(()));
    for number in 0..20 {
        bridge.accept(FULL, &group_full("other", number));
    }
    eventually("the others flow", PATIENCE / 2, || (published(&bridge, &other) == 20.0).then_some(()));
    assert_eq!(bridge.unpublished(), 5.0);
    kafka.network().becomes(Weather::Clear);
    bridge.settled(PATIENCE);
    assert_eq!(notes(&kafka, &topic), numbers(0..10));
    assert_eq!(kafka.read(&other).len(), 20);
    bridge.stop();
}

#[test]
fn a_topic_with_too_few_replicas_holds_the_others_up_until_it_has_them_and_nothing_is_doubled() {
    let mut kafka = kafka::exclusive();
    let prefix = prefix("replicas");
    let others = ["group-disband", "group-full", "unrecognized", "dead-letter", "positions"].map(|kind| format!("{prefix}{kind}"));
    kafka.create_replicated(&others, POSITIONS);
    let (topic, other) = (format!("{prefix}member-exit"), format!("{prefix}group-full"));
    kafka.create_whole(&topic);
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, &Delivery::ExactlyOnce.settings(&prefix));
    let bridge = site.start();
    send(&bridge, 0..5);
    bridge.settled(PATIENCE);

    kafka.kill_brokers(&[BROKERS[0]]);
    eventually("a replica is missing", PATIENCE, || {
        kafka.partitions(&topic).iter().all(|(_, in_sync)| in_sync.len() < BROKERS.len()).then_some(())
    });
    send(&bridge, 5..10);
    for number in 0..20 {
        bridge.accept(FULL, &group_full("other", number));
    }
    // Its abort does not end before the topic has taken the marker of it.
    eventually("the transaction is given up", PATIENCE, || bridge.log().contains("topic refuses records for now").then_some(()));
    assert_eq!((bridge.unpublished(), stalled(&bridge)), (25.0, 0.0));
    kafka.restart();
    bridge.settled(PATIENCE);
    assert!(stalled(&bridge) >= 1.0);
    assert_eq!(notes(&kafka, &topic), numbers(0..10));
    assert_eq!(kafka.read(&other).len(), 20);
    bridge.stop();
}
