//! Looking at a folder from outside: the same as a start would find, without a change; and beside a journal in use never damage that is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::bed::{
    Bed, FIRST_SEGMENT, Image, SEGMENT, append, corrupt, metrics, payload, payloads, put, read_all, records, small, wait_until,
    write_checkpoint,
};
use crate::clock::Clock;
use crate::journal::inspect::{CheckpointState, Corruption, Folder, Found, Usage, View};
use crate::journal::segment::PAGE;
use crate::journal::storage::memory::Operation;
use crate::journal::storage::{Disk, Entry, Storage};
use crate::journal::{Class, Error, Item, Lsn, Positions, frame, open};

impl Bed {
    fn folder(&self) -> Folder {
        Folder::new(Arc::new(self.memory.clone()), &self.config.dir)
    }
}

fn at(lsn: u64) -> Positions {
    Positions::at(Lsn::new(lsn))
}

fn sweep(folder: &Folder, view: &View) -> Vec<Found> {
    sweep_range(folder, view, (Lsn::FIRST, view.end))
}

fn sweep_range(folder: &Folder, view: &View, (from, to): (Lsn, Lsn)) -> Vec<Found> {
    let mut sweep = folder.sweep(view, from, to);
    let mut all = Vec::new();
    while let Some(found) = sweep.next().unwrap() {
        all.push(found);
    }
    let (done, of) = sweep.progress();
    assert!(done <= of);
    all
}

/// As a reader of the journal has it.
fn items(found: &[Found]) -> Vec<Item> {
    let item = |found: &Found| match found {
        Found::Record { lsn, record } => Some(Item::Record { lsn: *lsn, record: record.clone() }),
        Found::Corrupt(corruption) => (corruption.records() > 0).then_some(Item::Corrupt { from: corruption.first, to: corruption.next }),
        Found::Freed { from, to } => panic!("freed: {from} to {to}"),
    };
    found.iter().filter_map(item).collect()
}

fn pieces(found: &[Found]) -> Vec<Corruption> {
    let piece = |found: &Found| match found {
        Found::Corrupt(corruption) => Some(corruption.clone()),
        Found::Record { .. } | Found::Freed { .. } => None,
    };
    found.iter().filter_map(piece).collect()
}

/// What a look finds is what a start finds, and the look changes nothing.
fn is_what_a_start_finds(bed: &Bed, what: &str) -> (View, Vec<Found>) {
    bed.memory.take_done();
    let folder = bed.folder();
    let view = folder.look().unwrap();
    let found = sweep(&folder, &view);
    let done = bed.memory.take_done();
    assert!(done.iter().all(|(operation, _)| matches!(operation, Operation::Open | Operation::Read)), "{what}: {done:?}");

    let bed = bed.killed();
    let opened = bed.open();
    assert_eq!((view.end, view.positions.lowest()), (opened.report.end, opened.report.lowest), "{what}");
    assert_eq!(view.unpublished_records(), opened.report.unpublished_records, "{what}");
    assert_eq!(view.torn_tail.as_ref().map(|torn| torn.tail), opened.report.torn_tail, "{what}");
    assert_eq!(items(&found), read_all(&opened.journal, opened.report.lowest), "{what}");
    let copied = pieces(&found).iter().filter(|piece| piece.from >= u64::try_from(PAGE).unwrap()).count();
    assert_eq!(copied, bed.set_aside().len(), "{what}: {found:?} {:?}", bed.set_aside());
    (view, found)
}

/// Three frames of two, three and four records.
fn three_frames() -> Image {
    let all = payloads(9, 40);
    let mut image = Image::new(1, 1, 0x5A17, Vec::new());
    image.push(&all[..2]);
    image.push(&all[2..5]);
    image.push(&all[5..]);
    image
}

#[test]
fn a_flipped_byte_anywhere_is_found_as_a_start_finds_it() {
    let whole = three_frames();
    let (begin, end) = (whole.frames[0], whole.frames[3]);
    // Up to LSN 5 known as durable, and all of it.
    for durable_end in [6, 10] {
        for offset in begin..end {
            let mut image = three_frames();
            image.bytes[offset] ^= 0x10;
            let what = format!("byte {offset}, durable up to {durable_end}");
            let bed = image.folder(durable_end, at(1));
            let (view, found) = is_what_a_start_finds(&bed, &what);
            assert_eq!((view.usage, view.checkpoint), (Usage::Left, CheckpointState::Good));
            for piece in pieces(&found).iter().filter(|piece| piece.to > piece.from) {
                assert_eq!(piece.file, bed.segment_path(1));
                let offset = u64::try_from(offset).unwrap();
                assert!(piece.from <= offset && offset < piece.to, "{what}: {piece:?}");
            }
        }
    }
}

