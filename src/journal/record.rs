//! One record: its bytes behind a header whose checks hold the segment's salt and the LSN.
//!
//! The header has a check of its own, so that a record whose bytes are damaged still tells where the next one begins; and because the header names the
//! LSN, a record can be found again behind damage without anything that stands before it.

use std::fmt;

use super::lsn::Lsn;
use super::number::{to_usize, u32_at, u64_at};

/// Length of a record's header.
pub(super) const HEADER: usize = 20;
/// Records, frames and pieces begin at multiples of this.
pub(super) const ALIGN: usize = 8;

/// A random number for each use of a segment. Every check holds it, so that nothing that an earlier use left, and nothing that a sender could make
/// up, passes for a frame. It is never shown: not in a log, a metric or an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Salt(pub(super) u64);

impl fmt::Debug for Salt {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Salt(..)")
    }
}

/// A header whose check holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) lsn: Lsn,
    pub(super) length: u32,
    bytes_check: u32,
}

/// Bytes that a record of this length takes up: header, payload, and zeros up to the next multiple of [`ALIGN`].
pub(super) const fn size(length: usize) -> usize {
    HEADER.saturating_add(length).next_multiple_of(ALIGN)
}

/// Appends a record. Its length must be below 4 GiB, which [`super::Config::check`] sees to.
pub(super) fn encode(out: &mut Vec<u8>, salt: Salt, lsn: Lsn, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let seed = seed(salt, lsn);
    let end = out.len() + size(payload.len());
    out.extend_from_slice(&lsn.get().to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c_append(seed, payload).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c_append(seed, &length.to_le_bytes()).to_le_bytes());
    out.extend_from_slice(payload);
    out.resize(end, 0);
}

/// The header that begins `bytes`, if its check holds.
pub(super) fn parse(bytes: &[u8], salt: Salt) -> Option<Header> {
    let lsn = Lsn::new(u64_at(bytes, 0)?);
    let length = u32_at(bytes, 8)?;
    let check = crc32c::crc32c_append(seed(salt, lsn), &length.to_le_bytes());
    let valid = lsn >= Lsn::FIRST && u32_at(bytes, 16)? == check;
    valid.then_some(Header { lsn, length, bytes_check: u32_at(bytes, 12)? })
}

impl Header {
    /// Length of the payload.
    pub(super) fn payload(&self) -> usize {
        to_usize(u64::from(self.length))
    }

    /// Bytes that the whole record takes up.
    pub(super) fn size(&self) -> usize {
        size(self.payload())
    }

    /// Whether these are the bytes that were written.
    pub(super) fn holds(&self, salt: Salt, payload: &[u8]) -> bool {
        crc32c::crc32c_append(seed(salt, self.lsn), payload) == self.bytes_check
    }
}

/// What every check of a record begins with.
fn seed(salt: Salt, lsn: Lsn) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.0.to_le_bytes()), &lsn.get().to_le_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_checksum_is_crc_32c() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn a_record_takes_its_header_its_bytes_and_zeros_up_to_the_next_multiple_of_eight() {
        for (length, expected) in [(0, 24), (4, 24), (5, 32), (600, 624)] {
            assert_eq!(size(length), expected);
        }
    }

    #[test]
    fn the_salt_is_not_shown() {
        assert_eq!(format!("{:?}", Salt(0xFEED)), "Salt(..)");
    }

    proptest! {
        #[test]
        fn what_is_encoded_reads_back(payload in prop::collection::vec(any::<u8>(), 0..200), salt: u64, lsn in 1..u64::MAX) {
            let mut out = vec![0xAA; 8];
            encode(&mut out, Salt(salt), Lsn::new(lsn), &payload);
            let bytes = &out[8..];
            prop_assert_eq!(bytes.len(), size(payload.len()));
            let header = parse(bytes, Salt(salt)).expect("a header");
            prop_assert_eq!(header.lsn, Lsn::new(lsn));
            prop_assert_eq!(header.payload(), payload.len());
            prop_assert!(header.holds(Salt(salt), &bytes[HEADER..HEADER + payload.len()]));
            prop_assert_eq!(parse(bytes, Salt(salt ^ 1)), None);
        }

        #[test]
        fn a_flipped_bit_never_passes(payload in prop::collection::vec(any::<u8>(), 1..60), bit in 0_usize..8, at: prop::sample::Index) {
            let salt = Salt(7);
            let mut bytes = Vec::new();
            encode(&mut bytes, salt, Lsn::new(5), &payload);
            let at = at.index(HEADER + payload.len());
            bytes[at] ^= 1 << bit;
            let whole = parse(&bytes, salt).is_some_and(|header| header.holds(salt, &bytes[HEADER..HEADER + payload.len()]));
            prop_assert!(!whole, "byte {}", at);
        }
    }
}
