//! `simulate`: callbacks as load, and the proof that all arrived.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::output::{Format, on_terminal};
use super::{Exit, Failure, print};
use crate::simulate::command::Mix;
use crate::simulate::load::{self, Ended, Extent, Live, OnBreak, Pace, Shape, Stop, Summary, Target, Token};
use crate::simulate::topics::{self, Cluster, Topics};
use crate::simulate::verify::Repetitions;
use crate::simulate::{log, verify};

/// How often the live line changes.
const LIVE_PERIOD: Duration = Duration::from_millis(250);

/// How long Kafka may take to answer one question.
const QUESTION_MAX: Duration = Duration::from_secs(10);

/// A Tencent Chat backend for tests: callbacks as load, and proof of delivery.
#[derive(Debug, Subcommand)]
pub(super) enum Simulate {
    Load(Box<Load>),
    Verify(Verify),
}

/// Send callbacks as Chat would, and count the answers.
///
/// Each connection sends one callback at a time, and all of its own groups. With --rate they are sent by schedule, and latencies count from the moment at which a
/// callback was due; without it, the next one is sent once the last is answered. Exit code 0; 69 where not one callback was acknowledged; 74 where a connection broke and
/// --continue-on-error is not given. Some refusals among acknowledgements are a result, and counted in the summary.
#[derive(Debug, Args)]
pub(super) struct Load {
    /// Where to: the URL as it would be entered in Chat's console.
    #[arg(long, value_name = "URL")]
    target: Target,
    /// Connections that are kept open.
    #[arg(long, default_value = "64", value_name = "N")]
    connections: NonZeroU32,
    /// Callbacks a second, of all connections together; as fast as they are answered where it is absent.
    #[arg(long, value_name = "R")]
    rate: Option<NonZeroU32>,
    /// How long it goes on; 10s where there is no --count either.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    duration: Option<Duration>,
    /// How many callbacks are sent.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// How often each command is sent, relative to the others.
    #[arg(long, default_value_t = Mix::default(), value_name = "KIND=WEIGHT,..")]
    mix: Mix,
    /// How many groups the callbacks are about; at least one a connection.
    #[arg(long, default_value = "1000", value_name = "N")]
    groups: NonZeroU32,
    /// The longest list of members; most are far shorter.
    #[arg(long, default_value = "50", value_name = "N")]
    members_max: NonZeroU32,
    /// The `SdkAppid` of the callbacks.
    #[arg(long, default_value = "1400000000", value_name = "ID")]
    app: u64,
    /// Adds `Sign` and `RequestTime` by the first token of this file.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// What is drawn follows from it; chosen and told where it is absent.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Where what was sent and how it was answered is written, for `simulate verify`.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Open a broken connection again, and count its callback as unknown; else it ends the load.
    #[arg(long)]
    continue_on_error: bool,
    /// How long an answer, or a connection, may take. Chat itself gives up after 2s.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration, value_name = "TIME")]
    timeout: Duration,
    /// How long after the end of the schedule what is late is still sent.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration, value_name = "TIME")]
    catch_up: Duration,
    /// Threads that send. One sends some tens of thousands a second.
    #[arg(long, default_value = "1", value_name = "N")]
    threads: NonZeroU16,
    /// Note in the log where the topics end now, so that `verify` reads from there on.
    #[arg(long, requires = "log", value_name = "HOST:PORT,..")]
    bootstrap_servers: Option<String>,
    #[command(flatten)]
    topics: TopicArgs,
    /// The form of the summary.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Read the topics, and say whether each callback of a load that was acknowledged is there.
///
/// Each acknowledged callback is there, none is invented, each has one id of its own, key, topic and content are those of what was sent, and those of one group
/// stand in the order of sending. Exit code 0 only if all of this holds, 65 if not, 69 if Kafka is not there.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The load's log.
    #[arg(long, value_name = "FILE")]
    log: PathBuf,
    /// The cluster.
    #[arg(long, default_value = "localhost:9092", value_name = "HOST:PORT,..")]
    bootstrap_servers: String,
    #[command(flatten)]
    topics: TopicArgs,
    /// How long to wait for what is missing, from the last callback that was found.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration, value_name = "TIME")]
    timeout: Duration,
    /// Also demand that no event stands there twice: for a bridge with `kafka.delivery = "exactly-once"`. What is not committed is not read in any case.
    #[arg(long)]
    exactly_once: bool,
    /// The form of the report.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Which topics, and how to reach them.
#[derive(Debug, Args)]
struct TopicArgs {
    /// What the topics' names begin with.
    #[arg(long, default_value = "chat.", value_name = "PREFIX")]
    prefix: String,
    /// The topic of one kind, where it is not prefix and kind: group-disband, member-exit, group-full, unrecognized or dead-letter.
    #[arg(long = "topic", value_parser = pair, value_name = "KIND=NAME")]
    names: Vec<(String, String)>,
    /// A property of librdkafka, such as security.protocol=SSL.
    #[arg(short = 'X', value_parser = pair, value_name = "PROPERTY=VALUE")]
    properties: Vec<(String, String)>,
}

impl Simulate {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Load(load) => load.run(),
            Self::Verify(verify) => verify.run(),
        }
    }
}

