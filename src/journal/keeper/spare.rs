//! Spares in the making, step by step, and the room for them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::super::error::{Context, Error};
use super::super::number::to_u64;
use super::super::segment::{Spare, ZERO_STEP, zero};
use super::super::status::FullReason;
use super::super::storage::File;
use super::super::sync::lock;
use super::{Freed, Keeper};

/// How long a step of zeroing waits for a moment without a batch: long enough that a batch goes first, short enough that steady load cannot hold the
/// next segment up.
const QUIET_WAIT_MAX: Duration = Duration::from_millis(20);

/// A spare in the making.
pub(super) struct Preparing {
    number: u64,
    path: PathBuf,
    file: Box<dyn File>,
    /// Up to where it is zeroed and synced.
    done: u64,
}

/// Whether steps of zeroing give way to batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) enum Pace {
    GiveWay,
    /// Nothing can be written before the spare is ready.
    AtOnce,
}

impl Keeper {
    /// Prepares one spare before anything else, or finds that there is no room.
    pub(in crate::journal) fn prepare_first(&mut self, now: Instant) -> Result<(), Error> {
        while self.retry_at.is_none() && lock(&self.shared.files.inner).spares.is_empty() {
            self.prepare(now, Pace::AtOnce)?;
        }
        self.shared.fill_if_blocked();
        Ok(())
    }

    pub(super) fn wants_preparing(&self) -> bool {
        self.preparing.is_some() || self.checkpoint.is_none() || self.spares() < self.shared.config.spares
    }

    /// One step towards a spare.
    pub(super) fn prepare(&mut self, now: Instant, pace: Pace) -> Result<(), Error> {
        let blocked = match self.prepare_step(now, pace) {
            Ok(blocked) => blocked,
            Err(error) if error.is_no_space() => {
                self.drop_preparing()?;
                Some(FullReason::NoSpace)
            }
            Err(error) if error.is_no_descriptor() => Some(FullReason::NoDescriptor),
            Err(error) => return Err(error),
        };
        self.retry_at = blocked.map(|_| now + self.shared.config.room_retry_interval);
        match blocked {
            Some(reason) if self.free_at.is_some() || !self.has_published() => self.shared.block(reason),
            // There is a published segment, whose room is next.
            Some(_) => {}
            None => self.shared.unblock(),
        }
        Ok(())
    }

    fn prepare_step(&mut self, now: Instant, pace: Pace) -> Result<Option<FullReason>, Error> {
        if self.checkpoint.is_none() {
            self.create_checkpoint(now)?;
            return Ok(None);
        }
        let length = self.shared.config.segment_length();
        let Some(preparing) = &mut self.preparing else {
            if let Some(reason) = self.lack_of_room(length)? {
                return Ok(Some(reason));
            }
            let number = self.spare_number;
            self.spare_number += 1;
            let path = Spare::preparing_path(&self.shared.config.dir, number);
            let file = self.shared.storage.create(&path).context("create", &path)?;
            self.preparing = Some(Preparing { number, path, file, done: 0 });
            return Ok(None);
        };
        if preparing.done < length {
            if pace == Pace::GiveWay {
                self.shared.queue.wait_for_quiet(QUIET_WAIT_MAX);
            }
            let to = preparing.done.saturating_add(to_u64(ZERO_STEP)).min(length);
            zero(preparing.file.as_ref(), preparing.done, to).context("write to", &preparing.path)?;
            preparing.file.sync_data().context("sync", &preparing.path)?;
            preparing.done = to;
            return Ok(None);
        }
        self.offer(length)?;
        Ok(None)
    }

    /// Gives the finished file its name. Until that is durable the file stays in the making, so that it is not forgotten where there is no room.
    fn offer(&mut self, length: u64) -> Result<(), Error> {
        if let Some(preparing) = &mut self.preparing {
            let path = Spare::path(&self.shared.config.dir, preparing.number);
            if preparing.path != path {
                self.shared.storage.rename(&preparing.path, &path).context("rename", &preparing.path)?;
                preparing.path = path;
            }
        }
        self.sync_dir()?;
        if let Some(Preparing { path, file, .. }) = self.preparing.take() {
            self.shared.add_spare(Spare { path, length, file });
        }
        Ok(())
    }

    fn lack_of_room(&self, length: u64) -> Result<Option<FullReason>, Error> {
        let config = &self.shared.config;
        let size = lock(&self.shared.files.inner).size();
        if size.saturating_add(length) > config.size_max {
            return Ok(Some(FullReason::SizeMax));
        }
        let free = self.shared.storage.free_space(&config.dir).context("read the free space of", &config.dir)?;
        Ok((free < config.free_space_min.saturating_add(length)).then_some(FullReason::FreeSpaceMin))
    }

    /// Where there is no room even for that, the file in the making stays, and is finished later.
    pub(super) fn drop_preparing(&mut self) -> Result<(), Error> {
        if let Some(preparing) = &self.preparing
            && self.try_remove(&preparing.path)? == Freed::Yes
        {
            self.preparing = None;
        }
        Ok(())
    }
}
