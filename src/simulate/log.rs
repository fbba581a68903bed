//! The log of a load: what was sent, and how it was answered.
//!
//! Text, so that `grep` and `awk` read it: one line of JSON about the run, then one line a callback, then `end` and the number of callbacks.
//!
//! ```text
//! {"version":1,"run":"0b5c…","seed":1,"app":1400000000,"connections":64,"groups":1000,"started_us":1795310298000000,"offsets":{}}
//! 12 3401 e 77 a200 1795310298123456 834
//! end 1
//! ```
//!
//! The columns: connection, number (from 0, counted by connection, without gaps), command (`d`isband, `e`xit, `f`ull), group, answer, time of sending
//! (microseconds since 1970), latency (microseconds). The answer is `a200` (acknowledged), `r503` (refused, with the status), or `u0` (unknown: no
//! answer, or one such as `u502` that says nothing about the callback). A number stands in the log once: a callback is never sent again.
//!
//! The log is buffered, and written each second and at the end; it is not synced, because it must outlive the bridge, not the machine. One without its last line
//! is of a load that was killed, and proves nothing: what was sent and not logged would look invented.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::command::Command;
use crate::clock::Timestamp;

/// The version of the format that is written and read.
const VERSION: u32 = 1;

/// What of an answer matters to the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered 200: it must be published.
    Acknowledged,
    /// Refused by the bridge with this status: it must not be published.
    Refused(u16),
    /// Not answered, or by a status (0 for none) that does not tell what became of it: it may be published.
    Unknown(u16),
}

/// One callback of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Which connection sent it.
    pub connection: u32,
    /// Its number among that connection's callbacks, from 0.
    pub number: u32,
    /// Its command.
    pub command: Command,
    /// Which group it is about.
    pub group: u32,
    /// How it was answered.
    pub outcome: Outcome,
    /// When it was sent.
    pub sent: Timestamp,
    /// From the moment at which it ought to have been sent to its answer.
    pub latency: Duration,
}

/// What a log says of the run as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    version: u32,
    /// What tells this run's callbacks from any other's.
    pub run: Uuid,
    /// What the callbacks were drawn with.
    pub seed: u64,
    /// The app that they are of.
    pub app: u64,
    /// How many connections sent them.
    pub connections: u32,
    /// How many groups they are about.
    pub groups: u32,
    /// When the run began, microseconds since 1970.
    pub started_us: i64,
    /// Where each topic's partitions ended before the run; empty where nobody looked.
    pub offsets: BTreeMap<String, Vec<i64>>,
}

/// Why a log could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system's word.
    #[error("failed to {action} the log {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Not a log, or not of a version that we know.
    #[error("{} is not a log of version {VERSION}", path.display())]
    Header {
        /// Which file.
        path: PathBuf,
    },
    /// A line that is none.
    #[error("line {line} of {} is malformed: {reason}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No last line: the load was killed, or is still running.
    #[error("{} has no end: the load is still running, or was killed", path.display())]
    Incomplete {
        /// Which file.
        path: PathBuf,
    },
}

impl Header {
    /// The header of a run that begins now.
    #[must_use]
    pub const fn new(run: Uuid, started: Timestamp) -> Self {
        Self { version: VERSION, run, seed: 0, app: 0, connections: 0, groups: 0, started_us: started.micros(), offsets: BTreeMap::new() }
    }
}

/// The file that a load writes. Its buffers belong to the threads that send.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    lines: u64,
}

impl Writer {
    /// Makes the file anew and writes the header.
    pub fn create(path: &Path, header: &Header) -> Result<Self, Error> {
        let failed = |action, source| Error::Io { action, path: path.to_owned(), source };
        let mut file = File::create(path).map_err(|source| failed("create", source))?;
        let mut text = serde_json::to_vec(header).map_err(|source| failed("write", source.into()))?;
        text.push(b'\n');
        file.write_all(&text).map_err(|source| failed("write", source))?;
        Ok(Self { path: path.to_owned(), state: Mutex::new(State { file, lines: 0 }) })
    }

