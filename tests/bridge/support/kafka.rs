//! A real Apache Kafka of one node, in `KRaft` mode, with an open listener for the tests themselves and a `SASL_SSL` one with SCRAM users and ACLs.
//!
//! It needs Java 17, Maven and OpenSSL. The jars are resolved once into `tests/kafka/target`; after that nothing needs the network. The broker ends with the
//! process that started it, however that ends.

mod broker;
mod control;
mod prepare;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use tempfile::TempDir;

use broker::Broker;
use control::Control;
pub(crate) use prepare::{java, locked, made, prepared, run};

use super::eventually;

/// A user of the `SASL_SSL` listener, who may do only what is granted.
pub(crate) const BRIDGE: User = User { name: "bridge", password: "bridge-sesame" };
/// Another, who never gets a right but where a test says so.
pub(crate) const STRANGER: User = User { name: "stranger", password: "stranger-sesame" };

/// Every wait on the broker is over by then.
const PATIENCE: Duration = Duration::from_mins(1);

/// A SCRAM user.
#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    pub(crate) name: &'static str,
    pub(crate) password: &'static str,
}

/// The broker.
pub(crate) struct Kafka {
    dir: PathBuf,
    ports: Ports,
    broker: Option<Broker>,
    control: Mutex<Option<Control>>,
    /// Removes the folder where the broker's own shell did not get to it.
    _dir: TempDir,
}

/// Below 32768: a client that keeps trying a port of the ephemeral range can connect to itself, and hold it against the broker.
#[derive(Clone, Copy)]
struct Ports {
    open: u16,
    sasl: u16,
    controller: u16,
}

/// A record as a consumer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    /// Milliseconds since 1970.
    pub(crate) timestamp: i64,
}

static SHARED: LazyLock<RwLock<Kafka>> = LazyLock::new(|| RwLock::new(Kafka::start()));

/// The broker of this process, together with other tests. It runs.
pub(crate) fn shared() -> RwLockReadGuard<'static, Kafka> {
    SHARED.read().unwrap_or_else(PoisonError::into_inner)
}

/// The broker of this process alone, to stop or kill it. It runs; when the guard goes, it runs again.
pub(crate) fn exclusive() -> Exclusive {
    Exclusive(SHARED.write().unwrap_or_else(PoisonError::into_inner))
}

