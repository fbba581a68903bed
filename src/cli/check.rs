//! `check`: everything that is wrong with the configuration.

use std::fmt::Write;

use clap::Args;
use serde_json::json;

use super::output::{self, Format};
use super::{Exit, Failure, Global, counted, known, print};
use crate::config::{self, Config, Problem, Warning};
use crate::{admin, ingress, kafka, log, traces};

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
                let parts = [no_tls(&config), no_tokens(&config), no_admin_tokens(&config), no_traces(&config), no_kafka(&config)];
                let problems: Vec<_> = parts.into_iter().flatten().collect();
                let failure = (!problems.is_empty()).then(|| Failure::new(Exit::Configuration, counted(problems.len())));
                (problems, config::warnings(&config, &known()), failure)
            }
            Err(problems) => {
                let failure = Failure::new(Exit::Configuration, counted(problems.iter().count()));
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
fn no_tls(config: &Config) -> Option<Problem> {
    let problem = ingress::Tls::open(config.http.tls.as_ref()?).err()?;
    Some(failed("http.tls", &problem))
}

/// What is wrong with an app's tokens file, which is there.
fn no_tokens(config: &Config) -> Option<Problem> {
    Some(failed("apps", &ingress::check_tokens(config).err()?))
}

/// The same of the operator's.
fn no_admin_tokens(config: &Config) -> Option<Problem> {
    let problem = admin::drain::Tokens::open(config.admin.token_file.as_ref()?).err()?;
    Some(Problem { key: "admin.token_file".to_owned(), message: problem.to_string(), origin: None })
}

/// What is wrong with the files of `[tracing]`, each of which is there.
fn no_traces(config: &Config) -> Option<Problem> {
    Some(failed("tracing", &traces::check(&config.tracing).err()?))
}

/// What librdkafka says against its properties, each of which may be set.
fn no_kafka(config: &Config) -> Option<Problem> {
    let problem = kafka::Settings::load(&config.kafka, &config.topics).and_then(|settings| settings.check()).err()?;
    Some(failed("kafka.properties", &problem))
}

fn failed(key: &str, problem: &dyn std::error::Error) -> Problem {
    Problem { key: key.to_owned(), message: format!("failed to {}", log::with_causes(problem)), origin: None }
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
