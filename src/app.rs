//! Wiring: the only module that knows all the others. What is started in which order, and stopped in which.
//!
//! A start that fails, fails before a callback was accepted. Whatever ends while it should run ends the process, with an exit code that says why.

mod bridge;
mod conditions;
mod descriptors;
mod drain;
mod error;
mod orphan;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::admin::{self, Heartbeats, Listener, Sources};
use crate::callback;
use crate::clock::Clock;
use crate::config::Config;
use crate::event::DeadLetterReason;
use crate::forwarder::{self, Forwarding, Limits};
use crate::ingress::{self, Ingress, Refusal, Setup, Strangers};
use crate::journal::storage::Disk;
use crate::journal::{self, Journal, RecoveryReport};
use crate::kafka;
use crate::metrics::{Labels, Metrics};
use crate::routing::Routing;
use crate::traces::{self, Exporter, Tracer};

pub use drain::drained_since;
pub use error::{Error, Remedy};
pub use orphan::{Drained, Left, drain};

use bridge::{Bridge, Phase, Signals};
use conditions::Conditions;
use drain::Drain;

/// After a failed write or sync the process has this long to end by itself.
const FAILURE_GRACE: Duration = Duration::from_millis(900);

/// What a bridge is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// For real: the configured apps, a real Kafka.
    Serve,
    /// To try it out: any app, the embedded Kafka.
    Trial,
}

impl Purpose {
    /// Whether callbacks of other apps are taken, and whether the cluster can tell how large a message may be.
    const fn grants(self) -> (Strangers, Limits) {
        match self {
            Self::Serve => (Strangers::Refused, Limits::Asked),
            Self::Trial => (Strangers::Accepted, Limits::Unasked),
        }
    }
}

/// Where a running bridge is reached.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Callbacks.
    pub public: SocketAddr,
    /// Probes and metrics.
    pub admin: SocketAddr,
}

/// Runs the bridge until a signal stops it or a part of it fails. `started` is told once, when callbacks are accepted.
///
/// # Errors
/// See [`Error`]. A stop by signal is none.
pub async fn run(mut config: Config, purpose: Purpose, started: impl FnOnce(Addresses)) -> Result<(), Error> {
    // 1. Signals, so that none is missed.
    let mut signals = Signals::new().map_err(Error::System)?;
    // 2. Ports and files: all that an operator may have got wrong.
    descriptors::share_out(&mut config);
    let (strangers, limits) = purpose.grants();
    let public = Ingress::bind(&config, strangers).map_err(Error::Ingress)?;
    let operator = Listener::bind(&config.admin).map_err(Error::Admin)?;
    let settings = kafka::Settings::load(&config.kafka, &config.topics).map_err(Error::Kafka)?;
    let tokens = config.admin.token_file.as_deref().map(open_tokens).transpose()?;
    // 3. Metrics, where spans go, and the operator's side, so that a long recovery can be watched.
    let routing = Arc::new(Routing::new(&config.topics));
    let metrics = metrics(&routing, &settings)?;
    let (tracer, exporter) = start_traces(&config, &metrics)?;
    let phase = Arc::new(Phase::default());
    let heartbeats = Heartbeats::new(config.admin.stall_max.get());
    let drain = Arc::new(Drain::new(&config, Clock::system(), metrics.bridge.clone()));
    let conditions = Arc::new(Conditions::new(Arc::clone(&phase), Arc::clone(&drain)));
    let for_admin = Arc::clone(&conditions);
    let addresses = Addresses { public: public.local_addr(), admin: operator.address() };
    let sources = Sources {
        metrics: metrics.clone(),
        heartbeats: heartbeats.clone(),
        conditions: Arc::new(move || for_admin.list()),
        drain: tokens.map(|tokens| desk(tokens, &drain)),
    };
    let _admin = operator.serve(sources).map_err(Error::Admin)?;
    // 4. The journal: recovery, then the threads that write it.
    let opened = tokio::select! {
        opened = open_journal(journal_settings(&config), &metrics) => opened?,
        () = signals.next() => {
            tracing::info!("the bridge ends before it has begun");
            return Ok(());
        }
    };
    let journal = opened.journal.clone();
    watch_over(&journal).map_err(Error::System)?;
    drain.resume(&journal).map_err(Error::Drain)?;
    // 5. The way out, before the way in.
    let status = kafka::Status::new(metrics.kafka.clone());
    let kafka = Way { routing, settings, status: status.clone(), limits };
    let forwarding = start_forwarder(&config, &opened, kafka, &metrics, tracer.clone())?;
    conditions.complete(journal.clone(), status, forwarding.handle());
    // 6. The way in.
    let setup = setup(&heartbeats, journal.clone(), &metrics, tracer);
    let ingress = Arc::new(public.serve(setup).map_err(Error::Ingress)?);
    drain.complete(drain::Parts {
        journal: journal.clone(),
        ingress: Arc::clone(&ingress),
        forwarder: forwarding.handle(),
        journal_metrics: metrics.journal.clone(),
    });
    phase.started.store(true, Ordering::Release);
    let started_as = if drain.is_shut() { "the bridge is drained: callbacks are refused" } else { "callbacks are accepted" };
    tracing::info!(public = %addresses.public, admin = %addresses.admin, "{started_as}");
    started(addresses);
    // 7. Until something ends.
    let watching = watch::watch(journal.clone(), metrics.ingress.clone());
    let draining = Arc::clone(&drain).run();
    let bridge = Bridge { config, journal, ingress, phase, drain, metrics: metrics.journal.clone(), exporter };
    tokio::select! {
        ended = bridge.run(forwarding, signals) => ended,
        never = watching => match never {},
        never = draining => match never {},
    }
}

