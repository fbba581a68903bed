//! What settings must be true of, beyond their types: each alone, and together.

mod serving;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

pub(super) use serving::serving;

use super::key::Key;
use super::topics::TOPICS_MAX;
use super::{App, Config, Delivery, Endpoint, Http, Journal, Kafka, KnownCommand, Period, Shutdown, Size, Topics, Tracing, properties};

/// Chat waits this long for an answer, and then takes the callback for undelivered.
const CHAT_WAITS: Duration = Duration::from_secs(2);
/// Beyond, answers would wait noticeably, for no sync that is worth saving.
const SYNC_INTERVAL_MIN_MAX: Period = Period::from_millis(100);

/// The longest period: more is a slip of the pen, and deadlines so far ahead cannot be counted.
const PERIOD_MAX: Duration = Duration::from_hours(365 * 24);

/// The smallest segment.
const SEGMENT_SIZE_MIN: Size = Size::from_mib(1);

/// What a segment holds beside its largest record: headers, padding, and room for a few small records.
const SEGMENT_OVERHEAD: Size = Size::from_kib(64);

/// The smallest journal, in segments: one that is written, one that is read, one spare, and one that waits for the checkpoint.
const SEGMENTS_MIN: u64 = 4;

/// The smallest head of a request that hyper can be told to hold.
const HEADER_MIN: Size = Size::from_kib(8);

/// The smallest limit of a body: Chat's shortest callbacks have a hundred bytes, and ids that are long make some hundred more. Less refuses them all.
const BODY_MIN: Size = Size::from_kib(1);

/// The bounds of librdkafka's `message.max.bytes`.
const MESSAGE_MIN: Size = Size::from_bytes(1_000);
const MESSAGE_MAX: Size = Size::from_bytes(1_000_000_000);

/// The longest name of a topic.
const TOPIC_MAX: usize = 249;

/// The longest prefix: what follows it is shorter than the rest of [`TOPIC_MAX`].
const PREFIX_MAX: usize = 200;

/// The longest `kafka.instance`: it becomes a part of names and headers.
const INSTANCE_MAX: usize = 100;

/// The highest number of an instance that keeps its positions in Kafka: it is the number of a partition.
const PARTITION_MAX: u16 = 9_999;

/// The longest transaction that brokers allow by default (`transaction.max.timeout.ms`).
const TRANSACTION_MAX: Duration = Duration::from_mins(15);

/// The shortest: a broker that is slow for a moment must not end it.
const TRANSACTION_MIN: Duration = Duration::from_secs(5);

/// A transaction may be so many times as old as it should be when it is committed.
const COMMIT_MARGIN: u32 = 4;

/// The most spans that may wait: some 500 MB of them.
const SPANS_MAX: u32 = 1_000_000;

/// A fault in one or several settings, the first of them being the one to change.
pub(super) struct Finding {
    pub(super) keys: Vec<Key>,
    pub(super) message: String,
    /// What is wrong with the first setting whatever the others are, where they are not known.
    pub(super) alone: Option<String>,
}

/// The faults found so far.
#[derive(Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    fn add(&mut self, key: Key, message: impl Into<String>) {
        self.add_between([key], message);
    }

    fn add_between(&mut self, keys: impl Into<Vec<Key>>, message: impl Into<String>) {
        self.0.push(Finding { keys: keys.into(), message: message.into(), alone: None });
    }
}

/// What can be said of the settings alone, without a look at the files that they name.
pub(super) fn settings(config: &Config, known: &[KnownCommand<'_>]) -> Findings {
    let Config { http, admin, apps, journal, kafka, topics, events: _, answers, shutdown, log: _, tracing } = config;
    let mut found = Findings::default();
    check_http(http, &mut found);
    if overlap(http.listen, admin.listen) {
        let message = format!("listens where `http.listen` ({}) does; probes and metrics have a port of their own", http.listen);
        found.add_between([Key::of("admin.listen"), Key::of("http.listen")], message);
    }
    if admin.connections_max == 0 {
        found.add(Key::of("admin.connections_max"), "is at least 1");
    }
    check_period("admin.request_timeout", admin.request_timeout, &mut found);
    check_period("admin.stall_max", admin.stall_max, &mut found);
    check_period("admin.drain_ttl", admin.drain_ttl, &mut found);
    if admin.token_file.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
        found.add(Key::of("admin.token_file"), "is empty; leave it out where nobody may drain the bridge");
    }
    check_apps(apps, &mut found);
    check_journal(journal, http, &mut found);
    check_kafka(kafka, &mut found);
    check_transactions(kafka, topics, &mut found);
    check_topics(topics, known, &mut found);
    for command in answers.keys().filter(|command| !is_before(command)) {
        let message = "only before-commands have an answer of their own (`...Before...`, `Sns.CallbackPrev...`); others are answered OK";
        found.add(Key::of("answers").name(command), message);
    }
    check_shutdown(shutdown, &mut found);
    check_tracing(tracing, &mut found);
    found
}

