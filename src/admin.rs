//! The operator's side: `/livez`, `/readyz` and `/metrics`, and where there is a token for it `/drain`, on their own port and their own thread.
//!
//! But for `/drain` it reads and never changes anything, and nothing waits for it. What it tells of the other parts reaches it through [`Heartbeats`], a closure of
//! [`Condition`]s and the registry, so that none of them knows that it exists. One request a connection, so that a connection has one deadline and
//! none is kept by a client that has gone. No error of one connection, and no failed `accept`, ends the listener.

pub mod drain;
mod heartbeats;
mod readiness;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, oneshot};

pub use heartbeats::{Heartbeat, Heartbeats};
pub use readiness::{Condition, Conditions};

use crate::config;
use crate::metrics::Metrics;

/// What hyper holds of a request: more than any probe sends.
const REQUEST_MAX_BYTES: usize = 16 * 1024;

/// How long to wait after a failed `accept`, which fails again at once while file descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Why the operator's side cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be bound: in use, or not this machine's.
    #[error("listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The system gave no thread or no event loop.
    #[error("failed to start the admin thread")]
    Start(#[source] io::Error),
}

/// What is served.
#[derive(Clone)]
pub struct Sources {
    /// For `/metrics`.
    pub metrics: Metrics,
    /// For `/livez`.
    pub heartbeats: Heartbeats,
    /// For `/readyz`. Called for each request, so it only looks, and never waits.
    pub conditions: Conditions,
    /// For `/drain`, which is not there without.
    pub drain: Option<drain::Desk>,
}

/// The bound port, not served yet: it is bound before anything serious begins, and connections wait in the system's queue.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    connections_max: usize,
    request_timeout: Duration,
}

impl Listener {
    /// Binds the address.
    pub fn bind(config: &config::Admin) -> Result<Self, Error> {
        let bind = || {
            let socket = TcpListener::bind(config.listen)?;
            socket.set_nonblocking(true)?;
            let address = socket.local_addr()?;
            Ok((socket, address))
        };
        let (socket, address) = bind().map_err(|source| Error::Bind { address: config.listen, source })?;
        let connections_max = usize::try_from(config.connections_max).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Ok(Self { socket, address, connections_max, request_timeout: config.request_timeout.get() })
    }

    /// Where it listens; the port that the system gave where the configuration has 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves on a thread of its own until the [`Server`] is dropped.
    pub fn serve(self, sources: Sources) -> Result<Server, Error> {
        let Self { socket, address, connections_max, request_timeout } = self;
        let runtime = Builder::new_current_thread().enable_io().enable_time().build().map_err(Error::Start)?;
        let socket = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(socket).map_err(Error::Start)?
        };
        let (stop, stopped) = oneshot::channel();
        let service = Service { socket, sources: Arc::new(sources), slots: Arc::new(Semaphore::new(connections_max)), request_timeout };
        let thread =
            thread::Builder::new().name("admin".to_owned()).spawn(move || run(&runtime, service, stopped)).map_err(Error::Start)?;
        Ok(Server { address, stop: Some(stop), thread: Some(thread) })
    }
}

/// The running server; dropping it stops it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("admin thread ended by a panic");
        }
    }
}

fn run(runtime: &Runtime, service: Service, stopped: oneshot::Receiver<()>) {
    runtime.block_on(async move {
        tokio::select! {
            () = service.accept() => {}
            _ = stopped => {}
        }
    });
}

struct Service {
    socket: tokio::net::TcpListener,
    sources: Arc<Sources>,
    slots: Arc<Semaphore>,
    request_timeout: Duration,
}

