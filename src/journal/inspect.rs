//! A look at a journal's folder from outside: without its lock, and without a change to anything.
//!
//! A bridge may use the folder meanwhile. What such a look tells is true of a moment during it, and nothing that is merely being written, freed or
//! recycled is taken for damage:
//!
//! * Beside a bridge only what its checkpoint calls durable is read, and the checkpoint first: whatever it speaks of stands in the segments by then. It is
//!   written ten times a second at most, so the last tenth of a second is left out.
//! * A freed segment loses its name before its file is used again, and no name is ever given twice. So bytes that make no sense count as damage only if
//!   their file still bears its name after they were read.
//! * Without a bridge the end of the log is found as a start would find it (`journal::survey`). A bridge that starts or ends during the look is noticed by
//!   the lock and the checkpoint, and everything is read again.

mod sweep;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use uuid::Uuid;

pub use sweep::{Corruption, Found, Sweep};

use super::checkpoint::{Checkpoint, Content, Positions, Seen};
use super::error::{Context, Error};
use super::lsn::Lsn;
use super::number::to_usize;
use super::recovery::LOCK;
use super::report::TornTail;
use super::segment::{Header, Name, PAGE, Page, Segment};
use super::set_aside;
use super::storage::{Entry, File, Storage, read_exact_at};
use super::survey;
use crate::clock::Timestamp;

/// How often a folder that changes meanwhile is looked at again. A bridge's own changes are far fewer.
const ATTEMPTS: usize = 100;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// A journal's folder, to look at.
#[derive(Clone, Debug)]
pub struct Folder {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
}

/// Who has the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A process holds its lock.
    InUse,
    /// Nobody; it was closed in good order.
    Closed,
    /// Nobody; it was left by a crash, or copied while in use.
    Left,
}

/// What the checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointState {
    /// It can be read.
    Good,
    /// There is none: of a journal that begins without room, or that has lost it.
    Absent,
    /// Neither slot is good.
    Lost,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentView {
    /// Its file's name.
    pub file: String,
    /// LSN of its first record.
    pub first: Lsn,
    /// The first LSN behind it.
    pub end: Lsn,
    /// When it came into use.
    pub created: Timestamp,
    /// The file's length.
    pub bytes: u64,
    header: Header,
}

/// A torn tail, and where it is. The next start cuts it; nothing of it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornAt {
    /// The segment's file.
    pub file: String,
    /// Where it begins.
    pub offset: u64,
    /// What a start would keep and cut.
    pub tail: TornTail,
}

/// What is in the folder.
#[derive(Clone, Debug)]
pub struct View {
    /// Who has it.
    pub usage: Usage,
    /// Whose journal it is; `None` where nothing tells.
    pub identity: Option<Uuid>,
    /// What the checkpoint is.
    pub checkpoint: CheckpointState,
    /// How far the streams are; where the checkpoint does not tell, at the oldest record.
    pub positions: Positions,
    /// The first LSN that is not known to be durable.
    pub end: Lsn,
    /// Oldest first.
    pub segments: Vec<SegmentView>,
    /// Files that are named as segments and have no good header: name and length.
    pub headless: Vec<Entry>,
    /// Prepared files: name and length.
    pub spares: Vec<Entry>,
    /// Corrupt pieces that were kept out of the way: name and length.
    pub set_aside: Vec<Entry>,
    /// An incomplete last frame.
    pub torn_tail: Option<TornAt>,
}

impl View {
    /// Records that are not completed, those among them that cannot be read.
    #[must_use]
    pub fn unpublished_records(&self) -> u64 {
        self.end.since(self.positions.lowest()).saturating_sub(self.positions.completed_beyond)
    }

    /// Bytes of all segments, spares and set-aside files: what `journal.size_max` limits.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let segments = self.segments.iter().map(|segment| segment.bytes);
        let others = [&self.headless, &self.spares, &self.set_aside].into_iter().flatten().map(|entry| entry.length);
        segments.chain(others).fold(0, u64::saturating_add)
    }

    /// The LSN of the oldest record that is there.
    #[must_use]
    pub fn first(&self) -> Lsn {
        self.segments.first().map_or(self.end, |segment| segment.first)
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::InUse => "a process holds its lock",
            Self::Closed => "nobody uses it; it was closed in good order",
            Self::Left => "nobody uses it; it was left by a crash, or copied while in use",
        })
    }
}

/// A file that is named as a segment, its length, and its header page.
struct Opened {
    file: Box<dyn File>,
    length: u64,
    page: Vec<u8>,
}

/// What was read of a segment's header.
enum Read {
    Good(Header, u64),
    Bad(u64),
    /// The file lost its name meanwhile.
    Gone,
}

