//! `journal replay`: publishes again what was published.

mod confirmations;
mod plan;
mod sender;

use std::fmt;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::super::output::Format;
use super::super::{Exit, Failure, Global, print};
use super::filter::{Filter, Resolved, Selection};
use super::{Place, counted, failure, folder};
use crate::clock::Clock;
use crate::config::{Config, Delivery};
use crate::journal::Lsn;
use crate::journal::inspect::{Folder, View};
use crate::kafka::Settings;
use crate::kafka::topics::{Admin, Presence};
use crate::routing::{self, Routing};
use confirmations::{Confirmations, Stopped};
use plan::{Destination, Plan, Planner};
use sender::Sender;

/// Publish again what was published, with the same event ids, to the same topics or to another.
///
/// It shows its plan and ends; with --yes it does it. Only what is in the journal still can be replayed: `journal.retention` says how long that is.
/// Records that are not published yet are left out, as the bridge, or `journal drain`, publishes them; so are commands that the configuration discards.
///
/// It takes no lock and changes nothing in the folder, so it is safe beside a running bridge. Records of one topic are sent in the order of the journal;
/// they mix with what the bridge publishes meanwhile. Consumers tell a repetition by its id (`ce_id`), which is the same each time, however often a replay
/// is repeated.
///
/// Exit code 0 if all was confirmed; 69 where Kafka did not take something, with the LSN from which to go on; 65 where records of the range are corrupt.
#[derive(Debug, Args)]
pub(in crate::cli) struct Replay {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    filter: Filter,
    /// Publish to this topic, which must exist, instead of the topics that the configuration names. Dead letters are left out then.
    #[arg(long, value_name = "NAME", value_parser = topic)]
    topic: Option<String>,
    /// Do it, and do not only show the plan.
    #[arg(long)]
    yes: bool,
    /// How long it goes on without a confirmation from Kafka.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// The form of plan and summary.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

fn topic(name: &str) -> Result<String, String> {
    routing::check_topic_name(name).map(|()| name.to_owned()).map_err(|error| error.to_string())
}

impl Replay {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let config = self.place.config(global)?;
        let folder = folder(&config);
        let routing = Routing::new(&config.topics);
        let view = folder.look().map_err(|error| failure(&error))?;
        let filter = self.filter.resolve(Clock::system().now());
        let planner = Planner::new(&routing, config.events.mode, &view, self.topic.as_deref());
        let replay = Running { config: &config, folder: &folder, view: &view, filter: &filter, planner: &planner, timeout: self.timeout };

        let plan = replay.plan()?;
        if !self.yes || plan.records() == 0 {
            let report = Report { plan: &plan, sent: None };
            print(&self.format.write(&report)?)?;
            return plan.verdict();
        }
        if self.format == Format::Text {
            // Before anything is done.
            print(&self.format.write(&plan)?)?;
        }
        let sent = replay.send(&plan)?;
        match self.format {
            Format::Text => print(&self.format.write(&sent)?)?,
            Format::Json => print(&self.format.write(&Report { plan: &plan, sent: Some(&sent) })?)?,
        }
        sent.verdict()?;
        plan.verdict()
    }
}

/// What both passes over the journal need.
struct Running<'a> {
    config: &'a Config,
    folder: &'a Folder,
    view: &'a View,
    filter: &'a Resolved,
    planner: &'a Planner<'a>,
    timeout: Duration,
}

