//! A network of the tests' own: every connection to a broker goes through it, and it can be cut, slowed and torn.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What is read at once, where nothing slows it.
const CHUNK: usize = 64 * 1024;

/// How it is to all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// All passes.
    Clear,
    /// Nothing passes, in either direction, and nobody is told: connections stay, new ones are taken and get no answer. What was sent comes when it clears.
    Cut,
    /// So many bytes at once, each lot that much later than the one before.
    Slow {
        /// The size of a lot.
        bytes: usize,
        /// The time between two.
        every: Duration,
    },
    /// Connections are reset (RST) once so many bytes have come back over them, be it in the middle of an answer, and new ones likewise.
    Torn {
        /// How many.
        after: usize,
    },
}

#[derive(Clone, Copy, Debug)]
struct State {
    weather: Weather,
    /// What listens there is cut, whatever the weather is.
    cut_off: Option<u16>,
    /// Connections of an earlier generation are reset.
    generation: u64,
}

impl State {
    fn at(&self, port: u16) -> Weather {
        if self.cut_off == Some(port) { Weather::Cut } else { self.weather }
    }
}

/// Listeners, each with the address that it leads to, served by one thread until the process ends.
pub(crate) struct Network {
    state: watch::Sender<State>,
    /// Connections that were reset.
    resets: Arc<AtomicU64>,
}

impl Network {
    /// Listens at the first address of each pair, and connects to the second for each connection that comes.
    pub(crate) fn new(links: Vec<(SocketAddr, SocketAddr)>) -> Self {
        let (state, seen) = watch::channel(State { weather: Weather::Clear, cut_off: None, generation: 0 });
        let (ready, listening) = mpsc::channel();
        let resets = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&resets);
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut tasks = tokio::task::JoinSet::new();
                for (from, to) in links {
                    let listener = TcpListener::bind(from).await.unwrap();
                    tasks.spawn(listen(listener, from.port(), to, seen.clone(), Arc::clone(&counter)));
                }
                ready.send(()).unwrap();
                while tasks.join_next().await.is_some() {}
            });
        };
        std::thread::Builder::new().name("network".to_owned()).spawn(serve).unwrap();
        listening.recv().unwrap();
        Self { state, resets }
    }

    /// Changes it for all connections at once.
    pub(crate) fn becomes(&self, weather: Weather) {
        self.state.send_modify(|state| (state.weather, state.cut_off) = (weather, None));
    }

    /// Cuts the way to what listens at this port, and no other.
    pub(crate) fn cut_off(&self, port: u16) {
        self.state.send_modify(|state| state.cut_off = Some(port));
    }

    /// How many connections were reset so far.
    pub(crate) fn resets(&self) -> u64 {
        self.resets.load(Ordering::Relaxed)
    }

    /// Resets (RST) all connections of the moment.
    pub(crate) fn reset(&self) {
        self.state.send_modify(|state| state.generation += 1);
    }
}