fn check_http(http: &Http, found: &mut Findings) {
    check_period("http.body_timeout", http.body_timeout, found);
    check_period("http.header_timeout", http.header_timeout, found);
    check_period("http.idle_timeout", http.idle_timeout, found);
    if http.header_max < HEADER_MIN {
        found.add(Key::of("http.header_max"), format!("is at least {HEADER_MIN}"));
    }
    if http.body_max < BODY_MIN {
        found.add(Key::of("http.body_max"), format!("is at least {BODY_MIN}: with less, even short callbacks of Chat are refused"));
    }
    if http.connections_max == 0 {
        found.add(Key::of("http.connections_max"), "is at least 1");
    }
    if http.body_max > http.bodies_max {
        let message = format!("is at least `http.body_max` ({}), or the largest body is never taken", http.body_max);
        found.add_between([Key::of("http.bodies_max"), Key::of("http.body_max")], message);
    }
}

/// Whether the second of two listeners could not be bound. Port 0 is a port of its own each time.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let takes_all = |address: SocketAddr, other: SocketAddr| address.ip().is_unspecified() && (address.is_ipv6() || other.is_ipv4());
    one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || takes_all(one, other) || takes_all(other, one))
}

fn check_apps(apps: &[App], found: &mut Findings) {
    let mut places = BTreeMap::new();
    for (index, app) in apps.iter().enumerate() {
        let key = Key::of("apps").index(index);
        if app.sdk_app_id == 0 {
            found.add(key.clone().name("sdk_app_id"), "must not be 0: Chat gives every app a number");
        } else if let Some(first) = places.insert(app.sdk_app_id, index) {
            let message = format!("{} stands twice; tokens of one app go into one file, its networks into one list", app.sdk_app_id);
            found.add_between([key.clone().name("sdk_app_id"), Key::of("apps").index(first)], message);
        }
        if app.sources.as_ref().is_some_and(Vec::is_empty) {
            found
                .add(key.clone().name("sources"), "is empty, which refuses every callback of this app; leave it out to allow all networks");
        }
        if app.tokens_file.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            found.add(key.name("tokens_file"), "is empty; leave it out where callbacks carry no Sign");
        }
    }
}

