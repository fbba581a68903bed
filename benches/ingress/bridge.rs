//! The bridge as it ships: its program, a configuration file, a fresh journal.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::APP;
use super::process::Server;
use super::table::Deliveries;

/// Below the ports that the kernel gives to outgoing connections, so that none of ours is taken between look and use.
const PORTS: std::ops::Range<u16> = 18_080..18_180;

/// How long a start, or the publishing of what a round left behind, may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// How often is looked. Each look costs the bridge some tens of microseconds.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// The Kafka that is published to.
pub(crate) enum Kafka {
    /// librdkafka's, whose topics are there.
    Embedded(String),
    /// One that keeps what it is given; missing topics are made.
    Real(String),
}

impl Kafka {
    pub(crate) fn bootstrap_servers(&self) -> &str {
        match self {
            Self::Embedded(servers) | Self::Real(servers) => servers,
        }
    }
}

/// Where a running bridge tells of itself. Its folder goes with it.
pub(crate) struct Bridge {
    /// Where callbacks go.
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    _dir: Option<tempfile::TempDir>,
}

impl Bridge {
    /// Starts the bridge, and waits until it is ready. `collector` is given all its traces, where there is one.
    pub(crate) fn start(
        program: &Path,
        dir: &Path,
        kafka: &Kafka,
        delivery: &str,
        collector: Option<SocketAddr>,
    ) -> Result<(Self, Server), Box<dyn Error>> {
        let (bootstrap_servers, create) = (kafka.bootstrap_servers(), matches!(kafka, Kafka::Real(_)));
        let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(dir)?;
        let mut ports = PORTS;
        let (address, admin) = (free(&mut ports)?, free(&mut ports)?);
        let config = dir.path().join("chat-bridge.toml");
        let journal = toml::Value::from(dir.path().join("journal").to_string_lossy().into_owned());
        let text = format!(
            "[http]\nlisten = \"{address}\"\n[admin]\nlisten = \"{admin}\"\n[[apps]]\nsdk_app_id = {APP}\n\
             [journal]\ndir = {journal}\n[kafka]\nbootstrap_servers = {bootstrap_servers:?}\ndelivery = {delivery:?}\ninstance = \"0\"\n\
             [topics]\nreplication_factor = 1\ncreate = {create}\n\
             [log]\nlevel = \"warn\"\nformat = \"text\"\n",
        );
        let tracing = collector.map(|address| format!("[tracing]\notlp_endpoint = \"http://{address}\"\notlp_protocol = \"http\"\n"));
        let text = text + &tracing.unwrap_or_default();
        std::fs::write(&config, text)?;
        let mut server = Server::spawn(Command::new(program).arg("serve").arg("--config").arg(&config))?;
        let bridge = Self { address, admin, _dir: Some(dir) };
        bridge.wait_for("ready", || {
            if !server.runs()? {
                return Err("the bridge ended at its start".into());
            }
            Ok(bridge.get("/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")))
        })?;
        Ok((bridge, server))
    }

    /// One that does both on one address, and keeps its folder itself.
    pub(crate) const fn at(address: SocketAddr) -> Self {
        Self { address, admin: address, _dir: None }
    }

    /// Waits until Kafka has all that the bridge has taken.
    pub(crate) fn wait_until_published(&self) -> Result<(), Box<dyn Error>> {
        self.wait_for("done with publishing", || {
            let metrics = self.get("/metrics")?;
            let unpublished = metrics.lines().find_map(|line| line.strip_prefix("chat_bridge_journal_unpublished_records "));
            let unpublished = unpublished.ok_or("the bridge has no chat_bridge_journal_unpublished_records")?;
            Ok(unpublished.trim() == "0")
        })
    }

    /// How many events were delivered so far, and how long that took together.
    pub(crate) fn deliveries(&self) -> Result<Deliveries, Box<dyn Error>> {
        let metrics = self.get("/metrics")?;
        let figure = |name: &str| -> Result<f64, Box<dyn Error>> {
            let text = metrics.lines().find_map(|line| line.strip_prefix(&format!("chat_bridge_delivery_latency_seconds_{name} ")));
            Ok(text.ok_or("the bridge has no chat_bridge_delivery_latency_seconds")?.trim().parse()?)
        };
        Ok(Deliveries { count: figure("count")?, seconds: figure("sum")? })
    }

    fn wait_for(&self, what: &str, mut holds: impl FnMut() -> Result<bool, Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + PATIENCE;
        while !holds()? {
            if Instant::now() >= deadline {
                return Err(format!("the bridge on {} was not {what} within {} s", self.address, PATIENCE.as_secs()).into());
            }
            std::thread::sleep(LOOK_PERIOD);
        }
        Ok(())
    }

    fn get(&self, path: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.admin, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.admin)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

fn free(ports: &mut std::ops::Range<u16>) -> Result<SocketAddr, Box<dyn Error>> {
    let mut addresses = ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let found = addresses.find(|address| TcpListener::bind(address).is_ok());
    found.ok_or_else(|| format!("none of the ports {} to {} is free", PORTS.start, PORTS.end).into())
}
