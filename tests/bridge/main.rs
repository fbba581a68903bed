//! Tests of the real program and of its parts with real counterparts: Apache Kafka, consumers of other languages, sockets, signals.
//!
//! One program, so that one set of brokers serves them all.
#![cfg(test)]
#![expect(clippy::float_cmp, reason = "counters are whole numbers")]

mod brokers;
mod cli;
mod clock;
mod desync;
mod disk;
mod drain;
mod exactly_once;
mod faults;
mod hostile;
mod ingress;
mod journal;
mod kafka_client;
mod kill;
mod network;
mod pages;
mod power;
mod recreation;
mod restored;
mod security;
mod shutdown;
mod soak;
mod spine;
mod support;
mod tls;
mod tokens;
mod traces;
mod transactions;
