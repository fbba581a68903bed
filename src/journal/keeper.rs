//! The keeper thread: writes and syncs the checkpoint, frees segments, prepares spares.
//!
//! A segment is freed only on a checkpoint that was synced with positions beyond it. A spare is all zeros on the disk before it is offered, or was a
//! segment: either way every one of its blocks is written, so that a frame's sync has no metadata to commit and meets no lack of room.

mod spare;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bell::Stop;
use super::checkpoint::{Checkpoint, Content, Positions};
use super::error::{Context, Error};
use super::lsn::Lsn;
use super::retention::Retention;
use super::segment::{Segment, Spare};
use super::shared::Shared;
use super::sync::lock;

pub(super) use spare::Pace;

use spare::Preparing;

/// How long the keeper trusts the wall clock to go on as it does, where it waits for a published segment's time to be over.
const RETENTION_WAIT_MAX: Duration = Duration::from_mins(1);

/// The keeper's own.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    /// `None` until there is room to make the file.
    checkpoint: Option<Checkpoint>,
    since: Lsn,
    positions: Positions,
    /// What was written last: the same is not written again, so that an idle journal leaves the disk alone.
    written: Option<Content>,
    /// Lowest position in the last checkpoint that was written, and in the last that was synced.
    written_lowest: Lsn,
    synced_lowest: Lsn,
    written_at: Option<Instant>,
    synced_at: Option<Instant>,
    unsynced: bool,
    preparing: Option<Preparing>,
    /// Number of the next spare.
    spare_number: u64,
    retention: Retention,
    /// Set where no spare could be prepared for lack of room, and nothing was freed since.
    retry_at: Option<Instant>,
    /// Where there was no room even to free a segment.
    free_at: Option<Instant>,
}

impl Keeper {
    /// `checkpoint` has been synced with `positions`.
    pub(super) fn new(shared: Arc<Shared>, checkpoint: Option<Checkpoint>, since: Lsn, positions: Positions, spare_number: u64) -> Self {
        let lowest = if checkpoint.is_some() { positions.lowest() } else { Lsn::FIRST };
        let retention = Retention::new(shared.config.retention);
        let mut this = Self {
            shared,
            checkpoint,
            since,
            positions,
            written: None,
            written_lowest: lowest,
            synced_lowest: lowest,
            written_at: None,
            synced_at: None,
            unsynced: false,
            preparing: None,
            spare_number,
            retention,
            retry_at: None,
            free_at: None,
        };
        this.note_published();
        this.written = this.checkpoint.is_some().then(|| this.content(CleanStop::No));
        this
    }

    /// Until it is stopped, or the journal has failed.
    pub(super) fn run(mut self) {
        loop {
            let stop = self.shared.bell.wait(self.next_turn(Instant::now()));
            if self.shared.status.failure().is_some() {
                return;
            }
            let done = match stop {
                None => self.turn(Instant::now(), Pace::GiveWay),
                Some(Stop::Clean) => self.finish(Instant::now()),
                Some(Stop::Abrupt) => return,
            };
            if let Err(error) = done {
                self.shared.poison(error);
            }
            if stop.is_some() {
                return;
            }
        }
    }

    /// When there is something to do without being asked.
    fn next_turn(&self, now: Instant) -> Option<Instant> {
        let config = &self.shared.config;
        if self.can_free() {
            return Some(self.free_at.unwrap_or(now));
        }
        let write = self.shared.bell.has_advanced().then(|| due(self.written_at, config.checkpoint_write_interval, now));
        let sync = self.unsynced.then(|| due(self.synced_at, config.checkpoint_sync_interval, now));
        let prepare = self.wants_preparing().then(|| self.retry_at.unwrap_or(now));
        let over = self.oldest_stays().map(|left| now + left.min(RETENTION_WAIT_MAX));
        [write, sync, prepare, over].into_iter().flatten().min()
    }

