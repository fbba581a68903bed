//! `topics`: what Kafka has of the topics that the configuration names, and making it so.

use std::fmt::Write;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::{self, Format};
use super::{Exit, Failure, Global, print};
use crate::kafka::topics::{self, Admin, Found, MorePartitions, Outcome, Plan, Step, TopicPlan};
use crate::kafka::{Error, Settings};
use crate::routing::Routing;

/// The topics that the configuration names.
#[derive(Debug, Subcommand)]
pub(super) enum Topics {
    Plan(Show),
    Apply(Apply),
}

/// Show how Kafka's topics differ from the configuration, and change nothing.
#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    common: Common,
}

/// Create the topics that are missing, and change what differs in the others.
///
/// Settings that the configuration does not name stay as they are. A topic that exists gets more partitions only with --yes; never fewer.
#[derive(Debug, Args)]
pub(super) struct Apply {
    #[command(flatten)]
    common: Common,
    /// Give topics that exist more partitions too: their keys move to other partitions, so the order of a group's events is lost once.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
struct Common {
    /// How long Kafka has for each answer.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// The form of the output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl Topics {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let common = match &self {
            Self::Plan(Show { common }) | Self::Apply(Apply { common, .. }) => common,
        };
        let config = global.load()?;
        let routing = Routing::new(&config.topics);
        let dead_letter = routing.topic(routing.topic_of(routing.dead_letter()));
        let mut wanted = topics::wanted(&config.topics, &routing.topic_labels(), &dead_letter.name);
        wanted.extend(topics::wanted_positions(&config.kafka, &config.topics));
        let settings = Settings::load(&config.kafka, &config.topics).map_err(|error| failure(&error))?;
        let admin = Admin::new(&settings, common.timeout).map_err(|error| failure(&error))?;
        let plan = topics::plan(&admin, &wanted).map_err(|error| failure(&error))?;
        match &self {
            Self::Plan(_) => print(&match common.format {
                Format::Text => plan_text(&plan),
                Format::Json => output::json(&plan)?,
            }),
            Self::Apply(Apply { yes, .. }) => {
                let more = if *yes { MorePartitions::Allow } else { MorePartitions::Refuse };
                let mut applied = Applied::default();
                topics::apply(&admin, &plan, more, |topic, step, outcome| applied.add(topic, step, outcome));
                print(&match common.format {
                    Format::Text => applied_text(&plan, &applied),
                    Format::Json => output::json(&applied_json(&plan, &applied))?,
                })?;
                applied.verdict(&plan)
            }
        }
    }
}

/// A failure of asking Kafka.
fn failure(error: &Error) -> Failure {
    Failure::new(exit(error), format!("failed to {}", told(error)))
}

/// The error with its causes.
fn told(error: &Error) -> String {
    Failure::caused(exit(error), error).to_string()
}

fn exit(error: &Error) -> Exit {
    if error.is_configuration() { Exit::Configuration } else { Exit::Unavailable }
}

/// What became of the steps, in their order.
#[derive(Debug, Default)]
struct Applied(Vec<Done>);

#[derive(Debug)]
struct Done {
    topic: String,
    step: Step,
    outcome: Outcome,
}

impl Applied {
    fn add(&mut self, topic: &TopicPlan, step: &Step, outcome: Outcome) {
        self.0.push(Done { topic: topic.topic.clone(), step: step.clone(), outcome });
    }

    fn of<'a>(&'a self, topic: &'a TopicPlan) -> impl Iterator<Item = &'a Done> {
        self.0.iter().filter(|done| done.topic == topic.topic)
    }

    /// Success only where every topic is known to be as configured, but for what the notes say.
    fn verdict(&self, plan: &Plan) -> Result<(), Failure> {
        let failed: Vec<&Error> = self.0.iter().filter_map(|done| done.outcome.error()).collect();
        let unseen = plan.topics.iter().filter(|topic| !matches!(topic.found, Found::Exists | Found::Missing)).count();
        let held = self.0.iter().filter(|done| matches!(done.outcome, Outcome::Held)).count();
        if !failed.is_empty() {
            let exits = || failed.iter().map(|error| exit(error));
            let exit = if exits().all(|exit| exit == Exit::Configuration) { Exit::Configuration } else { Exit::Unavailable };
            return Err(Failure::new(exit, format!("{} failed", steps(failed.len()))));
        }
        if unseen > 0 {
            return Err(Failure::new(Exit::Unavailable, format!("Kafka does not tell about {}", counted(unseen, "topic"))));
        }
        if held > 0 {
            return Err(Failure::new(Exit::Usage, format!("{} not done: more partitions move keys, so it takes --yes", steps(held))));
        }
        Ok(())
    }
}

impl Done {
    /// What became of it, in a word.
    const fn word(&self) -> &'static str {
        match self.outcome {
            Outcome::Done => "done",
            Outcome::Held => "held",
            Outcome::Failed(_) => "failed",
        }
    }

    fn error(&self) -> Option<String> {
        self.outcome.error().map(told)
    }
}

/// What is to be done: a line a topic, and one for each difference.
fn plan_text(plan: &Plan) -> String {
    let mut text = text(plan, |topic, text| {
        // Writing to a String cannot fail.
        for step in &topic.steps {
            let _ = writeln!(text, "  {step}");
        }
    });
    let changes = plan.topics.iter().filter(|topic| !topic.steps.is_empty()).count();
    let end = if changes == 0 { "nothing to do".to_owned() } else { format!("{} to change, by `topics apply`", counted(changes, "topic")) };
    let _ = writeln!(text, "{end}");
    text
}

