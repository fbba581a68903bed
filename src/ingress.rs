//! The public HTTP side.
