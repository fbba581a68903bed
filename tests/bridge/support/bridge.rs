//! The real program, started, asked and ended from outside.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal};
use tempfile::TempDir;

pub(crate) use super::PATIENCE;
use super::eventually;
pub(crate) use super::http::{Answer, Client, OK, attempt, exchange};

/// The app that the tests' callbacks come for.
pub(crate) const APP: &str = "1400000000";

/// What a failed test shows of a bridge's log.
const LAST_LINES: usize = 100;

/// What tells a site's bridge from its siblings; with exactly-once its partition too.
pub(crate) const INSTANCE: &str = "7";

/// Partitions of a topic of positions in the tests: the instance's is there.
pub(crate) const POSITIONS: i32 = 8;

/// How often an event may stand in its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    AtLeastOnce,
    ExactlyOnce,
}

impl Delivery {
    /// What a configuration says of it; the positions' topic has the prefix of the others.
    pub(crate) fn settings(self, prefix: &str) -> String {
        match self {
            Self::AtLeastOnce => String::new(),
            Self::ExactlyOnce => format!(
                "kafka.delivery = \"exactly-once\"\nkafka.positions_topic = \"{prefix}positions\"\n\
                 topics.config.\"{prefix}positions\".partitions = {POSITIONS}\n"
            ),
        }
    }
}

/// The program under test.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chat-bridge"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// A folder with a configuration, and a journal that outlives single runs.
pub(crate) struct Site {
    dir: TempDir,
}

impl Site {
    /// A configuration of small files and short waits, with `settings` behind it.
    pub(crate) fn new(bootstrap_servers: &str, prefix: &str, settings: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("bridge-test-").tempdir().unwrap();
        let site = Self { dir };
        site.configure(bootstrap_servers, prefix, settings);
        site
    }

