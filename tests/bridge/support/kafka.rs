//! A real Apache Kafka: three brokers in `KRaft` mode that serve all tests of a run.
//!
//! It needs Java 17, Maven and OpenSSL. The jars are resolved once into `tests/kafka/target`; after that nothing needs the network. All processes end with the
//! one that started them, however that ends.

mod cluster;
mod control;
mod node;
mod prepare;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

pub(crate) use cluster::BROKERS;
use cluster::Cluster;
use control::Control;
pub(crate) use prepare::{java, locked, made, run};

use super::eventually;
use super::proxy::{Network, Weather};

/// A user of the `SASL_SSL` listener, who may do only what is granted.
pub(crate) const BRIDGE: User = User { name: "bridge", password: "bridge-sesame" };
/// Another, who never gets a right but where a test says so.
pub(crate) const STRANGER: User = User { name: "stranger", password: "stranger-sesame" };

/// Every wait on the broker is over by then.
const PATIENCE: Duration = Duration::from_mins(3);

/// A SCRAM user.
#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    pub(crate) name: &'static str,
    pub(crate) password: &'static str,
}

/// Who signs a new certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signer {
    /// Who has signed the old one.
    Same,
    /// An authority that nobody knows yet.
    Another,
}

/// The cluster.
pub(crate) struct Kafka {
    cluster: Cluster,
    control: Mutex<Option<Control>>,
    /// Brokers show another certificate than the one that they have in their settings.
    certificate_changed: bool,
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

/// The cluster of this process, together with other tests. All of it runs.
pub(crate) fn shared() -> RwLockReadGuard<'static, Kafka> {
    SHARED.read().unwrap_or_else(PoisonError::into_inner)
}

/// The cluster of this process alone, to do harm to it. All of it runs; when the guard goes, all of it runs again.
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
        let healed = catch_unwind(AssertUnwindSafe(|| self.0.heal()));
        // A test that has failed must not end the others with it.
        if let Err(why) = healed
            && !std::thread::panicking()
        {
            resume_unwind(why);
        }
    }
}

impl Kafka {
    /// Starts a cluster and waits until it serves.
    fn start() -> Self {
        Self { cluster: Cluster::start(), control: Mutex::default(), certificate_changed: false }
    }

    /// `host:port` of the open listeners, whose clients may do everything.
    pub(crate) fn bootstrap_servers(&self) -> String {
        self.cluster.open_servers()
    }

    /// The same through [`Kafka::network`].
    pub(crate) fn proxied_servers(&self) -> String {
        self.cluster.proxied_servers()
    }

    /// `host:port` of the listeners with users and rights, through [`Kafka::network`].
    pub(crate) fn sasl_servers(&self) -> String {
        self.cluster.sasl_servers()
    }

