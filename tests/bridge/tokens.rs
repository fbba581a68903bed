//! Who may send: signatures, tokens that rotate while the bridge runs, networks, and proxies that speak for others.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::support::bridge::{APP, Answer, Bridge, PATIENCE, Site, exchange, group_full, prefix};
use crate::support::{eventually, kafka};

/// Longer than the period in which tokens files are compared, and as long again for a machine that is busy.
const RELOADED: Duration = Duration::from_secs(12);

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn sign(token: &str, time: u64) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::digest(format!("{token}{time}"));
    digest.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn post(bridge: &Bridge, authentication: &str) -> u16 {
    let query = format!("SdkAppid={APP}&CallbackCommand=Group.CallbackAfterGroupFull{authentication}");
    bridge.post_query(&query, group_full("g", 1).as_bytes()).status
}

/// The status of a callback that this token signs now.
fn signed(bridge: &Bridge, token: &str) -> u16 {
    let time = now();
    post(bridge, &format!("&Sign={}&RequestTime={time}", sign(token, time)))
}

/// Has the folder's files come from another one, as Kubernetes does: the files are links through `..data`, which is replaced as a whole.
fn mount(dir: &Path, version: &str, tokens: &str) {
    let data = dir.join(version);
    fs::create_dir(&data).unwrap();
    fs::write(data.join("tokens"), tokens).unwrap();
    symlink(version, dir.join("..new")).unwrap();
    fs::rename(dir.join("..new"), dir.join("..data")).unwrap();
    if !dir.join("tokens").exists() {
        symlink("..data/tokens", dir.join("tokens")).unwrap();
    }
}

#[test]
fn a_sign_is_required_checked_and_follows_the_tokens_file_as_it_rotates() {
    let kafka = kafka::shared();
    let prefix = prefix("tokens");
    let secrets = tempfile::tempdir().unwrap();
    mount(secrets.path(), "..1", "older\n");
    let file = secrets.path().join("tokens");
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, &format!("[[apps]]\nsdk_app_id = {APP}\ntokens_file = {file:?}\n"));
    site.make_topics();
    let bridge = site.start();

    let time = now();
    let right = sign("older", time);
    for (authentication, status) in [
        (format!("&Sign={right}&RequestTime={time}"), 200),
        (format!("&requesttime={time}&SIGN={}", right.to_uppercase()), 200),
        (String::new(), 401),
        (format!("&RequestTime={time}"), 401),
        (format!("&Sign={right}"), 401),
        (format!("&Sign={}&RequestTime={time}", sign("other", time)), 401),
        (format!("&Sign={right}&RequestTime={}", time + 1), 401),
        (format!("&Sign={}&RequestTime={}", sign("older", time - 120), time - 120), 401),
        (format!("&Sign={}&RequestTime={}", sign("older", time + 120), time + 120), 401),
        (format!("&Sign={right}&Sign={right}&RequestTime={time}"), 400),
    ] {
        assert_eq!(post(&bridge, &authentication), status, "{authentication}");
    }
    assert_eq!((bridge.refused("sign_missing"), bridge.refused("sign_wrong"), bridge.refused("request_time")), (3.0, 2.0, 2.0));
    assert_eq!(bridge.refused("duplicate_parameter"), 1.0);

    assert_eq!(signed(&bridge, "newer"), 401);
    mount(secrets.path(), "..2", "older\nnewer\n");
    eventually("the new token counts", RELOADED, || (signed(&bridge, "newer") == 200).then_some(()));
    assert_eq!(signed(&bridge, "older"), 200, "the old one too, while both stand");
    mount(secrets.path(), "..3", "newer\n");
    eventually("the old token no longer counts", RELOADED, || (signed(&bridge, "older") == 401).then_some(()));
    assert_eq!(signed(&bridge, "newer"), 200);

    let failures = "chat_bridge_tokens_reload_failures_total";
    assert_eq!(bridge.metric(failures), 0.0);
    fs::remove_dir_all(secrets.path().join("..3")).unwrap();
    eventually("the loss is counted", RELOADED, || (bridge.metric(failures) >= 1.0).then_some(()));
    assert_eq!((signed(&bridge, "newer"), signed(&bridge, "older")), (200, 401), "the last good ones stay");
    mount(secrets.path(), "..4", "newest\n");
    eventually("the file is read again", RELOADED, || (signed(&bridge, "newest") == 200).then_some(()));

    bridge.settled(PATIENCE);
    let log = bridge.stop();
    assert!(["older", "newer", "newest", &right].iter().all(|secret| !log.contains(*secret)), "{log}");
    for said in ["file unusable, its last good contents stay in force", "file usable again"] {
        assert_eq!(log.matches(said).count(), 1, "{said}: {log}");
    }
}

fn forwarded(bridge: &Bridge, app: u64, addresses: &[&str]) -> Answer {
    let body = group_full("g", 1);
    let lines: String = addresses.iter().flat_map(|address| ["X-Forwarded-For: ", address, "\r\n"]).collect();
    let head =
        format!("POST /?SdkAppid={app} HTTP/1.1\r\nHost: b\r\nConnection: close\r\n{lines}Content-Length: {}\r\n\r\n{body}", body.len());
    exchange(bridge.public, head.as_bytes())
}

#[test]
fn an_app_s_networks_are_kept_and_only_a_trusted_proxy_speaks_for_others() {
    let kafka = kafka::shared();
    let prefix = prefix("sources");
    let apps = "[[apps]]\nsdk_app_id = 1\nsources = [\"203.0.113.0/24\", \"2001:db8::/32\"]\n[[apps]]\nsdk_app_id = 2\nsources = [\"127.0.0.0/8\"]\n";
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, apps);
    site.make_topics();
    let bridge = site.start();
    // Nobody is trusted: the sender is whoever has connected.
    for (app, addresses, status) in [(2, &[][..], 200), (1, &[], 403), (1, &["203.0.113.9"], 403), (2, &["203.0.113.9"], 200)] {
        assert_eq!(forwarded(&bridge, app, addresses).status, status, "{app} {addresses:?}");
    }
    assert_eq!(bridge.refused("source"), 2.0);
    bridge.stop();

    site.configure(&kafka.bootstrap_servers(), &prefix, &format!("http.trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\n{apps}"));
    let bridge = site.start();
    for (app, addresses, status) in [
        (2, &[][..], 200),
        (1, &[], 403),
        (1, &["203.0.113.9"], 200),
        (1, &["2001:db8::7"], 200),
        (2, &["203.0.113.9"], 403),
        (1, &["198.51.100.1"], 403),
        // The rightmost that no proxy of ours has, whatever stands before it.
        (1, &["198.51.100.1, 203.0.113.9"], 200),
        (1, &["203.0.113.9, 198.51.100.1"], 403),
        (1, &["198.51.100.1, 203.0.113.9, 10.1.2.3"], 200),
        (1, &["203.0.113.9", "198.51.100.1"], 403),
        (1, &["198.51.100.1", "203.0.113.9"], 200),
        (1, &["203.0.113.9, nobody"], 403),
    ] {
        assert_eq!(forwarded(&bridge, app, addresses).status, status, "{app} {addresses:?}");
    }
    bridge.settled(PATIENCE);
    bridge.stop();
}
