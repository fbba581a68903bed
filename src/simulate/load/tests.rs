//! A load against a server that behaves as each test wants.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::thread::JoinHandle;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::*;
use crate::simulate::command::Mix;
use crate::simulate::log::{Line, Outcome};

/// What the server does with a request.
enum Reaction {
    Answer(u16, &'static [u8]),
    /// Answers, and says that it will close.
    AnswerAndClose,
    /// Answers only after so long.
    Stall(Duration),
    /// Closes without an answer.
    Drop,
}

const OK: Reaction = Reaction::Answer(200, DURABLE);

struct Received {
    query: String,
    body: Bytes,
}

type React = Arc<dyn Fn(usize) -> Reaction + Send + Sync>;

/// A server on a thread of its own, until it is dropped.
struct Server {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(react: impl Fn(usize) -> Reaction + Send + Sync + 'static) -> Self {
        Self::start_on(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), react)
    }

    fn start_on(listener: std::net::TcpListener, react: impl Fn(usize) -> Reaction + Send + Sync + 'static) -> Self {
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let received = Arc::new(Mutex::new(Vec::new()));
        let thread = std::thread::spawn({
            let (received, react): (_, React) = (Arc::clone(&received), Arc::new(react));
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                    tokio::select! {
                        _ = stopped => {}
                        () = accept(&listener, &received, &react) => {}
                    }
                });
            }
        });
        Self { address, received, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().map(JoinHandle::join);
    }
}

async fn accept(listener: &tokio::net::TcpListener, received: &Arc<Mutex<Vec<Received>>>, react: &React) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (received, react) = (Arc::clone(received), Arc::clone(react));
        tokio::spawn(async move {
            let service = service_fn(|request| serve(request, &received, &react));
            // A connection that the test breaks ends with an error of no interest.
            let _broken = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn serve(
    request: Request<Incoming>,
    received: &Mutex<Vec<Received>>,
    react: &React,
) -> Result<Response<Full<Bytes>>, std::fmt::Error> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let body = request.into_body().collect().await.map_err(|_| std::fmt::Error)?.to_bytes();
    let index = {
        let mut received = received.lock().unwrap();
        received.push(Received { query, body });
        received.len() - 1
    };
    let answer = |status, body: &'static [u8]| {
        Response::builder().status(status).body(Full::new(Bytes::from_static(body))).map_err(|_| std::fmt::Error)
    };
    match react(index) {
        Reaction::Answer(status, body) => answer(status, body),
        Reaction::AnswerAndClose => {
            let mut response = answer(200, DURABLE)?;
            response.headers_mut().insert("connection", hyper::header::HeaderValue::from_static("close"));
            Ok(response)
        }
        Reaction::Stall(time) => {
            tokio::time::sleep(time).await;
            answer(200, DURABLE)
        }
        // hyper drops a connection whose service fails.
        Reaction::Drop => Err(std::fmt::Error),
    }
}

fn config(address: SocketAddr, connections: u32, count: u64) -> Config {
    Config {
        target: format!("http://{address}/callback").parse().unwrap(),
        connections: NonZeroU32::new(connections).unwrap(),
        threads: NonZeroU16::MIN,
        pace: Pace::Closed,
        extent: Extent { duration: None, count: Some(count) },
        shape: Shape {
            run: Uuid::from_u128(0xA),
            seed: 1,
            app: 1_400_000_000,
            mix: Mix::default(),
            groups: NonZeroU32::new(100).unwrap(),
            members_max: NonZeroU32::new(5).unwrap(),
        },
        token: None,
        timeout: Duration::from_secs(20),
        catch_up: Duration::from_secs(20),
        on_break: OnBreak::End,
        log: None,
        offsets: BTreeMap::new(),
    }
}

fn run_now(config: &Config) -> Summary {
    run(config, &Arc::default(), &Stop::default()).unwrap()
}

/// Waits, at most 20 s, until it holds.
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        std::thread::yield_now();
    }
}

#[test]
fn every_callback_is_sent_once_answered_and_logged() {
    let server = Server::start(|_| OK);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut config = config(server.address, 7, 200);
    config.threads = NonZeroU16::new(2).unwrap();
    config.log = Some(path.clone());
    let summary = run_now(&config);
    assert_eq!((summary.sent, summary.acknowledged, summary.unknown, summary.unsent, summary.reopened), (200, 200, 0, 0, 0));
    assert_eq!(summary.ended, Ended::Complete);
    let mut logged = BTreeSet::new();
    let header = log::read(&path, |_, line| {
        assert_eq!(line.outcome, Outcome::Acknowledged);
        assert_eq!(line.group % 7, line.connection);
        logged.insert((line.connection, line.number, line.command.word().to_owned(), group_id(line.group)));
    })
    .unwrap();
    assert_eq!((header.run, header.connections, header.groups), (config.shape.run, 7, 100));
    let received = server.received.lock().unwrap();
    let received: Vec<_> = received
        .iter()
        .map(|received| {
            let body: serde_json::Value = serde_json::from_slice(&received.body).unwrap();
            let number = |field| u32::try_from(body[field].as_u64().unwrap()).unwrap();
            let text = |field| body[field].as_str().unwrap().to_owned();
            (number("SimulatorConnection"), number("SimulatorNumber"), text("CallbackCommand"), text("GroupId"))
        })
        .collect();
    assert_eq!(received.len(), 200);
    assert_eq!(received.into_iter().collect::<BTreeSet<_>>(), logged);
}

