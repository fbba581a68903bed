//! What a file holds: what reads see, and what a loss of power may leave of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use fastrand::Rng;

/// What a disk writes whole or not at all.
pub(super) const SECTOR: usize = 512;

type Block = Arc<[u8; SECTOR]>;

/// One sector of one file.
#[derive(Clone, Debug)]
struct Sector {
    /// What reads see.
    cache: Block,
    /// What the disk holds; `None` where no byte of it was ever synced.
    disk: Option<Block>,
    /// What was written since: the disk may hold any of it.
    unsynced: Vec<Block>,
}

/// A file's bytes and length.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    sectors: Vec<Sector>,
    length: usize,
    disk_length: usize,
    unsynced_lengths: Vec<usize>,
    /// Sectors that a sync would write.
    dirty: BTreeSet<usize>,
    /// A sync has failed: reads may see what the disk does not hold, and no sync writes it.
    parted: bool,
}

/// How the unsynced sectors of one file fare in one crash.
#[derive(Clone, Copy, Debug)]
enum Fare {
    /// None has reached the disk.
    Old,
    /// All have.
    New,
    /// Those below this sector have.
    Below(usize),
    /// Those from this sector on have.
    From(usize),
    /// Each for itself.
    Mixed,
}

impl Content {
    pub(super) fn length(&self) -> usize {
        self.length
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: usize) -> usize {
        let count = buffer.len().min(self.length.saturating_sub(offset));
        let mut done = 0;
        while done < count {
            let (index, within) = ((offset + done) / SECTOR, (offset + done) % SECTOR);
            let step = (SECTOR - within).min(count - done);
            buffer[done..done + step].copy_from_slice(&self.sectors[index].cache[within..within + step]);
            done += step;
        }
        count
    }

    /// Bytes that a write would add to the file.
    pub(super) fn growth(&self, offset: usize, count: usize) -> usize {
        (offset + count).saturating_sub(self.length)
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        self.grow(end);
        let mut at = offset;
        while at < end {
            let (index, within) = (at / SECTOR, at % SECTOR);
            let count = (SECTOR - within).min(end - at);
            let sector = &mut self.sectors[index];
            let mut block = *sector.cache;
            block[within..within + count].copy_from_slice(&bytes[at - offset..at - offset + count]);
            sector.cache = Arc::new(block);
            sector.unsynced.push(Arc::clone(&sector.cache));
            self.dirty.insert(index);
            at += count;
        }
        if end > self.disk_length {
            self.unsynced_lengths.push(self.length);
        }
    }

    fn grow(&mut self, end: usize) {
        let zeros: Block = Arc::new([0; SECTOR]);
        while self.sectors.len() * SECTOR < end {
            self.dirty.insert(self.sectors.len());
            self.sectors.push(Sector { cache: Arc::clone(&zeros), disk: None, unsynced: Vec::new() });
        }
        self.length = self.length.max(end);
    }

    /// What `create` makes of a file that exists.
    pub(super) fn truncate(&mut self) {
        self.length = 0;
        self.unsynced_lengths.push(0);
        let zeros: Block = Arc::new([0; SECTOR]);
        for (index, sector) in self.sectors.iter_mut().enumerate() {
            sector.cache = Arc::clone(&zeros);
            sector.unsynced.push(Arc::clone(&zeros));
            self.dirty.insert(index);
        }
    }

    pub(super) fn sync(&mut self) {
        for index in std::mem::take(&mut self.dirty) {
            let sector = &mut self.sectors[index];
            sector.disk = Some(sector.unsynced.pop().unwrap_or_else(|| Arc::clone(&sector.cache)));
            sector.unsynced.clear();
        }
        self.unsynced_lengths.clear();
        self.disk_length = self.length;
    }

    /// Some of what was to be synced is on the disk, and the rest never will be: reads see it, and no later sync writes it.
    pub(super) fn sync_in_vain(&mut self, rng: &mut Rng) {
        self.settle(rng, &[]);
        self.parted = true;
    }

    /// What a start finds after a loss of power; `stale` are bytes that may show where none was ever synced.
    pub(super) fn crash(&mut self, rng: &mut Rng, stale: &[u8]) {
        self.settle(rng, stale);
        self.parted = false;
        self.length = self.disk_length;
        self.sectors.truncate(self.length.div_ceil(SECTOR));
        let rest = self.length % SECTOR;
        for sector in &mut self.sectors {
            let disk = sector.disk.get_or_insert_with(|| Arc::new([0; SECTOR]));
            sector.cache = Arc::clone(disk);
        }
        if let (Some(last), true) = (self.sectors.last_mut(), rest > 0) {
            let mut block = *last.cache;
            block[rest..].fill(0);
            last.cache = Arc::new(block);
            last.disk = Some(Arc::clone(&last.cache));
        }
    }

