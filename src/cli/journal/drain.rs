//! `journal drain`: publishes what is left of a folder.

use std::fmt;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::super::output::{Format, on_terminal};
use super::super::{Exit, Failure, Global, print, serve};
use super::{Place, counted, failure, folder};
use crate::app::{self, Drained};
use crate::config::Level;
use crate::log;

/// Publish what is left of a folder without serving, such as that of an instance that is gone.
///
/// It takes the folder's lock, so no bridge may use it: exit code 78 where one does. Use the configuration of the instance that the folder belonged to,
/// `kafka.instance` included: events, order, dead letters and repetitions are what a start of that bridge would make of it. Nothing is received meanwhile.
///
/// With `kafka.delivery = "exactly-once"` a bridge that has come to work under the same instance number since, in another folder, is stopped first: where
/// anything is unpublished this takes the name from it, and either ends the other.
///
/// Exit code 0 once nothing is left; 69 where something is, because Kafka has confirmed nothing for the time that --timeout grants, or a signal came. What
/// was published by then is not published again by the next try.
#[derive(Debug, Args)]
pub(in crate::cli) struct Drain {
    #[command(flatten)]
    place: Place,
    /// How long it goes on without a confirmation from Kafka.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// The form of the summary.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl Drain {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let mut config = self.place.config(global)?;
        if config.log.level == Level::Info {
            // The summary says what the log would.
            config.log.level = Level::Warn;
        }
        log::start(&config.log).map_err(|error| Failure::caused(Exit::Internal, &error))?;
        // A name that was mistyped must not become a folder with a new journal.
        folder(&config).look().map_err(|error| failure(&error))?;
        let dir = config.journal.dir.display().to_string();

        let bar = on_terminal(|| ProgressBar::new(0));
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} completed") {
            bar.set_style(style);
        }
        let progress = |unpublished: u64, of: u64| {
            bar.set_length(of.max(unpublished));
            bar.set_position(of.saturating_sub(unpublished));
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::caused(Exit::Io, &error))?;
        let result = runtime.block_on(app::drain(config, self.timeout, progress));
        runtime.shutdown_background();
        bar.finish_and_clear();
        let summary = Summary::new(dir, result.map_err(|error| serve::failure(&error))?);
        print(&self.format.write(&summary)?)?;
        summary.verdict()
    }
}

#[derive(Debug, Serialize)]
struct Summary {
    dir: String,
    identity: String,
    /// Records that were unpublished when it began: what became of them, and what is left, is as many.
    unpublished: u64,
    /// Records that Kafka's positions call published, and the folder did not.
    earlier: u64,
    published: u64,
    dead_lettered: u64,
    corrupt: u64,
    discarded: u64,
    /// Records that are unpublished still.
    left: u64,
    reasons: Vec<String>,
    #[serde(skip)]
    is_empty: bool,
}

impl Summary {
    fn new(dir: String, drained: Drained) -> Self {
        let Drained { report, unpublished, earlier, published, dead_lettered, corrupt, discarded, left } = drained;
        let is_empty = left.is_none();
        let (left, reasons) = left.map_or((0, Vec::new()), |left| (left.records, left.reasons));
        let identity = report.identity.to_string();
        Self { dir, identity, unpublished, earlier, published, dead_lettered, corrupt, discarded, left, reasons, is_empty }
    }

    fn verdict(&self) -> Result<(), Failure> {
        if self.is_empty && self.corrupt == 0 {
            return Ok(());
        }
        if self.is_empty {
            let lost = counted(self.corrupt, "record");
            return Err(Failure::new(
                Exit::Corruption,
                format!("nothing is left, but {lost} could not be read; the pieces are in the folder's set-aside/"),
            ));
        }
        let why = if self.reasons.is_empty() { "Kafka confirms nothing".to_owned() } else { self.reasons.join("; ") };
        Err(Failure::new(Exit::Unavailable, format!("{} left: {why}", counted(self.left, "record"))))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "journal      {} ({})", self.dir, self.identity)?;
        writeln!(out, "unpublished  {} at the start", counted(self.unpublished, "record"))?;
        for (what, count) in [
            ("earlier", self.earlier),
            ("published", self.published),
            ("dead letter", self.dead_lettered),
            ("corrupt", self.corrupt),
            ("discarded", self.discarded),
            ("left", self.left),
        ] {
            writeln!(out, "{what:11}  {count}")?;
        }
        write!(out, "{}", if self.is_empty { "nothing is left" } else { "what is left stays in the folder for the next try" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_which_something_could_not_be_read_is_no_folder_to_throw_away() {
        let summary = |corrupt: u64, is_empty: bool| Summary {
            dir: "/mnt/old".to_owned(),
            identity: "1".to_owned(),
            unpublished: 2,
            earlier: 0,
            published: 1,
            dead_lettered: 0,
            corrupt,
            discarded: 0,
            left: u64::from(!is_empty),
            reasons: Vec::new(),
            is_empty,
        };
        for (corrupt, is_empty, expected) in
            [(0, true, None), (1, true, Some(Exit::Corruption)), (0, false, Some(Exit::Unavailable)), (1, false, Some(Exit::Unavailable))]
        {
            assert_eq!(summary(corrupt, is_empty).verdict().err().map(|failure| failure.exit), expected);
        }
    }
}