/// Ends when the network does.
async fn listen(listener: TcpListener, port: u16, to: SocketAddr, mut state: watch::Receiver<State>, resets: Arc<AtomicU64>) {
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let (state, resets) = (state.clone(), Arc::clone(&resets));
                tokio::spawn(async move {
                    if connect(client, port, to, state).await {
                        resets.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            changed = state.changed() => if changed.is_err() { return },
        }
    }
}

/// Serves a connection to its end; whether that was a reset.
async fn connect(mut client: TcpStream, port: u16, to: SocketAddr, mut state: watch::Receiver<State>) -> bool {
    let generation = state.borrow_and_update().generation;
    if passes(&mut state, port).await.is_err() {
        return false;
    }
    // A broker that is not there: as it would be without us, the client sees its connection end.
    let Ok(mut server) = TcpStream::connect(to).await else { return false };
    let (mut client_reads, mut client_writes) = client.split();
    let (mut server_reads, mut server_writes) = server.split();
    let reset = tokio::select! {
        result = pump(&mut client_reads, &mut server_writes, state.clone(), port, Direction::There) => result.is_ok_and(|end| end == End::Torn),
        result = pump(&mut server_reads, &mut client_writes, state.clone(), port, Direction::Back) => result.is_ok_and(|end| end == End::Torn),
        result = state.wait_for(|state| state.generation != generation) => result.is_ok(),
    };
    if reset {
        drop(client.set_zero_linger());
        drop(server.set_zero_linger());
    }
    reset
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    There,
    Back,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The sender has ended it.
    Closed,
    /// So has the weather.
    Torn,
}

/// Waits until something passes. What the weather is then.
async fn passes(state: &mut watch::Receiver<State>, port: u16) -> io::Result<Weather> {
    let state = state.wait_for(|state| state.at(port) != Weather::Cut).await.map_err(io::Error::other)?;
    Ok(state.at(port))
}

async fn pump(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    mut state: watch::Receiver<State>,
    port: u16,
    direction: Direction,
) -> io::Result<End> {
    let mut chunk = vec![0; CHUNK];
    let mut passed = 0;
    loop {
        let size = match state.borrow_and_update().at(port) {
            Weather::Slow { bytes, .. } => bytes.min(CHUNK),
            Weather::Clear | Weather::Cut | Weather::Torn { .. } => CHUNK,
        };
        let read = from.read(&mut chunk[..size]).await?;
        if read == 0 {
            return Ok(End::Closed);
        }
        match passes(&mut state, port).await? {
            Weather::Slow { every, .. } => tokio::time::sleep(every).await,
            Weather::Torn { after } if direction == Direction::Back && passed + read >= after => {
                to.write_all(&chunk[..after.saturating_sub(passed).min(read)]).await?;
                return Ok(End::Torn);
            }
            Weather::Clear | Weather::Cut | Weather::Torn { .. } => {}
        }
        passed += read;
        to.write_all(&chunk[..read]).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    use super::*;
    use crate::support::{eventually, free_port};

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A connection through a network to a server that sends back what it gets.
    fn echo() -> (Network, SocketAddr) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in server.incoming().map_while(Result::ok) {
                std::thread::spawn(move || {
                    let mut answers = stream.try_clone().unwrap();
                    drop(io::copy(&mut &stream, &mut answers));
                });
            }
        });
        let from = SocketAddr::from(([127, 0, 0, 1], free_port()));
        (Network::new(vec![(from, to)]), from)
    }

    fn client(address: SocketAddr) -> TcpStream {
        let client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    fn round(client: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
        client.write_all(bytes)?;
        let mut answer = vec![0; bytes.len()];
        client.read_exact(&mut answer)?;
        assert_eq!(answer, bytes);
        Ok(())
    }

    #[test]
    fn a_cut_holds_everything_and_loses_nothing() {
        let (network, address) = echo();
        let mut old = client(address);
        round(&mut old, b"before").unwrap();
        network.becomes(Weather::Cut);
        let mut new = client(address);
        for client in [&mut old, &mut new] {
            client.write_all(b"during").unwrap();
            client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let silent = client.read(&mut [0; 1]).unwrap_err().kind();
            assert!(matches!(silent, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silent}");
            client.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        network.becomes(Weather::Clear);
        for client in [&mut old, &mut new] {
            let mut answer = [0; 6];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"during");
            round(client, b"after").unwrap();
        }
    }

    #[test]
    fn a_reset_ends_the_connections_of_the_moment() {
        let (network, address) = echo();
        let mut old = client(address);
        round(&mut old, b"before").unwrap();
        network.reset();
        assert_eq!(old.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        eventually("the reset is counted", PATIENCE, || (network.resets() == 1).then_some(()));
        round(&mut client(address), b"after").unwrap();
    }

    #[test]
    fn what_is_torn_ends_in_the_middle_of_an_answer() {
        let (network, address) = echo();
        network.becomes(Weather::Torn { after: 10 });
        let mut client = client(address);
        round(&mut client, b"whole").unwrap();
        client.write_all(b"not whole").unwrap();
        let mut came = Vec::new();
        assert_eq!(client.read_to_end(&mut came).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(came.len() <= 5, "{came:?}");
    }

    #[test]
    fn what_is_slow_takes_its_time() {
        let (network, address) = echo();
        network.becomes(Weather::Slow { bytes: 100, every: Duration::from_millis(50) });
        let start = Instant::now();
        round(&mut client(address), &[7; 500]).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
    }
}
