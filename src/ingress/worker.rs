//! One event loop: a thread with its own share of the connections, its own handler and its own appender of the journal.
//!
//! A callback stays on its event loop but for the journal's writer. Nothing here blocks.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_rustls::TlsAcceptor;

use super::Heartbeat;
use super::handler::{Handler, Shared};
use super::link::{self, CoarseClock, Link, LinkState, Order, Overdue, Stream};
use super::refusal::Unanswered;
use super::server::{Acceptor, Arrival};
use crate::config;
use crate::journal::Journal;

/// How often an event loop says that it turns.
const HEARTBEAT_PERIOD: Duration = Duration::from_secs(1);

/// How often an event loop looks for connections that take too long; more often where a limit is shorter.
const SWEEP_PERIOD_MAX: Duration = Duration::from_millis(250);
const SWEEP_PERIOD_MIN: Duration = Duration::from_millis(10);

/// hyper's smallest read buffer. The head has a limit of its own, so that this does not bound it.
const READ_BUFFER_MIN: usize = 64 * 1024;

/// What an event loop needs of the configuration for its connections.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    limits: link::Limits,
    header_max: usize,
}

impl Settings {
    pub(super) fn new(http: &config::Http) -> Self {
        let limits = link::Limits { header_timeout: http.header_timeout.get(), idle_timeout: http.idle_timeout.get() };
        Self { limits, header_max: http.header_max.len() }
    }

    fn sweep_period(&self) -> Duration {
        let shortest = self.limits.header_timeout.min(self.limits.idle_timeout);
        (shortest / 4).clamp(SWEEP_PERIOD_MIN, SWEEP_PERIOD_MAX)
    }

    fn builder(&self) -> http1::Builder {
        let mut builder = http1::Builder::new();
        builder
            // A sender that closes its side after its request still gets its answer.
            .half_close(true)
            // Ours: hyper's begins when a request is awaited, not when it begins.
            .header_read_timeout(None)
            .max_header_size(self.header_max)
            .max_buf_size(self.header_max.max(READ_BUFFER_MIN));
        builder
    }
}

/// Everything that an event loop begins with.
pub(super) struct Beginning {
    pub(super) index: usize,
    pub(super) settings: Settings,
    pub(super) shared: Shared,
    pub(super) journal: Journal,
    pub(super) arrivals: mpsc::Receiver<Arrival>,
    /// One event loop accepts for all.
    pub(super) acceptor: Option<Acceptor>,
    pub(super) heartbeat: Heartbeat,
}

/// How an event loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Connections whose request was in hand when the deadline was over.
    pub(super) abandoned: usize,
}

/// Runs an event loop on the runtime on which it is called, until a stop is over. All that it owns ends with the runtime.
pub(super) async fn run(beginning: Beginning) -> io::Result<Ended> {
    let Beginning { index, settings, shared, journal, mut arrivals, acceptor, heartbeat } = beginning;
    let (appender, driver) = journal.appender();
    let mut deadline = shared.lifecycle.deadline();
    let worker = Rc::new(Worker {
        clock: Rc::new(CoarseClock::new(settings.sweep_period())),
        builder: settings.builder(),
        settings,
        handler: Handler::new(shared.clone(), journal, appender),
        shared,
        links: RefCell::default(),
        gone: Notify::new(),
    });
    // The journal's failure is the journal's to report: the end of its mailbox is none of ours.
    let mut driver = Owned(Some(tokio::task::spawn_local(async move {
        driver.run().await;
        Ok(())
    })));
    let mut acceptor = Owned(acceptor.map(|acceptor| tokio::task::spawn_local(acceptor.run())));
    let mut sweep = interval(worker.clock.tick);
    let mut heart = interval(HEARTBEAT_PERIOD);
    let deadline = loop {
        tokio::select! {
            deadline = until(&mut deadline) => break deadline,
            Some(arrival) = arrivals.recv() => worker.begin(arrival),
            _ = sweep.tick() => worker.sweep(),
            _ = heart.tick() => heartbeat(index),
            ended = driver.ended() => ended?,
            ended = acceptor.ended() => ended?,
        }
    };
    // What no event loop has looked at was never in hand.
    drop(arrivals);
    worker.finish();
    let mut over = pin!(tokio::time::sleep_until(deadline));
    while !worker.links.borrow().all.is_empty() {
        tokio::select! {
            () = &mut over => break,
            () = worker.gone.notified() => {}
            _ = sweep.tick() => worker.sweep(),
            _ = heart.tick() => heartbeat(index),
            ended = driver.ended() => ended?,
        }
    }
    Ok(Ended { abandoned: worker.links.borrow().all.values().filter(|link| link.is_in_request()).count() })
}

/// Resolves when a stop begins, with the deadline of its end. Cancel safe.
async fn until(deadline: &mut watch::Receiver<Option<Instant>>) -> Instant {
    let begun = deadline.wait_for(Option::is_some).await;
    // Where the sender is gone there is nobody left to serve for.
    begun.ok().and_then(|deadline| *deadline).unwrap_or_else(Instant::now)
}

