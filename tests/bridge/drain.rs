//! Handing over by hand: an instance is drained, so that its volume can go, and taken back into service.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::bridge::{Bridge, Client, Delivery, INSTANCE, PATIENCE, Site, exchange, group_full, prefix, program};
use crate::support::http::Answer;
use crate::support::proxy::Weather;
use crate::support::{eventually, free_port, kafka};

const FULL: &str = "Group.CallbackAfterGroupFull";
const TOKEN: &str = "open-sesame";

/// A Kafka that is not there.
fn nowhere() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// A site with a token for `/drain`, and `settings` beside it.
fn site(bootstrap_servers: &str, prefix: &str, settings: &str) -> Site {
    let site = Site::new(bootstrap_servers, prefix, "");
    fs::write(site.file("token"), TOKEN).unwrap();
    let token = site.file("token");
    site.configure(bootstrap_servers, prefix, &format!("admin.token_file = {token:?}\nshutdown.drain_max = \"1s\"\n{settings}"));
    site
}

/// One request to `/drain`, with these lines in its head.
fn ask(bridge: &Bridge, method: &str, head: &str) -> Answer {
    let request = format!("{method} /drain HTTP/1.1\r\nHost: b\r\nConnection: close\r\n{head}Content-Length: 0\r\n\r\n");
    exchange(bridge.admin, request.as_bytes())
}

/// An order that is to be carried out; what is reported of it.
fn order(bridge: &Bridge, method: &str) -> Value {
    let answer = ask(bridge, method, &format!("Authorization: Bearer {TOKEN}\r\n"));
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{method}: {answer:?}\n{}", bridge.log());
    let report: Value = serde_json::from_str(&answer.body).unwrap();
    assert!(report["empty_since"].is_null() || report["unpublished"] == 0, "it is not empty: {report}\n{}", bridge.log());
    report
}

/// Looks until it is said to be empty, which it is then.
fn drained(bridge: &Bridge) {
    eventually("it is empty", PATIENCE, || (!order(bridge, "GET")["empty_since"].is_null()).then_some(()));
    assert_eq!(bridge.unpublished(), 0.0);
}

fn is_ready(bridge: &Bridge) -> bool {
    bridge.page("/readyz").status == 200
}

#[track_caller]
fn is_drained(bridge: &Bridge) {
    let ready = bridge.page("/readyz");
    assert!(ready.status == 503 && ready.body.contains("unready draining: the operator has asked for it at 2"), "{ready:?}");
    assert_eq!(bridge.page("/livez").status, 200, "it is not to be restarted");
    assert_eq!(bridge.metric("chat_bridge_draining"), 1.0);
    assert_eq!(order(bridge, "GET")["instance"], INSTANCE);
}

#[track_caller]
fn refuses(bridge: &Bridge) {
    // On a connection that would be kept, so that it is the bridge's wish to close it.
    let answer = Client::connect(bridge.public).post(&group_full("late", 1));
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    assert!(answer.closes() && answer.body.contains("draining"), "{answer:?}");
}

#[track_caller]
fn serves(bridge: &Bridge) {
    assert!(is_ready(bridge), "{}", bridge.page("/readyz").body);
    let mut client = Client::connect(bridge.public);
    let answer = client.post(&group_full("served", 1));
    assert!(answer.is_success() && !answer.closes(), "{answer:?}");
    let report = order(bridge, "GET");
    assert_eq!((&report["draining"], &report["accepting"]), (&Value::from(false), &Value::from(true)), "{report}");
    assert!(report["since"].is_null() && report["expires"].is_null() && report["empty_since"].is_null(), "{report}");
    assert_eq!(bridge.metric("chat_bridge_draining"), 0.0);
}