impl Folder {
    /// The folder at `dir`.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, dir: impl Into<PathBuf>) -> Self {
        Self { storage, dir: dir.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes that this process may still use on its file system.
    pub fn free_space(&self) -> Result<u64, Error> {
        self.storage.free_space(&self.dir).context("read the free space of", &self.dir)
    }

    /// The files of a folder within it; none where that is not there.
    pub fn files_within(&self, name: &str) -> Result<Vec<Entry>, Error> {
        let path = self.dir.join(name);
        let mut entries = match self.storage.list(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.context("list", &path)?,
        };
        entries.retain(|entry| !entry.name.ends_with(set_aside::PARTIAL_SUFFIX));
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    /// What is there. Reads the checkpoint, the headers of all segments, and where nobody uses the folder the whole last segment.
    pub fn look(&self) -> Result<View, Error> {
        for _ in 1..ATTEMPTS {
            if let Some(view) = self.look_once(Haste::No)? {
                return Ok(view);
            }
            thread::sleep(PAUSE);
        }
        self.look_once(Haste::Yes)?.ok_or_else(|| Error::Unstable { path: self.dir.clone() })
    }

    /// The records from `from` up to `to`, and what is wrong between them, in order.
    #[must_use]
    pub fn sweep(&self, view: &View, from: Lsn, to: Lsn) -> Sweep {
        Sweep::new(self, view, (from, to))
    }

    /// `None` where the folder has changed under it.
    fn look_once(&self, haste: Haste) -> Result<Option<View>, Error> {
        let lock = self.dir.join(LOCK);
        let is_held = || self.storage.is_locked(&lock).context("look at", &lock);
        let held = is_held()?;
        let before = Checkpoint::look(self.storage.as_ref(), &self.dir)?;
        let Some(mut view) = self.list(haste)? else { return Ok(None) };
        if !held && before == Seen::Absent && view.segments.is_empty() && view.headless.is_empty() {
            return Err(Error::NoJournal { dir: self.dir.clone() });
        }
        if !held {
            match self.find_end(&mut view, &before) {
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other?,
            }
        }
        let after = Checkpoint::look(self.storage.as_ref(), &self.dir)?;
        if held != is_held()? || (!held && before != after) {
            return Ok(None);
        }
        if held {
            // A slot is read while it is written, and the next read finds it whole.
            let unread = before == Seen::Lost || after == Seen::Lost;
            if unread && haste == Haste::No {
                return Ok(None);
            }
            // What stands in a segment before the last was synced before the next one was begun.
            let newest = view.segments.last().map_or(Lsn::FIRST, |segment| segment.first);
            view.end = content(&before).map_or(newest, |content| content.durable_end.max(newest));
        }
        view.complete(held, &after);
        Ok(Some(view))
    }

    /// Names and headers.
    fn list(&self, haste: Haste) -> Result<Option<View>, Error> {
        let mut view = View {
            usage: Usage::Left,
            identity: None,
            checkpoint: CheckpointState::Absent,
            positions: Positions::at(Lsn::FIRST),
            end: Lsn::FIRST,
            segments: Vec::new(),
            headless: Vec::new(),
            spares: Vec::new(),
            set_aside: self.files_within(set_aside::DIR)?,
            torn_tail: None,
        };
        let mut numbers = Vec::new();
        for entry in self.storage.list(&self.dir).context("list", &self.dir)? {
            match Name::parse(&entry.name) {
                Name::Segment(number) => numbers.push((number, entry)),
                Name::Spare(_) => view.spares.push(entry),
                Name::Unfinished | Name::Other => {}
            }
        }
        numbers.sort_by_key(|(number, _)| *number);
        let mut before: Option<PathBuf> = None;
        for (number, entry) in numbers {
            let found = self.read_header(number)?;
            if matches!(found, Read::Good(..) | Read::Bad(_)) {
                before = Some(self.dir.join(&entry.name));
            }
            match found {
                Read::Good(header, bytes) => {
                    let segment =
                        SegmentView { file: entry.name, first: header.first, end: header.first, created: header.created, bytes, header };
                    view.push(segment, &self.dir)?;
                }
                Read::Bad(length) => view.headless.push(Entry { name: entry.name, length }),
                Read::Gone => {
                    let freed = match &before {
                        Some(before) => !self.is_there(before)?,
                        None => true,
                    };
                    if freed {
                        // The oldest are freed, one after the other: those before it went first, however many were freed since they were read.
                        view.segments.clear();
                        view.headless.clear();
                    } else if haste == Haste::No {
                        // The list was old already when it was read.
                        return Ok(None);
                    }
                }
            }
        }
        Ok(Some(view))
    }

    /// The end of a log that nobody writes to, as a start would find it.
    fn find_end(&self, view: &mut View, checkpoint: &Seen) -> Result<(), Error> {
        let content = content(checkpoint);
        let durable_end = content.map_or(Lsn::FIRST, |content| content.durable_end);
        let mut found = Lsn::FIRST;
        if let Some(last) = view.segments.last() {
            let (segment, _) = self.open(last.header.number)?;
            let survey = survey::examine(&Arc::new(segment), durable_end)?;
            found = survey.end;
            view.torn_tail = survey.torn.map(|tail| TornAt { file: last.file.clone(), offset: survey.torn_from, tail });
        }
        let claimed = content.map_or(Lsn::FIRST, |content| {
            content.since.max(content.durable_end).max(content.positions.scanned).max(content.positions.sent_bound)
        });
        view.end = found.max(claimed);
        Ok(())
    }

    fn read_header(&self, number: u64) -> Result<Read, Error> {
        let path = Segment::path(&self.dir, number);
        let Opened { length, page, .. } = match self.open_page(&path) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(Read::Gone),
            other => other?,
        };
        let problem = match Header::parse(&page) {
            Page::Known(header) if header.number == number => return Ok(Read::Good(header, length)),
            Page::Known(_) => Err(Error::Foreign { path: path.clone(), why: "its name and its header have different numbers" }),
            Page::Unknown(version) => Err(Error::UnknownVersion { path: path.clone(), version }),
            Page::Bad => Ok(Read::Bad(length)),
        };
        if self.is_there(&path)? { problem } else { Ok(Read::Gone) }
    }

    fn open_page(&self, path: &Path) -> Result<Opened, Error> {
        let file = self.storage.open_to_read(path).context("open", path)?;
        let length = file.length().context("read the length of", path)?;
        let mut page = vec![0; PAGE.min(to_usize(length))];
        read_exact_at(file.as_ref(), &mut page, 0).context("read", path)?;
        Ok(Opened { file, length, page })
    }

    /// A segment, and its header page. One that has lost its header meanwhile is gone, too.
    fn open(&self, number: u64) -> Result<(Segment, Vec<u8>), Error> {
        let path = Segment::path(&self.dir, number);
        let Opened { file, length, page } = self.open_page(&path)?;
        match Header::parse(&page) {
            Page::Known(header) if header.number == number => Ok((Segment { header, path, length, file }, page)),
            Page::Known(_) | Page::Unknown(_) | Page::Bad => Err(io::Error::from(io::ErrorKind::NotFound)).context("open", &path),
        }
    }

    /// Whether the file has its name: then what was read of it before was what the name stands for.
    fn is_there(&self, path: &Path) -> Result<bool, Error> {
        match self.storage.open_to_read(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).context("open", path),
        }
    }
}