#[test]
fn a_tail_torn_at_any_byte_is_found_as_a_start_finds_it() {
    let whole = three_frames();
    for cut in whole.frames[2]..whole.frames[3] {
        let mut image = three_frames();
        image.bytes[cut..].fill(0);
        let (_, found) = is_what_a_start_finds(&image.folder(6, at(1)), &format!("cut at {cut}, not known to be durable"));
        assert_eq!(pieces(&found), [], "cut at {cut}");
        // The padding behind the last record is not checked.
        if cut < whole.frames[3] - 4 {
            let (view, found) = is_what_a_start_finds(&image.folder(10, at(1)), &format!("cut at {cut}, known to be durable"));
            assert_eq!((view.torn_tail, pieces(&found).is_empty()), (None, false), "cut at {cut}");
        }
    }
}

#[test]
fn a_copy_of_a_header_that_is_damaged_is_told_though_it_costs_nothing() {
    for (offset, copy) in [(20, 0), (4096 + 50, 4096)] {
        let mut image = three_frames();
        image.bytes[offset] ^= 1;
        let (_, found) = is_what_a_start_finds(&image.folder(10, at(1)), "a copy");
        let expected = Corruption { file: Bed::new().segment_path(1), from: copy, to: copy + 64, first: Lsn::FIRST, next: Lsn::FIRST };
        assert_eq!(pieces(&found), [expected]);
    }
}

/// Three segments of five records each.
fn three_segments(change: impl FnOnce(&mut Vec<(u64, Vec<u8>)>)) -> Bed {
    let all = payloads(15, 60);
    let mut segments = Vec::new();
    for number in 0..3_u64 {
        let first = usize::try_from(number * 5).unwrap();
        let mut image = Image::new(number * 5 + 1, number + 1, 0x10 + number, Vec::new());
        image.push(&all[first..first + 5]);
        segments.push((number + 1, image.bytes));
    }
    change(&mut segments);
    let bed = Bed::new();
    let files: Vec<(u64, &Vec<u8>)> = segments.iter().map(|(number, bytes)| (*number, bytes)).collect();
    put(&bed.memory, &bed.config.dir, &files);
    write_checkpoint(&bed, uuid::Uuid::from_u128(77), 16, at(1));
    bed
}

fn behead(bytes: &mut [u8]) {
    bytes[..PAGE].fill(0xEE);
}

#[test]
fn segments_that_are_gone_or_have_no_header_are_told_with_what_they_cost() {
    let number = |bed: &Bed, piece: &Corruption| (1..=3).find(|number| bed.segment_path(*number) == piece.file);
    for lost in 1..=3_u64 {
        let first = lost * 5 - 4;
        let index = usize::try_from(lost - 1).unwrap();
        let bed = three_segments(|segments| behead(&mut segments[index].1));
        let (view, found) = is_what_a_start_finds_of_headless(&bed);
        assert_eq!(view.headless.len(), 1);
        let pieces = pieces(&found);
        assert_eq!(pieces.len(), 1, "{pieces:?}");
        assert_eq!((number(&bed, &pieces[0]), pieces[0].from, pieces[0].to), (Some(lost), 0, SEGMENT));
        assert_eq!((pieces[0].first.get(), pieces[0].next.get()), (first, first + 5));

        let bed = three_segments(|segments| drop(segments.remove(index)));
        let folder = bed.folder();
        let view = folder.look().unwrap();
        let found = sweep(&folder, &view);
        assert_eq!(items(&found), read_all(&bed.killed().open().journal, Lsn::FIRST), "{lost}");
        assert!(items(&found).contains(&corrupt(first, first + 5)), "{found:?}");
    }
}

