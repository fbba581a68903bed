//! What a disk can do to the bridge: be full, fail, flip bits, tear the last write, or not be a disk at all.
//!
//! Some of it needs root, for file systems of the tests' own, and strace, for errors of the disk that nothing else makes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::bridge::{Answer, Bridge, PATIENCE, Site, group_full, padded, prefix};
use crate::support::kafka::{self, Kafka};
use crate::support::senders::send_until_gone;
use crate::support::{eventually, free_port};

/// Behind a segment's header (`docs/journal-format.md`).
const FRAMES_BEGIN: usize = 8192;

const FULL: &str = "Group.CallbackAfterGroupFull";

/// A file system of a test's own. Dropped, it is taken away, whoever still uses it.
struct Mount {
    at: PathBuf,
}

impl Mount {
    /// Mounts one over a folder, which is made.
    fn new(kind: &str, options: &str, at: &Path) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test mounts file systems of its own: run it as root");
        fs::create_dir_all(at).unwrap();
        run(Command::new("mount").args(["-t", kind, "-o", options, kind]).arg(at));
        Self { at: at.to_owned() }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.at).status());
    }
}

fn run(command: &mut Command) {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn nowhere() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// Callbacks with groups of their own, and those that were answered with success.
#[derive(Default)]
struct Sender {
    answered: BTreeSet<String>,
}

impl Sender {
    /// A body of this many bytes.
    fn post(&mut self, bridge: &Bridge, bytes: usize) -> Answer {
        let group = format!("group-{:05}", self.answered.len());
        let answer = bridge.post(FULL, &padded(group_full(&group, 1), bytes));
        if answer.is_success() {
            self.answered.insert(group);
        }
        answer
    }

    /// Until there is no room: the answer that says so.
    fn fill(&mut self, bridge: &Bridge) -> Answer {
        for _ in 0..2_000 {
            let answer = self.post(bridge, 100_000);
            if !answer.is_success() {
                return answer;
            }
        }
        panic!("it is never full: {:?}", bridge.metrics());
    }

    /// Every one that was answered is there, and nothing else.
    fn is_published(&self, kafka: &Kafka, prefix: &str) {
        let keys: BTreeSet<String> = kafka.keys(&format!("{prefix}group-full")).into_iter().collect();
        assert_eq!(keys, self.answered);
    }
}

fn is_full(bridge: &Bridge, answer: &Answer, reason: &str) {
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    assert!(bridge.refused("journal_full") >= 1.0);
    assert_eq!(bridge.metrics()["chat_bridge_journal_full"], 1.0);
    let ready = bridge.page("/readyz");
    let line = ready.body.lines().find(|line| line.contains("journal")).unwrap();
    assert!(ready.status == 503 && line.contains("full") && line.contains(reason), "{}", ready.body);
}

fn is_open_again(bridge: &Bridge, sender: &mut Sender) {
    eventually("callbacks are accepted again", PATIENCE, || sender.post(bridge, 200).is_success().then_some(()));
    assert_eq!(bridge.metrics()["chat_bridge_journal_full"], 0.0);
    assert_eq!(bridge.page("/readyz").status, 200);
}

/// Takes the rest of a file system's room away.
fn take_room(at: &Path) -> PathBuf {
    let neighbour = at.join("neighbour");
    let mut file = fs::File::create(&neighbour).unwrap();
    while file.write_all(&[7; 16 * 1024]).is_ok() {}
    neighbour
}

#[test]
fn a_full_disk_is_a_full_journal_and_goes_on_by_itself_when_there_is_room() {
    let mut kafka = kafka::exclusive();
    let prefix = prefix("full");
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, "");
    site.make_topics();
    let _mount = Mount::new("tmpfs", "size=40m", &site.journal());
    let mut sender = Sender::default();

    // Full before there is anything: not even the first file can be made.
    let neighbour = take_room(&site.journal());
    let bridge = site.start();
    let answer = sender.post(&bridge, 200);
    is_full(&bridge, &answer, "no room");
    fs::remove_file(&neighbour).unwrap();
    is_open_again(&bridge, &mut sender);
    bridge.settled(PATIENCE);

    kafka.stop();
    let neighbour = take_room(&site.journal());
    let answer = sender.fill(&bridge);
    is_full(&bridge, &answer, "free");
    fs::remove_file(&neighbour).unwrap();
    is_open_again(&bridge, &mut sender);
    // To the brim once more, and a crash there.
    let answer = sender.fill(&bridge);
    is_full(&bridge, &answer, "free");
    let neighbour = take_room(&site.journal());
    bridge.kill();
    kafka.cont();
    let bridge = site.start();
    bridge.settled(PATIENCE);
    sender.is_published(&kafka, &prefix);
    fs::remove_file(&neighbour).unwrap();
    is_open_again(&bridge, &mut sender);
    bridge.settled(PATIENCE);
    bridge.stop();
    sender.is_published(&kafka, &prefix);
}