fn check_journal(journal: &Journal, http: &Http, found: &mut Findings) {
    if journal.dir.as_os_str().is_empty() {
        found.add(Key::of("journal.dir"), "is empty");
    }
    let segment = || Key::of("journal.segment_size");
    let record = http.header_max.bytes().saturating_add(http.body_max.bytes()).saturating_add(SEGMENT_OVERHEAD.bytes());
    if journal.segment_size < SEGMENT_SIZE_MIN {
        found.add(segment(), format!("is at least {SEGMENT_SIZE_MIN}"));
    } else if journal.segment_size.bytes() < record {
        let message = format!(
            "is at least {}, so that the largest callback fits: `http.header_max` ({}) and `http.body_max` ({}) and {SEGMENT_OVERHEAD}",
            Size::from_bytes(record),
            http.header_max,
            http.body_max
        );
        found.add_between([segment(), Key::of("http.header_max"), Key::of("http.body_max")], message);
    }
    // A segment that is too small will have to grow, and the journal with it.
    let grown = Size::from_bytes(journal.segment_size.bytes().max(record).max(SEGMENT_SIZE_MIN.bytes()));
    let least = |segment: Size| segment.bytes().saturating_mul(SEGMENTS_MIN);
    let too_little =
        |segment: Size| format!("is at least {}, which is {SEGMENTS_MIN} segments of {segment}", Size::from_bytes(least(segment)));
    let is_too_little = |segment: Size| journal.size_max.bytes() < least(segment);
    if is_too_little(grown) {
        let keys = vec![Key::of("journal.size_max"), segment(), Key::of("http.header_max"), Key::of("http.body_max")];
        let alone = is_too_little(SEGMENT_SIZE_MIN).then(|| too_little(SEGMENT_SIZE_MIN));
        found.0.push(Finding { keys, message: too_little(grown), alone });
    }
    check_period("journal.answer_max", journal.answer_max, found);
    if journal.answer_max.get() >= CHAT_WAITS {
        found.add(Key::of("journal.answer_max"), "must be under 2s, for Chat waits no longer for an answer");
    }
    if journal.sync_interval_min.get() > SYNC_INTERVAL_MIN_MAX.get() {
        let message = format!("must be at most {SYNC_INTERVAL_MIN_MAX}, for answers wait that long");
        found.add(Key::of("journal.sync_interval_min"), message);
    }
    if journal.retention.get() > PERIOD_MAX {
        found.add(Key::of("journal.retention"), TOO_LONG);
    }
}

fn check_kafka(kafka: &Kafka, found: &mut Findings) {
    if kafka.bootstrap_servers.split(',').any(|server| server.trim().is_empty()) {
        found.add(Key::of("kafka.bootstrap_servers"), "must be one `host:port`, or several with commas between them");
    }
    if let Some(instance) = &kafka.instance {
        let plain = instance.chars().all(|c| c.is_ascii_graphic());
        if instance.is_empty() || instance.len() > INSTANCE_MAX || !plain {
            found.add(Key::of("kafka.instance"), format!("is 1 to {INSTANCE_MAX} visible ASCII characters without spaces"));
        }
    }
    for (name, value) in &kafka.properties {
        if let Some(fault) = properties::plain(name, value) {
            found.add(Key::of("kafka.properties").name(name), fault);
        }
    }
    for (name, path) in &kafka.secret_files {
        let key = Key::of("kafka.secret_files").name(name);
        if let Some(fault) = properties::from_file(name) {
            found.add(key.clone(), fault);
        }
        if kafka.properties.contains_key(name) {
            found.add_between([key.clone(), Key::of("kafka.properties").name(name)], "stands in `kafka.properties` too");
        }
        if path.as_os_str().is_empty() {
            found.add(key, "is empty; the value is the path of a file");
        }
    }
}

/// What exactly-once asks of the rest. The names and periods are checked in either mode, so that a change of it brings no surprise.
fn check_transactions(kafka: &Kafka, topics: &Topics, found: &mut Findings) {
    let positions = || Key::of("kafka.positions_topic");
    check_topic(positions(), &kafka.positions_topic, found);
    let mut others = vec![topics.unrecognized_name(), topics.dead_letter_name()];
    others.extend(topics.names.values().cloned());
    if others.contains(&kafka.positions_topic) {
        found.add(positions(), "is a topic of events or dead letters; positions have one of their own");
    }
    let policy = topics.config.get(&kafka.positions_topic).and_then(|settings| settings.get("cleanup.policy"));
    if policy.is_some_and(|policy| policy.0 != "compact") {
        let key = Key::of("topics.config").name(&kafka.positions_topic).name("cleanup.policy");
        found.add(key, "positions are always compacted and never deleted: a bridge that stood still for long would begin anew");
    }
    let timeout = kafka.transaction_timeout.get();
    if timeout < TRANSACTION_MIN || timeout > TRANSACTION_MAX {
        found.add(Key::of("kafka.transaction_timeout"), "is 5s to 15min, the longest that brokers allow by default");
    }
    check_period("kafka.commit_interval", kafka.commit_interval, found);
    if kafka.commit_interval.get().saturating_mul(COMMIT_MARGIN) > timeout {
        let message =
            format!("is at most a quarter of `kafka.transaction_timeout` ({}), or the brokers abort it", kafka.transaction_timeout);
        found.add_between([Key::of("kafka.commit_interval"), Key::of("kafka.transaction_timeout")], message);
    }
    if kafka.delivery == Delivery::AtLeastOnce {
        return;
    }
    if let Some(instance) = &kafka.instance
        && !is_partition(instance)
    {
        let message = format!("is a number from 0 to {PARTITION_MAX} with exactly-once: that of its partition of `kafka.positions_topic`");
        found.add_between([Key::of("kafka.instance"), Key::of("kafka.delivery")], message);
    }
    let socket = kafka.properties.get("socket.timeout.ms").and_then(|value| value.parse::<u64>().ok());
    if socket.is_some_and(|socket| u128::from(socket) > timeout.as_millis()) {
        let message = format!("is at most `kafka.transaction_timeout` ({})", kafka.transaction_timeout);
        let keys = [Key::of("kafka.properties").name("socket.timeout.ms"), Key::of("kafka.transaction_timeout")];
        found.add_between(keys, message);
    }
}