impl Load {
    fn run(self) -> Result<(), Failure> {
        let format = self.format;
        let config = self.config()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(Exit::Internal, format!("failed to start an event loop: {error}")))?;
        let summary = runtime.block_on(attend(config))?;
        print(&format.write(&summary)?)?;
        verdict(&summary)
    }

    fn config(self) -> Result<load::Config, Failure> {
        let token = self.token_file.as_deref().map(Token::read).transpose();
        let (topics, properties) = self.topics.parts()?;
        let offsets = match self.bootstrap_servers {
            None => BTreeMap::new(),
            Some(bootstrap_servers) => {
                let cluster = Cluster { bootstrap_servers, properties, timeout: QUESTION_MAX };
                cluster.end_offsets(&topics).map_err(|error| Failure::caused(exit_of_topics(&error), &error))?
            }
        };
        let duration = self.duration.or_else(|| self.count.is_none().then_some(Duration::from_secs(10)));
        Ok(load::Config {
            target: self.target,
            connections: self.connections,
            threads: self.threads,
            pace: self.rate.map_or(Pace::Closed, Pace::Open),
            extent: Extent { duration, count: self.count },
            shape: Shape {
                run: Uuid::new_v4(),
                seed: self.seed.unwrap_or_else(|| fastrand::u64(..)),
                app: self.app,
                mix: self.mix,
                groups: self.groups,
                members_max: self.members_max,
            },
            token: token.map_err(|error| Failure::caused(Exit::Io, &error))?,
            timeout: self.timeout,
            catch_up: self.catch_up,
            on_break: if self.continue_on_error { OnBreak::Reopen } else { OnBreak::End },
            log: self.log,
            offsets,
        })
    }
}

/// Whether a script that goes on after a load may take it for one.
fn verdict(summary: &Summary) -> Result<(), Failure> {
    let Summary { sent, acknowledged, ended, .. } = summary;
    let early = match ended {
        Ended::Complete | Ended::Stopped => None,
        Ended::Broken(why) => Some(format!("the load ended early: {why}")),
    };
    match (acknowledged, early) {
        (0, early) => {
            let early = early.map(|early| format!("; {early}")).unwrap_or_default();
            Err(Failure::new(Exit::Unavailable, format!("none of the {sent} callbacks that were sent was acknowledged{early}")))
        }
        (_, Some(early)) => Err(Failure::new(Exit::Io, early)),
        (_, None) => Ok(()),
    }
}

