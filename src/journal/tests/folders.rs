//! What opening makes of folders of which files are missing, foreign, unfinished or of another version.

use std::io::ErrorKind;

use uuid::Uuid;

use super::bed::{Bed, Image, SEGMENT, clock, corrupt, payloads, put, read_all, records, write_checkpoint};
use super::recovering::{at, goes_on, recover_twice, stale, three_frames};
use crate::journal::record::{self, Salt};
use crate::journal::segment::{Header, PAGE};
use crate::journal::storage::memory::Operation;
use crate::journal::{Class, Error, Item, Lsn, Start, frame};

#[test]
fn a_folder_whose_segments_are_gone_goes_on_behind_what_its_checkpoint_knows() {
    let bed = Bed::new();
    put(&bed.memory, &bed.config.dir, &[]);
    write_checkpoint(&bed, Uuid::from_u128(5), 100, at(90));
    let (report, items) = recover_twice(&bed);
    assert_eq!(items, [corrupt(90, 100)]);
    assert_eq!((report.end, report.identity_before, report.unpublished_records), (Lsn::new(100), Some(Uuid::from_u128(5)), 10));
    goes_on(&bed, &items);
}

#[test]
fn a_segment_missing_in_between_is_a_gap() {
    let bed = Bed::new();
    let all = payloads(3, 70);
    let segments: Vec<Image> = [(1, 1), (8, 3), (11, 4)]
        .into_iter()
        .map(|(first, number)| {
            let mut image = Image::new(first, number, number * 7, stale());
            image.push(&all);
            image
        })
        .collect();
    put(&bed.memory, &bed.config.dir, &[(1, &segments[0].bytes), (3, &segments[1].bytes), (4, &segments[2].bytes)]);
    write_checkpoint(&bed, segments[0].journal, 14, at(1));
    let (report, items) = recover_twice(&bed);
    let mut expected = records(1, &all);
    expected.push(corrupt(4, 8));
    expected.extend(records(8, &all));
    expected.extend(records(11, &all));
    assert_eq!(items, expected);
    assert_eq!(report.end, Lsn::new(14));
}

#[test]
fn a_segment_whose_two_headers_are_bad_is_set_aside_whole() {
    for bad in [1, 2, 3] {
        let bed = Bed::new();
        let all = payloads(3, 70);
        let mut segments: Vec<Image> = (1..=3)
            .map(|number| {
                let mut image = Image::new(number * 3 - 2, number, number * 7, Vec::new());
                image.push(&all);
                image
            })
            .collect();
        segments[bad - 1].bytes[20] ^= 1;
        segments[bad - 1].bytes[4096 + 20] ^= 1;
        put(&bed.memory, &bed.config.dir, &[(1, &segments[0].bytes), (2, &segments[1].bytes), (3, &segments[2].bytes)]);
        write_checkpoint(&bed, segments[0].journal, 10, at(1));
        let (report, items) = recover_twice(&bed);
        let first = u64::try_from(bad).unwrap() * 3 - 2;
        let expected: Vec<Item> = (1..=3)
            .flat_map(|number| if number * 3 - 2 == first { vec![corrupt(first, first + 3)] } else { records(number * 3 - 2, &all) })
            .collect();
        assert_eq!(items, expected, "segment {bad}");
        assert_eq!(report.set_aside, [format!("{bad:020}.segment")]);
        assert_eq!(report.identity_before.is_some(), bad == 3, "the newest one's LSNs are not known");
        goes_on(&bed, &items);
    }
}

#[test]
fn a_lost_checkpoint_is_told_and_reading_begins_at_the_oldest_segment() {
    let (image, all) = three_frames(Vec::new());
    for absent in [true, false] {
        let bed = image.folder(10, at(7));
        let path = bed.config.dir.join("checkpoint");
        if absent {
            crate::journal::storage::Storage::remove(&bed.memory, &path).unwrap();
        } else {
            bed.memory.edit(&path, |bytes| bytes[50] ^= 1);
        }
        let (report, items) = recover_twice(&bed);
        assert!(report.checkpoint_lost);
        assert_eq!(bed.metrics.journal.checkpoint_losses.get(), 1);
        assert_eq!(items, records(1, &all));
        assert_eq!((report.identity, report.identity_before), (image.journal, None));
        assert_eq!((report.lowest, report.unpublished_records), (Lsn::FIRST, 9));
        assert_eq!(bed.killed().open().positions.sent_bound, Lsn::new(10), "any of them may have been handed over");
    }
}