#[test]
fn a_journal_at_its_limit_refuses_until_kafka_is_back() {
    let mut kafka = kafka::exclusive();
    let prefix = prefix("limit");
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, "");
    site.change("journal.size_max = \"256MiB\"", "journal.size_max = \"32MiB\"");
    site.make_topics();
    let bridge = site.start();
    let mut sender = Sender::default();
    for _ in 0..2 {
        assert!(sender.post(&bridge, 200).is_success());
        bridge.settled(PATIENCE);
        kafka.stop();
        let answer = sender.fill(&bridge);
        is_full(&bridge, &answer, "journal.size_max");
        assert!(bridge.metrics()["chat_bridge_journal_size_bytes"] <= 32.0 * 1024.0 * 1024.0);
        kafka.cont();
        is_open_again(&bridge, &mut sender);
    }
    bridge.settled(PATIENCE);
    bridge.stop();
    sender.is_published(&kafka, &prefix);
}

/// Has calls of `call` on this file fail from the `nth` one on.
fn failing(site: &Site, file: &str, call: &str, nth: u32) -> Command {
    let serve = site.command();
    let mut command = Command::new("strace");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    // As a grandchild, so that the bridge is the child to be signalled and waited for.
    command.args(["-D", "-f", "-q", "-o", "/dev/null", "-P"]).arg(site.journal().join(file));
    command.arg("-e").arg(format!("trace={call}")).arg("-e").arg(format!("inject={call}:error=EIO:when={nth}+"));
    command.arg(serve.get_program()).args(serve.get_args());
    command
}

#[test]
fn after_a_failed_write_or_sync_nobody_is_answered_and_the_process_ends_with_74() {
    let there = Command::new("strace").arg("-V").output().is_ok_and(|done| done.status.success());
    assert!(there, "this test needs strace (Debian: strace), which makes the disk's errors");
    let kafka = kafka::shared();
    let segment = format!("{:020}.segment", 1);
    for (file, call, nth) in [
        (segment.as_str(), "fdatasync", 60),
        (segment.as_str(), "pwrite64", 60),
        ("checkpoint", "fdatasync", 4),
        ("checkpoint", "pwrite64", 4),
    ] {
        let prefix = prefix("broken");
        let site = Site::new(&nowhere(), &prefix, "");
        let mut bridge = Bridge::start(failing(&site, file, call, nth));
        let told = send_until_gone(bridge.public, 0);
        let log = bridge.ended_with(74, Duration::from_secs(10));
        let ended = Instant::now();
        let lasted = ended.duration_since(told.failed_at);
        assert!(lasted <= Duration::from_secs(4), "{call} {file}: it ended {lasted:?} after the first refusal");
        assert!(log.contains(file) && log.contains("the bridge ends"), "{log}");
        assert!(!told.answered.is_empty());

        site.configure(&kafka.bootstrap_servers(), &prefix, "");
        site.make_topics();
        let bridge = site.start();
        bridge.settled(PATIENCE);
        bridge.stop();
        let keys: BTreeSet<String> = kafka.keys(&format!("{prefix}group-full")).into_iter().collect();
        assert!(told.answered.is_subset(&keys), "{call} {file}: {:?}", told.answered.difference(&keys).collect::<Vec<_>>());
    }
}

/// A stopped bridge's journal, with fifty callbacks that are not published.
fn unpublished(prefix: &str) -> (Site, Sender) {
    let site = Site::new(&nowhere(), prefix, "shutdown.drain_max = \"1ms\"");
    let bridge = site.start();
    let mut sender = Sender::default();
    for _ in 0..50 {
        assert!(sender.post(&bridge, 400).is_success());
    }
    bridge.stop();
    (site, sender)
}

pub(crate) fn segment(site: &Site) -> PathBuf {
    site.journal().join(format!("{:020}.segment", 1))
}

fn set_aside(site: &Site) -> usize {
    fs::read_dir(site.journal().join("set-aside")).map_or(0, Iterator::count)
}

