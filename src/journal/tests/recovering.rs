//! What opening makes of frames that a crash or a bad disk has left behind.

use std::io::ErrorKind;

use proptest::prelude::*;

use super::bed::{Bed, Image, SEGMENT, append, corrupt, payload, payloads, put, read_all, record_at, records, write_checkpoint};
use crate::journal::record;
use crate::journal::segment::PAGE;
use crate::journal::storage::memory::Operation;
use crate::journal::{Class, Item, Lsn, Positions, RecoveryReport, TornTail, frame};

pub(super) fn at(lsn: u64) -> Positions {
    Positions::at(Lsn::new(lsn))
}

/// Three frames of two, three and four records; the last one is not known to be durable.
pub(super) fn three_frames(before: Vec<u8>) -> (Image, Vec<Vec<u8>>) {
    let all: Vec<Vec<u8>> =
        [30, 100, 7, 0, 64, 200, 33, 90, 41].into_iter().enumerate().map(|(index, size)| payload(index, size)).collect();
    let mut image = Image::new(1, 1, 0x5A17, before);
    image.push(&all[..2]);
    image.push(&all[2..5]);
    image.push(&all[5..]);
    (image, all)
}

/// What an earlier use of the same file has left: full of frames with other salts, the same LSNs among them.
pub(super) fn stale() -> Vec<u8> {
    let mut image = Image::new(1, 1, 0x01D, Vec::new());
    let all = payloads(3, 90);
    while *image.frames.last().unwrap() + 2000 < usize::try_from(SEGMENT).unwrap() {
        image.push(&all);
    }
    image.bytes
}

/// The same twice: the folder as it is found, and once more after a crash right behind the first recovery.
pub(super) fn recover_twice(bed: &Bed) -> (RecoveryReport, Vec<Item>) {
    let opened = bed.open();
    let items = read_all(&opened.journal, opened.report.lowest);
    let again = bed.killed().open();
    assert_eq!(again.report.end, opened.report.end);
    assert_eq!(again.report.torn_tail, None, "a torn tail is cut once");
    assert_eq!(again.report.identity, opened.report.identity);
    assert_eq!(again.report.identity_before, None, "an identity is changed once");
    assert_eq!(again.report.set_aside, Vec::<String>::new(), "a second look adds nothing");
    assert_eq!(read_all(&again.journal, again.report.lowest), items);
    let report = opened.report.clone();
    (report, items)
}

/// And it goes on: what is appended then is read after what was there, now and after another crash.
pub(super) fn goes_on(bed: &Bed, items: &[Item]) {
    let bed = bed.killed();
    let journal = bed.open().journal;
    let end = journal.durable_end();
    let more = payloads(5, 120);
    assert!(append(&journal, &more).iter().all(Result::is_ok));
    let expected: Vec<Item> = items.iter().cloned().chain(records(end.get(), &more)).collect();
    let opened = bed.killed().open();
    assert_eq!(read_all(&opened.journal, opened.report.lowest), expected);
}

#[test]
fn the_last_frame_is_cut_at_any_byte_and_keeps_its_longest_whole_prefix() {
    for before in [Vec::new(), stale()] {
        let (image, all) = three_frames(before.clone());
        let (from, to) = (image.frames[2], image.frames[3]);
        let mut ends = Vec::new();
        let mut end = from + frame::HEADER;
        for payload in &all[5..] {
            // Padding is no part of what has to reach the disk.
            ends.push(end + record::HEADER + payload.len());
            end += record::size(payload.len());
        }
        for cut in from..to {
            let mut torn = Image::new(1, 1, 0x5A17, before.clone());
            torn.bytes[PAGE..cut].copy_from_slice(&image.bytes[PAGE..cut]);
            let bed = torn.folder(6, at(1));
            let (report, items) = recover_twice(&bed);
            let kept = ends.iter().filter(|end| **end <= cut).count();
            assert_eq!(items, records(1, &all[..5 + kept]), "cut at {cut}");
            assert_eq!(report.end, Lsn::new(6 + u64::try_from(kept).unwrap()));
            assert_eq!((report.set_aside.len(), report.identity_before), (0, None), "cut at {cut}");
            if cut >= from + frame::HEADER {
                let torn = (kept < 4).then(|| u64::try_from(kept).unwrap());
                assert_eq!(report.torn_tail.map(|torn| torn.kept_records), torn, "cut at {cut}");
            }
            if cut % 16 == 0 {
                goes_on(&bed, &items);
            }
        }
    }
}