#[test]
fn a_drained_bridge_goes_on_until_it_is_empty_and_says_so_only_then() {
    let kafka = kafka::shared();
    let prefix = prefix("drain");
    kafka.create_topic(&format!("{prefix}member-exit"), 1, &[]);
    let site = site(&kafka.bootstrap_servers(), &prefix, "");
    site.change("shutdown.lame_duck = \"0s\"", "shutdown.lame_duck = \"5s\"");
    let bridge = site.start();
    serves(&bridge);
    let mut kept = Client::connect(bridge.public);
    assert!(kept.post(&group_full("kept", 1)).is_success());

    let begun = Instant::now();
    let report = order(&bridge, "POST");
    assert_eq!((&report["draining"], &report["accepting"], &report["unpublished"]), (&true.into(), &true.into(), &2.into()), "{report}");
    is_drained(&bridge);
    for (client, group) in [(&mut kept, "still"), (&mut Client::connect(bridge.public), "new")] {
        let answer = client.post(&group_full(group, 1));
        assert!(answer.is_success() && answer.closes(), "those in front have not noticed yet: {answer:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "the machine is too slow for this test");
    let report = eventually("callbacks are refused", PATIENCE, || {
        let report = order(&bridge, "GET");
        (report["accepting"] == false).then_some(report)
    });
    assert!(begun.elapsed() >= Duration::from_secs(5), "the lame duck has its time");
    refuses(&bridge);
    assert_eq!((&report["unpublished"], &report["empty_since"]), (&4.into(), &Value::Null), "the topic is missing: {report}");
    let parked = Value::from(format!("{prefix}group-full"));
    eventually("what holds it up is told", PATIENCE, || order(&bridge, "GET")["parked"].as_array()?.contains(&parked).then_some(()));

    site.make_topics();
    let report = eventually("it is empty", PATIENCE, || {
        let report = order(&bridge, "GET");
        (!report["empty_since"].is_null()).then_some(report)
    });
    assert_eq!(report["unpublished"], 0, "{report}");
    assert!(
        report["since"].as_str() <= report["empty_since"].as_str() && report["empty_since"].as_str() < report["expires"].as_str(),
        "{report}"
    );
    assert_eq!(kafka.keys(&format!("{prefix}group-full")), ["kept", "new", "served", "still"]);
    refuses(&bridge);
    assert_eq!(order(&bridge, "GET")["empty_since"], report["empty_since"], "it stays so");

    assert_eq!(order(&bridge, "DELETE")["draining"], false);
    serves(&bridge);
    bridge.settled(PATIENCE);
    let log = bridge.stop();
    for line in [
        "drain begins",
        "callbacks are refused from here on",
        "the journal is empty, and nothing comes any more",
        "drain ended by the operator",
    ] {
        assert_eq!(log.lines().filter(|logged| logged.contains(line)).count(), 1, "{line}: {log}");
    }
}

#[test]
fn a_drain_waits_for_kafka_to_come_back() {
    let kafka = kafka::exclusive();
    for delivery in [Delivery::AtLeastOnce, Delivery::ExactlyOnce] {
        let prefix = prefix("drainaway");
        let site = site(&kafka.proxied_servers(), &prefix, &delivery.settings(&prefix));
        site.make_topics();
        let bridge = site.start();
        bridge.accept(FULL, &group_full("before", 1));
        bridge.settled(PATIENCE);
        kafka.network().becomes(Weather::Cut);
        kafka.network().reset();
        for number in 0..20 {
            bridge.accept(FULL, &group_full("during", number));
        }
        order(&bridge, "POST");
        eventually("the loss shows", PATIENCE, || {
            assert!(order(&bridge, "GET")["empty_since"].is_null());
            bridge.page("/readyz").body.lines().any(|line| line.contains("kafka brokers") && line.contains("none")).then_some(())
        });
        kafka.network().becomes(Weather::Clear);
        drained(&bridge);
        assert_eq!(kafka.keys(&format!("{prefix}group-full")).len(), 21, "{delivery:?}");
        bridge.stop();
    }
}

#[test]
fn a_drain_is_not_over_while_the_producer_that_had_the_last_records_is_built_anew() {
    let kafka = kafka::shared();
    let prefix = prefix("drainfence");
    let settings = format!("kafka.commit_interval = \"5s\"\n{}", Delivery::ExactlyOnce.settings(&prefix));
    let site = site(&kafka.bootstrap_servers(), &prefix, &settings);
    site.make_topics();
    let bridge = site.start();
    let committed = || bridge.metric("chat_bridge_transactions_committed_total");
    eventually("the positions are committed", PATIENCE, || (committed() >= 1.0).then_some(()));
    for number in 0..20 {
        bridge.accept(FULL, &group_full("last", number));
    }
    order(&bridge, "POST");
    eventually("callbacks are refused", PATIENCE, || (order(&bridge, "GET")["accepting"] == false).then_some(()));
    let topic = format!("{prefix}group-full");
    eventually("the records are in an open transaction", PATIENCE, || {
        let ends: i64 = (0..6).map(|partition| kafka.end(&topic, partition, "read_uncommitted")).sum();
        (ends == 20).then_some(())
    });
    assert_eq!((committed(), bridge.unpublished()), (1.0, 20.0), "it was not committed in time for this test");
    kafka.fence(&format!("{prefix}positions-{INSTANCE}"));
    drained(&bridge);
    assert!(bridge.metric("chat_bridge_kafka_producer_rebuilds_total") >= 1.0);
    assert_eq!(kafka.read(&topic).len(), 20);
    bridge.stop();
}

#[test]
fn only_a_token_opens_it_and_without_a_file_of_them_it_is_not_there() {
    let site = site(&nowhere(), "tokens.", "");
    let bridge = site.start();
    for head in ["", "Authorization: Bearer other\r\n", "Authorization: Basic open-sesame\r\n", "Authorization: open-sesame\r\n"] {
        for method in ["GET", "POST", "DELETE", "PUT"] {
            let answer = ask(&bridge, method, head);
            assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("bearer")), "{method} {head}: {answer:?}");
        }
    }
    serves(&bridge);
    let answer = ask(&bridge, "PUT", &format!("Authorization: Bearer {TOKEN}\r\n"));
    assert_eq!((answer.status, answer.header("allow")), (405, Some("get, post, delete")), "{answer:?}");

    // Rotated while it runs, and lost.
    let with = |token: &str| ask(&bridge, "GET", &format!("authorization: bearer {token}\r\n")).status;
    fs::write(site.file("token"), format!("{TOKEN}\nnewer\n")).unwrap();
    assert_eq!((with(TOKEN), with("newer")), (200, 200));
    fs::write(site.file("token"), "newer\n").unwrap();
    assert_eq!((with(TOKEN), with("newer")), (401, 200));
    fs::remove_file(site.file("token")).unwrap();
    assert_eq!((with(TOKEN), with("newer")), (401, 200), "the last good one stays");
    let log = bridge.stop();
    assert!(!log.contains(TOKEN) && !log.contains("newer"), "{log}");
    assert_eq!(log.lines().filter(|line| line.contains("file unusable, its last good contents stay in force")).count(), 1, "{log}");

    let log = Bridge::spawn(site.command()).ended_with(78, PATIENCE);
    assert!(log.contains("admin.token_file: "), "{log}");
    site.configure(&nowhere(), "tokens.", "shutdown.drain_max = \"1ms\"");
    let bridge = site.start();
    for method in ["GET", "POST", "DELETE"] {
        assert_eq!(ask(&bridge, method, &format!("Authorization: Bearer {TOKEN}\r\n")).status, 404, "{method}");
    }
    assert!(is_ready(&bridge));
    bridge.stop();
}

