//! The two forms of a verb's output: for people, and for programs.

use std::fmt::Display;

use clap::ValueEnum;
use serde::Serialize;

use super::{Exit, Failure};

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// For programs: JSON.
    Json,
}

impl Format {
    /// `what`, with a line break behind it.
    pub(super) fn write(self, what: &(impl Display + Serialize)) -> Result<String, Failure> {
        match self {
            Self::Text => Ok(format!("{what}\n")),
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
