//! `config`: the configuration in force.

use clap::{Args, Subcommand, ValueEnum};

use super::{Exit, Failure, Global, print};

/// The configuration in force.
#[derive(Debug, Subcommand)]
pub(super) enum Config {
    Dump(Dump),
}

/// Print the configuration in force, with defaults, as text that reads back as the same configuration.
///
/// Secrets are paths of files, which are printed; what the files hold is not.
#[derive(Debug, Args)]
pub(super) struct Dump {
    /// The form of the output.
    #[arg(long, value_enum, default_value_t = Format::Toml)]
    format: Format,
}

/// The form of the output.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// As a configuration file has it.
    Toml,
    /// One JSON object.
    Json,
}

impl Config {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let Self::Dump(Dump { format }) = self;
        let config = global.load()?;
        let text = match format {
            Format::Toml => config.to_toml().map_err(|error| Failure::caused(Exit::Internal, &error))?,
            Format::Json => config.to_json().map_err(|error| Failure::caused(Exit::Internal, &error))? + "\n",
        };
        print(&text)
    }
}
