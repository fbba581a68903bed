//! `dev`: the whole way with nothing to set up.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::Args;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::output::Format;
use super::{Exit, Failure, Global, serve};
use crate::app::{Addresses, Purpose};
use crate::config::{Config, Delivery, Level, Period, Size};
use crate::kafka::embedded::Cluster;
use crate::kafka::tail::{Published, Tail};
use crate::log;
use crate::routing::Routing;

/// The journal of a trial is small, so that it is there at once.
const SEGMENT: Size = Size::from_mib(8);
/// Segments of it.
const SEGMENTS: u64 = 8;

/// How soon the printer notices the end.
const PRINTER_TICK: Duration = Duration::from_millis(100);

/// The most that is shown of what an event says.
const DATA_CHARS_MAX: usize = 500;

/// One line about an event; what is empty is left out.
struct Line<'a> {
    topic: &'a str,
    /// Why it is one, if it is.
    dead_letter: &'a str,
    key: &'a str,
    data: &'a str,
    id: &'a str,
    place: &'a str,
}

/// What the parts of the lines are.
const LEGEND: Line<'_> = Line {
    topic: "topic",
    dead_letter: "(of a dead letter: why)",
    key: "key",
    data: "data, or a dead letter's body",
    id: "event id",
    place: "[partition@offset]",
};

/// Run the bridge with nothing to set up: an embedded in-memory Kafka, a fresh journal in a temporary folder, any app id accepted.
///
/// Every published event is printed. Ctrl-C ends it at once, and everything is gone.
#[derive(Debug, Args)]
pub(super) struct Dev {
    /// Where callbacks are received.
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)))]
    listen: SocketAddr,
    /// Where probes and metrics are served.
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 9090)))]
    admin_listen: SocketAddr,
    /// The form of the output: for people, coloured on a terminal, or one JSON object a line.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl Dev {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let mut config = global.load()?;
        let io = |error: io::Error| Failure::caused(Exit::Io, &error);
        let kafka = |error: crate::kafka::Error| Failure::caused(Exit::Internal, &error);
        let folder = tempfile::Builder::new().prefix("chat-bridge-dev-").tempdir().map_err(io)?;
        let routing = Routing::new(&config.topics);
        let topics = routing.topic_labels();
        let partitions = config.topics.partitions.get();
        let cluster = Cluster::start(&topics, partitions).map_err(kafka)?;
        self.set_up(&mut config, &folder.path().join("journal"), cluster.bootstrap_servers());
        log::start(&config.log).map_err(|error| Failure::caused(Exit::Internal, &error))?;

        let tail = Tail::start(cluster.bootstrap_servers(), &topics, partitions).map_err(kafka)?;
        let printer = Printer { format: self.format, coloured: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() };
        let ended = Arc::new(AtomicBool::new(false));
        let for_printer = Arc::clone(&ended);
        let prints = thread::Builder::new().name("printer".to_owned()).spawn(move || {
            while !for_printer.load(Ordering::Acquire) {
                if let Some(published) = tail.next(PRINTER_TICK)
                    && !print_line(&printer.event(&published))
                {
                    return;
                }
            }
        });
        let prints = prints.map_err(io)?;
        let result = serve::run(config, Purpose::Trial, |addresses| {
            print_line(&printer.welcome(addresses, cluster.bootstrap_servers()));
        });
        ended.store(true, Ordering::Release);
        drop(prints.join());
        result
    }

    /// What a trial needs, over what is configured.
    fn set_up(&self, config: &mut Config, journal: &std::path::Path, bootstrap_servers: &str) {
        config.http.listen = self.listen;
        config.admin.listen = self.admin_listen;
        journal.clone_into(&mut config.journal.dir);
        let segment = SEGMENT.bytes().max(config.http.body_max.bytes().saturating_mul(2));
        config.journal.segment_size = Size::from_bytes(segment);
        config.journal.size_max = Size::from_bytes(segment.saturating_mul(SEGMENTS));
        config.journal.free_space_min = Size::from_bytes(0);
        bootstrap_servers.clone_into(&mut config.kafka.bootstrap_servers);
        config.kafka.properties.clear();
        config.kafka.secret_files.clear();
        config.topics.create = false;
        // The embedded cluster answers to transactions, and keeps none of their promises.
        config.kafka.delivery = Delivery::AtLeastOnce;
        config.shutdown.lame_duck = Period::from_millis(0);
        config.shutdown.drain_max = Period::from_millis(0);
        if config.log.level == Level::Info {
            // What it would say is on the screen already.
            config.log.level = Level::Warn;
        }
    }
}

