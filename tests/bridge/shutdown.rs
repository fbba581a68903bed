//! How the bridge ends, how it begins again, and when it does not begin at all.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;

use crate::support::bridge::{APP, Bridge, Client, PATIENCE, Site, attempt, closing_request, group_full, prefix, request};
use crate::support::{eventually, free_port, kafka};

const FULL: &str = "Group.CallbackAfterGroupFull";

/// A server of Kafka that is not there.
fn nowhere() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// Waits until the operator is told that the bridge stops.
fn is_draining(bridge: &Bridge) {
    eventually("the stop is announced", PATIENCE, || {
        let ready = bridge.page("/readyz");
        (ready.status == 503 && ready.body.lines().any(|line| line.contains("draining") && !line.starts_with("ok"))).then_some(())
    });
    assert_eq!(bridge.page("/livez").status, 200, "a bridge that stops is not to be restarted");
}

/// A connection on which a callback has begun and its body has not ended; what is missing of it.
fn begun(bridge: &Bridge, group: &str) -> (Client, String) {
    let mut client = Client::connect(bridge.public);
    let mut request = request(&group_full(group, 1));
    let rest = request.split_off(request.len() - 10);
    client.send(request);
    eventually("a body is in hand", PATIENCE, || (bridge.metric("chat_bridge_bodies_bytes") > 0.0).then_some(()));
    (client, rest)
}

#[test]
fn a_stop_is_announced_answers_what_is_in_hand_and_leaves_the_journal_empty() {
    let kafka = kafka::shared();
    for signal in [Signal::TERM, Signal::INT] {
        let prefix = prefix("stop");
        let site = Site::new(&kafka.bootstrap_servers(), &prefix, "http.body_timeout = \"1m\"");
        site.change("shutdown.lame_duck = \"0s\"", "shutdown.lame_duck = \"2s\"");
        site.make_topics();
        let mut bridge = site.start();
        assert_eq!(bridge.page("/readyz").status, 200);
        let mut kept = Client::connect(bridge.public);
        let before = kept.post(&group_full("before", 1));
        assert!(before.is_success() && !before.closes(), "{before:?}");
        let mut idle = Client::connect(bridge.public);
        assert!(idle.post(&group_full("idle", 1)).is_success());
        let (mut in_hand, rest) = begun(&bridge, "in hand");

        bridge.signal(signal);
        is_draining(&bridge);
        for (client, group) in [(&mut kept, "kept"), (&mut Client::connect(bridge.public), "new")] {
            let answer = client.post(&group_full(group, 1));
            assert!(answer.is_success() && answer.closes(), "{group}: {answer:?}");
            assert_eq!(client.rest(), "");
        }
        eventually("connections are refused", PATIENCE, || {
            TcpStream::connect(bridge.public).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused).then_some(())
        });
        assert_eq!(idle.rest(), "", "nothing is in hand there");
        in_hand.send(rest);
        let answer = in_hand.answer();
        assert!(answer.is_success() && answer.closes(), "{answer:?}");
        let log = bridge.ended_with(0, PATIENCE);
        assert!(log.contains("the journal is empty"), "{log}");

        let bridge = site.start();
        assert_eq!((bridge.recovered(), bridge.metric("chat_bridge_records_republished_total")), (0.0, 0.0));
        bridge.settled(PATIENCE);
        bridge.stop();
        assert_eq!(kafka.keys(&format!("{prefix}group-full")), ["before", "idle", "in hand", "kept", "new"]);
    }
}

#[test]
fn a_stop_while_kafka_stands_still_ends_without_progress_and_the_next_start_has_the_rest() {
    let mut kafka = kafka::exclusive();
    let prefix = prefix("still");
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, "shutdown.drain_max = \"5m\"");
    site.make_topics();
    let mut bridge = site.start();
    for number in 0..20 {
        bridge.accept(FULL, &group_full(&format!("published {number:02}"), number));
    }
    bridge.settled(PATIENCE);
    kafka.stop();
    for number in 0..50 {
        bridge.accept(FULL, &group_full(&format!("waiting {number:02}"), number));
    }
    assert_eq!(bridge.unpublished(), 50.0);
    let begun = Instant::now();
    bridge.terminate();
    let log = bridge.ended_with(0, Duration::from_mins(1));
    assert!(begun.elapsed() >= Duration::from_millis(4_900), "it waits for progress: {:?}", begun.elapsed());
    assert!(log.contains("stays in the journal"), "{log}");

    kafka.cont();
    let bridge = site.start();
    assert_eq!(bridge.recovered(), 50.0, "exactly what was unpublished");
    bridge.settled(PATIENCE);
    // What had been handed over before the stop may be there twice.
    assert!(bridge.metric("chat_bridge_records_republished_total") <= 50.0);
    bridge.stop();
    let keys: BTreeSet<String> = kafka.keys(&format!("{prefix}group-full")).into_iter().collect();
    let expected = (0..20).map(|number| format!("published {number:02}")).chain((0..50).map(|number| format!("waiting {number:02}")));
    assert_eq!(keys, expected.collect());
    let bridge = site.start();
    assert_eq!((bridge.recovered(), bridge.metric("chat_bridge_records_republished_total")), (0.0, 0.0));
    bridge.stop();
}

