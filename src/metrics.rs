//! Every metric: its name, its help and its labels, by the part that moves it.
//!
//! All names begin with `chat_bridge_`, are in base units, and exist at zero from the start. Labels are closed sets: enums of this module, or
//! what the configuration names. Nothing that a request carries becomes a label. `docs/metrics.md` lists the same names; a test holds the two together.

mod bridge;
mod forwarder;
mod ingress;
mod journal;
mod kafka;
mod traces;

use prometheus::core::Collector;
use prometheus::{Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

pub use bridge::Bridge;
pub use forwarder::{Abort, Completion, Forwarder, Republication};
pub use ingress::Ingress;
pub use journal::Journal;
pub use kafka::{BrokerState, Kafka};
pub use traces::{SpanLoss, Traces};

/// What every name begins with.
const PREFIX: &str = "chat_bridge_";

/// The registry and the handles of each part. Cheap to clone: all clones move the same numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// What the public side moves.
    pub ingress: Ingress,
    /// What the journal moves.
    pub journal: Journal,
    /// What the forwarder moves.
    pub forwarder: Forwarder,
    /// What the client of Kafka moves.
    pub kafka: Kafka,
    /// What the sending of spans moves.
    pub traces: Traces,
    /// What the process as a whole moves.
    pub bridge: Bridge,
}

/// The closed sets that only the configuration and the program's tables know.
#[derive(Clone, Debug, Default)]
pub struct Labels<'a> {
    /// Every reason of a refusal.
    pub refusals: &'a [&'a str],
    /// The commands that the bridge knows; all others count as `other`.
    pub commands: &'a [&'a str],
    /// The topics that the configuration names, the dead-letter topic among them.
    pub topics: &'a [&'a str],
    /// The topic of the positions, where there is one.
    pub positions: Option<&'a str>,
    /// Every reason of a dead letter.
    pub dead_letters: &'a [&'a str],
    /// Every kind of error that the client of Kafka tells apart.
    pub kafka_errors: &'a [&'a str],
}

impl Metrics {
    /// Registers every metric, each series at zero.
    ///
    /// # Errors
    /// Where two metrics bear one name; that is a fault of this module, which its test shows.
    pub fn new(labels: &Labels<'_>) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let bridge = Bridge::new(&registry)?;
        let ingress = Ingress::new(&registry, labels)?;
        let journal = Journal::new(&registry, &ingress)?;
        let forwarder = Forwarder::new(&registry, labels)?;
        let kafka = Kafka::new(&registry, labels)?;
        let traces = Traces::new(&registry)?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self { registry, ingress, journal, forwarder, kafka, traces, bridge })
    }

    /// All series in Prometheus' text format.
    ///
    /// # Errors
    /// Where a family has no series; that is a fault of this module, which its test shows.
    pub fn encode(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::with_capacity(32 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// The content type of [`Metrics::encode`].
    #[must_use]
    pub fn content_type(&self) -> &'static str {
        prometheus::TEXT_FORMAT
    }

    /// The registry, for tests and for whoever wants to walk the families.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    register(registry, IntCounter::new(format!("{PREFIX}{name}"), help)?)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(Opts::new(format!("{PREFIX}{name}"), help), labels)?)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    register(registry, IntGauge::new(format!("{PREFIX}{name}"), help)?)
}

