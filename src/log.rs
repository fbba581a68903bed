//! Where log lines go: to standard error, as JSON or text. Never a body, a query string or a secret; those who log see to that.

use std::io::{self, IsTerminal};

use tracing::Dispatch;
use tracing::dispatcher::SetGlobalDefaultError;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Format, Level, Log};

/// Log lines are being written already.
#[derive(Debug, thiserror::Error)]
#[error("failed to start logging")]
pub struct Error(#[source] SetGlobalDefaultError);

/// An error with its causes behind one another, on one line.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Writes the log lines of the whole process from now on. To be called once.
///
/// Without a format, text on a terminal and JSON elsewhere. Colours only on a terminal, and not where `NO_COLOR` is set.
pub fn start(config: &Log) -> Result<(), Error> {
    let terminal = io::stderr().is_terminal();
    let format = config.format.unwrap_or(if terminal { Format::Text } else { Format::Json });
    let plain = !terminal || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = if plain { Colours::Never } else { Colours::InText };
    tracing::dispatcher::set_global_default(lines(config.level, format, colours, io::stderr)).map_err(Error)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colours {
    Never,
    InText,
}

/// What turns events into lines.
fn lines<W>(level: Level, format: Format, colours: Colours, to: W) -> Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // A line that cannot be written is lost: saying so would go to the same standard error, and end the thread with a panic where that is closed.
    let lines = tracing_subscriber::fmt()
        .with_max_level(filter(level))
        .with_writer(to)
        .with_ansi(colours == Colours::InText && format == Format::Text)
        .log_internal_errors(false);
    match format {
        Format::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).into(),
        Format::Text => lines.into(),
    }
}

const fn filter(level: Level) -> LevelFilter {
    match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(level: Level, format: Format, colours: Colours) -> String {
        let memory = Memory::default();
        let to = memory.clone();
        tracing::dispatcher::with_default(&lines(level, format, colours, move || to.clone()), || {
            tracing::info!(topic = "chat.member-exit", "topic parked");
            tracing::debug!("a detail");
        });
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_has_one_object_a_line_with_its_fields_beside_the_message() {
        let text = written(Level::Info, Format::Json, Colours::InText);
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&line["level"], &line["message"], &line["topic"]),
            (&"INFO".into(), &"topic parked".into(), &"chat.member-exit".into())
        );
        assert!(line["timestamp"].is_string());
    }

    #[test]
    fn the_level_decides_what_is_written() {
        for (level, count) in [(Level::Error, 0), (Level::Warn, 0), (Level::Info, 1), (Level::Debug, 2), (Level::Trace, 2)] {
            assert_eq!(written(level, Format::Text, Colours::Never).lines().count(), count, "{level:?}");
        }
    }

    #[test]
    fn text_is_coloured_only_where_it_may_be() {
        assert!(!written(Level::Info, Format::Text, Colours::Never).contains('\u{1b}'));
        assert!(written(Level::Info, Format::Text, Colours::InText).contains('\u{1b}'));
    }
}
