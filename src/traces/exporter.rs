//! The thread that sends finished spans to the collector: in batches, with a few tries each, and never in anybody's way.
//!
//! A collector that is away is told once, and counted: its spans are dropped after [`TRIES`] tries, and those that the queue does not hold at once. The end
//! of this thread is nobody else's: unlike that of any other it does not end the process, and what comes then is dropped and counted too.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Tracer;
use super::batch::{self, Resource};
use super::collector::{Collector, Failure};
use super::headers::{self, Headers};
use super::span::Span;
use crate::config::{self, Endpoint, OtlpProtocol, Security};
use crate::log;
use crate::metrics::{self, SpanLoss};
use crate::pem::fault;

/// Spans in a batch: some 150 KB.
const BATCH_MAX: usize = 512;

/// How long spans gather before they are sent.
const GATHER: Duration = Duration::from_secs(1);

/// Tries that a batch has.
const TRIES: u32 = 4;

/// The wait before the second try; each further one is twice as long.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// The longest that the end of the process waits for the collector.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// How much longer than its deadline the thread may take to end.
const OVERTIME_MAX: Duration = Duration::from_millis(100);

/// Why spans cannot be sent; all but the thread are faults of the configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The endpoint is no URL of a collector.
    #[error("use tracing.otlp_endpoint: it {0}")]
    Endpoint(&'static str),
    /// The file of headers is of no use.
    #[error("use tracing.headers_file")]
    Headers(#[from] headers::Problem),
    /// The file of authorities cannot be read, or holds none.
    #[error("find certificates in {}, the file of tracing.ca_file: {why}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// TLS cannot be set up.
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    /// The system gives no thread.
    #[error("start a thread")]
    Thread(#[source] io::Error),
}

/// The thread, to be ended in order.
#[derive(Debug)]
pub struct Exporter {
    /// Closed once the thread has ended.
    stop: watch::Sender<Option<Instant>>,
}

/// Looks at all that the configuration names, as a start would.
///
/// # Errors
/// See [`Error`].
pub fn check(config: &config::Tracing) -> Result<(), Error> {
    let Some(url) = &config.otlp_endpoint else { return Ok(()) };
    way_to(url, config).map(drop)
}

/// Where spans go, and what stands in the files for it.
fn way_to(url: &str, config: &config::Tracing) -> Result<(Endpoint, Option<Arc<ClientConfig>>, Headers), Error> {
    let endpoint = Endpoint::parse(url).map_err(Error::Endpoint)?;
    let tls = match endpoint.security {
        Security::Plain => None,
        Security::Tls => Some(Arc::new(tls(config)?)),
    };
    Ok((endpoint, tls, Headers::open(config.headers_file.as_deref())?))
}

/// Starts to record spans, where the configuration has a collector for them.
///
/// # Errors
/// See [`Error`]. That the collector is not there is none.
pub fn start(config: &config::Tracing, instance: String, metrics: &metrics::Traces) -> Result<Option<(Tracer, Exporter)>, Error> {
    let Some(url) = &config.otlp_endpoint else { return Ok(None) };
    let (endpoint, tls, headers) = way_to(url, config)?;
    let (queue, spans) = mpsc::channel(usize::try_from(config.queue_max).unwrap_or(usize::MAX).max(1));
    let (stop, stopped) = watch::channel(None);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let worker = Worker {
        spans,
        batch: Vec::with_capacity(BATCH_MAX),
        collector: Collector::new(endpoint, config.otlp_protocol, tls),
        headers,
        resource: Resource { service: config.service_name.clone(), instance, host: (!host.is_empty()).then_some(host) },
        timeout: config.otlp_timeout.get(),
        metrics: metrics.clone(),
        stop: stopped,
        said: None,
        told_partial: false,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
    thread::Builder::new()
        .name("traces".to_owned())
        .spawn(move || {
            runtime.block_on(worker.run());
            // A name that is being looked up must not keep the thread.
            runtime.shutdown_background();
        })
        .map_err(Error::Thread)?;
    tracing::info!(endpoint = %url, ratio = %config.sample_ratio, "traces are recorded");
    Ok(Some((Tracer::new(queue, config.sample_ratio, metrics.clone()), Exporter { stop })))
}

fn tls(config: &config::Tracing) -> Result<ClientConfig, Error> {
    let fail = |error| Error::Authorities { path: config.ca_file.clone(), why: fault(&error) };
    let certificates = CertificateDer::pem_file_iter(&config.ca_file).map_err(fail)?;
    let mut roots = RootCertStore::empty();
    // A system's list may hold one that rustls does not take.
    roots.add_parsable_certificates(certificates.collect::<Result<Vec<_>, _>>().map_err(fail)?);
    if roots.is_empty() {
        return Err(fail(pem::Error::NoItemsFound));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(Error::Tls)?;
    let mut tls = builder.with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = match config.otlp_protocol {
        OtlpProtocol::Grpc => vec![b"h2".to_vec()],
        OtlpProtocol::Http => vec![b"http/1.1".to_vec()],
    };
    Ok(tls)
}

impl Exporter {
    /// Sends what waits, for so long at most, and ends the thread. Whoever still records a span loses it.
    pub async fn finish(&self, within: Duration) {
        let deadline = Instant::now() + within.min(FLUSH_MAX);
        self.stop.send_replace(Some(deadline));
        // The thread keeps the deadline itself, but for a file system that does not answer.
        drop(tokio::time::timeout_at(deadline + OVERTIME_MAX, self.stop.closed()).await);
    }
}

/// The state of the thread.
struct Worker {
    spans: mpsc::Receiver<Span>,
    batch: Vec<Span>,
    collector: Collector,
    headers: Headers,
    resource: Resource,
    timeout: Duration,
    metrics: metrics::Traces,
    /// The deadline of a stop, once there is one.
    stop: watch::Receiver<Option<Instant>>,
    /// Why the collector did not take the last batch, as it was said.
    said: Option<&'static str>,
    /// That it rejects some spans of a batch was said.
    told_partial: bool,
}

impl Worker {
    async fn run(mut self) {
        let mut stop = self.stop.clone();
        let overdue = async move {
            let deadline = match stop.wait_for(Option::is_some).await {
                Ok(deadline) => *deadline,
                Err(_) => None,
            };
            // Without one, whoever could ask for an end is gone: the process ends in haste.
            if let Some(deadline) = deadline {
                tokio::time::sleep_until(deadline).await;
            }
        };
        tokio::select! {
            () = self.forward() => {}
            () = overdue => {}
        }
    }

    /// Until nobody records spans any more, or a stop has come and all are sent.
    async fn forward(&mut self) {
        while self.gather().await {
            self.export().await;
        }
    }

    /// Waits for a batch; false where none will come.
    async fn gather(&mut self) -> bool {
        let mut stop = self.stop.clone();
        let stopped = async move {
            // Nobody left to ask is as good as asked.
            drop(stop.wait_for(Option::is_some).await);
        };
        tokio::pin!(stopped);
        // The first span; then as many as come within the time, or at once where there is an end to come to.
        tokio::select! {
            biased;
            received = self.spans.recv_many(&mut self.batch, BATCH_MAX) => if received == 0 { return false },
            () = &mut stopped => return false,
        }
        let until = Instant::now() + GATHER;
        while self.batch.len() < BATCH_MAX {
            let room = BATCH_MAX - self.batch.len();
            tokio::select! {
                biased;
                received = self.spans.recv_many(&mut self.batch, room) => if received == 0 { break },
                () = &mut stopped => break,
                () = tokio::time::sleep_until(until) => break,
            }
        }
        true
    }

    /// Has the batch in hand taken, or drops it.
    async fn export(&mut self) {
        let bytes = Bytes::from(batch::encode(&self.resource, &self.batch));
        let mut wait = RETRY_MIN;
        let mut tries = 1;
        let failure = loop {
            match self.attempt(&bytes).await {
                Ok(rejected) => {
                    self.taken(rejected);
                    return;
                }
                Err(failure) if failure.is_passing() && tries < TRIES && self.stop.borrow().is_none() => {
                    self.tell(&failure);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        _ = self.stop.changed() => {}
                    }
                    tries += 1;
                    wait *= 2;
                }
                Err(failure) => break failure,
            }
        };
        self.tell(&failure);
        let loss = if failure.is_passing() { SpanLoss::Unreachable } else { SpanLoss::Rejected };
        self.count(loss, self.batch.len());
        self.batch.clear();
    }

    async fn attempt(&mut self, batch: &Bytes) -> Result<u64, Failure> {
        let headers = self.headers.current();
        let sending = self.collector.send(batch, &headers);
        tokio::time::timeout(self.timeout, sending).await.unwrap_or(Err(Failure::TimedOut))
    }

    fn taken(&mut self, rejected: u64) {
        if self.said.take().is_some() {
            tracing::info!("the collector takes spans again");
        }
        let sent = u64::try_from(self.batch.len()).unwrap_or(u64::MAX);
        let rejected = rejected.min(sent);
        if rejected > 0 && !std::mem::replace(&mut self.told_partial, true) {
            tracing::warn!(spans = rejected, "the collector takes some spans of a batch and rejects others; those are counted");
        }
        self.metrics.exported.inc_by(sent - rejected);
        self.metrics.dropped(SpanLoss::Rejected).inc_by(rejected);
        self.batch.clear();
    }

    /// Says that the collector does not take spans, once for each kind of reason.
    fn tell(&mut self, failure: &Failure) {
        if self.said.replace(failure.kind()) != Some(failure.kind()) {
            tracing::warn!(error = %log::with_causes(failure), "spans cannot be sent; those that wait too long are dropped and counted");
        }
    }

    fn count(&self, loss: SpanLoss, spans: usize) {
        self.metrics.dropped(loss).inc_by(u64::try_from(spans).unwrap_or(u64::MAX));
    }
}

impl Drop for Worker {
    /// However the thread ends.
    fn drop(&mut self) {
        self.spans.close();
        let lost = self.batch.len() + self.spans.len();
        if lost > 0 {
            self.count(SpanLoss::Stopped, lost);
            tracing::info!(spans = lost, "some spans were not sent before the end");
        }
    }
}
