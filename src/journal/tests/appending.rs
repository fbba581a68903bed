//! Appends, and reading them back.

use std::future::Future;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::JoinSet;

use super::bed::{Bed, FIRST_SEGMENT, append, corrupt, metrics, payload, payloads, read_all, records, small, wait_until, with_appender};
use crate::journal::storage::Disk;
use crate::journal::storage::memory::Operation;
use crate::journal::{AppendError, Class, Config, Error, Lsn, Positions, Start, State, open};

#[test]
fn what_is_appended_reads_back_across_segments_restarts_and_a_real_disk() {
    let folder = tempfile::tempdir().unwrap();
    let config = small(folder.path().join("journal"));
    let all = payloads(400, 1000);
    let start = |expected: Start| {
        let metrics = metrics();
        let opened = open(config.clone(), Arc::new(Disk::default()), metrics.journal.clone(), super::bed::clock()).unwrap();
        assert_eq!(opened.report.start, expected);
        (opened, metrics)
    };

    let (opened, metrics) = start(Start::New);
    let lsns = append(&opened.journal, &all[..200]);
    assert_eq!(lsns, (1..=200).map(|lsn| Ok(Lsn::new(lsn))).collect::<Vec<_>>());
    assert_eq!(read_all(&opened.journal, Lsn::FIRST), records(1, &all[..200]));
    assert!(metrics.journal.segments.get() > 1, "the records fill more than one segment");
    assert_eq!(metrics.journal.durable_records.get(), 200);
    assert_eq!(metrics.journal.synced_records.get(), 200);
    assert_eq!(metrics.journal.unpublished_records.get(), 200);
    let identity = opened.journal.identity();
    opened.journal.close().unwrap();

    let (opened, metrics) = start(Start::Clean);
    assert_eq!((opened.report.unpublished_records, opened.report.end), (200, Lsn::new(201)));
    assert_eq!(opened.journal.identity(), identity);
    assert_eq!(metrics.journal.recovered_records.get(), 200);
    append(&opened.journal, &all[200..300]);
    // As a crash would: without a last checkpoint.
    drop(opened);

    let (opened, _metrics) = start(Start::Unclean);
    append(&opened.journal, &all[300..]);
    assert_eq!(read_all(&opened.journal, Lsn::FIRST), records(1, &all));
    assert_eq!(read_all(&opened.journal, Lsn::new(150)), records(150, &all[149..]));
    assert_eq!(opened.report.set_aside, Vec::<String>::new());
    assert_eq!(opened.report.torn_tail, None);
}

#[test]
fn a_reader_that_falls_behind_the_memory_goes_on_from_the_disk_and_catches_up() {
    let mut bed = Bed::new();
    bed.config.tail_bytes_max = 4096;
    let journal = bed.open().journal;
    let all = payloads(300, 700);
    let mut reader = journal.reader(Lsn::FIRST);
    let mut items = Vec::new();
    for part in all.chunks(30) {
        append(&journal, part);
        for _ in 0..20 {
            items.extend(reader.next().unwrap());
        }
    }
    while let Some(item) = reader.next().unwrap() {
        items.push(item);
    }
    assert_eq!(items, records(1, &all));
    assert_eq!(reader.next().unwrap(), None);
    append(&journal, &all[..1]);
    assert_eq!(reader.next().unwrap(), Some(super::bed::record_at(301, &all[0])));
}

#[test]
fn what_arrives_during_a_sync_makes_one_batch() {
    let bed = Bed::new();
    let journal = bed.open_used();
    bed.memory.hold_syncs(FIRST_SEGMENT);
    let lsns = with_appender(&journal, async |appender| {
        let mut tasks = JoinSet::new();
        for index in 0..50 {
            let appender = appender.clone();
            tasks.spawn(async move { appender.append(payload(index, 100)).await });
            if index == 0 {
                tokio::task::yield_now().await;
                wait_until("the first is being synced", || bed.memory.waiting_syncs() == 1);
            }
        }
        tokio::task::yield_now().await;
        bed.memory.release_syncs();
        let mut lsns: Vec<_> = tasks.join_all().await.into_iter().map(|lsn| lsn.unwrap().get()).collect();
        lsns.sort_unstable();
        lsns
    });
    assert_eq!(lsns, (2..=51).collect::<Vec<_>>());
    assert_eq!(bed.metrics.journal.batch_records.get_sample_count(), 3, "one alone before, the first, and all others together");
}

