//! What librdkafka is told, and the files behind it.
//!
//! Three layers, the later over the earlier: our defaults, `kafka.properties` with the contents of `kafka.secret_files`, and what the bridge's promises rest
//! on. The check of the configuration refuses to set the last; here it wins all the same.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::producer::{BaseProducer, DefaultProducerContext};
use sha2::{Digest, Sha256};

use super::{Error, creation};
use crate::config;

/// librdkafka's second names. Its properties come in no order, so a name that stands twice would be a matter of luck.
const ALIASES: &[(&str, &str)] = &[
    ("metadata.broker.list", "bootstrap.servers"),
    ("acks", "request.required.acks"),
    ("delivery.timeout.ms", "message.timeout.ms"),
    ("retries", "message.send.max.retries"),
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("linger.ms", "queue.buffering.max.ms"),
    ("compression.type", "compression.codec"),
    ("sasl.mechanism", "sasl.mechanisms"),
];

/// Properties whose values are files that librdkafka reads when a client is made, so that a change of one asks for a new client.
const FILES: [&str; 6] = [
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.keystore.location",
    "ssl.crl.location",
    "sasl.kerberos.keytab",
];

/// What must stay as librdkafka has it: a gap would end the producer, and only a delivery report completes a record.
const REMOVED: [&str; 2] = ["enable.gapless.guarantee", "delivery.report.only.error"];

/// What makes a producer one of transactions. No other client of ours may have it.
const TRANSACTIONS: [&str; 2] = ["transactional.id", "transaction.timeout.ms"];

/// What a consumer has no use for, and librdkafka would warn of.
const PRODUCER: [&str; 10] = [
    "request.required.acks",
    "message.timeout.ms",
    "partitioner",
    "queue.buffering.max.messages",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.ms",
    "batch.size",
    "compression.codec",
    "sticky.partitioning.linger.ms",
    "max.in.flight.requests.per.connection",
];

/// The messages that librdkafka may hold. The journal is the buffer for an outage; more of them in memory bring no throughput.
const QUEUE_MAX_MESSAGES: u64 = 20_000;
/// The bytes that librdkafka may hold.
const QUEUE_MAX_BYTES: u64 = 64 << 20;
/// Key, headers and framing of the largest message, beside its value.
const MESSAGE_OVERHEAD_BYTES: u64 = 64 << 10;
/// What librdkafka takes for `message.max.bytes` at most.
const MESSAGE_MAX_BYTES: u64 = 1_000_000_000;
/// `batch.size` where nothing is known of the topics: under Kafka's own default of `max.message.bytes`, 1,048,588.
const BATCH_BYTES: u64 = 1_000_000;
/// A batch's own header (61 bytes) and the request's, which the broker counts or librdkafka does not.
const BATCH_HEADROOM_BYTES: u64 = 512;
/// How long a request may go unanswered, unless the configuration says otherwise.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(20);

/// What a client is made of. `Debug` shows no values: some are secrets.
#[derive(Clone)]
pub struct Settings {
    properties: BTreeMap<String, String>,
    secrets: Vec<String>,
    files: BTreeMap<String, PathBuf>,
    fingerprint: Fingerprint,
    message_max_bytes: u64,
    positions: Option<Place>,
}

/// Where a bridge that delivers exactly once keeps its positions: a partition of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// The partition, which bears the number of the instance.
    pub partition: u16,
}

impl Place {
    /// With exactly-once; `None` with at-least-once, which keeps its positions in the journal's checkpoint alone.
    fn of(kafka: &config::Kafka) -> Option<Self> {
        match kafka.delivery {
            config::Delivery::AtLeastOnce => None,
            // The check of the configuration lets nothing pass but a number.
            config::Delivery::ExactlyOnce => {
                Some(Self { topic: kafka.positions_topic.clone(), partition: instance(kafka).parse().unwrap_or(0) })
            }
        }
    }

    /// What Kafka fences the producer by: whoever is to write to this place bears it.
    fn transactional_id(&self) -> String {
        format!("{}-{}", self.topic, self.partition)
    }
}

