//! The same in topics of an embedded cluster, read from what a load's log says.

use std::sync::mpsc;

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::util::Timeout;

use super::*;
use crate::simulate::log::{Buffer, Writer};

/// An embedded cluster, and a load's log.
struct Bed {
    cluster: MockCluster<'static, DefaultProducerContext>,
    dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        Self { cluster: MockCluster::new(1).unwrap(), dir: tempfile::tempdir().unwrap() }
    }

    fn create(&self, names: &[&str]) {
        for name in names {
            self.cluster.create_topic(name, 3, 1).unwrap();
        }
    }

    fn config(&self, timeout: Duration) -> Config {
        let cluster =
            Cluster { bootstrap_servers: self.cluster.bootstrap_servers(), properties: BTreeMap::new(), timeout: Duration::from_secs(10) };
        Config { log: self.dir.path().join("log"), cluster, topics: topics(), timeout, repetitions: Repetitions::Count }
    }

    fn log(&self, lines: &[Line], offsets: BTreeMap<String, Vec<i64>>) {
        let mut header = log::Header::new(RUN, Timestamp::from_micros(0));
        (header.connections, header.groups, header.offsets) = (10, 100, offsets);
        let writer = Writer::create(&self.dir.path().join("log"), &header).unwrap();
        let mut buffer = Buffer::default();
        for line in lines {
            let _full = buffer.push(line);
        }
        buffer.flush(&writer).unwrap();
        writer.finish().unwrap();
    }

    fn publish(&self, records: &[Record]) {
        publish(&self.cluster.bootstrap_servers(), records);
    }
}

fn publish(bootstrap_servers: &str, records: &[Record]) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", bootstrap_servers).set("partitioner", "murmur2_random").create().unwrap();
    for record in records {
        let headers =
            record.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        let base = BaseRecord::<String, Vec<u8>>::to(record.topic).payload(&record.value).headers(headers).timestamp(RECEIVED_MILLIS + 25);
        let sent = match &record.key {
            Some(key) => producer.send(base.key(key)),
            None => producer.send(base),
        };
        sent.map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Timeout::After(Duration::from_secs(20))).unwrap();
}

const ALL_TOPICS: [&str; 5] = ["chat.group-disband", "chat.member-exit", "chat.group-full", "chat.unrecognized", "chat.dead-letter"];

fn assorted(count: u32) -> Vec<Line> {
    let assort = |number: u32| {
        let mut line = line(number, Outcome::Acknowledged);
        line.group = number * 7 % 100;
        line.command = Command::ALL[usize::try_from(number % 3).unwrap()];
        line
    };
    (0..count).map(assort).collect()
}

#[test]
fn topics_that_hold_what_was_acknowledged_prove_it() {
    let bed = Bed::new();
    bed.create(&ALL_TOPICS);
    let lines = assorted(400);
    bed.log(&lines, BTreeMap::new());
    let mut records: Vec<_> = lines[..200].iter().map(|line| event(line, Mode::Structured)).collect();
    records.extend(lines[200..].iter().map(|line| event(line, Mode::Binary)));
    records.push(event(&lines[399], Mode::Binary));
    bed.publish(&records);
    let mut seen = Vec::new();
    let report = run(&bed.config(Duration::from_secs(10)), &mut |progress| seen.push(progress)).unwrap();
    assert!(report.holds, "{report}");
    assert_eq!((report.acknowledged_found, report.records, report.repetitions, report.others), (400, 401, 1, 0));
    assert!((0.024..0.026).contains(&report.receipt_to_kafka_seconds.unwrap().p50), "{report}");
    assert_eq!(seen.last(), Some(&Progress { acknowledged: 400, found: 400, records: 401 }));
}

#[test]
fn what_stands_before_the_loads_offsets_is_not_read() {
    let bed = Bed::new();
    bed.create(&ALL_TOPICS);
    let lines = assorted(40);
    // A former load of the same name, whose numbers go on where this one's end: it would look invented.
    let former: Vec<_> = assorted(60).iter().skip(40).map(|line| event(line, Mode::Structured)).collect();
    bed.publish(&former);
    let config = bed.config(Duration::from_secs(10));
    bed.log(&lines, config.cluster.end_offsets(&config.topics).unwrap());
    bed.publish(&lines.iter().map(|line| event(line, Mode::Structured)).collect::<Vec<_>>());
    let report = run(&config, &mut |_| {}).unwrap();
    assert!(report.holds && report.records == 40, "{report}");
    bed.log(&lines, BTreeMap::new());
    let report = run(&config, &mut |_| {}).unwrap();
    assert_eq!(report.violations.count(Violation::Invented), 20, "{report}");
}

#[test]
fn a_callback_that_never_comes_is_missing_after_the_timeout() {
    let bed = Bed::new();
    bed.create(&ALL_TOPICS[..3]);
    let lines = assorted(40);
    bed.log(&lines, BTreeMap::new());
    bed.publish(&lines[..39].iter().map(|line| event(line, Mode::Structured)).collect::<Vec<_>>());
    let report = run(&bed.config(Duration::from_secs(1)), &mut |_| {}).unwrap();
    assert_eq!(found(&report.violations), [(Violation::Missing, 1)], "{report}");
    assert_eq!(report.missing_topics, ["chat.dead-letter", "chat.unrecognized"]);
}

#[test]
fn it_waits_for_what_comes_late_and_for_a_topic_made_late() {
    let bed = Bed::new();
    bed.create(&ALL_TOPICS[..1]);
    let lines = assorted(60);
    bed.log(&lines, BTreeMap::new());
    let config = bed.config(Duration::from_secs(20));
    let (looked, has_looked) = mpsc::channel();
    let verifying = std::thread::spawn(move || {
        run(&config, &mut |progress| {
            let _nobody_waits_any_more = looked.send(progress);
        })
        .unwrap()
    });
    let nothing = Progress { acknowledged: 60, found: 0, records: 0 };
    assert_eq!(has_looked.recv_timeout(Duration::from_secs(20)), Ok(nothing));
    bed.create(&ALL_TOPICS[1..]);
    bed.publish(&lines.iter().map(|line| event(line, Mode::Structured)).collect::<Vec<_>>());
    let report = verifying.join().unwrap();
    assert!(report.holds, "{report}");
    assert!(report.missing_topics.is_empty(), "{report}");
}

#[test]
fn where_none_of_the_topics_exists_the_names_are_wrong_and_nothing_is_called_missing() {
    let bed = Bed::new();
    bed.create(&["im.group-full"]);
    bed.log(&assorted(3), BTreeMap::new());
    let error = run(&bed.config(Duration::from_secs(1)), &mut |_| {}).unwrap_err();
    assert!(matches!(&error, Error::NoTopics(names) if names.len() == ALL_TOPICS.len()), "{error}");
}

#[test]
fn a_cluster_that_is_not_there_is_no_violation() {
    let bed = Bed::new();
    bed.log(&assorted(1), BTreeMap::new());
    let mut config = bed.config(Duration::from_secs(1));
    config.cluster.bootstrap_servers = "127.0.0.1:1".to_owned();
    config.cluster.timeout = Duration::from_millis(300);
    assert!(matches!(run(&config, &mut |_| {}), Err(Error::Topics(topics::Error::Unavailable { .. }))));
}