#[test]
fn what_arrives_soon_after_a_sync_shares_the_next_one() {
    let mut bed = Bed::new();
    // Longer than any test takes: only the end of the journal cuts it short.
    bed.config.sync_interval_min = Duration::from_hours(1);
    bed.config.answer_max = Duration::from_hours(1);
    let journal = bed.open_used();
    let batches = || bed.metrics.journal.batch_records.get_sample_count();
    assert_eq!(batches(), 1, "one that finds the disk at rest is synced at once");
    let answers = with_appender(&journal, async |appender| {
        let mut tasks = JoinSet::new();
        for index in 0..20 {
            let appender = appender.clone();
            tasks.spawn(async move { appender.append(payload(index, 100)).await });
            tokio::task::yield_now().await;
        }
        assert_eq!(batches(), 1, "the others wait");
        let closing = std::thread::spawn({
            let journal = journal.clone();
            move || journal.close()
        });
        let answers = tasks.join_all().await;
        closing.join().unwrap().unwrap();
        answers
    });
    assert!(answers.iter().all(Result::is_ok), "a journal that is closed does not wait");
    assert_eq!(batches(), 2);
}

#[test]
fn a_batch_ends_at_its_limits() {
    let mut bed = Bed::new();
    bed.config.batch_records_max = 8;
    bed.config.batch_bytes_max = 1000;
    let journal = bed.open_used();
    for (size, count, batches) in [(10, 16, 2), (300, 9, 3), (5000, 2, 2)] {
        let before = bed.metrics.journal.batch_records.get_sample_count();
        bed.memory.hold_syncs(FIRST_SEGMENT);
        with_appender(&journal, async |appender| {
            let first = {
                let appender = appender.clone();
                tokio::spawn(async move { appender.append(payload(0, 1)).await })
            };
            tokio::task::yield_now().await;
            wait_until("the first is being synced", || bed.memory.waiting_syncs() == 1);
            let mut tasks = JoinSet::new();
            for index in 0..count {
                let appender = appender.clone();
                tasks.spawn(async move { appender.append(payload(index, size)).await });
            }
            tokio::task::yield_now().await;
            bed.memory.release_syncs();
            assert!(tasks.join_all().await.iter().all(Result::is_ok));
            first.await.unwrap().unwrap();
        });
        assert_eq!(bed.metrics.journal.batch_records.get_sample_count() - before, 1 + batches, "{count} records of {size}");
    }
}

#[test]
fn what_the_writer_has_not_taken_is_withdrawn_when_dropped_or_too_late() {
    let mut bed = Bed::new();
    bed.config.answer_max = Duration::from_millis(20);
    let journal = bed.open_used();
    bed.memory.hold_syncs(FIRST_SEGMENT);
    with_appender(&journal, async |appender| {
        let taken = {
            let appender = appender.clone();
            tokio::spawn(async move { appender.append(b"taken".to_vec()).await })
        };
        tokio::task::yield_now().await;
        wait_until("the first is being synced", || bed.memory.waiting_syncs() == 1);
        let dropped = {
            let appender = appender.clone();
            tokio::spawn(async move { appender.append(b"dropped".to_vec()).await })
        };
        tokio::task::yield_now().await;
        dropped.abort();
        assert!(dropped.await.unwrap_err().is_cancelled());
        assert_eq!(appender.append(b"late".to_vec()).await, Err(AppendError::NotTakenInTime));
        bed.memory.release_syncs();
        assert_eq!(taken.await.unwrap(), Ok(Lsn::new(2)), "what was taken is answered, however late");
        assert_eq!(appender.append(b"next".to_vec()).await, Ok(Lsn::new(3)));
    });
    assert_eq!(read_all(&journal, Lsn::new(2)), records(2, &[b"taken".to_vec(), b"next".to_vec()]));
}