#[test]
fn sectors_of_the_last_frame_may_be_missing_in_any_combination() {
    let all = payloads(12, 300);
    let mut image = Image::new(1, 1, 0x5A17, stale());
    image.push(&all[..2]);
    image.push(&all[2..]);
    let (from, to) = (image.frames[1], image.frames[2]);
    let sectors: Vec<usize> = (from / 512..to.div_ceil(512)).collect();
    for mask in 0..(1_u32 << sectors.len()) {
        let mut torn = Image::new(1, 1, 0x5A17, stale());
        torn.bytes[PAGE..from].copy_from_slice(&image.bytes[PAGE..from]);
        for (index, sector) in sectors.iter().enumerate() {
            if mask >> index & 1 == 1 {
                let (start, end) = ((sector * 512).max(from), (sector * 512 + 512).min(to));
                torn.bytes[start..end].copy_from_slice(&image.bytes[start..end]);
            }
        }
        let bed = torn.folder(3, at(1));
        let opened = bed.open();
        let items = read_all(&opened.journal, Lsn::FIRST);
        assert!(items.len() >= 2);
        assert_eq!(items, records(1, &all[..items.len()]), "a prefix, without a hole: {mask:b}");
        assert_eq!(opened.report.set_aside, Vec::<String>::new(), "{mask:b}");
        if mask % 37 == 0 {
            goes_on(&bed, &items);
        }
    }
}

#[test]
fn one_flipped_bit_anywhere_costs_at_most_one_record_and_is_told() {
    for before in [Vec::new(), stale()] {
        let (image, all) = three_frames(before);
        for byte in 0..*image.frames.last().unwrap() {
            if (64..4096).contains(&byte) || (4160..PAGE).contains(&byte) {
                continue;
            }
            let mut flipped = Image::new(1, 1, 0x5A17, image.bytes.clone());
            flipped.bytes.copy_from_slice(&image.bytes);
            flipped.bytes[byte] ^= 1 << (byte % 8);
            let bed = flipped.folder(10, at(1));
            let (report, items) = recover_twice(&bed);
            let expected = records(1, &all);
            let lost: Vec<usize> = (0..all.len()).filter(|index| !items.contains(&expected[*index])).collect();
            assert!(lost.len() <= 1, "byte {byte} costs {lost:?}");
            let with_gap: Vec<Item> = (1..)
                .zip(&all)
                .map(
                    |(lsn, payload)| {
                        if lost.contains(&usize::try_from(lsn - 1).unwrap()) { corrupt(lsn, lsn + 1) } else { record_at(lsn, payload) }
                    },
                )
                .collect();
            assert_eq!(items, with_gap, "byte {byte}");
            assert_eq!(report.lost.len(), lost.len(), "byte {byte}");
            assert!(lost.is_empty() || report.set_aside.len() == 1, "byte {byte}");
            assert_eq!((report.end, report.torn_tail, report.identity_before), (Lsn::new(10), None, None), "byte {byte}");
            assert_eq!(bed.set_aside(), report.set_aside);
            if byte % 16 == 0 {
                goes_on(&bed, &items);
            }
        }
    }
}

#[test]
fn damage_in_an_older_segment_is_found_when_it_is_read_and_set_aside_once() {
    let (image, all) = three_frames(stale());
    for byte in (PAGE..*image.frames.last().unwrap()).step_by(5) {
        let bed = Bed::new();
        let mut first = image.bytes.clone();
        first[byte] ^= 0x10;
        let mut second = Image::new(10, 2, 0xABCD, stale());
        let more = payloads(4, 50);
        second.push(&more);
        put(&bed.memory, &bed.config.dir, &[(1, &first), (2, &second.bytes)]);
        write_checkpoint(&bed, image.journal, 14, at(1));
        let opened = bed.open();
        assert_eq!(opened.report.set_aside, Vec::<String>::new(), "older frames are not looked at before they are read");
        let items = read_all(&opened.journal, Lsn::FIRST);
        let lost = items.iter().filter(|item| matches!(item, Item::Corrupt { .. })).count();
        let expected: Vec<Item> = records(1, &all).into_iter().chain(records(10, &more)).collect();
        assert!(lost <= 1, "byte {byte}");
        for (index, item) in items.iter().enumerate() {
            let lsn = u64::try_from(index).unwrap() + 1;
            assert!(*item == expected[index] || *item == corrupt(lsn, lsn + 1), "byte {byte}");
        }
        let aside = bed.set_aside();
        assert!(aside.len() <= 1 && aside.len() >= lost, "byte {byte}: {aside:?}");
        assert_eq!(bed.metrics.journal.set_aside.get(), u64::try_from(aside.len()).unwrap());
        assert_eq!(read_all(&opened.journal, Lsn::FIRST), items);
        assert_eq!(bed.set_aside(), aside, "a second look adds nothing");
    }
}

