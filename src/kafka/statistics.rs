//! How Kafka is: brokers, authentication and the client's queue, from librdkafka's statistics, its error callback and the delivery reports.
//!
//! Moves [`metrics::Kafka`], keeps the [`Snapshot`] for `/readyz`, and writes one line to the log for each change of state. It never decides about a record.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::types::RDKafkaErrorCode as Code;
use serde::Deserialize;

use super::ErrorCode;
use super::doubt::Seen;
use crate::metrics::{self, BrokerState};

/// What the brokers' side looks like. It outlives single producers: the next one goes on with the same. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Status(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    snapshot: Mutex<Tracked>,
    /// Whether a delivery is news: it ends a loss, or shows that a dead producer's successor lives.
    lost: AtomicBool,
    metrics: metrics::Kafka,
}

#[derive(Debug, Default)]
struct Tracked {
    snapshot: Snapshot,
    /// There was a producer before.
    built: bool,
    /// A handshake has failed since the last statistics.
    refused_lately: bool,
    /// What the last connection failed with: that all brokers are down says only how many they are.
    connection_error: Option<String>,
}

/// How Kafka was when last heard of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Whether any broker can be reached.
    pub connection: Connection,
    /// The brokers by the state of our connection to them; `None` until the first statistics.
    pub brokers: Option<Brokers>,
    /// Why the TLS or SASL handshake fails, without secrets; `None` while it does not.
    pub authentication: Option<String>,
    /// Why the last producer died, until its successor has delivered something.
    pub fatal: Option<String>,
    /// Why no producer can be built, while none can: nothing is published meanwhile.
    pub unbuilt: Option<String>,
}

/// Whether any broker can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connection {
    /// Not known yet.
    #[default]
    Starting,
    /// At least one broker is connected and has taken our credentials.
    Up,
    /// None is.
    Lost,
}

/// Brokers by the state of our connection to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Brokers {
    /// Usable.
    pub up: u32,
    /// On the way there.
    pub connecting: u32,
    /// Not connected because nothing asks for it.
    pub idle: u32,
    /// Not connected.
    pub down: u32,
}

impl Status {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(metrics: metrics::Kafka) -> Self {
        Self(Arc::new(Inner { snapshot: Mutex::default(), lost: AtomicBool::new(true), metrics }))
    }

