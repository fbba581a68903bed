//! The broker's process.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::super::{eventually, tests_dir};
use super::prepare::java;

/// Starts the broker, tells its process id, waits for the end of its input, which is the end of the test's process if nothing sooner, and kills the broker, even
/// one that is stopped. The folder goes with the broker unless somebody means to start another in it.
const SHELL: &str = r#"
"$@" </dev/null >"$LOG" 2>&1 &
echo $!
cat >/dev/null
kill -9 $!
wait $!
[ -e keep ] || rm -rf "$PWD"
"#;

pub(super) struct Broker {
    shell: Child,
    input: Option<ChildStdin>,
    pid: Pid,
    dir: PathBuf,
    stopped: bool,
}

impl Broker {
    /// Starts it with `server.properties` of the folder and waits until it serves.
    pub(super) fn start(dir: &Path, patience: Duration) -> Self {
        let starts =
            fs::read_dir(dir).unwrap().filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().starts_with("broker-")).count();
        let log = dir.join(format!("broker-{starts}.log"));
        let settings = format!("-Dlog4j2.configurationFile={}", tests_dir("kafka/log4j2.properties").display());
        let mut command = Command::new("sh");
        command.args(["-c", SHELL, "sh"]).args(java()).args([
            "-Xmx256m",
            "-XX:+ExitOnOutOfMemoryError",
            &settings,
            "kafka.Kafka",
            "server.properties",
        ]);
        command.current_dir(dir).env("LOG", &log).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut shell = command.spawn().unwrap();
        let mut pid = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        let input = shell.stdin.take();
        let broker = Self { shell, input, pid, dir: dir.to_owned(), stopped: false };
        eventually("the broker serves", patience, || {
            let said = fs::read_to_string(&log).unwrap_or_default();
            assert!(broker.is_alive(), "the broker died:\n{said}");
            said.contains("Kafka Server started").then_some(())
        });
        broker
    }

    pub(super) fn stop(&mut self) {
        kill_process(self.pid, Signal::STOP).unwrap();
        eventually("the broker is stopped", Duration::from_secs(10), || (self.state() == Some('T')).then_some(()));
        self.stopped = true;
    }

    pub(super) fn cont(&mut self) {
        if self.stopped {
            kill_process(self.pid, Signal::CONT).unwrap();
            self.stopped = false;
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        !matches!(self.state(), None | Some('Z' | 'X'))
    }

    /// Ends it without warning and waits until it is gone. Its folder stays.
    pub(super) fn kill(mut self) {
        let keep = self.dir.join("keep");
        drop(File::create(&keep).unwrap());
        self.input = None;
        self.shell.wait().unwrap();
        fs::remove_file(keep).unwrap();
    }

    /// As `ps` shows it. The shell waits for the process only at its own end, so until then the number stays taken.
    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid.as_raw_nonzero())).ok()?;
        stat.rsplit(") ").next()?.chars().next()
    }
}