fn changes_nothing((operation, _): &(Operation, std::path::PathBuf)) -> bool {
    matches!(operation, Operation::Open | Operation::Read | Operation::SyncDir)
}

#[test]
fn an_unknown_version_is_refused_and_nothing_is_touched() {
    let (image, _) = three_frames(Vec::new());
    let bed = image.folder(10, at(1));
    let header = |version: u32| {
        let mut copy = image.bytes[..64].to_vec();
        copy[8..12].copy_from_slice(&version.to_le_bytes());
        let check = crc32c::crc32c_append(crc32c::crc32c(&copy[..12]), &copy[16..64]);
        copy[12..16].copy_from_slice(&check.to_le_bytes());
        copy
    };
    let path = bed.segment_path(1);
    bed.memory.edit(&path, |bytes| bytes[..64].copy_from_slice(&header(7)));
    let before = bed.memory.contents(&path);
    bed.memory.take_done();
    let error = bed.try_open().expect_err("must be refused");
    assert!(matches!(error, Error::UnknownVersion { version: 7, .. }), "{error}");
    assert_eq!(error.class(), Class::Configuration);
    assert!(bed.memory.take_done().iter().all(changes_nothing));
    assert_eq!(bed.memory.contents(&path), before);
}

#[test]
fn a_segment_of_another_journal_is_refused_and_nothing_is_touched() {
    let (image, _) = three_frames(Vec::new());
    let renamed = image.folder(10, at(1));
    put(&Bed::new().memory, &renamed.config.dir, &[]);
    renamed.memory.edit(&renamed.segment_path(1), |bytes| {
        let header = Header { journal: image.journal, number: 9, first: Lsn::FIRST, salt: Salt(1), created: clock().now() };
        bytes[..PAGE].copy_from_slice(&header.encode());
    });
    let other = Bed::new();
    put(&other.memory, &other.config.dir, &[(1, &image.bytes)]);
    write_checkpoint(&other, Uuid::from_u128(1234), 10, at(1));
    let backwards = Bed::new();
    put(
        &backwards.memory,
        &backwards.config.dir,
        &[(1, &Image::new(50, 1, 3, Vec::new()).bytes), (2, &Image::new(40, 2, 4, Vec::new()).bytes)],
    );
    for bed in [renamed, other, backwards] {
        bed.memory.take_done();
        let error = bed.try_open().expect_err("must be refused");
        assert!(matches!(error, Error::Foreign { .. }), "{error}");
        assert_eq!(error.class(), Class::Configuration);
        assert!(bed.memory.take_done().iter().all(changes_nothing));
    }
}

#[test]
fn a_set_aside_piece_that_finds_no_room_is_counted_once_and_stands_in_nobodys_way() {
    let (mut image, all) = three_frames(Vec::new());
    image.bytes[image.frames[0] + frame::HEADER + record::HEADER] ^= 1;
    for operation in [Operation::Create, Operation::Write, Operation::Sync, Operation::Rename] {
        let bed = image.folder(10, at(1));
        bed.memory.fail(operation, "set-aside", 0, usize::MAX, ErrorKind::StorageFull);
        let opened = bed.open();
        let mut expected = records(1, &all);
        expected[0] = corrupt(1, 2);
        for _ in 0..3 {
            assert_eq!(read_all(&opened.journal, Lsn::FIRST), expected, "{operation:?}");
        }
        assert_eq!(bed.metrics.journal.set_aside.get(), 1, "{operation:?}");
        assert!(bed.set_aside().is_empty(), "{operation:?}");
        // Once there is room, the next look makes the copy.
        bed.memory.heal();
        assert_eq!(read_all(&opened.journal, Lsn::FIRST), expected);
        assert_eq!((bed.set_aside().len(), bed.metrics.journal.set_aside.get()), (1, 1), "{operation:?}");
    }
}