    /// How Kafka is.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.lock().snapshot.clone()
    }

    /// An error that librdkafka reports about a connection or about itself; `reason` holds no secret any more.
    pub(super) fn error(&self, code: ErrorCode, reason: &str) {
        self.0.metrics.errors(code.kind()).inc();
        let mut tracked = self.lock();
        if code.kind() == ErrorCode(Code::Authentication).kind() {
            tracked.refused_lately = true;
            self.0.metrics.authentication_failed.set(1);
            if tracked.snapshot.authentication.is_none() {
                tracing::warn!(reason, "kafka authentication failed");
            }
            tracked.snapshot.authentication = Some(reason.to_owned());
        } else if code.0 == Code::AllBrokersDown {
            self.lost(&mut tracked, reason);
        } else {
            tracing::debug!(%code, reason, "kafka error");
            if matches!(code.0, Code::BrokerTransportFailure | Code::Resolve | Code::OperationTimedOut) {
                tracked.connection_error = Some(reason.to_owned());
            }
        }
    }

    /// No producer can be built of the settings; tried again, and told once for each reason.
    pub fn unbuilt(&self, reason: &str) {
        let mut tracked = self.lock();
        if tracked.snapshot.unbuilt.as_deref() != Some(reason) {
            tracing::error!(reason, "kafka producer cannot be built: nothing is published until it can");
        }
        tracked.snapshot.unbuilt = Some(reason.to_owned());
    }

    /// A producer was built.
    pub fn built(&self) {
        let mut tracked = self.lock();
        let (before, unbuilt) = (std::mem::replace(&mut tracked.built, true), tracked.snapshot.unbuilt.take());
        if before || unbuilt.is_some() {
            tracing::info!("kafka producer built again");
        }
    }

    /// The producer is dead. Told once for each.
    pub(super) fn fatal(&self, reason: &str) {
        self.0.metrics.errors(ErrorCode(Code::Fatal).kind()).inc();
        let mut tracked = self.lock();
        if tracked.snapshot.fatal.is_none() {
            tracing::warn!(reason, "kafka producer died");
        }
        tracked.snapshot.fatal = Some(reason.to_owned());
        // The next delivery is news: it is the successor's.
        self.0.lost.store(true, Ordering::Relaxed);
    }

    /// Kafka has confirmed a record. Called for each one.
    pub(super) fn delivered(&self) {
        if self.0.lost.load(Ordering::Relaxed) {
            let mut tracked = self.lock();
            self.0.lost.store(false, Ordering::Relaxed);
            tracked.snapshot.fatal = None;
            Self::back(&mut tracked);
        }
    }

    /// The statistics of a producer, every few seconds. `before` is what its last ones counted up; the answer is what these do.
    pub(super) fn statistics(&self, json: &[u8], before: Counted) -> Counted {
        let digest = match Digest::read(json) {
            Ok(digest) => digest,
            Err(error) => {
                tracing::debug!(%error, "kafka statistics not understood");
                return before;
            }
        };
        let metrics = &self.0.metrics;
        metrics.queue_bytes.set(digest.queue_bytes);
        metrics.request_retries.inc_by(digest.counted.retries.saturating_sub(before.retries));
        metrics.broker_rtt_p99_seconds.set(digest.rtt_p99_seconds);
        let brokers = digest.brokers.settled();
        for (state, count) in brokers.by_state() {
            metrics.brokers(state).set(i64::from(count));
        }
        let mut tracked = self.lock();
        tracked.snapshot.brokers = Some(brokers);
        if brokers.up > 0 {
            Self::back(&mut tracked);
            // One broker may take our credentials while another refuses them: only an interval without a refusal ends it.
            if !tracked.refused_lately && tracked.snapshot.authentication.take().is_some() {
                metrics.authentication_failed.set(0);
                tracing::info!("kafka authentication good again");
            }
        } else if brokers.all_down() {
            self.lost(&mut tracked, "no broker is connected");
        }
        tracked.refused_lately = false;
        digest.counted
    }

    fn lost(&self, tracked: &mut Tracked, reason: &str) {
        if tracked.snapshot.connection != Connection::Lost {
            let reason = tracked.connection_error.as_deref().unwrap_or(reason);
            tracing::warn!(reason, "kafka lost: callbacks wait in the journal");
        }
        tracked.snapshot.connection = Connection::Lost;
        self.0.lost.store(true, Ordering::Relaxed);
    }

    fn back(tracked: &mut Tracked) {
        match tracked.snapshot.connection {
            Connection::Starting => tracing::info!("kafka connected"),
            Connection::Lost => tracing::info!("kafka back"),
            Connection::Up => {}
        }
        tracked.snapshot.connection = Connection::Up;
        tracked.connection_error = None;
    }

    fn lock(&self) -> MutexGuard<'_, Tracked> {
        self.0.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Brokers {
    fn by_state(self) -> [(BrokerState, u32); 4] {
        [
            (BrokerState::Up, self.up),
            (BrokerState::Connecting, self.connecting),
            (BrokerState::Idle, self.idle),
            (BrokerState::Down, self.down),
        ]
    }

    /// A connection that nothing asks for is idle only beside one that is used; where there is none, it waits to be tried again.
    fn settled(mut self) -> Self {
        if self.up == 0 {
            self.down += std::mem::take(&mut self.idle);
        }
        self
    }

    fn all_down(self) -> bool {
        self.down > 0 && self.up + self.connecting + self.idle == 0
    }

    fn count(&mut self, state: &str) {
        let counter = match state {
            // The connection stays usable while it authenticates again.
            "UP" | "REAUTH" => &mut self.up,
            "INIT" => &mut self.idle,
            "DOWN" => &mut self.down,
            _ => &mut self.connecting,
        };
        *counter += 1;
    }
}

/// What is taken of the statistics. Their shape: `STATISTICS.md` of librdkafka.
#[derive(Debug, PartialEq)]
struct Digest {
    queue_bytes: i64,
    brokers: Brokers,
    counted: Counted,
    rtt_p99_seconds: f64,
}

/// What the statistics count up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// Requests sent again.
    retries: u64,
    /// See [`Doubt`](super::doubt::Doubt).
    pub(super) seen: Seen,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    msg_size: i64,
    #[serde(default)]
    brokers: BTreeMap<String, Broker>,
    #[serde(default)]
    eos: Identity,
}

/// Of an idempotent producer.
#[derive(Default, Deserialize)]
struct Identity {
    #[serde(default)]
    epoch_cnt: u64,
}

#[derive(Deserialize)]
struct Broker {
    nodeid: i64,
    source: String,
    state: String,
    #[serde(default)]
    txretries: u64,
    #[serde(default)]
    disconnects: u64,
    #[serde(default)]
    req_timeouts: u64,
    #[serde(default)]
    rtt: Window,
}

