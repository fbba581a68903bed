//! One event loop's access to the queue: its appends, the mailbox of their answers, and the driver that wakes them there.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::lsn::Lsn;
use super::queue::Queue;
use super::slot::{AppendError, Slot, Stage};
use super::sync::lock;

/// Answered slots of one event loop, on their way back.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    back: Mutex<Back>,
}

#[derive(Debug, Default)]
struct Back {
    ready: Vec<Arc<Slot>>,
    driver: Option<Waker>,
    ended: bool,
}

/// The two halves of one event loop's access.
pub(super) fn appender(queue: &Arc<Queue>) -> (Appender, MailboxDriver) {
    let (number, mailbox) = queue.add_mailbox();
    (Appender { queue: Arc::clone(queue), mailbox: number }, MailboxDriver { queue: Arc::clone(queue), mailbox })
}

/// Appends from one event loop. Cheap to clone.
#[derive(Clone)]
pub struct Appender {
    queue: Arc<Queue>,
    mailbox: usize,
}

impl fmt::Debug for Appender {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Appender").field("mailbox", &self.mailbox).finish_non_exhaustive()
    }
}

impl Appender {
    /// Resolves when the record is durable, with its LSN. Needs its [`MailboxDriver`] to run.
    ///
    /// Cancel safe: where it is dropped before the writer has taken the record, the record is withdrawn and never becomes durable; after that, it
    /// becomes durable all the same.
    pub async fn append(&self, record: Vec<u8>) -> Result<Lsn, AppendError> {
        let slot = self.queue.push(self.mailbox, record)?;
        Answer { slot }.await
    }
}

/// Waits for one slot's answer; withdraws it when dropped before the writer has taken it.
struct Answer {
    slot: Arc<Slot>,
}

impl Future for Answer {
    type Output = Result<Lsn, AppendError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(answer) = self.slot.answer() {
            return Poll::Ready(answer);
        }
        self.slot.wake_by(context.waker());
        self.slot.answer().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.slot.settle(Stage::Withdrawn);
    }
}

/// Wakes the appends of one event loop, and withdraws those that have waited too long.
pub struct MailboxDriver {
    queue: Arc<Queue>,
    mailbox: Arc<Mailbox>,
}

impl fmt::Debug for MailboxDriver {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("MailboxDriver").finish_non_exhaustive()
    }
}

impl MailboxDriver {
    /// How late after `answer_max` an append is withdrawn at most.
    const SWEEP_INTERVAL_MAX: Duration = Duration::from_millis(50);
    const SWEEP_INTERVAL_MIN: Duration = Duration::from_millis(1);

    /// Spawn it on the event loop of its [`Appender`], in a Tokio runtime with time enabled. It ends once the journal is closed or has failed and
    /// every append has its answer.
    pub async fn run(self) {
        let interval = (self.queue.answer_max() / 4).clamp(Self::SWEEP_INTERVAL_MIN, Self::SWEEP_INTERVAL_MAX);
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ready = Vec::new();
        loop {
            tokio::select! {
                biased;
                more = poll_fn(|context| self.mailbox.poll_ready(context, &mut ready)) => {
                    for slot in ready.drain(..) {
                        slot.wake();
                    }
                    if more == More::No {
                        return;
                    }
                }
                _ = ticks.tick() => self.queue.sweep(Instant::now()),
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    Yes,
    No,
}

impl Mailbox {
    /// Hands over answered slots, and wakes the driver. A mailbox that has ended may have none any more: there, the slots are woken here.
    pub(super) fn give(&self, slots: &mut Vec<Arc<Slot>>) {
        let mut back = lock(&self.back);
        if back.ended {
            drop(back);
            for slot in slots.drain(..) {
                slot.wake();
            }
            return;
        }
        back.ready.append(slots);
        let driver = back.driver.take();
        drop(back);
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// Nothing comes after what was handed over, but for what was refused at the same time.
    pub(super) fn end(&self) {
        let mut back = lock(&self.back);
        back.ended = true;
        let driver = back.driver.take();
        drop(back);
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    fn poll_ready(&self, context: &Context<'_>, ready: &mut Vec<Arc<Slot>>) -> Poll<More> {
        let mut back = lock(&self.back);
        if !back.ready.is_empty() {
            std::mem::swap(&mut back.ready, ready);
            return Poll::Ready(More::Yes);
        }
        if back.ended {
            return Poll::Ready(More::No);
        }
        match back.driver.as_ref() {
            Some(driver) if driver.will_wake(context.waker()) => {}
            Some(_) | None => back.driver = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn what_is_given_to_a_mailbox_that_has_ended_is_woken_without_its_driver() {
        let mailbox = Mailbox::default();
        mailbox.end();
        let driver = Waker::noop();
        assert_eq!(mailbox.poll_ready(&Context::from_waker(driver), &mut Vec::new()), Poll::Ready(More::No), "the driver ends");
        let count = Arc::new(Count::default());
        let slot = Arc::new(Slot::new(0));
        slot.wake_by(&Waker::from(Arc::clone(&count)));
        assert!(slot.settle(Stage::Refused(AppendError::Failed)));
        let mut slots = vec![slot];
        mailbox.give(&mut slots);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(slots.is_empty());
    }
}
