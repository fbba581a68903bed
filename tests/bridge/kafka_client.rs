//! The client of Kafka against a real broker.

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::num::NonZeroU16;
    use std::path::Path;
    use std::sync::mpsc;
    use std::time::{Duration, Instant, SystemTime};

    use chat_bridge::config;
    use chat_bridge::kafka::topics::{self, Admin, MorePartitions, Outcome, Presence, Step};
    use chat_bridge::kafka::{
        Connection, DeadLetterCause, ERROR_KINDS, Error, ParkCause, Producer, Report, Reports, SendError, Settings, Status, Verdict,
    };
    use chat_bridge::metrics::{self, Labels, Metrics};

    use crate::support::consumers::{self, Language};
    use crate::support::eventually;
    use crate::support::kafka::{self, BRIDGE, Kafka, Record, STRANGER, User};

    const PATIENCE: Duration = Duration::from_mins(1);
    const NO_HEADERS: &[(&str, &str)] = &[];
    const MISSING: Verdict = Verdict::Park(ParkCause::Missing);
    const NOT_AUTHORISED: Verdict = Verdict::Park(ParkCause::NotAuthorised);
    const TOO_LARGE: Verdict = Verdict::DeadLetter(DeadLetterCause::TooLarge);

    /// A producer and what belongs to it.
    struct Client {
        producer: Producer,
        reports: Reports,
        woken: mpsc::Receiver<()>,
        status: Status,
        metrics: metrics::Kafka,
    }

    impl Client {
        fn new(settings: &Settings) -> Self {
            let metrics = Metrics::new(&Labels { kafka_errors: &ERROR_KINDS, ..Labels::default() }).unwrap().kafka;
            Self::with(settings, Status::new(metrics.clone()), metrics)
        }

        /// The next producer after this one, as the forwarder makes it.
        fn successor(self, settings: &Settings) -> Self {
            let Self { producer, status, metrics, .. } = self;
            drop(producer);
            Self::with(settings, status, metrics)
        }

        fn with(settings: &Settings, status: Status, metrics: metrics::Kafka) -> Self {
            let (wake, woken) = mpsc::channel();
            let reports = Reports::new(move || {
                let _ = wake.send(());
            });
            let producer = Producer::new(settings, reports.clone(), status.clone(), metrics.clone()).unwrap();
            Self { producer, reports, woken, status, metrics }
        }

        fn send(&self, topic: &str, key: &str, value: &[u8], opaque: u64) -> Result<(), SendError> {
            self.producer.send(topic, Some(key.as_bytes()), value, NO_HEADERS, opaque)
        }

        /// The next `count` reports, in the order of their coming.
        fn reports(&self, count: usize) -> Vec<Report> {
            let deadline = Instant::now() + PATIENCE;
            let mut got = Vec::new();
            while got.len() < count {
                let woken = self.woken.recv_timeout(deadline.saturating_duration_since(Instant::now()));
                assert!(woken.is_ok(), "{} of {count} reports came: {:?}", got.len(), self.status.snapshot());
                self.reports.drain(&mut got);
            }
            assert_eq!(got.len(), count);
            got
        }

        /// What becomes of one message, whether it is refused at once or reported on.
        fn verdict(&self, topic: &str) -> Verdict {
            match self.send(topic, "k", b"v", 0) {
                Ok(()) => self.reports(1)[0].verdict,
                Err(SendError::Refused { verdict, .. }) => verdict,
                Err(SendError::QueueFull) => panic!("the queue is full"),
            }
        }

        /// Tries again, looking the topic up between the tries as the forwarder does, until a message has this end.
        fn until(&self, topic: &str, verdict: Verdict) {
            eventually(&format!("{verdict:?} for {topic}"), PATIENCE, || {
                let _ = self.producer.lookup(&[topic], PATIENCE);
                (self.verdict(topic) == verdict).then_some(())
            });
        }
    }

    fn open(kafka: &Kafka, properties: &[(&str, &str)]) -> config::Kafka {
        let properties = properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        config::Kafka { bootstrap_servers: kafka.bootstrap_servers(), properties, ..config::Kafka::default() }
    }

    fn secured(kafka: &Kafka, user: User, password: &Path) -> config::Kafka {
        config::Kafka {
            bootstrap_servers: kafka.sasl_servers(),
            properties: kafka.sasl_properties(user),
            secret_files: BTreeMap::from([("sasl.password".to_owned(), password.to_owned())]),
            ..config::Kafka::default()
        }
    }

    fn load(kafka: &config::Kafka) -> Settings {
        Settings::load(kafka, &config::Topics::default()).unwrap()
    }

    fn millis() -> i64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        i64::try_from(since.as_millis()).unwrap()
    }

    /// Bytes that no compression makes smaller, the same every time.
    fn noise(length: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(7);
        (0..length).map(|_| random.u8(..)).collect()
    }

    #[test]
    fn a_message_arrives_as_it_was_sent_and_its_report_tells_where() {
        let kafka = kafka::shared();
        kafka.create_topic("arrives", 3, &[]);
        let client = Client::new(&load(&open(&kafka, &[])));
        let before = millis();
        let headers = [("content-type", "application/cloudevents+json"), ("ce_id", "1"), ("ce_id", "2")];
        client.producer.send("arrives", Some(b"@TGS#1"), b"{\"a\":1}", &headers, 7).unwrap();
        client.producer.send("arrives", None, b"", NO_HEADERS, u64::MAX).unwrap();
        let reports = client.reports(2);
        let after = millis();
        let records = kafka.read("arrives");
        assert_eq!(records.len(), 2);
        for report in &reports {
            assert_eq!((report.verdict, report.error), (Verdict::Delivered, None));
            let record = records.iter().find(|record| (record.partition, record.offset) == (report.partition, report.offset)).unwrap();
            assert!((before..=after).contains(&record.timestamp), "{before} {} {after}", record.timestamp);
            let headers: Vec<(&str, &[u8])> = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
            if report.opaque == 7 {
                assert_eq!((record.key.as_deref(), record.value.as_deref()), (Some(&b"@TGS#1"[..]), Some(&b"{\"a\":1}"[..])));
                assert_eq!(headers, [("content-type", &b"application/cloudevents+json"[..]), ("ce_id", b"1"), ("ce_id", b"2")]);
            } else {
                assert_eq!(report.opaque, u64::MAX);
                assert_eq!((record.key.as_deref(), record.value.as_deref()), (None, Some(&b""[..])), "an empty value is not a null one");
                assert_eq!(headers, []);
            }
        }
    }

    #[test]
    fn keys_go_to_the_partitions_that_java_chooses() {
        let kafka = kafka::shared();
        kafka.create_topic("partitions", 7, &[]);
        let client = Client::new(&load(&open(&kafka, &[])));
        let keys: Vec<String> =
            (0..24).map(|n| format!("@TGS#{n}{}", "ж".repeat(n % 5))).chain(["1".to_owned(), "группа".to_owned()]).collect();
        for (opaque, key) in (0..).zip(&keys) {
            client.send("partitions", key, b"", opaque).unwrap();
        }
        let ours: BTreeMap<u64, i32> = client.reports(keys.len()).into_iter().map(|report| (report.opaque, report.partition)).collect();
        let javas: BTreeMap<u64, i32> =
            (0..).zip(&keys).map(|(opaque, key)| (opaque, kafka.publish_with_java("partitions", key.as_bytes()))).collect();
        assert_eq!(ours, javas);
        assert!(ours.values().collect::<std::collections::BTreeSet<_>>().len() > 3, "{ours:?}");
    }

    #[test]
    fn a_missing_topic_is_parked_while_others_flow_and_flows_once_it_is_made_and_made_again() {
        let kafka = kafka::shared();
        kafka.create_topic("there", 1, &[]);
        let client = Client::new(&load(&open(&kafka, &[])));
        let found = client.producer.lookup(&["there", "not-there", "no/topic"], PATIENCE);
        assert_eq!(found.get("there"), Some(&Presence::Exists { partitions: 1, replicas: 1 }));
        assert_eq!((found.get("not-there"), found.get("no/topic")), (Some(&Presence::Missing), Some(&Presence::Missing)));

        client.send("not-there", "k", b"v", 1).unwrap();
        client.send("there", "k", b"v", 2).unwrap();
        let reports = client.reports(2);
        assert_eq!([reports[0], reports[1]].map(|report| (report.opaque, report.verdict)), [(2, Verdict::Delivered), (1, MISSING)]);
        assert_eq!(client.verdict("not-there"), MISSING);
        assert_eq!(client.verdict("there"), Verdict::Delivered);
        assert_eq!(kafka.read("there").len(), 2);

        kafka.create_topic("not-there", 1, &[]);
        client.until("not-there", Verdict::Delivered);
        kafka.delete_topic("not-there");
        client.until("not-there", MISSING);
        kafka.create_topic("not-there", 1, &[]);
        client.until("not-there", Verdict::Delivered);
        assert_eq!(kafka.read("not-there").len(), 1, "nothing that was parked came by itself");
        assert!(client.metrics.errors("missing_topic").get() > 0);
    }

    #[test]
    fn a_record_that_is_too_large_fails_alone_where_batches_stay_below_the_topic_s_limit() {
        let kafka = kafka::shared();
        kafka.create_topic("small", 1, &[("max.message.bytes", "20000")]);
        kafka.create_topic("usual", 1, &[]);
        let settings = load(&open(&kafka, &[("linger.ms", "300")]));
        let limits = Admin::new(&settings, PATIENCE).unwrap().message_limits(&["small", "usual", "not-there"]).unwrap();
        assert_eq!(limits.topics, BTreeMap::from([("small".to_owned(), 20_000), ("usual".to_owned(), 1_048_588)]));
        let large = noise(30_000);
        let send_all = |client: &Client| {
            for opaque in 0..20 {
                client.send("small", "k", if opaque == 10 { &large } else { b"small" }, opaque).unwrap();
            }
            let mut reports = client.reports(20);
            reports.sort_by_key(|report| report.opaque);
            reports.into_iter().map(|report| report.verdict).collect::<Vec<_>>()
        };

        let mut expected = vec![Verdict::Delivered; 20];
        expected[10] = TOO_LARGE;
        assert_eq!(send_all(&Client::new(&settings.clone().with_batches_below(limits.smallest()))), expected);
        let values: Vec<Option<Vec<u8>>> = kafka.read("small").into_iter().map(|record| record.value).collect();
        assert_eq!(values, vec![Some(b"small".to_vec()); 19]);

        // Why it must be so: with larger batches the innocent fail with the one.
        assert_eq!(send_all(&Client::new(&settings)), vec![TOO_LARGE; 20]);
    }

    #[test]
    fn a_record_over_the_client_s_limit_is_refused_at_once() {
        let kafka = kafka::shared();
        kafka.create_topic("large", 1, &[("max.message.bytes", "9437184")]);
        let settings = load(&open(&kafka, &[]));
        let client = Client::new(&settings);
        let over = usize::try_from(settings.message_max_bytes()).unwrap();
        let refused = client.send("large", "k", &noise(over), 0);
        assert!(matches!(refused, Err(SendError::Refused { verdict: TOO_LARGE, .. })), "{refused:?}");
        assert_eq!((client.producer.in_flight(), client.metrics.errors("too_large").get()), (0, 1));
        // What the topic takes, the client takes; a batch has some bytes of its own.
        client.send("large", "k", &noise(9_437_184 - 200), 1).unwrap();
        assert_eq!(client.reports(1)[0].verdict, Verdict::Delivered);
    }

    #[test]
    fn a_topic_without_the_right_to_write_is_parked_and_flows_when_the_right_comes_and_comes_again() {
        let kafka = kafka::shared();
        let dir = tempfile::tempdir().unwrap();
        let password = dir.path().join("password");
        std::fs::write(&password, BRIDGE.password).unwrap();
        for topic in ["mine", "theirs", "readable"] {
            kafka.create_topic(topic, 1, &[]);
        }
        kafka.grant(BRIDGE, "mine", "Write");
        kafka.grant(BRIDGE, "readable", "Describe");
        let client = Client::new(&load(&secured(&kafka, BRIDGE, &password)));
        client.until("mine", Verdict::Delivered);
        let found = client.producer.lookup(&["mine", "theirs", "readable", "not-there"], PATIENCE);
        let exists = Presence::Exists { partitions: 1, replicas: 1 };
        assert_eq!(found.into_values().collect::<Vec<_>>(), [exists, Presence::NotAuthorised, exists, Presence::NotAuthorised]);

        assert_eq!(client.verdict("theirs"), NOT_AUTHORISED);
        assert_eq!(client.verdict("readable"), NOT_AUTHORISED, "Describe alone is no right to write");
        assert_eq!(client.verdict("mine"), Verdict::Delivered);

        kafka.grant(BRIDGE, "theirs", "Write");
        client.until("theirs", Verdict::Delivered);
        kafka.revoke(BRIDGE, "theirs");
        client.until("theirs", NOT_AUTHORISED);
        assert_eq!(client.verdict("mine"), Verdict::Delivered);
        kafka.grant(BRIDGE, "theirs", "Write");
        client.until("theirs", Verdict::Delivered);
        assert!(client.metrics.errors("not_authorised").get() > 0);
        assert_eq!(client.reports.fatal(), None);
    }

    #[test]
    fn without_a_right_to_write_anywhere_the_producer_dies_loudly_and_its_successor_lives_once_there_is_one() {
        let kafka = kafka::shared();
        let dir = tempfile::tempdir().unwrap();
        let password = dir.path().join("password");
        std::fs::write(&password, STRANGER.password).unwrap();
        kafka.create_topic("nowhere", 1, &[]);
        kafka.grant(STRANGER, "nowhere", "Describe");
        let settings = load(&secured(&kafka, STRANGER, &password));
        let client = Client::new(&settings);
        client.send("nowhere", "k", b"v", 1).unwrap();
        let fatal = eventually("the producer dies", PATIENCE, || client.reports.fatal());
        assert!(!fatal.reason.contains(STRANGER.password));
        assert!(client.status.snapshot().fatal.is_some());
        assert_eq!(client.metrics.errors("fatal").get(), 1, "told twice");
        let refused = client.send("nowhere", "k", b"v", 2);
        assert!(matches!(refused, Err(SendError::Refused { verdict: Verdict::Rebuild, .. })), "{refused:?}");
        assert_eq!(client.reports(1).iter().map(|report| (report.opaque, report.verdict)).collect::<Vec<_>>(), [(1, Verdict::Rebuild)]);

        kafka.grant(STRANGER, "nowhere", "Write");
        // Rights come to the broker a moment after they are granted.
        let client = eventually("a successor lives", PATIENCE, || {
            let client = Client::with(&settings, client.status.clone(), client.metrics.clone());
            (client.verdict("nowhere") == Verdict::Delivered).then_some(client)
        });
        assert_eq!(client.status.snapshot().fatal, None);
        kafka.revoke(STRANGER, "nowhere");
    }

    #[test]
    fn a_wrong_password_shows_until_the_right_one_is_in_the_file_and_a_producer_made_of_it() {
        let kafka = kafka::shared();
        let dir = tempfile::tempdir().unwrap();
        let password = dir.path().join("password");
        std::fs::write(&password, "wrong-sesame\n").unwrap();
        kafka.create_topic("password", 1, &[]);
        kafka.grant(BRIDGE, "password", "Write");
        let config = secured(&kafka, BRIDGE, &password);
        let settings = load(&config);
        let client = Client::new(&settings);
        client.send("password", "k", b"v", 1).unwrap();
        let reason = eventually("the refusal shows", PATIENCE, || client.status.snapshot().authentication);
        assert!(reason.to_lowercase().contains("authentication") && !reason.contains("wrong-sesame"), "{reason}");
        assert_eq!(client.metrics.authentication_failed.get(), 1);
        assert!(client.metrics.errors("authentication").get() > 0);
        eventually("the brokers are lost", PATIENCE, || (client.status.snapshot().connection == Connection::Lost).then_some(()));
        let found = client.producer.lookup(&["password"], Duration::from_millis(500));
        assert_eq!(found.get("password"), Some(&Presence::Unknown));
        assert_eq!(client.producer.in_flight(), 1, "it waits, for ever");
        let told = Admin::new(&settings, Duration::from_secs(2)).unwrap().describe(&["password"]).unwrap_err();
        assert!(matches!(&told, Error::Unreachable(reason) if reason.to_lowercase().contains("authentication")), "{told}");

        std::fs::write(&password, format!("{}\n", BRIDGE.password)).unwrap();
        assert_ne!(settings.fingerprint_now().unwrap(), settings.fingerprint());
        let client = client.successor(&load(&config));
        client.until("password", Verdict::Delivered);
        eventually("the refusal is over", PATIENCE, || client.status.snapshot().authentication.is_none().then_some(()));
        assert_eq!(client.metrics.authentication_failed.get(), 0);
        assert_eq!(client.status.snapshot().connection, Connection::Up);
        assert!(client.status.snapshot().brokers.is_some_and(|brokers| brokers.up >= 1), "{:?}", client.status.snapshot());
    }

    #[test]
    fn a_broker_that_nobody_answers_for_is_told_in_time() {
        let config = config::Kafka { bootstrap_servers: "127.0.0.1:1".to_owned(), ..config::Kafka::default() };
        let settings = load(&config);
        let start = Instant::now();
        let told = Admin::new(&settings, Duration::from_secs(1)).unwrap().describe(&["a", "b", "c"]).unwrap_err();
        assert!(matches!(&told, Error::Unreachable(reason) if reason.contains("127.0.0.1:1")), "{told}");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        let client = Client::new(&settings);
        eventually("the broker is lost", PATIENCE, || (client.status.snapshot().connection == Connection::Lost).then_some(()));
        drop(client.producer);
        assert!(client.metrics.errors("transport").get() > 0);
        assert_eq!(client.metrics.errors("all_brokers_down").get(), 1, "rdkafka tells everything twice");
    }

    #[test]
    fn a_broker_that_is_stopped_or_killed_loses_nothing_doubles_nothing_and_keeps_the_order() {
        let mut kafka = kafka::exclusive();
        kafka.create_topic("faults", 3, &[]);
        let client = Client::new(&load(&open(&kafka, &[])));
        let mut sent = 0_u64;
        let mut send_more = |count: u64| {
            for opaque in sent..sent + count {
                client.send("faults", &format!("g{}", opaque % 17), opaque.to_string().as_bytes(), opaque).unwrap();
            }
            sent += count;
        };
        let mut reports = Vec::new();
        send_more(2_000);
        reports.extend(client.reports(2_000));

        kafka.stop();
        send_more(2_000);
        let mut early = Vec::new();
        client.reports.drain(&mut early);
        kafka.cont();
        let rest = 2_000 - early.len();
        reports.extend(early);
        reports.extend(client.reports(rest));

        send_more(1_000);
        kafka.kill();
        send_more(1_000);
        eventually("the broker is lost", PATIENCE, || (client.status.snapshot().connection == Connection::Lost).then_some(()));
        kafka.restart();
        send_more(1_000);
        reports.extend(client.reports(3_000));
        assert_eq!(client.status.snapshot().connection, Connection::Up);

        assert!(reports.iter().all(|report| report.verdict == Verdict::Delivered));
        reports.sort_by_key(|report| report.opaque);
        assert!(reports.iter().map(|report| report.opaque).eq(0..7_000), "one report a message");
        let records = kafka.read("faults");
        assert_eq!(records.len(), 7_000);
        let number = |record: &Record| std::str::from_utf8(record.value.as_deref().unwrap()).unwrap().parse::<u64>().unwrap();
        for partition in records.chunk_by(|a, b| a.partition == b.partition) {
            assert!(partition.windows(2).all(|pair| number(&pair[0]) < number(&pair[1])), "out of order, or twice");
        }
        for record in &records {
            let report = reports[usize::try_from(number(record)).unwrap()];
            assert_eq!((report.partition, report.offset), (record.partition, record.offset));
        }
    }

    fn configured(names: &[&str]) -> config::Topics {
        let mut topics = config::Topics {
            partitions: NonZeroU16::new(2).unwrap(),
            replication_factor: NonZeroU16::MIN,
            max_message: config::Size::from_mib(2),
            ..config::Topics::default()
        };
        for name in names {
            let own = BTreeMap::from([("retention.ms".to_owned(), config::Setting("86400000".to_owned()))]);
            topics.config.insert((*name).to_owned(), own);
        }
        topics
    }

    /// Plans and applies; the answer is the steps with what became of them.
    fn apply(admin: &Admin, wanted: &[topics::Wanted], more: MorePartitions) -> Vec<(String, Step, bool)> {
        let plan = topics::plan(admin, wanted).unwrap();
        let mut told = Vec::new();
        topics::apply(admin, &plan, more, |topic, step, outcome| {
            assert!(!matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
            told.push((topic.topic.clone(), step.clone(), matches!(outcome, Outcome::Done)));
        });
        told
    }

    #[test]
    fn topics_are_made_and_changed_as_configured_and_what_others_have_set_stays() {
        let kafka = kafka::shared();
        let admin = Admin::new(&load(&open(&kafka, &[])), PATIENCE).unwrap();
        kafka.create_topic("plan.b", 1, &[("segment.bytes", "2000000"), ("retention.ms", "3600000")]);
        let config = configured(&["plan.b"]);
        let wanted = topics::wanted(&config, &["plan.a", "plan.b"], "plan.dead-letter");

        let told = apply(&admin, &wanted, MorePartitions::Refuse);
        let kinds: Vec<(&str, &str, bool)> = told
            .iter()
            .map(|(topic, step, done)| {
                let kind = match step {
                    Step::Create(_) => "create",
                    Step::Change { .. } => "change",
                    Step::AddPartitions { .. } => "partitions",
                };
                (topic.as_str(), kind, *done)
            })
            .collect();
        let expected =
            [("plan.a", "create", true), ("plan.b", "change", true), ("plan.b", "partitions", false), ("plan.dead-letter", "create", true)];
        assert_eq!(kinds, expected);

        let settings = eventually("the new topics are known", PATIENCE, || {
            Some(admin.settings(&["plan.a", "plan.b", "plan.dead-letter", "plan.not-there"]).unwrap())
                .filter(|settings| settings.len() == 3)
        });
        let own = |topic: &str| {
            let own = settings.get(topic).unwrap().iter().filter(|(_, setting)| setting.own);
            own.map(|(name, setting)| (name.clone(), setting.value.clone().unwrap())).collect::<BTreeMap<_, _>>()
        };
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(own("plan.a"), map(&[("max.message.bytes", "2097152")]));
        assert_eq!(own("plan.b"), map(&[("max.message.bytes", "2097152"), ("retention.ms", "86400000"), ("segment.bytes", "2000000")]));
        assert_eq!(own("plan.dead-letter"), map(&[("max.message.bytes", "2097152"), ("cleanup.policy", "delete")]));

        assert_eq!(apply(&admin, &wanted, MorePartitions::Allow), [("plan.b".to_owned(), Step::AddPartitions { from: 1, to: 2 }, true)]);
        eventually("the plan is empty", PATIENCE, || topics::plan(&admin, &wanted).unwrap().is_empty().then_some(()));
        let refused = admin.change_settings("plan.b", &BTreeMap::from([("retention.ms".to_owned(), "soon".to_owned())]));
        assert!(matches!(refused, Err(Error::NotTaken { .. })), "{refused:?}");
        let described = admin.describe(&["plan.a", "plan.b"]).unwrap();
        assert!(described.values().all(|presence| *presence == Presence::Exists { partitions: 2, replicas: 1 }), "{described:?}");
    }

    #[test]
    fn missing_topics_are_made_and_what_hinders_one_does_not_hinder_the_others() {
        let kafka = kafka::shared();
        let admin = Admin::new(&load(&open(&kafka, &[])), PATIENCE).unwrap();
        kafka.create_topic("make.there", 1, &[]);
        let mut config = configured(&[]);
        let own = BTreeMap::from([("retention.ms".to_owned(), config::Setting("soon".to_owned()))]);
        config.config.insert("make.bad".to_owned(), own);
        let wanted = topics::wanted(&config, &["make.there", "make.a", "make.bad"], "make.dead-letter");
        let mut made = topics::create_missing(&admin, &wanted).unwrap();
        made.sort_by(|a, b| a.topic.cmp(&b.topic));
        let made: Vec<(&str, Option<&str>)> =
            made.iter().map(|made| (made.topic.as_str(), made.outcome.as_ref().err().map(|error| error.kind()))).collect();
        assert_eq!(made, [("make.a", None), ("make.bad", Some("other")), ("make.dead-letter", None)]);
        eventually("only the bad one is missing", PATIENCE, || (topics::create_missing(&admin, &wanted).unwrap().len() == 1).then_some(()));
        let described = admin.describe(&["make.there", "make.a"]).unwrap();
        let partitions: Vec<_> = described.values().collect();
        let exists = |partitions| Presence::Exists { partitions, replicas: 1 };
        assert_eq!(partitions, [&exists(2), &exists(1)]);
    }

    #[test]
    fn without_rights_nothing_is_planned_and_the_limits_are_unknown() {
        let kafka = kafka::shared();
        let dir = tempfile::tempdir().unwrap();
        let password = dir.path().join("password");
        std::fs::write(&password, BRIDGE.password).unwrap();
        kafka.create_topic("rights.hidden", 1, &[]);
        kafka.create_topic("rights.seen", 1, &[]);
        kafka.grant(BRIDGE, "rights.seen", "Describe");
        let admin = Admin::new(&load(&secured(&kafka, BRIDGE, &password)), PATIENCE).unwrap();
        eventually("the right is there", PATIENCE, || {
            (admin.describe(&["rights.seen"]).unwrap().get("rights.seen") != Some(&Presence::NotAuthorised)).then_some(())
        });
        let wanted = topics::wanted(&configured(&[]), &["rights.hidden"], "rights.seen");
        let plan = topics::plan(&admin, &wanted).unwrap();
        assert_eq!(plan.topics.iter().map(|topic| topic.found).collect::<Vec<_>>(), [topics::Found::NotAuthorised, topics::Found::Exists]);
        assert!(plan.topics.iter().flat_map(|topic| &topic.notes).filter(|note| note.contains("not authorised")).count() == 2, "{plan:?}");
        assert!(
            !plan.topics.iter().flat_map(|topic| &topic.steps).any(|step| matches!(step, Step::Create(_) | Step::Change { .. })),
            "{plan:?}"
        );
        assert_eq!(admin.message_limits(&["rights.hidden", "rights.seen"]).unwrap().smallest(), None);
        let refused = admin.change_settings("rights.seen", &BTreeMap::from([("retention.ms".to_owned(), "1".to_owned())]));
        assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    }

    #[test]
    fn consumers_in_java_and_python_read_events_of_both_modes_alike() {
        let kafka = kafka::shared();
        kafka.create_topic("consumers", 1, &[]);
        let client = Client::new(&load(&open(&kafka, &[])));
        let data = r#"{"group_id":"@TGS#1","members":["jared","томми"]}"#;
        let structured = format!(
            r#"{{"specversion":"1.0","id":"1","source":"/tencent-chat/apps/14","type":"tencent.chat.member-exit.v1","subject":"@TGS#1",
            "time":"2022-12-09T08:26:54.123Z","datacontenttype":"application/json","chatappid":"14","data":{data}}}"#
        );
        let headers = [("content-type", "application/cloudevents+json"), ("ce_id", "1"), ("ce_type", "tencent.chat.member-exit.v1")];
        client.producer.send("consumers", Some("@TGS#1".as_bytes()), structured.as_bytes(), &headers, 1).unwrap();
        let headers = [
            ("content-type", "application/json"),
            ("ce_specversion", "1.0"),
            ("ce_id", "2"),
            ("ce_source", "/tencent-chat/apps/14"),
            ("ce_type", "tencent.chat.member-exit.v1"),
            ("ce_subject", "@TGS#1"),
            ("ce_time", "2022-12-09T08:26:54.123Z"),
            ("ce_chatappid", "14"),
        ];
        client.producer.send("consumers", Some("@TGS#1".as_bytes()), data.as_bytes(), &headers, 2).unwrap();
        client.producer.send("consumers", None, b"no event", NO_HEADERS, 3).unwrap();
        assert!(client.reports(3).iter().all(|report| report.verdict == Verdict::Delivered));

        for language in [Language::Java, Language::Python] {
            let events = consumers::events(language, &kafka.bootstrap_servers(), &["consumers"], 3, PATIENCE);
            assert_eq!(events.len(), 3);
            for (offset, id) in [(0, "1"), (1, "2")] {
                let event = &events[offset];
                assert_eq!((event.error.as_deref(), event.id.as_str()), (None, id), "{language:?}");
                assert_eq!((event.partition, event.offset, event.key.as_deref()), (0, i64::try_from(offset).unwrap(), Some("@TGS#1")));
                assert_eq!((event.r#type.as_str(), event.source.as_str()), ("tencent.chat.member-exit.v1", "/tencent-chat/apps/14"));
                assert_eq!(
                    (event.subject.as_deref(), event.time.as_deref()),
                    (Some("@TGS#1"), Some("2022-12-09T08:26:54.123Z")),
                    "{language:?}"
                );
                assert_eq!(event.extensions.get("chatappid"), Some(&serde_json::json!("14")), "{language:?}");
                assert_eq!(event.data, serde_json::from_str::<serde_json::Value>(data).unwrap(), "{language:?}");
            }
            assert!(events[2].error.is_some(), "{language:?} {:?}", events[2]);
        }
    }

    #[test]
    fn reports_come_in_bulk_and_at_speed() {
        let kafka = kafka::shared();
        kafka.create_topic("bulk", 3, &[]);
        let client = Client::new(&load(&open(&kafka, &[])));
        let count = 100_000_u64;
        let (mut sent, mut got, mut drained) = (0, Vec::new(), 0_usize);
        let deadline = Instant::now() + PATIENCE;
        while got.len() < usize::try_from(count).unwrap() {
            assert!(Instant::now() < deadline, "{} of {count}", got.len());
            while sent < count && client.send("bulk", &format!("g{}", sent % 100), b"{\"some\":\"event\"}", sent).is_ok() {
                sent += 1;
            }
            let _ = client.woken.recv_timeout(Duration::from_secs(1));
            client.reports.drain(&mut got);
            drained += 1;
        }
        assert_eq!(client.producer.in_flight(), 0);
        assert!(got.iter().all(|report| report.verdict == Verdict::Delivered));
        assert!(drained < 20_000, "{drained} wakes for {count} reports");
        let mut numbers: Vec<u64> = got.iter().map(|report| report.opaque).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..count));
    }
}
