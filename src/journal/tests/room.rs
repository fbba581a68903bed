//! Room: spares, freeing, and a full journal.

use std::io::ErrorKind;
use std::sync::Arc;

use super::bed::{Bed, SEGMENT, append, payloads, read_all, records, wait_until};
use crate::journal::storage::Storage as _;
use crate::journal::storage::memory::Operation;
use crate::journal::{AppendError, FullReason, Item, Lsn, Positions, State};

fn is_full(state: &State, with: FullReason) -> bool {
    matches!(state, State::Full(reason) if *reason == with)
}

#[test]
fn a_full_journal_refuses_and_goes_on_when_segments_are_freed() {
    let mut bed = Bed::new();
    bed.config.size_max = 4 * SEGMENT;
    let journal = bed.open().journal;
    let all = payloads(1000, 1000);
    let answers = append(&journal, &all);
    let taken = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!(taken > 450, "four segments are used up first, and hold more than {taken} records");
    assert!(answers[..taken].iter().all(Result::is_ok));
    assert!(answers[taken..].iter().all(|answer| *answer == Err(AppendError::Full)));
    assert!(is_full(&journal.state(), FullReason::SizeMax), "{:?}", journal.state());
    assert_eq!(bed.metrics.journal.full.get(), 1);
    assert_eq!(bed.metrics.journal.size_bytes.get(), i64::try_from(4 * SEGMENT).unwrap());
    assert_eq!(read_all(&journal, Lsn::FIRST), records(1, &all[..taken]));

    let half = Lsn::new(u64::try_from(taken / 2).unwrap());
    journal.set_positions(Positions::at(half));
    wait_until("there is room", || matches!(journal.state(), State::Open));
    assert_eq!(bed.metrics.journal.full.get(), 0);
    assert!(append(&journal, &all[..5]).iter().all(Result::is_ok));
    let items = read_all(&journal, half);
    let mut expected = records(half.get(), &all[taken / 2 - 1..taken]);
    expected.extend(records(u64::try_from(taken).unwrap() + 1, &all[..5]));
    assert_eq!(items, expected);
}

#[test]
fn a_stream_that_is_behind_keeps_its_segments() {
    let bed = Bed::new();
    let journal = bed.open().journal;
    let all = payloads(300, 1000);
    append(&journal, &all);
    let behind = Positions { behind: vec![("parked".to_owned(), Lsn::new(7))], ..Positions::at(Lsn::new(301)) };
    journal.set_positions(behind.clone());
    wait_until("the checkpoint holds them", || {
        let again = bed.killed();
        again.open().positions.scanned == Lsn::new(301)
    });
    assert!(bed.names().contains(&format!("{:020}.segment", 1)));
    assert_eq!(read_all(&journal, Lsn::new(7)), records(7, &all[6..]));
    drop(journal);
    let opened = bed.open();
    assert_eq!(opened.positions, behind);
    assert_eq!(opened.report.unpublished_records, 294);
}

#[test]
fn a_segment_is_freed_only_after_the_checkpoint_that_allows_it_was_synced() {
    let bed = Bed::new();
    let journal = bed.open().journal;
    append(&journal, &payloads(300, 1000));
    bed.memory.hold_syncs("checkpoint");
    bed.memory.take_done();
    journal.set_positions(Positions::at(Lsn::new(301)));
    wait_until("the checkpoint is being synced", || bed.memory.waiting_syncs() == 1);
    assert!(bed.names().contains(&format!("{:020}.segment", 1)));
    bed.memory.release_syncs();
    wait_until("the first segments are freed", || !bed.names().contains(&format!("{:020}.segment", 2)));
    let done = bed.memory.take_done();
    let synced = done.iter().position(|(operation, path)| *operation == Operation::Sync && path.ends_with("checkpoint.new")).unwrap();
    let gone = |(operation, path): &(Operation, std::path::PathBuf)| {
        matches!(operation, Operation::Rename | Operation::Remove) && path.to_string_lossy().ends_with(".segment")
    };
    let freed = done.iter().position(gone).unwrap();
    assert!(synced < freed, "{done:?}");
    assert_eq!(done[freed + 1].0, Operation::SyncDir);
}

#[test]
fn freed_segments_are_used_again_without_zeroing() {
    let mut bed = Bed::new();
    bed.config.size_max = 4 * SEGMENT;
    let journal = bed.open().journal;
    let all = payloads(100, 1000);
    let mut written = 0_u64;
    for _ in 0..20 {
        wait_until("there is room", || bed.metrics.journal.spares.get() > 0);
        assert!(append(&journal, &all).iter().all(Result::is_ok));
        written += 100;
        let first = written - 99;
        assert_eq!(read_all(&journal, Lsn::new(first)), records(first, &all));
        journal.set_positions(Positions::at(Lsn::new(written + 1)));
    }
    let creations = bed
        .memory
        .take_done()
        .iter()
        .filter(|(operation, path)| *operation == Operation::Create && path.to_string_lossy().contains("spare"))
        .count();
    assert!(creations <= 6, "{creations} files were made for 20 rounds");
    let again = bed.killed();
    let opened = again.open();
    assert_eq!(opened.report.end, Lsn::new(written + 1));
    assert_eq!(opened.report.set_aside, Vec::<String>::new());
}

