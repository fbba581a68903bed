//! What `journal drain` says of the records that it found, with both deliveries.

use std::fs;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{FULL, Run, journal, nowhere};
use crate::exactly_once::{EXIT, KINDS, exactly_once, exit, make_all_but};
use crate::support::bridge::{PATIENCE, Site, group_full, prefix, program};
use crate::support::eventually;
use crate::support::kafka;

/// What became of the records, and how many there were.
fn sums(summary: &Value) -> (u64, u64) {
    let number = |name: &str| summary[name].as_u64().unwrap_or_else(|| panic!("{name} in {summary}"));
    let ends = ["earlier", "published", "dead_lettered", "corrupt", "discarded", "left"];
    (number("unpublished"), ends.into_iter().map(number).sum())
}

fn balanced(run: &Run) -> Value {
    let summary = run.json();
    let (found, ended) = sums(&summary);
    assert_eq!(found, ended, "{run:?}");
    summary
}

#[test]
fn a_drain_that_a_signal_ends_says_what_is_left_and_the_next_publishes_that_alone() {
    let kafka = kafka::shared();
    for delivery in ["at-least-once", "exactly-once"] {
        let prefix = prefix(&format!("signal-{delivery}"));
        let settings = exactly_once(&prefix, "").replace("kafka.delivery = \"exactly-once\"", &format!("kafka.delivery = {delivery:?}"));
        let site = Site::new(&nowhere(), &prefix, &settings);
        let bridge = site.start();
        for number in 0..100 {
            bridge.accept(FULL, &group_full("g", number));
            bridge.accept(EXIT, &exit("g", &number.to_string()));
        }
        bridge.kill();
        site.configure(&kafka.bootstrap_servers(), &prefix, &settings);
        make_all_but(&kafka, &prefix, "member-exit");

        let mut command = program();
        command.args(["journal", "drain", "--timeout", "10m", "--format", "json", "--config"]).arg(site.config());
        let drain = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let full = format!("{prefix}group-full");
        eventually("what can be published is", PATIENCE, || (kafka.read(&full).len() == 100).then_some(()));
        kill_process(Pid::from_child(&drain), Signal::TERM).unwrap();
        let ended = Run::from(drain.wait_with_output().unwrap());
        let summary = balanced(&ended);
        assert_eq!((ended.code, &summary["published"], &summary["left"]), (69, &json!(100), &json!(100)), "{delivery} {ended:?}");
        assert!(ended.stderr.contains("100 records left: it was stopped by a signal"), "{ended:?}");

        kafka.create_topic(&format!("{prefix}member-exit"), 1, &[]);
        let summary = balanced(&journal(&site, &["drain", "--format", "json"]).good());
        assert_eq!((&summary["unpublished"], &summary["published"]), (&json!(100), &json!(100)), "{delivery} {summary}");
        let found = KINDS.map(|kind| kafka.read(&format!("{prefix}{kind}")).len());
        assert_eq!(found, [0, 100, 100, 0, 0], "{delivery}");
    }
}

#[test]
fn a_drain_tells_what_an_earlier_run_had_committed_though_the_folder_does_not_know() {
    let kafka = kafka::shared();
    let prefix = prefix("earlier");
    let away = nowhere();
    let settings = exactly_once(&prefix, "shutdown.drain_max = \"1ms\"");
    let site = Site::new(&away, &prefix, &settings);
    let accept = |range: std::ops::Range<u64>| {
        let bridge = site.start();
        for number in range {
            bridge.accept(FULL, &group_full("g", number));
        }
        bridge
    };
    accept(0..50).kill();
    let (checkpoint, before) = (site.journal().join("checkpoint"), site.file("checkpoint"));
    fs::copy(&checkpoint, &before).unwrap();
    site.configure(&kafka.bootstrap_servers(), &prefix, &settings);
    site.make_topics();
    let bridge = site.start();
    bridge.settled(PATIENCE);
    bridge.kill();
    // As a loss of power leaves it whose checkpoint was not synced since.
    fs::copy(&before, &checkpoint).unwrap();
    site.configure(&away, &prefix, &settings);
    accept(50..70).kill();

    site.configure(&kafka.bootstrap_servers(), &prefix, &settings);
    let run = journal(&site, &["drain", "--format", "json"]).good();
    let summary = run.json();
    assert_eq!(
        (&summary["unpublished"], &summary["earlier"], &summary["published"], &summary["left"]),
        (&json!(70), &json!(50), &json!(20), &json!(0)),
        "{run:?}"
    );
    balanced(&run);
    assert_eq!(kafka.read(&format!("{prefix}group-full")).len(), 70);
}