#[test]
fn a_body_that_holds_a_copy_of_a_frame_is_only_a_body() {
    let (image, all) = three_frames(Vec::new());
    // The very frames of this use of the segment, its salt among them, as nobody outside could know them; and one that would come later.
    let mut later = Image::new(12, 1, 0x5A17, Vec::new());
    later.push(&payloads(3, 40));
    let earlier = image.bytes[image.frames[0]..image.frames[2]].to_vec();
    for copy in [earlier.clone(), [vec![0; 4], earlier].concat(), later.bytes[later.frames[0]..later.frames[1]].to_vec()] {
        let bodies = [all[0].clone(), copy, all[1].clone()];
        let mut forged = Image::new(1, 1, 0x5A17, Vec::new());
        forged.push(&all[..2]);
        forged.push(&all[2..5]);
        forged.push(&bodies);
        forged.push(&all[2..4]);
        let mut expected = records(1, &all[..5]);
        expected.extend(records(6, &bodies));
        expected.extend(records(9, &all[2..4]));
        assert_eq!(recover_twice(&forged.folder(11, at(1))).1, expected);

        // Even where the record that holds it is damaged and its bytes are searched.
        let header = forged.frames[2] + frame::HEADER + record::size(all[0].len());
        expected[6] = corrupt(7, 8);
        for byte in [header + 1, header + 9, header + 13, header + 17, header + record::HEADER + 1] {
            let mut damaged = Image::new(1, 1, 0x5A17, Vec::new());
            damaged.bytes.copy_from_slice(&forged.bytes);
            damaged.bytes[byte] ^= 4;
            assert_eq!(recover_twice(&damaged.folder(11, at(1))).1, expected, "byte {byte}");
        }
    }
}

#[test]
fn a_torn_tail_is_told_with_what_is_kept_and_cut() {
    let (mut image, all) = three_frames(Vec::new());
    let third = image.frames[2] + frame::HEADER + record::size(all[5].len()) + record::size(all[6].len());
    image.bytes[third + record::HEADER] ^= 1;
    let bed = image.folder(6, at(4));
    let (report, items) = recover_twice(&bed);
    assert_eq!(items, records(4, &all[3..7]));
    let cut_bytes = u64::try_from(image.frames[3] - third).unwrap();
    assert_eq!(report.torn_tail, Some(TornTail { kept_records: 2, cut_records: 2, cut_bytes }));
    assert_eq!((report.unpublished_records, report.lowest), (4, Lsn::new(4)));
    assert_eq!(bed.metrics.journal.torn_tails.get(), 1);
    assert_eq!(bed.metrics.journal.recovered_records.get(), 4);
    // The same damage in what was known to be durable is corruption.
    let bed = image.folder(10, at(4));
    let (report, items) = recover_twice(&bed);
    assert_eq!(
        items,
        [record_at(4, &all[3]), record_at(5, &all[4]), record_at(6, &all[5]), record_at(7, &all[6]), corrupt(8, 9), record_at(9, &all[8])]
    );
    assert_eq!((report.torn_tail, report.lost), (None, vec![(Lsn::new(8), Lsn::new(9))]));
    assert_eq!(bed.metrics.journal.set_aside.get(), 1);
}

#[test]
fn a_frame_behind_the_damage_makes_it_corruption() {
    let (mut image, all) = three_frames(Vec::new());
    image.bytes[image.frames[1] + frame::HEADER + 8] ^= 1;
    // Only the first frame is known to be durable, yet the second must have been: the third was written after its sync.
    let (report, items) = recover_twice(&image.folder(3, at(1)));
    let mut expected = records(1, &all);
    expected[2] = corrupt(3, 4);
    assert_eq!(items, expected);
    assert_eq!((report.torn_tail, report.set_aside.len()), (None, 1));
}