impl Running<'_> {
    fn selection(&self) -> Selection<'_> {
        Selection::new(self.folder, self.view, self.filter, (self.planner.routing, self.planner.mode))
    }

    fn plan(&self) -> Result<Plan, Failure> {
        let mut plan = Plan::new(self.folder, self.view);
        let mut selection = self.selection();
        while let Some((lsn, callback)) = selection.next()? {
            plan.add(lsn, callback.received, &self.planner.destination(lsn, &callback));
        }
        plan.complete(&selection);
        Ok(plan)
    }

    fn send(&self, plan: &Plan) -> Result<Sent, Failure> {
        let settings = self.ask_kafka(&plan.topics())?;
        let mut sender = Sender::new(&settings, self.timeout).map_err(|error| Failure::caused(Exit::Configuration, &error))?;
        let mut selection = self.selection();
        let sent = self.send_all(&mut selection, &mut sender);
        let freed = selection.freed;
        drop(selection);
        let halt = sent.and_then(|()| Ok(sender.finish()?)).and_then(|()| self.send_alone(&mut sender)).err();
        let stopped = match &halt {
            Some(Halt::Kafka(why)) => Some(why),
            Some(Halt::Journal(_)) | None => None,
        };
        let confirmations = sender.end(stopped);
        Ok(Sent::new(confirmations, halt, freed))
    }

    fn send_all(&self, selection: &mut Selection<'_>, sender: &mut Sender) -> Result<(), Halt> {
        while let Some((lsn, callback)) = selection.next()? {
            let Destination::Topic { topic, message, .. } = self.planner.destination(lsn, &callback) else { continue };
            sender.send(lsn, &topic, &message)?;
        }
        Ok(())
    }

    /// Once more, one by one, what was refused among others: a broker refuses a whole batch for one record.
    fn send_alone(&self, sender: &mut Sender) -> Result<(), Halt> {
        for lsn in sender.refused_among_others() {
            let mut selection = Selection::of_one(self.folder, self.view, lsn, (self.planner.routing, self.planner.mode));
            let Some((lsn, callback)) = selection.next()? else { continue };
            let Destination::Topic { topic, message, .. } = self.planner.destination(lsn, &callback) else { continue };
            sender.send(lsn, &topic, &message)?;
            sender.finish()?;
        }
        Ok(())
    }

    /// Nothing is sent before all the topics are known to be there, and how large a batch they take.
    fn ask_kafka(&self, topics: &[&str]) -> Result<Settings, Failure> {
        let unavailable = |error: &crate::kafka::Error| {
            let exit = if error.is_configuration() { Exit::Configuration } else { Exit::Unavailable };
            Failure::new(exit, format!("failed to {}", Failure::caused(exit, error)))
        };
        // Of its own, also where the bridge delivers in transactions: their name would fence that bridge, and its positions are none of a replay's.
        let kafka = crate::config::Kafka { delivery: Delivery::AtLeastOnce, ..self.config.kafka.clone() };
        let settings = Settings::load(&kafka, &self.config.topics).map_err(|error| unavailable(&error))?;
        let admin = Admin::new(&settings, self.timeout).map_err(|error| unavailable(&error))?;
        for (topic, presence) in admin.describe(topics).map_err(|error| unavailable(&error))? {
            let why = match presence {
                Presence::Exists { .. } => continue,
                Presence::Missing => "it does not exist",
                Presence::NotAuthorised => "we may not use it",
                Presence::Unknown => "Kafka does not tell about it",
            };
            return Err(Failure::new(Exit::Unavailable, format!("topic {topic}: {why}; nothing was sent")));
        }
        // Who may not ask gets batches that fit Kafka's own default.
        let smallest = admin.message_limits(topics).ok().and_then(|limits| limits.smallest());
        Ok(settings.with_batches_below(smallest))
    }
}

#[derive(Serialize)]
struct Report<'a> {
    plan: &'a Plan,
    sent: Option<&'a Sent>,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The plan ends its last line.
        write!(out, "{}", self.plan)?;
        writeln!(out, "{}", if self.plan.records() == 0 { "nothing to do" } else { "nothing was sent: --yes does it" })
    }
}

/// Why not all was sent.
enum Halt {
    Kafka(Stopped),
    Journal(Failure),
}

impl From<Stopped> for Halt {
    fn from(why: Stopped) -> Self {
        Self::Kafka(why)
    }
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Journal(failure)
    }
}

/// What became of it.
#[derive(Debug, Serialize)]
struct Sent {
    /// Records that Kafka has confirmed: each of them published once more.
    republished: u64,
    /// Records that were handed to Kafka without a word from it: published once more, or not.
    unknown: u64,
    refused: Vec<Refused>,
    /// Records whose segments were freed between plan and sending.
    freed: u64,
    stopped: Option<String>,
    /// Where to go on with `--from-lsn`; all below was confirmed or refused.
    resume_from_lsn: Option<u64>,
    #[serde(skip)]
    exit: Exit,
}

/// A record that Kafka does not take.
#[derive(Debug, Serialize)]
struct Refused {
    lsn: u64,
    topic: String,
    error: String,
}

impl Sent {
    fn new(mut confirmations: Confirmations, halt: Option<Halt>, freed: u64) -> Self {
        if halt.is_some() {
            confirmations.give_up();
        }
        let refused = confirmations
            .refused()
            .map(|(lsn, topic, error)| Refused { lsn: lsn.get(), topic: topic.to_owned(), error: error.to_owned() })
            .collect();
        let resume_from_lsn = halt.as_ref().and_then(|_| confirmations.first_unconfirmed()).map(Lsn::get);
        let (stopped, exit) = match halt {
            Some(Halt::Kafka(why)) => (Some(why.to_string()), Exit::Unavailable),
            Some(Halt::Journal(failure)) => (Some(failure.to_string()), failure.exit()),
            None => (None, Exit::Unavailable),
        };
        Self { republished: confirmations.confirmed(), unknown: confirmations.unknown(), refused, freed, stopped, resume_from_lsn, exit }
    }

    fn verdict(&self) -> Result<(), Failure> {
        if let Some(why) = &self.stopped {
            let resume = self.resume_from_lsn.map(|lsn| format!("; go on with --from-lsn {lsn}")).unwrap_or_default();
            return Err(Failure::new(self.exit, format!("{why}{resume}")));
        }
        let refused = u64::try_from(self.refused.len()).unwrap_or(u64::MAX);
        if refused > 0 {
            return Err(Failure::new(Exit::Unavailable, format!("Kafka does not take {}", counted(refused, "record"))));
        }
        Ok(())
    }
}

impl fmt::Display for Sent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "republished  {}", counted(self.republished, "record"))?;
        if self.unknown > 0 {
            writeln!(out, "unknown      {} that Kafka may have or not", counted(self.unknown, "record"))?;
        }
        for Refused { lsn, topic, error } in &self.refused {
            writeln!(out, "refused      LSN {lsn} by {topic}: {error}")?;
        }
        if self.freed > 0 {
            writeln!(out, "freed        {} since the plan was made", counted(self.freed, "record"))?;
        }
        Ok(())
    }
}
