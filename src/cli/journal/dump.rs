//! `journal dump`: prints records, bodies included: that is what it is for.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::super::{Exit, Failure, Global};
use super::filter::{Filter, Selection};
use super::verify::Corrupt;
use super::{Place, counted, failure, folder};
use crate::callback::Callback;
use crate::clock::Clock;
use crate::event::{self, Message, Normalised};
use crate::journal::Lsn;
use crate::routing::Routing;

/// Print records as they were received, or as the events that they are published as, one a line. Bodies are printed, which may hold personal data.
///
/// It takes no lock and changes nothing; beside a running bridge the last tenth of a second is left out. What is corrupt is passed over, told on
/// standard error, and ends in exit code 65.
#[derive(Debug, Args)]
pub(in crate::cli) struct Dump {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    filter: Filter,
    /// What of each record.
    #[arg(long = "as", value_enum, value_name = "FORM", default_value_t = Form::Callbacks)]
    form: Form,
    /// The form of the output.
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
}

/// What of each record is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// What was received: time, app, command, query, body.
    Callbacks,
    /// What is published: topic, key, headers, value. A value that is JSON stands in it as it is, but for line breaks.
    Events,
}

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// LSN, time of receipt, command or topic, group, and the body or value, on one line.
    Text,
    /// One JSON object a line. Bytes that are not UTF-8 are Base64, under a name that ends in `_base64`.
    Json,
}

impl Dump {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let config = self.place.config(global)?;
        let (folder, routing) = (folder(&config), Routing::new(&config.topics));
        let view = folder.look().map_err(|error| failure(&error))?;
        let filter = self.filter.resolve(Clock::system().now());
        let mut selection = Selection::new(&folder, &view, &filter, (&routing, config.events.mode));
        let mut out = BufWriter::new(io::stdout().lock());
        while let Some((lsn, callback)) = selection.next()? {
            let published = || published(&routing, event::normalise(&callback, &routing, config.events.mode));
            let line = match (self.form, self.format) {
                (Form::Callbacks, Format::Json) => json(&received(lsn, &callback))?,
                (Form::Callbacks, Format::Text) => {
                    let (_, message) = published();
                    text(lsn, &callback, (&callback.command, &message), &callback.body)
                }
                (Form::Events, Format::Json) => {
                    let (topic, message) = published();
                    json(&Event::new(lsn, topic, &message))?
                }
                (Form::Events, Format::Text) => {
                    let (topic, message) = published();
                    text(lsn, &callback, (topic, &message), &message.value)
                }
            };
            match writeln!(out, "{line}") {
                // A reader that has seen enough (`| head`).
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                other => other.map_err(|error| unwritten(&error))?,
            }
        }
        match out.flush() {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(unwritten(&error)),
            Ok(()) | Err(_) => {}
        }
        drop(out);
        tell(&selection)
    }
}

fn unwritten(error: &io::Error) -> Failure {
    Failure::new(Exit::Io, format!("failed to write to standard output: {error}"))
}

/// What was not printed although it was meant, or may have been.
fn tell(selection: &Selection<'_>) -> Result<(), Failure> {
    let mut notes = io::stderr().lock();
    if selection.freed > 0 {
        // Where standard error cannot be written, the exit code still tells.
        let _ = writeln!(notes, "chat-bridge: {} were freed meanwhile, for they are published", counted(selection.freed, "record"));
    }
    for corruption in &selection.corrupt {
        let _ = writeln!(notes, "chat-bridge: {}", Corrupt::of(corruption));
    }
    if selection.corrupt.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Corruption, format!("the journal is corrupt: {} lost", counted(selection.lost(), "record"))))
}

fn published(routing: &Routing, normalised: Normalised) -> (&str, Message) {
    let stream = match &normalised {
        Normalised::Event { stream, .. } => *stream,
        Normalised::DeadLetter(_) => routing.dead_letter(),
    };
    (&routing.topic(routing.topic_of(stream)).name, super::filter::message(normalised))
}

fn json(what: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(what).map_err(|error| Failure::new(Exit::Internal, format!("failed to write JSON: {error}")))
}

/// Adds bytes as text, or else as Base64 under a name that says so.
fn put(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
    };
}

fn received(lsn: Lsn, callback: &Callback) -> Value {
    let mut object = Map::new();
    let mut receipt = String::new();
    for byte in callback.receipt {
        // Writing to a String cannot fail.
        let _ = write!(receipt, "{byte:02x}");
    }
    for (name, value) in [
        ("lsn", Value::from(lsn.get())),
        ("received", callback.received.to_string().into()),
        ("app", callback.app.into()),
        ("command", callback.command.clone().into()),
        ("query", callback.query.clone().into()),
        ("traceparent", callback.traceparent.clone().into()),
        ("tracestate", callback.tracestate.clone().into()),
        ("receipt", receipt.into()),
    ] {
        object.insert(name.to_owned(), value);
    }
    put(&mut object, "body", &callback.body);
    Value::Object(object)
}

