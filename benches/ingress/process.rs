//! Processes of a run: started, asked what they used, and ended.

use std::error::Error;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The processor time and memory of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// User and system time of all its threads, since its start.
    pub(crate) cpu: Duration,
    /// Memory that is resident now.
    pub(crate) rss_bytes: u64,
}

/// A process of a run; dropping it ends it.
pub(crate) struct Server {
    child: Child,
    /// The first line that it printed; empty where it was not listened to.
    pub(crate) line: String,
}

impl Server {
    /// Starts this very program in another role, and waits for its first line.
    pub(crate) fn spawn_role(role: &str, arguments: &[&OsStr]) -> Result<Self, Box<dyn Error>> {
        let program = std::env::current_exe()?;
        let mut child =
            Command::new(program).args(["--role", role]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or("it has no standard output")?;
        let mut server = Self { child, line: String::new() };
        BufReader::new(output).read_line(&mut server.line)?;
        server.line.truncate(server.line.trim_end().len());
        if server.line.is_empty() { Err(format!("the {role} process did not start").into()) } else { Ok(server) }
    }

    /// Starts a program that speaks for itself.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        Ok(Self { child, line: String::new() })
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> io::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// What it has used so far.
    pub(crate) fn usage(&self) -> Result<Usage, Box<dyn Error>> {
        let pid = self.child.id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let ticks = ticks(&stat).ok_or("/proc/PID/stat is not as expected")?;
        let cpu = Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / ticks_per_second()?));
        let rss_kib = resident_kib(&status).ok_or("/proc/PID/status is not as expected")?;
        Ok(Usage { cpu, rss_bytes: rss_kib * 1024 })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has already ended cannot be ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time: the 14th and 15th field (proc(5)). The second field is the program's name in parentheses, which may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn resident_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The kernel's `USER_HZ`, as it tells each process (`AT_CLKTCK`, getauxval(3)).
fn ticks_per_second() -> Result<u64, Box<dyn Error>> {
    const AT_CLKTCK: u64 = 17;
    let vector = std::fs::read("/proc/self/auxv")?;
    let (words, _) = vector.as_chunks::<8>();
    let (pairs, _) = words.as_chunks::<2>();
    let found = pairs.iter().map(|[key, value]| (u64::from_ne_bytes(*key), u64::from_ne_bytes(*value))).find(|(key, _)| *key == AT_CLKTCK);
    found.map(|(_, ticks)| ticks).filter(|ticks| *ticks > 0).ok_or_else(|| "the kernel does not tell the length of its ticks".into())
}
