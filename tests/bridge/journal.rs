//! The operator's tools: what they say of a folder, beside a bridge and without one, and what they publish.

mod drain;
mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::disk::{Frames, frames, segment, torn_frame};
use crate::support::bridge::{Bridge, PATIENCE, Site, argument, group_full, prefix, program, simulate};
use crate::support::kafka::{self, Kafka, Record};
use crate::support::{eventually, free_port};

const FULL: &str = "Group.CallbackAfterGroupFull";
const OTHER: &str = "Group.CallbackAfterSendMsg";

/// What one run of a tool came to.
#[derive(Debug)]
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl From<Output> for Run {
    fn from(Output { status, stdout, stderr }: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: status.code().unwrap(), stdout: text(stdout), stderr: text(stderr) }
    }
}

impl Run {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Expects it to have gone well.
    fn good(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

/// Runs `journal` with these arguments on this site's folder.
fn journal(site: &Site, arguments: &[&str]) -> Run {
    program().arg("journal").args(arguments).arg("--config").arg(site.config()).output().unwrap().into()
}

fn nowhere() -> String {
    format!("127.0.0.1:{}", free_port())
}

fn header<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    record.headers.iter().find(|(known, _)| known == name).map(|(_, value)| std::str::from_utf8(value).unwrap())
}

fn ids(records: &[Record]) -> Vec<String> {
    let mut ids: Vec<String> = records.iter().map(|record| header(record, "ce_id").unwrap().to_owned()).collect();
    ids.sort();
    ids
}

#[test]
fn beside_a_bridge_under_load_a_look_is_never_an_alarm() {
    let kafka = kafka::shared();
    let prefix = prefix("looked-at");
    let settings = "http.body_max = \"64KiB\"\njournal.retention = \"1s\"";
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, settings);
    // Small segments, so that many are freed and used again.
    site.change("journal.segment_size = \"8MiB\"", "journal.segment_size = \"1MiB\"");
    site.change("journal.size_max = \"256MiB\"", "journal.size_max = \"12MiB\"");
    site.make_topics();
    let bridge = site.start();
    let target = format!("http://{}/", bridge.public);
    let mut load = program()
        .args(["simulate", "load", "--target", &target, "--connections", "8", "--duration", "10s", "--groups", "64", "--seed", "5"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut looks = 0;
    while load.try_wait().unwrap().is_none() {
        let verified = journal(&site, &["verify", "--format", "json"]).good().json();
        assert_eq!((&verified["in_use"], &verified["corrupt"]), (&json!(true), &json!([])), "{verified}");
        let checked = ["records", "freed_records"].map(|name| verified[name].as_u64().unwrap());
        let range = verified["next_lsn"].as_u64().unwrap() - verified["first_lsn"].as_u64().unwrap();
        assert_eq!(checked.iter().sum::<u64>(), range, "{verified}");

        let status = journal(&site, &["status", "--format", "json"]).good().json();
        assert_eq!((&status["state"], &status["checkpoint"], &status["torn_tail"]), (&json!("in_use"), &json!("good"), &Value::Null));
        journal(&site, &["dump", "--as", "events", "--since", "1s"]).good();
        looks += 1;
    }
    assert!(looks >= 3, "{looks}");
    bridge.settled(PATIENCE);
    let status = journal(&site, &["status", "--format", "json"]).good().json();
    assert!(status["first_lsn"].as_u64().unwrap() > 1, "nothing was freed: {status}");
    eventually("all is published", PATIENCE, || {
        let status = journal(&site, &["status", "--format", "json"]).good().json();
        (status["unpublished"]["records"] == json!(0) && status["disk"]["used_bytes"].as_u64() <= Some(12 << 20)).then_some(())
    });
    bridge.kill();
    let verified = journal(&site, &["verify", "--format", "json"]).good().json();
    assert_eq!((&verified["in_use"], &verified["corrupt"]), (&json!(false), &json!([])), "{verified}");
}

/// A stopped bridge's journal, with fifty callbacks that are not published.
fn unpublished(prefix: &str) -> Site {
    let site = Site::new(&nowhere(), prefix, "shutdown.drain_max = \"1ms\"");
    let bridge = site.start();
    for number in 0..50 {
        bridge.accept(FULL, &group_full(&format!("group-{number:02}"), 1));
    }
    bridge.stop();
    site
}

#[test]
fn a_flipped_byte_is_corruption_and_verify_says_where() {
    let site = unpublished(&prefix("verified"));
    let file = segment(&site);
    let good = journal(&site, &["verify"]).good();
    assert!(good.stdout.contains("50 records") && good.stdout.ends_with("no corruption\n"), "{good:?}");
    let mut bytes = fs::read(&file).unwrap();
    // In the body of record 20, whose frame is its own.
    let at = frames(&bytes).starts[19] + 150;
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();

    let bad = journal(&site, &["verify", "--format", "json"]);
    assert_eq!(bad.code, 65, "{bad:?}");
    assert!(bad.stderr.contains("1 piece, 1 record lost"), "{bad:?}");
    let report = bad.json();
    let [corrupt] = report["corrupt"].as_array().unwrap().as_slice() else { panic!("{report}") };
    let number = |name: &str| usize::try_from(corrupt[name].as_u64().unwrap()).unwrap();
    assert_eq!(corrupt["file"].as_str(), Some(argument(&file)));
    assert!(number("from_offset") <= at && at < number("to_offset"), "{corrupt}, byte {at}");
    assert_eq!((number("lost_records"), number("first_lsn"), number("last_lsn")), (1, 20, 20));
    assert_eq!((&report["records"], &report["set_aside"]), (&json!(49), &json!([])));
    let bad = journal(&site, &["verify"]);
    assert!(bad.code == 65 && bad.stdout.contains("1 record lost, LSN 20 to 20") && bad.stdout.contains(argument(&file)), "{bad:?}");

    // The rest is dumped, and the gap is no secret.
    let dumped = journal(&site, &["dump"]);
    assert_eq!((dumped.code, dumped.lines().len()), (65, 49), "{dumped:?}");
    assert!(dumped.stderr.contains("1 record lost, LSN 20 to 20"), "{dumped:?}");

    // What a start makes of it: a copy, which is named.
    let bridge = site.start();
    bridge.stop();
    let report = journal(&site, &["verify", "--format", "json"]);
    assert_eq!((report.code, report.json()["set_aside"].as_array().unwrap().len()), (65, 1), "{report:?}");
}

#[test]
fn a_torn_tail_is_a_note() {
    let site = Site::new(&nowhere(), &prefix("torn-note"), "");
    let bridge = site.start();
    for number in 0..5 {
        bridge.accept(FULL, &group_full("g", number));
    }
    bridge.kill();
    let Frames { end, salt, next, .. } = frames(&fs::read(segment(&site)).unwrap());
    let file = fs::OpenOptions::new().write(true).open(segment(&site)).unwrap();
    file.write_all_at(&torn_frame(salt, next, 300), u64::try_from(end).unwrap()).unwrap();
    drop(file);
    let verified = journal(&site, &["verify"]).good();
    assert!(verified.stdout.contains("note: torn tail: 00000000000000000001.segment"), "{verified:?}");
    let report = journal(&site, &["verify", "--format", "json"]).good().json();
    let torn = &report["torn_tail"];
    assert_eq!((&torn["offset"], &torn["kept_records"], &report["records"]), (&json!(end), &json!(0), &json!(5)), "{report}");
    let status = journal(&site, &["status"]).good();
    assert!(
        status.stdout.contains("it was not closed") && status.stdout.contains("torn tail") && status.stdout.contains("5 records"),
        "{status:?}"
    );
}

#[test]
fn a_folder_that_is_no_journal_is_none_and_does_not_become_one() {
    let site = Site::new(&nowhere(), &prefix("none"), "");
    for (name, code) in [("absent", 74), ("empty", 78)] {
        let dir = site.file(name);
        if name == "empty" {
            fs::create_dir(&dir).unwrap();
        }
        for verb in [&["status"][..], &["verify"], &["dump"], &["replay", "--yes"], &["drain", "--timeout", "1s"]] {
            let run = journal(&site, &[verb, &["--dir", argument(&dir)]].concat());
            assert_eq!((run.code, run.stdout.as_str()), (code, ""), "{verb:?} {run:?}");
            assert!(run.stderr.contains(argument(&dir)), "{run:?}");
        }
        assert_eq!(dir.exists(), name == "empty");
        assert!(name != "empty" || fs::read_dir(&dir).unwrap().next().is_none());
    }
}

/// A bridge that has published six callbacks, of which one is a dead letter.
fn published(kafka: &Kafka, prefix: &str) -> (Site, Bridge) {
    let site = Site::new(&kafka.bootstrap_servers(), prefix, "");
    site.make_topics();
    let bridge = site.start();
    for number in 1..=3 {
        bridge.accept(FULL, &group_full("one", number));
    }
    bridge.accept(FULL, &group_full("two", 4));
    bridge.accept(OTHER, "{\"CallbackCommand\":\"Group.CallbackAfterSendMsg\",\n\"GroupId\":\"two\",\"Huge\":1.50e2}");
    let query = format!("SdkAppid=1400000000&CallbackCommand={FULL}&contenttype=json");
    assert!(bridge.post_query(&query, b"\xff\x00 no json").is_success());
    bridge.settled(PATIENCE);
    is_told_to_be_published(&site, 7);
    (site, bridge)
}

/// Waits until the checkpoint, by which the tools go, says that all below `next` is published.
fn is_told_to_be_published(site: &Site, next: u64) {
    eventually("the checkpoint says so", PATIENCE, || {
        let status = journal(site, &["status", "--format", "json"]).good().json();
        (status["unpublished"]["records"] == json!(0) && status["next_lsn"] == json!(next)).then_some(())
    });
}

#[test]
fn a_dump_is_what_was_received_and_what_is_published() {
    let kafka = kafka::shared();
    let prefix = prefix("dumped");
    let (site, bridge) = published(&kafka, &prefix);
    let dump = |arguments: &[&str]| journal(&site, &[&["dump"], arguments].concat()).good().lines();
    let lsns = |arguments: &[&str]| -> Vec<u64> { dump(arguments).iter().map(|line| line["lsn"].as_u64().unwrap()).collect() };

    let all = dump(&[]);
    assert_eq!(all.len(), 6);
    assert_eq!(all[0]["body"].as_str(), Some(group_full("one", 1).as_str()));
    assert_eq!((all[0]["command"].as_str(), all[0]["app"].as_u64()), (Some(FULL), Some(1_400_000_000)));
    assert_eq!((all[5].get("body"), all[5]["body_base64"].as_str()), (None, Some("/wAgbm8ganNvbg==")));

    assert_eq!(lsns(&["--from-lsn", "2", "--to-lsn", "4"]), [2, 3, 4]);
    assert_eq!(lsns(&["--group", "two"]), [4, 5]);
    assert_eq!(lsns(&["--group", "two", "--command", FULL]), [4]);
    assert_eq!(lsns(&["--command", OTHER, "--command", FULL, "--group", "one", "--from-lsn", "3"]), [3]);
    assert_eq!(lsns(&["--since", "1h"]).len(), 6);
    assert_eq!(lsns(&["--until", "1h"]).len(), 0);
    let received = all[3]["received"].as_str().unwrap();
    assert!(lsns(&["--since", received]).contains(&4));

    // The very events.
    for line in dump(&["--as", "events"]) {
        let topic = line["topic"].as_str().unwrap();
        let id = line["headers"]["ce_id"].as_str().unwrap();
        let records = kafka.read(topic);
        let record = records.iter().find(|record| header(record, "ce_id") == Some(id)).unwrap_or_else(|| panic!("{line}"));
        assert_eq!(line["key"].as_str().map(str::as_bytes), record.key.as_deref(), "{line}");
        let headers: BTreeMap<&str, &str> = record.headers.iter().map(|(name, _)| (name.as_str(), header(record, name).unwrap())).collect();
        assert_eq!(line["headers"], json!(headers));
        let value = record.value.as_deref().unwrap();
        match serde_json::from_slice::<Value>(value) {
            Ok(value) => assert_eq!(line["value"], value),
            Err(_) => assert_eq!((value, line["value_base64"].as_str()), (&b"\xff\x00 no json"[..], Some("/wAgbm8ganNvbg=="))),
        }
    }
    let text = journal(&site, &["dump", "--format", "text", "--from-lsn", "5"]).good().stdout;
    assert!(text.lines().count() == 2 && text.contains("Group.CallbackAfterSendMsg two {\"CallbackCommand\""), "{text}");
    let log = bridge.stop();
    assert!(!log.contains("Huge"), "no body is in a log");
}

#[test]
fn a_replay_shows_its_plan_and_publishes_the_same_ids_again() {
    let kafka = kafka::shared();
    let prefix = prefix("replayed");
    let (site, bridge) = published(&kafka, &prefix);
    let topic = |kind: &str| format!("{prefix}{kind}");
    let before = kafka.read(&topic("group-full"));
    assert_eq!(before.len(), 4);

    let plan = journal(&site, &["replay", "--group", "one", "--format", "json"]).good().json();
    assert_eq!(plan["plan"]["topics"], json!({ topic("group-full"): 3 }), "{plan}");
    assert_eq!((&plan["plan"]["first_lsn"], &plan["plan"]["last_lsn"], &plan["sent"]), (&json!(1), &json!(3), &Value::Null));
    assert_eq!(kafka.read(&topic("group-full")), before, "a plan publishes nothing");

    // Beside the bridge, to the same topic.
    let replayed = journal(&site, &["replay", "--group", "one", "--yes", "--format", "json"]).good().json();
    assert_eq!(replayed["sent"]["republished"], json!(3), "{replayed}");
    let after = kafka.read(&topic("group-full"));
    assert_eq!((after.len(), after.iter().map(|record| &record.value).collect::<BTreeSet<_>>().len()), (7, 4));
    let of = |records: &[Record], group: &[u8]| -> Vec<Record> {
        records.iter().filter(|record| record.key.as_deref() == Some(group)).cloned().collect()
    };
    let (first, twice) = (of(&before, b"one"), of(&after, b"one"));
    let content = |records: &[Record]| -> Vec<_> {
        records.iter().map(|record| (record.partition, record.value.clone(), record.headers.clone())).collect()
    };
    assert_eq!(content(&twice[..3]), content(&first));
    assert_eq!(content(&twice[3..]), content(&first), "in the same order, with the same bytes and ids");

    // To another topic: events alone.
    kafka.create_topic(&topic("again"), 2, &[]);
    let text = journal(&site, &["replay", "--topic", &topic("again"), "--yes"]).good().stdout;
    assert!(text.contains("to publish   5 records of 6 read") && text.contains("left out     1 dead letters"), "{text}");
    assert!(text.contains("republished  5 records"), "{text}");
    let again = kafka.read(&topic("again"));
    let mut expected = [ids(&before), ids(&kafka.read(&topic("unrecognized")))].concat();
    expected.sort();
    assert_eq!(ids(&again), expected);

    // Without it, the dead letter as well.
    let all = journal(&site, &["replay", "--from-lsn", "5", "--yes", "--format", "json"]).good().json();
    assert_eq!(all["plan"]["topics"], json!({ topic("unrecognized"): 1, topic("dead-letter"): 1 }));
    let letters = kafka.read(&topic("dead-letter"));
    assert_eq!((letters.len(), ids(&letters)[0].clone()), (2, ids(&letters)[1].clone()));

    let missing = journal(&site, &["replay", "--topic", &topic("missing"), "--yes", "--timeout", "10s"]);
    assert_eq!(missing.code, 69, "{missing:?}");
    assert!(missing.stderr.contains("it does not exist; nothing was sent"), "{missing:?}");
    assert_eq!(journal(&site, &["replay", "--topic", "no/name"]).code, 64);
    bridge.stop();
}

#[test]
fn what_a_killed_bridge_has_left_is_drained_and_all_of_it_arrives() {
    let kafka = kafka::shared();
    let prefix = prefix("drained");
    let site = Site::new(&nowhere(), &prefix, "");
    let bridge = site.start();
    let log = site.file("load.log");
    let target = format!("http://{}/", bridge.public);
    let load = ["load", "--target", &target, "--connections", "8", "--count", "3000", "--groups", "32", "--seed", "9", "--log"];
    let (status, text) = simulate(&[&load[..], &[argument(&log)]].concat());
    assert!(status.success(), "{text}");
    let busy = journal(&site, &["drain", "--timeout", "1s"]);
    assert!(busy.code == 78 && busy.stderr.contains("another process uses this journal"), "{busy:?}");
    bridge.kill();

    // Nobody there: what is left stays.
    let left = journal(&site, &["drain", "--timeout", "1s", "--format", "json"]);
    assert_eq!((left.code, &left.json()["left"], &left.json()["published"]), (69, &json!(3000), &json!(0)), "{left:?}");
    assert!(left.stderr.contains("no broker of Kafka can be reached"), "{left:?}");

    site.configure(&kafka.bootstrap_servers(), &prefix, "");
    let parked = journal(&site, &["drain", "--timeout", "3s", "--format", "json"]);
    assert_eq!((parked.code, &parked.json()["left"]), (69, &json!(3000)), "{parked:?}");
    assert!(parked.stderr.contains("is parked: missing"), "{parked:?}");

    site.make_topics();
    let moved = site.file("moved");
    fs::rename(site.journal(), &moved).unwrap();
    let drained = journal(&site, &["drain", "--dir", argument(&moved), "--format", "json"]).good().json();
    assert_eq!((&drained["left"], &drained["unpublished"]), (&json!(0), &json!(3000)), "{drained}");
    assert!(!site.journal().exists(), "the folder that was named, and no other");
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
    let again = journal(&site, &["drain", "--dir", argument(&moved)]).good();
    assert!(again.stdout.contains("0 records at the start") && again.stdout.ends_with("nothing is left\n"), "{again:?}");
    let status = journal(&site, &["status", "--dir", argument(&moved), "--format", "json"]).good().json();
    assert_eq!((&status["state"], &status["unpublished"]["records"]), (&json!("closed"), &json!(0)), "{status}");
}

#[test]
fn every_verb_has_its_help() {
    for verb in ["status", "verify", "dump", "replay", "drain"] {
        let done = program().args(["journal", verb, "--help"]).output().unwrap();
        let text = String::from_utf8(done.stdout).unwrap();
        assert!(done.status.success(), "{verb}");
        for part in ["--config <FILE>", "--dir <DIR>", "--format <FORMAT>"] {
            assert!(text.contains(part), "{verb}: {text}");
        }
    }
}
