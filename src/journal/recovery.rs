//! What opening does with the folder that it finds.
//!
//! First everything is read that decides whether this program may touch the folder at all. Then the last segment is walked, its torn tail is told from
//! corruption, and what is accepted of it is written once more and synced. At last the checkpoint is made durable with what was decided. A crash
//! anywhere in between leads the next start to the same decisions.

mod look;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::checkpoint::{Checkpoint, Content, Found, Positions};
use super::config::Config;
use super::error::{Context, Error};
use super::lsn::Lsn;
use super::report::{RecoveryReport, Start};
use super::segment::{Segment, Spare};
use super::set_aside::{self, Kept, WithoutRoom};
use super::storage::{Lock, Storage};
use super::survey::{self, Survey};
use crate::metrics;
use look::{Seen, look};

pub(super) const LOCK: &str = "lock";
const CHECKPOINT_NEW: &str = "checkpoint.new";

/// The folder, ready to be used.
pub(super) struct Recovered {
    pub(super) lock: Box<dyn Lock>,
    /// `None` where there was no room, or no descriptor, to make it.
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) content: Content,
    pub(super) segments: VecDeque<Arc<Segment>>,
    pub(super) spares: VecDeque<Spare>,
    pub(super) set_aside_bytes: u64,
    pub(super) without_room: WithoutRoom,
    pub(super) next_segment: u64,
    pub(super) next_spare: u64,
    /// Where the last segment's frames end.
    pub(super) end_offset: u64,
    /// Whether the last segment can be written on; else the next record begins a fresh one.
    pub(super) writable: bool,
    pub(super) report: RecoveryReport,
}

/// Opens the folder.
pub(super) fn recover(config: &Config, storage: &Arc<dyn Storage>, metrics: &metrics::Journal) -> Result<Recovered, Error> {
    let dir = config.dir.as_path();
    make_dir(storage.as_ref(), dir)?;
    let lock_path = dir.join(LOCK);
    let lock = match storage.lock(&lock_path) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(Error::Locked { path: lock_path }),
        other => other.context("lock", &lock_path)?,
    };
    let seen = look(storage.as_ref(), dir)?;
    Mending::new(config, storage, metrics, seen)?.mend(lock)
}

/// The folder itself must survive a crash, too. Where it exists, an earlier start may have made it and ended before its name was durable.
fn make_dir(storage: &dyn Storage, dir: &Path) -> Result<(), Error> {
    let exists = match storage.create_dir(dir) {
        Ok(()) => false,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => true,
        Err(error) => return Err(error).context("create", dir),
    };
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    match storage.sync_dir(parent) {
        // Who may not look at what is around the folder has not made it.
        Err(error) if exists && error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other.context("sync", parent),
    }
}

/// Recovery on its way.
struct Mending<'a> {
    config: &'a Config,
    storage: &'a Arc<dyn Storage>,
    metrics: &'a metrics::Journal,
    segments: VecDeque<Arc<Segment>>,
    checkpoint: Option<Checkpoint>,
    content: Content,
    report: RecoveryReport,
    spares: VecDeque<Spare>,
    headless: Vec<u64>,
    set_aside_bytes: u64,
    without_room: WithoutRoom,
    next_segment: u64,
    next_spare: u64,
    /// The newest segment's header was bad: nobody knows which LSNs it had.
    end_unknown: bool,
    unclean: bool,
}

impl<'a> Mending<'a> {
    /// From here on the folder is changed.
    fn new(config: &'a Config, storage: &'a Arc<dyn Storage>, metrics: &'a metrics::Journal, seen: Seen) -> Result<Self, Error> {
        let Seen { checkpoint, segments, headless, spares, unfinished, holdings } = seen;
        let newest = segments.back().map_or(0, |segment| segment.header.number);
        let highest = headless.iter().copied().chain([newest, holdings.highest]).max().unwrap_or(0);
        let end_unknown = headless.iter().any(|number| *number > newest);
        let anything = !segments.is_empty() || !headless.is_empty();
        let (checkpoint, content, start, checkpoint_lost) = match checkpoint {
            Found::Good(mut checkpoint, content) => {
                checkpoint.settle(&content)?;
                let start = if content.clean_stop { Start::Clean } else { Start::Unclean };
                (Some(checkpoint), content, start, false)
            }
            Found::Absent if !anything => (None, fresh(), Start::New, false),
            Found::Absent | Found::Lost => (None, from_segments(&segments), Start::Unclean, true),
        };
        let report = RecoveryReport {
            start,
            identity: content.journal,
            identity_before: None,
            lowest: content.positions.lowest(),
            end: Lsn::FIRST,
            unpublished_records: 0,
            segments: segments.len(),
            torn_tail: None,
            set_aside: Vec::new(),
            lost: Vec::new(),
            checkpoint_lost,
        };
        let unclean = start != Start::Clean;
        let next_spare = spares.iter().map(|(number, _)| *number).max().unwrap_or(0) + 1;
        let mut this = Self {
            config,
            storage,
            metrics,
            segments,
            checkpoint,
            content,
            report,
            spares: VecDeque::new(),
            headless,
            set_aside_bytes: holdings.bytes,
            without_room: WithoutRoom::default(),
            next_segment: highest + 1,
            next_spare,
            end_unknown,
            unclean,
        };
        this.tidy(&spares, unfinished.iter().map(|name| config.dir.join(name)).chain(holdings.unfinished))?;
        Ok(this)
    }

