//! A verified callback and its command.