/// Whether what cannot be told for certain is told nevertheless, as it will not get better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Haste {
    Yes,
    No,
}

impl View {
    fn push(&mut self, segment: SegmentView, dir: &Path) -> Result<(), Error> {
        if let Some(last) = self.segments.last_mut() {
            if segment.first < last.first {
                let path = dir.join(&segment.file);
                return Err(Error::Foreign { path, why: "its records come before those of the segment before it" });
            }
            last.end = segment.first;
        }
        self.segments.push(segment);
        Ok(())
    }

    /// What the checkpoint tells, now that the end is known.
    fn complete(&mut self, held: bool, checkpoint: &Seen) {
        let end = self.end;
        if let Some(last) = self.segments.last_mut() {
            last.end = end.max(last.first);
        }
        let content = content(checkpoint);
        self.checkpoint = match checkpoint {
            Seen::Absent => CheckpointState::Absent,
            Seen::Lost => CheckpointState::Lost,
            Seen::Good { .. } => CheckpointState::Good,
        };
        self.usage = match content {
            _ if held => Usage::InUse,
            Some(content) if content.clean_stop => Usage::Closed,
            Some(_) | None => Usage::Left,
        };
        self.identity = content.map(|content| content.journal).or_else(|| Some(self.segments.last()?.header.journal));
        self.positions = content.map_or_else(|| Positions::at(self.first()), |content| content.positions.clone()).within(end);
    }

    /// The segments and the files without a header, by number.
    fn parts(&self) -> VecDeque<Part> {
        let number = |entry: &Entry| match Name::parse(&entry.name) {
            Name::Segment(number) => number,
            Name::Spare(_) | Name::Unfinished | Name::Other => 0,
        };
        let known = self.segments.iter().map(|segment| (segment.header.number, Part::Known(segment.clone())));
        let headless = self.headless.iter().map(|entry| (number(entry), Part::Headless(entry.clone())));
        let mut parts: Vec<(u64, Part)> = known.chain(headless).collect();
        parts.sort_by_key(|(number, _)| *number);
        parts.into_iter().map(|(_, part)| part).collect()
    }
}

/// A file that is named as a segment.
#[derive(Clone, Debug)]
enum Part {
    Known(SegmentView),
    Headless(Entry),
}

fn content(checkpoint: &Seen) -> Option<&Content> {
    match checkpoint {
        Seen::Good { content, .. } => Some(content),
        Seen::Absent | Seen::Lost => None,
    }
}
