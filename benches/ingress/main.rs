//! What a callback costs: the real bridge beside a bare hyper server that answers the same bytes without doing anything, and beside a naive receiver that
//! does the same work without the bridge's promises.
//!
//! Each server is a process of its own, and so is the embedded Kafka that the bridge publishes to, so that the processor time of each can be told apart; this process
//! sends the load. Rounds are interleaved, so that what else the machine does falls on both. `docs/benchmarks.md` says how to run it and how to read it.

mod bare;
mod bridge;
mod kafka;
mod naive;
mod process;
mod table;

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use chat_bridge::simulate::command::Mix;
use chat_bridge::simulate::load::{self, Ended, Extent, Live, OnBreak, Pace, Shape, Stop, Summary};
use clap::{Parser, ValueEnum};
use uuid::Uuid;

use bridge::{Bridge, Kafka};
use process::{Server, Usage};
use table::{Deliveries, Round, Table};

/// As in the program that ships.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The app that the callbacks are of.
const APP: u64 = 1_400_000_000;

/// What a callback costs the bridge, beside a bare hyper server and a naive receiver.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many connections are kept open, one run of rounds each.
    #[arg(long, value_delimiter = ',', default_value = "16,64,256")]
    connections: Vec<NonZeroU32>,
    /// How often each server is measured at each number of connections.
    #[arg(long, default_value = "5")]
    rounds: NonZeroU32,
    /// How long one measurement takes.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "5s")]
    duration: Duration,
    /// How long each server is loaded before it is measured for the first time.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "2s")]
    warm_up: Duration,
    /// Callbacks a second, by schedule; as fast as they are answered where it is absent.
    #[arg(long)]
    rate: Option<NonZeroU32>,
    /// Which servers are measured. Without it the bare one, the naive one, the bridge, and where there is a real Kafka the one that delivers exactly once.
    #[arg(long, value_delimiter = ',')]
    only: Option<Vec<Kind>>,
    /// The Kafka to publish to; an embedded one in a process of its own where it is absent, which has no transactions.
    #[arg(long, env = "CHAT_BRIDGE_BENCH_KAFKA")]
    kafka: Option<String>,
    /// Where the journal is made: it ought to be on the disk that is meant.
    #[arg(long, env = "CHAT_BRIDGE_BENCH_DIR", default_value = env!("CARGO_TARGET_TMPDIR"))]
    dir: PathBuf,
    /// The bridge's program.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_chat-bridge"))]
    program: PathBuf,
    /// Another build of the bridge, to be measured beside whatever else is: what a change costs shows only in one and the same run.
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// Where all rounds are written as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// What cargo adds; without it nothing is measured, so that `cargo test --benches` is quick.
    #[arg(long, hide = true)]
    bench: bool,
    /// What this process is, in a run of another.
    #[arg(long, hide = true)]
    role: Option<Role>,
}

/// A server that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    /// The bare hyper server.
    Bare,
    /// The naive receiver.
    Naive,
    /// The other build of the bridge.
    Baseline,
    /// The bridge, as it delivers by default: at least once.
    Bridge,
    /// The bridge that records every trace, with a collector that takes all it is sent.
    Traced,
    /// The bridge with `kafka.delivery = "exactly-once"`.
    ExactlyOnce,
}

/// A helper process of a run. It ends when its standard input does, so that none is left behind.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    Bare,
    Naive,
    Kafka,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.role {
        Some(Role::Bare) => bare::serve(),
        Some(Role::Naive) => naive::serve(arguments.kafka.as_deref().unwrap_or_default(), &arguments.dir),
        Some(Role::Kafka) => kafka::serve(),
        None if arguments.bench => run(&arguments),
        None => Ok(()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is gone there is nobody to tell.
            let _ = writeln!(io::stderr(), "ingress: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let mut servers: BTreeMap<Kind, Measured> = BTreeMap::new();
    for kind in wanted(arguments)? {
        servers.insert(kind, Measured::start(kind, arguments)?);
    }
    let mut rounds = Vec::new();
    for (index, connections) in arguments.connections.iter().enumerate() {
        if index == 0 && !arguments.warm_up.is_zero() {
            for measured in servers.values() {
                measured.load(arguments, *connections, arguments.warm_up)?;
            }
        }
        for round in 0..arguments.rounds.get() {
            // Every other round the other way round, so that neither always follows the other.
            let mut order: Vec<_> = servers.iter().collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for (kind, measured) in order {
                let line = measured.round(arguments, *kind, *connections)?;
                writeln!(io::stderr(), "{line}")?;
                rounds.push(line);
            }
        }
    }
    write!(io::stdout(), "{}", Table::of(&rounds))?;
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&rounds)?)?;
    }
    Ok(())
}

