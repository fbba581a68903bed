//! TLS on the public port, with clients of other makes: curl, OpenSSL's own, Python's.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::support::bridge::{Bridge, OK, PATIENCE, Site, group_full, prefix, program, request};
use crate::support::certificates::{Authority, Pair, shows};
use crate::support::{eventually, kafka, tests_dir};

/// Longer than the period in which the files are compared, and as long again for a machine that is busy.
const RELOADED: Duration = Duration::from_secs(12);

const QUERY: &str = "SdkAppid=1400000000&CallbackCommand=Group.CallbackAfterGroupFull";

const EXPIRY: &str = "chat_bridge_certificate_not_after_timestamp_seconds";

/// Posts a callback by curl, which trusts this authority and nobody else.
fn curl(bridge: &Bridge, authority: &Authority, arguments: &[&str]) -> Output {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "30", "--cacert"]).arg(authority.certificate());
    command.args(["--data", &group_full("g", 1)]).args(arguments);
    command.arg(format!("https://localhost:{}/?{QUERY}", bridge.public.port())).output().unwrap()
}

fn is_taken(output: &Output) -> bool {
    output.status.success() && output.stdout == OK.as_bytes()
}

/// Posts a callback as if there were no TLS.
fn plain(bridge: &Bridge) -> bool {
    let mut stream = TcpStream::connect(bridge.public).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request(&group_full("g", 1)).as_bytes()).unwrap();
    let mut answer = Vec::new();
    // It may be reset in the middle of what it sends.
    drop(stream.read_to_end(&mut answer));
    answer.starts_with(b"HTTP/")
}

/// Whether this protocol alone is agreed upon (ALPN).
fn agrees_upon(bridge: &Bridge, protocol: &str) -> bool {
    let address = bridge.public.to_string();
    let client = Command::new("openssl").args(["s_client", "-connect", &address, "-alpn", protocol]).stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&client.stdout).contains(&format!("ALPN protocol: {protocol}"))
}

/// Connects, and resets the connection without a word.
fn reset(bridge: &Bridge) {
    let script = "import socket, struct, sys\n\
                  probe = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n\
                  probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\n\
                  probe.close()";
    assert!(Command::new("python3").args(["-c", script, &bridge.public.port().to_string()]).status().unwrap().success());
}

fn settings(pair: &Pair, client_ca: Option<&Path>) -> String {
    let client_ca = client_ca.map(|path| format!("client_ca = {path:?}\n")).unwrap_or_default();
    format!("[http.tls]\ncertificate = {:?}\nprivate_key = {:?}\n{client_ca}", pair.certificate, pair.key)
}

/// Puts a certificate and its key where the bridge looks for them, as Kubernetes does: links through `..data`, which is replaced as a whole.
fn mount(dir: &Path, version: &str, certificate: &Path, key: &Path) -> Pair {
    let data = dir.join(version);
    fs::create_dir_all(&data).unwrap();
    fs::copy(certificate, data.join("tls.crt")).unwrap();
    fs::copy(key, data.join("tls.key")).unwrap();
    symlink(version, dir.join("..new")).unwrap();
    fs::rename(dir.join("..new"), dir.join("..data")).unwrap();
    for file in ["tls.crt", "tls.key"].into_iter().filter(|file| !dir.join(file).exists()) {
        symlink(format!("..data/{file}"), dir.join(file)).unwrap();
    }
    Pair { certificate: dir.join("tls.crt"), key: dir.join("tls.key") }
}

