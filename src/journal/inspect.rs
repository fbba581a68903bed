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
mod view;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

pub use sweep::{Corruption, Found, Sweep};
pub use view::{CheckpointState, SegmentView, TornAt, Usage, View};

use super::checkpoint::{Checkpoint, Positions, Seen};
use super::error::{Context, Error};
use super::lsn::Lsn;
use super::number::to_usize;
use super::recovery::LOCK;
use super::segment::{Header, Name, PAGE, Page, Segment};
use super::set_aside;
use super::storage::{Entry, File, Storage, read_exact_at};
use super::survey;
use view::{Part, content};

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