/// Who records spans, where the configuration has a collector for them.
fn start_traces(config: &Config, metrics: &Metrics) -> Result<(Option<Tracer>, Option<Exporter>), Error> {
    let started = traces::start(&config.tracing, kafka::settings::instance(&config.kafka), &metrics.traces);
    Ok(started.map_err(Error::Traces)?.unzip())
}

fn setup(heartbeats: &Heartbeats, journal: Journal, metrics: &Metrics, tracer: Option<Tracer>) -> Setup {
    let workers = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let beats: Vec<_> = (0..workers.get()).map(|index| heartbeats.register(format!("ingress-{index}"))).collect();
    Setup {
        workers,
        journal,
        metrics: metrics.ingress.clone(),
        clock: Clock::system(),
        heartbeat: Arc::new(move |worker| {
            if let Some(beat) = beats.get(worker) {
                beat.beat();
            }
        }),
        tracer,
    }
}

fn open_tokens(path: &Path) -> Result<Arc<admin::drain::Tokens>, Error> {
    let tokens = admin::drain::Tokens::open(path).map_err(|source| Error::Token { path: path.to_owned(), source })?;
    Ok(Arc::new(tokens))
}

fn desk(tokens: Arc<admin::drain::Tokens>, drain: &Arc<Drain>) -> admin::drain::Desk {
    let drain = Arc::clone(drain);
    admin::drain::Desk { tokens, control: Arc::new(move |order| drain.order(order)) }
}

fn metrics(routing: &Routing, settings: &kafka::Settings) -> Result<Metrics, Error> {
    let commands: Vec<&str> = callback::commands().map(|command| command.name).collect();
    let dead_letters: Vec<&str> = DeadLetterReason::ALL.iter().map(|reason| reason.label()).collect();
    Metrics::new(&Labels {
        refusals: Refusal::REASONS,
        commands: &commands,
        topics: &routing.topic_labels(),
        positions: settings.positions().map(|place| place.topic.as_str()),
        dead_letters: &dead_letters,
        kafka_errors: &kafka::ERROR_KINDS,
    })
    .map_err(Error::Metrics)
}

