//! Exactly-once: transactions that carry the events and the positions, as a consumer of what is committed sees them.

use std::time::Duration;

use crate::support::bridge::{PATIENCE, Site, group_full, prefix};
use crate::support::kafka::{self, Kafka};

const FULL: &str = "Group.CallbackAfterGroupFull";

/// A configuration that delivers exactly once, with a topic of positions of its own.
fn site(kafka: &Kafka, prefix: &str, settings: &str) -> Site {
    Site::new(&kafka.bootstrap_servers(), prefix, &exactly_once(prefix, settings))
}

fn exactly_once(prefix: &str, settings: &str) -> String {
    format!("kafka.delivery = \"exactly-once\"\nkafka.positions_topic = \"{prefix}positions\"\n{settings}")
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
    let log = bridge.stop();
    let bridge = site.start();
    bridge.settled(Duration::from_secs(10));
    assert_eq!(bridge.metric("chat_bridge_journal_recovered_records_total"), 0.0);
    bridge.stop();
    assert_eq!(kafka.read(&format!("{prefix}group-full")).len(), 60, "{log}");
}
