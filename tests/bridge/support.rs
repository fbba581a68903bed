//! What the tests start, drive and look at from outside.

pub(crate) mod bridge;
pub(crate) mod certificates;
pub(crate) mod collector;
pub(crate) mod consumers;
pub(crate) mod http;
pub(crate) mod kafka;
pub(crate) mod load;
pub(crate) mod proxy;
pub(crate) mod senders;
pub(crate) mod trial;
pub(crate) mod volume;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Every wait on the bridge is over by then.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// How long to wait between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Waits until `look` finds something.
///
/// # Panics
/// Where it does not within `timeout`; `what` says what it was.
pub(crate) fn eventually<T>(what: &str, timeout: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {timeout:?}: {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Says something to who runs the tests, of a test that passes too: what is printed is kept from them.
pub(crate) fn say(text: &str) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

/// A whole number from the environment.
///
/// # Panics
/// Where it is none.
pub(crate) fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no whole number")))
}

/// A path below `tests/`.
pub(crate) fn tests_dir(below: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests").join(below)
}

/// A port that nobody listens on, below the ephemeral range.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(20_000..32_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
