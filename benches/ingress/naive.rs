//! A naive receiver, as one would write it in an afternoon: what the bridge's promises cost is read beside it.
//!
//! Like the bridge it makes each callback durable before it answers, in batches as they come, and publishes an event to the topic of its command. It has one thread for the
//! journal and one that forwards what the first hands over in memory. It checks nothing but the app, reads nothing back, recycles nothing, keeps no
//! position, and any error ends it.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use chat_bridge::simulate::load::DURABLE;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rdkafka::config::ClientConfig;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, ProducerContext};
use rdkafka::{ClientContext, error::KafkaError, types::RDKafkaErrorCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use uuid::Uuid;

type Failure = Box<dyn Error + Send + Sync>;

/// Bytes of the journal's file, which is written anew from its start once it is full.
const JOURNAL: u64 = 256 << 20;

/// A callback on its way into the journal.
struct Received {
    callback: Callback,
    durable: oneshot::Sender<()>,
}

/// A callback that is durable.
struct Callback {
    query: String,
    body: Bytes,
    received: SystemTime,
}

/// What the benchmark asks for.
#[derive(Default)]
struct Counts {
    received: AtomicU64,
    delivered: AtomicU64,
    /// From receipt to delivery report, of all events together.
    micros: AtomicU64,
}

/// Prints its address, and serves until standard input ends.
pub(crate) fn serve(bootstrap_servers: &str, dir: &Path) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(dir)?;
    let file = OpenOptions::new().create_new(true).write(true).open(dir.path().join("journal"))?;
    let zeros = vec![0; 1 << 20];
    for at in (0..JOURNAL).step_by(zeros.len()) {
        file.write_all_at(&zeros, at)?;
    }
    file.sync_all()?;
    let counts = Arc::new(Counts::default());
    let (to_journal, received) = mpsc::channel();
    let (to_forwarder, durable) = mpsc::channel();
    run("journal", move || journal(&received, &to_forwarder, &file))?;
    let producer = Arc::new(producer(bootstrap_servers, &counts)?);
    let polled = Arc::clone(&producer);
    run("poll", move || {
        loop {
            polled.poll(Duration::from_millis(100));
        }
    })?;
    run("forwarder", move || forward(&durable, &producer))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))))?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    runtime.spawn(accept(listener, to_journal, counts));
    super::wait_for_the_end_of_input()?;
    runtime.shutdown_background();
    Ok(())
}

