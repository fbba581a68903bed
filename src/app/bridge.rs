//! A running bridge, and the order in which it stops.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::forwarder::{self, Forwarding};
use crate::ingress::{self, Ingress};
use crate::journal::Journal;
use crate::log;
use crate::metrics;
use crate::traces::Exporter;

use super::drain::Drain;
use super::{Error, close};

/// How long the parts have to end once the journal has failed: they hold nothing that is not in it.
const ABANDON_MAX: Duration = Duration::from_millis(500);

/// What a stop waits for beyond the deadlines of body and journal.
const STOP_MARGIN: Duration = Duration::from_secs(1);

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// How far the bridge is.
#[derive(Debug, Default)]
pub(super) struct Phase {
    pub(super) started: AtomicBool,
    pub(super) draining: AtomicBool,
}

/// A running bridge.
pub(super) struct Bridge {
    pub(super) config: Config,
    pub(super) journal: Journal,
    pub(super) ingress: Arc<Ingress>,
    pub(super) phase: Arc<Phase>,
    pub(super) drain: Arc<Drain>,
    pub(super) metrics: metrics::Journal,
    /// Where spans are sent, if anywhere.
    pub(super) exporter: Option<Exporter>,
}

impl Bridge {
    /// Until something ends.
    pub(super) async fn run(self, mut forwarding: Forwarding, mut signals: Signals) -> Result<(), Error> {
        tokio::select! {
            () = signals.next() => {}
            error = self.failed() => return Err(self.abandon(&mut forwarding, error).await),
            ended = forwarding.ended() => return Err(self.forwarder_ended(ended)),
        }
        self.stop(&mut forwarding, &mut signals).await
    }

    /// Resolves when a part has ended that should not have.
    async fn failed(&self) -> Error {
        tokio::select! {
            error = self.journal.failed() => Error::Journal(error),
            failure = self.ingress.failed() => Error::IngressEnded(failure),
        }
    }

    /// Ends in haste: nothing that was answered is in memory alone.
    async fn abandon(&self, forwarding: &mut Forwarding, error: Error) -> Error {
        tracing::error!(error = %log::with_causes(&error), "a part of the bridge has failed: the others are stopped");
        forwarding.handle().abandon();
        drop(tokio::time::timeout(ABANDON_MAX, forwarding.ended()).await);
        error
    }

    /// The forwarder ended although nobody had asked it to.
    fn forwarder_ended(&self, ended: Result<(), forwarder::Error>) -> Error {
        self.phase.draining.store(true, Ordering::Release);
        match ended {
            Err(error) => Error::Forwarder(error),
            Ok(()) => Error::Forwarder(forwarder::Error::Ended),
        }
    }

    /// A stop by signal. A second one ends at once; what is left stays in the journal for the next start.
    async fn stop(self, forwarding: &mut Forwarding, signals: &mut Signals) -> Result<(), Error> {
        let ended = tokio::select! {
            ended = self.stop_in_order(forwarding) => Some(ended),
            error = self.failed() => Some(Err(error)),
            () = signals.next() => None,
        };
        match ended {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(self.abandon(forwarding, error).await),
            None => {
                let unpublished = self.metrics.unpublished_records.get();
                tracing::warn!(unpublished, "second signal: the bridge ends at once; what is unpublished stays in the journal");
                Ok(())
            }
        }
    }

    /// Unready, lame duck, no new connections, what is in hand, the journal as far as it goes, the last checkpoint.
    async fn stop_in_order(&self, forwarding: &mut Forwarding) -> Result<(), Error> {
        let shutdown = &self.config.shutdown;
        tracing::info!(lame_duck = %shutdown.lame_duck, "the bridge stops: unready, callbacks are still accepted");
        self.phase.draining.store(true, Ordering::Release);
        self.ingress.lame_duck();
        if !self.drain.is_shut() {
            tokio::time::sleep(shutdown.lame_duck.get()).await;
        }

        let in_hand_max = self.config.http.body_timeout.get() + self.config.journal.answer_max.get() + STOP_MARGIN;
        match self.ingress.stop(in_hand_max).await {
            ingress::Stopped::Clean => tracing::info!("no callback is in hand any more"),
            stopped @ (ingress::Stopped::Abandoned(_) | ingress::Stopped::Stuck(_)) => {
                tracing::warn!(?stopped, "some requests were not answered; none of them was answered with success");
            }
        }

        let handle = forwarding.handle();
        let drain_end = Instant::now() + shutdown.drain_max.get();
        handle.drain();
        let in_time = tokio::time::timeout(shutdown.drain_max.get(), forwarding.ended()).await;
        let ended = if let Ok(ended) = in_time {
            ended
        } else {
            handle.finish();
            forwarding.ended().await
        };
        ended.map_err(Error::Forwarder)?;
        if handle.is_drained() {
            tracing::info!("the journal is empty");
        } else {
            let unpublished = self.metrics.unpublished_records.get();
            tracing::warn!(unpublished, "what is unpublished stays in the journal for the next start");
        }
        close(self.journal.clone()).await?;
        if let Some(exporter) = &self.exporter {
            exporter.finish(drain_end.saturating_duration_since(Instant::now())).await;
        }
        tracing::info!("the bridge has stopped");
        Ok(())
    }
}