#[test]
fn what_is_dropped_between_others_is_not_written() {
    let bed = Bed::new();
    let journal = bed.open_used();
    bed.memory.hold_syncs(FIRST_SEGMENT);
    with_appender(&journal, async |appender| {
        let mut tasks = Vec::new();
        for text in ["taken", "before", "dropped", "after"] {
            let appender = appender.clone();
            tasks.push(tokio::spawn(async move { appender.append(text.as_bytes().to_vec()).await }));
            tokio::task::yield_now().await;
            wait_until("the first is being synced", || bed.memory.waiting_syncs() == 1);
        }
        tasks[2].abort();
        assert!(tasks.remove(2).await.unwrap_err().is_cancelled());
        bed.memory.release_syncs();
        for (task, lsn) in tasks.into_iter().zip(2..) {
            assert_eq!(task.await.unwrap(), Ok(Lsn::new(lsn)));
        }
    });
    let kept = ["first", "taken", "before", "after"].map(|text| text.as_bytes().to_vec());
    assert_eq!(read_all(&journal, Lsn::FIRST), records(1, &kept));
}

#[test]
fn a_segment_is_begun_in_an_order_that_survives_a_crash() {
    let bed = Bed::new();
    let journal = bed.open().journal;
    bed.memory.take_done();
    append(&journal, &payloads(1, 10));
    let done = bed.memory.take_done();
    let of_segment: Vec<Operation> =
        done.iter().filter(|(_, path)| path.to_string_lossy().contains(FIRST_SEGMENT)).map(|(operation, _)| *operation).collect();
    assert_eq!(of_segment, [Operation::Write, Operation::Sync, Operation::Rename, Operation::Write, Operation::Sync]);
    let renamed = done.iter().position(|entry| *entry == (Operation::Rename, bed.path(FIRST_SEGMENT))).unwrap();
    let first_frame = done
        .iter()
        .rposition(|(operation, path)| *operation == Operation::Write && path.to_string_lossy().contains(FIRST_SEGMENT))
        .unwrap();
    let of_folder = done[renamed..first_frame].iter().filter(|(operation, _)| *operation == Operation::SyncDir).count();
    assert!(of_folder >= 1, "{done:?}");
}

#[test]
fn what_was_taken_becomes_durable_even_if_nobody_waits_for_it() {
    let bed = Bed::new();
    let journal = bed.open_used();
    bed.memory.hold_syncs(FIRST_SEGMENT);
    with_appender(&journal, async |appender| {
        let gone = tokio::spawn(async move { appender.append(b"gone".to_vec()).await });
        tokio::task::yield_now().await;
        wait_until("it is being synced", || bed.memory.waiting_syncs() == 1);
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
    });
    bed.memory.release_syncs();
    wait_until("it is durable", || journal.durable_end() == Lsn::new(3));
    assert_eq!(bed.metrics.journal.durable_records.get(), 2);
}

#[test]
fn waiting_records_and_their_bytes_have_limits() {
    for (records_max, bytes_max) in [(2, 1000), (100, 12)] {
        let mut bed = Bed::new();
        bed.config.waiting_records_max = records_max;
        bed.config.waiting_bytes_max = bytes_max;
        let journal = bed.open_used();
        bed.memory.hold_syncs(FIRST_SEGMENT);
        with_appender(&journal, async |appender| {
            let mut tasks = JoinSet::new();
            let add = |tasks: &mut JoinSet<_>| {
                let appender = appender.clone();
                tasks.spawn(async move { appender.append(b"123456".to_vec()).await });
            };
            add(&mut tasks);
            tokio::task::yield_now().await;
            wait_until("the first is being synced", || bed.memory.waiting_syncs() == 1);
            add(&mut tasks);
            add(&mut tasks);
            tokio::task::yield_now().await;
            assert_eq!(appender.append(b"123456".to_vec()).await, Err(AppendError::TooManyWaiting));
            bed.memory.release_syncs();
            assert!(tasks.join_all().await.iter().all(Result::is_ok));
            assert!(appender.append(b"123456".to_vec()).await.is_ok());
        });
    }
}

#[test]
fn a_record_of_the_largest_size_is_taken_and_a_larger_one_is_not() {
    let bed = Bed::new();
    let journal = bed.open().journal;
    let largest = payload(1, bed.config.record_max);
    let sizes = [vec![], largest.clone(), largest.clone(), largest.clone(), vec![1]];
    assert!(append(&journal, &sizes).iter().all(Result::is_ok));
    assert_eq!(append(&journal, &[payload(1, bed.config.record_max + 1)]), [Err(AppendError::TooLarge)]);
    assert_eq!(read_all(&journal, Lsn::FIRST), records(1, &sizes));
    let again = bed.killed();
    assert_eq!(read_all(&again.open().journal, Lsn::FIRST), records(1, &sizes));
}