/// Writes what happens to standard output.
#[derive(Clone, Copy, Debug)]
struct Printer {
    format: Format,
    coloured: bool,
}

impl Printer {
    fn welcome(self, addresses: Addresses, bootstrap_servers: &str) -> String {
        let Addresses { public, admin } = addresses;
        let body = r#"{"CallbackCommand":"Group.CallbackAfterGroupFull","GroupId":"@TGS#2J4SZEAEL","EventTime":"1670574414123"}"#;
        let curl = format!(
            "curl 'http://{public}/?SdkAppid=1400000000&CallbackCommand=Group.CallbackAfterGroupFull&contenttype=json' -d '{body}'"
        );
        match self.format {
            Format::Json => json!({
                "event": "started", "callbacks": format!("http://{public}/"), "admin": format!("http://{admin}/"),
                "bootstrap_servers": bootstrap_servers, "try": curl,
            })
            .to_string(),
            Format::Text => {
                let strong = self.style(Style::new().bold());
                let end = self.reset();
                let mut text = String::new();
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{strong}callbacks{end}  http://{public}/      any SdkAppid, no Sign");
                let _ = writeln!(text, "{strong}admin{end}      http://{admin}/readyz  /livez  /metrics");
                let _ = writeln!(text, "{strong}kafka{end}      {bootstrap_servers}    kcat -b {bootstrap_servers} -C -t chat.group-full");
                let _ = writeln!(text, "\n{strong}try{end}\n{curl}\n");
                let _ = writeln!(text, "Published events follow, a line each; Ctrl-C ends it, and nothing is kept.");
                let _ = write!(text, "{}", self.line(&LEGEND));
                text
            }
        }
    }

    fn event(self, published: &Published) -> String {
        match self.format {
            Format::Json => as_json(published),
            Format::Text => {
                let text = |bytes: &[u8]| plain(&String::from_utf8_lossy(bytes));
                let why: Vec<String> = ["dl_reason", "dl_detail"].iter().filter_map(|name| header(published, name)).collect();
                let dead_letter = if why.is_empty() { String::new() } else { format!("({})", plain(&why.join(": "))) };
                self.line(&Line {
                    topic: &published.topic,
                    dead_letter: &dead_letter,
                    key: &published.key.as_deref().map(text).unwrap_or_default(),
                    data: &data(&published.value),
                    id: &header(published, "ce_id").unwrap_or_default(),
                    place: &format!("[{}@{}]", published.partition, published.offset),
                })
            }
        }
    }

    /// What there is of a line, with one space between.
    fn line(self, line: &Line<'_>) -> String {
        let (topic, key, faint) = (AnsiColor::Cyan.on_default().bold(), AnsiColor::Yellow.on_default(), Style::new().dimmed());
        let parts = [
            (topic, line.topic),
            (AnsiColor::Red.on_default(), line.dead_letter),
            (key, line.key),
            (Style::new(), line.data),
            (faint, line.id),
            (faint, line.place),
        ];
        let parts = parts.into_iter().filter(|(_, part)| !part.is_empty());
        parts.map(|(style, part)| format!("{}{part}{}", self.style(style), self.reset())).collect::<Vec<_>>().join(" ")
    }

    fn style(self, style: Style) -> String {
        if self.coloured { style.render().to_string() } else { String::new() }
    }

    fn reset(self) -> &'static str {
        if self.coloured { "\u{1b}[0m" } else { "" }
    }
}

/// Tells whether somebody still reads.
fn print_line(line: &str) -> bool {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
}

/// The event's `data` where the value is a structured event, else the whole value; not more than a few lines of a terminal.
fn data(value: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Structured<'a> {
        #[serde(borrow)]
        data: &'a RawValue,
    }
    let text = match serde_json::from_slice::<Structured<'_>>(value) {
        Ok(event) => event.data.get().into(),
        Err(_) => String::from_utf8_lossy(value),
    };
    match text.char_indices().nth(DATA_CHARS_MAX) {
        Some((end, _)) => format!("{}… ({} bytes)", plain(text.get(..end).unwrap_or_default()), text.len()),
        None => plain(&text),
    }
}

