//! Retention: published segments stay for a while, and never in the way of a new record.

use std::sync::Arc;
use std::time::Duration;

use super::bed::{Bed, SEGMENT, append, clock, payloads, read_all, records, wait_until};
use crate::clock::{Clock, Timestamp};
use crate::journal::storage::memory::Operation;
use crate::journal::{AppendError, FullReason, Journal, Lsn, Opened, Positions, State, open};

const HOUR: Duration = Duration::from_hours(1);

/// A journal that keeps what is published for an hour.
fn bed() -> Bed {
    let mut bed = Bed::new();
    bed.config.retention = HOUR;
    bed
}

fn open_at(bed: &Bed, clock: &Clock) -> Opened {
    open(bed.config.clone(), Arc::new(bed.memory.clone()), bed.metrics.journal.clone(), clock.clone()).unwrap()
}

fn later(clock: &Clock, by: Duration) {
    clock.set(Timestamp::from_micros(clock.now().micros() + i64::try_from(by.as_micros()).unwrap()));
}

fn segments(bed: &Bed) -> Vec<String> {
    bed.names().into_iter().filter(|name| name.ends_with(".segment")).collect()
}

/// Everything is published, and the keeper has come to know it.
fn publish_all(bed: &Bed, journal: &Journal, clock: &Clock) {
    let end = journal.durable_end();
    journal.set_positions(Positions::at(end));
    wait_until("the checkpoint is synced", || {
        let killed = bed.killed();
        let known = open_at(&killed, clock).positions.lowest() == end;
        known && bed.metrics.journal.published_segments.get() == i64::try_from(segments(bed).len() - 1).unwrap()
    });
}

/// Has the keeper look at its clock: it looks whenever it writes what has become durable.
fn look(bed: &Bed, journal: &Journal, clock: &Clock) {
    assert!(append(journal, &payloads(1, 10))[0].is_ok());
    publish_all(bed, journal, clock);
}

#[test]
fn published_segments_stay_for_the_retention_and_are_not_published_again() {
    let (bed, clock) = (bed(), clock());
    let journal = open_at(&bed, &clock).journal;
    let all = payloads(300, 1000);
    append(&journal, &all);
    let before = segments(&bed);
    assert_eq!(before.len(), 3);
    publish_all(&bed, &journal, &clock);
    later(&clock, Duration::from_secs(3599));
    look(&bed, &journal, &clock);
    assert_eq!(segments(&bed), before, "the time is not over");
    assert_eq!(read_all(&journal, Lsn::FIRST)[..300], records(1, &all));

    // A start publishes none of it again, and counts the time anew.
    let killed = bed.killed();
    let opened = open_at(&killed, &clock);
    assert_eq!((opened.positions.lowest(), opened.report.unpublished_records), (Lsn::new(302), 0));
    later(&clock, Duration::from_secs(2));
    look(&killed, &opened.journal, &clock);
    assert_eq!(segments(&killed), before, "it counts anew");

    look(&bed, &journal, &clock);
    wait_until("the segments whose time is over are freed", || segments(&bed) == before[2..]);
    assert_eq!(bed.metrics.journal.retention_cut_short.get(), 0);
    wait_until("the gauge says so", || bed.metrics.journal.published_segments.get() == 0);
}

#[test]
fn a_new_record_goes_before_what_is_kept() {
    let (mut bed, clock) = (bed(), clock());
    bed.config.size_max = 4 * SEGMENT;
    let journal = open_at(&bed, &clock).journal;
    let all = payloads(100, 1000);
    for round in 0..12_u64 {
        assert!(append(&journal, &all).iter().all(Result::is_ok), "round {round}");
        assert!(matches!(journal.state(), State::Open));
        publish_all(&bed, &journal, &clock);
        assert!(bed.metrics.journal.size_bytes.get() <= i64::try_from(4 * SEGMENT).unwrap());
    }
    assert!(bed.metrics.journal.retention_cut_short.get() >= 6, "{}", bed.metrics.journal.retention_cut_short.get());
    // What is there is the newest, and whole.
    let first = open_at(&bed.killed(), &clock);
    assert_eq!(first.report.unpublished_records, 0);
    assert_eq!(read_all(&journal, Lsn::new(1101)), records(1101, &all));
}