#[test]
fn damage_that_only_a_torn_frame_shows_is_told_once_and_its_lsns_are_never_used_again() {
    for (before, durable_end) in [(Vec::new(), 3), (Vec::new(), 6), (stale(), 3), (stale(), 6)] {
        let (mut image, all) = three_frames(before);
        // Nothing of the second frame is left; of the third, which was written when the second was synced, its header.
        let (damaged, torn, end) = (image.frames[1], image.frames[2], image.frames[3]);
        image.bytes[damaged..torn].fill(0xEE);
        image.bytes[torn + frame::HEADER..end].fill(0xEE);
        let bed = image.folder(durable_end, at(1));
        let (report, items) = recover_twice(&bed);
        let expected: Vec<Item> = records(1, &all[..2]).into_iter().chain([corrupt(3, 6)]).collect();
        assert_eq!(items, expected, "durable up to {durable_end}");
        assert_eq!((report.end, report.identity_before), (Lsn::new(6), Some(image.journal)), "durable up to {durable_end}");
        assert_eq!((report.set_aside.len(), report.lost), (1, vec![(Lsn::new(3), Lsn::new(6))]), "durable up to {durable_end}");
        goes_on(&bed, &items);
    }
}

#[test]
fn durable_records_that_are_gone_are_told_and_their_lsns_never_used_again() {
    let (image, all) = three_frames(Vec::new());
    for (durable_end, positions) in [(10, at(2)), (8, at(7)), (6, at(9))] {
        // The last frame has never been.
        let mut lost = Image::new(1, 1, 0x5A17, Vec::new());
        lost.bytes[PAGE..image.frames[2]].copy_from_slice(&image.bytes[PAGE..image.frames[2]]);
        let bed = lost.folder(durable_end, positions.clone());
        let (report, items) = recover_twice(&bed);
        let end = durable_end.max(positions.scanned.get());
        assert_eq!(report.end, Lsn::new(end));
        assert_eq!(report.identity_before, Some(image.journal), "what came after cannot be told from what comes next");
        assert_ne!(report.identity, image.journal);
        assert_eq!(bed.metrics.journal.identity_changes.get(), 1);
        let lowest = positions.scanned.get();
        let mut expected = records(lowest, all[..5].get(usize::try_from(lowest).unwrap() - 1..).unwrap_or_default());
        if end > lowest.max(6) {
            expected.push(corrupt(lowest.max(6), end));
        }
        assert_eq!(items, expected);
        goes_on(&bed, &items);
    }
}

#[test]
fn what_is_accepted_is_written_and_synced_again_before_opening_returns() {
    let (image, _) = three_frames(Vec::new());
    let bed = image.folder(6, at(1));
    bed.memory.take_done();
    drop(bed.open());
    let done = bed.memory.take_done();
    let segment = bed.segment_path(1);
    let last = |operation: Operation| done.iter().rposition(|entry| *entry == (operation, segment.clone())).unwrap();
    assert!(last(Operation::Write) < last(Operation::Sync));
    let first_checkpoint =
        done.iter().rposition(|(operation, path)| *operation == Operation::Sync && path.ends_with("checkpoint")).unwrap();
    assert!(last(Operation::Sync) < first_checkpoint, "the checkpoint speaks only of what is durable");
    let is_checkpoint =
        |operation: Operation, entry: &(Operation, std::path::PathBuf)| entry.0 == operation && entry.1.ends_with("checkpoint");
    let settled = done.iter().position(|entry| is_checkpoint(Operation::Sync, entry)).unwrap();
    let overwritten = done.iter().rposition(|entry| is_checkpoint(Operation::Write, entry)).unwrap();
    assert!(settled < overwritten, "the slot that counts is durable before the other is written");
    let folder = done.iter().position(|entry| *entry == (Operation::SyncDir, bed.config.dir.clone())).unwrap();
    assert!(folder < overwritten, "the names that were found are durable before the checkpoint relies on them");
}

