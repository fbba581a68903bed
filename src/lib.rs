//! chat-bridge receives the callbacks of Tencent Cloud Chat and publishes them to Kafka.
//!
//! **A callback is answered with success only after it is durable**, and what is durable is published once Kafka takes it.
//!
//! The modules in the order of the data path:
//! [`ingress`] → [`journal`] → [`forwarder`] → [`event`] → [`routing`] → [`kafka`]; [`traces`] goes along with it where spans are recorded.

pub mod admin;
pub mod app;
pub mod callback;
pub mod cli;
pub mod clock;
pub mod config;
mod durable_file;
pub mod event;
pub mod forwarder;
pub mod ingress;
pub mod journal;
pub mod kafka;
pub mod log;
pub mod metrics;
mod pem;
mod reload;
pub mod routing;
pub mod simulate;
pub mod traces;