/// A digest of the contents of all files that a client was made of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl fmt::Debug for Fingerprint {
    /// Nothing: a digest of a short password is as good as the password.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Fingerprint")
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Settings").field("properties", &self.properties.keys()).field("files", &self.files).finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads the files that the configuration names.
    pub fn load(kafka: &config::Kafka, topics: &config::Topics) -> Result<Self, Error> {
        let message_max_bytes = message_max_bytes(topics);
        let mut properties = defaults(kafka);
        for (key, value) in &kafka.properties {
            properties.insert(canonical(key).to_owned(), value.clone());
        }
        let files = files(kafka, &properties);
        let contents = read(&files)?;
        let mut secrets = Vec::new();
        for key in kafka.secret_files.keys() {
            let Some(content) = contents.get(key) else { continue };
            let secret = secret(content);
            properties.insert(canonical(key).to_owned(), secret.clone());
            secrets.push(secret);
        }
        secrets.retain(|secret| !secret.is_empty());
        for (key, value) in owned(kafka, message_max_bytes) {
            properties.insert(key.to_owned(), value);
        }
        for key in REMOVED.into_iter().chain(TRANSACTIONS) {
            properties.remove(key);
        }
        let positions = Place::of(kafka);
        if let Some(place) = &positions {
            properties.insert("transactional.id".to_owned(), place.transactional_id());
            properties.insert("transaction.timeout.ms".to_owned(), kafka.transaction_timeout.get().as_millis().to_string());
        }
        Ok(Self { properties, secrets, files, fingerprint: Fingerprint::of(&contents), message_max_bytes, positions })
    }

    /// The files' contents as they were when these settings were loaded.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The files' contents as they are now; where it differs from [`Settings::fingerprint`], a client needs to be made anew of settings loaded anew. An error (a
    /// file that is just being replaced, say) is a reason to look again later, not to stop.
    pub fn fingerprint_now(&self) -> Result<Fingerprint, Error> {
        Ok(Fingerprint::of(&read(&self.files)?))
    }

    /// Keeps batches below the smallest `max.message.bytes` of the topics, so that a record that is too large fails alone: a broker refuses a whole batch for one
    /// of them. A record larger than this goes in a batch of its own.
    #[must_use]
    pub fn with_batches_below(mut self, smallest_max_message_bytes: Option<u64>) -> Self {
        let batch =
            smallest_max_message_bytes.map_or(BATCH_BYTES, |smallest| smallest.saturating_sub(BATCH_HEADROOM_BYTES).clamp(1, BATCH_BYTES));
        self.properties.insert("batch.size".to_owned(), batch.to_string());
        self
    }

    /// The bytes that a batch may have before it is closed.
    #[must_use]
    pub fn batch_bytes(&self) -> u64 {
        self.properties.get("batch.size").and_then(|value| value.parse().ok()).unwrap_or(BATCH_BYTES)
    }

    /// Where the positions are kept with exactly-once.
    #[must_use]
    pub const fn positions(&self) -> Option<&Place> {
        self.positions.as_ref()
    }

    /// The largest message that the client takes.
    #[must_use]
    pub const fn message_max_bytes(&self) -> u64 {
        self.message_max_bytes
    }

    /// The messages that librdkafka may hold, which no configuration changes.
    #[must_use]
    pub const fn queue_max_messages(&self) -> u64 {
        QUEUE_MAX_MESSAGES
    }

    /// The bytes that librdkafka may hold: two of the largest messages fit, or one would wait for an empty queue.
    #[must_use]
    pub fn queue_max_bytes(&self) -> u64 {
        queue_max_bytes(self.message_max_bytes)
    }

    /// The same text with every secret value blotted out. What librdkafka and brokers report goes through here before anybody sees it.
    pub(super) fn redact(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }

    /// Has librdkafka judge the properties, without a connection to anybody.
    ///
    /// # Errors
    /// Where it makes no client of them.
    pub fn check(&self) -> Result<(), Error> {
        let mut config = self.producer();
        config.remove("bootstrap.servers");
        let Err(error) = config.create::<BaseProducer<DefaultProducerContext>>() else { return Ok(()) };
        let error = creation(&error);
        if let Error::Client(why) = &error {
            return Err(Error::Client(self.redact(why)));
        }
        Err(error)
    }

    /// For a producer.
    pub(super) fn producer(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        config.set_log_level(log_level());
        config
    }

    /// For a client that only asks and changes topics. Idempotence is off: a producer id would need a right to write.
    pub(super) fn admin(&self) -> ClientConfig {
        let mut config = self.producer();
        for key in ["enable.idempotence", "statistics.interval.ms", "message.send.max.retries"].into_iter().chain(TRANSACTIONS) {
            config.remove(key);
        }
        config
    }

    /// For a client that reads what is committed, to the end of a partition. It joins no group and stores no offsets.
    pub(super) fn reader(&self) -> ClientConfig {
        let mut config = self.admin();
        for key in PRODUCER {
            config.remove(key);
        }
        // librdkafka lets nobody be assigned a partition without a group's name; no coordinator needs to know of it.
        let group = self.properties.get("client.id").map_or("chat-bridge", String::as_str);
        config.set("group.id", group).set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        config.set("isolation.level", "read_committed").set("enable.partition.eof", "true");
        config
    }
}