    /// Removes what is of no use, and makes durable which names there are.
    fn tidy(&mut self, spares: &[(u64, u64)], unfinished: impl Iterator<Item = PathBuf>) -> Result<(), Error> {
        let dir = self.config.dir.as_path();
        for path in unfinished {
            self.remove(&path)?;
        }
        for &(number, length) in spares {
            let path = Spare::path(dir, number);
            if length == self.config.segment_length() && self.spares.len() <= self.config.spares {
                let file = self.storage.open(&path).context("open", &path)?;
                self.spares.push_back(Spare { path, length, file });
            } else {
                self.remove(&path)?;
            }
        }
        // A name may so far stand only in memory, such as the last segment's when the process was killed before it had synced the folder.
        self.storage.sync_dir(dir).context("sync", dir)
    }

    /// Some file systems need room even for that. What stays is of no use, and of no harm: the next start tries again.
    fn remove(&self, path: &Path) -> Result<(), Error> {
        match self.storage.remove(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.context("remove", path).or_else(|error| if error.is_no_space() { Ok(()) } else { Err(error) }),
        }
    }

    fn mend(mut self, lock: Box<dyn Lock>) -> Result<Recovered, Error> {
        let survey = self.examine_last_segment()?;
        let found_end = survey.as_ref().map_or(Lsn::FIRST, |survey| survey.end);
        let mut identity_changed = self.has_lost_end(found_end);
        if let Some((last, survey)) = self.segments.back().cloned().zip(survey.as_ref()) {
            if identity_changed && !self.end_unknown {
                // Where frames should be that are not there, something else is. Only what was found is worth a copy, so this comes before any write.
                self.keep(&last, survey.cut, last.length)?;
            }
            let left = survey::rewrite(&last, survey, if self.unclean { survey::Rest::Zero } else { survey::Rest::Leave })?;
            // Durable records behind the end that a later start will find: as where the log has lost its end.
            identity_changed |= left < found_end;
        }
        self.settle_end(found_end, identity_changed);
        let last_is_ours = self.segments.back().is_some_and(|segment| segment.header.journal == self.content.journal);
        let whole = survey.as_ref().is_some_and(|survey| survey.corrupt.is_empty() && survey.end == self.content.durable_end);
        self.account(found_end);
        self.write_checkpoint()?;
        self.move_headless()?;
        Ok(Recovered {
            lock,
            checkpoint: self.checkpoint,
            content: self.content,
            segments: self.segments,
            spares: self.spares,
            set_aside_bytes: self.set_aside_bytes,
            without_room: self.without_room,
            next_segment: self.next_segment,
            next_spare: self.next_spare,
            end_offset: survey.as_ref().map_or(0, |survey| survey.cut),
            writable: last_is_ours && whole && !identity_changed,
            report: self.report,
        })
    }

    /// Decides what of the last segment counts, and keeps what is corrupt.
    fn examine_last_segment(&mut self) -> Result<Option<Survey>, Error> {
        let Some(last) = self.segments.back().cloned() else { return Ok(None) };
        let survey = survey::examine(&last, self.content.durable_end)?;
        for damage in &survey.corrupt {
            self.keep(&last, damage.from, damage.to)?;
            if damage.records() > 0 {
                self.report.lost.push((damage.first, damage.next));
            }
        }
        if survey.torn.is_some() {
            self.metrics.torn_tails.inc();
            self.report.torn_tail = survey.torn;
        }
        Ok(Some(survey))
    }