#[test]
fn a_connection_sends_in_the_order_of_its_numbers() {
    let server = Server::start(|_| OK);
    run_now(&config(server.address, 3, 90));
    let mut next = [0_u64; 3];
    for received in server.received.lock().unwrap().iter() {
        let body: serde_json::Value = serde_json::from_slice(&received.body).unwrap();
        let connection = usize::try_from(body["SimulatorConnection"].as_u64().unwrap()).unwrap();
        assert_eq!(body["SimulatorNumber"], next[connection]);
        next[connection] += 1;
    }
    assert_eq!(next, [30; 3]);
}

#[test]
fn in_the_open_loop_a_stall_shows_in_all_that_waited_for_it() {
    // 40 callbacks within 400 ms on one connection; the first answer takes 400 ms, so that all the others are late, the 20th by 200 ms.
    let server = Server::start(|index| if index == 0 { Reaction::Stall(Duration::from_millis(400)) } else { OK });
    let mut config = config(server.address, 1, 40);
    config.pace = Pace::Open(NonZeroU32::new(100).unwrap());
    let summary = run_now(&config);
    assert_eq!((summary.acknowledged, summary.unsent), (40, 0));
    let (latency, service) = (summary.latency_seconds.unwrap(), summary.service_seconds.unwrap());
    assert!(latency.p50 >= 0.15, "{:?}", summary.latency_seconds);
    assert!(latency.max >= 0.4, "{:?}", summary.latency_seconds);
    assert!(service.max >= 0.4, "{:?}", summary.service_seconds);
    assert!(service.p50 < latency.p50, "{:?}", summary.service_seconds);
}

#[test]
fn the_open_loop_keeps_its_rate() {
    let server = Server::start(|_| OK);
    let mut config = config(server.address, 4, 0);
    config.pace = Pace::Open(NonZeroU32::new(200).unwrap());
    config.extent = Extent { duration: Some(Duration::from_millis(250)), count: None };
    let summary = run_now(&config);
    assert_eq!(summary.acknowledged, 50);
    assert!(summary.seconds >= 0.245, "the last callback is due after 245 ms, not after {} s", summary.seconds);
}

#[test]
fn a_broken_connection_leaves_its_callback_unknown_and_is_opened_again() {
    let server = Server::start(|index| if index % 10 == 4 { Reaction::Drop } else { OK });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut config = config(server.address, 2, 50);
    config.on_break = OnBreak::Reopen;
    config.log = Some(path.clone());
    let summary = run_now(&config);
    assert_eq!((summary.sent, summary.acknowledged, summary.unknown, summary.broken), (50, 45, 5, 5));
    assert!((4..=5).contains(&summary.reopened), "a connection whose last callback broke it is not opened again: {}", summary.reopened);
    let mut unknown = 0;
    log::read(&path, |_, line: Line| unknown += u32::from(line.outcome == Outcome::Unknown(0))).unwrap();
    assert_eq!(unknown, 5);
    assert_eq!(server.received.lock().unwrap().len(), 50, "a callback must not be sent a second time");
}

#[test]
fn without_leave_to_go_on_a_broken_connection_ends_the_run() {
    let server = Server::start(|index| if index == 20 { Reaction::Drop } else { OK });
    let summary = run_now(&config(server.address, 4, 1_000_000_000));
    assert!(matches!(&summary.ended, Ended::Broken(why) if why.contains("closed before the answer")), "{:?}", summary.ended);
    assert_eq!(summary.unknown, 1);
    assert_eq!(summary.sent, summary.acknowledged + 1);
}

