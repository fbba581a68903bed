//! `dev`: the whole way with nothing to set up.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::{Args, ValueEnum};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

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
    /// The form of the output: for eyes, or one JSON object a line.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Compact, coloured on a terminal.
    Text,
    /// One JSON object a line.
    Json,
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
                let _ = write!(text, "Published events follow. Ctrl-C ends it; nothing is kept.");
                text
            }
        }
    }

    fn event(self, published: &Published) -> String {
        match self.format {
            Format::Json => as_json(published),
            Format::Text => {
                let (topic, key, faint) = (
                    self.style(AnsiColor::Cyan.on_default().bold()),
                    self.style(AnsiColor::Yellow.on_default()),
                    self.style(Style::new().dimmed()),
                );
                let end = self.reset();
                let group = published.key.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
                let id = header(published, "ce_id").unwrap_or_default();
                let why = header(published, "dl_reason").map(|reason| format!(" {reason}")).unwrap_or_default();
                format!(
                    "{topic}{}{end}{why} {key}{group}{end} {} {faint}{id} [{}@{}]{end}",
                    published.topic,
                    data(&published.value),
                    published.partition,
                    published.offset
                )
            }
        }
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

/// The event's `data` where the value is a structured event, else the whole value.
fn data(value: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Structured<'a> {
        #[serde(borrow)]
        data: &'a RawValue,
    }
    match serde_json::from_slice::<Structured<'_>>(value) {
        Ok(event) => event.data.get().to_owned(),
        Err(_) => String::from_utf8_lossy(value).escape_debug().to_string(),
    }
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
        assert!(!line.contains('\n') && !line.contains('\u{1b}'), "{line}");
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
