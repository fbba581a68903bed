//! Tests of the real program and of its parts with real counterparts: Apache Kafka, consumers of other languages, sockets, signals.
//!
//! One program, so that one broker serves them all.
#![cfg(test)]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by a panic, in its helpers too")]

mod cli;
mod faults;
mod ingress;
mod kafka_client;
mod kill;
mod spine;
mod support;
