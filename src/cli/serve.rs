//! `serve`: runs the bridge.

use clap::Args;

use super::{Exit, Failure, Global, known};
use crate::app::{self, Addresses, Purpose, Remedy};
use crate::config::{self, Config};
use crate::log;

/// Run the bridge until SIGTERM or SIGINT.
///
/// It starts whatever Kafka's state is: callbacks are made durable and answered, and published once Kafka takes them.
#[derive(Debug, Args)]
pub(super) struct Serve {}

impl Serve {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let Self {} = self;
        let config = global.load_for_serve().map_err(|problems| Failure::configuration(&problems))?;
        log::start(&config.log).map_err(|error| Failure::caused(Exit::Internal, &error))?;
        for warning in config::warnings(&config, &known()) {
            tracing::warn!(key = %warning.key, "{}", warning.message);
        }
        run(config, Purpose::Serve, |_| {}).map_err(Failure::logged)
    }
}

/// Runs the bridge on this thread.
pub(super) fn run(config: Config, purpose: Purpose, started: impl FnOnce(Addresses)) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::caused(Exit::Io, &error))?;
    let result = runtime.block_on(app::run(config, purpose, started));
    // A disk that does not answer must not keep the process: nothing that was answered is in memory alone.
    runtime.shutdown_background();
    result.map_err(|error| failure(&error))
}

/// What ended a bridge.
pub(super) fn failure(error: &app::Error) -> Failure {
    let exit = match error.remedy() {
        Remedy::Configuration => Exit::Configuration,
        Remedy::Io => Exit::Io,
        Remedy::Unavailable => Exit::Unavailable,
        Remedy::Internal => Exit::Internal,
    };
    Failure::caused(exit, error)
}
