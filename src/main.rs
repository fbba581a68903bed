//! The command line of chat-bridge.

use std::process::ExitCode;

/// Records are allocated on one thread and freed on another, at which this allocator is cheapest.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    chat_bridge::cli::main(std::env::args_os()).into()
}
