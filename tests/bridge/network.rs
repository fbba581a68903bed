//! The way to the brokers cut, slowed and torn under load, by a network of the tests' own.

use std::time::Duration;

use crate::support::eventually;
use crate::support::kafka::{self, Kafka};
use crate::support::proxy::Weather;
use crate::support::trial::{Plan, Trial};

/// What a test has to see of a fault before it is undone: so many callbacks more.
const CALLBACKS: u32 = 1_500;

const FLOWING: [&str; 3] = ["group-disband", "member-exit", "group-full"];

#[test]
fn a_network_that_is_cut_holds_up_nothing_but_the_events() {
    let kafka = kafka::exclusive();
    cut(&kafka, &Plan::new("cut", kafka.proxied_servers()), 2);
}

#[test]
fn a_network_that_is_cut_doubles_nothing_of_a_transaction() {
    let kafka = kafka::exclusive();
    cut(&kafka, &Plan::new("oncecut", kafka.proxied_servers()).exactly_once(), 1);
}

fn cut(kafka: &Kafka, plan: &Plan, times: usize) {
    let trial = Trial::start(kafka, plan);
    for _ in 0..times {
        kafka.network().becomes(Weather::Cut);
        trial.stands_still(&FLOWING);
        trial.accepts(CALLBACKS);
        assert!(trial.bridge.unpublished() >= f64::from(CALLBACKS), "{}", trial.bridge.unpublished());
        kafka.network().becomes(Weather::Clear);
        trial.flows();
    }
    trial.end(kafka);
}

#[test]
fn a_network_that_is_slow_delays_the_events_and_not_the_answers() {
    let kafka = kafka::exclusive();
    let trial = Trial::start(&kafka, &Plan::new("slow", kafka.proxied_servers()));
    kafka.network().becomes(Weather::Slow { bytes: 4 * 1024, every: Duration::from_millis(100) });
    // Each way takes at least 100 ms, so that at 500 a second so many wait.
    trial.accepts(CALLBACKS);
    eventually("events wait on a slow way", Duration::from_secs(30), || (trial.bridge.unpublished() >= 100.0).then_some(()));
    trial.flows();
    kafka.network().becomes(Weather::Clear);
    trial.end(&kafka);
}

#[test]
fn connections_that_are_reset_in_the_middle_of_anything_neither_lose_nor_double_anything() {
    let kafka = kafka::exclusive();
    tear(&kafka, &Plan::new("reset", kafka.proxied_servers()));
}

#[test]
fn connections_that_are_reset_in_the_middle_of_a_transaction_double_nothing() {
    let kafka = kafka::exclusive();
    tear(&kafka, &Plan::new("oncereset", kafka.proxied_servers()).exactly_once());
}

fn tear(kafka: &Kafka, plan: &Plan) {
    let trial = Trial::start(kafka, plan);
    let resets = |at_least: u64| {
        eventually("connections are reset", Duration::from_secs(30), || (kafka.network().resets() >= at_least).then_some(()));
    };
    for _ in 0..5 {
        let before = kafka.network().resets();
        kafka.network().reset();
        resets(before + 1);
        trial.accepts(CALLBACKS / 5);
    }
    // Longer than what begins a connection, shorter than what comes back in a second: requests are carried out, and their answers lost.
    let before = kafka.network().resets();
    kafka.network().becomes(Weather::Torn { after: 5_000 });
    trial.accepts(CALLBACKS);
    resets(before + 5);
    kafka.network().becomes(Weather::Clear);
    trial.flows();
    trial.end(kafka);
}
