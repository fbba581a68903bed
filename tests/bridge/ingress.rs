//! The public side from outside: real sockets, a real journal in a folder of its own.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use chat_bridge::callback::{self, Callback};
use chat_bridge::clock::{Clock, Timestamp};
use chat_bridge::config::{Answer as FixedAnswer, App, Config, Period, Size};
use chat_bridge::ingress::{self, Ingress, Refusal, Setup, Stopped, Strangers, Unanswered};
use chat_bridge::journal::storage::{self, Disk, Storage};
use chat_bridge::journal::{self, Item, Journal, Lsn, Positions, State};
use chat_bridge::metrics::{Labels, Metrics};

use crate::support::http::{Answer, Client, OK};

/// The official sample: the digest of this token and time.
const TOKEN: &str = "xxxxyyyy";
const TIME: i64 = 1_669_872_112;
const SIGN: &str = "17773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061";

/// Apps of the tests: one that anybody may use, one with tokens, one with networks that loopback is none of.
const OPEN: &str = "SdkAppid=10";
const SIGNED: &str = "SdkAppid=20";
const FOREIGN: &str = "SdkAppid=30";

/// A running ingress.
struct Bench {
    ingress: Ingress,
    address: SocketAddr,
    journal: Journal,
    metrics: Metrics,
    beats: Arc<AtomicU64>,
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::on(Arc::new(Disk::default()), |config, _| change(config))
    }

    /// On that disk. The settings of the journal are made of the configuration before both may be changed.
    fn on(disk: Arc<dyn Storage>, change: impl FnOnce(&mut Config, &mut journal::Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tokens = folder.path().join("tokens");
        std::fs::write(&tokens, format!("older\n{TOKEN}\n")).unwrap();
        let mut config = Config {
            apps: vec![
                App { sdk_app_id: 10, tokens_file: None, sources: None },
                App { sdk_app_id: 20, tokens_file: Some(tokens), sources: None },
                App { sdk_app_id: 30, tokens_file: None, sources: Some(vec!["203.0.113.0/24".parse().unwrap()]) },
            ],
            ..Config::default()
        };
        config.http.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        config.http.body_max = Size::from_kib(256);
        config.journal.dir = folder.path().join("journal");
        config.journal.size_max = Size::from_mib(16);
        config.journal.segment_size = Size::from_mib(2);
        config.journal.free_space_min = Size::from_bytes(0);
        let mut settings = journal::Config::new(&config.journal, ingress::record_max(&config.http));
        change(&mut config, &mut settings);
        let metrics = Metrics::new(&Labels { refusals: Refusal::REASONS, ..Labels::default() }).unwrap();
        let clock = Clock::manual(Timestamp::from_micros(TIME * 1_000_000));
        let journal = journal::open(settings, disk, metrics.journal.clone(), clock.clone()).unwrap().journal;
        let beats = Arc::new(AtomicU64::new(0));
        let bound = Ingress::bind(&config, Strangers::Refused).unwrap();
        let address = bound.local_addr();
        let counted = Arc::clone(&beats);
        let ingress = bound
            .serve(Setup {
                tracer: None,
                workers: NonZeroUsize::new(2).unwrap(),
                journal: journal.clone(),
                metrics: metrics.ingress.clone(),
                clock,
                heartbeat: Arc::new(move |worker| {
                    counted.fetch_or(1 << worker, Ordering::Relaxed);
                }),
            })
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { ingress, address, journal, metrics, beats, folder, runtime }
    }

    fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// One request on a connection of its own.
    fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut client = self.client();
        client.send(request);
        client.answer()
    }

    fn refused(&self, reason: &'static str) -> u64 {
        self.metrics.ingress.refused(reason).get()
    }

    fn refusals(&self) -> u64 {
        Refusal::REASONS.iter().map(|reason| self.refused(reason)).sum()
    }

    /// All callbacks that are durable.
    fn kept(&self) -> Vec<Callback> {
        let mut reader = self.journal.reader(Lsn::FIRST);
        let mut kept = Vec::new();
        while let Some(item) = reader.next().unwrap() {
            match item {
                Item::Record { record, .. } => kept.push(Callback::decode(record).unwrap()),
                Item::Corrupt { .. } => panic!("{item:?}"),
            }
        }
        kept
    }

    fn stop(&self, within: Duration) -> Stopped {
        self.runtime.block_on(self.ingress.stop(within))
    }
}

/// Waits until it is so; fails after a time that only a fault takes.
#[track_caller]
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// What an answer is to be.
trait Expected {
    fn succeeds(&self);
    fn is(&self, refusal: Refusal);
}

impl Expected for Answer {
    #[track_caller]
    fn succeeds(&self) {
        assert!(self.is_success() && self.header("content-type") == Some("application/json"), "{self:?}");
    }

    #[track_caller]
    fn is(&self, refusal: Refusal) {
        assert_eq!(self.status, refusal.status().as_u16(), "{self:?}");
        assert_eq!((self.body.as_str(), self.header("content-type")), (refusal.body(), Some("application/json")));
        assert_eq!(self.header("allow"), (self.status == 405).then_some("post"));
        assert_eq!(self.header("retry-after"), (self.status == 503).then_some("1"));
    }
}

/// The connection takes another callback.
#[track_caller]
fn goes_on(client: &mut Client) {
    client.send(post(OPEN, "{}"));
    client.answer().succeeds();
}