fn run(name: &str, work: impl FnOnce() -> Result<(), Failure> + Send + 'static) -> std::io::Result<()> {
    let end_all = move || {
        if let Err(error) = work() {
            drop(writeln!(std::io::stderr(), "the naive receiver: {error}"));
            std::process::abort();
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(end_all).map(drop)
}

async fn accept(listener: TcpListener, journal: mpsc::Sender<Received>, counts: Arc<Counts>) {
    while let Ok((stream, _)) = listener.accept().await {
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let (journal, counts) = (journal.clone(), Arc::clone(&counts));
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, journal.clone(), Arc::clone(&counts)));
            // A connection that its client broke is of no interest here.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    journal: mpsc::Sender<Received>,
    counts: Arc<Counts>,
) -> Result<Response<Full<Bytes>>, Failure> {
    if request.uri().path() == "/metrics" {
        return Ok(Response::new(Full::from(counts.text())));
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    if parameter(&query, "SdkAppid").and_then(|app| app.parse().ok()) != Some(super::APP) {
        let mut refusal = Response::new(Full::default());
        *refusal.status_mut() = StatusCode::FORBIDDEN;
        return Ok(refusal);
    }
    let body = request.into_body().collect().await?.to_bytes();
    let (durable, answered) = oneshot::channel();
    counts.received.fetch_add(1, Ordering::Relaxed);
    journal.send(Received { callback: Callback { query, body, received: SystemTime::now() }, durable })?;
    answered.await?;
    let mut response = Response::new(Full::new(Bytes::from_static(DURABLE)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Writes what has come since the last batch, syncs it, answers it, hands it on.
fn journal(received: &mpsc::Receiver<Received>, forwarder: &mpsc::Sender<Vec<Callback>>, file: &File) -> Result<(), Failure> {
    let mut at = 0;
    while let Ok(first) = received.recv() {
        let batch: Vec<Received> = std::iter::once(first).chain(received.try_iter()).collect();
        let mut bytes = Vec::new();
        for Received { callback: Callback { query, body, received }, .. } in &batch {
            bytes.extend_from_slice(&(query.len() + body.len()).to_le_bytes());
            bytes.extend_from_slice(&received.duration_since(UNIX_EPOCH)?.as_micros().to_le_bytes());
            bytes.extend_from_slice(query.as_bytes());
            bytes.extend_from_slice(body);
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        let length = u64::try_from(bytes.len())?;
        if at + length > JOURNAL {
            at = 0;
        }
        file.write_all_at(&bytes, at)?;
        file.sync_data()?;
        at += length;
        let (callbacks, waiting): (Vec<_>, Vec<_>) = batch.into_iter().map(|received| (received.callback, received.durable)).unzip();
        for durable in waiting {
            // Whoever hung up needs no answer.
            let _ = durable.send(());
        }
        forwarder.send(callbacks)?;
    }
    Ok(())
}

fn forward(durable: &mpsc::Receiver<Vec<Callback>>, producer: &BaseProducer<Reports>) -> Result<(), Failure> {
    for Callback { query, body, received } in durable.iter().flatten() {
        let command = parameter(&query, "CallbackCommand").unwrap_or_default();
        let kind = match command {
            "Group.CallbackAfterGroupDestroyed" => "group-disband",
            "Group.CallbackAfterMemberExit" => "member-exit",
            "Group.CallbackAfterGroupFull" => "group-full",
            _ => "unrecognized",
        };
        let data: Value = serde_json::from_slice(&body)?;
        let group = data.get("GroupId").and_then(Value::as_str).unwrap_or_default().to_owned();
        let digest = Sha256::new().chain_update(command).chain_update(&body).finalize();
        let id = Uuid::from_bytes(*digest.first_chunk().ok_or("a short digest")?).simple().to_string();
        let event = json!({
            "specversion": "1.0",
            "id": id,
            "source": format!("/tencent-chat/apps/{}", super::APP),
            "type": format!("tencent.chat.{kind}.v1"),
            "subject": group,
            "time": humantime::format_rfc3339_millis(received).to_string(),
            "datacontenttype": "application/json",
            "chatcommand": command,
            "chatplatform": parameter(&query, "OptPlatform"),
            "chatclientip": parameter(&query, "ClientIP"),
            "data": data,
        });
        let value = serde_json::to_vec(&event)?;
        let content_type = Header { key: "content-type", value: Some("application/cloudevents+json") };
        let headers = OwnedHeaders::new().insert(content_type).insert(Header { key: "ce_id", value: Some(&id) });
        let topic = format!("chat.{kind}");
        let mut record = BaseRecord::with_opaque_to(&topic, Box::new(received)).key(&group).payload(&value).headers(headers);
        while let Err((error, same)) = producer.send(record) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(error.into());
            }
            thread::sleep(Duration::from_millis(1));
            record = same;
        }
    }
    Ok(())
}

/// A producer with the bridge's settings, as far as they decide what a record costs.
fn producer(bootstrap_servers: &str, counts: &Arc<Counts>) -> Result<BaseProducer<Reports>, KafkaError> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap_servers).set("enable.idempotence", "true").set("message.timeout.ms", "0");
    config.set("compression.codec", "lz4").set("linger.ms", "5").set("partitioner", "murmur2_random");
    config.create_with_context(Reports(Arc::clone(counts)))
}

struct Reports(Arc<Counts>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<SystemTime>;

    fn delivery(&self, result: &DeliveryResult<'_>, received: Box<SystemTime>) {
        if result.is_ok() {
            let micros = received.elapsed().unwrap_or_default().as_micros();
            self.0.micros.fetch_add(u64::try_from(micros).unwrap_or(u64::MAX), Ordering::Relaxed);
            self.0.delivered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Counts {
    /// The metrics that the benchmark reads, by the bridge's names.
    fn text(&self) -> String {
        let delivered = self.delivered.load(Ordering::Relaxed);
        let unpublished = self.received.load(Ordering::Relaxed).saturating_sub(delivered);
        let seconds = Duration::from_micros(self.micros.load(Ordering::Relaxed)).as_secs_f64();
        format!(
            "chat_bridge_journal_unpublished_records {unpublished}\n\
             chat_bridge_delivery_latency_seconds_count {delivered}\nchat_bridge_delivery_latency_seconds_sum {seconds}\n"
        )
    }
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}