/// Where events go, and how.
struct Way {
    routing: Arc<Routing>,
    settings: kafka::Settings,
    status: kafka::Status,
    limits: Limits,
}

/// The way out of an open journal.
fn start_forwarder(
    config: &Config,
    opened: &journal::Opened,
    way: Way,
    metrics: &Metrics,
    tracer: Option<Tracer>,
) -> Result<Forwarding, Error> {
    forwarder::start(forwarder::Parts {
        config: forwarder::Config {
            mode: config.events.mode,
            instance: kafka::settings::instance(&config.kafka),
            oversized_dir: config.journal.dir.join("oversized"),
            kafka: config.kafka.clone(),
            topics: config.topics.clone(),
            limits: way.limits,
        },
        journal: opened.journal.clone(),
        positions: opened.positions.clone(),
        start: opened.report.start,
        end: opened.report.end,
        routing: way.routing,
        kafka: way.settings,
        status: way.status,
        kafka_metrics: metrics.kafka.clone(),
        metrics: metrics.forwarder.clone(),
        journal_metrics: metrics.journal.clone(),
        clock: Clock::system(),
        tracer,
    })
    .map_err(Error::System)
}

fn journal_settings(config: &Config) -> journal::Config {
    journal::Config::new(&config.journal, ingress::record_max(&config.http))
}

async fn open_journal(settings: journal::Config, metrics: &Metrics) -> Result<journal::Opened, Error> {
    let metrics = metrics.journal.clone();
    // Recovery may read for seconds; meanwhile a signal still ends the process: what recovery does, the next one does as well.
    let opened = tokio::task::spawn_blocking(move || journal::open(settings, Arc::new(Disk::default()), metrics, Clock::system()));
    let opened = opened.await.map_err(|error| Error::System(io::Error::other(error)))?.map_err(|error| Error::Journal(Arc::new(error)))?;
    tell(&opened.report);
    Ok(opened)
}

/// The last checkpoint, and the end of the journal's threads.
async fn close(journal: Journal) -> Result<(), Error> {
    let closed = tokio::task::spawn_blocking(move || journal.close()).await;
    closed.map_err(|error| Error::System(io::Error::other(error)))?.map_err(|error| Error::Journal(Arc::new(error)))
}

/// Tells the operator what opening the journal found and did.
fn tell(report: &RecoveryReport) {
    tracing::info!(
        start = ?report.start, identity = %report.identity, segments = report.segments, lowest_position = report.lowest.get(), next_lsn = report.end.get(),
        unpublished = report.unpublished_records, "journal opened"
    );
    if let Some(torn) = &report.torn_tail {
        tracing::warn!(
            kept_records = torn.kept_records,
            cut_records = torn.cut_records,
            cut_bytes = torn.cut_bytes,
            "the journal's torn tail was cut: what it held had not been answered"
        );
    }
    for file in &report.set_aside {
        tracing::error!(file = %file, "a corrupt piece of the journal was set aside");
    }
    for (first, next) in &report.lost {
        tracing::error!(first_lsn = first.get(), last_lsn = next.get().saturating_sub(1), "records of the journal are lost");
    }
    if let Some(before) = &report.identity_before {
        tracing::error!(before = %before, "the journal's log has lost its end: the journal has a new identity");
    }
    if report.checkpoint_lost {
        tracing::error!("the journal's checkpoint is lost: reading begins at the oldest segment, and records may be published once more");
    }
}

/// The last resort: where the process has not ended soon after the journal has failed, it is aborted, so that nothing is answered any more.
fn watch_over(journal: &Journal) -> io::Result<()> {
    let journal = journal.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
        drop(runtime.block_on(journal.failed()));
        thread::sleep(FAILURE_GRACE);
        std::process::abort();
    })?;
    Ok(())
}
