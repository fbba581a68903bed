//! A topic that is deleted and made again under load. What it had goes with it; what it had not is in the new one.

use std::collections::{BTreeMap, BTreeSet};

use chat_bridge::clock::Clock;
use chat_bridge::simulate::command::Command;
use chat_bridge::simulate::log::{self, Line};

use crate::support::bridge::PATIENCE;
use crate::support::eventually;
use crate::support::kafka::{self, Record};
use crate::support::trial::{LOG, PARTITIONS, Plan, Trial};

const KIND: &str = "member-exit";

/// Which callback a record is about: its connection, and its number there.
fn identity(record: &Record) -> (u32, u32) {
    let event: serde_json::Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
    let field = |name: &str| u32::try_from(event["data"]["extra"][name].as_u64().unwrap()).unwrap();
    (field("SimulatorConnection"), field("SimulatorNumber"))
}

#[test]
fn a_topic_that_is_made_again_has_whatever_its_predecessor_had_not() {
    let kafka = kafka::exclusive();
    let trial = Trial::start(&kafka, &Plan::new("recreated", kafka.bootstrap_servers()));
    let topic = trial.topic(KIND);
    let at_least = trial.published(KIND);
    kafka.delete_topic(&topic);
    let gone = Clock::system().now();
    eventually("the topic is parked", PATIENCE, || {
        (trial.bridge.metric(&format!("chat_bridge_topic_parked{{topic=\"{topic}\"}}")) == 1.0).then_some(())
    });
    trial.stands_still(&[KIND]);
    trial.flows_to(&["group-disband", "group-full"]);
    // All reports on what the old topic has are in.
    let at_most = trial.published(KIND);
    kafka.create_replicated(std::slice::from_ref(&topic), PARTITIONS);
    trial.flows();

    let (proof, site) = trial.end_unproved(&kafka);
    let violated: Vec<&str> = proof.report.violations.keys().map(String::as_str).collect();
    assert_eq!(violated, ["missing"], "{proof:?}");

    let found: BTreeSet<(u32, u32)> = kafka.read(&topic).iter().map(identity).collect();
    let mut groups: BTreeMap<u32, Vec<Line>> = BTreeMap::new();
    log::read(&site.file(LOG), |_, line| {
        if line.command == Command::MemberExit {
            groups.entry(line.group).or_default().push(line);
        }
    })
    .unwrap();
    let is_there = |line: &Line| found.contains(&(line.connection, line.number));
    let mut lost = 0;
    for lines in groups.values() {
        // A group's events went to the old topic up to one, and to the new one from the next on.
        let with_the_old = lines.iter().take_while(|line| !is_there(line)).count();
        let (before, after) = lines.split_at(with_the_old);
        assert!(after.iter().all(is_there), "a hole in {lines:?}");
        assert!(before.iter().all(|line| line.sent < gone), "sent when there was no topic, and lost: {before:?}");
        lost += u64::try_from(with_the_old).unwrap();
    }
    assert_eq!(lost, proof.report.violations["missing"].count, "no other topic lacks anything");
    assert!((at_least..=at_most).contains(&lost), "{lost} of {at_least} to {at_most} that the old topic had");
}
