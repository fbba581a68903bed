//! A volume restored from an older copy, whole or in part: what is accepted from then on is published, and never taken for what came before.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::bridge::{Bridge, PATIENCE, Site, group_full, prefix};
use crate::support::free_port;
use crate::support::kafka::{self, Kafka};

const FULL: &str = "Group.CallbackAfterGroupFull";

/// Callbacks of one part of a test's story.
const CALLBACKS: u64 = 20;

/// A journal and its copies.
struct Story {
    site: Site,
    prefix: String,
}

impl Story {
    fn new(test: &str, kafka: &Kafka) -> Self {
        let prefix = prefix(test);
        let site = Site::new(&kafka.bootstrap_servers(), &prefix, "");
        site.make_topics();
        Self { site, prefix }
    }

    /// A run that publishes all that it accepts.
    fn publish(&self, kafka: &Kafka, part: &str) {
        let bridge = self.start(kafka);
        send(&bridge, part);
        bridge.settled(PATIENCE);
        bridge.stop();
    }

    /// A run without Kafka: what it accepts stays in the journal.
    fn keep(&self, part: &str) {
        self.site.configure(&format!("127.0.0.1:{}", free_port()), &self.prefix, "shutdown.drain_max = \"1ms\"");
        let bridge = self.site.start();
        send(&bridge, part);
        bridge.stop();
    }

    fn start(&self, kafka: &Kafka) -> Bridge {
        self.site.configure(&kafka.bootstrap_servers(), &self.prefix, "");
        self.site.start()
    }

    /// Copies the files of the journal whose names the filter takes.
    fn copy(&self, taken: impl Fn(&str) -> bool) -> PathBuf {
        let copy = self.site.file("copy");
        fs::create_dir(&copy).unwrap();
        copy_files(&self.site.journal(), &copy, taken);
        copy
    }

    /// How often each part's callbacks are in the topic; of each callback there is one id, and of no two the same.
    fn published(&self, kafka: &Kafka) -> BTreeMap<String, Vec<usize>> {
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        let mut ids: BTreeMap<Vec<u8>, String> = BTreeMap::new();
        for record in kafka.read(&format!("{}group-full", self.prefix)) {
            let group = String::from_utf8(record.key.clone().unwrap()).unwrap();
            let id = record.headers.iter().find(|(name, _)| name == "ce_id").unwrap().1.clone();
            assert_eq!(ids.entry(id).or_insert_with(|| group.clone()), &group, "one id of two callbacks");
            *times.entry(group).or_default() += 1;
        }
        let mut parts: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (group, times) in times {
            parts.entry(group.split('-').next().unwrap().to_owned()).or_default().push(times);
        }
        let whole = usize::try_from(CALLBACKS).unwrap();
        assert!(parts.values().all(|times| times.len() == whole), "{parts:?}");
        parts
            .into_iter()
            .map(|(part, mut times)| {
                times.dedup();
                (part, times)
            })
            .collect()
    }
}

fn send(bridge: &Bridge, part: &str) {
    for number in 0..CALLBACKS {
        bridge.accept(FULL, &group_full(&format!("{part}-{number:02}"), number));
    }
}

fn copy_files(from: &Path, to: &Path, taken: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_file() && taken(&name) {
            fs::copy(entry.path(), to.join(&name)).unwrap();
        }
    }
}

fn is_segment(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "segment")
}

/// How often the journal had to take a new identity, and how often that was said.
fn identity_changes(bridge: &Bridge) -> (f64, usize) {
    let said = bridge.lines().iter().filter(|line| line.contains("\"ERROR\"") && line.contains("the journal has a new identity")).count();
    (bridge.metrics()["chat_bridge_journal_identity_changes_total"], said)
}

/// So many callbacks, each so often.
fn each(parts: &[(&str, usize)]) -> BTreeMap<String, Vec<usize>> {
    parts.iter().map(|(part, times)| ((*part).to_owned(), vec![*times])).collect()
}

#[test]
fn a_whole_folder_put_back_publishes_what_it_holds_once_more_and_all_that_it_accepts_then() {
    let kafka = kafka::shared();
    let story = Story::new("whole", &kafka);
    story.keep("held");
    let copy = story.copy(|_| true);
    story.publish(&kafka, "later");
    story.keep("unknown");
    fs::remove_dir_all(story.site.journal()).unwrap();
    fs::rename(copy, story.site.journal()).unwrap();

    let bridge = story.start(&kafka);
    assert_eq!((bridge.recovered(), identity_changes(&bridge)), (20.0, (0.0, 0)), "nothing tells the copy from a journal that was stopped");
    send(&bridge, "after");
    bridge.settled(PATIENCE);
    bridge.stop();
    // What was accepted after the copy was taken and not published before it was put back is in no file any more.
    assert_eq!(story.published(&kafka), each(&[("after", 1), ("held", 2), ("later", 1)]));
}

#[test]
fn segments_older_than_their_checkpoint_are_told_and_the_journal_goes_on_under_a_new_identity() {
    let kafka = kafka::shared();
    for lost in [false, true] {
        let story = Story::new("segments", &kafka);
        story.publish(&kafka, "before");
        let copy = story.copy(is_segment);
        if lost {
            story.keep("later");
        } else {
            story.publish(&kafka, "later");
        }
        copy_files(&copy, &story.site.journal(), is_segment);

        let bridge = story.start(&kafka);
        assert_eq!(identity_changes(&bridge), (1.0, 1), "{}", bridge.log());
        send(&bridge, "after");
        bridge.settled(PATIENCE);
        let corrupt = bridge.metric("chat_bridge_records_completed_total{outcome=\"corrupt\"}");
        let lines: Vec<Value> = bridge.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told = lines.iter().filter(|line| line["message"] == "records of the journal are lost");
        let ranges: Vec<_> = told.map(|line| (line["first_lsn"].as_u64().unwrap(), line["last_lsn"].as_u64().unwrap())).collect();
        // Both LSNs are of records that are lost.
        let (records, expected) = if lost { (20.0, vec![(21, 40)]) } else { (0.0, Vec::new()) };
        assert_eq!((corrupt, ranges), (records, expected), "{}", bridge.log());
        bridge.stop();
        let bridge = story.start(&kafka);
        assert_eq!((identity_changes(&bridge), bridge.recovered()), ((0.0, 0), 0.0), "once");
        bridge.stop();
        let expected = if lost { each(&[("after", 1), ("before", 1)]) } else { each(&[("after", 1), ("before", 1), ("later", 1)]) };
        assert_eq!(story.published(&kafka), expected);
    }
}

#[test]
fn a_checkpoint_older_than_its_segments_has_what_came_after_it_published_again() {
    let kafka = kafka::shared();
    let story = Story::new("checkpoint", &kafka);
    story.publish(&kafka, "before");
    let copy = story.copy(|name| name == "checkpoint");
    story.publish(&kafka, "later");
    copy_files(&copy, &story.site.journal(), |_| true);

    let bridge = story.start(&kafka);
    assert_eq!((bridge.recovered(), identity_changes(&bridge)), (20.0, (0.0, 0)), "{}", bridge.log());
    send(&bridge, "after");
    bridge.settled(PATIENCE);
    bridge.stop();
    assert_eq!(story.published(&kafka), each(&[("after", 1), ("before", 1), ("later", 2)]));
}