    /// Writes the last line. Every buffer must have been flushed.
    pub fn finish(&self) -> Result<(), Error> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let end = format!("end {}\n", state.lines);
        state.file.write_all(end.as_bytes()).map_err(|source| self.failed(source))
    }

    fn write(&self, bytes: &[u8], lines: u64) -> Result<(), Error> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.lines += lines;
        state.file.write_all(bytes).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Io { action: "write", path: self.path.clone(), source }
    }
}

/// Lines that one thread has not yet written; whole lines reach the file, in the thread's order.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    lines: u64,
}

impl Buffer {
    /// Beyond this, it is time to write.
    const FULL_BYTES: usize = 64 * 1024;

    /// Adds a line; says whether it is time to [`Buffer::flush`].
    #[must_use]
    pub fn push(&mut self, line: &Line) -> bool {
        let (letter, status) = match line.outcome {
            Outcome::Acknowledged => ('a', 200),
            Outcome::Refused(status) => ('r', status),
            Outcome::Unknown(status) => ('u', status),
        };
        // Writing to memory cannot fail.
        let _infallible = writeln!(
            self.bytes,
            "{} {} {} {} {letter}{status} {} {}",
            line.connection,
            line.number,
            line.command.letter(),
            line.group,
            line.sent.micros(),
            line.latency.as_micros(),
        );
        self.lines += 1;
        self.bytes.len() >= Self::FULL_BYTES
    }

    /// Hands the lines to the file.
    pub fn flush(&mut self, writer: &Writer) -> Result<(), Error> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        writer.write(&self.bytes, self.lines)?;
        self.bytes.clear();
        self.lines = 0;
        Ok(())
    }
}

/// Reads a log whole, a line at a time: `take` sees each callback, those of one connection in the order of their numbers.
pub fn read(path: &Path, mut take: impl FnMut(&Header, Line)) -> Result<Header, Error> {
    let failed = |action, source| Error::Io { action, path: path.to_owned(), source };
    let malformed = |line, reason| Error::Malformed { path: path.to_owned(), line, reason };
    let mut input = BufReader::with_capacity(1 << 20, File::open(path).map_err(|source| failed("open", source))?);
    let mut text = String::new();
    input.read_line(&mut text).map_err(|source| failed("read", source))?;
    let header: Header = serde_json::from_str(&text).map_err(|_| Error::Header { path: path.to_owned() })?;
    if header.version != VERSION {
        return Err(Error::Header { path: path.to_owned() });
    }
    let mut next: Vec<u32> = Vec::new();
    let mut lines = 0_u64;
    loop {
        text.clear();
        if input.read_line(&mut text).map_err(|source| failed("read", source))? == 0 || !text.ends_with('\n') {
            return Err(Error::Incomplete { path: path.to_owned() });
        }
        let at = lines + 2;
        if let Some(count) = text.strip_prefix("end ") {
            return match count.trim_end().parse() {
                Ok(count) if lines == count => Ok(header),
                Ok::<u64, _>(_) | Err(_) => Err(malformed(at, "it counts other lines than there are")),
            };
        }
        let line = parse(text.trim_end()).map_err(|reason| malformed(at, reason))?;
        if line.connection >= header.connections || line.group >= header.groups {
            return Err(malformed(at, "its connection or group is beyond the header's"));
        }
        let connection = usize::try_from(line.connection).unwrap_or(usize::MAX);
        if next.len() <= connection {
            next.resize(connection + 1, 0);
        }
        match next.get_mut(connection) {
            Some(number) if *number == line.number => *number += 1,
            Some(_) | None => return Err(malformed(at, "its number is not the connection's next")),
        }
        take(&header, line);
        lines += 1;
    }
}