#[test]
fn callbacks_come_by_tls_1_2_and_1_3_and_by_nothing_else() {
    let kafka = kafka::shared();
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(&dir.path().join("one"));
    let stranger = Authority::new(&dir.path().join("other"));
    let site = Site::new(&kafka.bootstrap_servers(), &prefix("tls"), &settings(&authority.pair("bridge", 30), None));
    site.change("shutdown.lame_duck = \"0s\"", "shutdown.lame_duck = \"0s\"\nhttp.header_timeout = \"3s\"");
    site.make_topics();
    let bridge = site.start();
    for version in [&["--tls-max", "1.2"][..], &["--tlsv1.3"], &["--http1.1"]] {
        let output = curl(&bridge, &authority, version);
        assert!(is_taken(&output), "{version:?}: {output:?}");
    }
    assert_eq!((bridge.accepted(), bridge.refused("tls")), (3.0, 0.0));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let left = (bridge.metric(EXPIRY) - now) / 86_400.0;
    assert!((29.0..31.0).contains(&left), "{left} days");

    let mut refused = 0.0;
    let mut fails = |what: &str, attempt: &dyn Fn() -> bool| {
        assert!(!attempt(), "{what}");
        refused += 1.0;
        eventually(what, PATIENCE, || (bridge.refused("tls") == refused).then_some(()));
    };
    // OpenSSL itself refuses to speak so old a version unless it is told that all is allowed.
    fails("TLS 1.1", &|| is_taken(&curl(&bridge, &authority, &["--tls-max", "1.1", "--ciphers", "ALL:@SECLEVEL=0"])));
    fails("a client that does not trust the certificate", &|| is_taken(&curl(&bridge, &stranger, &[])));
    fails("plain HTTP", &|| plain(&bridge));
    fails("another protocol than HTTP/1.1", &|| agrees_upon(&bridge, "h2"));
    let open = |count: f64| eventually("connections", PATIENCE, || (bridge.metrics()["chat_bridge_connections"] == count).then_some(()));
    for said in [&b""[..], b"\x16\x03\x01\x02\x00"] {
        fails("a handshake that does not go on", &|| {
            let mut slow = TcpStream::connect(bridge.public).unwrap();
            slow.set_read_timeout(Some(PATIENCE)).unwrap();
            slow.write_all(said).unwrap();
            // It takes up a place like any other.
            open(1.0);
            slow.read(&mut [0]).is_ok_and(|read| read > 0)
        });
    }
    fails("a client that hangs up in the middle", &|| {
        TcpStream::connect(bridge.public).unwrap().write_all(b"\x16\x03\x01\x02\x00").unwrap();
        false
    });
    // What load balancers do to see whether somebody is there is nobody's callback.
    drop(TcpStream::connect(bridge.public).unwrap());
    reset(&bridge);
    // Connections are accepted in their order, so both have been looked at once this one was.
    assert!(agrees_upon(&bridge, "http/1.1"));
    open(0.0);
    assert_eq!((bridge.refused("tls"), bridge.accepted()), (refused, 3.0));
    bridge.settled(PATIENCE);
    bridge.stop();
}

#[test]
fn with_authorities_of_clients_only_their_clients_are_taken() {
    let kafka = kafka::shared();
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(&dir.path().join("server"));
    let clients = Authority::new(&dir.path().join("clients"));
    let stranger = Authority::new(&dir.path().join("stranger"));
    let trusted = dir.path().join("trusted.pem");
    fs::copy(clients.certificate(), &trusted).unwrap();
    let site = Site::new(&kafka.bootstrap_servers(), &prefix("mutual"), &settings(&authority.pair("bridge", 30), Some(&trusted)));
    site.make_topics();
    let bridge = site.start();
    let by = |pair: &Pair| {
        let arguments = ["--cert", pair.certificate.to_str().unwrap(), "--key", pair.key.to_str().unwrap()];
        curl(&bridge, &authority, &arguments)
    };
    let (client, other) = (clients.pair("client", 30), stranger.pair("client", 30));
    let output = by(&client);
    assert!(is_taken(&output), "{output:?}");
    assert!(!is_taken(&curl(&bridge, &authority, &[])), "without a certificate");
    assert!(!is_taken(&by(&other)), "with one of another authority");
    eventually("both are counted", PATIENCE, || (bridge.refused("tls") == 2.0).then_some(()));
    let expired = clients.pair("expired", 0);
    eventually("one that has ended is refused", PATIENCE, || (!is_taken(&by(&expired))).then_some(()));

    let renewed = dir.path().join("renewed.pem");
    fs::copy(stranger.certificate(), &renewed).unwrap();
    fs::rename(&renewed, &trusted).unwrap();
    eventually("clients of the new authority are taken", RELOADED, || is_taken(&by(&other)).then_some(()));
    assert!(!is_taken(&by(&client)), "those of the old one are not any more");
    bridge.settled(PATIENCE);
    bridge.stop();
}

