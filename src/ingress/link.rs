//! One connection's I/O, which knows in what phase the connection is.
//!
//! hyper's own header timeout starts when a request is awaited, not when it begins, so that on a kept-alive connection it cannot be told from an idle
//! timeout. Here the phase follows from the bytes: the first one of a request ends the idle time, hyper's call of the service ends the head. No
//! timer belongs to a connection: each event loop sweeps all of its links ([`LinkState::sweep`]) by one interval, against a coarse clock of its own.
//!
//! What stays undecided: the beginning of a request that came in one read with the request before it counts as idle time until more of it arrives.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// How long we read on after the last answer of a connection, so that what its sender still sends does not reset the connection before the sender
/// has read that answer. Chat itself gives up after 2 s.
const LINGER_MAX: Duration = Duration::from_secs(2);

/// How much is thrown away in one turn of the event loop by a connection that lingers.
const LINGER_READS_A_TURN: u32 = 16;

/// An event loop's time, as of its last sweep: enough to tell seconds, and free to read.
#[derive(Debug)]
pub(super) struct CoarseClock {
    start: Instant,
    elapsed: Cell<Duration>,
    /// How often it moves.
    pub(super) tick: Duration,
}

impl CoarseClock {
    pub(super) fn new(tick: Duration) -> Self {
        Self { start: Instant::now(), elapsed: Cell::new(Duration::ZERO), tick }
    }

    pub(super) fn advance(&self) {
        self.elapsed.set(self.start.elapsed());
    }

    /// Whether `limit` is over since `then`. Never early: what was read of this clock may be a tick old.
    fn over(&self, then: Duration, limit: Duration) -> bool {
        self.elapsed.get().saturating_sub(then) >= limit.saturating_add(self.tick)
    }
}

/// What a connection is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// TLS is agreed upon.
    Handshake,
    /// Nothing of a request has arrived since the last answer.
    Idle,
    /// A request has begun, and its head has not ended.
    Head,
    /// A request is in hand: its body is read, or its answer awaited.
    Request,
    /// The last answer is out, and what still arrives is thrown away.
    Closing,
}

/// Whether the sender may still be sending when the connection's last answer goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nothing is known to be on its way.
    Quiet,
    /// The answer tells the sender to close, or leaves a part of its request unread.
    Lingering,
}

/// What the connection's task is to do with it when it is next polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Close after the request in hand; at once where there is none.
    Finish,
    /// Close: a limit is over.
    Abandon(Overdue),
}

/// The limit of a connection that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// `http.header_timeout`, which bounds the handshake of TLS too.
    Head,
    /// `http.idle_timeout`.
    Idle,
}

/// The limits that [`LinkState::sweep`] knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) header_timeout: Duration,
    pub(super) idle_timeout: Duration,
}

/// What the connection's task, its service, its I/O and its event loop's sweep share.
#[derive(Debug)]
pub(super) struct LinkState {
    clock: Rc<CoarseClock>,
    phase: Cell<Phase>,
    /// When the phase began.
    since: Cell<Duration>,
    ending: Cell<Ending>,
    order: Cell<Option<Order>>,
    waker: RefCell<Option<Waker>>,
}

impl LinkState {
    pub(super) fn new(clock: Rc<CoarseClock>) -> Self {
        let since = Cell::new(clock.elapsed.get());
        Self {
            clock,
            phase: Cell::new(Phase::Idle),
            since,
            ending: Cell::new(Ending::Quiet),
            order: Cell::new(None),
            waker: RefCell::new(None),
        }
    }

    /// TLS is to be agreed upon, before anything else.
    pub(super) fn handshake_begins(&self) {
        self.enter(Phase::Handshake);
    }

    /// It is agreed upon.
    pub(super) fn handshake_ends(&self) {
        self.enter(Phase::Idle);
    }

    /// A request's head is complete.
    pub(super) fn request_begins(&self) {
        self.enter(Phase::Request);
    }

    /// A request's answer is ready.
    pub(super) fn request_ends(&self, ending: Ending) {
        self.ending.set(ending);
        self.enter(Phase::Idle);
    }

    /// Whether a request has begun whose head has not ended.
    pub(super) fn is_in_head(&self) -> bool {
        self.phase.get() == Phase::Head
    }

    /// Whether a request is in hand.
    pub(super) fn is_in_request(&self) -> bool {
        self.phase.get() == Phase::Request
    }

    /// Gives the connection's task an order, and wakes it.
    pub(super) fn give(&self, order: Order) {
        self.order.set(Some(order));
        self.wake();
    }

    /// The order that has not been carried out, for the connection's task, which `waker` wakes for the next one.
    pub(super) fn take_order(&self, waker: &Waker) -> Option<Order> {
        let mut kept = self.waker.borrow_mut();
        match &mut *kept {
            Some(kept) => kept.clone_from(waker),
            None => *kept = Some(waker.clone()),
        }
        self.order.take()
    }

    /// Ends what has taken too long.
    pub(super) fn sweep(&self, limits: Limits) {
        let over = |limit| self.clock.over(self.since.get(), limit);
        match self.phase.get() {
            Phase::Handshake | Phase::Head if over(limits.header_timeout) => self.give(Order::Abandon(Overdue::Head)),
            // An answer that its sender does not take ends here too: it is no request.
            Phase::Idle if over(limits.idle_timeout) => self.give(Order::Abandon(Overdue::Idle)),
            // The I/O looks at the clock itself.
            Phase::Closing => self.wake(),
            // The body has a timer of its own, the journal its own limit.
            Phase::Handshake | Phase::Head | Phase::Idle | Phase::Request => {}
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(self.clock.elapsed.get());
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// A connection's bytes, in the clear once they are here.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// The I/O that hyper reads and writes.
#[derive(Debug)]
pub(super) struct Link {
    stream: Stream,
    state: Rc<LinkState>,
    /// The sender has sent all that it will.
    read_closed: bool,
    write_closed: bool,
}

impl Link {
    pub(super) fn new(stream: Stream, state: Rc<LinkState>) -> Self {
        Self { stream, state, read_closed: false, write_closed: false }
    }

    /// Reads and throws away until the sender closes, [`LINGER_MAX`] is over, or nothing more can come.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 4096];
        for _ in 0..LINGER_READS_A_TURN {
            if self.state.clock.over(self.state.since.get(), LINGER_MAX) {
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                // The end, or a connection that is broken already.
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let read = buffer.filled().get(before..).unwrap_or_default();
        if read.is_empty() {
            self.read_closed = true;
        } else if self.state.phase.get() == Phase::Idle && !is_blank(read) {
            self.state.enter(Phase::Head);
        }
        Poll::Ready(Ok(()))
    }
}

/// Whether it is one or two line ends and nothing else, which a sender may put between two requests (RFC 9112, 2.2).
fn is_blank(read: &[u8]) -> bool {
    read.len() <= 4 && read.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.write_closed {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.write_closed = true;
            // hyper itself has answered a head that it cannot read; an answer of ours says for itself how it ends.
            let lingers = self.state.phase.get() == Phase::Head || self.state.ending.get() == Ending::Lingering;
            if self.read_closed || !lingers {
                return Poll::Ready(Ok(()));
            }
            self.state.enter(Phase::Closing);
        }
        self.poll_linger(cx).map(Ok)
    }
}
