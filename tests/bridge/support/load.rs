//! `simulate load` beside a bridge that is ended again and again, and the proof that nothing of it is missing.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use super::bridge::{PATIENCE, argument, program, simulate};
use super::eventually;
use super::kafka::Kafka;

/// A load that goes on until it is ended. Dropped, it is killed.
pub(crate) struct Load {
    child: Child,
    log: PathBuf,
}

impl Load {
    /// Sends to this port of this machine, whoever listens there; `log` is written for [`Load::is_published`].
    pub(crate) fn start(port: u16, log: &Path) -> Self {
        let target = format!("http://127.0.0.1:{port}/");
        let child = program()
            .args(["simulate", "load", "--target", &target, "--connections", "16", "--rate", "2000", "--duration", "1h", "--groups", "64"])
            .args(["--seed", "7", "--continue-on-error", "--log", argument(log)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, log: log.to_owned() }
    }

    /// SIGINT: the load ends by itself, its log complete.
    pub(crate) fn end(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let ended = eventually("the load ends", PATIENCE, || self.child.try_wait().unwrap());
        assert!(ended.code().is_some(), "{ended}");
    }

    /// Of an ended load: whatever was answered 200 is in Kafka, nothing else is, and all is in order.
    pub(crate) fn is_published(&self, kafka: &Kafka, prefix: &str) {
        let servers = kafka.bootstrap_servers();
        let arguments = ["verify", "--log", argument(&self.log), "--bootstrap-servers", &servers, "--prefix", prefix];
        let (status, report) = simulate(&[&arguments[..], &["--format", "json", "--timeout", "30s"]].concat());
        assert!(status.success(), "{status}: {report}");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
