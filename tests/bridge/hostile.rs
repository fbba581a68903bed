//! Senders that mean no good: floods, limits, slowness, rubbish. The bridge goes on serving, counts each by its reason, and loses nothing that it answered.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::bridge::{APP, Bridge, Client, PATIENCE, Site, group_full, padded, prefix, request};
use crate::support::kafka::{self, Kafka};
use crate::support::{eventually, free_port};

/// A bridge, its topics made, with these settings.
fn started(kafka: &Kafka, prefix: &str, settings: &str) -> (Site, Bridge) {
    let site = Site::new(&kafka.bootstrap_servers(), prefix, settings);
    site.make_topics();
    let bridge = site.start();
    (site, bridge)
}

/// After whatever was done to it: a new connection is served, the books balance, and Kafka has what was answered.
fn is_unharmed(kafka: &Kafka, prefix: &str, bridge: Bridge, answered: u64) {
    bridge.accept("Group.CallbackAfterGroupFull", &group_full("last", 1));
    bridge.settled(PATIENCE);
    assert_eq!(bridge.accepted(), count(answered + 1), "what was answered, and nothing else");
    let published: usize =
        ["group-full", "unrecognized", "dead-letter"].iter().map(|kind| kafka.keys(&format!("{prefix}{kind}")).len()).sum();
    assert_eq!(published, usize::try_from(answered).unwrap() + 1);
    bridge.stop();
}

#[expect(clippy::cast_precision_loss, clippy::as_conversions, reason = "counts of tests")]
fn count(number: u64) -> f64 {
    number as f64
}

/// Whether the other side has closed the connection, without an answer.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.read(&mut [0]) {
        Ok(0) => true,
        Ok(_) => panic!("an answer"),
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

#[test]
fn a_million_requests_on_one_connection_are_each_answered_and_counted() {
    /// Requests of one window, and windows; so large that client and server seldom wait for each other, so small that no buffer stops both.
    const WINDOW: u64 = 1_000;
    const WINDOWS: u64 = 1_000;
    let kafka = kafka::shared();
    let prefix = prefix("million");
    let (_site, bridge) = started(&kafka, &prefix, "");
    let refused = [
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}".to_owned(),
        "POST /?SdkAppid=1 HTTP/1.1\r\nContent-Length: 0\r\n\r\n".to_owned(),
        format!("POST /?SdkAppid={APP}&SdkAppid={APP} HTTP/1.1\r\nContent-Length: 0\r\n\r\n"),
        format!("POST /?SdkAppid={APP} HTTP/1.1\r\nContent-Encoding: br\r\nContent-Length: 0\r\n\r\n"),
    ];
    let each = u64::try_from(refused.len()).unwrap();
    let rounds = (WINDOW - 2) / each;
    let mut window = refused.concat().repeat(usize::try_from(rounds).unwrap());
    let (good, dead) = (request(&group_full("g", 1)), request("{"));
    window.push_str(&good);
    window.push_str(&dead);
    let expected = rounds * each + 2;

    let mut client = Client::connect(bridge.public);
    client.send(&window);
    for number in 1..=WINDOWS {
        if number < WINDOWS {
            client.send(&window);
        }
        let statuses = client.statuses(usize::try_from(expected).unwrap());
        assert_eq!(statuses, [(200, 2), (400, rounds), (403, 2 * rounds), (405, rounds), (415, rounds)].into(), "window {number}");
    }
    assert!(client.post(&group_full("g", 2)).is_success(), "the connection still serves");
    for reason in ["method", "app_missing", "app_unknown", "duplicate_parameter", "content_encoding"] {
        assert_eq!(bridge.refused(reason), count(rounds * WINDOWS), "{reason}");
    }
    is_unharmed(&kafka, &prefix, bridge, 2 * WINDOWS + 1);
}