#[derive(Default, Deserialize)]
struct Window {
    /// Microseconds.
    #[serde(default)]
    p99: u32,
}

impl Digest {
    fn read(json: &[u8]) -> Result<Self, serde_json::Error> {
        let document: Document = serde_json::from_slice(json)?;
        let mut brokers = Brokers::default();
        // The bootstrap addresses are brokers too until the cluster has told its own; then they stay behind, unconnected. Coordinators and internal threads
        // are brokers to librdkafka alone.
        let learned = document.brokers.values().any(|broker| broker.nodeid >= 0 && broker.is_real());
        for broker in document.brokers.values().filter(|broker| broker.is_real() && (broker.nodeid >= 0 || !learned)) {
            brokers.count(&broker.state);
        }
        let rtt_p99_micros = document.brokers.values().map(|broker| broker.rtt.p99).max().unwrap_or(0);
        Ok(Self {
            queue_bytes: document.msg_size,
            brokers,
            counted: Counted {
                retries: document.brokers.values().map(|broker| broker.txretries).sum(),
                seen: Seen {
                    epochs: document.eos.epoch_cnt,
                    breaks: document.brokers.values().map(|broker| broker.disconnects + broker.req_timeouts).sum(),
                },
            },
            rtt_p99_seconds: f64::from(rtt_p99_micros) / 1e6,
        })
    }
}

impl Broker {
    fn is_real(&self) -> bool {
        matches!(self.source.as_str(), "learned" | "configured")
    }
}

#[cfg(test)]
mod tests {
    use super::super::ERROR_KINDS;
    use super::*;
    use crate::metrics::{Labels, Metrics};

    fn status() -> (Status, metrics::Kafka) {
        let metrics = Metrics::new(&Labels { kafka_errors: &ERROR_KINDS, ..Labels::default() }).unwrap().kafka;
        (Status::new(metrics.clone()), metrics)
    }

    fn brokers(states: &[(&str, i64, &str)]) -> String {
        let broker = |(at, (source, nodeid, state)): (usize, &(&str, i64, &str))| {
            format!(
                r#""b{at}":{{"name":"b{at}","nodeid":{nodeid},"source":"{source}","state":"{state}","txretries":{at},"disconnects":{at},"req_timeouts":1,"rtt":{{"p99":{}}}}}"#,
                1500 * at
            )
        };
        let brokers: Vec<String> = states.iter().enumerate().map(broker).collect();
        format!(
            r#"{{"name":"x","msg_cnt":3,"msg_size":4096,"brokers":{{{}}},"topics":{{"t":{{"batchsize":{{"avg":1}}}}}},"eos":{{"producer_epoch":0,"epoch_cnt":2}}}}"#,
            brokers.join(",")
        )
    }

    #[test]
    fn brokers_are_counted_by_state_and_bootstrap_addresses_only_until_the_cluster_is_known() {
        for (states, expected) in [
            (&[("configured", -1, "TRY_CONNECT"), ("internal", -1, "UP")][..], Brokers { connecting: 1, ..Brokers::default() }),
            (&[("configured", -1, "DOWN")], Brokers { down: 1, ..Brokers::default() }),
            (
                &[
                    ("configured", -1, "DOWN"),
                    ("learned", 1, "UP"),
                    ("learned", 2, "INIT"),
                    ("logical", -1, "UP"),
                    ("learned", 3, "AUTH_REQ"),
                ],
                Brokers { up: 1, idle: 1, connecting: 1, down: 0 },
            ),
            (&[("configured", 1, "REAUTH"), ("learned", 2, "DOWN")], Brokers { up: 1, down: 1, ..Brokers::default() }),
            (&[], Brokers::default()),
        ] {
            assert_eq!(Digest::read(brokers(states).as_bytes()).unwrap().brokers, expected, "{states:?}");
        }
    }

    #[test]
    fn statistics_move_the_metrics_and_retries_only_by_what_is_new() {
        let (status, metrics) = status();
        let json = brokers(&[("learned", 1, "UP"), ("learned", 2, "UP"), ("learned", 3, "DOWN")]);
        let counted = status.statistics(json.as_bytes(), Counted::default());
        assert_eq!(counted, Counted { retries: 3, seen: Seen { epochs: 2, breaks: 6 } });
        assert_eq!(status.statistics(json.as_bytes(), counted), counted);
        assert_eq!(metrics.request_retries.get(), 3);
        assert_eq!(metrics.queue_bytes.get(), 4096);
        assert_eq!(metrics.brokers(BrokerState::Up).get(), 2);
        assert_eq!(metrics.brokers(BrokerState::Down).get(), 1);
        assert!((metrics.broker_rtt_p99_seconds.get() - 0.003).abs() < 1e-9);
        assert_eq!(status.statistics(b"{\"brokers\":[]}", counted), counted);
    }