#[test]
fn no_space_for_the_first_segment_is_a_full_journal_that_goes_on_by_itself() {
    for capacity in [0, 100 * 1024, 200 * 1024] {
        let bed = Bed::new();
        bed.memory.set_capacity(capacity);
        let journal = bed.open().journal;
        assert!(matches!(journal.state(), State::Full(FullReason::NoSpace | FullReason::FreeSpaceMin)), "{:?}", journal.state());
        assert_eq!(append(&journal, &payloads(1, 100)), [Err(AppendError::Full)]);
        bed.memory.set_capacity(u64::MAX / 2);
        wait_until("there is room", || matches!(journal.state(), State::Open));
        assert_eq!(append(&journal, &payloads(1, 100)), [Ok(Lsn::FIRST)]);
        journal.close().unwrap();
        assert_eq!(bed.open().report.end, Lsn::new(2));
    }
}

#[test]
fn no_space_while_a_spare_is_prepared_leaves_no_trace_and_a_quota_counts_as_well() {
    for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
        let bed = Bed::new();
        bed.memory.fail(Operation::Write, "preparing", 0, usize::MAX, kind);
        let journal = bed.open().journal;
        assert!(is_full(&journal.state(), FullReason::NoSpace), "{:?}", journal.state());
        assert!(bed.names().iter().filter(|name| name.contains("spare")).count() <= 1);
        bed.memory.heal();
        wait_until("there is room", || matches!(journal.state(), State::Open));
        assert!(append(&journal, &payloads(3, 100)).iter().all(Result::is_ok));
    }
}

#[test]
fn no_space_while_a_spare_gets_its_name_leaves_no_trace() {
    for (operation, path_part, skip, times) in [
        (Operation::Rename, "preparing", 0, 2),
        // The folder is synced for its own sake and for the checkpoint before.
        (Operation::SyncDir, "/journal", 2, 1),
        (Operation::SyncDir, "/journal", 2, 4),
    ] {
        let bed = Bed::new();
        bed.memory.fail(operation, path_part, skip, times, ErrorKind::StorageFull);
        let journal = bed.open().journal;
        wait_until("two spares are ready", || bed.metrics.journal.spares.get() == 2);
        assert!(matches!(journal.state(), State::Open), "{operation:?}: {:?}", journal.state());
        assert_eq!(bed.names().iter().filter(|name| name.contains("spare")).count(), 2, "{operation:?}: {:?}", bed.names());
        assert!(append(&journal, &payloads(3, 100)).iter().all(Result::is_ok));
    }
}

#[test]
fn a_spare_that_cannot_even_be_removed_is_finished_later() {
    let bed = Bed::new();
    bed.memory.fail(Operation::Rename, "preparing", 0, 2, ErrorKind::StorageFull);
    bed.memory.fail(Operation::Remove, "preparing", 0, 2, ErrorKind::QuotaExceeded);
    let journal = bed.open().journal;
    wait_until("two spares are ready", || bed.metrics.journal.spares.get() == 2);
    assert_eq!(bed.names().iter().filter(|name| name.contains("spare")).count(), 2, "{:?}", bed.names());
    assert!(append(&journal, &payloads(3, 100)).iter().all(Result::is_ok));
}

#[test]
fn no_space_while_a_segment_is_freed_is_no_failure_and_tried_again() {
    for (operation, path_part, kind) in [
        (Operation::Rename, ".segment", ErrorKind::StorageFull),
        (Operation::Remove, ".segment", ErrorKind::QuotaExceeded),
        (Operation::SyncDir, "/journal", ErrorKind::StorageFull),
    ] {
        let bed = Bed::new();
        let journal = bed.open().journal;
        append(&journal, &payloads(300, 1000));
        wait_until("two spares are ready", || bed.metrics.journal.spares.get() == 2);
        bed.memory.fail(operation, path_part, 0, 2, kind);
        journal.set_positions(Positions::at(Lsn::new(301)));
        wait_until("the segments are freed", || {
            bed.names().iter().filter(|name| name.ends_with(".segment")).count() == 1 || matches!(journal.state(), State::Failed(_))
        });
        let more = payloads(3, 100);
        assert!(append(&journal, &more).iter().all(Result::is_ok), "{operation:?}: {:?}", journal.state());
        let spares = || bed.names().iter().filter(|name| name.contains("spare")).count();
        wait_until("spares are ready", || bed.metrics.journal.spares.get() >= 2);
        assert_eq!(i64::try_from(spares()).unwrap(), bed.metrics.journal.spares.get(), "{operation:?}");
        journal.close().unwrap();
        let opened = bed.open();
        assert_eq!(read_all(&opened.journal, Lsn::new(301)), records(301, &more));
    }
}