    /// Whether the disk holds what reads see.
    pub(super) fn is_safe(&self) -> bool {
        self.dirty.is_empty() && self.unsynced_lengths.is_empty() && !self.parted
    }

    /// Decides what of the unsynced is on the disk.
    fn settle(&mut self, rng: &mut Rng, stale: &[u8]) {
        let dirty = std::mem::take(&mut self.dirty);
        let fare = Fare::of(rng, &dirty);
        for index in dirty {
            let sector = &mut self.sectors[index];
            let unsynced = std::mem::take(&mut sector.unsynced);
            let (last, none) = (unsynced.len(), sector.disk.is_none());
            let pick = match fare {
                Fare::Old => 0,
                Fare::New => last,
                Fare::Below(limit) => {
                    if index < limit {
                        last
                    } else {
                        0
                    }
                }
                Fare::From(limit) => {
                    if index >= limit {
                        last
                    } else {
                        0
                    }
                }
                Fare::Mixed => rng.usize(0..=last),
            };
            sector.disk = match pick.checked_sub(1) {
                Some(pick) => Some(Arc::clone(&unsynced[pick])),
                None if none => Some(garbage(rng, stale)),
                None => sector.disk.take(),
            };
        }
        let lengths = std::mem::take(&mut self.unsynced_lengths);
        if let Some(pick) = rng.usize(0..=lengths.len()).checked_sub(1) {
            self.disk_length = lengths[pick];
        }
    }
}

impl Fare {
    fn of(rng: &mut Rng, dirty: &BTreeSet<usize>) -> Self {
        let (first, last) = (dirty.first().copied().unwrap_or(0), dirty.last().copied().unwrap_or(0));
        match rng.u8(0..8) {
            0 => Self::Old,
            1 => Self::New,
            2 | 3 => Self::Below(rng.usize(first..=last)),
            4 => Self::From(rng.usize(first..=last)),
            _ => Self::Mixed,
        }
    }
}

/// What stands where nothing was ever synced: zeros, noise, or what the block held before, in another file.
fn garbage(rng: &mut Rng, stale: &[u8]) -> Block {
    let mut block = [0; SECTOR];
    match rng.u8(0..3) {
        0 => {}
        1 => rng.fill(&mut block),
        _ => {
            if let Some(count) = (stale.len() / SECTOR).checked_sub(1) {
                let from = rng.usize(0..=count) * SECTOR;
                block.copy_from_slice(&stale[from..from + SECTOR]);
            }
        }
    }
    Arc::new(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first bytes of both sectors after a crash, in every way that some seeds show.
    fn crashes(content: &Content) -> BTreeSet<(u8, u8)> {
        let outcome = |seed| {
            let mut left = content.clone();
            left.crash(&mut Rng::with_seed(seed), &[0xEE; SECTOR]);
            let mut bytes = [0; 2 * SECTOR];
            left.read(&mut bytes, 0);
            (bytes[0], bytes[SECTOR])
        };
        (0..200).map(outcome).collect()
    }

    fn filled(byte: u8) -> Content {
        let mut content = Content::default();
        content.write(&[byte; 2 * SECTOR], 0);
        content
    }

    #[test]
    fn what_was_synced_stays_and_the_rest_is_old_or_new_by_sectors() {
        let mut content = filled(1);
        content.sync();
        assert_eq!(crashes(&content), [(1, 1)].into());
        content.write(&[2; 2 * SECTOR], 0);
        assert_eq!(crashes(&content), [(1, 1), (1, 2), (2, 1), (2, 2)].into());
    }

    #[test]
    fn garbage_shows_only_where_nothing_was_ever_synced() {
        let left = crashes(&filled(1));
        assert!([(1, 1), (0, 0), (0xEE, 0xEE)].iter().all(|outcome| left.contains(outcome)), "{left:?}");
    }

    #[test]
    fn after_a_failed_sync_reads_see_what_no_later_sync_writes() {
        let mut content = filled(1);
        content.sync();
        content.write(&[2; 2 * SECTOR], 0);
        let lost = (0..).find_map(|seed| {
            let mut failed = content.clone();
            failed.sync_in_vain(&mut Rng::with_seed(seed));
            (crashes(&failed) == [(1, 1)].into()).then_some(failed)
        });
        let mut lost = lost.unwrap();
        let mut bytes = [0; 1];
        lost.read(&mut bytes, 0);
        assert_eq!(bytes, [2]);
        lost.sync();
        assert_eq!(crashes(&lost), [(1, 1)].into());
        lost.write(&[2; 1], 0);
        lost.sync();
        assert_eq!(crashes(&lost), [(2, 1)].into());
    }
}