/// The text with what would move a terminal's cursor written out.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() { plain.extend(character.escape_default()) } else { plain.push(character) }
    }
    plain
}

fn header(published: &Published, name: &str) -> Option<String> {
    published.headers.iter().find(|(known, _)| known == name).map(|(_, value)| String::from_utf8_lossy(value).into_owned())
}

/// One line: topic, partition, offset, key, headers, and the value as the JSON that it is, or as text where it is none.
fn as_json(published: &Published) -> String {
    let text = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes));
    let headers: Map<String, Value> = published.headers.iter().map(|(name, value)| (name.clone(), text(value))).collect();
    let value = serde_json::from_slice::<Value>(&published.value).unwrap_or_else(|_| text(&published.value));
    json!({
        "event": "published", "topic": published.topic, "partition": published.partition, "offset": published.offset,
        "key": published.key.as_deref().map(text), "headers": headers, "value": value,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(value: &str) -> Published {
        Published {
            topic: "chat.group-full".to_owned(),
            partition: 2,
            offset: 7,
            key: Some(b"@TGS#1".to_vec()),
            value: value.as_bytes().to_vec(),
            headers: vec![("ce_id".to_owned(), b"5f0c".to_vec())],
        }
    }

    #[test]
    fn an_event_is_one_line_without_colours_where_nobody_looks() {
        let printer = Printer { format: Format::Text, coloured: false };
        let line = printer.event(&published(r#"{"specversion":"1.0","data":{"group_id":"@TGS#1"}}"#));
        assert_eq!(line, r#"chat.group-full @TGS#1 {"group_id":"@TGS#1"} 5f0c [2@7]"#);
        let line = printer.event(&published("not\njson\u{1b}"));
        assert_eq!(line, "chat.group-full @TGS#1 not\\njson\\u{1b} 5f0c [2@7]");
        let keyless = Published { key: None, headers: Vec::new(), ..published("{}") };
        assert_eq!(printer.event(&keyless), "chat.group-full {} [2@7]");
        assert_eq!(printer.line(&LEGEND), "topic (of a dead letter: why) key data, or a dead letter's body event id [partition@offset]");
    }

    #[test]
    fn a_dead_letter_says_why_and_shows_its_body_as_it_is() {
        let printer = Printer { format: Format::Text, coloured: false };
        let mut letter = published(r#"{"GroupId":"a\"b"}"#);
        letter.headers.extend([("dl_reason".to_owned(), b"wrong_shape".to_vec()), ("dl_detail".to_owned(), b"no\nGroupId".to_vec())]);
        assert_eq!(printer.event(&letter), r#"chat.group-full (wrong_shape: no\nGroupId) @TGS#1 {"GroupId":"a\"b"} 5f0c [2@7]"#);
    }

    #[test]
    fn a_long_body_is_cut_for_people_and_whole_for_programs() {
        let long = format!(r#"{{"data":"{}"}}"#, "群".repeat(DATA_CHARS_MAX));
        let text = Printer { format: Format::Text, coloured: false }.event(&published(&long));
        assert!(text.contains("群… (1502 bytes) 5f0c"), "{text}");
        assert!(text.chars().count() < DATA_CHARS_MAX + 80, "{text}");
        let json: Value = serde_json::from_str(&Printer { format: Format::Json, coloured: false }.event(&published(&long))).unwrap();
        assert_eq!(json["value"]["data"].as_str().unwrap().chars().count(), DATA_CHARS_MAX);
    }

    #[test]
    fn an_event_is_one_json_object_a_line() {
        let printer = Printer { format: Format::Json, coloured: true };
        let line: Value = serde_json::from_str(&printer.event(&published(r#"{"data":1}"#))).unwrap();
        assert_eq!(line["value"], json!({"data": 1}));
        assert_eq!(line["headers"]["ce_id"], "5f0c");
        let line: Value = serde_json::from_str(&printer.event(&published("no json"))).unwrap();
        assert_eq!(line["value"], "no json");
    }
}
