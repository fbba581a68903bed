//! A bridge under load while its Kafka suffers, and the proof at the end that nothing was lost.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::bridge::{Bridge, Delivery, INSTANCE, PATIENCE, POSITIONS, Site, argument, prefix, program, simulate};
use super::eventually;
use super::kafka::Kafka;

/// The kinds whose topics a bridge needs for a load.
pub(crate) const KINDS: [&str; 5] = ["group-disband", "member-exit", "group-full", "unrecognized", "dead-letter"];

/// The load's log, a file of its site.
pub(crate) const LOG: &str = "load.log";

/// Far more than callbacks are in hand at once, so that no callback waits for a connection: what is late then is an answer.
const CONNECTIONS: &str = "128";

/// Partitions of each topic: every broker leads some.
pub(crate) const PARTITIONS: i32 = 3;

/// Chat waits so long for an answer, from when it has sent the callback.
const ANSWER_MAX_SECONDS: f64 = 2.0;

/// What is left may take so long to be published once Kafka is well again.
const SETTLED: Duration = Duration::from_mins(3);

/// What librdkafka has published twice by itself shows with its next statistics, which come every 5 s.
const COUNTED: Duration = Duration::from_secs(15);

/// How a trial is set up.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// What its topics' names begin with.
    pub(crate) name: &'static str,
    /// How the bridge reaches Kafka.
    pub(crate) servers: String,
    /// What its configuration has beside that.
    pub(crate) settings: String,
    /// Callbacks a second.
    pub(crate) rate: u32,
    /// What its consumers are promised.
    pub(crate) delivery: Delivery,
}

impl Plan {
    /// A bridge without settings of its own, under a moderate load: what is to be seen is what faults do to it, not what the machine does.
    pub(crate) fn new(name: &'static str, servers: String) -> Self {
        Self { name, servers, settings: String::new(), rate: 500, delivery: Delivery::AtLeastOnce }
    }

    /// The same with transactions, for consumers of what is committed.
    pub(crate) fn exactly_once(self) -> Self {
        Self { delivery: Delivery::ExactlyOnce, ..self }
    }
}

/// A bridge under load.
pub(crate) struct Trial {
    pub(crate) bridge: Bridge,
    prefix: String,
    site: Site,
    rate: u32,
    delivery: Delivery,
    load: Load,
}

/// A running load. Dropped, it is killed.
struct Load(Child);

/// What a load has seen.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Summary {
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    acknowledged_otherwise: u64,
    refused: BTreeMap<u16, u64>,
    unknown: u64,
    /// From the moment at which a callback was due; the load's own lateness counts too.
    latency_seconds: Percentiles,
    /// From the moment at which a callback was sent.
    service_seconds: Percentiles,
}

/// Latencies.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// What is in the topics, as far as it is of the load.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Report {
    pub(crate) holds: bool,
    pub(crate) acknowledged_found: u64,
    pub(crate) repetitions: u64,
    pub(crate) dead_letters: u64,
    pub(crate) unreadable: u64,
    pub(crate) violations: BTreeMap<String, Violation>,
}

/// A promise that did not hold.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Violation {
    pub(crate) count: u64,
}

/// What a trial came to.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    pub(crate) summary: Summary,
    pub(crate) report: Report,
    /// Records that the bridge says it may have published more than once.
    pub(crate) republished: u64,
}

impl Trial {
    /// Makes the topics, starts a bridge and a load, and waits until events flow into all topics that the load has events for.
    pub(crate) fn start(kafka: &Kafka, plan: &Plan) -> Self {
        let prefix = prefix(plan.name);
        Self::start_with(kafka, plan, prefix, |_| ())
    }

