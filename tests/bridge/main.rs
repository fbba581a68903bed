//! Tests of the real program and of its parts with real counterparts: Apache Kafka, consumers of other languages, sockets, signals.
//!
//! One program, so that one broker serves them all.
#![cfg(test)]
#![expect(clippy::float_cmp, reason = "counters are whole numbers")]

mod cli;
mod disk;
mod exactly_once;
mod faults;
mod hostile;
mod ingress;
mod kafka_client;
mod kill;
mod shutdown;
mod spine;
mod support;
mod tokens;