    /// Moves files that cannot be read out of the way. Only when the checkpoint with what was decided is durable: without the newest of them in its place, a
    /// start after a crash would not see that the log has lost its end, and use LSNs twice.
    fn move_headless(&mut self) -> Result<(), Error> {
        let dir = self.config.dir.as_path();
        for number in std::mem::take(&mut self.headless) {
            let path = Segment::path(dir, number);
            let length = self.storage.open(&path).and_then(|file| file.length()).context("open", &path)?;
            self.metrics.set_aside.inc();
            self.set_aside_bytes = self.set_aside_bytes.saturating_add(length);
            if self.checkpoint.is_none() {
                // For lack of room. It stays where it is, out of the log, until a later start.
                continue;
            }
            match set_aside::keep_file(self.storage.as_ref(), dir, &path) {
                Ok(name) => self.report.set_aside.push(name),
                Err(error) if error.is_shortage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn keep(&mut self, segment: &Segment, from: u64, to: u64) -> Result<(), Error> {
        let to = to.min(segment.length);
        if from >= to {
            return Ok(());
        }
        let kept = set_aside::keep(self.storage.as_ref(), &self.config.dir, segment, from, to)?;
        if self.without_room.note(segment, from, &kept) {
            self.metrics.set_aside.inc();
        }
        if let Kept::New { name, bytes } = kept {
            self.set_aside_bytes = self.set_aside_bytes.saturating_add(bytes);
            self.report.set_aside.push(name);
        }
        Ok(())
    }

    /// The first LSN that nothing in the checkpoint speaks of.
    fn claimed_end(&self) -> Lsn {
        let positions = &self.content.positions;
        self.content.durable_end.max(positions.scanned).max(positions.sent_bound)
    }

    /// Whether the log does not hold all that the checkpoint knows of, or nobody can tell.
    fn has_lost_end(&self, found_end: Lsn) -> bool {
        self.claimed_end() > found_end.max(self.content.since) || self.end_unknown
    }

    /// Where the log goes on. With its end, it has perhaps lost records that the checkpoint did not know of yet: they cannot be told from those that come
    /// next, unless these come under another identity.
    fn settle_end(&mut self, found_end: Lsn, lost_end: bool) {
        let end = found_end.max(self.content.since).max(self.claimed_end());
        if lost_end {
            self.report.identity_before = Some(self.content.journal);
            self.metrics.identity_changes.inc();
            self.content.journal = Uuid::new_v4();
            self.content.since = end;
        }
        self.content.durable_end = end;
    }

    /// What the operator and the metrics are told.
    fn account(&mut self, found_end: Lsn) {
        let end = self.content.durable_end;
        if self.report.checkpoint_lost {
            self.metrics.checkpoint_losses.inc();
            self.content.positions.sent_bound = end;
        }
        self.content.positions = self.content.positions.clone().within(end);
        let lowest = self.content.positions.lowest();
        if let Some(oldest) = self.segments.front().map(|segment| segment.header.first).filter(|oldest| lowest < *oldest) {
            self.report.lost.insert(0, (lowest, oldest));
        }
        if end > found_end.max(lowest) {
            self.report.lost.push((found_end.max(lowest), end));
        }
        let unpublished = end.since(lowest).saturating_sub(self.content.positions.completed_beyond);
        self.metrics.recovered_records.inc_by(unpublished);
        self.metrics.unpublished_records.set(i64::try_from(unpublished).unwrap_or(i64::MAX));
        self.report.identity = self.content.journal;
        self.report.lowest = lowest;
        self.report.end = end;
        self.report.unpublished_records = unpublished;
    }

    /// Makes durable what was decided, before anything is appended or read.
    fn write_checkpoint(&mut self) -> Result<(), Error> {
        self.content.clean_stop = false;
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.write(&self.content)?;
            return checkpoint.sync();
        }
        match Checkpoint::create(self.storage, &self.config.dir, &self.content) {
            Ok(checkpoint) => self.checkpoint = Some(checkpoint),
            Err(error) if error.is_shortage() => self.remove(&self.config.dir.join(CHECKPOINT_NEW))?,
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// A journal that begins.
fn fresh() -> Content {
    Content { journal: Uuid::new_v4(), since: Lsn::FIRST, durable_end: Lsn::FIRST, clean_stop: false, positions: Positions::at(Lsn::FIRST) }
}

/// What the segments tell where the checkpoint tells nothing: everything that is there may lack.
fn from_segments(segments: &VecDeque<Arc<Segment>>) -> Content {
    let Some((oldest, newest)) = segments.front().zip(segments.back()) else { return fresh() };
    let journal = newest.header.journal;
    let ours = segments.iter().rev().take_while(|segment| segment.header.journal == journal);
    Content {
        journal,
        since: ours.last().map_or(newest.header.first, |segment| segment.header.first),
        durable_end: Lsn::FIRST,
        clean_stop: false,
        positions: Positions::at(oldest.header.first),
    }
}