#[test]
fn prepared_segments_are_used_up_before_the_journal_is_full() {
    let bed = Bed::new();
    let journal = bed.open().journal;
    append(&journal, &payloads(1, 100));
    wait_until("two spares are ready", || bed.metrics.journal.spares.get() == 2);
    bed.memory.set_capacity(0);
    let answers = append(&journal, &payloads(1000, 1000));
    let taken = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!((340..400).contains(&taken), "three segments hold {taken}");
    assert!(matches!(journal.state(), State::Full(_)));
}

#[test]
fn room_is_left_free_for_others() {
    let mut bed = Bed::new();
    bed.config.free_space_min = 1_000_000;
    bed.memory.set_capacity(1_000_000 + 2 * 64 * 1024 + SEGMENT + SEGMENT / 2);
    let journal = bed.open().journal;
    let answers = append(&journal, &payloads(200, 1000));
    assert!(answers[0].is_ok());
    assert_eq!(answers[199], Err(AppendError::Full));
    assert!(is_full(&journal.state(), FullReason::FreeSpaceMin), "{:?}", journal.state());
}

#[test]
fn a_disk_error_while_a_spare_is_prepared_ends_the_journal() {
    let bed = Bed::new();
    let journal = bed.open().journal;
    append(&journal, &payloads(1, 100));
    wait_until("two spares are ready", || bed.metrics.journal.spares.get() == 2);
    bed.memory.fail(Operation::Sync, "preparing", 0, 1, ErrorKind::Other);
    append(&journal, &payloads(150, 1000));
    wait_until("it has failed", || matches!(journal.state(), State::Failed(_)));
}

#[test]
fn a_segment_that_a_reader_still_holds_is_not_used_again_under_it() {
    let mut bed = Bed::new();
    bed.config.tail_bytes_max = 0;
    let journal = bed.open().journal;
    let all = payloads(300, 1000);
    append(&journal, &all);
    wait_until("two spares are ready", || bed.metrics.journal.spares.get() == 2);
    let mut reader = journal.reader(Lsn::FIRST);
    let mut items = vec![reader.next().unwrap().unwrap()];
    journal.set_positions(Positions::at(Lsn::new(301)));
    // A segment is out of the gauge before its name is gone.
    wait_until("the segments are freed", || bed.names().iter().filter(|name| name.ends_with(".segment")).count() == 1);
    let done = bed.memory.take_done();
    assert!(done.contains(&(Operation::Remove, bed.segment_path(1))), "the one that is held is removed");
    assert!(done.contains(&(Operation::Rename, bed.segment_path(2))), "one that nobody holds is used again");
    append(&journal, &all[..100]);
    append(&journal, &all[..100]);
    while let Some(item) = reader.next().unwrap() {
        items.push(item);
    }
    let first_gap = items.iter().position(|item| matches!(item, Item::Corrupt { .. })).unwrap_or(items.len());
    assert!(first_gap > 50, "the segment that was being read stays readable to its end: {first_gap}");
    assert_eq!(items[..first_gap], records(1, &all[..first_gap]));
    assert!(bed.set_aside().is_empty(), "what was freed is not corrupt");
}

#[test]
fn watchers_are_called_when_the_journal_fills_and_opens() {
    let mut bed = Bed::new();
    bed.config.size_max = 4 * SEGMENT;
    let journal = bed.open().journal;
    let calls = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    journal.watch(Arc::new(move || {
        counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }));
    let taken = append(&journal, &payloads(1000, 1000)).iter().filter(|answer| answer.is_ok()).count();
    // One for each batch, one for full.
    wait_until("it is said to be full", || calls.load(std::sync::atomic::Ordering::SeqCst) == taken + 1);
    journal.set_positions(Positions::at(journal.durable_end()));
    wait_until("it is open and said", || calls.load(std::sync::atomic::Ordering::SeqCst) == taken + 2);
}

#[test]
fn a_journal_that_gets_room_for_its_checkpoint_alone_frees_what_is_published() {
    let mut bed = Bed::new();
    bed.config.size_max = 4 * SEGMENT;
    let journal = bed.open().journal;
    append(&journal, &payloads(1000, 1000));
    assert!(is_full(&journal.state(), FullReason::SizeMax), "{:?}", journal.state());
    let again = bed.killed();
    drop(journal);
    again.memory.remove(&again.path("checkpoint")).unwrap();
    let used = again.names().iter().map(|name| u64::try_from(again.memory.contents(&again.path(name)).len()).unwrap()).sum::<u64>();
    again.memory.set_capacity(used);
    let opened = again.open();
    assert!(opened.report.checkpoint_lost);
    let journal = opened.journal;
    // The next record needs a segment of its own.
    assert_eq!(append(&journal, &payloads(1, 1000)), [Err(AppendError::Full)]);
    assert!(matches!(journal.state(), State::Full(_)), "{:?}", journal.state());
    assert!(!again.names().contains(&"checkpoint".to_owned()));
    // Everything is published before there is a checkpoint to say so in.
    journal.set_positions(Positions::at(journal.durable_end()));
    again.memory.set_capacity(used + 140_000);
    wait_until("there is room", || matches!(journal.state(), State::Open));
    assert!(append(&journal, &payloads(5, 1000)).iter().all(Result::is_ok));
    assert_eq!(again.metrics.journal.published_segments.get(), 0, "nothing keeps what is published");
}