impl Fingerprint {
    fn of(contents: &BTreeMap<String, Vec<u8>>) -> Self {
        let mut digest = Sha256::new();
        for (key, content) in contents {
            // Lengths keep two files apart whose contents run together the same way.
            digest.update(u64::try_from(key.len()).unwrap_or(u64::MAX).to_le_bytes());
            digest.update(key);
            digest.update(u64::try_from(content.len()).unwrap_or(u64::MAX).to_le_bytes());
            digest.update(content);
        }
        Self(digest.finalize().into())
    }
}

/// What tells this bridge from its siblings: `kafka.instance`, else the digits that end the host's name (the ordinal of a `StatefulSet`'s pod), else `0`.
#[must_use]
pub fn instance(kafka: &config::Kafka) -> String {
    kafka.known_instance().unwrap_or_else(|| "0".to_owned())
}

fn canonical(key: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == key).map_or(key, |(_, canonical)| canonical)
}

/// The largest record that any topic of ours may be made to take, and what surrounds it.
fn message_max_bytes(topics: &config::Topics) -> u64 {
    let of_topics = topics.config.values().filter_map(|settings| settings.get("max.message.bytes")?.0.parse().ok());
    let largest: u64 = of_topics.fold(topics.max_message.bytes(), u64::max);
    largest.saturating_add(MESSAGE_OVERHEAD_BYTES).min(MESSAGE_MAX_BYTES)
}

