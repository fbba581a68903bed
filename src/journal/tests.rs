//! The journal as a whole, over a file system in memory that fails where a test says so, and over the real one.

mod appending;
mod bed;
mod crash;
mod folders;
mod format;
mod inspecting;
mod recovering;
mod retaining;
mod room;
mod sealing;