/// Runs a load on threads of its own, and meanwhile moves the live line and listens for signals: the first lets what is in flight be answered, a second ends it at once.
async fn attend(config: load::Config) -> Result<Summary, Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::new(Exit::Internal, format!("failed to listen for signals: {error}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let (live, stop) = (Arc::new(Live::default()), Stop::default());
    let display = LiveLine::start(&live);
    let (done, mut result) = oneshot::channel();
    let spawned = std::thread::Builder::new().name("load".to_owned()).spawn({
        let (live, stop) = (Arc::clone(&live), stop.clone());
        move || {
            // Where the receiver is gone, the process is on its way out.
            let _ = done.send(load::run(&config, &live, &stop));
        }
    });
    spawned.map_err(|error| Failure::new(Exit::Internal, format!("failed to start a thread: {error}")))?;
    let mut interval = tokio::time::interval(LIVE_PERIOD);
    let result = loop {
        tokio::select! {
            result = &mut result => break result,
            () = either(&mut interrupt, &mut terminate) => {
                if stop.is_set() {
                    return Err(Failure::new(Exit::Io, "stopped before the last answers; the log has no end"));
                }
                stop.set();
            }
            _ = interval.tick() => display.draw(),
        }
    };
    display.bar.finish_and_clear();
    match result {
        Ok(Ok(summary)) => Ok(summary),
        Ok(Err(error)) => {
            let exit = match &error {
                load::Error::TooFewGroups { .. } => Exit::Usage,
                load::Error::Log(_) => Exit::Io,
                load::Error::Thread(_) | load::Error::Panicked | load::Error::Histogram(_) | load::Error::Sum(_) => Exit::Internal,
            };
            Err(Failure::caused(exit, &error))
        }
        Err(_) => Err(Failure::caused(Exit::Internal, &load::Error::Panicked)),
    }
}

async fn either(first: &mut Signal, second: &mut Signal) {
    tokio::select! {
        _ = first.recv() => {}
        _ = second.recv() => {}
    }
}

/// One line that tells how far the load is; invisible where standard error is no terminal.
struct LiveLine {
    bar: ProgressBar,
    live: Arc<Live>,
    start: Instant,
}

impl LiveLine {
    fn start(live: &Arc<Live>) -> Self {
        let bar = on_terminal(ProgressBar::new_spinner);
        Self { bar, live: Arc::clone(live), start: Instant::now() }
    }

    fn draw(&self) {
        let figures = self.live.figures();
        let seconds = self.start.elapsed().as_secs_f64();
        let mut text = format!("{seconds:.0} s: {} sent, {} acknowledged", figures.sent, figures.acknowledged);
        for (count, what) in [(figures.refused, "refused"), (figures.unknown, "unknown"), (figures.reopened, "connections opened again")] {
            if count > 0 {
                // Writing to a String cannot fail.
                let _ = write!(text, ", {count} {what}");
            }
        }
        self.bar.set_message(text);
        self.bar.tick();
    }
}

impl Verify {
    fn run(self) -> Result<(), Failure> {
        let (topics, properties) = self.topics.parts()?;
        let cluster = Cluster { bootstrap_servers: self.bootstrap_servers, properties, timeout: QUESTION_MAX.min(self.timeout) };
        let repetitions = if self.exactly_once { Repetitions::Violate } else { Repetitions::Count };
        let config = verify::Config { log: self.log, cluster, topics, timeout: self.timeout, repetitions };
        let bar = on_terminal(|| ProgressBar::new(0));
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} acknowledged found, {msg}") {
            bar.set_style(style);
        }
        let result = verify::run(&config, &mut |progress| {
            bar.set_length(progress.acknowledged);
            bar.set_position(progress.found);
            bar.set_message(format!("{} records read", progress.records));
        });
        bar.finish_and_clear();
        let report = result.map_err(|error| Failure::caused(exit_of_verify(&error), &error))?;
        print(&self.format.write(&report)?)?;
        if report.holds { Ok(()) } else { Err(Failure::new(Exit::Corruption, "not every promise holds")) }
    }
}

impl TopicArgs {
    fn parts(self) -> Result<(Topics, BTreeMap<String, String>), Failure> {
        let topics = Topics::new(&self.prefix, &self.names.into_iter().collect());
        let topics = topics.map_err(|error| Failure::caused(exit_of_topics(&error), &error))?;
        Ok((topics, self.properties.into_iter().collect()))
    }
}

const fn exit_of_topics(error: &topics::Error) -> Exit {
    match error {
        topics::Error::Settings(_) | topics::Error::UnknownKind(_) => Exit::Usage,
        topics::Error::Unavailable { .. } => Exit::Unavailable,
    }
}

