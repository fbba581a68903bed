//! `kill -9` under load, many times, some with Kafka stalled: whatever was answered 200 is in Kafka at the end, and nothing else is.

use std::time::Duration;

use crate::support::bridge::{PATIENCE, Site, prefix};
use crate::support::load::Load;
use crate::support::{eventually, free_port, kafka};

/// Rounds; in every third Kafka stands still from the middle on.
const ROUNDS: usize = 15;

/// Callbacks that a round must have accepted before the bridge is killed.
const CALLBACKS_A_ROUND: f64 = 300.0;

#[test]
fn whatever_was_answered_is_published_after_any_number_of_kills() {
    let mut kafka = kafka::exclusive();
    let prefix = prefix("kill");
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, "");
    site.make_topics();
    // The same port in every round, so that the load finds the bridge again.
    let port = free_port();
    site.listen(port);
    let mut bridge = site.start();
    let mut load = Load::start(port, &site.file("load.log"));

    for round in 0..ROUNDS {
        if round % 3 == 2 {
            // Only once events flow: what the bridge hands over after that is in memory alone, and in no topic, when it is killed.
            eventually("events flow", PATIENCE, || (bridge.metric("chat_bridge_events_published_total") >= 50.0).then_some(()));
            kafka.stop();
            let so_far = bridge.accepted();
            eventually("more is accepted", PATIENCE, || (bridge.accepted() >= so_far + CALLBACKS_A_ROUND).then_some(()));
        }
        eventually("the round's callbacks are accepted", PATIENCE, || (bridge.accepted() >= CALLBACKS_A_ROUND).then_some(()));
        bridge.kill();
        kafka.cont();
        bridge = site.start();
    }

    load.end();
    bridge.settled(Duration::from_mins(2));
    load.is_published(&kafka, &prefix);
    bridge.stop();
}
