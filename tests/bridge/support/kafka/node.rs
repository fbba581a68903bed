//! One process of the cluster: a broker, or the controller.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::super::{eventually, tests_dir};
use super::prepare::java;

/// Starts the process, tells its id, waits for a word or for the end of its input, which is the end of the test's process if nothing sooner, and kills it, even
/// one that is stopped. Without a word nobody means to start anything in the cluster's folder again, so it goes: the last shell to get here finds no process
/// left that would write into it.
const SHELL: &str = r#"
"$@" </dev/null >"$LOG" 2>&1 &
echo $!
read -r word
kill -9 $!
wait $!
[ -n "$word" ] || rm -rf "$ROOT"
"#;

pub(super) struct Node {
    shell: Child,
    input: Option<ChildStdin>,
    pid: Pid,
    log: PathBuf,
    stopped: bool,
}

impl Node {
    /// Starts it with `server.properties` of `dir`, a folder of `root`, without waiting for it; `heap` is the JVM's, in megabytes.
    pub(super) fn spawn(root: &Path, dir: &Path, heap: u32) -> Self {
        let is_log = |file: &fs::DirEntry| file.file_name().to_string_lossy().starts_with("process-");
        let starts = fs::read_dir(dir).unwrap().filter(|file| is_log(file.as_ref().unwrap())).count();
        let log = dir.join(format!("process-{starts}.log"));
        let settings = format!("-Dlog4j2.configurationFile={}", tests_dir("kafka/log4j2.properties").display());
        let mut command = Command::new("sh");
        command.args(["-c", SHELL, "sh"]).args(java()).args([
            &format!("-Xmx{heap}m"),
            "-XX:+ExitOnOutOfMemoryError",
            &settings,
            "kafka.Kafka",
            "server.properties",
        ]);
        command.current_dir(dir).env("LOG", &log).env("ROOT", root);
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut pid = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        let input = shell.stdin.take();
        Self { shell, input, pid, log, stopped: false }
    }

    /// Waits until it has started; a broker then serves.
    pub(super) fn started(&self, patience: Duration) {
        eventually("a process of the cluster has started", patience, || {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            assert!(self.is_alive(), "it died:\n{said}");
            said.contains("Kafka Server started").then_some(())
        });
    }

    pub(super) fn stop(&mut self) {
        kill_process(self.pid, Signal::STOP).unwrap();
        eventually("the process is stopped", Duration::from_secs(10), || (self.state() == Some('T')).then_some(()));
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

    /// Ends it without warning. Its folder stays.
    pub(super) fn kill_soon(mut self) -> Killed {
        if let Some(mut input) = self.input.take() {
            writeln!(input, "stay").unwrap();
        }
        Killed(self.shell)
    }

    /// As `ps` shows it. The shell waits for the process only at its own end, so until then the number stays taken.
    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid.as_raw_nonzero())).ok()?;
        stat.rsplit(") ").next()?.chars().next()
    }
}

/// A process that is being killed.
#[must_use]
pub(super) struct Killed(Child);

impl Killed {
    /// Waits until it is gone.
    pub(super) fn gone(mut self) {
        self.0.wait().unwrap();
    }
}