impl Service {
    /// Never ends.
    async fn accept(self) {
        let mut failing = false;
        loop {
            match self.socket.accept().await {
                Ok((stream, _)) => {
                    failing = false;
                    // Beyond the limit the stream is dropped, which closes it.
                    if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
                        let (sources, deadline) = (Arc::clone(&self.sources), self.request_timeout);
                        tokio::spawn(async move {
                            serve(stream, sources, deadline).await;
                            drop(slot);
                        });
                    }
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "admin accept failed");
                    }
                    failing = true;
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Answers the connection's one request. Whatever goes wrong is the client's to see: there is nobody else who could do anything about it.
async fn serve(stream: TcpStream, sources: Arc<Sources>, deadline: Duration) {
    let service = service_fn(move |request: Request<Incoming>| {
        let sources = Arc::clone(&sources);
        async move { Ok::<_, Infallible>(answer(&request, &sources).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(deadline)
        .keep_alive(false)
        .max_buf_size(REQUEST_MAX_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(deadline, connection).await;
}

async fn answer(request: &Request<Incoming>, sources: &Sources) -> Response<Full<Bytes>> {
    let page: fn(&Sources) -> Response<Full<Bytes>> = match (request.uri().path(), &sources.drain) {
        ("/livez", _) => livez,
        ("/readyz", _) => readyz,
        ("/metrics", _) => metrics,
        ("/drain", Some(desk)) => return drain(request, desk.clone()).await,
        _ => return response(StatusCode::NOT_FOUND, TEXT, "not found: /livez, /readyz and /metrics are here\n"),
    };
    if request.method() == Method::GET || request.method() == Method::HEAD { page(sources) } else { refuse_method("GET, HEAD") }
}

fn refuse_method(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, format!("only {allowed}\n"));
    refused.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    refused
}

/// The token comes first: whoever has none learns nothing.
async fn drain(request: &Request<Incoming>, desk: drain::Desk) -> Response<Full<Bytes>> {
    let method = request.method().clone();
    let authorization = request.headers().get(AUTHORIZATION).cloned();
    // Both read or write files; the probes must not wait for them.
    let answered = tokio::task::spawn_blocking(move || {
        if !desk.tokens.admit(authorization.as_ref()) {
            let mut refused =
                response(StatusCode::UNAUTHORIZED, TEXT, "Authorization: Bearer and a token of admin.token_file are required\n");
            refused.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return refused;
        }
        let order = match method {
            Method::GET => drain::Order::Tell,
            Method::POST => drain::Order::Begin,
            Method::DELETE => drain::Order::End,
            _ => return refuse_method("GET, POST, DELETE"),
        };
        match (desk.control)(order).map(|report| serde_json::to_string(&report)) {
            Ok(Ok(report)) => response(StatusCode::OK, JSON, report + "\n"),
            Ok(Err(error)) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("failed to write JSON: {error}\n")),
            Err(error @ drain::Error::Starting) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{error}\n")),
            Err(error @ drain::Error::Mark { .. }) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        }
    });
    answered.await.unwrap_or_else(|_| response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "a fault of the program, which the log tells\n"))
}

fn livez(sources: &Sources) -> Response<Full<Bytes>> {
    let report = sources.heartbeats.report();
    let status = if report.live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response(status, TEXT, report.text)
}

fn readyz(sources: &Sources) -> Response<Full<Bytes>> {
    let conditions = (sources.conditions)();
    let ready = readiness::is_ready(&conditions);
    sources.metrics.bridge.ready.set(i64::from(ready));
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response(status, TEXT, readiness::text(&conditions))
}

fn metrics(sources: &Sources) -> Response<Full<Bytes>> {
    sources.metrics.bridge.ready.set(i64::from(readiness::is_ready(&(sources.conditions)())));
    match sources.metrics.encode() {
        Ok(text) => response(StatusCode::OK, HeaderValue::from_static(sources.metrics.content_type()), text),
        Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("failed to encode the metrics: {error}\n")),
    }
}

fn response(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Shutdown, TcpStream};
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;
    use crate::config::Period;
    use crate::metrics::Labels;

    const PATIENCE: Duration = Duration::from_secs(20);

    struct Fixture {
        server: Server,
        heartbeats: Heartbeats,
        conditions: Arc<Mutex<Vec<Condition>>>,
    }

    fn fixture(change: impl FnOnce(&mut config::Admin)) -> Fixture {
        let mut config = config::Admin { listen: (Ipv4Addr::LOCALHOST, 0).into(), ..config::Admin::default() };
        change(&mut config);
        let heartbeats = Heartbeats::new(config.stall_max.get());
        let conditions = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&conditions);
        let sources = Sources {
            metrics: Metrics::new(&Labels::default()).unwrap(),
            heartbeats: heartbeats.clone(),
            conditions: Arc::new(move || shared.lock().unwrap().clone()),
            drain: None,
        };
        Fixture { server: Listener::bind(&config).unwrap().serve(sources).unwrap(), heartbeats, conditions }
    }

    impl Fixture {
        fn connect(&self) -> TcpStream {
            let stream = TcpStream::connect(self.server.address()).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        }

        /// What the server sends until it closes the connection; what came before a reset, if it is reset.
        fn send(&self, request: &str) -> String {
            let mut stream = self.connect();
            let _ = stream.write_all(request.as_bytes());
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8(answer).unwrap()
        }

        fn get(&self, path: &str) -> String {
            self.send(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
        }
    }

    #[test]
    fn each_path_has_its_page_and_the_others_have_none() {
        let fixture = fixture(|_| ());
        for (request, status, part) in [
            ("GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", "200", "text/plain"),
            ("GET /readyz?verbose HTTP/1.1\r\nhost: x\r\n\r\n", "200", "text/plain"),
            ("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n", "200", "chat_bridge_build_info{version="),
            ("HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n", "200", "content-length"),
            ("POST /readyz HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", "405", "allow: GET, HEAD"),
            ("GET /env HTTP/1.1\r\nhost: x\r\n\r\n", "404", "not found"),
            ("GET /drain HTTP/1.1\r\nhost: x\r\n\r\n", "404", "not found"),
            ("POST /env HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", "404", "not found"),
            ("GARBAGE\r\n\r\n", "400", ""),
        ] {
            let answer = fixture.send(request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(part), "{request}: {answer}");
        }
        let head = fixture.send("HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
        assert!(head.ends_with("\r\n\r\n"), "{head}");
    }

    #[test]
    fn only_conditions_that_decide_make_the_bridge_unready() {
        let fixture = fixture(|_| ());
        let condition = |name: &'static str, ok, decides| Condition { name: name.into(), ok, reason: "a reason".to_owned(), decides };
        *fixture.conditions.lock().unwrap() = vec![condition("journal", true, true), condition("kafka brokers", false, false)];
        let answer = fixture.get("/readyz");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("ok      journal: a reason\nnote    kafka brokers: a reason\n"), "{answer}");
        assert!(fixture.get("/metrics").contains("\nchat_bridge_ready 1\n"));
        fixture.conditions.lock().unwrap().push(condition("draining", false, true));
        let answer = fixture.get("/readyz");
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("unready draining: a reason\n"), "{answer}");
        assert!(fixture.get("/metrics").contains("\nchat_bridge_ready 0\n"));
    }

    #[test]
    fn a_loop_that_does_not_turn_is_not_live() {
        let fixture = fixture(|config| config.stall_max = Period::from_millis(1));
        let beating = fixture.heartbeats.register("ingress-0");
        let start = Instant::now();
        loop {
            let answer = fixture.get("/livez");
            if answer.starts_with("HTTP/1.1 503 ") {
                assert!(answer.contains("stalled ingress-0: "), "{answer}");
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{answer}");
        }
        beating.retire();
        assert!(fixture.get("/livez").starts_with("HTTP/1.1 200 "));
    }

    #[test]
    fn a_slow_head_is_cut_off_and_others_are_served_meanwhile() {
        let fixture = fixture(|config| config.request_timeout = Period::from_millis(300));
        let start = Instant::now();
        let mut slow = fixture.connect();
        slow.write_all(b"GET /livez HTTP/1.1\r\nhos").unwrap();
        assert!(fixture.get("/livez").starts_with("HTTP/1.1 200 "));
        let mut rest = Vec::new();
        let _ = slow.read_to_end(&mut rest);
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
        assert!(start.elapsed() >= Duration::from_millis(300) && start.elapsed() < PATIENCE);
    }

    #[test]
    fn a_client_that_does_not_read_its_answer_is_cut_off() {
        let fixture = fixture(|config| (config.connections_max, config.request_timeout) = (1, Period::from_millis(300)));
        // More than the buffers of two sockets hold.
        let reason = "x".repeat(64 << 20);
        *fixture.conditions.lock().unwrap() = vec![Condition { name: "journal".into(), ok: true, reason, decides: true }];
        let mut deaf = fixture.connect();
        deaf.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        // Connections are accepted in their order, so the one place is taken.
        let start = Instant::now();
        while !fixture.get("/livez").starts_with("HTTP/1.1 200 ") {
            assert!(start.elapsed() < PATIENCE);
        }
    }

    #[test]
    fn connections_over_the_limit_are_closed_and_the_limit_comes_back() {
        let fixture = fixture(|config| config.connections_max = 1);
        let first = fixture.connect();
        // The first one's place is taken only once it is accepted, which shows by the second being closed unanswered.
        let start = Instant::now();
        while !fixture.get("/livez").is_empty() {
            assert!(start.elapsed() < PATIENCE);
        }
        first.shutdown(Shutdown::Both).unwrap();
        drop(first);
        while !fixture.get("/livez").starts_with("HTTP/1.1 200 ") {
            assert!(start.elapsed() < PATIENCE);
        }
    }

    #[test]
    fn a_stopped_server_gives_its_port_back() {
        let fixture = fixture(|_| ());
        let address = fixture.server.address();
        let config = config::Admin { listen: address, ..config::Admin::default() };
        let refused = Listener::bind(&config).map(|listener| listener.address());
        assert!(matches!(refused, Err(Error::Bind { address: bound, .. }) if bound == address), "{refused:?}");
        drop(fixture);
        assert_eq!(Listener::bind(&config).map(|listener| listener.address()).ok(), Some(address));
    }
}