#[test]
fn a_drain_outlives_the_process_and_ends_by_delete() {
    // So long may what was in hand at the drain take.
    let site = site(&nowhere(), "outlives.", "http.body_timeout = \"1h\"\n");
    let bridge = site.start();
    bridge.accept(FULL, &group_full("before", 1));
    let since = order(&bridge, "POST")["since"].clone();
    // At once: what was answered is on disk.
    bridge.kill();
    let status = program().args(["journal", "status", "--format", "json", "--config"]).arg(site.config()).output().unwrap();
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["drained_since"], &status["accepting"]), (&since, &true.into()), "{status}");

    let ends: [fn(Bridge); 2] = [Bridge::kill, |bridge| drop(bridge.stop())];
    for end in ends {
        let bridge = site.start();
        is_drained(&bridge);
        refuses(&bridge);
        let report = order(&bridge, "GET");
        assert_eq!((&report["draining"], &report["accepting"], &report["since"]), (&true.into(), &false.into(), &since), "{report}");
        assert_eq!((&report["unpublished"], &report["empty_since"]), (&1.into(), &Value::Null), "{report}");
        assert!(bridge.log().contains("the bridge was drained before it started"), "{}", bridge.log());
        end(bridge);
    }

    let bridge = site.start();
    order(&bridge, "DELETE");
    let status = program().args(["journal", "status", "--config"]).arg(site.config()).output().unwrap();
    assert!(status.status.success() && !String::from_utf8_lossy(&status.stdout).contains("drained"), "{status:?}");
    serves(&bridge);
    assert_eq!(order(&bridge, "DELETE")["draining"], false, "again does no harm");
    bridge.kill();
    let bridge = site.start();
    serves(&bridge);
    bridge.stop();
}