#[test]
fn connections_and_bodies_over_their_limits_are_refused_until_there_is_room() {
    let kafka = kafka::shared();
    let prefix = prefix("limits");
    let settings = "http.connections_max = 20\nhttp.body_max = \"1MiB\"\nhttp.bodies_max = \"1MiB\"\nhttp.body_timeout = \"1m\"";
    let (_site, bridge) = started(&kafka, &prefix, settings);
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(bridge.public)).collect();
    for client in &mut clients {
        assert!(client.post(&group_full("kept", 1)).is_success());
    }
    for _ in 0..5 {
        let mut over = Client::connect(bridge.public);
        assert_eq!(over.rest(), "", "closed at once");
    }
    assert_eq!((bridge.refused("connections"), bridge.metric("chat_bridge_connections{")), (5.0, 0.0));
    assert_eq!(bridge.metrics()["chat_bridge_connections"], 20.0);
    for client in &mut clients {
        assert!(client.post(&group_full("kept", 2)).is_success(), "those that are open are served");
    }
    clients.truncate(10);
    eventually("places are free again", PATIENCE, || (bridge.metrics()["chat_bridge_connections"] == 10.0).then_some(()));

    let mut large = Client::connect(bridge.public);
    let body = padded(group_full("large", 1), 1024 * 1024);
    let mut request = request(&body);
    let rest = request.split_off(request.len() - 1_000);
    large.send(request);
    eventually("the body is in hand", PATIENCE, || (bridge.metric("chat_bridge_bodies_bytes") == 1_048_576.0).then_some(()));
    let answer = clients[0].post(&group_full("no room", 1));
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    assert_eq!(bridge.refused("bodies"), 1.0);
    large.send(rest);
    assert!(large.answer().is_success());
    assert!(clients[0].post(&group_full("room", 1)).is_success(), "and on the same connection");
    is_unharmed(&kafka, &prefix, bridge, 42);
}

#[test]
fn a_flood_of_connections_leaves_the_journal_and_the_operator_their_file_descriptors() {
    let kafka = kafka::shared();
    let prefix = prefix("descriptors");
    // Kafka is away, so that the journal needs new files meanwhile; they are small, so that it needs many.
    let settings = "http.body_max = \"512KiB\"\nadmin.connections_max = 16";
    let site = Site::new(&format!("127.0.0.1:{}", free_port()), &prefix, settings);
    site.change("journal.segment_size = \"8MiB\"", "journal.segment_size = \"1MiB\"");
    site.change("journal.size_max = \"256MiB\"", "journal.size_max = \"32MiB\"");
    let mut command = Command::new("sh");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let serve = site.command();
    command.args(["-c", "ulimit -n 160 && exec \"$@\"", "sh"]).arg(serve.get_program()).args(serve.get_args());
    let mut bridge = Bridge::start(command);
    let max = bridge.metrics()["chat_bridge_connections_max"];
    assert!((40.0..=60.0).contains(&max), "{max}");
    assert_eq!(bridge.log().lines().filter(|line| line.contains("limit of file descriptors")).count(), 1, "{}", bridge.log());

    let mut kept = Client::connect(bridge.public);
    assert!(kept.post(&padded(group_full("00", 1), 400_000)).is_success());
    let strangers: Vec<Client> = (0..200).map(|_| Client::connect(bridge.public)).collect();
    eventually("they are too many", PATIENCE, || (bridge.refused("connections") == 201.0 - max).then_some(()));
    for number in 1..50 {
        let answer = kept.post(&padded(group_full(&format!("{number:02}"), 1), 400_000));
        assert!(answer.is_success(), "{number}: {answer:?}\n{}", bridge.log());
    }
    assert!(bridge.metrics()["chat_bridge_journal_segments"] >= 20.0);
    assert_eq!((bridge.page("/livez").status, bridge.metric("chat_bridge_accept_errors_total")), (200, 0.0));
    drop(strangers);
    eventually("they are gone", PATIENCE, || (bridge.metrics()["chat_bridge_connections"] == 1.0).then_some(()));
    assert!(Client::connect(bridge.public).post(&group_full("50", 1)).is_success());
    bridge.terminate();
    bridge.ended_with(0, PATIENCE);

    site.configure(&kafka.bootstrap_servers(), &prefix, settings);
    site.make_topics();
    let bridge = site.start();
    assert_eq!(bridge.recovered(), 51.0);
    bridge.settled(PATIENCE);
    bridge.stop();
    let expected: Vec<String> = (0..51).map(|number| format!("{number:02}")).collect();
    assert_eq!(kafka.keys(&format!("{prefix}group-full")), expected);
}