/// What Kafka is given.
#[derive(Serialize)]
struct Event<'a> {
    lsn: u64,
    topic: &'a str,
    #[serde(flatten)]
    key: Map<String, Value>,
    headers: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl<'a> Event<'a> {
    fn new(lsn: Lsn, topic: &'a str, message: &Message) -> Self {
        let (mut key, mut headers) = (Map::new(), Map::new());
        match &message.key {
            Some(bytes) => put(&mut key, "key", bytes),
            None => drop(key.insert("key".to_owned(), Value::Null)),
        }
        for (name, bytes) in &message.headers {
            put(&mut headers, name, bytes);
        }
        let value = verbatim(&message.value);
        let value_base64 = value.is_none().then(|| STANDARD.encode(&message.value));
        Self { lsn: lsn.get(), topic, key, headers, value, value_base64 }
    }
}

/// JSON as it is, on one line: between its tokens a line break means no more than a blank, and within none can stand. Other text as a JSON text.
fn verbatim(value: &[u8]) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(value).ok()?;
    RawValue::from_string(text.replace(['\n', '\r'], " ")).or_else(|_| serde_json::value::to_raw_value(text)).ok()
}

/// One line for eyes; whatever could move the terminal's cursor is escaped.
fn text(lsn: Lsn, callback: &Callback, (to, message): (&str, &Message), bytes: &[u8]) -> String {
    let group = message.key.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    let escaped = |text: &str| text.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'");
    format!(
        "{lsn} {} {} {} {}",
        callback.received,
        if to.is_empty() { "-".to_owned() } else { escaped(to) },
        if group.is_empty() { "-".to_owned() } else { escaped(&group) },
        escaped(&String::from_utf8_lossy(bytes))
    )
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock::Timestamp;
    use crate::config;

    fn callback(command: &str, body: &[u8]) -> Callback {
        Callback {
            received: Timestamp::from_micros(1_670_574_414_123_000),
            receipt: [0xab; 16],
            app: 7,
            command: command.to_owned(),
            query: "SdkAppid=7".to_owned(),
            traceparent: None,
            tracestate: None,
            body: Bytes::copy_from_slice(body),
        }
    }

    #[test]
    fn a_callback_is_what_was_received() {
        let value = received(Lsn::new(5), &callback("A.b", b"{\"x\":\n1}"));
        let expected = serde_json::json!({
            "lsn": 5, "received": "2022-12-09T08:26:54.123Z", "app": 7, "command": "A.b", "query": "SdkAppid=7", "traceparent": null, "tracestate": null,
            "receipt": "ab".repeat(16), "body": "{\"x\":\n1}",
        });
        assert_eq!(value, expected);
        let value = received(Lsn::new(5), &callback("A.b", b"\xff\x00"));
        assert_eq!((value.get("body"), value["body_base64"].as_str()), (None, Some("/wA=")));
    }

    #[test]
    fn an_event_is_the_very_one_that_would_be_published_on_one_line() {
        let routing = Routing::new(&config::Topics::default());
        let event = |command: &str, body: &[u8]| {
            let (topic, message) = published(&routing, event::normalise(&callback(command, body), &routing, config::Mode::Structured));
            let line = json(&Event::new(Lsn::new(9), topic, &message)).unwrap();
            assert!(!line.contains('\n'), "{line}");
            (serde_json::from_str::<Value>(&line).unwrap(), line, message)
        };
        let (value, line, message) = event("Foo.Bar", b"{\"GroupId\":\"g\",\r\n\"Big\":1e15}");
        assert_eq!((&value["topic"], &value["key"]), (&"chat.unrecognized".into(), &"g".into()));
        assert_eq!(value["headers"]["ce_id"], message.id.to_string());
        assert_eq!(value["value"]["id"], message.id.to_string());
        assert!(line.contains("\"data\":{\"GroupId\":\"g\",  \"Big\":1e15}"), "{line}");

        let (value, _, message) = event("Group.CallbackAfterGroupFull", b"no\njson");
        assert_eq!((&value["topic"], &value["key"]), (&"chat.dead-letter".into(), &Value::Null));
        assert_eq!((value["value"].as_str(), message.value.as_ref()), (Some("no\njson"), b"no\njson".as_slice()));
        let (value, ..) = event("Group.CallbackAfterGroupFull", b"\xff");
        assert_eq!((value.get("value"), value["value_base64"].as_str()), (None, Some("/w==")));
    }

    #[test]
    fn a_line_for_eyes_moves_no_cursor() {
        let callback = callback("A.b", b"{\"it's\":\"\x1b[2J\"}\n");
        let routing = Routing::new(&config::Topics::default());
        let message = super::super::filter::message(event::normalise(&callback, &routing, config::Mode::Structured));
        let line = text(Lsn::new(3), &callback, (&callback.command, &message), &callback.body);
        assert_eq!(line, "3 2022-12-09T08:26:54.123Z A.b - {\"it's\":\"\\u{1b}[2J\"}\\n");
    }
}