/// See [`exclusive`].
pub(crate) struct Exclusive(RwLockWriteGuard<'static, Kafka>);

impl std::ops::Deref for Exclusive {
    type Target = Kafka;

    fn deref(&self) -> &Kafka {
        &self.0
    }
}

impl std::ops::DerefMut for Exclusive {
    fn deref_mut(&mut self) -> &mut Kafka {
        &mut self.0
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        self.0.cont();
        if !self.0.is_alive() {
            self.0.restart();
        }
    }
}

impl Kafka {
    /// Starts a broker of its own and waits until it serves.
    pub(crate) fn start() -> Self {
        let prepared = prepared();
        let temporary = tempfile::Builder::new().prefix("kafka-test-").tempdir().unwrap();
        let dir = temporary.path().to_owned();
        certificates(&dir);
        let data = dir.join("data");
        fs::create_dir(&data).unwrap();
        for file in fs::read_dir(&prepared.storage).unwrap().map(Result::unwrap) {
            fs::copy(file.path(), data.join(file.file_name())).unwrap();
        }
        let mut kafka = Self { dir, ports: Ports::free(), broker: None, control: Mutex::default(), _dir: temporary };
        kafka.write_properties();
        kafka.broker = Some(Broker::start(&kafka.dir, PATIENCE));
        kafka
    }

    /// `host:port` of the open listener, whose clients may do everything.
    pub(crate) fn bootstrap_servers(&self) -> String {
        format!("127.0.0.1:{}", self.ports.open)
    }

    /// `host:port` of the listener with users and rights.
    pub(crate) fn sasl_servers(&self) -> String {
        format!("localhost:{}", self.ports.sasl)
    }

    /// librdkafka's properties for [`Kafka::sasl_servers`], but for the password.
    pub(crate) fn sasl_properties(&self, user: User) -> BTreeMap<String, String> {
        let ca = self.ca().to_str().unwrap().to_owned();
        [
            ("security.protocol", "SASL_SSL".to_owned()),
            ("sasl.mechanism", "SCRAM-SHA-512".to_owned()),
            ("sasl.username", user.name.to_owned()),
            ("ssl.ca.location", ca),
            // The broker listens on the IPv4 loopback address alone.
            ("broker.address.family", "v4".to_owned()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }

    /// The certificate of the authority that has signed the broker's.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Stops the process where it is (SIGSTOP): connections stay, nothing answers.
    pub(crate) fn stop(&mut self) {
        self.broker.as_mut().unwrap().stop();
    }

    /// Lets a stopped process go on.
    pub(crate) fn cont(&mut self) {
        if let Some(broker) = &mut self.broker {
            broker.cont();
        }
    }

    /// Kills the process (SIGKILL) and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(broker) = self.broker.take() {
            broker.kill();
        }
    }

    /// Starts a killed broker again with the data that it had, and waits until it serves.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.broker = Some(Broker::start(&self.dir, PATIENCE));
    }

    fn is_alive(&self) -> bool {
        self.broker.as_ref().is_some_and(Broker::is_alive)
    }

    /// Makes a topic and waits until the broker knows it.
    pub(crate) fn create_topic(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        let made = block_on(self.admin().create_topics([&new], &options())).unwrap();
        assert_eq!(made, [Ok(topic.to_owned())]);
        eventually("the new topic is known", PATIENCE, || {
            let metadata = self.consumer().fetch_metadata(Some(topic), PATIENCE).unwrap();
            let partitions_known = metadata.topics().first().filter(|topic| topic.error().is_none())?.partitions();
            (partitions_known.len() == usize::try_from(partitions).unwrap() && partitions_known.iter().all(|one| one.leader() >= 0))
                .then_some(())
        });
    }

    /// Deletes a topic and waits until the broker knows it no more.
    pub(crate) fn delete_topic(&self, topic: &str) {
        let gone = block_on(self.admin().delete_topics(&[topic], &options())).unwrap();
        assert_eq!(gone, [Ok(topic.to_owned())]);
        eventually("the topic is gone", PATIENCE, || {
            let metadata = self.consumer().fetch_metadata(Some(topic), PATIENCE).unwrap();
            metadata.topics().first()?.error().map(|_| ())
        });
    }

    /// Allows a user an operation (`Write`, `Describe`, `DescribeConfigs`, ...) on a topic.
    pub(crate) fn grant(&self, user: User, topic: &str, operation: &str) {
        self.ask(&format!("grant {} {topic} {operation}", user.name));
    }

    /// Allows a user the transactions of a `transactional.id`.
    pub(crate) fn grant_transactions(&self, user: User, id: &str) {
        self.ask(&format!("transactions {} {id}", user.name));
    }

    /// Takes all of a user's rights on a topic away.
    pub(crate) fn revoke(&self, user: User, topic: &str) {
        self.ask(&format!("revoke {} {topic}", user.name));
    }

    /// Publishes a record of this key as the Java client does by default; the answer is the partition that it chose.
    pub(crate) fn publish_with_java(&self, topic: &str, key: &[u8]) -> i32 {
        self.ask(&format!("publish {topic} {}", prepare::hex(key))).parse().unwrap()
    }

    /// Every record of a topic, partition after partition, each from its first to what is its last at the time of the call.
    pub(crate) fn read(&self, topic: &str) -> Vec<Record> {
        let consumer = self.consumer();
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
        let mut assignment = TopicPartitionList::new();
        let mut unfinished = BTreeSet::new();
        for partition in metadata.topics().first().unwrap().partitions() {
            assignment.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
            unfinished.insert(partition.id());
        }
        consumer.assign(&assignment).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let mut records = Vec::new();
        while !unfinished.is_empty() {
            assert!(Instant::now() < deadline, "{topic} could not be read to its end: {unfinished:?}");
            match consumer.poll(Duration::from_millis(200)) {
                None => {}
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(unfinished.remove(&partition)),
                Some(message) => records.push(Record::from(&message.unwrap())),
            }
        }
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    }

    /// Where a partition ends for a reader of this isolation: one of what is committed gets to the first open transaction.
    pub(crate) fn end(&self, topic: &str, partition: i32, isolation: &str) -> i64 {
        let consumer: BaseConsumer = self.client().set("group.id", "unused").set("isolation.level", isolation).create().unwrap();
        consumer.fetch_watermarks(topic, partition, PATIENCE).unwrap().1
    }

    /// The keys of all records of a topic, sorted; a record without one has an empty one.
    pub(crate) fn keys(&self, topic: &str) -> Vec<String> {
        let key = |record: Record| String::from_utf8(record.key.unwrap_or_default()).unwrap();
        let mut keys: Vec<String> = self.read(topic).into_iter().map(key).collect();
        keys.sort();
        keys
    }

    fn ask(&self, command: &str) -> String {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        control.get_or_insert_with(|| Control::start(&self.bootstrap_servers())).ask(command)
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().unwrap()
    }

    fn consumer(&self) -> BaseConsumer {
        self.client().set("group.id", "unused").set("enable.auto.commit", "false").set("enable.partition.eof", "true").create().unwrap()
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap_servers()).set("allow.auto.create.topics", "false");
        config
    }

    fn write_properties(&self) {
        let Ports { open, sasl, controller } = self.ports;
        let dir = self.dir.display();
        let text = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{open},SASL_SSL://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{open},SASL_SSL://localhost:{sasl}\n\
             controller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=PLAINTEXT\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT\n\
             ssl.keystore.type=PEM\n\
             ssl.keystore.location={dir}/keystore.pem\n\
             ssl.truststore.type=PEM\n\
             ssl.truststore.location={dir}/ca.pem\n\
             sasl.enabled.mechanisms=SCRAM-SHA-512\n\
             listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
             authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
             super.users=User:ANONYMOUS\n\
             allow.everyone.if.no.acl.found=false\n\
             log.dirs={dir}/data\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=4\n\
             transaction.abort.timed.out.transaction.cleanup.interval.ms=500\n\
             log.cleaner.dedupe.buffer.size=4194304\n\
             share.coordinator.state.topic.replication.factor=1\n\
             share.coordinator.state.topic.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n\
             auto.create.topics.enable=false\n\
             default.replication.factor=1\n\
             min.insync.replicas=1\n\
             num.partitions=6\n"
        );
        fs::write(self.dir.join("server.properties"), text).unwrap();
    }
}