#[test]
fn a_drain_that_was_forgotten_ends_by_itself_and_asking_again_gives_it_more_time() {
    let ttl = Duration::from_secs(4);
    let site = site(&nowhere(), "forgotten.", "admin.drain_ttl = \"4s\"");
    let bridge = site.start();
    let begun = Instant::now();
    let first = order(&bridge, "POST");
    eventually("half of the time is over", PATIENCE, || (begun.elapsed() >= ttl / 2).then_some(()));
    let again = Instant::now();
    let second = order(&bridge, "POST");
    assert!(first["expires"].as_str() < second["expires"].as_str() && first["since"] == second["since"], "{first} {second}");
    is_drained(&bridge);
    eventually("it ends by itself", PATIENCE, || is_ready(&bridge).then_some(()));
    assert!(again.elapsed() >= ttl, "not before its time: {:?}", again.elapsed());
    serves(&bridge);
    assert!(bridge.log().contains("drain expired"), "{}", bridge.log());

    // While it is down, too.
    order(&bridge, "POST");
    bridge.kill();
    site.change("admin.drain_ttl = \"4s\"", "admin.drain_ttl = \"1ms\"");
    let bridge = site.start();
    serves(&bridge);
    assert!(bridge.log().contains("admin.drain_ttl is over"), "{}", bridge.log());
    bridge.kill();
    site.change("admin.drain_ttl = \"1ms\"", "admin.drain_ttl = \"1h\"");
    let bridge = site.start();
    serves(&bridge);
    bridge.stop();
}

#[test]
fn a_drain_whose_mark_cannot_be_written_is_not_begun() {
    let site = site(&nowhere(), "unmarked.", "");
    let bridge = site.start();
    // Not even root can put a file in the place of a folder.
    fs::create_dir(site.journal().join("drain")).unwrap();
    let answer = ask(&bridge, "POST", &format!("Authorization: Bearer {TOKEN}\r\n"));
    assert_eq!(answer.status, 500, "{answer:?}");
    assert!(answer.body.contains("failed to write") && answer.body.contains("drain"), "{answer:?}");
    serves(&bridge);
    fs::remove_dir(site.journal().join("drain")).unwrap();
    order(&bridge, "POST");
    is_drained(&bridge);
    bridge.stop();
}

#[test]
fn a_stop_of_a_drained_bridge_waits_for_no_lame_duck() {
    let site = site(&nowhere(), "stopped.", "http.body_timeout = \"10ms\"\njournal.answer_max = \"10ms\"\n");
    let bridge = site.start();
    order(&bridge, "POST");
    eventually("the folder says that no callback comes any more", PATIENCE, || {
        let status = program().args(["journal", "status", "--format", "json", "--config"]).arg(site.config()).output().unwrap();
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        (status["accepting"] == false).then_some(())
    });
    bridge.stop();
    site.change("shutdown.lame_duck = \"0s\"", "shutdown.lame_duck = \"10m\"");
    let bridge = site.start();
    is_drained(&bridge);
    // The journal is empty, and Kafka need not be there for that.
    eventually("it is empty", PATIENCE, || (!order(&bridge, "GET")["empty_since"].is_null()).then_some(()));
    bridge.stop();
}

#[test]
fn a_start_removes_what_a_crash_has_left_unfinished_beside_the_journal() {
    let site = site(&nowhere(), "unfinished.", "");
    site.start().kill();
    let oversized = site.journal().join("oversized");
    fs::create_dir(&oversized).unwrap();
    let unfinished = [site.journal().join("drain.partial"), oversized.join("one.partial")];
    let kept = oversized.join("two");
    for path in unfinished.iter().chain([&kept]) {
        fs::write(path, "x").unwrap();
    }
    let bridge = site.start();
    eventually("they are gone", PATIENCE, || unfinished.iter().all(|path| !path.exists()).then_some(()));
    assert!(kept.exists());
    serves(&bridge);
    bridge.stop();
}