#[test]
fn a_stop_does_not_wait_for_a_kafka_that_is_not_there() {
    let site = Site::new(&nowhere(), "absent.", "shutdown.drain_max = \"10ms\"");
    for recovered in 0..2 {
        let mut bridge = site.start();
        assert_eq!(bridge.recovered(), f64::from(recovered));
        bridge.accept(FULL, &group_full("g", 1));
        eventually("the loss of Kafka is told", PATIENCE, || bridge.log().contains("kafka lost").then_some(()));
        bridge.terminate();
        // Far less than what is granted to a single question.
        let log = bridge.ended_with(0, Duration::from_secs(4));
        assert!(log.contains("stays in the journal"), "{log}");
    }
}

#[test]
fn a_second_signal_ends_the_bridge_at_once_and_nothing_that_was_answered_is_lost() {
    let kafka = kafka::shared();
    let prefix = prefix("second");
    let site = Site::new(&nowhere(), &prefix, "http.body_timeout = \"1m\"");
    site.change("shutdown.lame_duck = \"0s\"", "shutdown.lame_duck = \"10m\"");
    let mut bridge = site.start();
    let (mut in_hand, _rest) = begun(&bridge, "in hand");
    let answered = Mutex::new(BTreeSet::new());
    let public = bridge.public;
    std::thread::scope(|scope| {
        for sender in 0..4 {
            let answered = &answered;
            scope.spawn(move || {
                for number in 0..1_000_000 {
                    let group = format!("{sender}-{number}");
                    match attempt(public, closing_request(&group_full(&group, number)).as_bytes()) {
                        Ok(answer) => assert!(answer.is_success(), "{answer:?}"),
                        Err(_) => return,
                    }
                    answered.lock().unwrap().insert(group);
                }
            });
        }
        eventually("callbacks are accepted", PATIENCE, || (bridge.accepted() >= 200.0).then_some(()));
        bridge.terminate();
        is_draining(&bridge);
        let before = bridge.accepted();
        eventually("callbacks are still accepted", PATIENCE, || (bridge.accepted() >= before + 100.0).then_some(()));
        bridge.terminate();
        let log = bridge.ended_with(0, Duration::from_secs(5));
        assert!(log.contains("second signal"), "{log}");
    });
    assert_eq!(in_hand.rest(), "", "what was not whole is not answered");
    let answered = answered.into_inner().unwrap();

    site.configure(&kafka.bootstrap_servers(), &prefix, "");
    site.make_topics();
    let bridge = site.start();
    let recovered = bridge.recovered();
    bridge.settled(PATIENCE);
    bridge.stop();
    let keys = kafka.keys(&format!("{prefix}group-full"));
    #[expect(clippy::cast_precision_loss, clippy::as_conversions, reason = "a few thousand")]
    let published = keys.len() as f64;
    assert_eq!(recovered, published, "each once");
    let keys: BTreeSet<String> = keys.into_iter().collect();
    assert!(answered.is_subset(&keys), "{:?}", answered.difference(&keys).collect::<Vec<_>>());
    // One callback a sender may have become durable without its answer getting through.
    assert!(keys.len() <= answered.len() + 4);
}

/// Runs the bridge where it cannot start.
fn refused(site: &Site, code: i32) -> String {
    Bridge::spawn(site.command()).ended_with(code, PATIENCE)
}