/// The servers that are asked for.
fn wanted(arguments: &Arguments) -> Result<Vec<Kind>, Box<dyn Error>> {
    let mut wanted = arguments.only.clone().unwrap_or_else(|| {
        let once = arguments.kafka.as_ref().map(|_| Kind::ExactlyOnce);
        [Kind::Bare, Kind::Naive, Kind::Bridge].into_iter().chain(once).collect()
    });
    wanted.extend(arguments.baseline.as_ref().map(|_| Kind::Baseline));
    if wanted.contains(&Kind::ExactlyOnce) && arguments.kafka.is_none() {
        return Err("exactly-once needs a real Kafka (--kafka): the embedded one answers to transactions and keeps none".into());
    }
    if wanted.contains(&Kind::Baseline) && arguments.baseline.is_none() {
        return Err("the baseline needs its program (--baseline)".into());
    }
    Ok(wanted)
}

/// A server, and what has to live as long as it does.
struct Measured {
    server: Server,
    address: SocketAddr,
    bridge: Option<Bridge>,
    _others: Vec<Server>,
}

impl Measured {
    fn start(kind: Kind, arguments: &Arguments) -> Result<Self, Box<dyn Error>> {
        if kind == Kind::Bare {
            let server = Server::spawn_role("bare", &[])?;
            let address = server.line.parse()?;
            return Ok(Self { server, address, bridge: None, _others: Vec::new() });
        }
        let mut others = Vec::new();
        let kafka = if let Some(servers) = &arguments.kafka {
            Kafka::Real(servers.clone())
        } else {
            let server = Server::spawn_role("kafka", &[])?;
            let servers = server.line.clone();
            others.push(server);
            Kafka::Embedded(servers)
        };
        if kind == Kind::Naive {
            let options = ["--kafka".as_ref(), kafka.bootstrap_servers().as_ref(), "--dir".as_ref(), arguments.dir.as_ref()];
            let server = Server::spawn_role("naive", &options)?;
            let address = server.line.parse()?;
            return Ok(Self { server, address, bridge: Some(Bridge::at(address)), _others: others });
        }
        let delivery = if kind == Kind::ExactlyOnce { "exactly-once" } else { "at-least-once" };
        let mut collector = None;
        if kind == Kind::Traced {
            // It takes whatever is posted.
            let server = Server::spawn_role("bare", &[])?;
            collector = Some(server.line.parse()?);
            others.push(server);
        }
        let program = arguments.baseline.as_ref().filter(|_| kind == Kind::Baseline).unwrap_or(&arguments.program);
        let (bridge, server) = Bridge::start(program, &arguments.dir, &kafka, delivery, collector)?;
        Ok(Self { server, address: bridge.address, bridge: Some(bridge), _others: others })
    }

    fn round(&self, arguments: &Arguments, kind: Kind, connections: NonZeroU32) -> Result<Round, Box<dyn Error>> {
        let before = (self.server.usage()?, self.deliveries()?);
        let summary = self.load(arguments, connections, arguments.duration)?;
        let after = (self.server.usage()?, self.deliveries()?);
        let usage = Usage { cpu: after.0.cpu.saturating_sub(before.0.cpu), ..after.0 };
        Ok(Round::of(kind, connections, &summary, usage, after.1.since(before.1)))
    }

    fn deliveries(&self) -> Result<Deliveries, Box<dyn Error>> {
        self.bridge.as_ref().map_or_else(|| Ok(Deliveries::default()), Bridge::deliveries)
    }

    /// Loads the server, and lets the bridge publish what it has taken, so that this round pays for all of its own work.
    fn load(&self, arguments: &Arguments, connections: NonZeroU32, duration: Duration) -> Result<Summary, Box<dyn Error>> {
        let config = load::Config {
            target: format!("http://{}/callback", self.address).parse()?,
            connections,
            threads: NonZeroU16::MIN,
            pace: arguments.rate.map_or(Pace::Closed, Pace::Open),
            extent: Extent { duration: Some(duration), count: None },
            shape: Shape {
                run: Uuid::new_v4(),
                seed: 1,
                app: APP,
                mix: Mix::default(),
                groups: connections.saturating_mul(const { NonZeroU32::new(16).unwrap() }),
                members_max: const { NonZeroU32::new(20).unwrap() },
            },
            token: None,
            timeout: Duration::from_secs(10),
            catch_up: Duration::from_secs(10),
            on_break: OnBreak::End,
            log: None,
            offsets: BTreeMap::new(),
        };
        let summary = load::run(&config, &Arc::new(Live::default()), &Stop::default())?;
        if let Ended::Broken(why) = &summary.ended {
            return Err(why.clone().into());
        }
        if let Some(bridge) = &self.bridge {
            bridge.wait_until_published()?;
        }
        Ok(summary)
    }
}

/// Waits until whoever started this process is gone or wants it gone.
fn wait_for_the_end_of_input() -> io::Result<()> {
    let mut byte = [0];
    while io::stdin().read(&mut byte)? > 0 {}
    Ok(())
}
