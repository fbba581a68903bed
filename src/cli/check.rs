//! `check`: everything that is wrong with the configuration.

use std::fmt::Write;

use clap::Args;
use serde_json::json;

use super::output::{self, Format};
use super::{Exit, Failure, Global, counted, known, print};
use crate::config::{self, Config, Problem, Warning};
use crate::{ingress, kafka, log, traces};

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
            Ok(config) => {
                let problems: Vec<_> = [config.http.tls.as_ref().and_then(no_tls), no_traces(&config.tracing), no_kafka(&config)]
                    .into_iter()
                    .flatten()
                    .collect();
                let failure = problems.first().map(|_| Failure::new(Exit::Configuration, "the configuration has a problem".to_owned()));
                (problems, config::warnings(&config, &known()), failure)
            }
            Err(problems) => {
                let failure = Failure::new(Exit::Configuration, counted(&problems));
                (problems.iter().cloned().collect(), Vec::new(), Some(failure))
            }
        };
        print(&match self.format {
            Format::Text => text(&problems, &warnings),
            Format::Json => output::json(&json!({ "problems": problems, "warnings": warnings }))?,
        })?;
        failure.map_or(Ok(()), Err)
    }
}

/// What is wrong with the files of `[http.tls]`, each of which is there.
fn no_tls(files: &config::Tls) -> Option<Problem> {
    let problem = ingress::Tls::open(files).err()?;
    Some(Problem { key: "http.tls".to_owned(), message: format!("failed to {}", log::with_causes(&problem)), origin: None })
}

/// What is wrong with the files of `[tracing]`, each of which is there.
fn no_traces(config: &config::Tracing) -> Option<Problem> {
    let problem = traces::check(config).err()?;
    Some(Problem { key: "tracing".to_owned(), message: format!("failed to {}", log::with_causes(&problem)), origin: None })
}

/// What librdkafka says against its properties, each of which may be set.
fn no_kafka(config: &Config) -> Option<Problem> {
    let problem = kafka::Settings::load(&config.kafka, &config.topics).and_then(|settings| settings.check()).err()?;
    Some(Problem { key: "kafka.properties".to_owned(), message: format!("failed to {}", log::with_causes(&problem)), origin: None })
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