const fn exit_of_verify(error: &verify::Error) -> Exit {
    match error {
        verify::Error::Log(log::Error::Io { .. }) => Exit::Io,
        verify::Error::Log(log::Error::Header { .. } | log::Error::Malformed { .. } | log::Error::Incomplete { .. }) => Exit::Corruption,
        verify::Error::Topics(error) => exit_of_topics(error),
        verify::Error::NoTopics(_) | verify::Error::Silent { .. } | verify::Error::Assign { .. } => Exit::Unavailable,
        verify::Error::Histogram(_) => Exit::Internal,
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("it is not NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        verb: Simulate,
    }

    fn parse(line: &str) -> Result<Simulate, String> {
        Line::try_parse_from(std::iter::once("simulate").chain(line.split_whitespace()))
            .map(|line| line.verb)
            .map_err(|error| error.to_string())
    }

    fn load_config(line: &str) -> load::Config {
        match parse(line).unwrap() {
            Simulate::Load(load) => load.config().unwrap(),
            Simulate::Verify(verify) => panic!("{verify:?}"),
        }
    }

    #[test]
    fn a_load_needs_no_more_than_a_target() {
        let config = load_config("load --target http://127.0.0.1:8080/callback");
        assert_eq!((config.pace, config.on_break), (Pace::Closed, OnBreak::End));
        assert_eq!(config.extent, Extent { duration: Some(Duration::from_secs(10)), count: None });
        assert_ne!(config.shape.run, load_config("load --target http://127.0.0.1:8080/callback").shape.run);
    }

    #[test]
    fn what_is_given_is_what_is_done() {
        let config = load_config(
            "load --target http://127.0.0.1:8080 --connections 3 --rate 500 --count 20 --mix group-full=1 --groups 9 --app 7 --seed 5 \
             --log /tmp/x --continue-on-error --timeout 2s --catch-up 1m --threads 2",
        );
        assert_eq!((config.pace, config.on_break), (Pace::Open(NonZeroU32::new(500).unwrap()), OnBreak::Reopen));
        assert_eq!(config.extent, Extent { duration: None, count: Some(20) });
        assert_eq!((config.connections.get(), config.threads.get(), config.shape.groups.get()), (3, 2, 9));
        assert_eq!((config.shape.app, config.shape.seed), (7, 5));
        assert_eq!((config.timeout, config.catch_up), (Duration::from_secs(2), Duration::from_mins(1)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (line, says) in [
            ("load", "--target"),
            ("load --target https://x", "only http://"),
            ("load --target http://x --rate 0", "--rate"),
            ("load --target http://x --mix x=1", "none of group-disband"),
            ("load --target http://x --bootstrap-servers y:9092", "--log"),
            ("load --target http://x --duration 5", "--duration"),
            ("verify", "--log"),
            ("verify --log x -X y", "NAME=VALUE"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(says), "{line}: {error}");
        }
    }

    fn summary(sent: u64, acknowledged: u64, ended: Ended) -> Summary {
        Summary {
            run: Uuid::nil(),
            seed: 0,
            ended,
            seconds: 1.0,
            sent,
            acknowledged,
            acknowledged_otherwise: 0,
            refused: BTreeMap::from([(503, sent - acknowledged)]),
            unknown: 0,
            unsent: 0,
            broken: 0,
            reopened: 0,
            connect_failures: 0,
            acknowledged_per_second: 0.0,
            latency_seconds: None,
            service_seconds: None,
        }
    }

    #[test]
    fn a_load_of_which_nothing_was_acknowledged_is_a_failure_and_some_refusals_are_a_result() {
        let broken = || Ended::Broken("connection reset".to_owned());
        for (sent, acknowledged, ended, exit) in [
            (5, 5, Ended::Complete, None),
            (5, 1, Ended::Complete, None),
            (5, 1, Ended::Stopped, None),
            (5, 0, Ended::Complete, Some(Exit::Unavailable)),
            (0, 0, Ended::Stopped, Some(Exit::Unavailable)),
            (0, 0, broken(), Some(Exit::Unavailable)),
            (5, 1, broken(), Some(Exit::Io)),
        ] {
            let failure = verdict(&summary(sent, acknowledged, ended)).err();
            assert_eq!(failure.as_ref().map(Failure::exit), exit, "{failure:?}");
        }
        let failure = verdict(&summary(3, 0, broken())).unwrap_err().to_string();
        assert_eq!(failure, "none of the 3 callbacks that were sent was acknowledged; the load ended early: connection reset");
    }

    #[test]
    fn what_was_not_measured_is_a_dash_and_null() {
        let summary = summary(1, 0, Ended::Complete);
        let text = Format::Text.write(&summary).unwrap();
        assert!(text.contains("\nlatency       -\nservice time  -\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&Format::Json.write(&summary).unwrap()).unwrap();
        assert!(json["latency_seconds"].is_null() && json["service_seconds"].is_null(), "{json}");
    }

    #[test]
    fn a_topic_is_named_by_its_kind() {
        let topics = |line| match parse(line).unwrap() {
            Simulate::Verify(verify) => verify.topics.parts(),
            Simulate::Load(load) => panic!("{load:?}"),
        };
        let (names, properties) = topics("verify --log x --prefix im. --topic group-full=im.groups.full -X a.b=c=d").unwrap();
        assert_eq!(names.names(), ["im.group-disband", "im.member-exit", "im.groups.full", "im.unrecognized", "im.dead-letter"]);
        assert_eq!(properties, BTreeMap::from([("a.b".to_owned(), "c=d".to_owned())]));
        assert_eq!(topics("verify --log x --topic groups=y").unwrap_err().exit(), Exit::Usage);
    }
}