fn request(method: &str, query: &str, headers: &[&str], body: &str) -> String {
    let mut request = format!("{method} /callback?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n", body.len());
    for header in headers {
        write!(request, "{header}\r\n").unwrap();
    }
    write!(request, "\r\n{body}").unwrap();
    request
}

fn post(query: &str, body: &str) -> String {
    request("POST", query, &[], body)
}

fn chunked(query: &str, chunks: &[&str]) -> String {
    let mut request = format!("POST /?{query} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    for chunk in chunks {
        write!(request, "{:x}\r\n{chunk}\r\n", chunk.len()).unwrap();
    }
    request.push_str("0\r\n\r\n");
    request
}

/// A disk whose segments are synced only while its gate lets them.
#[derive(Debug, Default)]
struct GatedDisk {
    disk: Disk,
    gate: Arc<Gate>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Passage {
    #[default]
    Open,
    Shut,
    Broken,
}

#[derive(Debug, Default)]
struct Gate {
    passage: Mutex<Passage>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, passage: Passage) {
        *self.passage.lock().unwrap() = passage;
        self.changed.notify_all();
    }

    fn pass(&self) -> io::Result<()> {
        let passage = self.passage.lock().unwrap();
        match *self.changed.wait_while(passage, |passage| *passage == Passage::Shut).unwrap() {
            Passage::Broken => Err(io::Error::other("broken on purpose")),
            Passage::Open | Passage::Shut => Ok(()),
        }
    }
}

#[derive(Debug)]
struct GatedFile {
    file: Box<dyn storage::File>,
    gate: Arc<Gate>,
}

impl storage::File for GatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass()?;
        self.file.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
}

impl GatedDisk {
    fn gated(&self, file: Box<dyn storage::File>) -> Box<dyn storage::File> {
        Box::new(GatedFile { file, gate: Arc::clone(&self.gate) })
    }
}

