//! The bytes of the format, computed from `docs/journal-format.md` by another program. Version 1 stays as it is.

use std::fmt::Write;

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::journal::checkpoint::{Content, encode};
use crate::journal::record::{self, Salt};
use crate::journal::segment::Header;
use crate::journal::{Lsn, Positions, frame};

const SALT: Salt = Salt(0x0123_4567_89AB_CDEF);

fn identity() -> Uuid {
    Uuid::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[test]
fn a_frame_with_its_records() {
    let mut builder = frame::Builder::new(SALT, Lsn::new(258), record::size(5) + record::size(0));
    builder.push(b"hello");
    builder.push(b"");
    assert_eq!(
        hex(&builder.finish().1),
        concat!(
            "434266721c6cfcdfefcdab896745230102010000000000000200000038000000",
            "02010000000000000500000090b12894228d008468656c6c6f00000000000000",
            "030100000000000000000000206ad91959c2161300000000",
        )
    );
}

#[test]
fn the_header_page_of_a_segment() {
    let header =
        Header { journal: identity(), number: 7, first: Lsn::new(258), salt: SALT, created: Timestamp::from_micros(1_670_574_414_123_000) };
    let page = header.encode();
    let copy = concat!(
        "434272696467654a010000003b6b9f9d000102030405060708090a0b0c0d0e0f",
        "07000000000000000201000000000000efcdab8967452301f84f86ea60ef0500",
    );
    assert_eq!(hex(&page[..64]), copy);
    assert_eq!(hex(&page[4096..4160]), copy);
    assert!(page[64..4096].iter().chain(&page[4160..]).all(|byte| *byte == 0));
    assert_eq!(page.len(), 8192);
}

#[test]
fn a_slot_of_the_checkpoint() {
    let positions = Positions {
        scanned: Lsn::new(259),
        behind: vec![("full".to_owned(), Lsn::new(258))],
        completed_beyond: 1,
        sent_bound: Lsn::new(300),
    };
    let content = Content { journal: identity(), since: Lsn::new(3), durable_end: Lsn::new(260), clean_stop: true, positions };
    assert_eq!(
        hex(&encode(9, &content)),
        concat!(
            "4342726964676543010000001bd44aca4e000000000000000900000000000000",
            "000102030405060708090a0b0c0d0e0f03000000000000000401000000000000",
            "03010000000000002c0100000000000001000000000000000100000001000000",
            "0201000000000000040066756c6c",
        )
    );
}
