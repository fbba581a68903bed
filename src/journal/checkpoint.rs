//! The checkpoint: how far the streams are, how far the journal was synced, and whose journal it is.
//!
//! One preallocated file with two slots. Everything that is written between two syncs goes into one slot, so that the other, which was synced before,
//! stays good whatever a crash does to this one; the sync changes their roles. The valid slot with the higher generation counts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::error::{Context, Error};
use super::lsn::Lsn;
use super::number::{to_u64, to_usize, u16_at, u32_at, u64_at};
use super::storage::{File, Storage, read_exact_at, write_all_at};

/// Length of a slot.
pub(super) const SLOT: usize = 64 * 1024;
/// Version of the format of slots.
pub(super) const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"CBridgeC";
const NAME: &str = "checkpoint";
const NEW_NAME: &str = "checkpoint.new";
/// Length of a slot's header: what stands before the payload in every version.
const HEADER: usize = 32;
/// Length of the payload before the streams.
const FIXED: usize = 64;
const CLEAN_STOP: u32 = 1;
/// How often whoever looks on reads slots that change meanwhile. Ten writes a second leave time for hundreds of readings between two of them.
const READINGS_MAX: usize = 20;

/// How far the streams are: every stream has its records below `scanned`, but for those in `behind`. The journal takes the names as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positions {
    /// Every stream that is not in `behind` has its records below this.
    pub scanned: Lsn,
    /// A stream's name (at most 65,535 bytes), and the first LSN that it may lack.
    pub behind: Vec<(String, Lsn)>,
    /// Records in `lowest()..scanned` that are completed.
    pub completed_beyond: u64,
    /// No record at or above it had been handed to Kafka.
    pub sent_bound: Lsn,
}

impl Positions {
    /// All streams at the same place, nothing handed over from there on.
    #[must_use]
    pub fn at(lsn: Lsn) -> Self {
        Self { scanned: lsn, behind: Vec::new(), completed_beyond: 0, sent_bound: lsn }
    }

    /// The first LSN that some stream may lack. Segments below it can be freed.
    #[must_use]
    pub fn lowest(&self) -> Lsn {
        self.behind.iter().map(|(_, lsn)| *lsn).fold(self.scanned, Lsn::min)
    }

    /// The same with nothing beyond `end`, where the log ends.
    pub(super) fn within(mut self, end: Lsn) -> Self {
        self.scanned = self.scanned.min(end);
        self.behind.retain(|(_, lsn)| *lsn < end);
        self.sent_bound = self.sent_bound.min(end);
        self.completed_beyond = self.completed_beyond.min(self.scanned.since(self.lowest()));
        self
    }

    /// The positions in a form that always fits: the streams that are ahead of the lowest will see their records again.
    fn coarse(&self) -> Self {
        Self { scanned: self.lowest(), behind: Vec::new(), completed_beyond: 0, sent_bound: self.sent_bound }
    }
}

/// What a slot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) journal: Uuid,
    /// The first LSN that was written under this identity.
    pub(super) since: Lsn,
    /// Every record below it was durable.
    pub(super) durable_end: Lsn,
    /// The journal was closed, and nothing was written after it.
    pub(super) clean_stop: bool,
    pub(super) positions: Positions,
}

/// What a slot is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Slot {
    Known { generation: u64, content: Content },
    Unknown(u32),
    Bad,
}

/// What was found in the folder.
#[derive(Debug)]
pub(super) enum Found {
    /// There is no such file.
    Absent,
    /// Neither slot is good.
    Lost,
    Good(Checkpoint, Content),
}

/// What whoever looks on finds in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// There is no such file.
    Absent,
    /// Neither slot is good.
    Lost,
    Good {
        generation: u64,
        content: Content,
    },
}

/// The open file.
#[derive(Debug)]
pub(super) struct Checkpoint {
    path: PathBuf,
    file: Box<dyn File>,
    /// Of the last write.
    generation: u64,
    /// The slot that takes the writes until the next sync.
    slot: usize,
}