    /// What is due by now.
    pub(super) fn turn(&mut self, now: Instant, pace: Pace) -> Result<(), Error> {
        let (write, sync) = (self.shared.config.checkpoint_write_interval, self.shared.config.checkpoint_sync_interval);
        if self.shared.bell.has_advanced() && due(self.written_at, write, now) <= now {
            self.write(now, CleanStop::No)?;
        }
        if self.unsynced && (due(self.synced_at, sync, now) <= now || self.can_free()) {
            self.sync(now)?;
        }
        if self.free_at.is_none_or(|retry| retry <= now) {
            self.free(now)?;
        }
        if self.wants_preparing() && self.retry_at.is_none_or(|retry| retry <= now) {
            self.prepare(now, pace)?;
        }
        Ok(())
    }

    /// The last checkpoint.
    pub(super) fn finish(&mut self, now: Instant) -> Result<(), Error> {
        self.write(now, CleanStop::Yes)?;
        self.sync(now)?;
        self.free(now)
    }

    fn write(&mut self, now: Instant, clean_stop: CleanStop) -> Result<(), Error> {
        if let Some(positions) = self.shared.bell.take_positions() {
            self.positions = positions;
        }
        self.written_at = Some(now);
        let content = self.content(clean_stop);
        let lowest = content.positions.lowest();
        if let Some(checkpoint) = &mut self.checkpoint
            && self.written.as_ref() != Some(&content)
        {
            checkpoint.write(&content)?;
            self.written = Some(content);
            self.written_lowest = lowest;
            self.unsynced = true;
        }
        Ok(())
    }

    fn content(&self, clean_stop: CleanStop) -> Content {
        let durable_end = self.shared.durable.end();
        Content {
            journal: self.shared.identity,
            since: self.since,
            durable_end,
            clean_stop: clean_stop == CleanStop::Yes,
            positions: self.positions.clone().within(durable_end),
        }
    }

