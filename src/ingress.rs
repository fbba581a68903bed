//! The public HTTP side: takes callbacks, refuses what is none of ours, and answers with success only once the journal has made a callback durable.
//!
//! Owns the listener, the connections, every limit of `[http]`, the check of app, source and signature, and all answers. It does not know that Kafka
//! exists, does not read a body but for its command, and promises of every request exactly one outcome, counted by its reason.
//!
//! Each event loop is a thread with a single-threaded runtime and its own share of the connections (`worker`). One of them accepts for all
//! (`server`). A connection's limits in time follow from what its I/O sees (`link`), and a request's way through is one function (`handler`).
//! Absent on purpose: HTTP/2, timers of single connections, and any answer that is not fixed in advance.

mod authentication;
mod body;
mod handler;
mod lifecycle;
mod link;
mod parameters;
mod refusal;
mod server;
mod source;
mod tls;
mod tokens;
mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::mpsc::{self as blocking, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub use authentication::{Strangers, TokensError};
pub use lifecycle::Intake;
pub use refusal::{Refusal, Unanswered};
pub use tls::{Problem as TlsProblem, Tls};
pub use tokens::Problem as TokensProblem;

use crate::clock::Clock;
use crate::config;
use crate::journal::Journal;
use crate::metrics;
use crate::traces::Tracer;
use authentication::Apps;
use body::Budget;
use handler::{Policy, Shared};
use lifecycle::Lifecycle;
use server::{Acceptor, Connections, Door, Reception};
use worker::{Beginning, Settings};

/// How often the files of tokens and of TLS are compared: soon enough for a rotation that keeps both tokens for a minute, and cheap.
pub const FILES_PERIOD: Duration = Duration::from_secs(5);

/// Why the ingress does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The public port cannot be had.
    #[error("listen on {address}")]
    Listen {
        /// `http.listen`.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// An app's tokens file is of no use; a fault of the configuration.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The files of `[http.tls]` are of no use; a fault of the configuration.
    #[error("use the files of http.tls")]
    Tls(#[from] TlsProblem),
    /// A thread or its event loop cannot be made.
    #[error("start a thread")]
    Thread(#[source] io::Error),
}

/// A thread of the ingress that ended although nobody had asked for it: by a panic, or because its event loop broke.
#[derive(Clone, Debug, thiserror::Error)]
#[error("keep {thread} running")]
pub struct Failure {
    /// The thread's name.
    pub thread: String,
    /// What is known of it; a panic has said so itself.
    #[source]
    pub source: Option<Arc<io::Error>>,
}

/// How a stop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Every request in hand was answered.
    Clean,
    /// The time was over with so many requests still in hand; their connections are closed.
    Abandoned(usize),
    /// So many threads did not end.
    Stuck(usize),
}

/// Called every second by each event loop with its number, from 0. It must not block.
pub type Heartbeat = Arc<dyn Fn(usize) + Send + Sync>;

/// The largest record that the ingress asks the journal to keep: the largest head and the largest body.
///
/// A record holds the command beside the query that it stands in, so a query that is mostly a command of many KiB could make a larger one beside a
/// body of the largest size: that one is refused as too large.
#[must_use]
pub fn record_max(http: &config::Http) -> usize {
    http.header_max.len().saturating_add(http.body_max.len())
}

/// Looks at the apps' tokens files as a start would.
///
/// # Errors
/// Of the first that is of no use.
pub fn check_tokens(config: &config::Config) -> Result<(), TokensError> {
    Apps::new(config, Strangers::Refused).map(drop)
}

/// What the ingress works with.
pub struct Setup {
    /// How many event loops: as many as there are cores, mostly.
    pub workers: NonZeroUsize,
    /// Where callbacks become durable.
    pub journal: Journal,
    /// What it counts.
    pub metrics: metrics::Ingress,
    /// The time by which `RequestTime` is judged and receipts are stamped.
    pub clock: Clock,
    /// How the event loops say that they turn.
    pub heartbeat: Heartbeat,
    /// Who records its spans; none where nobody does.
    pub tracer: Option<Tracer>,
}

/// The public port, bound, with nobody accepting yet; and the policy, read. Connections wait in the backlog.
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    policy: Policy,
    tls: Option<Arc<Tls>>,
    http: config::Http,
}

impl Bound {
    /// Where callbacks arrive: the port that the system chose where the configuration says 0.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Starts the event loops.
    pub fn serve(self, setup: Setup) -> Result<Ingress, Error> {
        let Self { listener, address, policy, tls, http } = self;
        let Setup { workers, journal, metrics, clock, heartbeat, tracer } = setup;
        metrics.connections_max.set(i64::from(http.connections_max));
        metrics.bodies_max_bytes.set(i64::try_from(http.bodies_max.bytes()).unwrap_or(i64::MAX));
        let lifecycle = Arc::new(Lifecycle::new());
        let shared = Shared {
            policy: Arc::new(policy),
            tls,
            budget: Arc::new(Budget::new(http.bodies_max.bytes())),
            lifecycle: Arc::clone(&lifecycle),
            clock,
            metrics: metrics.clone(),
            tracer,
        };
        let (doors, arrivals): (Vec<_>, Vec<_>) = (0..workers.get()).map(|_| mpsc::channel(server::ARRIVALS_MAX)).unzip();
        let reception = Reception {
            doors: doors.into_iter().map(Door::new).collect(),
            connections: Arc::new(Connections::new(http.connections_max, metrics.clone())),
            metrics: metrics.clone(),
        };
        let mut acceptor = Some(Acceptor { listener, lifecycle: Arc::clone(&lifecycle), reception });
        let (files_watch, files_stop) = blocking::channel();
        let ingress =
            Ingress { address, lifecycle, threads: watch::Sender::new(Threads::default()), files_watch: Mutex::new(Some(files_watch)) };
        if let Some(tls) = &shared.tls {
            tls.show(&metrics);
        }
        if shared.policy.apps.have_tokens() || shared.tls.is_some() {
            let shared = shared.clone();
            ingress.spawn("files".to_owned(), move || {
                watch_files(&shared, &files_stop);
                Ok(0)
            })?;
        }
        for (index, arrivals) in arrivals.into_iter().enumerate() {
            let beginning = Beginning {
                index,
                settings: Settings::new(&http),
                shared: shared.clone(),
                journal: journal.clone(),
                arrivals,
                acceptor: acceptor.take(),
                heartbeat: Arc::clone(&heartbeat),
            };
            ingress.spawn(format!("ingress-{index}"), move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build_local(tokio::runtime::LocalOptions::default())?;
                Ok(runtime.block_on(worker::run(beginning))?.abandoned)
            })?;
        }
        Ok(ingress)
    }
}