impl Checkpoint {
    /// Reads what is there, to be written on; changes nothing.
    pub(super) fn find(storage: &dyn Storage, dir: &Path) -> Result<Found, Error> {
        let path = dir.join(NAME);
        let file = match storage.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Absent),
            Err(error) => return Err(error).context("open", &path),
        };
        Ok(match best_of(&read_slots(file.as_ref(), &path)?, &path)? {
            Some((generation, slot, content)) => Found::Good(Self { path, file, generation, slot }, content),
            None => Found::Lost,
        })
    }

    /// Reads what is there, for whoever looks on.
    pub(super) fn look(storage: &dyn Storage, dir: &Path) -> Result<Seen, Error> {
        let path = dir.join(NAME);
        let file = match storage.open_to_read(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Seen::Absent),
            Err(error) => return Err(error).context("open", &path),
        };
        let slots = settled_slots(file.as_ref(), &path)?;
        Ok(best_of(&slots, &path)?.map_or(Seen::Lost, |(generation, _, content)| Seen::Good { generation, content }))
    }

    /// Makes the file, durable with `content` from the moment it bears its name.
    pub(super) fn create(storage: &Arc<dyn Storage>, dir: &Path, content: &Content) -> Result<Self, Error> {
        let (new, path) = (dir.join(NEW_NAME), dir.join(NAME));
        let file = storage.create(&new).context("create", &new)?;
        write_all_at(file.as_ref(), &vec![0; 2 * SLOT], 0).context("write to", &new)?;
        let mut checkpoint = Self { path: path.clone(), file, generation: 0, slot: 0 };
        checkpoint.write(content)?;
        checkpoint.sync()?;
        storage.rename(&new, &path).context("rename", &new)?;
        storage.sync_dir(dir).context("sync", dir)?;
        Ok(checkpoint)
    }

    /// Writes a found checkpoint once more and syncs it: the page cache may hold what the disk does not. The other slot becomes the next to be
    /// written.
    pub(super) fn settle(&mut self, found: &Content) -> Result<(), Error> {
        self.put(found)?;
        self.sync()
    }

    /// Writes `content` without a sync.
    pub(super) fn write(&mut self, content: &Content) -> Result<(), Error> {
        self.generation += 1;
        self.put(content)
    }

    /// Makes durable what was written.
    pub(super) fn sync(&mut self) -> Result<(), Error> {
        self.file.sync_data().context("sync", &self.path)?;
        self.slot = 1 - self.slot;
        Ok(())
    }

    fn put(&self, content: &Content) -> Result<(), Error> {
        let bytes = encode(self.generation, content);
        write_all_at(self.file.as_ref(), &bytes, to_u64(self.slot * SLOT)).context("write to", &self.path)
    }
}

/// The bytes of both slots.
fn read_slots(file: &dyn File, path: &Path) -> Result<[Vec<u8>; 2], Error> {
    let length = to_usize(file.length().context("read the length of", path)?);
    let mut slots = [Vec::new(), Vec::new()];
    for (slot, bytes) in slots.iter_mut().enumerate() {
        let start = slot * SLOT;
        bytes.resize(length.saturating_sub(start).min(SLOT), 0);
        read_exact_at(file, bytes, to_u64(start)).context("read", path)?;
    }
    Ok(slots)
}

/// The bytes of both slots as they stood at one moment, though somebody writes to them. Read at different moments, the one could be older than the last sync,
/// and the other half written.
fn settled_slots(file: &dyn File, path: &Path) -> Result<[Vec<u8>; 2], Error> {
    let mut slots = read_slots(file, path)?;
    for _ in 1..READINGS_MAX {
        let again = read_slots(file, path)?;
        if again == slots {
            break;
        }
        slots = again;
    }
    Ok(slots)
}

/// Of the slots that are good, the one with the higher generation: generation, which one, content.
fn best_of(slots: &[Vec<u8>; 2], path: &Path) -> Result<Option<(u64, usize, Content)>, Error> {
    let mut best: Option<(u64, usize, Content)> = None;
    for (slot, bytes) in slots.iter().enumerate() {
        match decode(bytes) {
            Slot::Known { generation, content } => {
                if best.as_ref().is_none_or(|(highest, ..)| generation > *highest) {
                    best = Some((generation, slot, content));
                }
            }
            Slot::Unknown(version) => return Err(Error::UnknownVersion { path: path.to_owned(), version }),
            Slot::Bad => {}
        }
    }
    Ok(best)
}

