//! One segment file: its header page, its name, and the handle that writer and readers share.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::error::{Context, Error};
use super::lsn::Lsn;
use super::number::{to_u64, u32_at, u64_at};
use super::record::Salt;
use super::storage::{File, read_exact_at, write_all_at};
use crate::clock::Timestamp;

/// Length of the header page, before the first frame.
pub(super) const PAGE: usize = 8192;
/// The same as an offset.
pub(super) const PAGE_END: u64 = 8192;
/// Version of the format of segments.
pub(super) const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"CBridgeJ";
/// Length of a header.
const HEADER: usize = 64;
/// Where the page holds the header: twice, and in two physical sectors, which are 4 KiB long on many disks, so that a bad one costs nothing.
const COPIES: [usize; 2] = [0, 4096];
const SUFFIX: &str = ".segment";
const SPARE_PREFIX: &str = "spare-";
const PREPARING_SUFFIX: &str = ".preparing";

/// What the header of a segment tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) journal: Uuid,
    /// Segments of a folder are numbered from 1, in the order of their use.
    pub(super) number: u64,
    /// LSN of the first record in it, or of the record that would be.
    pub(super) first: Lsn,
    pub(super) salt: Salt,
    /// When the segment came into use.
    pub(super) created: Timestamp,
}

/// What the header page of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Known(Header),
    /// The check holds, and the version is another.
    Unknown(u32),
    /// Neither copy's check holds.
    Bad,
}

impl Header {
    /// The page as it is written.
    pub(super) fn encode(&self) -> [u8; PAGE] {
        let mut copy = [0_u8; HEADER];
        let fields: [(usize, &[u8]); 7] = [
            (0, &MAGIC),
            (8, &VERSION.to_le_bytes()),
            (16, self.journal.as_bytes()),
            (32, &self.number.to_le_bytes()),
            (40, &self.first.get().to_le_bytes()),
            (48, &self.salt.0.to_le_bytes()),
            (56, &self.created.micros().to_le_bytes()),
        ];
        for (at, field) in fields {
            put(&mut copy, at, field);
        }
        let check = check(&copy).to_le_bytes();
        put(&mut copy, 12, &check);
        let mut page = [0_u8; PAGE];
        for at in COPIES {
            put(&mut page, at, &copy);
        }
        page
    }

    /// What the page tells: by its first copy whose check holds.
    pub(super) fn parse(page: &[u8]) -> Page {
        COPIES.iter().find_map(|at| Self::copy(page.get(*at..)?.get(..HEADER)?)).unwrap_or(Page::Bad)
    }

    /// Where the copies begin and end whose check does not hold.
    pub(super) fn bad_copies(page: &[u8]) -> impl Iterator<Item = (u64, u64)> {
        let bad = |at: &usize| page.get(*at..).and_then(|bytes| Self::copy(bytes.get(..HEADER)?)).is_none();
        COPIES.into_iter().filter(bad).map(|at| (to_u64(at), to_u64(at + HEADER)))
    }

    fn copy(bytes: &[u8]) -> Option<Page> {
        if !bytes.starts_with(&MAGIC) || u32_at(bytes, 12)? != check(bytes) {
            return None;
        }
        let version = u32_at(bytes, 8)?;
        if version != VERSION {
            return Some(Page::Unknown(version));
        }
        Some(Page::Known(Self {
            journal: Uuid::from_bytes(*bytes.get(16..)?.first_chunk()?),
            number: u64_at(bytes, 32)?,
            first: Lsn::new(u64_at(bytes, 40)?),
            salt: Salt(u64_at(bytes, 48)?),
            created: Timestamp::from_micros(i64::from_le_bytes(*bytes.get(56..)?.first_chunk()?)),
        }))
    }
}

/// Of everything but the check itself.
fn check(copy: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(copy.get(..12).unwrap_or_default()), copy.get(16..HEADER).unwrap_or_default())
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}

/// A segment in use. Shared by the writer, the readers and the keeper; a file that nobody else holds can be recycled.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) header: Header,
    pub(super) path: PathBuf,
    /// Length of the file.
    pub(super) length: u64,
    pub(super) file: Box<dyn File>,
}

impl Segment {
    /// Where a segment of that number stands.
    pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
        dir.join(format!("{number:020}{SUFFIX}"))
    }

    /// Fills `buffer` from `offset`.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), Error> {
        read_exact_at(self.file.as_ref(), buffer, offset).context("read", &self.path)
    }

    /// Writes all of `bytes` at `offset`.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        write_all_at(self.file.as_ref(), bytes, offset).context("write to", &self.path)
    }

    /// Makes durable what was written.
    pub(super) fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().context("sync", &self.path)
    }

    /// Writes zeros from `offset` to the end of the file.
    pub(super) fn zero_from(&self, offset: u64) -> Result<(), Error> {
        zero(self.file.as_ref(), offset, self.length).context("write to", &self.path)
    }
}

