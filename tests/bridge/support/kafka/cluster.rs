//! Three brokers and a controller, each a process of its own, with their folders, settings and ports.
//!
//! The controller stands apart so that brokers can be killed without it: what is left of them is then told who leads, and that replicas are missing.
//! Every broker listens three times: open to the tests themselves; open through a [`Network`] of the tests, which can be cut; and with TLS, users and rights
//! through the same network.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::super::eventually;
use super::super::proxy::Network;
use super::node::Node;
use super::prepare::{CLUSTER_ID, prepared};
use crate::support::certificates::{self, Authority};

/// The numbers of the brokers.
pub(crate) const BROKERS: [i32; 3] = [1, 2, 3];

/// The controller's number.
const CONTROLLER: i32 = 9;

/// The brokers' own certificate, a file of the authority.
const KEYSTORE: &str = "keystore.pem";

/// The processes' heaps, in megabytes.
const BROKER_HEAP: u32 = 256;
const CONTROLLER_HEAP: u32 = 128;

/// Every wait on a process is over by then: a broker of a busy machine takes a minute to start.
const PATIENCE: Duration = Duration::from_mins(3);

pub(super) struct Cluster {
    dir: PathBuf,
    ports: Vec<Ports>,
    brokers: Vec<Option<Node>>,
    /// Ends with the cluster.
    _controller: Node,
    network: Network,
    authority: Authority,
    /// Removes the folder where the processes' own shells did not get to it.
    _temporary: TempDir,
}

/// Of one broker.
#[derive(Clone, Copy, Debug)]
struct Ports {
    open: u16,
    proxied: u16,
    /// Where the broker listens itself, behind `proxied`.
    behind_proxied: u16,
    sasl: u16,
    /// Where the broker listens itself, behind `sasl`.
    behind_sasl: u16,
}

impl Cluster {
    /// Starts it, and waits until every broker serves.
    pub(super) fn start() -> Self {
        let temporary = tempfile::Builder::new().prefix("kafka-test-").tempdir().unwrap();
        let dir = temporary.path().to_owned();
        let authority = Authority::new(&dir.join("authority"));
        authority.keystore(KEYSTORE);
        let mut free = free_ports();
        let mut port = || free.next().unwrap();
        let controller_port = port();
        let ports = BROKERS.map(|_| Ports { open: port(), proxied: port(), behind_proxied: port(), sasl: port(), behind_sasl: port() });
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let links = ports.iter().flat_map(|ports| [(ports.proxied, ports.behind_proxied), (ports.sasl, ports.behind_sasl)]);
        let network = Network::new(links.map(|(from, to)| (local(from), local(to))).collect());

        let common = common(&authority, controller_port);
        let controller_dir = node_dir(&dir, CONTROLLER, &format!("{common}{}", of_controller(controller_port)));
        let controller = Node::spawn(&dir, &controller_dir, CONTROLLER_HEAP);
        let spawn = |(id, ports): (i32, &Ports)| {
            let dir_of_broker = node_dir(&dir, id, &format!("{common}{}", of_broker(*ports)));
            Some(Node::spawn(&dir, &dir_of_broker, BROKER_HEAP))
        };
        let brokers: Vec<_> = BROKERS.into_iter().zip(&ports).map(spawn).collect();
        controller.started(PATIENCE);
        for broker in brokers.iter().flatten() {
            broker.started(PATIENCE);
        }
        Self { dir, ports: ports.to_vec(), brokers, _controller: controller, network, authority, _temporary: temporary }
    }

    pub(super) fn open_servers(&self) -> String {
        self.servers("127.0.0.1", |ports| ports.open)
    }

    pub(super) fn proxied_servers(&self) -> String {
        self.servers("127.0.0.1", |ports| ports.proxied)
    }

    pub(super) fn sasl_servers(&self) -> String {
        self.servers("localhost", |ports| ports.sasl)
    }

    fn servers(&self, host: &str, port: impl Fn(&Ports) -> u16) -> String {
        let servers: Vec<String> = self.ports.iter().map(|ports| format!("{host}:{}", port(ports))).collect();
        servers.join(",")
    }

    pub(super) const fn network(&self) -> &Network {
        &self.network
    }

    /// Where clients of the network find a broker.
    pub(super) fn proxied_port(&self, id: i32) -> u16 {
        let index = BROKERS.iter().position(|known| *known == id).unwrap();
        self.ports[index].proxied
    }

    /// Who has signed the brokers' certificates.
    pub(super) const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A new authority of this name.
    pub(super) fn another_authority(&self, name: &str) -> Authority {
        Authority::new(&self.dir.join(name))
    }

    /// Waits until every broker shows the certificate of this file, or the one that all of them began with.
    pub(super) fn shows(&self, keystore: Option<&Path>) {
        let own = self.authority.certificate().with_file_name(KEYSTORE);
        for ports in &self.ports {
            eventually("a broker shows the certificate", PATIENCE, || {
                certificates::shows(ports.behind_sasl, keystore.unwrap_or(&own)).then_some(())
            });
        }
    }

    fn broker(&mut self, id: i32) -> &mut Option<Node> {
        let index = BROKERS.iter().position(|known| *known == id).unwrap();
        &mut self.brokers[index]
    }

    pub(super) fn stop(&mut self, ids: &[i32]) {
        for id in ids {
            self.broker(*id).as_mut().unwrap().stop();
        }
    }

