//! What several verbs write: a report as text or JSON, and how far something long is.

use std::fmt::Display;
use std::io::{self, IsTerminal};

use clap::ValueEnum;
use indicatif::ProgressBar;
use serde::Serialize;

use super::{Exit, Failure};

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs: JSON.
    Json,
}

impl Format {
    /// `what`, with one line break behind it.
    pub(crate) fn write(self, what: &(impl Display + Serialize)) -> Result<String, Failure> {
        match self {
            Self::Text => Ok(format!("{}\n", what.to_string().trim_end_matches('\n'))),
            Self::Json => json(what),
        }
    }
}

/// One JSON object, over several lines.
pub(super) fn json(what: &impl Serialize) -> Result<String, Failure> {
    match serde_json::to_string_pretty(what) {
        Ok(text) => Ok(format!("{text}\n")),
        Err(error) => Err(Failure::new(Exit::Internal, format!("failed to write JSON: {error}"))),
    }
}

/// A bar where standard error is a terminal, else one that is never drawn.
pub(crate) fn on_terminal(make: impl FnOnce() -> ProgressBar) -> ProgressBar {
    if io::stderr().is_terminal() { make() } else { ProgressBar::hidden() }
}
