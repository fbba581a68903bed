//! `completions`: what a shell needs to complete our command lines.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{CommandLine, Failure, print};

/// Print what a shell needs to complete command lines: `source <(chat-bridge completions bash)`.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut CommandLine::command(), "chat-bridge", &mut script);
        print(&String::from_utf8_lossy(&script))
    }
}