    #[test]
    fn failed_authentication_shows_until_an_interval_with_a_broker_up_brings_no_refusal() {
        let (status, metrics) = status();
        let up = brokers(&[("learned", 1, "UP")]);
        let down = brokers(&[("configured", -1, "DOWN")]);
        status.error(ErrorCode(Code::Authentication), "SASL authentication error");
        assert_eq!(status.snapshot().authentication.as_deref(), Some("SASL authentication error"));
        assert_eq!((metrics.authentication_failed.get(), metrics.errors("authentication").get()), (1, 1));

        status.statistics(down.as_bytes(), Counted::default());
        status.statistics(down.as_bytes(), Counted::default());
        assert_eq!(metrics.authentication_failed.get(), 1, "no broker is up");
        status.error(ErrorCode(Code::SSL), "certificate verify failed");
        status.statistics(up.as_bytes(), Counted::default());
        assert_eq!(status.snapshot().authentication.as_deref(), Some("certificate verify failed"), "refused in this interval");
        status.statistics(up.as_bytes(), Counted::default());
        assert_eq!((status.snapshot().authentication, metrics.authentication_failed.get()), (None, 0));
    }

    #[test]
    fn a_lost_cluster_is_back_with_a_broker_or_a_delivery() {
        let (status, _) = status();
        assert_eq!(status.snapshot().connection, Connection::Starting);
        status.delivered();
        assert_eq!(status.snapshot().connection, Connection::Up);
        status.error(ErrorCode(Code::AllBrokersDown), "1/1 brokers are down");
        assert_eq!(status.snapshot().connection, Connection::Lost);
        status.statistics(brokers(&[("learned", 1, "CONNECT")]).as_bytes(), Counted::default());
        assert_eq!(status.snapshot().connection, Connection::Lost);
        status.delivered();
        assert_eq!(status.snapshot().connection, Connection::Up);
        status.statistics(brokers(&[("learned", 1, "DOWN")]).as_bytes(), Counted::default());
        assert_eq!(status.snapshot().connection, Connection::Lost);
        status.statistics(brokers(&[("learned", 1, "UP")]).as_bytes(), Counted::default());
        assert_eq!(status.snapshot().connection, Connection::Up);
    }

    #[test]
    fn how_many_brokers_are_up_is_not_known_before_the_first_statistics() {
        let (status, _) = status();
        status.delivered();
        assert_eq!((status.snapshot().connection, status.snapshot().brokers), (Connection::Up, None));
        status.statistics(brokers(&[("learned", 1, "UP")]).as_bytes(), Counted::default());
        assert_eq!(status.snapshot().brokers, Some(Brokers { up: 1, ..Brokers::default() }));
    }

    #[test]
    fn a_producer_that_cannot_be_built_shows_until_one_is() {
        let (status, _) = status();
        status.unbuilt("read /etc/ca.pem for ssl.ca.location: not found");
        assert!(status.snapshot().unbuilt.is_some_and(|reason| reason.contains("ca.pem")));
        status.delivered();
        assert!(status.snapshot().unbuilt.is_some(), "a late report says nothing of the next producer");
        status.built();
        assert_eq!(status.snapshot().unbuilt, None);
    }

    #[test]
    fn a_loss_is_told_by_what_the_connections_failed_with() {
        let (status, _) = status();
        status.error(ErrorCode(Code::BrokerTransportFailure), "127.0.0.1:9092/1: Connect failed: Connection refused");
        assert!(status.lock().connection_error.as_deref().is_some_and(|error| error.contains("refused")));
        status.error(ErrorCode(Code::AllBrokersDown), "1/1 brokers are down");
        assert_eq!(status.snapshot().connection, Connection::Lost);
        status.delivered();
        assert_eq!(status.lock().connection_error, None, "what is over explains no later loss");
    }

    #[test]
    fn a_dead_producer_shows_until_its_successor_has_delivered() {
        let (status, metrics) = status();
        status.delivered();
        status.fatal("sequence numbers out of order");
        assert_eq!(status.snapshot().fatal.as_deref(), Some("sequence numbers out of order"));
        assert_eq!(metrics.errors("fatal").get(), 1);
        status.statistics(brokers(&[("learned", 1, "UP")]).as_bytes(), Counted::default());
        assert!(status.snapshot().fatal.is_some(), "a broker that is up says nothing of the producer");
        status.delivered();
        assert_eq!(status.snapshot().fatal, None);
    }
}