/// Defaults that `kafka.properties` may override.
fn defaults(kafka: &config::Kafka) -> BTreeMap<String, String> {
    [
        // What the brokers' logs and quotas call us.
        ("client.id", format!("chat-bridge-{}", instance(kafka))),
        // Small batches cost CPU on both sides; nobody waits for Kafka, so 5 ms cost only freshness.
        ("queue.buffering.max.ms", "5".to_owned()),
        // The cheapest that still divides the size of such JSON by three.
        ("compression.codec", "lz4".to_owned()),
        // How long messages to a topic that is not there are held before they come back. Long enough for a topic that was just made to become known to all
        // brokers, short enough that a topic that is gone does not keep its share of the queue. To err is cheap: the topic is parked and looked up again.
        ("topic.metadata.propagation.max.ms", "5000".to_owned()),
        // A broker that comes back is found within seconds, not within librdkafka's 10 s.
        ("reconnect.backoff.max.ms", "2000".to_owned()),
        ("retry.backoff.max.ms", "1000".to_owned()),
        // A connection that died without a word (a NAT, a load balancer) is noticed while nothing is sent.
        ("socket.keepalive.enable", "true".to_owned()),
        // A broker that hangs and ends no connection: by now its cluster has long made others the leaders, and librdkafka's 60 s would hold up all that is under
        // way to it. A request that was only slow is sent again and told apart by its sequence numbers.
        ("socket.timeout.ms", socket_timeout_ms(kafka).to_string()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// The default, which librdkafka wants no longer than the transactions' timeout: it makes no producer else.
fn socket_timeout_ms(kafka: &config::Kafka) -> u128 {
    match kafka.delivery {
        config::Delivery::AtLeastOnce => SOCKET_TIMEOUT.as_millis(),
        config::Delivery::ExactlyOnce => SOCKET_TIMEOUT.min(kafka.transaction_timeout.get()).as_millis(),
    }
}

fn queue_max_bytes(message_max_bytes: u64) -> u64 {
    QUEUE_MAX_BYTES.max(message_max_bytes.saturating_mul(2))
}

/// What nobody may override.
fn owned(kafka: &config::Kafka, message_max_bytes: u64) -> [(&'static str, String); 13] {
    [
        ("bootstrap.servers", kafka.bootstrap_servers.clone()),
        ("enable.idempotence", "true".to_owned()),
        ("request.required.acks", "all".to_owned()),
        // Where a batch is refused for now and one behind it is taken, librdkafka reports both as delivered ("implicit ack"), for a broker would not take the second
        // without the first. It does, though, where it knows nothing of the producer: a topic that was just made, or made again, or that had nothing for a day.
        ("max.in.flight.requests.per.connection", "1".to_owned()),
        ("message.timeout.ms", "0".to_owned()),
        ("message.send.max.retries", i32::MAX.to_string()),
        ("partitioner", "murmur2_random".to_owned()),
        ("allow.auto.create.topics", "false".to_owned()),
        ("queue.buffering.max.messages", QUEUE_MAX_MESSAGES.to_string()),
        ("queue.buffering.max.kbytes", (queue_max_bytes(message_max_bytes) / 1024).to_string()),
        ("message.max.bytes", message_max_bytes.to_string()),
        ("batch.size", BATCH_BYTES.to_string()),
        // Brokers' states are this stale at most; cheap at the tens of topics that we have.
        ("statistics.interval.ms", "5000".to_owned()),
    ]
}

fn files(kafka: &config::Kafka, properties: &BTreeMap<String, String>) -> BTreeMap<String, PathBuf> {
    let named = FILES.iter().filter_map(|key| Some(((*key).to_owned(), PathBuf::from(properties.get(*key)?))));
    // `ssl.ca.location` may also be a folder or the word "probe", which cannot be compared.
    let mut files: BTreeMap<_, _> = named.filter(|(_, path)| path.is_file()).collect();
    files.extend(kafka.secret_files.clone());
    files
}

fn read(files: &BTreeMap<String, PathBuf>) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let one = |(key, path): (&String, &PathBuf)| {
        let path: &Path = path;
        match fs::read(path) {
            Ok(content) => Ok((key.clone(), content)),
            Err(source) => Err(Error::File { key: key.clone(), path: path.to_owned(), source }),
        }
    };
    files.iter().map(one).collect()
}

/// A secret as its file holds it, without the line end that an editor leaves.
fn secret(content: &[u8]) -> String {
    String::from_utf8_lossy(content).trim_end_matches(['\r', '\n']).to_owned()
}

fn log_level() -> RDKafkaLogLevel {
    if tracing::enabled!(target: "librdkafka", tracing::Level::DEBUG) { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Warning }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kafka(properties: &[(&str, &str)], secrets: &[(&str, &Path)]) -> config::Kafka {
        config::Kafka {
            bootstrap_servers: "broker:9092".to_owned(),
            instance: Some("7".to_owned()),
            properties: properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            secret_files: secrets.iter().map(|(key, path)| ((*key).to_owned(), (*path).to_owned())).collect(),
            ..config::Kafka::default()
        }
    }

    fn get<'a>(settings: &'a Settings, key: &str) -> Option<&'a str> {
        settings.properties.get(key).map(String::as_str)
    }

    #[test]
    fn what_the_promises_rest_on_wins_over_every_property_under_either_name() {
        let properties = [
            ("acks", "0"),
            ("retries", "1"),
            ("delivery.timeout.ms", "1000"),
            ("metadata.broker.list", "elsewhere:1"),
            ("enable.idempotence", "false"),
            ("transactional.id", "t"),
            ("max.in.flight", "5"),
            ("linger.ms", "50"),
            ("compression.type", "zstd"),
        ];
        let settings = Settings::load(&kafka(&properties, &[]), &config::Topics::default()).unwrap();
        for (key, value) in [
            ("request.required.acks", Some("all")),
            ("message.send.max.retries", Some("2147483647")),
            ("message.timeout.ms", Some("0")),
            ("bootstrap.servers", Some("broker:9092")),
            ("enable.idempotence", Some("true")),
            ("max.in.flight.requests.per.connection", Some("1")),
            ("client.id", Some("chat-bridge-7")),
            ("transactional.id", None),
            ("queue.buffering.max.ms", Some("50")),
            ("compression.codec", Some("zstd")),
            ("acks", None),
            ("linger.ms", None),
        ] {
            assert_eq!(get(&settings, key), value, "{key}");
        }
    }

    #[test]
    fn librdkafka_takes_the_settings() {
        let settings = Settings::load(
            &kafka(&[("security.protocol", "SSL"), ("linger.ms", "20"), ("compression.type", "zstd")], &[]),
            &config::Topics::default(),
        )
        .unwrap();
        settings.producer().create_with_context::<_, BaseProducer>(DefaultProducerContext).unwrap();
        settings.admin().create_with_context::<_, BaseProducer>(DefaultProducerContext).unwrap();
    }

    #[test]
    fn a_producer_is_made_at_every_timeout_that_the_check_of_the_configuration_lets_pass() {
        for (delivery, seconds, socket) in [
            (config::Delivery::ExactlyOnce, 5, "5000"),
            (config::Delivery::ExactlyOnce, 19, "19000"),
            (config::Delivery::ExactlyOnce, 30, "20000"),
            (config::Delivery::ExactlyOnce, 900, "20000"),
            (config::Delivery::AtLeastOnce, 5, "20000"),
        ] {
            let kafka = config::Kafka { delivery, transaction_timeout: config::Period::from_secs(seconds), ..kafka(&[], &[]) };
            let settings = Settings::load(&kafka, &config::Topics::default()).unwrap();
            assert_eq!(get(&settings, "socket.timeout.ms"), Some(socket), "{delivery:?}, {seconds} s");
            settings.producer().create_with_context::<_, BaseProducer>(DefaultProducerContext).unwrap();
        }
        // What the operator has set is kept.
        let properties = [("socket.timeout.ms", "5000")];
        let kafka = config::Kafka { delivery: config::Delivery::ExactlyOnce, ..kafka(&properties, &[]) };
        assert_eq!(get(&Settings::load(&kafka, &config::Topics::default()).unwrap(), "socket.timeout.ms"), Some("5000"));
    }

    #[test]
    fn a_bad_property_is_named_without_its_value() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        fs::write(&file, "sesame-open\n").unwrap();
        let settings = Settings::load(
            &kafka(&[], &[("ssl.key.pem", &file), ("sasl.kerberos.min.time.before.relogin", &file)]),
            &config::Topics::default(),
        );
        let error = settings.unwrap().producer().create_with_context::<_, BaseProducer>(DefaultProducerContext).map(|_| ()).unwrap_err();
        let error = super::super::creation(&error);
        assert!(matches!(&error, Error::Property { .. } | Error::Client(_)), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("sesame"), "{error}");
    }

    #[test]
    fn the_largest_message_of_any_topic_fits_the_client_and_its_queue() {
        let mut topics = config::Topics::default();
        let settings = Settings::load(&kafka(&[], &[]), &topics).unwrap();
        assert_eq!(settings.message_max_bytes(), (9 << 20) + MESSAGE_OVERHEAD_BYTES);
        assert_eq!(get(&settings, "queue.buffering.max.kbytes"), Some("65536"));
        let own = BTreeMap::from([("max.message.bytes".to_owned(), config::Setting("100000000".to_owned()))]);
        topics.config.insert("im.large".to_owned(), own);
        let settings = Settings::load(&kafka(&[], &[]), &topics).unwrap();
        assert_eq!(settings.message_max_bytes(), 100_000_000 + MESSAGE_OVERHEAD_BYTES);
        assert_eq!(get(&settings, "queue.buffering.max.kbytes"), Some("195440"));
        settings.producer().create_with_context::<_, BaseProducer>(DefaultProducerContext).unwrap();
    }

    #[test]
    fn batches_stay_below_the_smallest_limit_and_below_a_million_bytes() {
        let settings = Settings::load(&kafka(&[], &[]), &config::Topics::default()).unwrap();
        for (smallest, batch) in
            [(None, 1_000_000), (Some(9 << 20), 1_000_000), (Some(1_000_000), 999_488), (Some(2_000), 1_488), (Some(10), 1)]
        {
            assert_eq!(settings.clone().with_batches_below(smallest).batch_bytes(), batch, "{smallest:?}");
        }
    }

    #[test]
    fn a_changed_file_changes_the_fingerprint_and_a_missing_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (password, ca) = (dir.path().join("password"), dir.path().join("ca.pem"));
        fs::write(&password, "sesame-1\n").unwrap();
        fs::write(&ca, "certificate").unwrap();
        let kafka = kafka(&[("ssl.ca.location", ca.to_str().unwrap())], &[("sasl.password", &password)]);
        let settings = Settings::load(&kafka, &config::Topics::default()).unwrap();
        assert_eq!(get(&settings, "sasl.password"), Some("sesame-1"));
        assert_eq!(settings.redact("SASL: sesame-1 is wrong"), "SASL: *** is wrong");
        assert_eq!(settings.fingerprint_now().unwrap(), settings.fingerprint());
        assert!(!format!("{settings:?}").contains("sesame"));

        fs::write(&ca, "another").unwrap();
        assert_ne!(settings.fingerprint_now().unwrap(), settings.fingerprint());
        fs::write(&ca, "certificate").unwrap();
        assert_eq!(settings.fingerprint_now().unwrap(), settings.fingerprint());
        fs::write(&password, "sesame-2\n").unwrap();
        assert_ne!(settings.fingerprint_now().unwrap(), settings.fingerprint());

        fs::remove_file(&password).unwrap();
        assert!(matches!(settings.fingerprint_now(), Err(Error::File { key, .. }) if key == "sasl.password"));
        assert!(matches!(Settings::load(&kafka, &config::Topics::default()), Err(Error::File { .. })));
    }
}
