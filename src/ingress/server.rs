//! The listener: accepts connections and hands each to the event loop that has the fewest.
//!
//! No error of `accept` ends it. What one connection caused is counted; where the system has run out of something it waits and tries again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::lifecycle::Lifecycle;
use super::refusal::Unanswered;
use crate::config;
use crate::metrics;

/// How many connections may wait in the kernel until they are accepted; it takes fewer where `net.core.somaxconn` is less.
const BACKLOG: u32 = 4096;

/// How long accepting rests where file descriptors or memory are used up: connections wait in the backlog meanwhile.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// How many accepted connections may wait for an event loop to look at them.
pub(super) const ARRIVALS_MAX: usize = 256;

/// Binds the public port.
pub(super) fn bind(http: &config::Http) -> io::Result<std::net::TcpListener> {
    // tokio sets the options of the socket and the backlog, for which a runtime has to be there; nothing runs on it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let listener = {
        let _entered = runtime.enter();
        listen(http.listen)
    };
    // Where this is called from another runtime, dropping this one would panic.
    runtime.shutdown_background();
    listener
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// All connections that are open.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    open: AtomicUsize,
    metrics: metrics::Ingress,
}

impl Connections {
    pub(super) fn new(max: u32, metrics: metrics::Ingress) -> Self {
        Self { max: usize::try_from(max).unwrap_or(usize::MAX), open: AtomicUsize::new(0), metrics }
    }
}

/// One open connection's place among all and in its event loop, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    connections: Arc<Connections>,
    load: Arc<AtomicUsize>,
}

impl Place {
    fn take(connections: &Arc<Connections>, load: &Arc<AtomicUsize>) -> Option<Self> {
        // Only the acceptor takes places, so that the limit cannot be passed between the two steps.
        if connections.open.load(Ordering::Relaxed) >= connections.max {
            return None;
        }
        connections.open.fetch_add(1, Ordering::Relaxed);
        connections.metrics.connections.inc();
        load.fetch_add(1, Ordering::Relaxed);
        Some(Self { connections: Arc::clone(connections), load: Arc::clone(load) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
        self.connections.metrics.connections.dec();
        self.load.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection on its way to its event loop.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) stream: std::net::TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) place: Place,
}

/// The way to one event loop.
#[derive(Debug)]
pub(super) struct Door {
    arrivals: mpsc::Sender<Arrival>,
    load: Arc<AtomicUsize>,
}

impl Door {
    pub(super) fn new(arrivals: mpsc::Sender<Arrival>) -> Self {
        Self { arrivals, load: Arc::new(AtomicUsize::new(0)) }
    }
}

/// Whether the system has what accepting takes; kept so that each change of state is said once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Accepting,
    Exhausted,
}

/// Where accepted connections go.
#[derive(Debug)]
pub(super) struct Reception {
    pub(super) doors: Vec<Door>,
    pub(super) connections: Arc<Connections>,
    pub(super) metrics: metrics::Ingress,
}

/// Accepts, until a stop begins.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) listener: std::net::TcpListener,
    pub(super) lifecycle: Arc<Lifecycle>,
    pub(super) reception: Reception,
}

impl Acceptor {
    /// Runs on the event loop on which it is called. Fails only where the listener cannot be registered with it.
    pub(super) async fn run(self) -> io::Result<()> {
        let Self { listener, lifecycle, reception } = self;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let mut stop = lifecycle.deadline();
        let mut condition = Condition::Accepting;
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(Option::is_some) => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    if condition == Condition::Exhausted {
                        tracing::info!("accepting connections again");
                        condition = Condition::Accepting;
                    }
                    reception.place(stream, peer).await;
                }
                Err(error) if is_of_one_connection(&error) => reception.metrics.accept_errors.inc(),
                Err(error) => {
                    reception.metrics.accept_errors.inc();
                    if condition == Condition::Accepting {
                        tracing::warn!(%error, "connections cannot be accepted, they wait");
                        condition = Condition::Exhausted;
                    }
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }
}

impl Reception {
    async fn place(&self, stream: TcpStream, peer: SocketAddr) {
        let Some(door) = self.doors.iter().min_by_key(|door| door.load.load(Ordering::Relaxed)) else { return };
        let Some(place) = Place::take(&self.connections, &door.load) else {
            self.metrics.refused(Unanswered::Connections.reason()).inc();
            return;
        };
        match stream.into_std() {
            // An event loop that is gone has said so itself.
            Ok(stream) => drop(door.arrivals.send(Arrival { stream, peer, place }).await),
            Err(_) => self.metrics.accept_errors.inc(),
        }
    }
}

/// Whether an error of `accept` says something of the one connection only (accept(2), "Error handling"), so that the next can be accepted at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| {
        matches!(
            errno,
            Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::INTR
                | Errno::PERM
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NONET
                | Errno::OPNOTSUPP
                | Errno::TIMEDOUT
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Labels, Metrics};

    #[test]
    fn errors_of_one_connection_are_told_from_those_of_the_system() {
        for errno in [Errno::CONNABORTED, Errno::PERM, Errno::NETDOWN] {
            assert!(is_of_one_connection(&errno.into()), "{errno}");
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(!is_of_one_connection(&errno.into()), "{errno}");
        }
        assert!(!is_of_one_connection(&io::Error::other("unknown")));
    }

    #[test]
    fn a_place_is_given_back() {
        let metrics = Metrics::new(&Labels::default()).unwrap();
        let connections = Arc::new(Connections::new(1, metrics.ingress.clone()));
        let load = Arc::new(AtomicUsize::new(0));
        let place = Place::take(&connections, &load);
        assert!(place.is_some() && Place::take(&connections, &load).is_none());
        assert_eq!((load.load(Ordering::Relaxed), metrics.ingress.connections.get()), (1, 1));
        drop(place);
        assert_eq!((load.load(Ordering::Relaxed), metrics.ingress.connections.get()), (0, 0));
        assert!(Place::take(&connections, &load).is_some());
    }
}