#[test]
fn a_new_certificate_is_taken_under_load_and_no_callback_is_refused() {
    let kafka = kafka::shared();
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(&dir.path().join("authority"));
    let mounted = dir.path().join("mounted");
    let (first, second, third) = (authority.pair("first", 30), authority.pair("second", 60), authority.pair("third", 90));
    let pair = mount(&mounted, "..1", &first.certificate, &first.key);
    let site = Site::new(&kafka.bootstrap_servers(), &prefix("renewed"), &settings(&pair, None));
    site.make_topics();
    let bridge = site.start();
    let port = bridge.public.port();
    let mut sender = Command::new("python3")
        .arg(tests_dir("bridge/tls/sender.py"))
        .arg(port.to_string())
        .arg(authority.certificate())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let more = || {
        let before = bridge.accepted();
        eventually("callbacks come", PATIENCE, || (bridge.accepted() >= before + 200.0).then_some(()));
    };
    more();
    let expiry = bridge.metric(EXPIRY);
    mount(&mounted, "..2", &second.certificate, &second.key);
    eventually("the new certificate is shown", RELOADED, || shows(port, &second.certificate).then_some(()));
    eventually("its end is told", PATIENCE, || (bridge.metric(EXPIRY) > expiry + 29.0 * 86_400.0).then_some(()));
    more();
    let failures = "chat_bridge_certificate_reload_failures_total";
    assert_eq!(bridge.metric(failures), 0.0);
    // Half a change: the key of another certificate.
    mount(&mounted, "..3", &third.certificate, &second.key);
    eventually("it is counted", RELOADED, || (bridge.metric(failures) >= 1.0).then_some(()));
    assert!(shows(port, &second.certificate), "the last good one stays");
    more();
    mount(&mounted, "..4", &third.certificate, &third.key);
    eventually("the whole change is taken", RELOADED, || shows(port, &third.certificate).then_some(()));
    more();

    drop(sender.stdin.take());
    let output = sender.wait_with_output().unwrap();
    let tally: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(tally["failures"], Value::Array(Vec::new()));
    assert_eq!((tally["sent"].as_f64(), tally["durable"].as_f64()), (Some(bridge.accepted()), Some(bridge.accepted())));
    bridge.settled(PATIENCE);
    let log = bridge.stop();
    assert_eq!(log.matches("certificate changed").count(), 2, "{log}");
    assert_eq!(log.matches("file unusable, its last good contents stay in force").count(), 1, "{log}");
}

#[test]
fn files_that_are_of_no_use_are_told_before_anything_begins() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(&dir.path().join("authority"));
    let (one, other) = (authority.pair("one", 30), authority.pair("other", 30));
    let text = dir.path().join("text");
    fs::write(&text, "no PEM\n").unwrap();
    let missing = dir.path().join("missing");
    let locked = dir.path().join("locked.key");
    let lock = ["pkcs8", "-topk8", "-passout", "pass:secret", "-in"];
    assert!(Command::new("openssl").args(lock).arg(&one.key).arg("-out").arg(&locked).status().unwrap().success());
    // Line ends that a copy by hand has lost: the whole key is one line then.
    let key = fs::read_to_string(&one.key).unwrap();
    let body: String = key.lines().filter(|line| !line.starts_with('-')).collect();
    let (joined, quoted) = (dir.path().join("joined.key"), dir.path().join("quoted.key"));
    fs::write(&joined, key.replace('\n', " ")).unwrap();
    fs::write(&quoted, key.replace('\n', "\\n")).unwrap();
    let bytes = |text: &str| text.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
    let large = dir.path().join("large");
    fs::write(&large, "#".repeat(1024 * 1024 + 1)).unwrap();
    for (certificate, key, said) in [
        (&one.certificate, &other.key, "use the certificate with its private key"),
        (&one.key, &one.key, "find a certificate in"),
        (&one.certificate, &one.certificate, "find a private key in"),
        (&text, &one.key, "find a certificate in"),
        (&one.certificate, &joined, "are its line ends lost?"),
        (&one.certificate, &quoted, "are its line ends lost?"),
        (&one.certificate, &locked, "it is encrypted"),
        (&large, &one.key, "larger than 1048576 bytes"),
        (&missing, &one.key, "http.tls.certificate"),
    ] {
        let settings = settings(&Pair { certificate: certificate.clone(), key: key.clone() }, None);
        let site = Site::new("127.0.0.1:1", "unused.", &settings);
        let checked = program().args(["check", "--config"]).arg(site.config()).output().unwrap();
        let checked_text = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert_eq!(checked.status.code(), Some(78), "{said}: {checked_text}");
        assert!(checked_text.contains(said), "{said}: {checked_text}");
        let log = Bridge::spawn(site.command()).ended_with(78, PATIENCE);
        assert!(log.contains(said), "{said}: {log}");
        for secret in ["PRIVATE KEY", &body[..16], &bytes(&body[..16])] {
            assert!(!log.contains(secret) && !checked_text.contains(secret), "{secret}: {checked_text}{log}");
        }
    }
}
