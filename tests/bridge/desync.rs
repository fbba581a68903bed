//! A broker that is out of step with our producer: what librdkafka calls fatal.

use crate::support::bridge::PATIENCE;
use crate::support::eventually;
use crate::support::kafka;
use crate::support::trial::{Plan, Trial};

/// So many at once as no batch of a moderate load has: a broker takes a batch with the numbers of one that it has for its repetition, and acknowledges it.
const FORGED: u32 = 1_000;

#[test]
fn a_fatal_error_of_the_idempotent_producer_costs_a_producer_and_no_event() {
    let kafka = kafka::exclusive();
    let trial = Trial::start(&kafka, &Plan::new("desync", kafka.bootstrap_servers()));
    for round in 1..=2 {
        trial.forge(&kafka, "member-exit", FORGED);
        eventually("the producer is built anew", PATIENCE, || {
            (trial.count("chat_bridge_kafka_producer_rebuilds_total") >= round).then_some(())
        });
        trial.flows();
    }
    assert!(trial.count("chat_bridge_kafka_errors_total{kind=\"fatal\"}") >= 2);
    let proof = trial.end(&kafka);
    assert_eq!(proof.report.unreadable, u64::from(2 * FORGED), "what was forged is there");
    assert!(proof.republished > 0, "what the dead producers had in hand is counted: {proof:?}");
}

#[test]
fn a_transaction_whose_producer_has_lost_step_is_repeated_and_doubles_nothing() {
    let kafka = kafka::exclusive();
    let trial = Trial::start(&kafka, &Plan::new("oncedesync", kafka.bootstrap_servers()).exactly_once());
    let failures = || {
        trial.count("chat_bridge_transactions_aborted_total{reason=\"failed\"}") + trial.count("chat_bridge_kafka_producer_rebuilds_total")
    };
    for _ in 0..2 {
        let before = failures();
        trial.forge(&kafka, "member-exit", FORGED);
        eventually("the transaction has failed, or its producer", PATIENCE, || (failures() > before).then_some(()));
        trial.flows();
    }
    trial.end(&kafka);
}