#[test]
fn short_writes_are_completed() {
    let bed = Bed::new();
    let journal = bed.open().journal;
    bed.memory.set_short_writes(7);
    let all = payloads(20, 100);
    append(&journal, &all);
    assert_eq!(read_all(&bed.killed().open().journal, Lsn::FIRST), records(1, &all));
}

#[test]
fn a_failed_write_or_sync_ends_the_journal_and_nothing_is_retried() {
    for operation in [Operation::Write, Operation::Sync] {
        let bed = Bed::new();
        let journal = bed.open().journal;
        append(&journal, &payloads(3, 50));
        let woken = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&woken);
        journal.watch(Arc::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        }));
        let segment = FIRST_SEGMENT;
        bed.memory.fail(operation, segment, 0, 1, ErrorKind::Other);
        let error = with_appender(&journal, async |appender| {
            assert_eq!(appender.append(payload(3, 50)).await, Err(AppendError::Failed));
            assert_eq!(appender.append(payload(4, 50)).await, Err(AppendError::Failed));
            journal.failed().await
        });
        assert_eq!(error.class(), Class::Io, "{error}");
        assert!(matches!(journal.state(), State::Failed(_)));
        assert_eq!(journal.durable_end(), Lsn::new(4));
        assert_eq!(bed.metrics.journal.durable_records.get(), 3);
        assert_eq!(bed.metrics.journal.failed.get(), 1);
        assert!(woken.load(Ordering::SeqCst) > 0);
        let (appender, driver) = journal.appender();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(driver.run());
        assert_eq!(runtime.block_on(appender.append(payload(5, 50))), Err(AppendError::Failed));
        assert!(matches!(journal.close(), Err(Error::Poisoned(_))));

        // Whether the fourth was durable is not known; the first three are.
        let again = bed.killed();
        let items = read_all(&again.open().journal, Lsn::FIRST);
        assert_eq!(items[..3], records(1, &payloads(3, 50)));
        assert!(items.len() <= 4);
    }
}

#[test]
fn a_batch_that_failed_answers_everyone_who_waited() {
    let bed = Bed::new();
    let journal = bed.open_used();
    bed.memory.hold_syncs(FIRST_SEGMENT);
    with_appender(&journal, async |appender| {
        let mut tasks = JoinSet::new();
        for index in 0..10 {
            let appender = appender.clone();
            tasks.spawn(async move { appender.append(payload(index, 100)).await });
            tokio::task::yield_now().await;
            if index == 0 {
                wait_until("the first is being synced", || bed.memory.waiting_syncs() == 1);
            }
        }
        bed.memory.fail(Operation::Sync, FIRST_SEGMENT, 0, 1, ErrorKind::Other);
        bed.memory.release_syncs();
        assert_eq!(tasks.join_all().await, vec![Err(AppendError::Failed); 10]);
    });
}

#[test]
fn a_checkpoint_that_fails_ends_the_journal_too() {
    for operation in [Operation::Write, Operation::Sync] {
        let bed = Bed::new();
        let journal = bed.open().journal;
        append(&journal, &payloads(1, 50));
        bed.memory.fail(operation, "checkpoint", 0, 1, ErrorKind::Other);
        journal.set_positions(Positions::at(Lsn::new(2)));
        wait_until("it has failed", || matches!(journal.state(), State::Failed(_)));
        assert_eq!(append(&journal, &payloads(1, 50)), [Err(AppendError::Failed)]);
    }
}

#[test]
fn positions_that_say_nothing_new_are_not_written_again() {
    let bed = Bed::new();
    let journal = bed.open_used();
    let bell = &journal.owner.shared.bell;
    let positions = Positions::at(Lsn::new(2));
    let hand_over = |positions: &Positions| {
        journal.set_positions(positions.clone());
        wait_until("the keeper has taken them", || !bell.has_advanced());
    };
    bed.memory.take_done();
    hand_over(&positions);
    wait_until("they are synced", || {
        bed.memory.take_done().iter().any(|(operation, path)| *operation == Operation::Sync && path.ends_with("checkpoint.new"))
    });
    let is_of_checkpoint = |(_, path): &(Operation, std::path::PathBuf)| path.to_string_lossy().contains("checkpoint");
    // By when the keeper takes the third, it is done with the second.
    for _ in 0..3 {
        hand_over(&positions);
    }
    assert_eq!(bed.memory.take_done().into_iter().filter(is_of_checkpoint).collect::<Vec<_>>(), []);
    hand_over(&Positions { sent_bound: Lsn::FIRST, ..positions });
    wait_until("something new is written", || bed.memory.take_done().iter().any(is_of_checkpoint));
}

