//! The verbs of the command line, one file each, and the codes with which they end.
//!
//! A verb's product goes to standard output, everything else to standard error. Only `main` ends the process.

mod check;
mod completions;
mod config;
mod dev;
mod healthcheck;
mod journal;
mod output;
mod serve;
mod simulate;
mod topics;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Arg, Args, Parser, Subcommand};
use rustix::fs::Mode;

use crate::callback;
use crate::config::{self as settings, Config, KnownCommand, Problems};
use crate::log;

/// Receives the callbacks of Tencent Cloud Chat, makes each durable, and publishes it to the Kafka topic of its command.
#[derive(Debug, Parser)]
#[command(name = "chat-bridge", version)]
pub struct CommandLine {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The configuration, a TOML file; defaults and environment alone where it is absent.
    #[arg(long, global = true, value_name = "FILE", env = settings::FILE_VARIABLE, hide_env_values = true, value_parser = file())]
    config: Option<PathBuf>,
}

/// A path, which may be empty: so is a variable that is set to nothing, and the configuration says more of it than a parser of arguments can.
fn file() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// The same argument for verbs that take no configuration, so that one line of arguments does for all of them. Help does not show it.
fn unused_config() -> Arg {
    Arg::new("config").long("config").global(true).value_parser(file()).hide(true)
}

/// What the program can do.
#[derive(Debug, Subcommand)]
enum Verb {
    Serve(serve::Serve),
    Dev(dev::Dev),
    Check(check::Check),
    #[command(subcommand)]
    Config(config::Config),
    Healthcheck(healthcheck::Healthcheck),
    #[command(subcommand)]
    Topics(topics::Topics),
    #[command(subcommand)]
    Journal(journal::Journal),
    #[command(subcommand, arg(unused_config()))]
    Simulate(simulate::Simulate),
    #[command(arg(unused_config()))]
    Completions(completions::Completions),
}

impl Verb {
    fn run(self, global: &Global) -> Result<(), Failure> {
        match self {
            Self::Serve(verb) => verb.run(global),
            Self::Dev(verb) => verb.run(global),
            Self::Check(verb) => verb.run(global),
            Self::Config(verb) => verb.run(global),
            Self::Healthcheck(verb) => verb.run(global),
            Self::Topics(verb) => verb.run(global),
            Self::Journal(verb) => verb.run(global),
            Self::Simulate(verb) => verb.run(),
            Self::Completions(verb) => verb.run(),
        }
    }
}

/// What files and folders that are made do not grant: anything to others, and to the group to write.
const NOT_FOR_OTHERS: Mode = Mode::RWXO.union(Mode::WGRP);

/// Does what the arguments, the first being the program's name, ask for.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let line = match CommandLine::try_parse_from(arguments) {
        Ok(line) => line,
        Err(error) => {
            // Where neither stream can be written there is nothing left to say.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Success };
        }
    };
    // Bodies stand in the journal and in whatever is written of it: they are nobody else's.
    let inherited = rustix::process::umask(NOT_FOR_OTHERS);
    rustix::process::umask(inherited | NOT_FOR_OTHERS);
    match line.verb.run(&line.global) {
        Ok(()) => Exit::Success,
        Err(failure) => {
            if failure.told == Told::No {
                let _ = writeln!(io::stderr(), "chat-bridge: {failure}");
            }
            failure.exit
        }
    }
}

impl Global {
    /// The configuration in force; the files that it names are not looked at.
    pub(crate) fn load(&self) -> Result<Config, Failure> {
        settings::load(self.config.as_deref(), environment(), &known()).map_err(|problems| Failure::configuration(&problems))
    }

    /// The configuration in force, with all that `serve` needs.
    pub(crate) fn load_for_serve(&self) -> Result<Config, Problems> {
        settings::load_for_serve(self.config.as_deref(), environment(), &known())
    }
}

/// The commands that the bridge knows, in the words of the configuration.
pub(crate) fn known() -> Vec<KnownCommand<'static>> {
    callback::commands().map(|command| KnownCommand { name: command.name, kind: command.kind }).collect()
}

/// The environment. What is not UTF-8 has a replacement character, by which the configuration knows and refuses it.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}

/// Writes a verb's product. A reader that has seen enough (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Io, format!("failed to write to standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// With what code the process ends (`sysexits.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is done.
    Success,
    /// The arguments make no sense.
    Usage,
    /// The journal is corrupt.
    Corruption,
    /// Kafka, or the bridge that was asked, is not there.
    Unavailable,
    /// The program is at fault.
    Internal,
    /// Reading or writing failed.
    Io,
    /// The configuration is wrong.
    Configuration,
}

impl Exit {
    /// The code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Usage => 64,
            Self::Corruption => 65,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::Io => 74,
            Self::Configuration => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a verb did not do what it was asked for.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
    told: Told,
}

/// Whether a failure stands in the log already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    No,
    InLog,
}

impl Failure {
    /// A failure that is told in one line.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), told: Told::No }
    }

    /// A failure with its causes, which stand behind one another on the line.
    #[must_use]
    pub fn caused(exit: Exit, error: &dyn std::error::Error) -> Self {
        Self::new(exit, log::with_causes(error))
    }

    /// A configuration that is wrong, with each problem on a line of its own.
    #[must_use]
    pub fn configuration(problems: &Problems) -> Self {
        Self::new(Exit::Configuration, format!("{}\n{problems}", counted(problems.iter().count())))
    }

    /// Tells it in the log, where there is one by now, and nowhere else.
    #[must_use]
    fn logged(self) -> Self {
        tracing::error!(exit_code = self.exit.code(), error = %self.message, "the bridge ends");
        Self { told: Told::InLog, ..self }
    }

    /// With what code the process ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

/// How many problems there are, for the line above them.
fn counted(problems: usize) -> String {
    match problems {
        1 => "the configuration has a problem".to_owned(),
        count => format!("the configuration has {count} problems"),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn a_failure_tells_its_causes_on_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("failed to {0}")]
        struct Cause(&'static str, #[source] Option<Box<Cause>>);
        let error = Cause("start", Some(Box::new(Cause("listen", None))));
        let failure = Failure::caused(Exit::Io, &error);
        assert_eq!((failure.to_string().as_str(), failure.exit()), ("failed to start: failed to listen", Exit::Io));
    }
}