/// Whether an instance is the number of a partition.
fn is_partition(instance: &str) -> bool {
    instance.bytes().all(|byte| byte.is_ascii_digit()) && instance.parse::<u16>().is_ok_and(|number| number <= PARTITION_MAX)
}

fn check_topics(topics: &Topics, known: &[KnownCommand<'_>], found: &mut Findings) {
    if topics.prefix.len() > PREFIX_MAX || !topics.prefix.chars().all(is_topic_character) {
        let message = format!(
            "must be at most {PREFIX_MAX} of the letters, digits, dots, underscores and hyphens that Kafka allows in a topic's name"
        );
        found.add(Key::of("topics.prefix"), message);
    }
    for (key, name) in [("topics.unrecognized", &topics.unrecognized), ("topics.dead_letter", &topics.dead_letter)] {
        if let Some(name) = name {
            check_topic(Key::of(key), name, found);
        }
    }
    for (command, topic) in &topics.names {
        check_topic(Key::of("topics.names").name(command), topic, found);
        if command.is_empty() {
            found.add(Key::of("topics.names").name(command), "a command has a name");
        }
    }
    for command in topics.discard.iter().filter(|command| topics.names.contains_key(*command)) {
        let keys = [Key::of("topics.names").name(command), Key::of("topics.discard")];
        found.add_between(keys, "the command is discarded by `topics.discard`, so nothing of it reaches a topic");
    }
    check_dead_letter(topics, known, found);
    let count = topics.all_names(known).len();
    if count > TOPICS_MAX {
        let message = format!("with these there are {count} topics; the bridge tells at most {TOPICS_MAX} apart");
        found.add(Key::of("topics.names"), message);
    }
    if topics.max_message < MESSAGE_MIN || topics.max_message > MESSAGE_MAX {
        found.add(Key::of("topics.max_message"), format!("is {MESSAGE_MIN} to {MESSAGE_MAX}, which is what librdkafka allows"));
    }
    for (topic, settings) in &topics.config {
        let key = Key::of("topics.config").name(topic);
        check_topic(key.clone(), topic, found);
        if let Some(partitions) = settings.get("partitions")
            && !partitions.0.parse::<u16>().is_ok_and(|count| count > 0)
        {
            found.add(key.name("partitions"), "is a number from 1 to 65535");
        }
    }
}

/// The dead-letter topic takes what no other topic could, under keys that are not its own: it is shared with none, and never compacted.
fn check_dead_letter(topics: &Topics, known: &[KnownCommand<'_>], found: &mut Findings) {
    let dead_letter = topics.dead_letter_name();
    let message = format!("is the dead-letter topic `{dead_letter}`; what no topic could take has one of its own");
    if topics.unrecognized_name() == dead_letter {
        found.add_between([Key::of("topics.unrecognized"), Key::of("topics.dead_letter")], message.clone());
    }
    let own = |command: &&KnownCommand<'_>| !topics.names.contains_key(command.name) && topics.name_of(**command) == dead_letter;
    if let Some(command) = known.iter().find(own) {
        let message = format!("is the topic of `{}`; what no topic could take has one of its own", command.name);
        found.add_between([Key::of("topics.dead_letter"), Key::of("topics.prefix")], message);
    }
    for (command, _) in topics.names.iter().filter(|(_, topic)| **topic == dead_letter) {
        found.add_between([Key::of("topics.names").name(command), Key::of("topics.dead_letter")], message.clone());
    }
    let policy = topics.config.get(&dead_letter).and_then(|settings| settings.get("cleanup.policy"));
    if policy.is_some_and(|policy| policy.0.contains("compact")) {
        let key = Key::of("topics.config").name(&dead_letter).name("cleanup.policy");
        found.add(key, "dead letters are never compacted: of those that share a key, all but the last would be lost");
    }
}

/// Kafka's rule for the name of a topic.
fn check_topic(key: Key, name: &str, found: &mut Findings) {
    if name.is_empty() || name.len() > TOPIC_MAX || name == "." || name == ".." || !name.chars().all(is_topic_character) {
        let message = format!(
            "{name:?} is no name for a topic: it has 1 to {TOPIC_MAX} letters, digits, dots, underscores and hyphens, and is not \".\" or \"..\""
        );
        found.add(key, message);
    }
}

fn is_topic_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// Whether Chat asks before it does what the command tells of.
fn is_before(command: &str) -> bool {
    command.starts_with("Sns.CallbackPrev") || command.split_once('.').is_some_and(|(_, name)| name.contains("Before"))
}

fn check_shutdown(shutdown: &Shutdown, found: &mut Findings) {
    for (name, period) in [("shutdown.lame_duck", shutdown.lame_duck), ("shutdown.drain_max", shutdown.drain_max)] {
        if period.get() > PERIOD_MAX {
            found.add(Key::of(name), TOO_LONG);
        }
    }
}

fn check_tracing(tracing: &Tracing, found: &mut Findings) {
    if let Some(Err(fault)) = tracing.otlp_endpoint.as_deref().map(Endpoint::parse) {
        found.add(Key::of("tracing.otlp_endpoint"), fault);
    }
    check_period("tracing.otlp_timeout", tracing.otlp_timeout, found);
    if tracing.queue_max == 0 || tracing.queue_max > SPANS_MAX {
        found.add(Key::of("tracing.queue_max"), format!("is 1 to {SPANS_MAX}"));
    }
    if tracing.headers_file.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
        found.add(Key::of("tracing.headers_file"), "is empty; leave it out where the collector asks for no headers");
    }
    if tracing.ca_file.as_os_str().is_empty() {
        found.add(Key::of("tracing.ca_file"), "is empty");
    }
    if tracing.service_name.trim().is_empty() {
        found.add(Key::of("tracing.service_name"), "is empty");
    }
}

const TOO_LONG: &str = "must be at most 365days";

fn check_period(key: &str, period: Period, found: &mut Findings) {
    if period.get().is_zero() {
        found.add(Key::of(key), "must be more than 0s");
    } else if period.get() > PERIOD_MAX {
        found.add(Key::of(key), TOO_LONG);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Answer, Setting};

    fn app(sdk_app_id: u64) -> App {
        App { sdk_app_id, tokens_file: None, sources: None }
    }

    const KNOWN: [KnownCommand<'_>; 2] =
        [KnownCommand { name: "Group.CallbackAfterMemberExit", kind: "member-exit" }, KnownCommand { name: "Group.Else", kind: "else" }];

    /// What is said of a configuration that is right but for what `change` does to it.
    fn told(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config { apps: vec![app(1_400_000_000)], ..Config::default() };
        change(&mut config);
        let found = settings(&config, &KNOWN).0.into_iter().chain(serving(&config).0);
        found.map(|finding| format!("{}: {}", finding.keys[0], finding.message)).collect()
    }

    #[test]
    fn the_defaults_with_one_app_are_right() {
        assert_eq!(told(|_| ()), Vec::<String>::new());
    }

    type Change = fn(&mut Config);

    /// Each change makes one fault, told by that key and with these words.
    fn each_is_told(cases: &[(&str, &str, Change)]) {
        for (key, part, change) in cases {
            let told = told(change);
            assert_eq!(told.len(), 1, "{key}: {told:?}");
            assert!(told[0].starts_with(key) && told[0].contains(part), "{key} ... {part}: {told:?}");
            assert!(!told[0].contains("hunter2"));
        }
    }

    #[test]
    fn each_fault_of_ingress_admin_and_journal_is_told_by_its_key() {
        each_is_told(&[
            ("apps: ", "at least one", |config| config.apps.clear()),
            ("apps[0].sdk_app_id: ", "must not be 0", |config| config.apps[0].sdk_app_id = 0),
            ("apps[1].sdk_app_id: ", "stands twice", |config| config.apps.push(app(1_400_000_000))),
            ("apps[0].sources: ", "is empty", |config| config.apps[0].sources = Some(Vec::new())),
            ("apps[0].tokens_file: ", "failed to read the file /no/such/file", |config| {
                config.apps[0].tokens_file = Some("/no/such/file".into());
            }),
            ("apps[0].tokens_file: ", "the file /dev/null is not a regular file", |config| {
                config.apps[0].tokens_file = Some("/dev/null".into());
            }),
            ("admin.listen: ", "port of their own", |config| config.admin.listen = config.http.listen),
            ("admin.listen: ", "port of their own", |config| config.admin.listen = "127.0.0.1:8080".parse().unwrap()),
            ("admin.listen: ", "port of their own", |config| config.admin.listen = "[::]:8080".parse().unwrap()),
            ("admin.connections_max: ", "at least 1", |config| config.admin.connections_max = 0),
            ("admin.request_timeout: ", "more than 0s", |config| config.admin.request_timeout = Period::from_secs(0)),
            ("admin.stall_max: ", "more than 0s", |config| config.admin.stall_max = Period::from_secs(0)),
            ("admin.drain_ttl: ", "more than 0s", |config| config.admin.drain_ttl = Period::from_secs(0)),
            ("admin.token_file: ", "is empty", |config| config.admin.token_file = Some("".into())),
            ("admin.token_file: ", "failed to read the file /no/such/file", |config| {
                config.admin.token_file = Some("/no/such/file".into());
            }),
            ("http.body_timeout: ", "more than 0s", |config| config.http.body_timeout = Period::from_secs(0)),
            ("http.header_timeout: ", "more than 0s", |config| config.http.header_timeout = Period::from_secs(0)),
            ("http.idle_timeout: ", "more than 0s", |config| config.http.idle_timeout = Period::from_secs(0)),
            ("http.idle_timeout: ", "at most 365days", |config| config.http.idle_timeout = Period::from_secs(u64::MAX)),
            ("http.header_max: ", "at least 8KiB", |config| config.http.header_max = Size::from_kib(4)),
            ("http.body_max: ", "at least 1KiB", |config| config.http.body_max = Size::from_bytes(1023)),
            ("http.connections_max: ", "at least 1", |config| config.http.connections_max = 0),
            ("http.bodies_max: ", "`http.body_max` (4MiB)", |config| config.http.bodies_max = Size::from_mib(3)),
            ("journal.dir: ", "is empty", |config| config.journal.dir = "".into()),
            ("journal.dir: ", "/dev/null is no folder", |config| config.journal.dir = "/dev/null".into()),
            ("journal.dir: ", "/dev/null/journal: ", |config| config.journal.dir = "/dev/null/journal".into()),
            ("journal.segment_size: ", "at least 1MiB", |config| config.journal.segment_size = Size::from_kib(1023)),
            ("journal.segment_size: ", "is at least 4192KiB", |config| config.journal.segment_size = Size::from_mib(4)),
            ("journal.size_max: ", "is at least 256MiB", |config| config.journal.size_max = Size::from_mib(255)),
            ("journal.answer_max: ", "more than 0s", |config| config.journal.answer_max = Period::from_secs(0)),
            ("journal.retention: ", "at most 365days", |config| config.journal.retention = Period::from_secs(u64::MAX)),
            ("journal.answer_max: ", "under 2s", |config| config.journal.answer_max = Period::from_secs(2)),
            ("journal.sync_interval_min: ", "at most 100ms", |config| config.journal.sync_interval_min = Period::from_millis(101)),
        ]);
    }

    #[test]
    fn each_fault_of_kafka_topics_and_the_rest_is_told_by_its_key() {
        each_is_told(&[
            ("kafka.bootstrap_servers: ", "host:port", |config| config.kafka.bootstrap_servers = String::new()),
            ("kafka.bootstrap_servers: ", "host:port", |config| config.kafka.bootstrap_servers = "a:1,,b:1".to_owned()),
            ("kafka.instance: ", "visible", |config| config.kafka.instance = Some(String::new())),
            ("kafka.instance: ", "visible", |config| config.kafka.instance = Some("a b".to_owned())),
            ("kafka.properties.acks: ", "in-sync", |config| {
                config.kafka.properties.insert("acks".to_owned(), "1".to_owned());
            }),
            ("kafka.secret_files.\"sasl.password\": ", "failed to read the file: ", |config| {
                config.kafka.secret_files.insert("sasl.password".to_owned(), "hunter2".into());
            }),
            ("kafka.instance: ", "a number from 0 to 9999", |config| {
                config.kafka.delivery = Delivery::ExactlyOnce;
                config.kafka.instance = Some("blue".to_owned());
            }),
            ("kafka.instance: ", "a number from 0 to 9999", |config| {
                config.kafka.delivery = Delivery::ExactlyOnce;
                config.kafka.instance = Some("10000".to_owned());
            }),
            ("kafka.positions_topic: ", "no name for a topic", |config| config.kafka.positions_topic = "a b".to_owned()),
            ("kafka.positions_topic: ", "one of their own", |config| config.kafka.positions_topic = "chat.unrecognized".to_owned()),
            ("topics.config.\"chat-bridge.positions\".\"cleanup.policy\": ", "never deleted", |config| {
                let policy = ("cleanup.policy".to_owned(), Setting("compact,delete".to_owned()));
                config.topics.config.insert("chat-bridge.positions".to_owned(), BTreeMap::from([policy]));
            }),
            ("kafka.commit_interval: ", "more than 0s", |config| config.kafka.commit_interval = Period::from_secs(0)),
            ("kafka.commit_interval: ", "a quarter", |config| config.kafka.commit_interval = Period::from_secs(8)),
            ("kafka.transaction_timeout: ", "5s to 15min", |config| config.kafka.transaction_timeout = Period::from_secs(1_000)),
            ("kafka.properties.\"socket.timeout.ms\": ", "kafka.transaction_timeout", |config| {
                config.kafka.delivery = Delivery::ExactlyOnce;
                config.kafka.instance = Some("0".to_owned());
                config.kafka.properties.insert("socket.timeout.ms".to_owned(), "60000".to_owned());
            }),
            ("topics.prefix: ", "must be at most 200", |config| config.topics.prefix = "chat/".to_owned()),
            ("topics.unrecognized: ", "no name for a topic", |config| config.topics.unrecognized = Some("..".to_owned())),
            ("topics.unrecognized: ", "dead-letter topic", |config| config.topics.unrecognized = Some("chat.dead-letter".to_owned())),
            ("topics.dead_letter: ", "no name for a topic", |config| config.topics.dead_letter = Some("x".repeat(250))),
            ("topics.dead_letter: ", "topic of `Group.CallbackAfterMemberExit`", |config| {
                config.topics.dead_letter = Some("chat.member-exit".to_owned());
            }),
            ("topics.names: ", "there are 4097 topics", |config| {
                config.topics.names = (0..4093).map(|number| (format!("A.{number}"), format!("a.{number}"))).collect();
            }),
            ("topics.names.\"A.B\": ", "no name for a topic", |config| {
                config.topics.names.insert("A.B".to_owned(), String::new());
            }),
            ("topics.names.\"A.B\": ", "dead-letter topic", |config| {
                config.topics.names.insert("A.B".to_owned(), "chat.dead-letter".to_owned());
            }),
            ("topics.names.\"A.B\": ", "discarded", |config| {
                config.topics.names.insert("A.B".to_owned(), "ab".to_owned());
                config.topics.discard.insert("A.B".to_owned());
            }),
            ("topics.max_message: ", "librdkafka allows", |config| config.topics.max_message = Size::from_gib(1)),
            ("topics.config.\"chat.dead-letter\".\"cleanup.policy\": ", "never compacted", |config| {
                let policy = ("cleanup.policy".to_owned(), Setting("compact,delete".to_owned()));
                config.topics.config.insert("chat.dead-letter".to_owned(), BTreeMap::from([policy]));
            }),
            ("topics.config.x.partitions: ", "1 to 65535", |config| {
                config.topics.config.insert("x".to_owned(), BTreeMap::from([("partitions".to_owned(), Setting("0".to_owned()))]));
            }),
            ("answers.\"Group.CallbackAfterGroupFull\": ", "before-commands", |config| {
                config.answers.insert("Group.CallbackAfterGroupFull".to_owned(), Answer { error_code: 1, error_info: String::new() });
            }),
            ("tracing.otlp_endpoint: ", "http://host:port", |config| config.tracing.otlp_endpoint = Some("collector:4317".to_owned())),
            ("tracing.otlp_endpoint: ", "tracing.headers_file", |config| {
                config.tracing.otlp_endpoint = Some("http://user:hunter2@collector:4317".to_owned());
            }),
            ("tracing.otlp_timeout: ", "more than 0s", |config| config.tracing.otlp_timeout = Period::from_secs(0)),
            ("tracing.queue_max: ", "1 to 1000000", |config| config.tracing.queue_max = 0),
            ("tracing.headers_file: ", "is empty", |config| config.tracing.headers_file = Some("".into())),
            ("tracing.headers_file: ", "failed to read the file /no/such/file", |config| {
                config.tracing.otlp_endpoint = Some("http://collector:4317".to_owned());
                config.tracing.headers_file = Some("/no/such/file".into());
            }),
            ("tracing.ca_file: ", "is empty", |config| config.tracing.ca_file = "".into()),
            ("tracing.ca_file: ", "failed to read the file /no/such/file", |config| {
                config.tracing.otlp_endpoint = Some("https://collector".to_owned());
                config.tracing.ca_file = "/no/such/file".into();
            }),
            ("tracing.service_name: ", "is empty", |config| config.tracing.service_name = " ".to_owned()),
            ("shutdown.drain_max: ", "at most 365days", |config| config.shutdown.drain_max = Period::from_secs(u64::MAX)),
        ]);
    }

    #[test]
    fn a_segment_that_is_too_small_hides_no_journal_that_is_too_small_for_one_that_is_not() {
        let told = told(|config| (config.journal.segment_size, config.journal.size_max) = (Size::from_kib(64), Size::from_mib(8)));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("journal.segment_size: is at least 1MiB"), "{told:?}");
        assert!(told[1].starts_with("journal.size_max: is at least 16768KiB, which is 4 segments of 4192KiB"), "{told:?}");
    }

    #[test]
    fn so_many_topics_and_a_dead_letter_topic_that_a_command_has_left_are_right() {
        let told = told(|config| {
            config.topics.names = (0..4091).map(|number| (format!("A.{number}"), format!("a.{number}"))).collect();
            config.topics.names.insert(KNOWN[0].name.to_owned(), "elsewhere".to_owned());
            config.topics.dead_letter = Some("chat.member-exit".to_owned());
        });
        assert_eq!(told, Vec::<String>::new());
    }

    #[test]
    fn listeners_that_do_not_meet_are_right() {
        for (http, admin) in
            [("127.0.0.1:80", "127.0.0.2:80"), ("0.0.0.0:80", "[::1]:80"), ("127.0.0.1:0", "127.0.0.1:0"), ("[::]:80", "[::]:81")]
        {
            assert!(!overlap(http.parse().unwrap(), admin.parse().unwrap()), "{http} {admin}");
            assert!(!overlap(admin.parse().unwrap(), http.parse().unwrap()), "{admin} {http}");
        }
    }

    #[test]
    fn the_number_of_an_instance_is_one_of_a_partition() {
        for (instance, good) in [("0", true), ("07", true), ("9999", true), ("10000", false), ("70000", false), ("", false), ("+1", false)]
        {
            assert_eq!(is_partition(instance), good, "{instance}");
        }
    }

    #[test]
    fn before_commands_are_known_by_their_names() {
        for (command, before) in [
            ("Group.CallbackBeforeSendMsg", true),
            ("Sns.CallbackPrevFriendAdd", true),
            ("Group.CallbackAfterSendMsg", false),
            ("Before", false),
            ("Before.CallbackAfter", false),
        ] {
            assert_eq!(is_before(command), before, "{command}");
        }
    }
}