#[test]
fn spares_are_taken_over_and_what_is_unfinished_is_removed() {
    let bed = Bed::new();
    let journal = bed.open_used();
    super::bed::wait_until("two spares are ready", || bed.metrics.journal.spares.get() == 2);
    journal.close().unwrap();
    let spare = bed.path("spare-00000000000000000007.preparing");
    crate::journal::storage::Storage::create(&bed.memory, &spare).unwrap();
    let opened = bed.open();
    assert_eq!(opened.report.start, Start::Clean);
    assert_eq!(bed.metrics.journal.spares.get(), 2);
    assert!(!bed.names().iter().any(|name| name.ends_with(".preparing")));
}

#[test]
fn a_segment_without_a_header_stays_until_the_identity_that_follows_it_is_durable() {
    let folder = || {
        let bed = Bed::new();
        let all = payloads(3, 70);
        let mut first = Image::new(1, 1, 7, Vec::new());
        first.push(&all);
        let mut second = Image::new(4, 2, 14, Vec::new());
        second.push(&all);
        second.bytes[..PAGE].fill(0);
        put(&bed.memory, &bed.config.dir, &[(1, &first.bytes), (2, &second.bytes)]);
        // The second segment's records were answered, and the checkpoint does not say so yet.
        write_checkpoint(&bed, first.journal, 4, at(1));
        (bed, first.journal)
    };
    for (operation, skip) in [(Operation::Write, 0), (Operation::Write, 1), (Operation::Sync, 0), (Operation::Sync, 1)] {
        let (bed, journal) = folder();
        bed.memory.fail(operation, "checkpoint", skip, 1, ErrorKind::Other);
        assert_eq!(bed.try_open().expect_err("must fail").class(), Class::Io);
        let again = bed.killed();
        again.memory.heal();
        let report = again.open().report;
        assert_ne!(report.identity, journal, "{operation:?} {skip}: the lost segment's LSNs must not be used again under its identity");
        assert_eq!(report.set_aside, [format!("{:020}.segment", 2)]);
    }
    let (bed, _) = folder();
    bed.memory.take_done();
    drop(bed.open());
    let done = bed.memory.take_done();
    let moved = done.iter().position(|entry| *entry == (Operation::Rename, bed.segment_path(2))).unwrap();
    let syncs = done[..moved].iter().filter(|(operation, path)| *operation == Operation::Sync && path.ends_with("checkpoint")).count();
    assert_eq!(syncs, 2, "what was found, and what was decided: {done:?}");
}

#[test]
fn the_name_of_a_folder_that_exists_already_is_made_durable() {
    let (image, _) = three_frames(Vec::new());
    let bed = image.folder(10, at(1));
    let parent = bed.config.dir.parent().unwrap().to_owned();
    bed.memory.take_done();
    drop(bed.open());
    assert!(bed.memory.take_done().contains(&(Operation::SyncDir, parent)), "an earlier start may have ended before it did so");
    // Whoever gave the folder may not let it look outside.
    bed.memory.fail(Operation::SyncDir, "", 0, 1, ErrorKind::PermissionDenied);
    drop(bed.open());
    bed.memory.fail(Operation::SyncDir, "", 0, 1, ErrorKind::Other);
    assert_eq!(bed.try_open().expect_err("must fail").class(), Class::Io);
}

#[test]
fn an_unfinished_copy_of_a_corrupt_piece_is_removed() {
    let (image, _) = three_frames(Vec::new());
    let bed = image.folder(10, at(1));
    let folder = bed.config.dir.join("set-aside");
    let storage: &dyn crate::journal::storage::Storage = &bed.memory;
    storage.create_dir(&folder).unwrap();
    for name in ["00000000000000000001-0000009000.partial", "00000000000000000001-0000009000"] {
        storage.create(&folder.join(name)).unwrap().write_at(&[1; 100], 0).unwrap();
    }
    let opened = bed.open();
    assert_eq!(bed.set_aside(), ["00000000000000000001-0000009000"]);
    super::bed::wait_until("two spares are ready", || bed.metrics.journal.spares.get() == 2);
    assert_eq!(bed.metrics.journal.size_bytes.get(), i64::try_from(3 * SEGMENT + 100).unwrap());
    drop(opened);
}