#[test]
fn a_server_that_comes_later_is_found() {
    // A loopback address of its own, so that nobody else takes the port meanwhile.
    let listener = std::net::TcpListener::bind("127.0.77.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut config = config(address, 2, 20);
    config.on_break = OnBreak::Reopen;
    let live = Arc::new(Live::default());
    let load = std::thread::spawn({
        let live = Arc::clone(&live);
        move || run(&config, &live, &Stop::default()).unwrap()
    });
    wait_until("three attempts fail", || live.figures().connect_failures >= 3);
    assert_eq!(live.figures().sent, 0);
    let _server = Server::start_on(std::net::TcpListener::bind(address).unwrap(), |_| OK);
    let summary = load.join().unwrap();
    assert_eq!((summary.acknowledged, summary.unknown, summary.broken), (20, 0, 0));
}

#[test]
fn nobody_there_ends_the_run_at_once() {
    let listener = std::net::TcpListener::bind("127.0.77.2:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let summary = run_now(&config(address, 2, 20));
    assert!(matches!(&summary.ended, Ended::Broken(why) if why.contains("failed to connect")), "{:?}", summary.ended);
    assert_eq!((summary.sent, summary.unsent), (0, 20));
}

#[test]
fn an_announced_close_breaks_nothing() {
    let server = Server::start(|_| Reaction::AnswerAndClose);
    let summary = run_now(&config(server.address, 1, 10));
    assert_eq!((summary.acknowledged, summary.broken, summary.reopened), (10, 0, 9));
}

#[test]
fn refusals_are_counted_by_status_and_a_gateways_error_is_unknown() {
    let server = Server::start(|index| match index {
        0 | 1 => Reaction::Answer(503, br#"{"ActionStatus":"FAIL","ErrorInfo":"full","ErrorCode":1}"#),
        2 => Reaction::Answer(401, b""),
        3 => Reaction::Answer(502, b"<html>"),
        4 => Reaction::Answer(503, b"upstream connect error"),
        5 => Reaction::Answer(200, b"hello"),
        _ => OK,
    });
    let summary = run_now(&config(server.address, 1, 10));
    assert_eq!(summary.refused, BTreeMap::from([(503, 2), (401, 1)]));
    assert_eq!((summary.acknowledged, summary.acknowledged_otherwise, summary.unknown, summary.broken), (5, 1, 2, 0));
}

#[test]
fn an_answer_that_does_not_come_in_time_leaves_the_callback_unknown() {
    let server = Server::start(|index| if index == 1 { Reaction::Stall(Duration::from_hours(1)) } else { OK });
    let mut config = config(server.address, 1, 5);
    config.timeout = Duration::from_millis(300);
    config.on_break = OnBreak::Reopen;
    let summary = run_now(&config);
    assert_eq!((summary.acknowledged, summary.unknown, summary.broken, summary.reopened), (4, 1, 1, 1));
}

#[test]
fn a_load_that_is_stopped_says_so_and_closes_its_log() {
    let server = Server::start(|_| OK);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut config = config(server.address, 2, 0);
    config.extent = Extent::default();
    config.log = Some(path.clone());
    let (live, stop) = (Arc::new(Live::default()), Stop::default());
    let load = std::thread::spawn({
        let (live, stop) = (Arc::clone(&live), stop.clone());
        move || run(&config, &live, &stop).unwrap()
    });
    wait_until("twenty callbacks are answered", || live.figures().acknowledged >= 20);
    stop.set();
    let summary = load.join().unwrap();
    assert_eq!(summary.ended, Ended::Stopped);
    let mut lines = 0;
    log::read(&path, |_, _| lines += 1).unwrap();
    assert_eq!(lines, summary.sent);
}

#[test]
fn what_is_late_is_given_up_after_the_time_to_catch_up() {
    let server = Server::start(|_| Reaction::Stall(Duration::from_millis(50)));
    let mut config = config(server.address, 1, 0);
    config.pace = Pace::Open(NonZeroU32::new(1_000).unwrap());
    config.extent = Extent { duration: Some(Duration::from_millis(200)), count: None };
    config.catch_up = Duration::from_millis(100);
    let summary = run_now(&config);
    assert_eq!(summary.sent + summary.unsent, 200);
    assert!(summary.unsent > 150, "{} unsent", summary.unsent);
}

#[test]
fn a_signed_load_is_believed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "xxxxyyyy").unwrap();
    let server = Server::start(|_| OK);
    let mut config = config(server.address, 1, 3);
    config.token = Some(Token::read(&path).unwrap());
    run_now(&config);
    let received = server.received.lock().unwrap();
    assert_eq!(received.len(), 3);
    for received in received.iter() {
        let value = |name: &str| received.query.split('&').find_map(|pair| pair.strip_prefix(name)).unwrap();
        let time: i64 = value("RequestTime=").parse().unwrap();
        assert!((Clock::system().now().seconds() - time).abs() < 60, "{time}");
        let mut signer = Signer::new(Token::read(&path).unwrap());
        assert_eq!(value("Sign="), signer.sign(time));
    }
}

#[test]
fn each_connection_needs_a_group() {
    let mut config = config(SocketAddr::from(([127, 0, 0, 1], 1)), 101, 1);
    let error = run(&config, &Arc::default(), &Stop::default()).unwrap_err();
    assert_eq!(error.to_string(), "101 connections need at least as many groups, not 100");
    config.connections = NonZeroU32::new(100).unwrap();
    assert!(run(&config, &Arc::default(), &Stop::default()).is_ok());
}

#[test]
fn a_target_is_a_url_of_http() {
    for (text, authority, path) in [
        ("http://localhost:8080", "localhost:8080", "/?"),
        ("http://localhost/a/b", "localhost:80", "/a/b?"),
        ("http://[::1]:81/a?token=x", "[::1]:81", "/a?token=x&"),
    ] {
        let target: Target = text.parse().unwrap();
        assert_eq!((target.authority.as_str(), target.request.path.as_str()), (authority, path));
    }
    for text in ["https://localhost", "localhost:8080", "/callback", "http://", ""] {
        assert!(text.parse::<Target>().is_err(), "{text}");
    }
}