impl From<&BorrowedMessage<'_>> for Record {
    fn from(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        Self {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect(),
            timestamp: message.timestamp().to_millis().unwrap_or(-1),
        }
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.cont();
        self.kill();
    }
}

impl Ports {
    fn free() -> Self {
        let mut found = Vec::new();
        while found.len() < 3 {
            let port = fastrand::u16(20_000..32_000);
            if !found.contains(&port) && std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
                found.push(port);
            }
        }
        Self { open: found[0], sasl: found[1], controller: found[2] }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE))
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// An authority and a certificate for `localhost` that it has signed, as PEM files.
fn certificates(dir: &Path) {
    const KEY: [&str; 6] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-batch"];
    const CA: [&str; 4] = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"];
    fs::write(dir.join("san.ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n").unwrap();
    let ca: Vec<&str> = ["req", "-x509", "-days", "30", "-subj", "/CN=test-ca", "-keyout", "ca.key", "-out", "ca.pem"]
        .into_iter()
        .chain(KEY)
        .chain(CA)
        .collect();
    let request: Vec<&str> =
        ["req", "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"].into_iter().chain(KEY).collect();
    let sign = [
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "30",
        "-extfile",
        "san.ext",
        "-out",
        "server.pem",
    ];
    for arguments in [&ca[..], &request[..], &sign[..]] {
        let done = Command::new("openssl").args(arguments).current_dir(dir).output().unwrap();
        assert!(done.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
    let parts = ["server.key", "server.pem", "ca.pem"].map(|file| fs::read_to_string(dir.join(file)).unwrap());
    fs::write(dir.join("keystore.pem"), parts.concat()).unwrap();
}