#[test]
fn where_no_connection_can_be_accepted_those_that_are_there_are_served_and_the_rest_waits() {
    let kafka = kafka::shared();
    let prefix = prefix("accept");
    let (_site, bridge) = started(&kafka, &prefix, "");
    let mut kept = Client::connect(bridge.public);
    assert!(kept.post(&group_full("before", 1)).is_success());
    // It has begun a segment, and made another in its place.
    eventually("the journal needs no further file", PATIENCE, || {
        (bridge.metrics()["chat_bridge_journal_spare_segments"] == 2.0).then_some(())
    });
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::as_conversions, reason = "a count of some dozen")]
    let open = bridge.metrics()["process_open_fds"] as u64;
    let before = bridge.limit_descriptors(Some(open));
    let mut waiting: Vec<Client> = (0..30).map(|_| Client::connect(bridge.public)).collect();
    eventually("the lack shows", PATIENCE, || bridge.log().contains("connections cannot be accepted").then_some(()));
    for number in 0..50 {
        let answer = kept.post(&group_full("meanwhile", number));
        assert!(answer.is_success(), "{number}: {answer:?}\n{}", bridge.log());
    }
    for client in &mut waiting {
        client.send(request(&group_full("waited", 1)));
    }
    bridge.limit_descriptors(before);
    for client in &mut waiting {
        assert!(client.answer().is_success());
    }
    assert!(bridge.metric("chat_bridge_accept_errors_total") >= 1.0);
    let log = bridge.log();
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!((lines("connections cannot be accepted"), lines("accepting connections again")), (1, 1), "{log}");
    is_unharmed(&kafka, &prefix, bridge, 81);
}