/// A slot's bytes, without the rest of the slot.
pub(super) fn encode(generation: u64, content: &Content) -> Vec<u8> {
    let fits = |positions: &Positions| {
        let streams: usize = positions.behind.iter().map(|(name, _)| 10 + name.len()).sum();
        HEADER + FIXED + streams <= SLOT && positions.behind.iter().all(|(name, _)| u16::try_from(name.len()).is_ok())
    };
    let coarse;
    let positions = if fits(&content.positions) {
        &content.positions
    } else {
        coarse = content.positions.coarse();
        &coarse
    };
    let mut payload = Vec::with_capacity(FIXED);
    payload.extend_from_slice(content.journal.as_bytes());
    payload.extend_from_slice(&content.since.get().to_le_bytes());
    payload.extend_from_slice(&content.durable_end.get().to_le_bytes());
    payload.extend_from_slice(&positions.scanned.get().to_le_bytes());
    payload.extend_from_slice(&positions.sent_bound.get().to_le_bytes());
    payload.extend_from_slice(&positions.completed_beyond.to_le_bytes());
    payload.extend_from_slice(&(if content.clean_stop { CLEAN_STOP } else { 0 }).to_le_bytes());
    payload.extend_from_slice(&u32::try_from(positions.behind.len()).unwrap_or(u32::MAX).to_le_bytes());
    for (name, lsn) in &positions.behind {
        payload.extend_from_slice(&lsn.get().to_le_bytes());
        payload.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
        payload.extend_from_slice(name.as_bytes());
    }
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(&payload);
    let check = check(&bytes).to_le_bytes();
    if let Some(place) = bytes.get_mut(12..16) {
        place.copy_from_slice(&check);
    }
    bytes
}

fn decode(slot: &[u8]) -> Slot {
    let whole = || -> Option<&[u8]> {
        let length = to_usize(u64::from(u32_at(slot, 16)?));
        let bytes = slot.get(..HEADER.checked_add(length)?)?;
        (bytes.starts_with(&MAGIC) && u32_at(bytes, 12)? == check(bytes)).then_some(bytes)
    };
    let Some(bytes) = whole() else { return Slot::Bad };
    match u32_at(bytes, 8) {
        Some(VERSION) => content(bytes).unwrap_or(Slot::Bad),
        Some(version) => Slot::Unknown(version),
        None => Slot::Bad,
    }
}

fn content(bytes: &[u8]) -> Option<Slot> {
    let generation = u64_at(bytes, 24)?;
    let payload = bytes.get(HEADER..)?;
    let count = u32_at(payload, 60)?;
    let mut behind = Vec::new();
    let mut at = FIXED;
    for _ in 0..count {
        let lsn = Lsn::new(u64_at(payload, at)?);
        let length = usize::from(u16_at(payload, at + 8)?);
        let name = payload.get(at + 10..at + 10 + length)?;
        behind.push((std::str::from_utf8(name).ok()?.to_owned(), lsn));
        at += 10 + length;
    }
    let content = Content {
        journal: Uuid::from_bytes(*payload.first_chunk()?),
        since: Lsn::new(u64_at(payload, 16)?),
        durable_end: Lsn::new(u64_at(payload, 24)?),
        clean_stop: u32_at(payload, 56)? & CLEAN_STOP != 0,
        positions: Positions {
            scanned: Lsn::new(u64_at(payload, 32)?),
            sent_bound: Lsn::new(u64_at(payload, 40)?),
            completed_beyond: u64_at(payload, 48)?,
            behind,
        },
    };
    Some(Slot::Known { generation, content })
}