impl Storage for GatedDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<storage::Entry>> {
        self.disk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn storage::File>> {
        Ok(self.gated(self.disk.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn storage::File>> {
        Ok(self.gated(self.disk.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.disk.free_space(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn storage::Lock>> {
        self.disk.lock(path)
    }
}

/// A bench whose gate is shut, with one callback that the journal's writer has in hand; its sender waits.
fn held_up(change: impl FnOnce(&mut journal::Config)) -> (Bench, Arc<Gate>, Client) {
    let disk = GatedDisk::default();
    let gate = Arc::clone(&disk.gate);
    let bench = Bench::on(Arc::new(disk), |_, settings| change(settings));
    // What the keeper has to do at first is done when both spares are there: only the writer syncs segments then.
    eventually("the journal has its spares", || bench.metrics.journal.spares.get() == 2);
    goes_on(&mut bench.client());
    gate.set(Passage::Shut);
    let mut client = bench.client();
    let written = bench.metrics.journal.appended_records.get();
    client.send(post(OPEN, "{}"));
    // Not when something is held at the gate: the keeper syncs its checkpoint there.
    eventually("the writer has it", || bench.metrics.journal.appended_records.get() > written);
    (bench, gate, client)
}

#[test]
fn nobody_is_answered_before_the_sync() {
    let (bench, gate, mut first) = held_up(|_| {});
    let mut others: Vec<_> = (0..5).map(|_| bench.client()).collect();
    for client in &mut others {
        client.send(post(OPEN, "{}"));
    }
    first.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let early = first.stream.read(&mut [0; 1]);
    assert!(matches!(&early, Err(error) if error.kind() == ErrorKind::WouldBlock), "{early:?}");
    first.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(bench.metrics.journal.durable_records.get(), 1);
    gate.set(Passage::Open);
    first.answer().succeeds();
    for client in &mut others {
        client.answer().succeeds();
    }
    assert_eq!(bench.kept().len(), 7);
}

#[test]
fn a_callback_that_is_not_taken_in_time_is_refused_and_not_kept() {
    let (bench, gate, mut first) = held_up(|settings| settings.answer_max = Duration::from_millis(200));
    let mut second = bench.client();
    second.send(post(OPEN, "late"));
    second.answer().is(Refusal::NotTaken);
    gate.set(Passage::Open);
    first.answer().succeeds();
    goes_on(&mut second);
    assert_eq!(bench.refused("not_taken"), 1);
    assert!(bench.kept().iter().all(|callback| callback.body != "late"));
}

#[test]
fn too_many_that_wait_are_refused() {
    let (bench, gate, mut first) = held_up(|settings| settings.waiting_records_max = 1);
    let mut clients: Vec<_> = (0..3).map(|_| bench.client()).collect();
    for client in &mut clients {
        client.send(post(OPEN, "{}"));
    }
    eventually("two are refused", || bench.refused("too_many_waiting") == 2);
    gate.set(Passage::Open);
    first.answer().succeeds();
    let mut statuses: Vec<_> = clients.iter_mut().map(|client| client.answer().status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 503, 503]);
    clients.iter_mut().for_each(goes_on);
}

#[test]
fn after_a_failed_sync_nobody_is_answered_with_success() {
    let (bench, gate, mut first) = held_up(|_| {});
    gate.set(Passage::Broken);
    first.answer().is(Refusal::JournalFailed);
    for refusal in [Refusal::AppUnknown, Refusal::JournalFailed] {
        let query = if refusal == Refusal::AppUnknown { "SdkAppid=11" } else { OPEN };
        first.send(post(query, "{}"));
        first.answer().is(refusal);
    }
    assert_eq!(bench.refused("journal_failed"), 2);
    assert_eq!(bench.metrics.journal.durable_records.get(), 1);
    // The ingress goes on: it is for `app` to end the process.
    assert_eq!(bench.stop(Duration::from_secs(20)), Stopped::Clean);
}

#[test]
fn a_full_journal_refuses_until_there_is_room() {
    let bench = Bench::on(Arc::new(Disk::default()), |config, settings| {
        config.topics.discard.extend(["A.b".to_owned()]);
        settings.segment_size = 1 << 20;
        settings.size_max = 4 << 20;
        settings.room_retry_interval = Duration::from_millis(20);
    });
    let body = "x".repeat(200_000);
    let mut client = bench.client();
    let mut accepted = 0;
    loop {
        client.send(post(OPEN, &body));
        let answer = client.answer();
        if answer.status != 200 {
            answer.is(Refusal::JournalFull);
            break;
        }
        accepted += 1;
        assert!(accepted < 100);
    }
    assert!(accepted > 5, "{accepted}");
    // Decided from the head now; refusals that come earlier in the order still do.
    client.send(post(OPEN, "{}"));
    client.answer().is(Refusal::JournalFull);
    client.send(post("SdkAppid=11", "{}"));
    client.answer().is(Refusal::AppUnknown);
    client.send(post("SdkAppid=10&CallbackCommand=A.b", "{}"));
    client.answer().succeeds();
    assert_eq!(bench.kept().len(), accepted);
    let scanned = bench.journal.durable_end();
    bench.journal.set_positions(Positions { scanned, behind: Vec::new(), completed_beyond: 0, sent_bound: scanned });
    eventually("there is room", || matches!(bench.journal.state(), State::Open));
    goes_on(&mut client);
}

#[test]
fn a_callback_is_answered_once_it_is_durable_and_kept_as_it_came() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let bench = Bench::new();
    let body = "{\"CallbackCommand\":\"Group.CallbackAfterGroupFull\",\"GroupId\":\"@TGS#\u{00e9}\"}\n";
    let query =
        format!("CallbackCommand=Group.CallbackAfterGroupFull&{SIGNED}&Sign={SIGN}&RequestTime={TIME}&ClientIP=::1&OptPlatform=%4Dac");
    let answer = bench.ask(request("POST", &query, &[&format!("traceparent: {TRACE}")], body));
    answer.succeeds();
    assert!(answer.header("date").is_some() && !answer.closes());
    let kept = bench.kept();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].body, body.as_bytes());
    assert_eq!((kept[0].app, kept[0].command.as_str()), (20, "Group.CallbackAfterGroupFull"));
    assert_eq!(kept[0].query, query.replace(&format!("&Sign={SIGN}"), ""));
    assert_eq!(kept[0].traceparent.as_deref(), Some(TRACE));
    assert_eq!(kept[0].received, Timestamp::from_micros(TIME * 1_000_000));
    assert_eq!(bench.refusals(), 0);
    assert_eq!(bench.metrics.ingress.answer_duration_seconds.get_sample_count(), 1);
    assert_eq!(bench.metrics.journal.durable_records.get(), 1);
}

#[test]
fn whatever_is_authentic_is_kept() {
    let bench = Bench::new();
    let deep = "[".repeat(100_000);
    let mut client = bench.client();
    let bodies: [&[u8]; 8] = [
        b"",
        b"not JSON",
        b"\0\0\0",
        b"\xff\xfe",
        deep.as_bytes(),
        b"{\"a\":1e999999}",
        b"{\"CallbackCommand\":1,\"CallbackCommand\":2}",
        b"[]",
    ];
    for query in [OPEN, "SdkAppid=10&CallbackCommand=No.Such"] {
        for body in bodies {
            client.send(format!("POST /?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len()));
            client.send(body);
            client.answer().succeeds();
        }
    }
    let kept: Vec<_> = bench.kept().into_iter().map(|callback| callback.body).collect();
    assert_eq!(kept, [bodies, bodies].concat());
}

#[test]
fn the_command_is_the_querys_else_the_bodys_else_empty() {
    let bench = Bench::new();
    let mut client = bench.client();
    for (query, body, command) in [
        ("SdkAppid=10&CallbackCommand=A.b", r#"{"CallbackCommand":"C.d"}"#, "A.b"),
        ("SdkAppid=10&callbackcommand=%41.b", "", "A.b"),
        ("SdkAppid=10&CallbackCommand=", r#"{"CallbackCommand":"C.d"}"#, "C.d"),
        (OPEN, r#"{"x":{"CallbackCommand":"no"},"CallbackCommand":"C.d"}"#, "C.d"),
        (OPEN, "{}", ""),
    ] {
        client.send(post(query, body));
        client.answer().succeeds();
        assert_eq!(bench.kept().last().unwrap().command, command, "{query} {body}");
    }
    let receipts: std::collections::BTreeSet<_> = bench.kept().iter().map(|callback| callback.receipt).collect();
    assert_eq!(receipts.len(), 5);
}

#[test]
fn refusals_are_decided_in_the_order_of_the_interface() {
    let bench = Bench::with(|config| config.http.bodies_max = Size::from_kib(16));
    let signed = format!("{SIGNED}&RequestTime={TIME}");
    // Each request has the fault of its line and those of all lines below it.
    let encoded = "Content-Encoding: gzip";
    let large = "Content-Length: 300000";
    let unroomy = "Content-Length: 20000";
    for (method, query, headers, refusal) in [
        ("GET", "Sign=1&sign=2", &[encoded, large][..], Refusal::Method),
        ("PUT", OPEN, &[], Refusal::Method),
        ("DELETE", OPEN, &[], Refusal::Method),
        ("OPTIONS", OPEN, &[], Refusal::Method),
        ("BREW", OPEN, &[], Refusal::Method),
        ("POST", "Sign=1&sign=2", &[encoded, large], Refusal::DuplicateParameter),
        ("POST", "SdkAppid=10&SDKAPPID=10", &[], Refusal::DuplicateParameter),
        ("POST", "SdkAppid=10&%53dkAppid=10", &[], Refusal::DuplicateParameter),
        ("POST", "SdkAppid=10&CallbackCommand=a&callbackcommand=a", &[], Refusal::DuplicateParameter),
        ("POST", "SdkAppid=10&RequestTime=1&requesttime=1", &[], Refusal::DuplicateParameter),
        ("POST", "", &[encoded, large], Refusal::AppMissing),
        ("POST", "SdkAppid=11", &[encoded, large], Refusal::AppUnknown),
        ("POST", "SdkAppid=", &[encoded, large], Refusal::AppUnknown),
        ("POST", "SdkAppid=%2b10", &[encoded, large], Refusal::AppUnknown),
        ("POST", FOREIGN, &[encoded, large], Refusal::Source),
        ("POST", SIGNED, &[encoded, large], Refusal::SignMissing),
        ("POST", &signed, &[encoded, large], Refusal::SignMissing),
        ("POST", &format!("{signed}&Sign={}", SIGN.replace('1', "2")), &[encoded, large], Refusal::SignWrong),
        ("POST", &format!("{SIGNED}&RequestTime=x&Sign={SIGN}"), &[encoded, large], Refusal::RequestTime),
        ("POST", OPEN, &[encoded, large], Refusal::ContentEncoding),
        ("POST", OPEN, &[large], Refusal::BodyTooLarge),
        ("POST", OPEN, &[unroomy], Refusal::Bodies),
    ] {
        let before = bench.refused(refusal.reason());
        let mut request = format!("{method} /?{query} HTTP/1.1\r\nHost: x\r\n");
        for header in headers {
            write!(request, "{header}\r\n").unwrap();
        }
        request.push_str("\r\n");
        bench.ask(request).is(refusal);
        assert_eq!(bench.refused(refusal.reason()), before + 1, "{refusal:?}");
    }
    assert_eq!(bench.kept(), []);
    assert_eq!(bench.refusals(), 22);
}

#[test]
fn request_time_is_judged_by_our_clock() {
    let bench = Bench::new();
    let sign = |time: i64| {
        use sha2::Digest;
        sha2::Sha256::digest(format!("{TOKEN}{time}")).iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02X}").unwrap();
            hex
        })
    };
    for (distance, status) in [(-61, 401), (-60, 200), (60, 200), (61, 401)] {
        let time = TIME + distance;
        let answer = bench.ask(post(&format!("{SIGNED}&RequestTime={time}&Sign={}", sign(time)), "{}"));
        assert_eq!(answer.status, status, "{distance}");
    }
    assert_eq!(bench.refused("request_time"), 2);
    assert_eq!(bench.metrics.ingress.request_time_skew_seconds.get_sample_count(), 4);
}

#[test]
fn a_percent_sign_hides_nothing() {
    let bench = Bench::new();
    let query = format!("%53dkAppid=%32%30&sig%6E=%31{}&Request%54ime={TIME}&RequestId=a%26b", &SIGN[1..]);
    bench.ask(post(&query, "{}")).succeeds();
    let kept = bench.kept();
    assert_eq!(kept[0].app, 20);
    assert_eq!(kept[0].query, format!("%53dkAppid=%32%30&Request%54ime={TIME}&RequestId=a%26b"));
}

#[test]
fn a_refusal_whose_body_has_arrived_leaves_the_connection_open() {
    let bench = Bench::new();
    let mut client = bench.client();
    // More than one read of hyper's takes in.
    let large = "x".repeat(200_000);
    for body in ["", "{}", &large] {
        for (method, query, headers, refusal) in [
            ("GET", OPEN, &[][..], Refusal::Method),
            ("POST", "Sign=1&Sign=1", &[], Refusal::DuplicateParameter),
            ("POST", "SdkAppid=11", &[], Refusal::AppUnknown),
            ("POST", SIGNED, &[], Refusal::SignMissing),
            ("POST", OPEN, &["Content-Encoding: br"], Refusal::ContentEncoding),
        ] {
            client.send(request(method, query, headers, body));
            let answer = client.answer();
            answer.is(refusal);
            if answer.closes() {
                // Only a body that had not all arrived when it was refused may cost the connection.
                assert_eq!(body.len(), large.len());
                client.is_closed();
                client = bench.client();
            }
            goes_on(&mut client);
        }
    }
    client.send("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
    let answer = client.head();
    assert_eq!((answer.status, answer.header("allow")), (405, Some("post")));
    goes_on(&mut client);
    client.send("CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.answer().status, 405);
}

#[test]
fn a_refusal_does_not_wait_for_the_body_and_closes() {
    let bench = Bench::new();
    for (head, refusal) in [
        ("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", Refusal::Method),
        ("POST /?SdkAppid=11 HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc", Refusal::AppUnknown),
        ("POST /?SdkAppid=11 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", Refusal::AppUnknown),
        ("POST /?SdkAppid=20 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n", Refusal::SignMissing),
    ] {
        let mut client = bench.client();
        client.send(head);
        let answer = client.answer();
        answer.is(refusal);
        assert!(answer.closes(), "{head}");
        // What the sender still sends does not take the answer away, and is not taken for a request.
        client.send("0123456789");
        client.stream.shutdown(Shutdown::Write).unwrap();
        client.is_closed();
    }
    assert_eq!(bench.refused("not_http"), 0);
}

#[test]
fn the_answer_to_a_body_that_is_too_large_reaches_a_sender_that_sends_on() {
    let bench = Bench::new();
    let body = "x".repeat(8 << 20);
    for request in [post(OPEN, &body), chunked(OPEN, &[&body])] {
        let mut client = bench.client();
        let mut writer = client.stream.try_clone().unwrap();
        let sender = std::thread::spawn(move || writer.write_all(request.as_bytes()));
        let answer = client.answer();
        answer.is(Refusal::BodyTooLarge);
        assert!(answer.closes());
        sender.join().unwrap().unwrap();
        client.stream.shutdown(Shutdown::Write).unwrap();
        client.is_closed();
    }
    assert_eq!(bench.refused("body_too_large"), 2);
    assert_eq!(bench.kept(), []);
}

#[test]
fn a_body_may_be_as_large_as_the_limit_and_come_in_any_pieces() {
    let bench = Bench::new();
    let limit = "y".repeat(256 << 10);
    let mut client = bench.client();
    client.send(post(OPEN, &limit));
    client.answer().succeeds();
    client.send(chunked(OPEN, &[&limit]));
    client.answer().succeeds();
    client.send(chunked(OPEN, &["{", "\"a\"", ":1}"]));
    client.answer().succeeds();
    client.send(chunked(OPEN, &[]));
    client.answer().succeeds();
    for byte in post(OPEN, "{\"b\":2}").bytes() {
        client.send([byte]);
    }
    client.answer().succeeds();
    let kept: Vec<_> = bench.kept().into_iter().map(|callback| callback.body).collect();
    assert_eq!(kept, [limit.as_bytes(), limit.as_bytes(), b"{\"a\":1}", b"", b"{\"b\":2}"]);
    client.send(chunked(OPEN, &[&limit, "z"]));
    client.answer().is(Refusal::BodyTooLarge);
    // The command is kept twice, so that both at their largest are more than the journal takes.
    bench.ask(post(&format!("{OPEN}&CallbackCommand={}", "c".repeat(14_000)), &limit)).succeeds();
    bench.ask(post(&format!("{OPEN}&CallbackCommand={}", "c".repeat(30_000)), &limit)).is(Refusal::BodyTooLarge);
}

#[test]
fn a_slow_body_is_refused() {
    let bench = Bench::with(|config| config.http.body_timeout = Period::from_millis(200));
    for head in ["Content-Length: 10\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"] {
        let mut client = bench.client();
        client.send(format!("POST /?{OPEN} HTTP/1.1\r\nHost: x\r\n{head}"));
        let answer = client.answer();
        answer.is(Refusal::BodyTimeout);
        assert!(answer.closes());
        client.stream.shutdown(Shutdown::Write).unwrap();
        client.is_closed();
    }
    assert_eq!(bench.refused("body_timeout"), 2);
    eventually("their bytes are given back", || bench.metrics.ingress.bodies_bytes.get() == 0);
}

#[test]
fn a_sender_that_hangs_up_while_sending_is_counted() {
    let bench = Bench::new();
    for head in
        ["Content-Length: 10\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n5\r\n{", "Content-Length: 10\r\nExpect: 100-continue\r\n\r\n"]
    {
        let mut client = bench.client();
        client.send(format!("POST /?{OPEN} HTTP/1.1\r\nHost: x\r\n{head}"));
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert!(!client.rest().contains("200"));
    }
    eventually("each is counted", || bench.refused("body_incomplete") == 3);
    assert_eq!(bench.refusals(), 3);
    assert_eq!(bench.kept(), []);
}

#[test]
fn a_sender_that_only_closes_its_side_gets_its_answer() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.send(post(OPEN, "{}"));
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.answer().succeeds();
    client.is_closed();
    assert_eq!(bench.refusals(), 0);
}

#[test]
fn what_is_not_http_is_counted_once_and_harms_nobody() {
    let bench = Bench::with(|config| config.http.header_max = Size::from_kib(4));
    let long = format!("POST /?{OPEN} HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(5_000));
    let many = format!("POST /?{OPEN} HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(200));
    let uri = format!("POST /?{OPEN}&{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(5_000));
    let endless = "x".repeat(100_000);
    let mut other = bench.client();
    for (index, (bytes, answer)) in [
        ("rubbish\r\n\r\n", "HTTP/1.1 400"),
        ("POST / HTTP/9.9\r\n\r\n", "HTTP/1.1 400"),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", "HTTP/1.1 400"),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 400"),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "HTTP/1.1 400"),
        ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", "HTTP/1.1 400"),
        ("POST / HTTP/1.1\r\nno colon\r\n\r\n", "HTTP/1.1 400"),
        ("\x16\x03\x01\x02\0\x01\0\x01\u{7c}", "HTTP/1.1 400"),
        (&long, "HTTP/1.1 431"),
        (&many, "HTTP/1.1 431"),
        (&uri, "HTTP/1.1 431"),
        (&endless, "HTTP/1.1 431"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""),
        ("POST / HT", ""),
        (&format!("POST /?{OPEN} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"), ""),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = bench.client();
        client.send(bytes);
        client.stream.shutdown(Shutdown::Write).unwrap();
        let rest = client.rest();
        assert!(rest.starts_with(answer) && (!answer.is_empty() || rest.is_empty()), "{bytes:?} got {rest:?}");
        assert!(answer.is_empty() || rest.contains("content-length: 0"), "{rest}");
        eventually("it is counted", || bench.refused("not_http") == u64::try_from(index).unwrap() + 1);
        goes_on(&mut other);
    }
    assert_eq!(bench.refusals(), 15);
}

#[test]
fn rubbish_behind_a_request_is_counted_and_the_request_answered() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.send(format!("POST /?{OPEN} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}}} more than was said\r\n\r\n"));
    client.answer().succeeds();
    assert!(client.rest().starts_with("HTTP/1.1 400"));
    eventually("it is counted", || bench.refused("not_http") == 1);
    assert_eq!(bench.kept().len(), 1);
}

#[test]
fn a_slow_head_is_closed_and_an_idle_connection_is_not() {
    let bench = Bench::with(|config| {
        config.http.header_timeout = Period::from_millis(300);
        config.http.idle_timeout = Period::from_secs(600);
    });
    let mut idle = bench.client();
    goes_on(&mut idle);
    let mut untouched = bench.client();
    let mut slow = bench.client();
    let mut slow_again = bench.client();
    goes_on(&mut slow_again);
    let begun = Instant::now();
    slow.send("POST /?");
    slow_again.send("POST /?");
    // A byte now and then does not buy time.
    let mut writer = slow.stream.try_clone().unwrap();
    let trickle = std::thread::spawn(move || {
        while begun.elapsed() < Duration::from_secs(20) && writer.write_all(b"x").is_ok() {
            std::thread::park_timeout(Duration::from_millis(20));
        }
    });
    slow.is_closed();
    slow_again.is_closed();
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    trickle.join().unwrap();
    eventually("both are counted", || bench.refused("not_http") == 2);
    goes_on(&mut idle);
    goes_on(&mut untouched);
    // Blank lines between requests begin none: they outlast a head that began after them.
    idle.send("\r\n");
    let mut slow = bench.client();
    slow.send("P");
    slow.is_closed();
    goes_on(&mut idle);
    eventually("it is counted", || bench.refused("not_http") == 3);
    assert_eq!(bench.refusals(), 3);
}

#[test]
fn an_idle_connection_is_closed_in_the_end_and_not_counted() {
    let bench = Bench::with(|config| config.http.idle_timeout = Period::from_millis(300));
    let begun = Instant::now();
    let mut used = bench.client();
    goes_on(&mut used);
    let mut untouched = bench.client();
    used.is_closed();
    untouched.is_closed();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    eventually("they are gone", || bench.metrics.ingress.connections.get() == 0);
    assert_eq!(bench.refusals(), 0);
}

#[test]
fn requests_sent_without_waiting_are_answered_in_their_order() {
    let bench = Bench::new();
    let mut client = bench.client();
    let mut writer = client.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        for number in 0..1_000 {
            let query = if number % 10 == 9 { "SdkAppid=11" } else { OPEN };
            writer.write_all(post(query, &number.to_string()).as_bytes()).unwrap();
        }
    });
    for number in 0..1_000 {
        let answer = client.answer();
        if number % 10 == 9 { answer.is(Refusal::AppUnknown) } else { answer.succeeds() }
    }
    sender.join().unwrap();
    let kept: Vec<u32> = bench.kept().iter().map(|callback| std::str::from_utf8(&callback.body).unwrap().parse().unwrap()).collect();
    assert_eq!(kept, (0..1_000).filter(|number| number % 10 != 9).collect::<Vec<_>>());
}

#[test]
fn a_sender_may_ask_whether_to_send_its_body() {
    let bench = Bench::new();
    let mut client = bench.client();
    for _ in 0..2 {
        client.send(format!("POST /?{OPEN} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"));
        assert!(client.head().head.starts_with("http/1.1 100"));
        client.send("{}");
        client.answer().succeeds();
    }
    goes_on(&mut client);
}

#[test]
fn an_http_1_0_sender_is_answered_and_closed() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.send(format!("POST /?{OPEN} HTTP/1.0\r\nContent-Length: 2\r\n\r\n{{}}"));
    client.answer().succeeds();
    client.is_closed();
}

#[test]
fn connections_beyond_their_limit_are_closed_at_once() {
    let bench = Bench::with(|config| config.http.connections_max = 3);
    let mut clients: Vec<_> = (0..3).map(|_| bench.client()).collect();
    clients.iter_mut().for_each(goes_on);
    assert_eq!(bench.metrics.ingress.connections.get(), 3);
    bench.client().is_closed();
    assert_eq!(bench.refused("connections"), 1);
    clients.iter_mut().for_each(goes_on);
    drop(clients.pop());
    eventually("a place is free", || bench.metrics.ingress.connections.get() == 2);
    goes_on(&mut bench.client());
}

#[test]
fn bodies_beyond_their_limit_are_refused_until_there_is_room() {
    let bench = Bench::with(|config| config.http.bodies_max = Size::from_kib(100));
    let mut first = bench.client();
    first.send(format!("POST /?{OPEN} HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n"));
    eventually("it is in hand", || bench.metrics.ingress.bodies_bytes.get() == 90_000);
    let mut second = bench.client();
    let large = "x".repeat(20_000);
    second.send(post(OPEN, &large));
    second.answer().is(Refusal::Bodies);
    let mut third = bench.client();
    third.send(chunked(OPEN, &[&large]));
    third.answer().is(Refusal::Bodies);
    goes_on(&mut bench.client());
    first.send("y".repeat(90_000));
    first.answer().succeeds();
    eventually("there is room", || bench.metrics.ingress.bodies_bytes.get() == 0);
    bench.ask(post(OPEN, &large)).succeeds();
    bench.ask(chunked(OPEN, &[&large])).succeeds();
    assert_eq!(bench.refused("bodies"), 2);
}

#[test]
fn a_trusted_proxy_says_who_the_sender_is() {
    let bench = Bench::with(|config| config.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()]);
    let mut client = bench.client();
    for (headers, accepted) in [
        (&["X-Forwarded-For: 203.0.113.9"][..], true),
        (&["X-Forwarded-For: 192.0.2.1, 203.0.113.9, 10.0.0.1"], true),
        (&["X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 203.0.113.9:80"], true),
        (&["X-Forwarded-For: 203.0.113.9, 192.0.2.1"], false),
        (&["X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: unknown"], false),
        (&[], false),
    ] {
        client.send(request("POST", FOREIGN, headers, "{}"));
        let answer = client.answer();
        if accepted { answer.succeeds() } else { answer.is(Refusal::Source) }
    }
    let untrusting = Bench::new();
    untrusting.ask(request("POST", FOREIGN, &["X-Forwarded-For: 203.0.113.9"], "{}")).is(Refusal::Source);
}

#[test]
fn a_discarded_command_is_answered_and_not_kept() {
    let bench = Bench::with(|config| config.topics.discard.extend(["A.b".to_owned()]));
    let mut client = bench.client();
    for (query, body, kept) in [
        ("SdkAppid=10&CallbackCommand=A.b", "{}", 0),
        (OPEN, r#"{"CallbackCommand":"A.b"}"#, 0),
        ("SdkAppid=10&CallbackCommand=A.c", r#"{"CallbackCommand":"A.b"}"#, 1),
    ] {
        client.send(post(query, body));
        client.answer().succeeds();
        assert_eq!(bench.kept().len(), kept, "{query} {body}");
    }
    assert_eq!(bench.metrics.ingress.discarded.get(), 2);
    bench.ask(post("SdkAppid=11&CallbackCommand=A.b", "{}")).is(Refusal::AppUnknown);
}

#[test]
fn a_before_command_gets_its_configured_answer_once_it_is_durable() {
    let bench = Bench::with(|config| {
        for (command, error_code) in
            [("Group.CallbackBeforeSendMsg", 10100), ("Sns.CallbackPrevFriendAdd", 0), ("Group.CallbackAfterSendMsg", 1)]
        {
            config.answers.insert(command.to_owned(), FixedAnswer { error_code, error_info: "\"closed\"".to_owned() });
        }
    });
    let mut client = bench.client();
    for (query, body, answer) in [
        ("&CallbackCommand=Group.CallbackBeforeSendMsg", "{}", r#"{"ActionStatus":"FAIL","ErrorInfo":"\"closed\"","ErrorCode":10100}"#),
        (
            "",
            r#"{"CallbackCommand":"Group.CallbackBeforeSendMsg"}"#,
            r#"{"ActionStatus":"FAIL","ErrorInfo":"\"closed\"","ErrorCode":10100}"#,
        ),
        ("&CallbackCommand=Sns.CallbackPrevFriendAdd", "{}", r#"{"ActionStatus":"OK","ErrorInfo":"\"closed\"","ErrorCode":0}"#),
        ("&CallbackCommand=Group.CallbackAfterSendMsg", "{}", OK),
        ("&CallbackCommand=C2C.CallbackBeforeSendMsg", "{}", OK),
    ] {
        client.send(post(&format!("{OPEN}{query}"), body));
        let given = client.answer();
        assert_eq!((given.status, given.body.as_str()), (200, answer), "{query} {body}");
    }
    assert_eq!(bench.kept().len(), 5);
}

#[test]
fn a_lame_duck_accepts_and_sends_its_clients_away() {
    let bench = Bench::new();
    let mut idle = bench.client();
    goes_on(&mut idle);
    let mut silent = bench.client();
    goes_on(&mut silent);
    bench.ingress.lame_duck();
    let mut new = bench.client();
    for client in [&mut idle, &mut new] {
        client.send(post(OPEN, "{}"));
        let answer = client.answer();
        answer.succeeds();
        assert!(answer.closes());
        client.stream.shutdown(Shutdown::Write).unwrap();
        client.is_closed();
    }
    let refused = bench.ask(post("SdkAppid=11", "{}"));
    refused.is(Refusal::AppUnknown);
    assert!(refused.closes());
    // Whoever says nothing is left alone until the stop.
    assert_eq!(bench.stop(Duration::from_secs(20)), Stopped::Clean);
    silent.is_closed();
    assert_eq!(bench.kept().len(), 4);
}

#[test]
fn a_stop_answers_what_is_in_hand_and_refuses_what_is_new() {
    let bench = Bench::new();
    let mut idle = bench.client();
    goes_on(&mut idle);
    let mut sending = bench.client();
    sending.send(format!("POST /?{OPEN} HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{{\"a"));
    let mut beginning = bench.client();
    beginning.send(format!("POST /?{OPEN} HTTP/1.1\r\nHost: x\r\n"));
    eventually("all are seen", || bench.metrics.ingress.connections.get() == 3 && bench.metrics.ingress.bodies_bytes.get() == 7);
    let stopped = std::thread::scope(|scope| {
        let stop = scope.spawn(|| bench.stop(Duration::from_secs(20)));
        idle.is_closed();
        eventually("nobody listens", || TcpStream::connect(bench.address).is_err());
        beginning.send("Content-Length: 2\r\n\r\n{}");
        let answer = beginning.answer();
        answer.is(Refusal::Draining);
        assert!(answer.closes());
        drop(beginning);
        sending.send("\":1}");
        let answer = sending.answer();
        answer.succeeds();
        assert!(answer.closes());
        drop(sending);
        stop.join().unwrap()
    });
    assert_eq!(stopped, Stopped::Clean);
    assert_eq!(bench.kept().len(), 2);
    assert_eq!(bench.refused("draining"), 1);
    assert_eq!(bench.metrics.ingress.connections.get(), 0);
}

#[test]
fn a_stop_ends_at_its_deadline() {
    let bench = Bench::new();
    let mut sending = bench.client();
    sending.send(format!("POST /?{OPEN} HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n"));
    eventually("it is in hand", || bench.metrics.ingress.bodies_bytes.get() == 7);
    let begun = Instant::now();
    assert_eq!(bench.stop(Duration::from_millis(300)), Stopped::Abandoned(1));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    sending.is_closed();
    assert_eq!(bench.refused(Unanswered::BodyIncomplete.reason()), 1);
}

#[test]
fn the_event_loops_say_that_they_turn() {
    let bench = Bench::new();
    eventually("both have said so", || bench.beats.load(Ordering::Relaxed) == 0b11);
    bench.beats.store(0, Ordering::Relaxed);
    eventually("and again", || bench.beats.load(Ordering::Relaxed) == 0b11);
}

#[test]
fn connections_are_spread_over_the_event_loops() {
    let bench = Bench::new();
    let mut clients: Vec<_> = (0..8).map(|_| bench.client()).collect();
    clients.iter_mut().for_each(goes_on);
    // A receipt begins with what its event loop drew at random.
    let mut loops = std::collections::BTreeMap::<_, u32>::new();
    for callback in bench.kept() {
        *loops.entry(callback.receipt[..8].to_vec()).or_default() += 1;
    }
    assert_eq!(loops.into_values().collect::<Vec<_>>(), [4, 4]);
}

#[test]
fn changed_tokens_come_into_force_and_lost_ones_stay() {
    let bench = Bench::new();
    let path = bench.folder.path().join("tokens");
    let query = format!("{SIGNED}&RequestTime={TIME}&Sign={SIGN}");
    bench.ask(post(&query, "{}")).succeeds();
    std::fs::remove_file(&path).unwrap();
    eventually("the loss is noticed", || bench.metrics.ingress.tokens_reload_failures.get() == 1);
    bench.ask(post(&query, "{}")).succeeds();
    std::fs::write(&path, "newer\n").unwrap();
    eventually("the change is in force", || bench.ask(post(&query, "{}")).status == 401);
}

#[test]
fn a_port_that_is_taken_or_tokens_that_are_missing_are_told_at_once() {
    let bench = Bench::new();
    let mut config = Config::default();
    config.http.listen = bench.address;
    let error = Ingress::bind(&config, Strangers::Refused).err().unwrap();
    assert_eq!(error.to_string(), format!("listen on {}", bench.address));
    config.http.listen.set_port(0);
    config.apps = vec![App { sdk_app_id: 1, tokens_file: Some(bench.folder.path().join("none")), sources: None }];
    assert!(Ingress::bind(&config, Strangers::Refused).err().unwrap().to_string().starts_with("start with tokens file"));
}

#[test]
fn known_commands_are_counted_by_name() {
    let bench = Bench::new();
    let known = callback::commands().next().unwrap().name;
    bench.ask(post(&format!("{OPEN}&CallbackCommand={known}"), "{}")).succeeds();
    bench.ask(post(&format!("{OPEN}&CallbackCommand=No.Such"), "{}")).succeeds();
    bench.ask(post("SdkAppid=11", "{}"));
    assert_eq!((bench.metrics.ingress.command(Some(known)).get(), bench.metrics.ingress.command(None).get()), (1, 1));
}

#[test]
fn a_panic_of_an_event_loop_surfaces() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.http.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.journal.dir = folder.path().join("journal");
    config.journal.free_space_min = Size::from_bytes(0);
    let metrics = Metrics::new(&Labels { refusals: Refusal::REASONS, ..Labels::default() }).unwrap();
    let settings = journal::Config::new(&config.journal, ingress::record_max(&config.http));
    let journal = journal::open(settings, Arc::new(Disk::default()), metrics.journal.clone(), Clock::system()).unwrap().journal;
    let ingress = Ingress::bind(&config, Strangers::Refused)
        .unwrap()
        .serve(Setup {
            tracer: None,
            workers: NonZeroUsize::new(2).unwrap(),
            journal,
            metrics: metrics.ingress,
            clock: Clock::system(),
            heartbeat: Arc::new(|worker| assert_ne!(worker, 1, "broken on purpose")),
        })
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let failure = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), ingress.failed()).await.unwrap() });
    assert_eq!(failure.to_string(), "keep ingress-1 running");
    assert_eq!(runtime.block_on(ingress.stop(Duration::from_secs(5))), Stopped::Clean);
}