#[test]
fn closing_makes_durable_what_waits_and_lets_nothing_more_in() {
    let bed = Bed::new();
    let journal = bed.open_used();
    bed.memory.hold_syncs(FIRST_SEGMENT);
    with_appender(&journal, async |appender| {
        let mut tasks = JoinSet::new();
        for index in 0..5 {
            let appender = appender.clone();
            tasks.spawn(async move { appender.append(payload(index, 100)).await });
            tokio::task::yield_now().await;
            if index == 0 {
                wait_until("the first is being synced", || bed.memory.waiting_syncs() == 1);
            }
        }
        let closing = std::thread::spawn({
            let journal = journal.clone();
            move || journal.close()
        });
        // The journal refuses from the moment that it is being closed.
        wait_until("it refuses", || {
            let refused = std::pin::pin!(appender.append(payload(9, 1)));
            let mut context = Context::from_waker(Waker::noop());
            refused.poll(&mut context) == Poll::Ready(Err(AppendError::Closed))
        });
        bed.memory.release_syncs();
        assert!(tasks.join_all().await.iter().all(Result::is_ok));
        closing.join().unwrap().unwrap();
    });
    assert!(matches!(journal.state(), State::Closed));
    assert_eq!(append(&journal, &payloads(1, 1)), [Err(AppendError::Closed)]);
    drop(journal);
    let opened = bed.open();
    assert_eq!(opened.report.start, Start::Clean);
    assert_eq!(opened.report.end, Lsn::new(7));
}

#[test]
fn a_journal_is_used_by_one_process_at_a_time() {
    let bed = Bed::new();
    let journal = bed.open().journal;
    let error = bed.try_open().expect_err("must be locked");
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    assert_eq!(error.class(), Class::Configuration);
    drop(journal);
    bed.open();
}

#[test]
fn two_event_loops_get_their_own_answers() {
    let bed = Bed::new();
    let journal = bed.open().journal;
    let threads: Vec<_> = (0..4)
        .map(|mailbox| {
            let journal = journal.clone();
            std::thread::spawn(move || {
                with_appender(&journal, async |appender| {
                    let mut tasks = JoinSet::new();
                    for index in 0..100 {
                        let appender = appender.clone();
                        tasks.spawn(async move { (index, appender.append(payload(mailbox * 1000 + index, 60)).await.unwrap()) });
                    }
                    tasks.join_all().await.into_iter().map(|(index, lsn)| (lsn, payload(mailbox * 1000 + index, 60))).collect::<Vec<_>>()
                })
            })
        })
        .collect();
    let mut expected: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    expected.sort();
    let items = read_all(&journal, Lsn::FIRST);
    assert_eq!(items, expected.iter().map(|(lsn, payload)| super::bed::record_at(lsn.get(), payload)).collect::<Vec<_>>());
    assert_eq!(items.len(), 400);
}

#[test]
fn a_reader_below_what_is_there_is_told_so() {
    let mut bed = Bed::new();
    bed.config.tail_bytes_max = 0;
    let journal = bed.open().journal;
    let all = payloads(400, 1000);
    append(&journal, &all[..200]);
    journal.set_positions(Positions::at(Lsn::new(201)));
    wait_until("a segment is freed", || !bed.names().contains(&format!("{:020}.segment", 1)));
    append(&journal, &all[200..202]);
    let items = read_all(&journal, Lsn::FIRST);
    let crate::journal::Item::Corrupt { to, .. } = items[0] else { panic!("must be told") };
    assert_eq!(items[0], corrupt(1, to.get()));
    assert_eq!(items.last(), records(202, &all[201..202]).last());
}

#[test]
fn limits_that_contradict_each_other_are_refused() {
    let mut bed = Bed::new();
    bed.config = Config { segment_size: 50 * 1024, ..bed.config };
    let error = bed.try_open().expect_err("must be refused");
    assert_eq!(error.class(), Class::Configuration);
    assert!(bed.memory.take_done().is_empty(), "nothing is touched");
}
