//! The other side: Chat's callbacks as load, and the proof that all arrived.
//!
//! [`load`] sends callbacks as Chat would and writes a [`log`] of what was sent and how it was answered; [`verify`] reads that log and the topics, and
//! says whether each promise of the bridge held. Nothing here is shared with the bridge's own reading of callbacks and writing of events: commands,
//! kinds, signatures and the shape of events are spelt out once more, so that a mistake on that side shows on this one.

pub mod command;
mod identity;
pub mod load;
pub mod log;
pub mod topics;
pub mod verify;
