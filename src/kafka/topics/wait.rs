//! Waiting for a future on the calling thread: no runtime, so it works inside one too.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The future's output, or `None` where it takes longer.
pub(super) fn for_at_most<F: Future>(timeout: Duration, future: F) -> Option<F::Output> {
    let deadline = Instant::now() + timeout;
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return None;
        }
        thread::park_timeout(remaining);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_thread_completes_is_waited_for_even_inside_a_runtime() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let answer = runtime.block_on(async {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let thread = thread::spawn(move || sender.send(7));
            let answer = for_at_most(Duration::from_secs(30), receiver);
            thread.join().unwrap().unwrap();
            answer
        });
        assert_eq!(answer, Some(Ok(7)));
    }

    #[test]
    fn what_never_comes_is_not_waited_for() {
        assert_eq!(for_at_most(Duration::from_millis(1), std::future::pending::<()>()), None);
    }
}