    /// Writes the configuration anew.
    pub(crate) fn configure(&self, bootstrap_servers: &str, prefix: &str, settings: &str) {
        let text = format!(
            "http.listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\n\
             journal.dir = {journal:?}\njournal.segment_size = \"8MiB\"\njournal.size_max = \"256MiB\"\njournal.free_space_min = \"1MiB\"\n\
             kafka.bootstrap_servers = {bootstrap_servers:?}\nkafka.instance = {INSTANCE:?}\n\
             topics.prefix = {prefix:?}\ntopics.replication_factor = 1\ntopics.partitions = 6\n\
             shutdown.lame_duck = \"0s\"\nlog.format = \"json\"\n{settings}\n",
            journal = self.journal(),
        );
        // Tables that a test adds come last, and may bring apps of their own.
        let text = if settings.contains("[[apps]]") { text } else { format!("{text}\n[[apps]]\nsdk_app_id = {APP}\n") };
        fs::write(self.config(), text).unwrap();
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("bridge.toml")
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes the topics that the configuration names, by the program itself.
    pub(crate) fn make_topics(&self) {
        let done = program().args(["topics", "apply", "--yes", "--config"]).arg(self.config()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// Puts one line of the configuration in place of another.
    pub(crate) fn change(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.config()).unwrap();
        assert_eq!(text.lines().filter(|line| *line == from).count(), 1, "{from} in {text}");
        fs::write(self.config(), text.replace(&format!("{from}\n"), &format!("{to}\n"))).unwrap();
    }

    /// Takes callbacks on this port from the next start on.
    pub(crate) fn listen(&self, port: u16) {
        self.change("http.listen = \"127.0.0.1:0\"", &format!("http.listen = \"127.0.0.1:{port}\""));
    }

    /// `serve` with this configuration.
    pub(crate) fn command(&self) -> Command {
        let mut command = program();
        command.args(["serve", "--config"]).arg(self.config());
        command
    }

    /// Starts the bridge and waits until it answers callbacks.
    pub(crate) fn start(&self) -> Bridge {
        Bridge::start(self.command())
    }
}

/// A running bridge. Dropped, it is killed.
pub(crate) struct Bridge {
    child: Child,
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Bridge {
    /// Runs `command`, which may end at once.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        let nowhere = SocketAddr::from(([0; 4], 0));
        Self { child, public: nowhere, admin: nowhere, log, reader: Some(reader) }
    }

    /// Runs `command`, whose JSON log lines say where it listens.
    pub(crate) fn start(command: Command) -> Self {
        let mut bridge = Self::spawn(command);
        let (public, admin) = eventually("the bridge answers callbacks", PATIENCE, || {
            if let Some(status) = bridge.child.try_wait().unwrap() {
                panic!("the bridge ended with {status}: {}", bridge.log());
            }
            // A drain that has not ended yet refuses them from the start.
            let started = |line: &String| line.contains("\"callbacks are accepted\"") || line.contains("the bridge is drained");
            let line = bridge.lines().into_iter().find(started)?;
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            let address = |name: &str| -> Option<SocketAddr> { find(&line, name)?.parse().ok() };
            Some((address("public")?, address("admin")?))
        });
        bridge.public = public;
        bridge.admin = admin;
        bridge
    }

    /// What it has logged, line by line.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn log(&self) -> String {
        self.lines().join("\n")
    }

    /// Posts a callback on a connection of its own.
    pub(crate) fn post(&self, command: &str, body: &str) -> Answer {
        self.post_query(
            &format!("SdkAppid={APP}&CallbackCommand={command}&contenttype=json&ClientIP=127.0.0.1&OptPlatform=RESTAPI"),
            body.as_bytes(),
        )
    }

    /// Posts a body to a query of the test's own.
    pub(crate) fn post_query(&self, query: &str, body: &[u8]) -> Answer {
        let head = format!("POST /?{query} HTTP/1.1\r\nHost: bridge\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        exchange(self.public, &bytes)
    }

    /// Posts a callback and expects it to be taken.
    pub(crate) fn accept(&self, command: &str, body: &str) {
        let answer = self.post(command, body);
        assert_eq!((answer.status, answer.body.as_str()), (200, OK), "{}", self.log());
    }

    /// One page of the operator's side.
    pub(crate) fn page(&self, path: &str) -> Answer {
        exchange(self.admin, format!("GET {path} HTTP/1.1\r\nHost: bridge\r\nConnection: close\r\n\r\n").as_bytes())
    }

    /// Every series, by name and labels as they are written.
    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        let answer = self.page("/metrics");
        assert_eq!(answer.status, 200);
        let series = answer.body.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        series.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
    }

    /// The sum of all series that begin like this.
    pub(crate) fn metric(&self, prefix: &str) -> f64 {
        self.metrics().iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, value)| value).sum()
    }

    /// Callbacks accepted so far.
    pub(crate) fn accepted(&self) -> f64 {
        self.metric("chat_bridge_callbacks_total{outcome=\"accepted\"")
    }

    /// Requests refused so far for this reason.
    pub(crate) fn refused(&self, reason: &str) -> f64 {
        self.metrics()[&format!("chat_bridge_callbacks_total{{outcome=\"refused\",reason=\"{reason}\"}}")]
    }

    /// Records that an earlier run had left.
    pub(crate) fn recovered(&self) -> f64 {
        self.metric("chat_bridge_journal_recovered_records_total")
    }

    /// Records that wait for Kafka.
    pub(crate) fn unpublished(&self) -> f64 {
        self.metric("chat_bridge_journal_unpublished_records")
    }

    /// Waits until nothing is unpublished and nothing in hand, and checks that the counters balance.
    pub(crate) fn settled(&self, timeout: Duration) {
        eventually("nothing is unpublished", timeout, || (self.metric("chat_bridge_journal_unpublished_records") == 0.0).then_some(()));
        let metrics = self.metrics();
        let sum = |prefix: &str| -> f64 { metrics.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, value)| value).sum() };
        let taken = sum("chat_bridge_callbacks_total{outcome=\"accepted\"") + sum("chat_bridge_journal_recovered_records_total");
        let left = sum("chat_bridge_records_completed_total") + sum("chat_bridge_journal_unpublished_records");
        assert_eq!(taken, left, "accepted + recovered = completed + unpublished\n{}", self.log());
    }

    /// Ends it as a loss of power ends a process: at once.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Lets it have so many file descriptors; tells how many it could have before.
    pub(crate) fn limit_descriptors(&self, current: Option<u64>) -> Option<u64> {
        let pid = rustix::process::Pid::from_child(&self.child);
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        rustix::process::prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum }).unwrap().current
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// The names of its threads.
    pub(crate) fn threads(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        // One that ends while this is read has no name any more.
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok()).map(|name| name.trim_end().to_owned()).collect()
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for its end; tells how it ended, and all that it logged.
    pub(crate) fn ended(&mut self, timeout: Duration) -> (ExitStatus, String) {
        let status = eventually("the bridge ends", timeout, || self.child.try_wait().unwrap());
        // What it wrote last may still be on its way.
        drop(self.reader.take().map(JoinHandle::join));
        (status, self.log())
    }

    /// Waits for its end, and expects it to be by itself and with this code; tells what it logged.
    pub(crate) fn ended_with(&mut self, code: i32, timeout: Duration) -> String {
        let (status, log) = self.ended(timeout);
        assert_eq!((status.code(), status.signal()), (Some(code), None), "{log}");
        // A configuration that cannot be read says nothing of the log either.
        if ![0, 64, 78].contains(&code) {
            let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            let mut ends =
                lines.filter(|line| line["level"] == "ERROR" && line["message"] == "the bridge ends" && line["exit_code"] == code);
            assert!(ends.next().is_some() && ends.next().is_none(), "{log}");
        }
        log
    }

    /// Stops it in order and checks that its code is 0.
    pub(crate) fn stop(mut self) -> String {
        self.terminate();
        self.ended_with(0, PATIENCE)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.lines();
            eprintln!("what the bridge said last:\n{}", lines[lines.len().saturating_sub(LAST_LINES)..].join("\n"));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A value of that name at any depth of a log line.
fn find(line: &serde_json::Value, name: &str) -> Option<String> {
    let fields = line.as_object()?;
    let own = fields.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
    own.or_else(|| fields.values().find_map(|value| find(value, name)))
}

impl Client {
    /// Posts a callback and gives the answer.
    pub(crate) fn post(&mut self, body: &str) -> Answer {
        self.send(request(body));
        self.answer()
    }
}

/// A request with a callback of `Group.CallbackAfterGroupFull`, on a connection that is to be kept.
pub(crate) fn request(body: &str) -> String {
    full("", body)
}

/// The same on a connection that is to be closed.
pub(crate) fn closing_request(body: &str) -> String {
    full("Connection: close\r\n", body)
}

fn full(headers: &str, body: &str) -> String {
    format!(
        "POST /?SdkAppid={APP}&CallbackCommand=Group.CallbackAfterGroupFull HTTP/1.1\r\nHost: bridge\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A body of `Group.CallbackAfterGroupFull`.
pub(crate) fn group_full(group: &str, time: u64) -> String {
    format!(r#"{{"CallbackCommand":"Group.CallbackAfterGroupFull","GroupId":"{group}","EventTime":"{time}"}}"#)
}

/// A body with spaces behind it, up to this many bytes.
pub(crate) fn padded(mut body: String, bytes: usize) -> String {
    body.extend(std::iter::repeat_n(' ', bytes.saturating_sub(body.len())));
    body
}

/// The name of a topic prefix that no other test uses.
pub(crate) fn prefix(test: &str) -> String {
    let mut name = format!("{test}-{:08x}.", fastrand::u32(..));
    name.retain(|character| character.is_ascii_alphanumeric() || matches!(character, '-' | '.'));
    name
}

/// Runs `simulate` with these arguments; tells how it ended, and what it wrote.
pub(crate) fn simulate(arguments: &[&str]) -> (ExitStatus, String) {
    let done = program().arg("simulate").args(arguments).output().unwrap();
    let mut text = String::from_utf8_lossy(&done.stdout).into_owned();
    let _ = write!(text, "{}", String::from_utf8_lossy(&done.stderr));
    (done.status, text)
}

/// A path as an argument.
pub(crate) fn argument(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A running `dev --format json`.
pub(crate) struct Dev {
    child: Child,
    pub(crate) public: SocketAddr,
    lines: std::sync::mpsc::Receiver<serde_json::Value>,
}

impl Dev {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                drop(sender.send(serde_json::from_str(&line).unwrap()));
            }
        });
        let mut dev = Self { child, public: SocketAddr::from(([0; 4], 0)), lines };
        let started = dev.next(PATIENCE);
        let url = started["callbacks"].as_str().unwrap();
        dev.public = url.trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
        dev
    }

    /// The next line.
    pub(crate) fn next(&self, within: Duration) -> serde_json::Value {
        self.lines.recv_timeout(within).unwrap()
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        eventually("dev ends", PATIENCE, || self.child.try_wait().unwrap())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