/// A start moves the file away, and so does not copy pieces of it.
fn is_what_a_start_finds_of_headless(bed: &Bed) -> (View, Vec<Found>) {
    let folder = bed.folder();
    let view = folder.look().unwrap();
    let found = sweep(&folder, &view);
    let opened = bed.killed().open();
    assert_eq!(view.end, opened.report.end);
    assert_eq!(items(&found), read_all(&opened.journal, opened.report.lowest));
    (view, found)
}

#[test]
fn a_range_is_read_without_what_lies_around_it() {
    let bed = three_segments(|segments| {
        for (_, bytes) in segments {
            // The body of each segment's third record.
            bytes[PAGE + frame::HEADER + 2 * 80 + 30] ^= 1;
        }
    });
    let folder = bed.folder();
    let view = folder.look().unwrap();
    let all = sweep(&folder, &view);
    assert_eq!(pieces(&all).len(), 3);
    for from in 1..=16 {
        for to in from..=16 {
            let range = (Lsn::new(from), Lsn::new(to));
            let expected: Vec<Item> = items(&all)
                .into_iter()
                .filter(|item| match item {
                    Item::Record { lsn, .. } => range.0 <= *lsn && *lsn < range.1,
                    Item::Corrupt { from, to } => range.0 < *to && *from < range.1,
                })
                .collect();
            assert_eq!(items(&sweep_range(&folder, &view, range)), expected, "{from} to {to}");
        }
    }
}

#[test]
fn a_folder_without_a_checkpoint_or_without_anything_is_told() {
    let bed = three_segments(|_| {});
    bed.memory.edit(&bed.path("checkpoint"), |bytes| bytes[40] ^= 1);
    let (view, _) = is_what_a_start_finds(&bed, "a bad checkpoint");
    assert_eq!((view.checkpoint, view.unpublished_records()), (CheckpointState::Lost, 15));
    bed.memory.remove(&bed.path("checkpoint")).unwrap();
    let (view, _) = is_what_a_start_finds(&bed, "no checkpoint");
    assert_eq!((view.checkpoint, view.unpublished_records()), (CheckpointState::Absent, 15));

    let bed = Bed::new();
    let missing = bed.folder().look().unwrap_err();
    assert!(matches!(&missing, Error::Io { .. }), "{missing}");
    bed.memory.create_dir(&bed.config.dir).unwrap();
    let empty = bed.folder().look().unwrap_err();
    assert_eq!((empty.class(), matches!(empty, Error::NoJournal { .. })), (Class::Configuration, true));
}

#[test]
fn a_stopped_journal_is_closed_and_a_killed_one_is_not() {
    let bed = Bed::new();
    let journal = bed.open_used();
    let view = bed.folder().look().unwrap();
    assert_eq!((view.usage, view.identity), (Usage::InUse, Some(journal.identity())));
    let (view, _) = is_what_a_start_finds(&bed.killed(), "killed");
    assert_eq!(view.usage, Usage::Left);
    journal.close().unwrap();
    let (view, found) = is_what_a_start_finds(&bed, "closed");
    assert_eq!((view.usage, found.len(), view.unpublished_records()), (Usage::Closed, 1, 1));
}

#[test]
fn what_is_being_written_beside_a_look_is_no_damage() {
    let bed = Bed::new();
    let journal = bed.open_used();
    let folder = bed.folder();
    wait_until("the checkpoint knows of the record", || folder.look().unwrap().end == Lsn::new(2));
    bed.memory.hold_syncs(FIRST_SEGMENT);
    let writing = {
        let journal = journal.clone();
        thread::spawn(move || append(&journal, &[payload(1, 300)]))
    };
    wait_until("the frame is written and not synced", || bed.memory.waiting_syncs() == 1);
    // Half of it has come through so far.
    let path = bed.segment_path(1);
    let whole = bed.memory.contents(&path);
    let at = PAGE + frame::HEADER + 40 + frame::HEADER + 100;
    bed.memory.edit(&path, |bytes| bytes[at..].fill(0));
    let view = folder.look().unwrap();
    assert_eq!((view.usage, view.end, view.torn_tail.clone()), (Usage::InUse, Lsn::new(2), None));
    assert_eq!(items(&sweep(&folder, &view)), records(1, &[b"first".to_vec()]));
    bed.memory.edit(&path, |bytes| *bytes = whole);
    bed.memory.release_syncs();
    assert_eq!(writing.join().unwrap(), [Ok(Lsn::new(2))]);
    wait_until("it is durable and told", || folder.look().unwrap().end == Lsn::new(3));
}