#[test]
fn a_folder_of_another_instance_a_taken_port_and_missing_or_empty_tokens_are_told_and_change_nothing() {
    let site = Site::new(&nowhere(), "start.", "shutdown.drain_max = \"1ms\"");
    let bridge = site.start();
    let log = refused(&site, 78);
    assert!(log.contains("another process uses this journal") && log.contains(site.journal().to_str().unwrap()), "{log}");
    bridge.accept(FULL, &group_full("g", 1));

    let other = Site::new(&nowhere(), "start.", "");
    for (section, address) in [("http", bridge.public), ("admin", bridge.admin)] {
        let any = format!("{section}.listen = \"127.0.0.1:0\"");
        let taken = format!("{section}.listen = \"{address}\"");
        other.change(&any, &taken);
        let log = refused(&other, 74);
        assert!(log.contains(&address.to_string()), "{log}");
        other.change(&taken, &any);
    }
    let tokens = other.file("no-tokens");
    other.configure(&nowhere(), "start.", &format!("[[apps]]\nsdk_app_id = {APP}\ntokens_file = {tokens:?}\n"));
    for contents in [None, Some(""), Some(" \r\n\n")] {
        if let Some(contents) = contents {
            fs::write(&tokens, contents).unwrap();
        }
        let log = refused(&other, 78);
        assert!(log.contains(tokens.to_str().unwrap()), "{contents:?}: {log}");
    }
    assert!(!other.journal().exists(), "nothing is made before all is known to be right");
    bridge.stop();
}

/// Every file below a folder: its name, its bytes, when it was changed.
fn files(dir: &Path) -> Vec<(String, Vec<u8>, SystemTime)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            let changed = entry.metadata().unwrap().modified().unwrap();
            files.push((path.display().to_string(), fs::read(&path).unwrap(), changed));
        }
    }
    files.sort();
    files
}

/// Gives a header at `at` of a file another format version, and the check that belongs to it.
fn of_another_version(path: &Path, at: usize, length: usize) {
    let mut bytes = fs::read(path).unwrap();
    let header = &mut bytes[at..at + length];
    header[8..12].copy_from_slice(&99_u32.to_le_bytes());
    let check = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..]);
    header[12..16].copy_from_slice(&check.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_journal_of_an_unknown_version_is_refused_and_no_file_of_it_touched() {
    let site = Site::new(&nowhere(), "version.", "shutdown.drain_max = \"1ms\"");
    let bridge = site.start();
    bridge.accept(FULL, &group_full("g", 1));
    bridge.stop();
    let (segment, checkpoint) = (site.journal().join(format!("{:020}.segment", 1)), site.journal().join("checkpoint"));
    let (segment_before, checkpoint_before) = (fs::read(&segment).unwrap(), fs::read(&checkpoint).unwrap());

    // Both copies of the segment's header; the slot of the checkpoint, whose length stands in it.
    of_another_version(&segment, 0, 64);
    of_another_version(&segment, 4096, 64);
    refuses_and_touches_nothing(&site, &segment);
    fs::write(&segment, segment_before).unwrap();
    for slot in [0, 64 * 1024] {
        let length = u32::from_le_bytes(checkpoint_before[slot + 16..slot + 20].try_into().unwrap());
        of_another_version(&checkpoint, slot, 32 + usize::try_from(length).unwrap());
    }
    refuses_and_touches_nothing(&site, &checkpoint);
    fs::write(&checkpoint, checkpoint_before).unwrap();
    let bridge = site.start();
    assert_eq!(bridge.recovered(), 1.0);
    bridge.stop();
}

fn refuses_and_touches_nothing(site: &Site, culprit: &Path) {
    let before = files(&site.journal());
    let log = refused(site, 78);
    assert!(log.contains(culprit.to_str().unwrap()) && log.contains("format version is 99"), "{log}");
    let after = files(&site.journal());
    assert!(before == after, "{:?}\n{:?}", names(&before), names(&after));
}

fn names(files: &[(String, Vec<u8>, SystemTime)]) -> Vec<(&str, usize, SystemTime)> {
    files.iter().map(|(name, bytes, changed)| (name.as_str(), bytes.len(), *changed)).collect()
}

#[test]
fn a_port_is_free_again_at_once_after_any_end() {
    let site = Site::new(&nowhere(), "again.", "shutdown.drain_max = \"1ms\"");
    let mut bridge = site.start();
    let (public, admin) = (bridge.public, bridge.admin);
    for (section, address) in [("http", public), ("admin", admin)] {
        site.change(&format!("{section}.listen = \"127.0.0.1:0\""), &format!("{section}.listen = \"{address}\""));
    }
    let ends: [fn(Bridge); 2] = [Bridge::kill, |bridge| drop(bridge.stop())];
    for end in ends {
        // Its own side closes these first, so that the system remembers them for a minute after its end.
        let mut idle = Client::connect(public);
        assert!(idle.post(&group_full("g", 1)).is_success());
        assert!(bridge.post(FULL, &group_full("g", 1)).is_success());
        assert_eq!(bridge.page("/livez").status, 200);
        end(bridge);
        assert_eq!(idle.rest(), "");
        bridge = site.start();
        assert_eq!((bridge.public, bridge.admin), (public, admin));
        assert!(TcpListener::bind(public).is_err());
    }
}
