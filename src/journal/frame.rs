//! One frame: a batch of records that one write and one sync make durable.
//!
//! Its header tells how many records belong together and how long they are. The header has its own check, so that damage in it costs no record.

use super::lsn::Lsn;
use super::number::{to_u64, to_usize, u32_at, u64_at};
use super::record::{self, ALIGN, Salt};

/// Length of a frame's header.
pub(super) const HEADER: usize = 32;
/// What a frame begins with.
pub(super) const MAGIC: [u8; 4] = *b"CBfr";

/// A header whose check holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) first: Lsn,
    pub(super) count: u32,
    /// Bytes of the records, without this header.
    pub(super) length: u32,
}

impl Header {
    /// The first LSN behind the frame.
    pub(super) fn end(&self) -> Lsn {
        self.first.plus(u64::from(self.count))
    }

    /// Bytes of the whole frame.
    pub(super) fn size(&self) -> u64 {
        to_u64(HEADER) + u64::from(self.length)
    }

    /// The header's bytes.
    pub(super) fn encode(&self, salt: Salt) -> [u8; HEADER] {
        let mut bytes = [0_u8; HEADER];
        let fields: [(usize, &[u8]); 5] = [
            (0, &MAGIC),
            (8, &salt.0.to_le_bytes()),
            (16, &self.first.get().to_le_bytes()),
            (24, &self.count.to_le_bytes()),
            (28, &self.length.to_le_bytes()),
        ];
        for (at, field) in fields {
            if let Some(place) = bytes.get_mut(at..at + field.len()) {
                place.copy_from_slice(field);
            }
        }
        let check = check(&bytes).to_le_bytes();
        if let Some(place) = bytes.get_mut(4..8) {
            place.copy_from_slice(&check);
        }
        bytes
    }
}

/// The header that begins `bytes`, if it is one of this use of the segment and its check holds.
pub(super) fn parse(bytes: &[u8], salt: Salt) -> Option<Header> {
    let bytes = bytes.get(..HEADER)?;
    let ours = bytes.starts_with(&MAGIC) && u64_at(bytes, 8)? == salt.0 && u32_at(bytes, 4)? == check(bytes);
    let header = Header { first: Lsn::new(u64_at(bytes, 16)?), count: u32_at(bytes, 24)?, length: u32_at(bytes, 28)? };
    let least = u64::from(header.count).saturating_mul(to_u64(record::size(0)));
    let plausible = header.count > 0
        && header.first >= Lsn::FIRST
        && u64::from(header.length) >= least
        && to_usize(u64::from(header.length)).is_multiple_of(ALIGN);
    (ours && plausible).then_some(header)
}

/// Whether `bytes` begin like a frame of this use of the segment, whatever its check says: what is left of a header that was torn.
pub(super) fn resembles(bytes: &[u8], salt: Salt) -> bool {
    bytes.starts_with(&MAGIC) && u64_at(bytes, 8) == Some(salt.0)
}

/// Builds a frame in one buffer of exactly its size, which then is written, and shared with the readers.
pub(super) struct Builder {
    bytes: Vec<u8>,
    salt: Salt,
    first: Lsn,
    count: u32,
}

impl Builder {
    /// A frame whose records take up `records` bytes.
    pub(super) fn new(salt: Salt, first: Lsn, records: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEADER + records);
        bytes.resize(HEADER, 0);
        Self { bytes, salt, first, count: 0 }
    }

    /// Adds the next record.
    pub(super) fn push(&mut self, payload: &[u8]) {
        let lsn = self.first.plus(u64::from(self.count));
        record::encode(&mut self.bytes, self.salt, lsn, payload);
        self.count += 1;
    }

    /// The finished frame and its header.
    pub(super) fn finish(mut self) -> (Header, Vec<u8>) {
        let length = u32::try_from(self.bytes.len().saturating_sub(HEADER)).unwrap_or(u32::MAX);
        let header = Header { first: self.first, count: self.count, length };
        if let Some(place) = self.bytes.first_chunk_mut() {
            *place = header.encode(self.salt);
        }
        (header, self.bytes)
    }
}

/// Of everything behind the check itself.
fn check(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes.get(8..HEADER).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_built_reads_back(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..20), first in 1..u64::MAX / 2) {
            let salt = Salt(11);
            let room = payloads.iter().map(|payload| record::size(payload.len())).sum();
            let mut builder = Builder::new(salt, Lsn::new(first), room);
            for payload in &payloads {
                builder.push(payload);
            }
            let (header, bytes) = builder.finish();
            prop_assert_eq!(bytes.len(), bytes.capacity(), "one allocation, of exactly the frame's size");
            prop_assert_eq!(parse(&bytes, salt), Some(header));
            prop_assert_eq!(header.size(), to_u64(bytes.len()));
            prop_assert_eq!(header.end(), Lsn::new(first + to_u64(payloads.len())));
            prop_assert_eq!(parse(&bytes, Salt(12)), None);
            let mut at = HEADER;
            for (index, payload) in payloads.iter().enumerate() {
                let found = record::parse(&bytes[at..], salt).expect("a record");
                prop_assert_eq!(found.lsn, Lsn::new(first + to_u64(index)));
                let start = at + record::HEADER;
                prop_assert!(found.holds(salt, &bytes[start..start + payload.len()]));
                at += found.size();
            }
            prop_assert_eq!(at, bytes.len());
        }

        #[test]
        fn a_flipped_bit_in_a_header_never_passes(at in 0..HEADER, bit in 0_usize..8) {
            let header = Header { first: Lsn::new(3), count: 2, length: 64 };
            let mut bytes = header.encode(Salt(1));
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(parse(&bytes, Salt(1)), None);
        }
    }
}
