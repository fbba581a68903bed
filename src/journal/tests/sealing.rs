//! A sealed journal lets nothing in, and says when nothing is on its way any more.

use super::bed::{Bed, FIRST_SEGMENT, wait_until, with_appender};
use crate::journal::{AppendError, Lsn};

#[test]
fn a_sealed_journal_makes_durable_what_waits_and_is_still_only_after_that() {
    let bed = Bed::new();
    let journal = bed.open_used();
    bed.memory.hold_syncs(FIRST_SEGMENT);
    with_appender(&journal, async |appender| {
        let append = |text: &str| {
            let (appender, record) = (appender.clone(), text.as_bytes().to_vec());
            tokio::spawn(async move { appender.append(record).await })
        };
        let taken = append("taken");
        tokio::task::yield_now().await;
        wait_until("the first is being synced", || bed.memory.waiting_syncs() == 1);
        let still_with_one_in_hand = journal.is_still();
        let waits = append("waits");
        tokio::task::yield_now().await;
        journal.seal();
        let late = append("late");
        tokio::task::yield_now().await;
        let (still_with_one_waiting, end) = (journal.is_still(), journal.durable_end());
        // Nothing is asserted before, for a journal whose sync is held cannot end.
        bed.memory.release_syncs();

        assert_eq!(late.await.unwrap(), Err(AppendError::Sealed));
        assert_eq!((taken.await.unwrap(), waits.await.unwrap()), (Ok(Lsn::new(2)), Ok(Lsn::new(3))));
        assert_eq!((still_with_one_in_hand, still_with_one_waiting, end), (false, false, Lsn::new(2)));
        wait_until("it is still", || journal.is_still());
        assert_eq!(journal.durable_end(), Lsn::new(4));
        assert_eq!(appender.append(b"later".to_vec()).await, Err(AppendError::Sealed));
        assert!(journal.is_still());
        journal.unseal();
        assert_eq!(appender.append(b"again".to_vec()).await, Ok(Lsn::new(4)));
    });
}