/// Compares the files of tokens and of TLS until nobody holds the other end of `stop`. Reads files, so it has a thread of its own.
fn watch_files(shared: &Shared, stop: &blocking::Receiver<()>) {
    while stop.recv_timeout(FILES_PERIOD) == Err(RecvTimeoutError::Timeout) {
        shared.policy.apps.refresh_tokens(&shared.metrics.tokens_reload_failures);
        if let Some(tls) = &shared.tls {
            tls.refresh(&shared.metrics);
        }
    }
}

/// The threads of an ingress.
#[derive(Debug, Default)]
struct Threads {
    running: usize,
    abandoned: usize,
    failure: Option<Failure>,
}

/// Reports the end of a thread, a panic too, after everything that the thread owned is dropped.
struct Farewell {
    thread: String,
    threads: watch::Sender<Threads>,
    ended: Option<io::Result<usize>>,
}

impl Farewell {
    fn end(&mut self, ended: io::Result<usize>) {
        self.ended = Some(ended);
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        let mut failure = |source| Failure { thread: std::mem::take(&mut self.thread), source };
        let ended = match self.ended.take() {
            Some(Ok(abandoned)) => Ok(abandoned),
            Some(Err(error)) => Err(failure(Some(Arc::new(error)))),
            None => Err(failure(None)),
        };
        self.threads.send_modify(|threads| {
            threads.running -= 1;
            match ended {
                Ok(abandoned) => threads.abandoned += abandoned,
                Err(failure) => drop(threads.failure.get_or_insert(failure)),
            }
        });
    }
}

/// How much later than its deadline a stop may be over before a thread is taken for stuck.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// The running ingress. Dropped without a stop, its threads end by themselves and abandon what is in hand.
pub struct Ingress {
    address: SocketAddr,
    lifecycle: Arc<Lifecycle>,
    threads: watch::Sender<Threads>,
    files_watch: Mutex<Option<blocking::Sender<()>>>,
}

impl Ingress {
    /// Reads the files of tokens and of TLS, and binds the public port: all that a start can fail by before anything serious has begun.
    pub fn bind(config: &config::Config, strangers: Strangers) -> Result<Bound, Error> {
        let policy = Policy::new(config, Apps::new(config, strangers)?);
        let tls = config.http.tls.as_ref().map(Tls::open).transpose()?.map(Arc::new);
        let listen = |source| Error::Listen { address: config.http.listen, source };
        let listener = server::bind(&config.http).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Bound { listener, address, policy, tls, http: config.http.clone() })
    }

    /// Where callbacks arrive.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// From now on each answer says `Connection: close`, so that senders go elsewhere; callbacks are still accepted.
    pub fn lame_duck(&self) {
        self.lifecycle.lame_duck();
    }

    /// What becomes of requests, as long as no stop has come further.
    pub fn set_intake(&self, intake: Intake) {
        self.lifecycle.set_intake(intake);
    }

    /// Accepts no more connections, closes the idle ones, refuses new requests, answers what is in hand, and resolves when all are gone and every
    /// thread has ended, or soon after `within`. Cancel safe: the stop goes on.
    pub async fn stop(&self, within: Duration) -> Stopped {
        let deadline = Instant::now() + within;
        self.begin_stop(deadline);
        let mut threads = self.threads.subscribe();
        let ended = tokio::time::timeout_at(deadline + STOP_GRACE, threads.wait_for(|threads| threads.running == 0)).await;
        drop(ended);
        let threads = self.threads.borrow();
        match (threads.running, threads.abandoned) {
            (0, 0) => Stopped::Clean,
            (0, abandoned) => Stopped::Abandoned(abandoned),
            (running, _) => Stopped::Stuck(running),
        }
    }

    /// Resolves when a thread has ended that should not have. Cancel safe.
    pub async fn failed(&self) -> Failure {
        let mut threads = self.threads.subscribe();
        loop {
            if let Some(failure) = &threads.borrow_and_update().failure {
                return failure.clone();
            }
            if threads.changed().await.is_err() {
                // The sender is in `self`.
                std::future::pending::<()>().await;
            }
        }
    }

    fn begin_stop(&self, deadline: Instant) {
        self.lifecycle.stop(deadline);
        drop(self.files_watch.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn spawn(&self, thread: String, body: impl FnOnce() -> io::Result<usize> + Send + 'static) -> Result<(), Error> {
        self.threads.send_modify(|threads| threads.running += 1);
        let mut farewell = Farewell { thread: thread.clone(), threads: self.threads.clone(), ended: None };
        let spawned = thread::Builder::new().name(thread).spawn(move || farewell.end(body()));
        spawned.map(drop).map_err(Error::Thread)
    }
}

impl Drop for Ingress {
    fn drop(&mut self) {
        self.begin_stop(Instant::now());
    }
}