    fn sync(&mut self, now: Instant) -> Result<(), Error> {
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.sync()?;
            self.synced_lowest = self.written_lowest;
        }
        self.synced_at = Some(now);
        self.unsynced = false;
        self.note_published();
        Ok(())
    }

    /// Which segments the synced checkpoint calls published.
    fn note_published(&mut self) {
        let files = lock(&self.shared.files.inner);
        let behind = files.segments.iter().skip(1).take_while(|next| next.header.first <= self.synced_lowest).count();
        let numbers = files.segments.iter().take(behind).map(|segment| segment.header.number);
        let published = self.retention.note(numbers, self.shared.clock.now());
        self.shared.metrics.published_segments.set(i64::try_from(published).unwrap_or(i64::MAX));
    }

    /// How much longer the oldest segment stays although it is published; `None` where it is not, or where nothing keeps it.
    fn oldest_stays(&self) -> Option<Duration> {
        let number = lock(&self.shared.files.inner).segments.front()?.header.number;
        self.retention.left(number, self.shared.clock.now()).filter(|left| !left.is_zero())
    }

    /// Whether a sync now would free a segment, or has: one that is published, and whose time is over or whose room is needed.
    fn can_free(&self) -> bool {
        self.has_published() && (self.retry_at.is_some() || self.is_over())
    }

    /// Whether the oldest segment lies below the positions that were written.
    fn has_published(&self) -> bool {
        let files = lock(&self.shared.files.inner);
        files.segments.get(1).is_some_and(|second| second.header.first <= self.written_lowest)
    }

    fn is_over(&self) -> bool {
        let number = lock(&self.shared.files.inner).segments.front().map(|segment| segment.header.number);
        number.and_then(|number| self.retention.left(number, self.shared.clock.now())).is_some_and(|left| left.is_zero())
    }

    /// Frees what lies below the synced positions and need not stay. One freed segment more than the spares that are wanted is kept: so under steady load
    /// each segment that is begun was freed before, and none is zeroed.
    fn free(&mut self, now: Instant) -> Result<(), Error> {
        self.free_at = None;
        while self.can_free() {
            let early = !self.is_over();
            let Some(segment) = self.shared.take_segment_below(self.synced_lowest) else { return Ok(()) };
            let wanted = segment.length == self.shared.config.segment_length() && self.spares() <= self.shared.config.spares;
            // A reader that still holds the file must not see another use of it.
            let freed = match Arc::try_unwrap(segment) {
                Ok(segment) if wanted => self.recycle(segment)?,
                Ok(segment) => self.remove_segment(Arc::new(segment))?,
                Err(segment) => self.remove_segment(segment)?,
            };
            if freed == Freed::No {
                self.free_at = Some(now + self.shared.config.room_retry_interval);
                return Ok(());
            }
            if early {
                self.shared.metrics.retention_cut_short.inc();
            }
            // There is room again, whatever the last attempt found.
            self.retry_at = None;
            self.note_published();
        }
        Ok(())
    }

    fn spares(&self) -> usize {
        lock(&self.shared.files.inner).spares.len()
    }

    /// The name must be durable before the file is written to: else a crash could show new frames under the old name.
    fn recycle(&mut self, segment: Segment) -> Result<Freed, Error> {
        let path = Spare::path(&self.shared.config.dir, self.spare_number);
        self.spare_number += 1;
        match self.shared.storage.rename(&segment.path, &path).context("rename", &segment.path) {
            Err(error) if error.is_no_space() => {
                self.shared.put_back(Arc::new(segment));
                return Ok(Freed::No);
            }
            other => other?,
        }
        match self.sync_dir() {
            Err(error) if error.is_no_space() => {
                // A name that is not durable is of no use. If the file cannot be removed either, the next start takes it over.
                return self.try_remove(&path).map(|_| Freed::Yes);
            }
            other => other?,
        }
        self.shared.add_spare(Spare { path, length: segment.length, file: segment.file });
        if self.spares() >= self.shared.config.spares {
            self.drop_preparing()?;
        }
        Ok(Freed::Yes)
    }

    fn remove_segment(&self, segment: Arc<Segment>) -> Result<Freed, Error> {
        let freed = self.try_remove(&segment.path)?;
        if freed == Freed::No {
            self.shared.put_back(segment);
        }
        Ok(freed)
    }

    /// Some file systems need room to remove a name.
    fn try_remove(&self, path: &Path) -> Result<Freed, Error> {
        match self.shared.storage.remove(path).context("remove", path) {
            Err(error) if error.is_no_space() => return Ok(Freed::No),
            other => other?,
        }
        match self.sync_dir() {
            // A name that a crash brings back is of a file that the next start frees or takes over.
            Err(error) if error.is_no_space() => Ok(Freed::Yes),
            other => other.map(|()| Freed::Yes),
        }
    }

    fn sync_dir(&self) -> Result<(), Error> {
        let dir = &self.shared.config.dir;
        self.shared.storage.sync_dir(dir).context("sync", dir)
    }

    /// There is room for it by now. What it calls published may go at once: positions that do not move any more are not written again.
    fn create_checkpoint(&mut self, now: Instant) -> Result<(), Error> {
        let content = self.content(CleanStop::No);
        self.checkpoint = Some(Checkpoint::create(&self.shared.storage, &self.shared.config.dir, &content)?);
        let lowest = content.positions.lowest();
        (self.written_lowest, self.synced_lowest) = (lowest, lowest);
        (self.written_at, self.synced_at) = (Some(now), Some(now));
        self.written = Some(content);
        self.note_published();
        Ok(())
    }
}

/// Whether a file is gone, or there was no room even for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freed {
    Yes,
    No,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CleanStop {
    Yes,
    No,
}

/// When something is to be done again; at once, where it never was.
fn due(last: Option<Instant>, interval: Duration, now: Instant) -> Instant {
    last.map_or(now, |last| last + interval)
}

impl Drop for Keeper {
    /// Without a keeper no room is ever made again.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.poison(Error::Died { thread: "keeper" });
        }
    }
}
