//! `kill -9` under load, many times, some with Kafka stalled: whatever was answered 200 is in Kafka at the end, and nothing else is.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::bridge::{PATIENCE, Site, argument, prefix, program, simulate};
use crate::support::{eventually, kafka};

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
    let mut bridge = site.start();
    // The same port in every round, so that the load finds the bridge again.
    let port = bridge.public.port();
    site.configure(&kafka.bootstrap_servers(), &prefix, "");
    let config = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(site.config(), config.replace("http.listen = \"127.0.0.1:0\"", &format!("http.listen = \"127.0.0.1:{port}\""))).unwrap();

    let log = site.file("load.log");
    let target = format!("http://127.0.0.1:{port}/");
    let mut load = program()
        .args(["simulate", "load", "--target", &target, "--connections", "16", "--rate", "2000", "--duration", "1h", "--groups", "64"])
        .args(["--seed", "7", "--continue-on-error", "--log", argument(&log)])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();

    for round in 0..ROUNDS {
        if round % 3 == 2 {
            // Only once events flow: what the bridge hands over after that is in memory alone, and in no topic, when it is killed.
            eventually("events flow", PATIENCE, || (bridge.metric("chat_bridge_events_published_total") >= 50.0).then_some(()));
            kafka.stop();
            let so_far = bridge.metric("chat_bridge_callbacks_total{outcome=\"accepted\"");
            eventually("more is accepted", PATIENCE, || {
                (bridge.metric("chat_bridge_callbacks_total{outcome=\"accepted\"") >= so_far + CALLBACKS_A_ROUND).then_some(())
            });
        }
        eventually("the round's callbacks are accepted", PATIENCE, || {
            (bridge.metric("chat_bridge_callbacks_total{outcome=\"accepted\"") >= CALLBACKS_A_ROUND).then_some(())
        });
        bridge.kill();
        kafka.cont();
        bridge = site.start();
    }

    // SIGINT: the load ends by itself, its log complete.
    let pid = rustix::process::Pid::from_child(&load);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let ended = eventually("the load ends", PATIENCE, || load.try_wait().unwrap());
    assert!(ended.code().is_some() && Instant::now() < deadline, "{ended}");

    bridge.settled(Duration::from_mins(2));
    let (status, report) = simulate(&[
        "verify",
        "--log",
        argument(&log),
        "--bootstrap-servers",
        &kafka.bootstrap_servers(),
        "--prefix",
        &prefix,
        "--format",
        "json",
        "--timeout",
        "30s",
    ]);
    assert!(status.success(), "{status}: {report}");
    bridge.stop();
}
