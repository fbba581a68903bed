//! `journal`: what is in a journal's folder, for the operator.
//!
//! What only looks takes no lock and changes nothing, so that it is safe beside a running bridge. Bodies are printed by `dump` alone.

mod drain;
mod dump;
mod filter;
mod replay;
mod status;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use super::output::on_terminal;
use super::{Exit, Failure, Global};
use crate::config::Config;
use crate::journal::inspect::{Folder, Sweep};
use crate::journal::storage::Disk;
use crate::journal::{Class, Error};

/// The journal's folder: what is in it, and what can be done with it.
#[derive(Debug, Subcommand)]
pub(super) enum Journal {
    Status(status::Status),
    Verify(verify::Verify),
    Dump(Box<dump::Dump>),
    Replay(Box<replay::Replay>),
    Drain(drain::Drain),
}

impl Journal {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        match self {
            Self::Status(verb) => verb.run(global),
            Self::Verify(verb) => verb.run(global),
            Self::Dump(verb) => verb.run(global),
            Self::Replay(verb) => verb.run(global),
            Self::Drain(verb) => verb.run(global),
        }
    }
}

/// Which folder.
#[derive(Debug, Args)]
struct Place {
    /// The journal's folder; `journal.dir` of the configuration where it is absent.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Place {
    /// The configuration, whose journal is in this folder.
    fn config(&self, global: &Global) -> Result<Config, Failure> {
        let mut config = global.load()?;
        if let Some(dir) = &self.dir {
            config.journal.dir.clone_from(dir);
        }
        Ok(config)
    }
}

fn folder(config: &Config) -> Folder {
    Folder::new(Arc::new(Disk::default()), &config.journal.dir)
}

/// A failure of reading the journal.
fn failure(error: &Error) -> Failure {
    let exit = match error.class() {
        Class::Configuration => Exit::Configuration,
        Class::Io => Exit::Io,
        Class::Internal => Exit::Internal,
    };
    Failure::new(exit, format!("failed to {}", Failure::caused(exit, error)))
}

/// How far a reading of the folder is.
struct Bar {
    bar: ProgressBar,
    steps: u32,
}

impl Bar {
    /// So many steps lie between two looks at how far it is.
    const STEPS: u32 = 1024;

    fn start() -> Self {
        let bar = on_terminal(|| ProgressBar::new(0));
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {binary_bytes}/{binary_total_bytes} {msg}") {
            bar.set_style(style);
        }
        Self { bar, steps: 0 }
    }

    fn hidden() -> Self {
        Self { bar: ProgressBar::hidden(), steps: 0 }
    }

    fn step(&mut self, sweep: &Sweep, message: impl FnOnce() -> String) {
        if self.steps.is_multiple_of(Self::STEPS) {
            let (done, all) = sweep.progress();
            self.bar.set_length(all);
            self.bar.set_position(done);
            self.bar.set_message(message());
        }
        self.steps = self.steps.wrapping_add(1);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn size(bytes: u64) -> String {
    ByteSize::b(bytes).to_string()
}

/// The LSNs from `first` to the one before `next`.
fn lsns(first: u64, next: u64) -> String {
    if first < next { format!("LSN {first} to {}", next - 1) } else { format!("none; the next gets LSN {next}") }
}

fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
