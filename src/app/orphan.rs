//! Publishes what is left of a journal without serving: the volume of an instance that is gone.
//!
//! The same journal and the same forwarder as a bridge has, without ingress and without the operator's side. So what it publishes, in which order, what
//! it repeats and what becomes a dead letter is what a start of the bridge on this folder would make of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::forwarder::{Forwarding, Limits};
use crate::journal::{Journal, RecoveryReport};
use crate::kafka::{self, Connection};
use crate::metrics::{Completion, Metrics};
use crate::routing::Routing;

use super::bridge::Signals;
use super::{Error, Way};

/// How often it looks how far the forwarder is.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What became of the records.
#[derive(Clone, Debug)]
pub struct Drained {
    /// What opening the journal found and did.
    pub report: RecoveryReport,
    /// Records that were unpublished, those among them that the folder took for published by another configuration.
    pub unpublished: u64,
    /// Records that an earlier run had committed with Kafka, which the folder did not know. With exactly-once alone.
    pub earlier: u64,
    /// Records whose event Kafka has.
    pub published: u64,
    /// Records whose dead letter Kafka has.
    pub dead_lettered: u64,
    /// Records that could not be read.
    pub corrupt: u64,
    /// Records whose command the configuration discards.
    pub discarded: u64,
    /// What is unpublished still, and why; `None` where nothing is.
    pub left: Option<Left>,
}

/// What a drain could not publish.
#[derive(Clone, Debug)]
pub struct Left {
    /// So many records.
    pub records: u64,
    /// What stands in the way, as far as that is known.
    pub reasons: Vec<String>,
}

/// Opens the journal and forwards it until it is empty, a signal comes, or Kafka confirms nothing for `patience`. `progress` is told what is unpublished,
/// and what was when it began.
///
/// # Errors
/// See [`Error`]. What is left unpublished is none.
pub async fn drain(config: Config, patience: Duration, mut progress: impl FnMut(u64, u64)) -> Result<Drained, Error> {
    let mut signals = Signals::new().map_err(Error::System)?;
    let settings = kafka::Settings::load(&config.kafka, &config.topics).map_err(Error::Kafka)?;
    let routing = Arc::new(Routing::new(&config.topics));
    let metrics = super::metrics(&routing, &settings)?;
    let (tracer, exporter) = super::start_traces(&config, &metrics)?;
    // Nothing is appended, so no room is prepared for it.
    let journal_settings = crate::journal::Config { spares: 0, ..super::journal_settings(&config) };
    let opened = super::open_journal(journal_settings, &metrics).await?;
    let journal = opened.journal.clone();
    super::watch_over(&journal).map_err(Error::System)?;
    let status = kafka::Status::new(metrics.kafka.clone());
    let way = Way { routing, settings, status: status.clone(), limits: Limits::Asked };
    let mut forwarding = super::start_forwarder(&config, &opened, way, &metrics, tracer)?;

    let recovered = opened.report.unpublished_records;
    let mut watch = Watch { patience, moved_at: Instant::now(), completed: 0 };
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let interrupted = loop {
        tokio::select! {
            () = signals.next() => break true,
            error = journal.failed() => return Err(Error::Journal(error)),
            ended = forwarding.ended() => return Err(forwarder_ended(ended)),
            _ = ticks.tick() => {}
        }
        let unpublished = unpublished(&metrics);
        progress(unpublished, recovered);
        if unpublished == 0 || watch.is_over(completed(&metrics).iter().sum(), Instant::now()) {
            break false;
        }
    };
    let reasons = reasons(&forwarding, &status, interrupted);
    end(&mut forwarding, &journal, unpublished(&metrics)).await?;
    if let Some(exporter) = exporter {
        exporter.finish(config.shutdown.drain_max.get()).await;
    }
    let [earlier, published, dead_lettered, corrupt, discarded] = completed(&metrics);
    let left = match unpublished(&metrics) {
        0 if forwarding.handle().is_drained() => None,
        records => Some(Left { records, reasons }),
    };
    let unpublished = metrics.journal.recovered_records.get();
    Ok(Drained { report: opened.report, unpublished, earlier, published, dead_lettered, corrupt, discarded, left })
}

fn forwarder_ended(ended: Result<(), crate::forwarder::Error>) -> Error {
    Error::Forwarder(ended.err().unwrap_or(crate::forwarder::Error::Ended))
}

/// Ends the forwarder with all that it knows, and closes the journal with it.
async fn end(forwarding: &mut Forwarding, journal: &Journal, unpublished: u64) -> Result<(), Error> {
    let handle = forwarding.handle();
    if unpublished == 0 {
        handle.drain();
    } else {
        handle.finish();
    }
    forwarding.ended().await.map_err(Error::Forwarder)?;
    super::close(journal.clone()).await
}

/// Whether records still leave the journal.
struct Watch {
    patience: Duration,
    moved_at: Instant,
    completed: u64,
}

impl Watch {
    fn is_over(&mut self, completed: u64, now: Instant) -> bool {
        if completed != self.completed {
            self.completed = completed;
            self.moved_at = now;
        }
        now.duration_since(self.moved_at) >= self.patience
    }
}

fn unpublished(metrics: &Metrics) -> u64 {
    u64::try_from(metrics.journal.unpublished_records.get()).unwrap_or(0)
}

fn completed(metrics: &Metrics) -> [u64; 5] {
    [Completion::Earlier, Completion::Published, Completion::DeadLettered, Completion::Corrupt, Completion::Discarded]
        .map(|outcome| metrics.forwarder.completed(outcome).get())
}

/// What stands in the way now.
fn reasons(forwarding: &Forwarding, status: &kafka::Status, interrupted: bool) -> Vec<String> {
    let snapshot = status.snapshot();
    let mut reasons = Vec::new();
    if interrupted {
        reasons.push("it was stopped by a signal".to_owned());
    }
    match snapshot.connection {
        Connection::Up => {}
        Connection::Starting | Connection::Lost => reasons.push("no broker of Kafka can be reached".to_owned()),
    }
    reasons.extend(snapshot.authentication.map(|reason| format!("Kafka refuses us: {reason}")));
    reasons.extend(snapshot.fatal.map(|reason| format!("the producer failed: {reason}")));
    let parked = forwarding.handle().parked();
    reasons.extend(parked.into_iter().map(|(topic, cause)| format!("topic {topic} is parked: {}", cause.as_str())));
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_counts_from_the_last_record_that_left() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut watch = Watch { patience: second * 10, moved_at: start, completed: 0 };
        assert!(!watch.is_over(0, start + second * 9));
        assert!(!watch.is_over(5, start + second * 10), "something moved");
        assert!(!watch.is_over(5, start + second * 19));
        assert!(watch.is_over(5, start + second * 20));
    }
}