fn parse(text: &str) -> Result<Line, &'static str> {
    let mut columns = text.split(' ');
    let mut column = || columns.next().ok_or("a column is missing");
    let connection = column()?.parse().map_err(|_| "its connection is no number")?;
    let number = column()?.parse().map_err(|_| "its number is none")?;
    let command = Command::from_letter(column()?).ok_or("its command is unknown")?;
    let group = column()?.parse().map_err(|_| "its group is no number")?;
    let outcome = parse_outcome(column()?).ok_or("its answer is unknown")?;
    let sent = Timestamp::from_micros(column()?.parse().map_err(|_| "its time is no number")?);
    let latency = Duration::from_micros(column()?.parse().map_err(|_| "its latency is no number")?);
    if column().is_ok() {
        return Err("there is a column too many");
    }
    Ok(Line { connection, number, command, group, outcome, sent, latency })
}

fn parse_outcome(text: &str) -> Option<Outcome> {
    let (letter, status) = text.split_at_checked(1)?;
    let status = status.parse().ok()?;
    match (letter, status) {
        ("a", 200) => Some(Outcome::Acknowledged),
        ("r", _) => Some(Outcome::Refused(status)),
        ("u", _) => Some(Outcome::Unknown(status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let mut header = Header::new(Uuid::from_u128(7), Timestamp::from_micros(5));
        header.connections = 2;
        header.groups = 10;
        header.offsets.insert("chat.member-exit".to_owned(), vec![3, 4]);
        header
    }

    fn line(connection: u32, number: u32, outcome: Outcome) -> Line {
        let sent = Timestamp::from_micros(1_795_310_298_123_456);
        Line { connection, number, command: Command::MemberExit, group: 7, outcome, sent, latency: Duration::from_micros(834) }
    }

    fn read_all(path: &Path) -> Result<(Header, Vec<Line>), Error> {
        let mut lines = Vec::new();
        let header = read(path, |_, line| lines.push(line))?;
        Ok((header, lines))
    }

    #[test]
    fn what_was_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let writer = Writer::create(&path, &header()).unwrap();
        let lines = [
            line(1, 0, Outcome::Acknowledged),
            line(0, 0, Outcome::Refused(503)),
            line(1, 1, Outcome::Unknown(0)),
            line(1, 2, Outcome::Unknown(502)),
        ];
        let mut buffer = Buffer::default();
        for line in &lines {
            assert!(!buffer.push(line));
        }
        buffer.flush(&writer).unwrap();
        assert!(matches!(read_all(&path), Err(Error::Incomplete { .. })));
        writer.finish().unwrap();
        assert_eq!(read_all(&path).unwrap(), (header(), lines.to_vec()));
    }

    #[test]
    fn a_log_that_is_damaged_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let head = serde_json::to_string(&header()).unwrap();
        for (text, says) in [
            ("", "not a log"),
            ("{\"version\":1}\n", "not a log"),
            (&head.replace("\"version\":1", "\"version\":2"), "not a log"),
            (&head, "no end"),
            (&format!("{head}\n0 0 e 7 a200 5 6"), "no end"),
            (&format!("{head}\n0 0 e 7 a200 5 6\nend 2\n"), "line 3"),
            (&format!("{head}\n0 1 e 7 a200 5 6\nend 1\n"), "not the connection's next"),
            (&format!("{head}\n0 0 x 7 a200 5 6\nend 1\n"), "its command is unknown"),
            (&format!("{head}\n0 0 e 7 a503 5 6\nend 1\n"), "its answer is unknown"),
            (&format!("{head}\n0 0 e 10 a200 5 6\nend 1\n"), "beyond the header's"),
            (&format!("{head}\n2 0 e 7 a200 5 6\nend 1\n"), "beyond the header's"),
            (&format!("{head}\n0 0 e 7 a200 5 6 7\nend 1\n"), "a column too many"),
            (&format!("{head}\n0 0 e 7 a200\nend 1\n"), "a column is missing"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = read_all(&path).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