#[test]
fn a_journal_is_full_only_once_nothing_published_is_left() {
    let (mut bed, clock) = (bed(), clock());
    bed.config.size_max = 5 * SEGMENT;
    let journal = open_at(&bed, &clock).journal;
    append(&journal, &payloads(300, 1000));
    publish_all(&bed, &journal, &clock);
    assert!(bed.metrics.journal.published_segments.get() >= 2);

    let answers = append(&journal, &payloads(1000, 1000));
    let taken = answers.iter().take_while(|answer| answer.is_ok()).count();
    assert!(answers[taken..].iter().all(|answer| *answer == Err(AppendError::Full)));
    assert!(matches!(journal.state(), State::Full(FullReason::SizeMax)), "{:?}", journal.state());
    // Five segments: all but what the newest published records share with the first unpublished ones.
    assert!(taken > 480, "{taken}");
    assert_eq!(bed.metrics.journal.published_segments.get(), 0);
    assert_eq!(segments(&bed).len(), 5);

    // Published, they make room at once, whatever the retention.
    journal.set_positions(Positions::at(journal.durable_end()));
    wait_until("there is room", || matches!(journal.state(), State::Open));
    assert!(append(&journal, &payloads(5, 100)).iter().all(Result::is_ok));
}

#[test]
fn a_segment_whose_room_is_needed_is_freed_only_after_the_checkpoint_was_synced() {
    let (mut bed, clock) = (bed(), clock());
    bed.config.size_max = 4 * SEGMENT;
    let journal = open_at(&bed, &clock).journal;
    let answers = append(&journal, &payloads(600, 1000));
    assert_eq!(answers.last(), Some(&Err(AppendError::Full)));
    bed.memory.hold_syncs("checkpoint");
    bed.memory.take_done();
    journal.set_positions(Positions::at(journal.durable_end()));
    wait_until("the checkpoint is being synced", || bed.memory.waiting_syncs() == 1);
    let held = segments(&bed).len();
    bed.memory.release_syncs();
    assert_eq!(held, 4);
    wait_until("there is room", || matches!(journal.state(), State::Open));
    let done = bed.memory.take_done();
    let synced = done.iter().position(|(operation, path)| *operation == Operation::Sync && path.ends_with("checkpoint.new")).unwrap();
    let freed = done.iter().position(|(operation, path)| {
        matches!(operation, Operation::Rename | Operation::Remove) && path.to_string_lossy().ends_with(".segment")
    });
    assert!(freed.is_some_and(|freed| synced < freed), "{done:?}");
}

#[test]
fn a_start_makes_room_of_what_is_kept() {
    let (mut bed, clock) = (bed(), clock());
    bed.config.size_max = 4 * SEGMENT;
    let journal = open_at(&bed, &clock).journal;
    append(&journal, &payloads(450, 1000));
    publish_all(&bed, &journal, &clock);
    journal.close().unwrap();
    // Its end is damaged, so that it is not written to again, and no spare is left.
    let newest = segments(&bed).pop().unwrap();
    bed.memory.edit(&bed.path(&newest), |bytes| bytes[8192 + 40] ^= 1);
    for name in bed.names().into_iter().filter(|name| name.starts_with("spare")) {
        crate::journal::storage::Storage::remove(&bed.memory, &bed.path(&name)).unwrap();
    }
    bed.config.size_max = SEGMENT * u64::try_from(segments(&bed).len()).unwrap().max(4);
    let journal = open_at(&bed, &clock).journal;
    assert!(matches!(journal.state(), State::Open));
    assert!(append(&journal, &payloads(5, 100)).iter().all(Result::is_ok));
    assert!(bed.metrics.journal.retention_cut_short.get() >= 1);
}
