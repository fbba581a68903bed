//! Brokers that die or stand still while callbacks come in: of three, one, two or all, under load.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::support::bridge::PATIENCE;
use crate::support::kafka::{self, BROKERS, Exclusive, Kafka};
use crate::support::trial::{Plan, Trial};
use crate::support::{eventually, setting};

/// How long all brokers are away, in seconds: longer than any wait of the client that would end by itself. `CHAT_BRIDGE_AWAY_SECONDS` asks for longer.
const AWAY_SECONDS: u64 = 120;

/// What a test has to see of a fault before it is undone: so many callbacks more.
const CALLBACKS: u32 = 1_500;

/// The broker that leads the first partition of a topic.
fn leader(kafka: &Kafka, topic: &str) -> i32 {
    kafka.partitions(topic)[0].0
}

/// Waits until none of these brokers leads a partition of the trial's topics.
fn leads_nothing(kafka: &Kafka, trial: &Trial, broker: i32) {
    for topic in trial.topics() {
        eventually("another broker leads", PATIENCE, || {
            kafka.partitions(&topic).iter().all(|(leader, _)| *leader >= 0 && *leader != broker).then_some(())
        });
    }
}

/// Waits until the operator is told that no broker is there, and that this is no reason to send callbacks elsewhere.
fn told_that_kafka_is_away(trial: &Trial) {
    eventually("the loss shows", PATIENCE, || {
        trial.bridge.page("/readyz").body.lines().any(|line| line.contains("kafka brokers") && line.contains("none")).then_some(())
    });
    assert_eq!(trial.bridge.page("/readyz").status, 200, "Kafka being down does not make the bridge unready");
}

#[test]
fn a_leader_that_is_killed_is_followed_by_another_and_comes_back() {
    let kafka = kafka::exclusive();
    let plan = Plan::new("leader", kafka.bootstrap_servers());
    kill_a_leader(kafka, &plan);
}

#[test]
fn a_leader_that_is_killed_in_a_transaction_doubles_nothing() {
    let kafka = kafka::exclusive();
    let plan = Plan::new("onceleader", kafka.bootstrap_servers()).exactly_once();
    kill_a_leader(kafka, &plan);
}

fn kill_a_leader(mut kafka: Exclusive, plan: &Plan) {
    let trial = Trial::start(&kafka, plan);
    let victim = leader(&kafka, &trial.topic("member-exit"));
    kafka.kill_brokers(&[victim]);
    leads_nothing(&kafka, &trial, victim);
    // Every partition again, those that it led too.
    trial.accepts(CALLBACKS);
    trial.keeps_up(PATIENCE);
    kafka.restart();
    kafka.in_sync(&trial.topics());
    trial.flows();
    trial.end(&kafka);
}

#[test]
fn with_two_brokers_killed_nothing_is_published_and_nothing_is_lost() {
    let kafka = kafka::exclusive();
    let plan = Plan::new("two", kafka.bootstrap_servers());
    kill_two(kafka, &plan);
}

#[test]
fn with_two_brokers_killed_a_transaction_waits_or_is_repeated_and_doubles_nothing() {
    let kafka = kafka::exclusive();
    let plan = Plan::new("oncetwo", kafka.bootstrap_servers()).exactly_once();
    kill_two(kafka, &plan);
}

fn kill_two(mut kafka: Exclusive, plan: &Plan) {
    let trial = Trial::start(&kafka, plan);
    let survivor = leader(&kafka, &trial.topic("group-full"));
    let killed: Vec<i32> = BROKERS.into_iter().filter(|broker| *broker != survivor).collect();
    kafka.kill_brokers(&killed);
    eventually("the survivor leads alone", PATIENCE, || {
        let alone = BTreeSet::from([survivor]);
        kafka.partitions(&trial.topic("group-full")).iter().all(|(_, in_sync)| *in_sync == alone).then_some(())
    });
    trial.stands_still(&["group-disband", "member-exit", "group-full"]);
    assert!(trial.bridge.unpublished() >= 500.0);
    assert_eq!(trial.bridge.page("/readyz").status, 200);
    kafka.restart();
    trial.flows();
    kafka.in_sync(&trial.topics());
    trial.flows();
    trial.end(&kafka);
}

#[test]
fn while_all_brokers_are_away_callbacks_are_answered_as_before() {
    let mut kafka = kafka::exclusive();
    let trial = Trial::start(&kafka, &Plan::new("away", kafka.bootstrap_servers()));
    let away = Duration::from_secs(setting("CHAT_BRIDGE_AWAY_SECONDS").unwrap_or(AWAY_SECONDS));
    kafka.kill();
    let since = Instant::now();
    told_that_kafka_is_away(&trial);
    while since.elapsed() < away {
        trial.accepts(CALLBACKS);
    }
    kafka.restart();
    trial.flows();
    kafka.in_sync(&trial.topics());
    trial.end(&kafka);
}

#[test]
fn brokers_that_stand_still_and_go_on_neither_lose_nor_double_anything() {
    let mut kafka = kafka::exclusive();
    let trial = Trial::start(&kafka, &Plan::new("still", kafka.bootstrap_servers()));
    // So long that another leads, and that the one which goes on has to learn so.
    let victim = leader(&kafka, &trial.topic("group-disband"));
    kafka.stop_brokers(&[victim]);
    leads_nothing(&kafka, &trial, victim);
    assert!(trial.bridge.unpublished() > 0.0, "something is under way to it");
    // It has ended no connection, so only time tells.
    trial.keeps_up(Duration::from_secs(40));
    kafka.cont();
    trial.flows();
    kafka.in_sync(&trial.topics());
    kafka.stop();
    trial.stands_still(&["group-disband", "member-exit", "group-full"]);
    trial.accepts(CALLBACKS);
    kafka.cont();
    trial.flows();
    trial.end(&kafka);
}
