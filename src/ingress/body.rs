//! A request's body: its limits in bytes and in time, and its share of the memory for bodies.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, Incoming};
use tokio::time::Instant;

use super::refusal::{Refusal, Unanswered};

/// Bytes of bodies that may be in hand at once, shared by all event loops.
#[derive(Debug)]
pub(super) struct Budget {
    max: u64,
    used: AtomicU64,
}

impl Budget {
    pub(super) fn new(max: u64) -> Self {
        Self { max, used: AtomicU64::new(0) }
    }

    /// Bytes in hand now.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// A part of the budget, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Share {
    pub(super) fn none(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), bytes: 0 }
    }

    /// Grows by so many bytes.
    fn grow(&mut self, bytes: u64) -> Result<(), Refusal> {
        let before = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        self.bytes = self.bytes.saturating_add(bytes);
        // What does not fit is given back with the rest.
        if before.saturating_add(bytes) > self.budget.max { Err(Refusal::Bodies) } else { Ok(()) }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The limits of one body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) body_max: u64,
    pub(super) body_timeout: Duration,
}

/// Why a body was not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Refused(Refusal),
    Unanswered(Unanswered),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Whether the body is too large by what its head says.
pub(super) fn is_too_large(body: &Incoming, limits: Limits) -> bool {
    body.size_hint().lower() > limits.body_max
}

/// Reads the body. What came with the head is taken without a timer and without a copy.
///
/// The budget is charged before reading: with the whole length where the head tells it, else with each piece.
pub(super) async fn read(body: &mut Incoming, limits: Limits, share: &mut Share) -> Result<Bytes, Failure> {
    let length = body.size_hint().exact();
    share.grow(length.unwrap_or(0))?;
    let mut reader = Reader { limits, share, length, first: Bytes::new(), rest: BytesMut::new() };
    loop {
        if body.is_end_stream() {
            return Ok(reader.finish());
        }
        match poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await {
            Poll::Ready(Some(frame)) => reader.add(frame)?,
            Poll::Ready(None) => return Ok(reader.finish()),
            Poll::Pending => break,
        }
    }
    let deadline = Instant::now() + limits.body_timeout;
    let rest = async {
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            reader.add(frame)?;
        }
        Ok(reader.finish())
    };
    tokio::time::timeout_at(deadline, rest).await.unwrap_or(Err(Failure::Refused(Refusal::BodyTimeout)))
}

struct Reader<'a> {
    limits: Limits,
    share: &'a mut Share,
    length: Option<u64>,
    /// The first piece, which mostly is the whole.
    first: Bytes,
    /// All pieces, where there are several.
    rest: BytesMut,
}

impl Reader<'_> {
    fn add(&mut self, frame: Result<Frame<Bytes>, hyper::Error>) -> Result<(), Failure> {
        let frame = frame.map_err(|error| Failure::Unanswered(kind(&error)))?;
        // Trailers say nothing to us.
        let Ok(piece) = frame.into_data() else { return Ok(()) };
        if self.length.is_none() {
            let bytes = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            if self.share.bytes.saturating_add(bytes) > self.limits.body_max {
                return Err(Refusal::BodyTooLarge.into());
            }
            self.share.grow(bytes)?;
        }
        if self.rest.is_empty() && self.first.is_empty() {
            self.first = piece;
            return Ok(());
        }
        if self.rest.is_empty() {
            let length = self.length.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
            self.rest.reserve(length.max(self.first.len() + piece.len()));
            self.rest.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.rest.extend_from_slice(&piece);
        Ok(())
    }

    fn finish(&mut self) -> Bytes {
        if self.rest.is_empty() { std::mem::take(&mut self.first) } else { std::mem::take(&mut self.rest).freeze() }
    }
}

/// What a body that ended in an error was: chunks that cannot be read, or a sender that hung up.
fn kind(error: &hyper::Error) -> Unanswered {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    match source.map(std::io::Error::kind) {
        Some(std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData) => Unanswered::NotHttp,
        Some(_) | None => Unanswered::BodyIncomplete,
    }
}

/// Whether a body is read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remainder {
    /// The connection can go on with the next request.
    Nothing,
    /// It cannot.
    Unread,
}

/// Throws away what has already arrived of a refused request's body, without waiting for more, so that a refusal need not cost the connection.
pub(super) async fn discard_arrived(body: &mut Incoming, limits: Limits) -> Remainder {
    if is_too_large(body, limits) {
        return Remainder::Unread;
    }
    let mut discarded = 0_u64;
    let mut progress = Progress::Some;
    poll_fn(|cx| {
        loop {
            if body.is_end_stream() {
                return Poll::Ready(Remainder::Nothing);
            }
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(None) => return Poll::Ready(Remainder::Nothing),
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Remainder::Unread),
                Poll::Ready(Some(Ok(frame))) => {
                    let bytes = frame.data_ref().map_or(0, Bytes::len);
                    discarded = discarded.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
                    progress = Progress::Some;
                    if discarded > limits.body_max {
                        return Poll::Ready(Remainder::Unread);
                    }
                }
                Poll::Pending => {
                    // hyper hands over one piece a turn: give it another turn for as long as that brings one.
                    return match std::mem::replace(&mut progress, Progress::None) {
                        Progress::None => Poll::Ready(Remainder::Unread),
                        Progress::Some => {
                            cx.waker().wake_by_ref();
                            Poll::Pending
                        }
                    };
                }
            }
        }
    })
    .await
}

#[derive(Clone, Copy)]
enum Progress {
    Some,
    None,
}