#[test]
fn whoever_is_slow_is_sent_away_and_holds_nobody_up() {
    let kafka = kafka::shared();
    let prefix = prefix("slow");
    let settings = "http.header_timeout = \"700ms\"\nhttp.body_timeout = \"700ms\"\nhttp.idle_timeout = \"3s\"\nhttp.header_max = \"8KiB\"";
    let (_site, bridge) = started(&kafka, &prefix, settings);
    let begun = Instant::now();
    let mut heads: Vec<Client> = (0..20).map(|_| Client::connect(bridge.public)).collect();
    let mut bodies: Vec<Client> = (0..20).map(|_| Client::connect(bridge.public)).collect();
    for head in &mut heads {
        head.send("POST /?SdkAppid=1 HTTP/1.1\r\nHost: br");
    }
    let whole = request(&group_full("slow", 1));
    for body in &mut bodies {
        body.send(&whole[..whole.len() - 1]);
    }
    bridge.accept("Group.CallbackAfterGroupFull", &group_full("quick", 1));
    for body in &mut bodies {
        let answer = body.answer();
        assert_eq!((answer.status, answer.closes()), (408, true), "{answer:?}");
    }
    for head in &mut heads {
        assert_eq!(head.rest(), "", "closed without an answer");
    }
    assert!(begun.elapsed() >= Duration::from_millis(700));
    assert_eq!(bridge.refused("body_timeout"), 20.0);
    eventually("they are counted", PATIENCE, || (bridge.refused("not_http") == 20.0).then_some(()));

    // A byte now and then does not make a head quick.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut trickle = TcpStream::connect(bridge.public).unwrap();
        let mut writer = trickle.try_clone().unwrap();
        let stop = &stop;
        scope.spawn(move || {
            eventually("the trickle is stopped", PATIENCE, || {
                (stop.load(std::sync::atomic::Ordering::Relaxed) || writer.write_all(b"P").is_err()).then_some(())
            });
        });
        eventually("the trickle is closed", PATIENCE, || is_closed(&mut trickle).then_some(()));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    eventually("it is counted", PATIENCE, || (bridge.refused("not_http") == 21.0).then_some(()));

    let mut large = Client::connect(bridge.public);
    large.send(format!("POST / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(9_000)));
    let answer = large.answer();
    assert_eq!((answer.status, answer.body.as_str()), (431, ""), "{answer:?}");
    assert_eq!(large.rest(), "");
    eventually("it is counted", PATIENCE, || (bridge.refused("not_http") == 22.0).then_some(()));

    // One that sends and never reads: its answers fill all buffers, and the connection ends as an idle one does.
    let mut deaf = TcpStream::connect(bridge.public).unwrap();
    deaf.set_nonblocking(true).unwrap();
    let flood = "GET / HTTP/1.1\r\n\r\n".repeat(10_000);
    eventually("the flood is ended", PATIENCE, || {
        let written = deaf.write(flood.as_bytes());
        written.is_err_and(|error| error.kind() != ErrorKind::WouldBlock).then_some(())
    });
    eventually("nobody is left", PATIENCE, || (bridge.metrics()["chat_bridge_connections"] == 0.0).then_some(()));
    is_unharmed(&kafka, &prefix, bridge, 1);
}

#[test]
fn what_is_not_http_is_counted_and_whatever_a_body_holds_is_kept() {
    let kafka = kafka::shared();
    let prefix = prefix("rubbish");
    let (_site, bridge) = started(&kafka, &prefix, "http.header_timeout = \"2s\"");
    let hello = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), &[7; 506]].concat();
    let noise: Vec<u8> = (0..10_000).map(|_| fastrand::u8(..)).collect();
    let rubbish: [&[u8]; 9] = [
        &hello,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0",
        &[b"\x80".as_slice(), &noise].concat(),
        &[0; 1_000],
        b"POST\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nname with space: x\r\n\r\n",
    ];
    for (index, bytes) in rubbish.iter().enumerate() {
        let mut client = Client::connect(bridge.public);
        client.send(bytes);
        let rest = client.rest();
        let status = rest.strip_prefix("HTTP/1.1 ").map(|rest| &rest[..3]);
        assert!(rest.is_empty() || matches!(status, Some("400" | "431" | "505")), "{index}: {rest:?}");
        let expected = count(u64::try_from(index).unwrap() + 1);
        eventually(&format!("{index} is counted"), PATIENCE, || (bridge.refused("not_http") == expected).then_some(()));
    }

    let deep = format!("{}1{}", "{\"GroupId\":".repeat(100_000), "}".repeat(100_000));
    let wide = format!("{{\"GroupId\":\"wide\",\"List\":[{}0]}}", "0,".repeat(500_000));
    let bodies: [(&[u8], &str); 14] = [
        (b"", "dead-letter"),
        (b"{", "dead-letter"),
        (b"\xff\xfe\x00", "dead-letter"),
        (b"{\"GroupId\":\"\xc3\x28\"}", "dead-letter"),
        (b"{\"GroupId\":\"\0\"}", "dead-letter"),
        (br#"{"GroupId":"\u0000"}"#, "group-full"),
        (br#"{"GroupId":"\ud800"}"#, "dead-letter"),
        (deep.as_bytes(), "dead-letter"),
        (wide.as_bytes(), "group-full"),
        (br#"{"GroupId":"a","GroupId":"a"}"#, "dead-letter"),
        (br#"{"GroupId":"a","Other":1,"Other":2}"#, "group-full"),
        (br#"{"GroupId":"a","EventTime":1e999,"Number":123456789012345678901234567890e-400}"#, "group-full"),
        (br#"{"GroupId":"a","EventTime":99999999999999999999999999}"#, "group-full"),
        (br#"{"GroupId":null}"#, "dead-letter"),
    ];
    for (body, _) in &bodies {
        let answer = bridge.post_query(&format!("SdkAppid={APP}&CallbackCommand=Group.CallbackAfterGroupFull"), body);
        assert!(answer.is_success(), "{answer:?}");
    }
    bridge.settled(PATIENCE);
    for kind in ["group-full", "dead-letter"] {
        let expected = bodies.iter().filter(|(_, topic)| *topic == kind).count();
        assert_eq!(kafka.keys(&format!("{prefix}{kind}")).len(), expected, "{kind}");
    }
    is_unharmed(&kafka, &prefix, bridge, u64::try_from(bodies.len()).unwrap());
}

#[test]
fn senders_that_come_and_go_leave_nothing_behind() {
    let kafka = kafka::shared();
    let prefix = prefix("coming");
    let (_site, bridge) = started(&kafka, &prefix, "");
    let whole = request(&group_full("gone", 1));
    let abandon = |address: SocketAddr, at: usize| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&whole.as_bytes()[..at]).unwrap();
    };
    let head = whole.len() - group_full("gone", 1).len();
    for _ in 0..100 {
        abandon(bridge.public, 0);
        abandon(bridge.public, head / 2);
        abandon(bridge.public, head + 3);
    }
    // No connection may be open because none was taken yet: so their outcomes are waited for first.
    let outcomes = || (bridge.refused("not_http"), bridge.refused("body_incomplete"));
    eventually("those that had begun are counted", PATIENCE, || (outcomes() == (100.0, 100.0)).then_some(()));
    eventually("all are gone", PATIENCE, || (bridge.metrics()["chat_bridge_connections"] == 0.0).then_some(()));
    assert_eq!(outcomes(), (100.0, 100.0));
    eventually("their bodies' room is given back", PATIENCE, || (bridge.metric("chat_bridge_bodies_bytes") == 0.0).then_some(()));
    // A sender that hangs up before its answer: what became durable is accepted, and published.
    for _ in 0..20 {
        abandon(bridge.public, whole.len());
    }
    eventually("they are taken", PATIENCE, || (bridge.accepted() == 20.0).then_some(()));
    is_unharmed(&kafka, &prefix, bridge, 20);
}
