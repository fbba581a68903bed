//! `check`: everything that is wrong with the configuration.

use std::fmt::Write;

use clap::{Args, ValueEnum};
use serde_json::json;

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

/// The form of the output.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// One line each.
    Text,
    /// One JSON object.
    Json,
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
        print(&self.format.write(&problems, &warnings))?;
        failure.map_or(Ok(()), Err)
    }
}

impl Format {
    fn write(self, problems: &[Problem], warnings: &[Warning]) -> String {
        match self {
            Self::Json => format!("{:#}\n", json!({ "problems": problems, "warnings": warnings })),
            Self::Text => {
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
        }
    }
}