/// Of everything but the check itself.
fn check(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(bytes.get(..12).unwrap_or_default()), bytes.get(16..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::storage::memory::{Memory, Operation};
    use super::*;

    fn dir() -> &'static Path {
        Path::new("/j")
    }

    fn storage() -> (Memory, Arc<dyn Storage>) {
        let memory = Memory::new();
        memory.create_dir(dir()).unwrap();
        let shared = Arc::new(memory.clone());
        (memory, shared)
    }

    fn content_at(lsn: u64) -> Content {
        Content {
            journal: Uuid::from_u128(5),
            since: Lsn::FIRST,
            durable_end: Lsn::new(lsn),
            clean_stop: false,
            positions: Positions::at(Lsn::new(lsn)),
        }
    }

    fn found(memory: &Memory) -> Option<Content> {
        match Checkpoint::find(memory, dir()).unwrap() {
            Found::Good(_, content) => Some(content),
            Found::Absent | Found::Lost => None,
        }
    }

    prop_compose! {
        fn any_positions()(
            scanned: u64, sent: u64, completed_beyond: u64,
            behind in prop::collection::vec((".{0,40}", any::<u64>()), 0..6),
        ) -> Positions {
            Positions {
                scanned: Lsn::new(scanned),
                behind: behind.into_iter().map(|(name, lsn)| (name, Lsn::new(lsn))).collect(),
                completed_beyond,
                sent_bound: Lsn::new(sent),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_reads_back(positions in any_positions(), generation: u64, journal: u128, clean_stop: bool) {
            let content = Content { journal: Uuid::from_u128(journal), since: Lsn::new(3), durable_end: Lsn::new(9), clean_stop, positions };
            let mut bytes = encode(generation, &content);
            bytes.resize(SLOT, 0xEE);
            prop_assert_eq!(decode(&bytes), Slot::Known { generation, content });
        }

        #[test]
        fn a_flipped_bit_or_a_cut_never_passes(positions in any_positions(), at: prop::sample::Index, bit in 0_usize..8) {
            let content = Content { positions, ..content_at(4) };
            let mut bytes = encode(1, &content);
            let at = at.index(bytes.len());
            prop_assert_eq!(decode(&bytes[..at]), Slot::Bad);
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(decode(&bytes), Slot::Bad);
        }
    }

    #[test]
    fn positions_that_do_not_fit_are_kept_in_their_coarse_form() {
        let behind = (0..3000).map(|number| (format!("stream-with-a-long-name-{number:040}"), Lsn::new(100 + number))).collect();
        let positions = Positions { scanned: Lsn::new(9000), behind, completed_beyond: 77, sent_bound: Lsn::new(9500) };
        let bytes = encode(1, &Content { positions: positions.clone(), ..content_at(9500) });
        assert!(bytes.len() <= SLOT);
        let Slot::Known { content, .. } = decode(&bytes) else { panic!("must read back") };
        assert_eq!(content.positions.lowest(), positions.lowest());
        assert_eq!(content.positions, positions.coarse());
    }

    #[test]
    fn the_newest_good_slot_counts_and_the_synced_one_is_never_written_over() {
        let (memory, shared) = storage();
        let path = dir().join("checkpoint");
        let mut checkpoint = Checkpoint::create(&shared, dir(), &content_at(1)).unwrap();
        let synced = memory.contents(&path)[..SLOT].to_vec();
        for lsn in 2..5 {
            checkpoint.write(&content_at(lsn)).unwrap();
            assert_eq!(memory.contents(&path)[..SLOT], synced, "the synced slot stays until the next sync");
        }
        assert_eq!(found(&memory), Some(content_at(4)));
        memory.edit(&path, |bytes| bytes[SLOT + 40] ^= 1);
        assert_eq!(found(&memory), Some(content_at(1)), "a torn write falls back to what was synced");
        checkpoint.write(&content_at(5)).unwrap();
        checkpoint.sync().unwrap();
        checkpoint.write(&content_at(6)).unwrap();
        memory.edit(&path, |bytes| bytes[40] ^= 1);
        assert_eq!(found(&memory), Some(content_at(5)));
    }

    #[test]
    fn a_found_checkpoint_is_settled_in_its_own_slot_before_the_other_is_written() {
        let (memory, shared) = storage();
        let path = dir().join("checkpoint");
        let mut checkpoint = Checkpoint::create(&shared, dir(), &content_at(1)).unwrap();
        checkpoint.write(&content_at(2)).unwrap();
        let Found::Good(mut again, content) = Checkpoint::find(&memory, dir()).unwrap() else { panic!("must be good") };
        let before = memory.contents(&path);
        memory.take_done();
        again.settle(&content).unwrap();
        assert_eq!(memory.contents(&path), before);
        assert!(memory.take_done().iter().any(|(operation, _)| *operation == Operation::Sync));
        again.write(&content_at(3)).unwrap();
        memory.edit(&path, |bytes| bytes[40] ^= 1);
        assert_eq!(found(&memory), Some(content_at(2)), "the write went to the other slot");
    }

    #[test]
    fn both_slots_bad_is_a_loss_and_another_version_an_error() {
        let (memory, shared) = storage();
        let path = dir().join("checkpoint");
        assert!(matches!(Checkpoint::find(&memory, dir()).unwrap(), Found::Absent));
        Checkpoint::create(&shared, dir(), &content_at(1)).unwrap();
        memory.edit(&path, |bytes| bytes[40] ^= 1);
        assert!(matches!(Checkpoint::find(&memory, dir()).unwrap(), Found::Lost));
        memory.edit(&path, |bytes| {
            bytes[40] ^= 1;
            bytes[8] = 9;
            let end = HEADER + to_usize(u64::from(u32_at(bytes, 16).unwrap()));
            let check = check(&bytes[..end]).to_le_bytes();
            bytes[12..16].copy_from_slice(&check);
        });
        assert!(matches!(Checkpoint::find(&memory, dir()), Err(Error::UnknownVersion { version: 9, .. })));
        memory.edit(&path, |bytes| bytes.truncate(10));
        assert!(matches!(Checkpoint::find(&memory, dir()).unwrap(), Found::Lost));
    }

    /// Written to by somebody else while it is read.
    #[derive(Debug)]
    struct Changing {
        slots: std::sync::Mutex<[Vec<u8>; 2]>,
        /// Behind which reading.
        at: usize,
        readings: std::sync::atomic::AtomicUsize,
    }

    impl File for Changing {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
            let mut slots = self.slots.lock().unwrap();
            let slot = to_usize(offset) / SLOT;
            buffer.copy_from_slice(&slots[slot][..buffer.len()]);
            let reading = self.readings.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if reading == self.at {
                // The first slot has its turn and is synced, then the second is half written.
                slots[0] = slot_of(5);
                slots[1] = vec![7; SLOT];
            }
            Ok(buffer.len())
        }

        fn write_at(&self, _: &[u8], _: u64) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::Unsupported.into())
        }

        fn sync_data(&self) -> std::io::Result<()> {
            Ok(())
        }

        fn length(&self) -> std::io::Result<u64> {
            Ok(to_u64(2 * SLOT))
        }
    }

    fn slot_of(generation: u64) -> Vec<u8> {
        let mut bytes = encode(generation, &content_at(generation));
        bytes.resize(SLOT, 0);
        bytes
    }

    #[test]
    fn whoever_looks_on_never_sees_less_than_what_was_synced_before() {
        // The second slot is synced; what is written during the look is at most added.
        for at in 0..4 {
            let file = Changing { slots: std::sync::Mutex::new([slot_of(3), slot_of(4)]), at, readings: 0.into() };
            let slots = settled_slots(&file, dir()).unwrap();
            let (generation, ..) = best_of(&slots, dir()).unwrap().unwrap();
            assert!(generation >= 4, "generation {generation}, changed behind reading {at}");
        }
    }

    #[test]
    fn positions_stay_within_the_log() {
        let positions = Positions {
            scanned: Lsn::new(90),
            behind: vec![("a".to_owned(), Lsn::new(20)), ("b".to_owned(), Lsn::new(60))],
            completed_beyond: 65,
            sent_bound: Lsn::new(95),
        };
        assert_eq!(positions.lowest(), Lsn::new(20));
        let within = positions.within(Lsn::new(50));
        assert_eq!(within.scanned, Lsn::new(50));
        assert_eq!(within.behind, [("a".to_owned(), Lsn::new(20))]);
        assert_eq!((within.completed_beyond, within.sent_bound), (30, Lsn::new(50)));
    }
}
