//! `check`: everything that is wrong with the configuration.

use std::fmt::Write;

use clap::Args;
use serde_json::json;

use super::format::{self, Format};
use super::{Exit, Failure, Global, counted, known, print};
use crate::config::{self, Problem, Warning};

/// Read the configuration and print every problem with its dotted key; exit code 78 if there is one.
///
/// The files that it names (tokens, Kafka's secrets) are looked at too. What is allowed and probably not meant is printed as a warning.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The form of the output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl Check {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let (problems, warnings, failure) = match global.load_for_serve() {
            Ok(config) => (Vec::new(), config::warnings(&config, &known()), None),
            Err(problems) => {
                let failure = Failure::new(Exit::Configuration, counted(&problems));
                (problems.iter().cloned().collect(), Vec::new(), Some(failure))
            }
        };
        print(&match self.format {
            Format::Text => text(&problems, &warnings),
            Format::Json => format::json(&json!({ "problems": problems, "warnings": warnings }))?,
        })?;
        failure.map_or(Ok(()), Err)
    }
}

/// One line each.
fn text(problems: &[Problem], warnings: &[Warning]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for problem in problems {
        let _ = writeln!(text, "{problem}");
    }
    for warning in warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    if problems.is_empty() {
        text.push_str("no problems\n");
    }
    text
}