    /// As [`Trial::start`], with something to do between the topics' making and the bridge's start.
    pub(crate) fn start_with(kafka: &Kafka, plan: &Plan, prefix: String, prepare: impl FnOnce(&[String])) -> Self {
        let topics = KINDS.map(|kind| format!("{prefix}{kind}"));
        kafka.create_replicated(&topics, PARTITIONS);
        prepare(&topics);
        if plan.delivery == Delivery::ExactlyOnce {
            kafka.create_replicated(&[format!("{prefix}positions")], POSITIONS);
        }
        let site = Site::new(&plan.servers, &prefix, &format!("{}{}", plan.delivery.settings(&prefix), plan.settings));
        // Room for an outage of any length that is asked for.
        site.change("journal.size_max = \"256MiB\"", "journal.size_max = \"8GiB\"");
        let bridge = site.start();
        let load = program()
            .args(["simulate", "load", "--target", &format!("http://{}/", bridge.public), "--rate", &plan.rate.to_string()])
            .args(["--connections", CONNECTIONS, "--duration", "30d", "--groups", "256", "--format", "json", "--log"])
            .arg(site.file(LOG))
            .stdout(File::create(site.file("load.json")).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let trial = Self { bridge, prefix, site, rate: plan.rate, delivery: plan.delivery, load: Load(load) };
        trial.flows();
        trial
    }

    /// A topic's name by its kind.
    pub(crate) fn topic(&self, kind: &str) -> String {
        format!("{}{kind}", self.prefix)
    }

    /// The names of all topics.
    pub(crate) fn topics(&self) -> [String; 5] {
        KINDS.map(|kind| self.topic(kind))
    }

    /// Events published so far to the topic of a kind.
    pub(crate) fn published(&self, kind: &str) -> u64 {
        self.count(&format!("chat_bridge_events_published_total{{topic=\"{}\"}}", self.topic(kind)))
    }

    /// The sum of all series that begin like this.
    pub(crate) fn count(&self, prefix: &str) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::as_conversions, reason = "a count is a whole number")]
        let whole = self.bridge.metric(prefix) as u64;
        whole
    }

    /// Waits until so many more callbacks are accepted: the load's rate is the clock.
    pub(crate) fn accepts(&self, count: u32) {
        let from = self.bridge.accepted();
        let patience = PATIENCE + Duration::from_millis(u64::from(count) * 10);
        eventually("more callbacks are accepted", patience, || (self.bridge.accepted() >= from + f64::from(count)).then_some(()));
    }

    /// Waits until each topic that the load has events for gets more of them.
    pub(crate) fn flows(&self) {
        self.flows_to(&KINDS[..3]);
    }

    /// Waits until the topics of these kinds get more events.
    pub(crate) fn flows_to(&self, kinds: &[&str]) {
        let from: Vec<u64> = kinds.iter().map(|kind| self.published(kind)).collect();
        eventually(&format!("events flow to {kinds:?}"), Duration::from_mins(2), || {
            kinds.iter().zip(&from).all(|(kind, from)| self.published(kind) >= from + 50).then_some(())
        });
    }

    /// Waits until what is accepted is published within about half a second, be its partition led by whom it may.
    pub(crate) fn keeps_up(&self, timeout: Duration) {
        let few = f64::from(self.rate) / 2.0;
        eventually("the events keep up with the callbacks", timeout, || (self.bridge.unpublished() < few).then_some(()));
    }

    /// Waits until nothing more is published, to the topics of these kinds, while two seconds' callbacks are accepted.
    pub(crate) fn stands_still(&self, kinds: &[&str]) {
        let published = || kinds.iter().map(|kind| self.published(kind)).sum::<u64>();
        let mut before = published();
        eventually(&format!("nothing flows to {kinds:?}"), PATIENCE, || {
            self.accepts(1_000);
            (std::mem::replace(&mut before, published()) == before).then_some(())
        });
    }

    /// Puts the leader of the first partition of a topic out of step with the bridge's producer, by so many records in its name.
    pub(crate) fn forge(&self, kafka: &Kafka, kind: &str, records: u32) {
        let topic = self.topic(kind);
        match self.delivery {
            Delivery::AtLeastOnce => kafka.forge(&topic, 0, records),
            Delivery::ExactlyOnce => kafka.forge_in_transaction(&topic, 0, records, &format!("{}positions-{INSTANCE}", self.prefix)),
        }
    }

    /// Ends the load, waits until all is published, and proves what is promised whatever Kafka does: all answered well and in time, nothing lost, order kept,
    /// repetitions counted.
    pub(crate) fn end(self, kafka: &Kafka) -> Proof {
        let name = self.prefix.clone();
        let (proof, _site) = self.end_unproved(kafka);
        assert!(proof.report.holds, "{name}: {proof:?}");
        assert_eq!(proof.report.acknowledged_found, proof.summary.acknowledged, "{name}: {proof:?}");
        proof
    }

    /// As [`Trial::end`], but leaves it to the caller to judge what the report finds missing. The site has the load's log.
    pub(crate) fn end_unproved(mut self, kafka: &Kafka) -> (Proof, Site) {
        let summary = self.end_load();
        self.bridge.settled(SETTLED);
        assert_eq!(
            self.count("chat_bridge_callbacks_total{outcome=\"accepted\""),
            summary.acknowledged,
            "the bridge counts what the load does"
        );
        let log = self.site.file(LOG);
        let servers = kafka.bootstrap_servers();
        let arguments = ["verify", "--log", argument(&log), "--bootstrap-servers", &servers, "--prefix", &self.prefix];
        let once: &[&str] = match self.delivery {
            Delivery::AtLeastOnce => &[],
            Delivery::ExactlyOnce => &["--exactly-once"],
        };
        let (status, text) = simulate(&[&arguments[..], once, &["--format", "json", "--timeout", "3s"]].concat());
        let json = text.get(..=text.rfind('}').unwrap_or(0)).unwrap_or_default();
        let report: Report = serde_json::from_str(json).unwrap_or_else(|error| panic!("{status}: {error}: {text}"));
        let republished = self.counted(kafka, report.repetitions);
        let letters = self.count("chat_bridge_records_completed_total{outcome=\"dead_lettered\"}");
        assert_eq!((letters, report.dead_letters), (0, 0), "an outage makes no dead letters: {report:?}");
        let published = self.count("chat_bridge_records_completed_total{outcome=\"published\"}");
        assert_eq!(published, summary.acknowledged, "all that was answered is published");
        if self.delivery == Delivery::ExactlyOnce {
            assert_eq!((report.repetitions, republished), (0, 0), "what is committed stands there once: {report:?}");
        }
        let proof = Proof { summary, report, republished };
        super::say(&format!("{}: {proof}", self.prefix.trim_end_matches('.')));
        self.bridge.stop();
        (proof, self.site)
    }

    /// Waits until the bridge counts as many repetitions as were found; tells how many it counts.
    fn counted(&self, kafka: &Kafka, found: u64) -> u64 {
        let counted = || self.count("chat_bridge_records_republished_total");
        let deadline = Instant::now() + COUNTED;
        eventually("the repetitions are counted", COUNTED * 2, || {
            let enough = found <= counted();
            assert!(enough || Instant::now() < deadline, "{found} repetitions, {} counted: {}", counted(), self.repeated(kafka));
            enough.then(counted)
        })
    }

    /// Which events are there more than once, and where: what a failure shows. The time of a record is that of its hand-over, so two times are two hand-overs.
    fn repeated(&self, kafka: &Kafka) -> String {
        let mut places: BTreeMap<Vec<u8>, Vec<String>> = BTreeMap::new();
        for topic in self.topics() {
            for record in kafka.read(&topic) {
                let id = record.headers.into_iter().find(|(name, _)| name == "ce_id").map(|(_, id)| id).unwrap_or_default();
                places.entry(id).or_default().push(format!("{topic}/{} at {}, {}", record.partition, record.offset, record.timestamp));
            }
        }
        let repeated: Vec<_> = places.into_values().filter(|places| places.len() > 1).collect();
        format!("{repeated:#?}\n{}", self.bridge.log())
    }

    /// Ends the load; every callback was answered well, and in time.
    fn end_load(&mut self) -> Summary {
        let load = &mut self.load.0;
        // SIGINT: it ends by itself, its log complete.
        rustix::process::kill_process(rustix::process::Pid::from_child(load), rustix::process::Signal::INT).unwrap();
        let status = eventually("the load ends", PATIENCE, || load.try_wait().unwrap());
        let text = std::fs::read_to_string(self.site.file("load.json")).unwrap();
        assert!(status.success(), "{status}: {text}\n{}", self.bridge.log());
        let summary: Summary = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!((summary.unknown, summary.acknowledged_otherwise), (0, 0), "{summary:?}");
        assert!(summary.refused.is_empty(), "{summary:?}");
        assert_eq!(summary.sent, summary.acknowledged, "{summary:?}");
        assert!(summary.service_seconds.p999 < ANSWER_MAX_SECONDS, "answers never wait for Kafka: {summary:?}");
        summary
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl std::fmt::Display for Proof {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { summary, report, republished } = self;
        let missing = report.violations.get("missing").map_or(0, |violation| violation.count);
        write!(
            out,
            "{} acknowledged, {missing} lost, {} repetitions ({republished} counted), answers p50 {:.1} ms, p99.9 {:.1} ms, longest {:.1} ms ({:.1} ms from \
             when it was due)",
            summary.acknowledged,
            report.repetitions,
            summary.service_seconds.p50 * 1e3,
            summary.service_seconds.p999 * 1e3,
            summary.service_seconds.max * 1e3,
            summary.latency_seconds.max * 1e3,
        )
    }
}