    /// librdkafka's properties for [`Kafka::sasl_servers`], but for the password.
    pub(crate) fn sasl_properties(&self, user: User) -> BTreeMap<String, String> {
        let ca = self.ca().to_str().unwrap().to_owned();
        [
            ("security.protocol", "SASL_SSL".to_owned()),
            ("sasl.mechanism", "SCRAM-SHA-512".to_owned()),
            ("sasl.username", user.name.to_owned()),
            ("ssl.ca.location", ca),
            // The brokers listen on the IPv4 loopback address alone.
            ("broker.address.family", "v4".to_owned()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }

    /// The certificate of the authority that has signed the brokers'.
    pub(crate) fn ca(&self) -> PathBuf {
        self.cluster.authority().certificate()
    }

    /// What lies between the brokers and the clients of [`Kafka::proxied_servers`] and [`Kafka::sasl_servers`].
    pub(crate) fn network(&self) -> &Network {
        self.cluster.network()
    }

    /// Cuts the way from the clients of [`Kafka::proxied_servers`] to one broker; the brokers reach one another as before.
    pub(crate) fn cut_off(&self, broker: i32) {
        self.network().cut_off(self.cluster.proxied_port(broker));
    }

    /// Stops all brokers where they are (SIGSTOP): connections stay, nothing answers.
    pub(crate) fn stop(&mut self) {
        self.cluster.stop(&BROKERS);
    }

    /// Lets stopped brokers go on.
    pub(crate) fn cont(&mut self) {
        self.cluster.cont(&BROKERS);
    }

    /// Kills all brokers (SIGKILL) and waits until they are gone.
    pub(crate) fn kill(&mut self) {
        self.cluster.kill(&BROKERS);
    }

    /// Starts killed brokers again with the data that they had, and waits until they serve.
    pub(crate) fn restart(&mut self) {
        let dead = self.cluster.dead();
        self.cluster.restart(&dead);
    }

    /// As [`Kafka::stop`], of some.
    pub(crate) fn stop_brokers(&mut self, ids: &[i32]) {
        self.cluster.stop(ids);
    }

    /// As [`Kafka::kill`], of some.
    pub(crate) fn kill_brokers(&mut self, ids: &[i32]) {
        self.cluster.kill(ids);
    }

    /// Undoes whatever was done to the cluster.
    pub(crate) fn heal(&mut self) {
        self.network().becomes(Weather::Clear);
        self.cont();
        self.restart();
        if std::mem::take(&mut self.certificate_changed) {
            for id in BROKERS {
                self.ask(&format!("keystore {id}"));
            }
            self.cluster.shows(None);
        }
    }

    /// The leader and the in-sync replicas of each partition of a topic.
    pub(crate) fn partitions(&self, topic: &str) -> Vec<(i32, BTreeSet<i32>)> {
        let metadata = self.consumer().fetch_metadata(Some(topic), PATIENCE).unwrap();
        let partitions = metadata.topics().first().unwrap().partitions();
        partitions.iter().map(|partition| (partition.leader(), partition.isr().iter().copied().collect())).collect()
    }

    /// Waits until every partition of these topics has a leader and all its replicas in sync.
    pub(crate) fn in_sync(&self, topics: &[String]) {
        for topic in topics {
            eventually(&format!("all replicas of {topic} are in sync"), PATIENCE, || {
                self.partitions(topic).iter().all(|(leader, isr)| *leader >= 0 && isr.len() == BROKERS.len()).then_some(())
            });
        }
    }

    /// Makes topics with three replicas, and waits until all of them are in sync.
    pub(crate) fn create_replicated(&self, topics: &[String], partitions: i32) {
        let replicas = i32::try_from(BROKERS.len()).unwrap();
        let new: Vec<_> = topics.iter().map(|topic| NewTopic::new(topic, partitions, TopicReplication::Fixed(replicas))).collect();
        let made = block_on(self.admin().create_topics(&new, &options())).unwrap();
        assert!(made.iter().all(Result::is_ok), "{made:?}");
        self.in_sync(topics);
    }

    /// Has all brokers show a new certificate for `localhost` to new connections. Tells the certificate of the authority that has signed it.
    pub(crate) fn change_certificate(&mut self, by: Signer) -> PathBuf {
        let another;
        let authority = match by {
            Signer::Same => self.cluster.authority(),
            Signer::Another => {
                another = self.cluster.another_authority("another-authority");
                &another
            }
        };
        let (ca, keystore) = (authority.certificate(), authority.keystore("changed.pem"));
        self.certificate_changed = true;
        for id in BROKERS {
            self.ask(&format!("keystore {id} {}", keystore.display()));
        }
        self.cluster.shows(Some(&keystore));
        ca
    }

    /// Makes a user of the `SASL_SSL` listeners, or changes one's password.
    pub(crate) fn set_password(&self, user: &str, password: &str) {
        self.ask(&format!("password {user} {password}"));
    }

    /// Makes a topic with one replica and waits until all brokers know it.
    pub(crate) fn create_topic(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        self.make_topic(NewTopic::new(topic, partitions, TopicReplication::Fixed(1)), settings);
    }

    /// The same with all of its partitions at one broker.
    pub(crate) fn create_topic_at(&self, broker: i32, topic: &str, partitions: i32) {
        let (replicas, partitions) = ([broker], usize::try_from(partitions).unwrap());
        let replicas: Vec<&[i32]> = vec![&replicas; partitions];
        self.make_topic(NewTopic::new(topic, i32::try_from(partitions).unwrap(), TopicReplication::Variable(&replicas)), &[]);
    }

    fn make_topic<'a>(&self, mut new: NewTopic<'a>, settings: &[(&'a str, &'a str)]) {
        let (topic, partitions) = (new.name, new.num_partitions);
        for (name, value) in settings {
            new = new.set(name, value);
        }
        let made = block_on(self.admin().create_topics([&new], &options())).unwrap();
        assert_eq!(made, [Ok(topic.to_owned())]);
        // They learn of it one after the other, and a client that has just been made knows but the one that it is told of.
        for server in self.bootstrap_servers().split(',') {
            eventually("the new topic is known", PATIENCE, || {
                let consumer: BaseConsumer = self.client().set("bootstrap.servers", server).create().unwrap();
                let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
                let known = metadata.topics().first().filter(|topic| topic.error().is_none())?.partitions();
                (known.len() == usize::try_from(partitions).unwrap() && known.iter().all(|one| one.leader() >= 0)).then_some(())
            });
        }
    }

    /// Makes a topic that takes records only while each of its replicas is in sync.
    pub(crate) fn create_whole(&self, topic: &str) {
        self.make_topic(NewTopic::new(topic, 1, TopicReplication::Fixed(3)), &[("min.insync.replicas", "3")]);
    }

    /// The broker that coordinates the transactions of this name.
    pub(crate) fn coordinator(&self, transactional_id: &str) -> i32 {
        // The topic is made for the first transaction of all.
        self.fence(transactional_id);
        let partitions = self.partitions("__transaction_state");
        // Java's hash of a string, without its sign.
        let hash = transactional_id.encode_utf16().fold(0_u32, |hash, unit| hash.wrapping_mul(31).wrapping_add(u32::from(unit)));
        partitions[usize::try_from(hash & 0x7fff_ffff).unwrap() % partitions.len()].0
    }

    /// Deletes a topic and waits until it is known no more.
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

    /// Publishes records in the name of the idempotent producer that wrote to a partition last, which is out of step with the partition's leader from then on.
    pub(crate) fn forge(&self, topic: &str, partition: i32, count: u32) {
        self.ask(&format!("forge {topic} {partition} {count}"));
    }

    /// The same of a producer of transactions: the records are of the transaction that it has open there, and are committed or aborted with it.
    pub(crate) fn forge_in_transaction(&self, topic: &str, partition: i32, count: u32, transactional_id: &str) {
        self.ask(&format!("forge {topic} {partition} {count} {transactional_id}"));
    }

    /// Takes the name of a producer of transactions, as another one would that begins under it: what that has open is aborted, and it can go on no more.
    pub(crate) fn fence(&self, transactional_id: &str) {
        let producer: BaseProducer = self.client().set("transactional.id", transactional_id).create().unwrap();
        producer.init_transactions(PATIENCE).unwrap();
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

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE))
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}
