//! Senders that go on until the bridge is gone, and what they were told meanwhile.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::bridge::{Answer, attempt, closing_request, group_full, padded};

/// So many at once.
const SENDERS: u32 = 4;

/// A limit on what each sends, far above what any test needs.
const CALLBACKS_MAX: u64 = 1_000_000;

/// How long a bridge that has begun to refuse may go on to: far longer than it has for its end.
const REFUSES_MAX: Duration = Duration::from_secs(20);

/// What `ErrorInfo` says where there is no room.
const FULL: &str = "no room";

/// What senders were told by a bridge that fails.
#[derive(Debug)]
pub(crate) struct Told {
    /// The groups of the callbacks that were answered with success.
    pub(crate) answered: BTreeSet<String>,
    /// When the first one was not.
    pub(crate) failed_at: Instant,
}

#[derive(Default)]
struct Notes {
    answered: BTreeSet<String>,
    failed_at: Option<Instant>,
}

/// Posts callbacks, each of a group of its own and of so many bytes, until nobody listens any more. Each is answered with success or 503, or not at all;
/// once one was not answered with success, none that is sent later is. A journal that is full instead has met no failure, and ends the test.
pub(crate) fn send_until_gone(public: SocketAddr, bytes: usize) -> Told {
    let notes = Mutex::new(Notes::default());
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let notes = &notes;
            scope.spawn(move || send(public, sender, bytes, notes));
        }
    });
    let Notes { answered, failed_at } = notes.into_inner().unwrap();
    Told { answered, failed_at: failed_at.unwrap() }
}

fn send(public: SocketAddr, sender: u32, bytes: usize, notes: &Mutex<Notes>) {
    for number in 0..CALLBACKS_MAX {
        let group = format!("{sender}-{number}");
        let begun = Instant::now();
        let answer = attempt(public, closing_request(&padded(group_full(&group, number), bytes)).as_bytes());
        let mut notes = notes.lock().unwrap();
        if answer.as_ref().is_ok_and(Answer::is_success) {
            assert!(notes.failed_at.is_none_or(|failed| begun < failed), "answered with success after the failure");
            notes.answered.insert(group);
            continue;
        }
        notes.failed_at.get_or_insert_with(Instant::now);
        match answer {
            Ok(answer) => {
                assert_eq!(answer.status, 503, "{answer:?}");
                assert!(
                    !answer.body.contains(FULL),
                    "the journal is full: what should have ended the bridge never came, or was passed over"
                );
                let refuses = notes.failed_at.map_or(Duration::ZERO, |failed| failed.elapsed());
                assert!(refuses < REFUSES_MAX, "the bridge has refused for {refuses:?}, and does not end: {answer:?}");
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return,
            Err(_) => {}
        }
    }
}
