//! Golden files: callbacks and the very bytes that are published for them, in both modes.
//!
//! Each folder of `tests/golden/events/` is a case: `query` and `body` are what came (`traceparent` too, where there was one), `structured` and
//! `binary` what is published. Both are frozen with version 1. `BLESS=1 cargo test --lib golden` writes the expected files anew.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{Message, Normalised, normalise};
use crate::callback::query::Query;
use crate::callback::{Callback, command_in};
use crate::clock::Timestamp;
use crate::config::{self, Mode};
use crate::routing::{Routing, StreamId};

const BLESS: &str = "BLESS";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/events")
}

fn callback(case: &Path) -> Callback {
    let query = std::fs::read_to_string(case.join("query")).unwrap();
    let query = Query(query.trim_end());
    let body = std::fs::read(case.join("body")).unwrap();
    let text = |name: &str| std::fs::read_to_string(case.join(name)).ok().map(|text| text.trim_end().to_owned());
    Callback {
        received: Timestamp::from_millis(1_795_291_200_000).unwrap(),
        receipt: *b"0123456789abcdef",
        app: query.get("SdkAppid").unwrap().parse().unwrap(),
        command: query
            .get("CallbackCommand")
            .map(Cow::into_owned)
            .filter(|name| !name.is_empty())
            .or_else(|| command_in(&body))
            .unwrap_or_default(),
        query: query.without_sign().into_owned(),
        traceparent: text("traceparent"),
        tracestate: text("tracestate"),
        body: Bytes::from(body),
    }
}

/// A message as text: topic, key, headers, an empty line, the value's very bytes.
fn printed(routing: &Routing, stream: StreamId, message: &Message) -> Vec<u8> {
    let key = message.key.as_ref().map_or("none".to_owned(), |key| key.escape_ascii().to_string());
    let mut text = format!("topic: {}\nkey: {key}\n", routing.topic(routing.topic_of(stream)).name);
    for (name, value) in &message.headers {
        writeln!(text, "{name}: {}", value.escape_ascii()).unwrap();
    }
    text.push('\n');
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(&message.value);
    bytes
}

#[test]
fn events_are_what_the_golden_files_have() {
    let names = [("Foo.Named".to_owned(), "im.foo".to_owned())].into();
    let routing = Routing::new(&config::Topics { names, ..config::Topics::default() });
    let bless = std::env::var_os(BLESS).is_some_and(|value| !value.is_empty());
    let mut cases: Vec<_> = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    cases.sort();
    assert!(cases.len() > 10, "the cases are there");
    for case in cases {
        let callback = callback(&case);
        for (mode, name) in [(Mode::Structured, "structured"), (Mode::Binary, "binary")] {
            let printed = match normalise(&callback, &routing, mode) {
                Normalised::Event { stream, message } => printed(&routing, stream, &message),
                Normalised::DeadLetter(dead) => printed(&routing, routing.dead_letter(), &dead.message),
            };
            let file = case.join(name);
            if bless {
                std::fs::write(&file, &printed).unwrap();
            }
            let expected = std::fs::read(&file).unwrap_or_default();
            assert_eq!(String::from_utf8_lossy(&printed), String::from_utf8_lossy(&expected), "{}", file.display());
            assert_eq!(printed, expected, "{}", file.display());
        }
    }
}