#[test]
fn an_error_of_the_disk_during_recovery_is_an_error_and_no_corruption() {
    let (image, all) = three_frames(Vec::new());
    for operation in [Operation::Open, Operation::Read, Operation::Write, Operation::Sync, Operation::SyncDir] {
        for skip in 0..6 {
            let bed = image.folder(6, at(1));
            bed.memory.fail(operation, "", skip, 1, ErrorKind::Other);
            match bed.try_open() {
                Err(error) => assert_eq!(error.class(), Class::Io, "{operation:?} {skip}: {error}"),
                Ok(opened) => assert_eq!(opened.report.set_aside, Vec::<String>::new()),
            }
            bed.memory.heal();
            let (report, items) = recover_twice(&bed.killed());
            assert_eq!(items, records(1, &all), "{operation:?} {skip}");
            assert_eq!((report.set_aside.len(), report.torn_tail), (0, None), "{operation:?} {skip}");
        }
    }
}

#[test]
fn a_bad_sector_in_the_header_page_costs_nothing() {
    let (image, all) = three_frames(stale());
    for sector in (0..PAGE).step_by(4096) {
        let mut damaged = Image::new(1, 1, 0x5A17, image.bytes.clone());
        damaged.bytes[sector..sector + 4096].fill(0xEE);
        let (report, items) = recover_twice(&damaged.folder(10, at(1)));
        assert_eq!(items, records(1, &all), "sector at {sector}");
        assert_eq!((report.set_aside.len(), report.identity_before), (0, None), "sector at {sector}");
    }
}

#[test]
fn what_stands_where_durable_records_should_be_is_kept_as_it_was_found() {
    let (mut image, all) = three_frames(Vec::new());
    let from = image.frames[2];
    for byte in &mut image.bytes[from..image.frames[3]] {
        *byte ^= 0x55;
    }
    let bed = image.folder(10, at(1));
    let (report, items) = recover_twice(&bed);
    let mut expected = records(1, &all[..5]);
    expected.push(corrupt(6, 10));
    assert_eq!(items, expected);
    let name = format!("{:020}-{from:010}", 1);
    assert_eq!(report.set_aside, [name.as_str()]);
    let kept = bed.memory.contents(&bed.config.dir.join("set-aside").join(name));
    assert!(kept == image.bytes[from..], "not as it was found: {:?}...", &kept[..32]);
}

#[derive(Clone, Debug)]
enum Act {
    Append(usize, usize),
    Publish,
    Kill,
    Close,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (1_usize..40, 0_usize..4000).prop_map(|(count, size)| Act::Append(count, size)),
        2 => Just(Act::Publish),
        1 => Just(Act::Kill),
        1 => Just(Act::Close),
    ];
    prop::collection::vec(act, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_was_answered_is_read_whatever_happens_in_between(acts in acts()) {
        let mut bed = Bed::new();
        let mut opened = bed.open();
        let mut lowest = Lsn::FIRST;
        let mut expected: Vec<(Lsn, Vec<u8>)> = Vec::new();
        for act in acts {
            match act {
                Act::Append(count, size) => {
                    let all = payloads(count, size);
                    for (answer, payload) in append(&opened.journal, &all).into_iter().zip(all) {
                        if let Ok(lsn) = answer {
                            expected.push((lsn, payload));
                        }
                    }
                }
                Act::Publish => {
                    lowest = opened.journal.durable_end();
                    opened.journal.set_positions(Positions::at(lowest));
                }
                Act::Kill => {
                    let killed = bed.killed();
                    drop(opened);
                    bed = killed;
                    opened = bed.open();
                    prop_assert!(opened.report.lowest <= lowest, "a crash may lose positions, and invents none");
                    lowest = opened.report.lowest;
                }
                Act::Close => {
                    opened.journal.close().unwrap();
                    opened = bed.open();
                    prop_assert_eq!(opened.report.lowest, lowest);
                }
            }
            prop_assert!(opened.report.set_aside.is_empty());
            let from = expected.partition_point(|(lsn, _)| *lsn < lowest);
            let left: Vec<Item> = expected[from..].iter().map(|(lsn, payload)| record_at(lsn.get(), payload)).collect();
            prop_assert_eq!(read_all(&opened.journal, lowest), left);
            prop_assert!(expected.windows(2).all(|pair| pair[0].0.next() == pair[1].0));
        }
    }
}