fn real_gauge(registry: &Registry, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
    register(registry, Gauge::new(format!("{PREFIX}{name}"), help)?)
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    register(registry, IntGaugeVec::new(Opts::new(format!("{PREFIX}{name}"), help), labels)?)
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
    register(registry, Histogram::with_opts(HistogramOpts::new(format!("{PREFIX}{name}"), help).buckets(buckets.to_vec()))?)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use prometheus::proto::{Metric, MetricType};

    use super::*;

    const LABELS: Labels<'static> = Labels {
        refusals: &["one", "two"],
        commands: &["Group.CallbackAfterGroupFull"],
        topics: &["chat.group-full", "chat.dead-letter"],
        positions: Some("chat-bridge.positions"),
        dead_letters: &["not_json"],
        kafka_errors: &["transport"],
    };

    /// What a family is: its type, the names of its labels, its help.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Family {
        form: String,
        labels: BTreeSet<String>,
        help: String,
    }

    fn families() -> BTreeMap<String, Family> {
        let metrics = Metrics::new(&LABELS).unwrap();
        let gathered = metrics.registry().gather();
        let families = gathered.iter().map(|family| {
            let form = match family.get_field_type() {
                MetricType::COUNTER => "counter",
                MetricType::GAUGE => "gauge",
                MetricType::HISTOGRAM => "histogram",
                MetricType::SUMMARY | MetricType::UNTYPED => "other",
            };
            let labels = family.get_metric().iter().flat_map(Metric::get_label).map(|label| label.name().to_owned());
            (family.name().to_owned(), Family { form: form.to_owned(), labels: labels.collect(), help: family.help().to_owned() })
        });
        families.collect()
    }

    /// The page has every metric in a row `| name | type | labels | help | what moves it |`.
    #[test]
    fn the_page_and_the_registry_have_the_same_metrics() {
        let page = include_str!("../docs/metrics.md");
        let mut documented = BTreeMap::new();
        for line in page.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [name, form, labels, help, moved] = cells.as_slice() else { panic!("a row has five cells: {line}") };
            assert!(!moved.is_empty(), "{line}");
            let labels = labels.split(',').map(|label| label.trim().trim_matches('`').to_owned()).filter(|label| !label.is_empty());
            let family = Family { form: (*form).to_owned(), labels: labels.collect(), help: (*help).to_owned() };
            assert!(documented.insert(name.trim_matches('`').to_owned(), family).is_none(), "twice: {line}");
        }
        let registered = families();
        for (name, family) in &registered {
            assert_eq!(documented.get(name), Some(family), "{name} in docs/metrics.md");
        }
        for name in documented.keys() {
            assert!(registered.contains_key(name), "{name} is in docs/metrics.md alone");
        }
    }

    /// Headings are the same on every page, and no page sends its reader to a metric that does not exist.
    #[test]
    fn runbooks_have_the_same_parts_and_name_metrics_that_exist() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbooks");
        let index = std::fs::read_to_string(folder.join("README.md")).unwrap();
        let registered = families();
        let mut pages = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name == "README.md" {
                continue;
            }
            pages += 1;
            assert!(index.contains(&format!("]({name})")), "{name} is in the index");
            let page = std::fs::read_to_string(&path).unwrap();
            let headings: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
            assert_eq!(headings, ["Meaning", "Impact", "Diagnosis", "Mitigation", "Verify"], "{name}");
            // A colon is in the name of a recorded rule (`instance:chat_bridge_...`), which is not a metric of ours.
            for word in page.split(|character: char| !(character.is_ascii_alphanumeric() || matches!(character, '_' | ':'))) {
                let Some(metric) = word.starts_with(PREFIX).then_some(word) else { continue };
                let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| metric.strip_suffix(suffix)).unwrap_or(metric);
                assert!(registered.contains_key(family), "{metric} in {name}");
            }
        }
        assert!(pages > 10, "the pages are there");
    }

    #[test]
    fn names_are_ours_in_base_units_and_counters_end_in_total() {
        for (name, family) in families() {
            assert!(name.starts_with(PREFIX) || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), family.form == "counter", "{name}");
            assert!(["_ms", "_millis", "_kb", "_mb", "_percent"].iter().all(|unit| !name.contains(unit)), "{name}");
            assert!(family.help.ends_with('.') && !family.help.contains('|'), "{name}: {}", family.help);
        }
    }

    #[test]
    fn every_series_of_a_closed_set_is_there_from_the_start() {
        let text = String::from_utf8(Metrics::new(&LABELS).unwrap().encode().unwrap()).unwrap();
        for series in [
            "chat_bridge_callbacks_total{outcome=\"accepted\",reason=\"durable\"} 0",
            "chat_bridge_callbacks_total{outcome=\"discarded\",reason=\"configuration\"} 0",
            "chat_bridge_callbacks_total{outcome=\"refused\",reason=\"two\"} 0",
            "chat_bridge_callbacks_by_command_total{command=\"other\"} 0",
            "chat_bridge_records_completed_total{outcome=\"dead_lettered\"} 0",
            "chat_bridge_events_published_total{topic=\"chat.group-full\"} 0",
            "chat_bridge_topic_parked{topic=\"chat.dead-letter\"} 0",
            "chat_bridge_dead_letters_total{reason=\"not_json\"} 0",
            "chat_bridge_kafka_errors_total{kind=\"transport\"} 0",
            "chat_bridge_kafka_brokers{state=\"up\"} 0",
            concat!("chat_bridge_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|line| line == series), "{series}");
        }
    }

    #[test]
    fn a_record_that_became_durable_is_an_accepted_callback() {
        let metrics = Metrics::new(&LABELS).unwrap();
        metrics.journal.durable_records.inc_by(3);
        let text = String::from_utf8(metrics.encode().unwrap()).unwrap();
        assert!(text.contains("chat_bridge_callbacks_total{outcome=\"accepted\",reason=\"durable\"} 3\n"));
    }
}
