//! A cluster of one broker in this process's memory, for `chat-bridge dev`: librdkafka's mock.
//!
//! Any client of librdkafka can use it, others mostly not. It keeps 5 MiB a partition and forgets the rest; nothing survives the process.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use rdkafka::mocking::MockCluster;

use super::{Error, ErrorCode};

/// The cluster. Dropping it ends it.
#[derive(Debug)]
pub struct Cluster {
    bootstrap_servers: String,
    /// Dropped to end the thread.
    running: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Cluster {
    /// Starts a cluster with these topics, each with so many partitions.
    pub fn start(topics: &[&str], partitions: u16) -> Result<Self, Error> {
        let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        let (running, stop) = mpsc::channel::<()>();
        let (started, start) = mpsc::channel();
        // The mock may not leave the thread that made it.
        let body = move || match make(&topics, partitions) {
            Ok(cluster) => {
                let told = started.send(Ok(cluster.bootstrap_servers()));
                if told.is_ok() {
                    // Nothing is ever sent: it ends when the sender is dropped.
                    let _ = stop.recv();
                }
            }
            Err(error) => drop(started.send(Err(error))),
        };
        let thread =
            thread::Builder::new().name("kafka-embedded".to_owned()).spawn(body).map_err(|error| Error::Client(error.to_string()))?;
        let bootstrap_servers = start.recv().map_err(|_| Error::Client("the embedded cluster ended while it started".to_owned()))??;
        Ok(Self { bootstrap_servers, running: Some(running), thread: Some(thread) })
    }

    /// `host:port`, on the loopback interface.
    #[must_use]
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.running.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn make(topics: &[String], partitions: u16) -> Result<MockCluster<'static, rdkafka::producer::DefaultProducerContext>, Error> {
    let failed = |error: rdkafka::error::KafkaError| match error.rdkafka_error_code() {
        Some(code) => Error::Refused { operation: "start the embedded cluster", code: ErrorCode(code) },
        None => Error::Client(error.to_string()),
    };
    let cluster = MockCluster::new(1).map_err(failed)?;
    for topic in topics {
        cluster.create_topic(topic, i32::from(partitions), 1).map_err(failed)?;
    }
    Ok(cluster)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::super::topics::Presence;
    use super::super::{ERROR_KINDS, Producer, Report, Reports, Settings, Status, Verdict};
    use super::*;
    use crate::config;
    use crate::metrics::{Labels, Metrics};

    fn producer(bootstrap_servers: &str) -> (Producer, Reports, mpsc::Receiver<()>) {
        let kafka = config::Kafka { bootstrap_servers: bootstrap_servers.to_owned(), ..config::Kafka::default() };
        let settings = Settings::load(&kafka, &config::Topics::default()).unwrap();
        let metrics = Metrics::new(&Labels { kafka_errors: &ERROR_KINDS, ..Labels::default() }).unwrap().kafka;
        let (wake, woken) = mpsc::channel();
        let reports = Reports::new(move || {
            let _ = wake.send(());
        });
        (Producer::new(&settings, reports.clone(), Status::new(metrics.clone()), metrics).unwrap(), reports, woken)
    }

    fn wait_for(reports: &Reports, woken: &mpsc::Receiver<()>, count: usize) -> Vec<Report> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut got = Vec::new();
        while got.len() < count {
            woken.recv_timeout(deadline.saturating_duration_since(Instant::now())).unwrap();
            reports.drain(&mut got);
        }
        got
    }

    #[test]
    fn every_message_is_reported_once_under_its_number_and_the_queue_is_empty_then() {
        let cluster = Cluster::start(&["chat.group-full"], 3).unwrap();
        let (producer, reports, woken) = producer(cluster.bootstrap_servers());
        let presence = producer.lookup(&["chat.group-full"], Duration::from_secs(30));
        assert_eq!(presence.get("chat.group-full"), Some(&Presence::Exists { partitions: 3, replicas: 1 }));
        // Enough that the poll thread turns to gathering reports.
        let count = 5_000_u64;
        for opaque in 0..count {
            producer.send("chat.group-full", Some(b"g"), b"{}", &[("ce_id", "1")], opaque).unwrap();
        }
        let mut got = wait_for(&reports, &woken, 5_000);
        assert_eq!(producer.in_flight(), 0);
        assert!(got.iter().all(|report| report.verdict == Verdict::Delivered && report.error.is_none()));
        assert!(
            got.windows(2).all(|pair| pair[0].opaque < pair[1].opaque && pair[0].offset < pair[1].offset),
            "one key, one partition, in order"
        );
        got.dedup_by_key(|report| report.opaque);
        assert_eq!(got.len(), 5_000);
    }

    #[test]
    fn what_is_in_flight_when_a_producer_is_dropped_is_reported_for_its_successor() {
        let cluster = Cluster::start(&["t"], 1).unwrap();
        let servers = cluster.bootstrap_servers().to_owned();
        drop(cluster);
        let (producer, reports, _woken) = producer(&servers);
        for opaque in 0..3 {
            producer.send::<&str, &str>("t", None, b"x", &[], opaque).unwrap();
        }
        assert_eq!(producer.in_flight(), 3);
        drop(producer);
        let mut got = Vec::new();
        reports.drain(&mut got);
        got.sort_by_key(|report| report.opaque);
        assert_eq!(
            got.iter().map(|report| (report.opaque, report.verdict)).collect::<Vec<_>>(),
            [0, 1, 2].map(|opaque| (opaque, Verdict::Rebuild))
        );
    }

    #[test]
    fn a_full_queue_gives_the_message_back_and_counts_it_not() {
        let (producer, reports, _woken) = producer("127.0.0.1:1");
        let sent = (0..30_000).take_while(|opaque| producer.send::<&str, &str>("t", None, b"x", &[], *opaque).is_ok()).count();
        assert_eq!(sent, 20_000);
        assert_eq!(producer.in_flight(), 20_000);
        assert_eq!(producer.send::<&str, &str>("t", None, b"x", &[], 0), Err(super::super::SendError::QueueFull));
        assert_eq!(producer.in_flight(), 20_000);
        drop(producer);
        let mut got = Vec::new();
        reports.drain(&mut got);
        assert_eq!(got.len(), 20_000);
    }

    #[test]
    fn a_cluster_ends_when_it_is_dropped() {
        let cluster = Cluster::start(&["t"], 1).unwrap();
        let servers = cluster.bootstrap_servers().to_owned();
        std::net::TcpStream::connect(servers.split(',').next().unwrap()).unwrap();
        drop(cluster);
        assert!(std::net::TcpStream::connect(servers.split(',').next().unwrap()).is_err());
    }
}
