//! The wall clock going back an hour, and forward again, while callbacks come and events flow.
//!
//! Setting the machine's clock would set it for every test, so `clock/shifted.c` stands between the program and the clock.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support::bridge::{Bridge, PATIENCE, Site, group_full, prefix};
use crate::support::kafka::{self, Record};
use crate::support::{eventually, tests_dir};

const FULL: &str = "Group.CallbackAfterGroupFull";

/// Callbacks between two changes of the clock.
const CALLBACKS: u64 = 20;

/// When Chat gives up.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The clock of a site's bridge.
struct Clock {
    /// Its distance from the system's: seconds, as eight bytes that the program has mapped.
    offset: File,
    path: PathBuf,
    library: PathBuf,
}

impl Clock {
    fn new(site: &Site) -> Self {
        let (path, library) = (site.file("clock"), site.file("shifted.so"));
        let mut compile = Command::new("cc");
        compile
            .args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(tests_dir("bridge/clock/shifted.c"))
            .arg("-ldl");
        let done = compile.output().expect("this test needs a C compiler (Debian: build-essential)");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let clock = Self { offset: File::create(&path).unwrap(), path, library };
        clock.set(0);
        clock
    }

    /// Sets it so many hours ahead of the system's.
    fn set(&self, hours: i64) {
        self.offset.write_all_at(&(hours * 3_600).to_ne_bytes(), 0).unwrap();
    }

    fn start(&self, site: &Site) -> Bridge {
        let mut command = site.command();
        command.env("LD_PRELOAD", &self.library).env("CLOCK_OFFSET_FILE", &self.path);
        Bridge::start(command)
    }
}

/// The next callbacks of one group, numbered from 1 by their `EventTime`, each answered in time.
fn send(bridge: &Bridge, next: &mut u64) {
    for _ in 0..CALLBACKS {
        let begun = Instant::now();
        *next += 1;
        bridge.accept(FULL, &group_full("one", *next));
        assert!(begun.elapsed() < ANSWER_MAX, "{:?}", begun.elapsed());
    }
}

#[test]
fn a_clock_that_goes_back_an_hour_costs_no_callback_and_no_order() {
    let kafka = kafka::shared();
    let prefix = prefix("clock");
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, "");
    site.make_topics();
    let clock = Clock::new(&site);
    let mut next = 0;

    let bridge = clock.start(&site);
    send(&bridge, &mut next);
    // While librdkafka connects, some of its waits end at a time of day, and a clock that is set back draws them out (`docs/durability.md`).
    eventually("kafka is connected", PATIENCE, || bridge.log().contains("kafka connected").then_some(()));
    bridge.settled(PATIENCE);
    clock.set(-1);
    send(&bridge, &mut next);
    bridge.settled(PATIENCE);
    bridge.kill();
    // What a start compares with what an earlier run has written lies an hour ahead.
    clock.set(-2);
    let bridge = clock.start(&site);
    send(&bridge, &mut next);
    clock.set(0);
    send(&bridge, &mut next);
    bridge.settled(PATIENCE);
    bridge.stop();

    let mut events: Vec<Event> = kafka.read(&format!("{prefix}group-full")).iter().map(Event::of).collect();
    // The kill may have some of them published again.
    let mut seen = BTreeSet::new();
    events.retain(|event| seen.insert(event.id.clone()));
    let numbers: Vec<u64> = events.iter().map(|event| event.number).collect();
    assert_eq!(numbers, (1..=next).collect::<Vec<_>>(), "each is there, in the order of the answers");
    let first_of = |part: &[Event]| part[0].hours_after(&events[0]);
    let hours: Vec<i64> = events.chunks(usize::try_from(CALLBACKS).unwrap()).map(first_of).collect();
    assert_eq!(hours, [0, -1, -2, 0], "the clock did go back, and forward");
}

struct Event {
    id: String,
    number: u64,
    received: SystemTime,
}

impl Event {
    fn of(record: &Record) -> Self {
        let value: serde_json::Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
        let time = |name: &str| humantime::parse_rfc3339(value[name].as_str().unwrap()).unwrap();
        let number = time("time").duration_since(UNIX_EPOCH).unwrap().as_millis();
        let id = value["id"].as_str().unwrap().to_owned();
        Self { id, number: u64::try_from(number).unwrap(), received: time("chatreceivedtime") }
    }

    /// Whole hours, give or take half an hour.
    fn hours_after(&self, other: &Self) -> i64 {
        let seconds = |event: &Self| i64::try_from(event.received.duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
        (seconds(self) - seconds(other) + 1_800).div_euclid(3_600)
    }
}