    pub(super) fn cont(&mut self, ids: &[i32]) {
        for id in ids {
            if let Some(broker) = self.broker(*id) {
                broker.cont();
            }
        }
    }

    /// Kills brokers (SIGKILL), all before the first is waited for.
    pub(super) fn kill(&mut self, ids: &[i32]) {
        let killed: Vec<_> = ids.iter().filter_map(|id| self.broker(*id).take()).map(Node::kill_soon).collect();
        for killed in killed {
            killed.gone();
        }
    }

    /// Starts brokers again with the data that they had, those that run too, and waits until all of them serve.
    pub(super) fn restart(&mut self, ids: &[i32]) {
        self.kill(ids);
        for id in ids {
            let node = Node::spawn(&self.dir, &self.dir.join(format!("node-{id}")), BROKER_HEAP);
            *self.broker(*id) = Some(node);
        }
        for id in ids {
            self.broker(*id).as_ref().unwrap().started(PATIENCE);
        }
    }

    pub(super) fn dead(&self) -> Vec<i32> {
        let dead = |node: &Option<Node>| !node.as_ref().is_some_and(Node::is_alive);
        BROKERS.into_iter().zip(&self.brokers).filter(|(_, node)| dead(node)).map(|(id, _)| id).collect()
    }
}

/// Makes a process's folder, with its settings and its formatted storage.
fn node_dir(root: &Path, id: i32, properties: &str) -> PathBuf {
    let dir = root.join(format!("node-{id}"));
    let data = dir.join("data");
    fs::create_dir_all(&data).unwrap();
    for file in fs::read_dir(&prepared().storage).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), data.join(file.file_name())).unwrap();
    }
    // A storage differs from another's in these two lines alone. The id is a UUID in base64, whose last character has bits to spare.
    let unique: String = (0..21).map(|_| fastrand::alphanumeric()).collect();
    let meta = format!("version=1\ncluster.id={CLUSTER_ID}\nnode.id={id}\ndirectory.id={unique}A\n");
    fs::write(data.join("meta.properties"), meta).unwrap();
    fs::write(dir.join("server.properties"), format!("{properties}node.id={id}\nlog.dirs={}\n", data.display())).unwrap();
    dir
}

fn common(authority: &Authority, controller_port: u16) -> String {
    let keystore = authority.certificate().with_file_name(KEYSTORE);
    let ca = authority.certificate();
    format!(
        "controller.quorum.voters={CONTROLLER}@127.0.0.1:{controller_port}\n\
         controller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=OPEN:PLAINTEXT,PROXIED:PLAINTEXT,SASL:SASL_SSL,CONTROLLER:PLAINTEXT\n\
         listener.name.sasl.ssl.keystore.type=PEM\n\
         listener.name.sasl.ssl.keystore.location={keystore}\n\
         listener.name.sasl.ssl.truststore.type=PEM\n\
         listener.name.sasl.ssl.truststore.location={ca}\n\
         sasl.enabled.mechanisms=SCRAM-SHA-512\n\
         listener.name.sasl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
         authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
         super.users=User:ANONYMOUS\n\
         allow.everyone.if.no.acl.found=false\n\
         default.replication.factor=3\n\
         min.insync.replicas=2\n\
         num.partitions=6\n\
         offsets.topic.replication.factor=3\n\
         offsets.topic.num.partitions=1\n\
         transaction.state.log.replication.factor=3\n\
         transaction.state.log.min.isr=2\n\
         transaction.state.log.num.partitions=4\n\
         transaction.abort.timed.out.transaction.cleanup.interval.ms=500\n\
         share.coordinator.state.topic.replication.factor=3\n\
         share.coordinator.state.topic.min.isr=2\n\
         group.initial.rebalance.delay.ms=0\n\
         auto.create.topics.enable=false\n\
         broker.heartbeat.interval.ms=500\n\
         broker.session.timeout.ms=4000\n\
         num.network.threads=2\n\
         log.cleaner.dedupe.buffer.size=4194304\n",
        keystore = keystore.display(),
        ca = ca.display(),
    )
}

fn of_controller(port: u16) -> String {
    format!("process.roles=controller\nlisteners=CONTROLLER://127.0.0.1:{port}\n")
}

fn of_broker(ports: Ports) -> String {
    let Ports { open, proxied, behind_proxied, sasl, behind_sasl } = ports;
    format!(
        "process.roles=broker\n\
         listeners=OPEN://127.0.0.1:{open},PROXIED://127.0.0.1:{behind_proxied},SASL://127.0.0.1:{behind_sasl}\n\
         advertised.listeners=OPEN://127.0.0.1:{open},PROXIED://127.0.0.1:{proxied},SASL://localhost:{sasl}\n\
         inter.broker.listener.name=OPEN\n"
    )
}

/// Ports that nobody listens on, each once. Below 32768: a client that keeps trying a port of the ephemeral range can connect to itself, and hold it against the
/// broker. Below [`free_port`](super::super::free_port)'s too, so that no test takes the port of a broker that is away for the moment.
fn free_ports() -> impl Iterator<Item = u16> {
    let mut ports: Vec<u16> = (16_000..20_000).collect();
    fastrand::shuffle(&mut ports);
    ports.into_iter().filter(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
}