#[test]
fn a_flipped_bit_costs_one_record_at_most_which_is_counted_said_and_set_aside() {
    /// Which record's frame is damaged, and at what distance from its beginning.
    const DAMAGES: [(&str, usize, usize); 5] = [
        ("frame header", 9, 18),
        ("record's LSN", 19, 32),
        ("record's length", 29, 32 + 9),
        ("body", 39, 32 + 300),
        ("the last body", 49, 32 + 300),
    ];
    let kafka = kafka::shared();
    let prefix = prefix("flipped");
    let (site, mut sender) = unpublished(&prefix);
    let mut bytes = fs::read(segment(&site)).unwrap();
    let starts = frames(&bytes).starts;
    for (_, number, distance) in DAMAGES {
        bytes[starts[number] + distance] ^= 0x10;
    }
    fs::write(segment(&site), bytes).unwrap();

    site.configure(&kafka.bootstrap_servers(), &prefix, "");
    site.make_topics();
    let bridge = site.start();
    assert_eq!(bridge.recovered(), 50.0);
    bridge.settled(PATIENCE);
    let metrics = bridge.metrics();
    let log = bridge.stop();
    // Damage to what only says which records belong together costs none.
    for (outcome, records) in [("corrupt", 4.0), ("published", 46.0)] {
        assert_eq!(metrics[&format!("chat_bridge_records_completed_total{{outcome=\"{outcome}\"}}")], records, "{log}");
    }
    assert_eq!((set_aside(&site), metrics["chat_bridge_journal_set_aside_total"]), (5, 5.0), "{log}");
    assert!(log.lines().any(|line| line.contains("\"ERROR\"") && line.contains("set aside")), "{log}");
    let keys: BTreeSet<String> = kafka.keys(&format!("{prefix}group-full")).into_iter().collect();
    let lost: BTreeSet<String> = sender.answered.difference(&keys).cloned().collect();
    assert_eq!(lost, ["group-00019", "group-00029", "group-00039", "group-00049"].map(str::to_owned).into());

    // The next start finds nothing new, and goes on.
    sender.answered = keys;
    let bridge = site.start();
    assert_eq!((bridge.recovered(), set_aside(&site)), (0.0, 5));
    bridge.accept(FULL, &group_full("after", 1));
    sender.answered.insert("after".to_owned());
    bridge.settled(PATIENCE);
    bridge.stop();
    sender.is_published(&kafka, &prefix);
}

#[test]
fn a_flipped_bit_in_an_older_segment_costs_one_record_when_it_is_read() {
    let kafka = kafka::shared();
    let prefix = prefix("older");
    let nowhere = nowhere();
    let site = Site::new(&nowhere, &prefix, "http.body_max = \"512KiB\"\nshutdown.drain_max = \"1ms\"");
    site.change("journal.segment_size = \"8MiB\"", "journal.segment_size = \"1MiB\"");
    let bridge = site.start();
    let mut sender = Sender::default();
    for _ in 0..100 {
        assert!(sender.post(&bridge, 40_000).is_success());
    }
    assert!(bridge.metrics()["chat_bridge_journal_segments"] >= 4.0);
    bridge.stop();
    let mut bytes = fs::read(segment(&site)).unwrap();
    let start = frames(&bytes).starts[9];
    bytes[start + 1_000] ^= 0x10;
    fs::write(segment(&site), bytes).unwrap();

    site.change(&format!("kafka.bootstrap_servers = {nowhere:?}"), &format!("kafka.bootstrap_servers = {:?}", kafka.bootstrap_servers()));
    site.make_topics();
    let bridge = site.start();
    bridge.settled(PATIENCE);
    let metrics = bridge.metrics();
    let log = bridge.stop();
    for (outcome, records) in [("corrupt", 1.0), ("published", 99.0)] {
        assert_eq!(metrics[&format!("chat_bridge_records_completed_total{{outcome=\"{outcome}\"}}")], records, "{log}");
    }
    assert_eq!((set_aside(&site), metrics["chat_bridge_journal_set_aside_total"]), (1, 1.0), "{log}");
    assert!(sender.answered.remove("group-00009"));
    sender.is_published(&kafka, &prefix);
}

/// The frames of a segment: where each begins, where they end, their salt, and the LSN that would come next.
pub(crate) struct Frames {
    pub(crate) starts: Vec<usize>,
    pub(crate) end: usize,
    pub(crate) salt: [u8; 8],
    pub(crate) next: u64,
}