#[test]
fn what_is_freed_and_used_again_during_a_reading_is_no_damage() {
    let mut bed = Bed::new();
    // Longer than what is read ahead.
    bed.config.segment_size = 8 * SEGMENT;
    bed.config.size_max = 64 * SEGMENT;
    let journal = bed.open().journal;
    let all = payloads(300, 10_000);
    append(&journal, &all);
    let folder = bed.folder();
    wait_until("the checkpoint knows of all", || folder.look().unwrap().end == Lsn::new(301));
    let view = folder.look().unwrap();
    assert_eq!(view.segments.len(), 3);
    let mut sweep = folder.sweep(&view, Lsn::FIRST, view.end);
    let first = sweep.next().unwrap();
    assert!(matches!(first, Some(Found::Record { lsn: Lsn::FIRST, .. })));

    let path = bed.segment_path(1);
    let before = bed.memory.contents(&path);
    let opened = bed.memory.open_to_read(&path).unwrap();
    journal.set_positions(at(301));
    wait_until("the first segments are freed", || !bed.names().contains(&format!("{:020}.segment", 2)));
    append(&journal, &all);
    append(&journal, &all);
    let mut now = vec![0; before.len()];
    opened.read_at(&mut now, 0).unwrap();
    assert!(now[PAGE..] != before[PAGE..], "the file that is being read is written to anew");
    let mut next = Lsn::new(2);
    let mut freed = 0;
    while let Some(found) = sweep.next().unwrap() {
        let (from, to) = match found {
            Found::Record { lsn, .. } => (lsn, lsn.next()),
            Found::Freed { from, to } => {
                freed += to.get() - from.get();
                (from, to)
            }
            Found::Corrupt(corruption) => panic!("{corruption:?}"),
        };
        assert_eq!(from, next, "each is told once");
        next = to;
    }
    assert_eq!(next, view.end);
    assert!(freed > 100, "{freed}");
}

#[test]
fn under_load_every_look_finds_a_whole_journal() {
    let mut bed = Bed::new();
    bed.config.size_max = 5 * SEGMENT;
    let journal = bed.open().journal;
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (journal, stop) = (journal.clone(), Arc::clone(&stop));
        thread::spawn(move || {
            let all = payloads(40, 2000);
            while !stop.load(Ordering::Acquire) {
                append(&journal, &all);
                journal.set_positions(Positions::at(journal.durable_end()));
            }
        })
    };
    let folder = bed.folder();
    let mut looks = 0;
    wait_until("each segment was used several times over, and looked at", || {
        let view = folder.look().unwrap();
        assert_eq!((view.usage, view.headless.len()), (Usage::InUse, 0));
        assert!(view.torn_tail.is_none() && view.checkpoint == CheckpointState::Good, "{view:?}");
        for found in sweep(&folder, &view) {
            assert!(matches!(found, Found::Record { .. } | Found::Freed { .. }), "{found:?} of {view:?}");
        }
        looks += 1;
        looks >= 50 && view.end >= Lsn::new(2000)
    });
    stop.store(true, Ordering::Release);
    load.join().unwrap();
}

#[test]
fn on_a_real_disk_no_name_that_goes_during_a_look_is_an_alarm() {
    const LOOKS: u64 = 2_000;
    let dir = tempfile::tempdir().unwrap();
    let mut config = small(dir.path().join("journal"));
    config.size_max = 12 * SEGMENT;
    let metrics = metrics();
    let opened = open(config.clone(), Arc::new(Disk::default()), metrics.journal.clone(), Clock::system()).unwrap();
    let (journal, stop, looks) = (opened.journal, AtomicBool::new(false), AtomicU64::new(0));
    let look = || {
        let folder = Folder::new(Arc::new(Disk::default()), &config.dir);
        while !stop.load(Ordering::Acquire) {
            let view = folder.look().unwrap();
            assert_eq!((view.usage, view.checkpoint, view.headless.len()), (Usage::InUse, CheckpointState::Good, 0), "{view:?}");
            for found in sweep(&folder, &view) {
                assert!(matches!(found, Found::Record { .. } | Found::Freed { .. }), "{found:?} of {view:?}");
            }
            looks.fetch_add(1, Ordering::AcqRel);
        }
    };
    thread::scope(|scope| {
        let lookers = [scope.spawn(look), scope.spawn(look)];
        let all = payloads(40, 20_000);
        // A looker that has failed shows when it is joined.
        while looks.load(Ordering::Acquire) < LOOKS && !lookers.iter().any(thread::ScopedJoinHandle::is_finished) {
            append(&journal, &all);
            journal.set_positions(Positions::at(journal.durable_end()));
        }
        stop.store(true, Ordering::Release);
    });
}