/// A prepared file that waits for its use as a segment.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) path: PathBuf,
    pub(super) length: u64,
    pub(super) file: Box<dyn File>,
}

impl Spare {
    /// Where a spare of that number stands once it is prepared.
    pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
        dir.join(format!("{SPARE_PREFIX}{number:020}"))
    }

    /// Where it stands while it is being prepared.
    pub(super) fn preparing_path(dir: &Path, number: u64) -> PathBuf {
        dir.join(format!("{SPARE_PREFIX}{number:020}{PREPARING_SUFFIX}"))
    }
}

/// What a name in the journal's folder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Segment(u64),
    Spare(u64),
    /// Left by a start or a stop in between; worth nothing.
    Unfinished,
    Other,
}

impl Name {
    pub(super) fn parse(name: &str) -> Self {
        if let Some(number) = name.strip_suffix(SUFFIX).and_then(digits) {
            return Self::Segment(number);
        }
        match name.strip_prefix(SPARE_PREFIX) {
            Some(rest) if rest.ends_with(PREPARING_SUFFIX) => Self::Unfinished,
            Some(rest) => digits(rest).map_or(Self::Other, Self::Spare),
            None => Self::Other,
        }
    }
}

/// The number that exactly twenty digits write.
pub(super) fn digits(text: &str) -> Option<u64> {
    (text.len() == 20 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// Bytes zeroed by one write.
pub(super) const ZERO_STEP: usize = 1024 * 1024;

/// Writes zeros over `from..to`, without a sync.
pub(super) fn zero(file: &dyn File, from: u64, to: u64) -> std::io::Result<()> {
    static ZEROS: [u8; ZERO_STEP] = [0; ZERO_STEP];
    let mut at = from;
    while at < to {
        let step = usize::try_from(to - at).unwrap_or(ZERO_STEP).min(ZERO_STEP);
        write_all_at(file, ZEROS.get(..step).unwrap_or(&ZEROS), at)?;
        at += to_u64(step);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            journal: Uuid::from_u128(0x1234_5678),
            number: 7,
            first: Lsn::new(42),
            salt: Salt(0xDEAD_BEEF),
            created: Timestamp::from_micros(1_670_574_414_123_000),
        }
    }

    #[test]
    fn a_header_reads_back_whichever_bit_of_the_page_is_flipped() {
        let page = header().encode();
        assert_eq!(Header::parse(&page), Page::Known(header()));
        for at in 0..PAGE {
            for bit in 0..8 {
                let mut flipped = page;
                flipped[at] ^= 1 << bit;
                assert_eq!(Header::parse(&flipped), Page::Known(header()), "bit {bit} of byte {at}");
                let copy = COPIES.into_iter().find(|from| (*from..from + HEADER).contains(&at));
                let expected: Vec<_> = copy.map(|from| (to_u64(from), to_u64(from + HEADER))).into_iter().collect();
                assert_eq!(Header::bad_copies(&flipped).collect::<Vec<_>>(), expected, "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn a_page_whose_two_copies_are_damaged_is_bad_and_another_version_is_told() {
        let mut page = header().encode();
        page[40] ^= 1;
        page[COPIES[1] + 50] ^= 1;
        assert_eq!(Header::parse(&page), Page::Bad);
        assert_eq!(Header::parse(&[0; PAGE]), Page::Bad);
        assert_eq!(Header::parse(&[]), Page::Bad);

        let mut later = [0_u8; PAGE];
        later[..HEADER].copy_from_slice(&header().encode()[..HEADER]);
        later[8] = 2;
        let check = check(&later[..HEADER]).to_le_bytes();
        later[12..16].copy_from_slice(&check);
        assert_eq!(Header::parse(&later), Page::Unknown(2));
    }

    #[test]
    fn names_are_told_apart() {
        let dir = Path::new("d");
        let name = |path: PathBuf| Name::parse(path.file_name().unwrap().to_str().unwrap());
        assert_eq!(name(Segment::path(dir, 12)), Name::Segment(12));
        assert_eq!(name(Spare::path(dir, 3)), Name::Spare(3));
        assert_eq!(name(Spare::preparing_path(dir, 3)), Name::Unfinished);
        for other in ["checkpoint", "lock", "1.segment", "0000000000000000000x.segment", "spare-1", "lost+found"] {
            assert_eq!(Name::parse(other), Name::Other, "{other}");
        }
    }
}
