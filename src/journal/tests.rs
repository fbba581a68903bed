//! The journal as a whole, over a file system in memory that fails where a test says so, and over the real one.

mod appending;
mod bed;
mod format;
mod recovering;
mod room;
mod sealing;