fn interval(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// A task of the event loop's own, whose panic is the event loop's failure.
struct Owned(Option<JoinHandle<io::Result<()>>>);

impl Owned {
    /// Resolves once when the task ends. Cancel safe.
    async fn ended(&mut self) -> io::Result<()> {
        let Some(task) = &mut self.0 else { return std::future::pending().await };
        let ended = task.await;
        self.0 = None;
        ended.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

struct Worker {
    clock: Rc<CoarseClock>,
    builder: http1::Builder,
    settings: Settings,
    handler: Handler,
    shared: Shared,
    links: RefCell<Links>,
    /// Told when a connection has ended.
    gone: Notify,
}

/// The event loop's connections.
#[derive(Default)]
struct Links {
    all: HashMap<u64, Rc<LinkState>>,
    next: u64,
}

/// A connection's entry in [`Links`], taken out when it is dropped.
struct Entry {
    worker: Rc<Worker>,
    key: u64,
}

impl Entry {
    fn new(worker: &Rc<Worker>, link: &Rc<LinkState>) -> Self {
        let mut links = worker.links.borrow_mut();
        let key = links.next;
        links.next += 1;
        links.all.insert(key, Rc::clone(link));
        Self { worker: Rc::clone(worker), key }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.worker.links.borrow_mut().all.remove(&self.key);
        self.worker.gone.notify_one();
    }
}

impl Worker {
    fn begin(self: &Rc<Self>, arrival: Arrival) {
        let link = Rc::new(LinkState::new(Rc::clone(&self.clock)));
        let entry = Entry::new(self, &link);
        // Owned by the runtime: it ends by itself, by its order, or with the runtime.
        drop(tokio::task::spawn_local(serve(entry, link, arrival)));
    }

    fn sweep(&self) {
        self.clock.advance();
        for link in self.links.borrow().all.values() {
            link.sweep(self.settings.limits);
        }
        self.shared.metrics.bodies_bytes.set(i64::try_from(self.shared.budget.used()).unwrap_or(i64::MAX));
    }

    fn finish(&self) {
        for link in self.links.borrow().all.values() {
            link.give(Order::Finish);
        }
    }
}

/// How a connection ended.
enum End {
    Served(hyper::Result<()>),
    Overdue(Overdue),
    NoTls(NoTls),
}

/// How a connection ended before TLS was agreed upon.
enum NoTls {
    /// It was opened and closed, by a reset perhaps, as load balancers do to see whether anybody is there; or a stop has ended it.
    Unused,
    /// They did not agree, or not in time.
    Failed,
}

/// Serves one connection to its end.
async fn serve(entry: Entry, link: Rc<LinkState>, arrival: Arrival) {
    let Arrival { stream, peer, place } = arrival;
    let worker = &entry.worker;
    let metrics = &worker.shared.metrics;
    let Ok(stream) = register(stream) else {
        metrics.accept_errors.inc();
        return;
    };
    let end = exchange(worker, &link, stream, peer).await;
    let unanswered = match end {
        End::NoTls(NoTls::Failed) => Some(Unanswered::Tls),
        End::Overdue(Overdue::Head) => Some(Unanswered::NotHttp),
        End::NoTls(NoTls::Unused) | End::Overdue(Overdue::Idle) | End::Served(Ok(())) => None,
        End::Served(Err(error)) => (error.is_parse() || link.is_in_head()).then_some(Unanswered::NotHttp),
    };
    if let Some(unanswered) = unanswered {
        metrics.refused(unanswered.reason()).inc();
    }
    drop(place);
}

fn register(stream: std::net::TcpStream) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(stream)?;
    // An answer is one write: nothing is gained by waiting for more.
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn exchange(worker: &Worker, link: &Rc<LinkState>, stream: TcpStream, peer: SocketAddr) -> End {
    let stream = match &worker.shared.tls {
        None => Stream::Plain(stream),
        Some(tls) => match handshake(link, tls.acceptor(), stream).await {
            Ok(stream) => stream,
            Err(end) => return End::NoTls(end),
        },
    };
    let handler = &worker.handler;
    let service = service_fn(|request| handler.handle(link, peer.ip(), request));
    let io = TokioIo::new(Link::new(stream, Rc::clone(link)));
    let mut connection = pin!(worker.builder.serve_connection(io, service));
    std::future::poll_fn(|cx| {
        match link.take_order(cx.waker()) {
            Some(Order::Finish) => connection.as_mut().graceful_shutdown(),
            Some(Order::Abandon(overdue)) => return Poll::Ready(End::Overdue(overdue)),
            None => {}
        }
        connection.as_mut().poll(cx).map(End::Served)
    })
    .await
}

/// Agrees upon TLS.
async fn handshake(link: &LinkState, acceptor: TlsAcceptor, stream: TcpStream) -> Result<Stream, NoTls> {
    link.handshake_begins();
    match unless_ordered(link, stream.peek(&mut [0])).await? {
        Ok(0) | Err(_) => return Err(NoTls::Unused),
        Ok(_) => {}
    }
    let stream = unless_ordered(link, acceptor.accept(stream)).await?.map_err(|_| NoTls::Failed)?;
    link.handshake_ends();
    Ok(Stream::Tls(Box::new(stream)))
}

/// What a step of the handshake comes to, unless an order ends it before.
async fn unless_ordered<T>(link: &LinkState, step: impl Future<Output = T>) -> Result<T, NoTls> {
    let mut step = pin!(step);
    std::future::poll_fn(|cx| match link.take_order(cx.waker()) {
        // Nothing is in hand yet: a stop closes it at once.
        Some(Order::Finish) => Poll::Ready(Err(NoTls::Unused)),
        Some(Order::Abandon(_)) => Poll::Ready(Err(NoTls::Failed)),
        None => step.as_mut().poll(cx).map(Ok),
    })
    .await
}