pub(crate) fn frames(bytes: &[u8]) -> Frames {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let small = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let salt = bytes[FRAMES_BEGIN + 8..FRAMES_BEGIN + 16].try_into().unwrap();
    let mut frames = Frames { starts: Vec::new(), end: FRAMES_BEGIN, salt, next: 0 };
    while bytes[frames.end..].starts_with(b"CBfr") {
        frames.starts.push(frames.end);
        frames.next = number(frames.end + 16) + u64::from(small(frames.end + 24));
        frames.end += 32 + usize::try_from(small(frames.end + 28)).unwrap();
    }
    frames
}

/// A frame of one record, of which a crash left the beginning.
pub(crate) fn torn_frame(salt: [u8; 8], lsn: u64, written: usize) -> Vec<u8> {
    let payload = [7_u8; 500];
    let mut seed = crc32c::crc32c_append(crc32c::crc32c(&salt), &lsn.to_le_bytes());
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    let mut record = [&lsn.to_le_bytes()[..], &length, &crc32c::crc32c_append(seed, &payload).to_le_bytes()].concat();
    seed = crc32c::crc32c_append(seed, &length);
    record.extend_from_slice(&seed.to_le_bytes());
    record.extend_from_slice(&payload);
    let behind = [&salt[..], &lsn.to_le_bytes(), &1_u32.to_le_bytes(), &u32::try_from(record.len()).unwrap().to_le_bytes()].concat();
    let mut frame = [b"CBfr", &crc32c::crc32c(&behind).to_le_bytes()[..], &behind, &record].concat();
    frame.truncate(written);
    frame
}

#[test]
fn a_torn_tail_is_cut_and_said_and_the_bridge_goes_on() {
    let kafka = kafka::shared();
    for written in [16, 40, 300] {
        let prefix = prefix("torn");
        let site = Site::new(&nowhere(), &prefix, "");
        let bridge = site.start();
        let mut sender = Sender::default();
        for _ in 0..50 {
            assert!(sender.post(&bridge, 400).is_success());
        }
        bridge.kill();
        let Frames { end, salt, next, .. } = frames(&fs::read(segment(&site)).unwrap());
        assert_eq!(next, 51);
        let file = fs::OpenOptions::new().write(true).open(segment(&site)).unwrap();
        file.write_all_at(&torn_frame(salt, next, written), u64::try_from(end).unwrap()).unwrap();
        drop(file);

        site.configure(&kafka.bootstrap_servers(), &prefix, "");
        site.make_topics();
        let bridge = site.start();
        assert!(bridge.log().contains("torn tail was cut"), "{written}: {}", bridge.log());
        assert_eq!((bridge.recovered(), bridge.metric("chat_bridge_journal_torn_tails_total")), (50.0, 1.0));
        assert_eq!((set_aside(&site), bridge.metric("chat_bridge_journal_set_aside_total")), (0, 0.0));
        for _ in 0..10 {
            assert!(sender.post(&bridge, 400).is_success());
        }
        bridge.settled(PATIENCE);
        bridge.kill();
        let bridge = site.start();
        assert_eq!(bridge.metric("chat_bridge_journal_torn_tails_total"), 0.0);
        bridge.settled(PATIENCE);
        bridge.stop();
        sender.is_published(&kafka, &prefix);
    }
}

#[test]
fn a_journal_in_memory_or_in_a_container_s_own_layer_is_warned_of() {
    let site = Site::new(&nowhere(), "warned.", "");
    let root = site.file("mounted");
    let layers = Mount::new("tmpfs", "size=40m", &root);
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| root.join(name));
    for dir in [&lower, &upper, &work] {
        fs::create_dir(dir).unwrap();
    }
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let overlay = Mount::new("overlay", &options, &root.join("merged"));
    for (dir, said) in [(&root, "tmpfs"), (&overlay.at, "overlayfs")] {
        let before = format!("journal.dir = {:?}", site.journal());
        let after = format!("journal.dir = {:?}", dir.join("journal"));
        site.change(&before, &after);
        let mut check = site.command();
        check = {
            let mut command = Command::new(check.get_program());
            command.env_clear().arg("check").args(check.get_args().skip(1).map(OsStr::to_owned));
            command
        };
        let done = check.output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success() && text.contains("journal.dir") && text.contains(said), "{text}");
        let bridge = site.start();
        let warned = |line: &String| line.contains("\"WARN\"") && line.contains("journal.dir") && line.contains(said);
        assert_eq!(bridge.lines().iter().filter(|line| warned(line)).count(), 1, "{}", bridge.log());
        bridge.kill();
        site.change(&after, &before);
    }
    drop(overlay);
    drop(layers);
}