#[test]
fn a_checkpoint_that_is_read_while_it_is_written_is_read_again() {
    let bed = Bed::new();
    let journal = bed.open_used();
    wait_until("nothing is left to be written", || bed.folder().look().unwrap().end == Lsn::new(2));
    let (path, folder) = (bed.path("checkpoint"), bed.folder());
    let whole = bed.memory.contents(&path);
    bed.memory.edit(&path, |bytes| bytes.fill(7));
    bed.memory.take_done();
    let looking = thread::spawn(move || folder.look().unwrap());
    let mut reads = 0;
    wait_until("it was looked at several times", || {
        reads += bed.memory.take_done().iter().filter(|(operation, read)| *operation == Operation::Open && *read == path).count();
        reads >= 6
    });
    bed.memory.edit(&path, |bytes| *bytes = whole);
    let view = looking.join().unwrap();
    assert_eq!((view.checkpoint, view.end), (CheckpointState::Good, Lsn::new(2)));
    drop(journal);
}

#[test]
fn a_list_that_is_old_already_is_read_again() {
    let bed = three_segments(|_| {});
    // The second file has lost its name between the list and its turn, while the first has not.
    let name = format!("{:020}.segment", 2);
    bed.memory.fail(Operation::Open, &name, 0, 2, std::io::ErrorKind::NotFound);
    let (folder, view) = (bed.folder(), bed.folder().look().unwrap());
    assert_eq!((view.segments.len(), pieces(&sweep(&folder, &view)).len()), (3, 0));
}

#[test]
fn segments_that_are_freed_while_their_headers_are_read_are_left_out_with_those_before_them() {
    let bed = three_segments(|_| {});
    // The first was read, and both are freed before the second is.
    for (number, opens) in [(1, 1), (2, 0)] {
        bed.memory.fail(Operation::Open, &format!("{number:020}.segment"), opens, 9, std::io::ErrorKind::NotFound);
    }
    bed.memory.take_done();
    let view = bed.folder().look().unwrap();
    assert_eq!(view.segments.iter().map(|segment| segment.first.get()).collect::<Vec<_>>(), [11]);
    let looks_at_the_checkpoint = |(operation, path): &(Operation, _)| *operation == Operation::Open && *path == bed.path("checkpoint");
    assert_eq!(bed.memory.take_done().into_iter().filter(looks_at_the_checkpoint).count(), 2, "one look is enough");
}

#[test]
fn a_header_page_that_is_read_while_its_next_use_is_written_over_it_is_no_damage() {
    let mut image = three_frames();
    image.bytes[4096 + 50] ^= 1;
    let bed = image.folder(10, at(1));
    let (folder, view) = (bed.folder(), bed.folder().look().unwrap());
    // Opened for the page, and gone when it is asked for again.
    bed.memory.fail(Operation::Open, ".segment", 1, 9, std::io::ErrorKind::NotFound);
    assert_eq!(sweep(&folder, &view), [Found::Freed { from: Lsn::FIRST, to: Lsn::new(10) }]);
}

#[test]
fn files_beside_the_log_are_named() {
    let bed = three_segments(|segments| segments[1].1[PAGE + frame::HEADER + 30] ^= 1);
    let opened = bed.open();
    read_all(&opened.journal, Lsn::FIRST);
    drop(opened);
    let view = bed.folder().look().unwrap();
    assert_eq!(view.set_aside, [Entry { name: format!("{:020}-{:010}", 2, PAGE + frame::HEADER), length: 80 }]);
    assert_eq!(view.bytes(), 3 * SEGMENT + 80 + view.spares.iter().map(|spare| spare.length).sum::<u64>());
}