/// What was done: a line a topic, and one for each step.
fn applied_text(plan: &Plan, applied: &Applied) -> String {
    text(plan, |topic, text| {
        for done in applied.of(topic) {
            let _ = write!(text, "  {}: {}", done.word(), done.step);
            let _ = match done.error() {
                Some(error) => writeln!(text, ": {error}"),
                None => writeln!(text),
            };
        }
    })
}

fn applied_json(plan: &Plan, applied: &Applied) -> Value {
    let step = |done: &Done| json!({ "step": done.step, "outcome": done.word(), "error": done.error() });
    let topic = |topic: &TopicPlan| {
        let steps: Vec<Value> = applied.of(topic).map(step).collect();
        json!({ "topic": topic.topic, "found": topic.found, "steps": steps, "notes": topic.notes })
    };
    let topics: Vec<Value> = plan.topics.iter().map(topic).collect();
    json!({ "topics": topics })
}

/// A line a topic, what `steps` writes of it, and its notes.
fn text(plan: &Plan, steps: impl Fn(&TopicPlan, &mut String)) -> String {
    let width = plan.topics.iter().map(|topic| topic.topic.len()).max().unwrap_or(0);
    let mut text = String::new();
    for topic in &plan.topics {
        let _ = writeln!(text, "{:width$}  {}", topic.topic, topic.found);
        steps(topic, &mut text);
        for note in &topic.notes {
            let _ = writeln!(text, "  note: {note}");
        }
    }
    text
}

fn steps(count: usize) -> String {
    counted(count, "step")
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io;

    use crate::kafka::topics::Change;

    use super::*;

    fn plan() -> Plan {
        let topic = |topic: &str, found, steps, notes: &[&str]| {
            let notes = notes.iter().map(|note| (*note).to_owned()).collect();
            TopicPlan { topic: topic.to_owned(), found, steps, notes }
        };
        let wanted = topics::wanted(&crate::config::Topics::default(), &["chat.a"], "chat.a");
        let change = Change { from: Some("1048588".to_owned()), to: "9437184".to_owned() };
        let changes = vec![
            Step::Change { settings: BTreeMap::from([("max.message.bytes".to_owned(), change)]) },
            Step::AddPartitions { from: 3, to: 6 },
        ];
        Plan {
            topics: vec![
                topic("chat.a", Found::Missing, wanted.into_iter().map(Step::Create).collect(), &[]),
                topic("chat.longer", Found::Exists, changes, &["has 1 copies, not 3"]),
                topic("chat.x", Found::Exists, Vec::new(), &[]),
            ],
        }
    }

    fn applied(outcomes: impl IntoIterator<Item = Outcome>) -> Applied {
        let plan = plan();
        let mut applied = Applied::default();
        let steps = plan.topics.iter().flat_map(|topic| topic.steps.iter().map(move |step| (topic, step)));
        steps.zip(outcomes).for_each(|((topic, step), outcome)| applied.add(topic, step, outcome));
        applied
    }

    fn unreachable() -> Outcome {
        Outcome::Failed(Error::Unreachable("no answer".to_owned()))
    }

    fn wrong() -> Outcome {
        let source = io::Error::from(io::ErrorKind::NotFound);
        Outcome::Failed(Error::File { key: "sasl.password".to_owned(), path: "/p".into(), source })
    }

    #[test]
    fn a_plan_reads_as_text() {
        let expected = "chat.a       missing\n  create: partitions=6, replication_factor=3, cleanup.policy=delete, max.message.bytes=9437184\n\
                        chat.longer  exists\n  set: max.message.bytes=9437184 (now 1048588)\n  \
                        add partitions: from 3 to 6; keys move to other partitions, so only with --yes\n  note: has 1 copies, not 3\n\
                        chat.x       exists\n2 topics to change, by `topics apply`\n";
        assert_eq!(plan_text(&plan()), expected);
        assert_eq!(plan_text(&Plan { topics: Vec::new() }), "nothing to do\n");
    }

    #[test]
    fn what_was_applied_reads_as_text_and_json() {
        let applied = applied([Outcome::Done, unreachable(), Outcome::Held]);
        let text = applied_text(&plan(), &applied);
        assert!(text.contains("\n  done: create: partitions=6, "), "{text}");
        assert!(text.contains("\n  failed: set: max.message.bytes=9437184 (now 1048588): reach Kafka: no answer\n"), "{text}");
        assert!(text.contains("\n  held: add partitions"), "{text}");
        let json = applied_json(&plan(), &applied);
        let outcome = |topic: usize, step: usize| json["topics"][topic]["steps"][step]["outcome"].clone();
        assert_eq!([outcome(0, 0), outcome(1, 0), outcome(1, 1)], ["done", "failed", "held"].map(|word| json!(word)));
        assert_eq!(json["topics"][1]["steps"][0]["error"], "reach Kafka: no answer");
        assert_eq!(json["topics"][0]["steps"][0]["step"]["do"], "create");
        assert_eq!(json!(plan())["topics"][2]["found"], "exists");
    }

    #[test]
    fn the_exit_code_tells_what_is_left_to_do_and_for_whom() {
        let exit = |outcomes: [Outcome; 3]| applied(outcomes).verdict(&plan()).map_err(|failure| failure.exit());
        assert_eq!(exit([Outcome::Done, Outcome::Done, Outcome::Done]), Ok(()));
        assert_eq!(exit([Outcome::Done, Outcome::Done, Outcome::Held]), Err(Exit::Usage));
        assert_eq!(exit([Outcome::Done, wrong(), Outcome::Held]), Err(Exit::Configuration));
        assert_eq!(exit([wrong(), unreachable(), Outcome::Held]), Err(Exit::Unavailable));
        let mut plan = plan();
        plan.topics[2].found = Found::NotAuthorised;
        assert_eq!(applied([]).verdict(&plan).map_err(|failure| failure.exit()), Err(Exit::Unavailable));
    }
}
