//! One librdkafka producer, its poll thread, and the queue of delivery reports.
//!
//! - Every message that [`Producer::send`] takes ends in exactly one [`Report`]; one that it does not take ends in none.
//! - A report comes from the poll thread; [`Reports`] hands them to one reader in bulk and wakes it when there is something new.
//! - The poll thread never dies in silence: what ends it is a [`Fatal`](super::Fatal), and so is what librdkafka calls fatal. After one, the owner makes another producer and
//!   hands over again whatever is not confirmed.
//! - Nothing here waits for the queue to empty: a flush steps in 100 ms. Who wants to drain waits for [`Producer::in_flight`] to be zero.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::doubt::Doubt;
use super::reports::{Report, Reports};
use super::statistics::{Counted, Status};
use super::topics::{self, Presence};
use super::transactions::{Order, Outcome, Transactions};
use super::verdict::{ErrorCode, Verdict};
use super::{Error, Settings, creation};
use crate::metrics;

const _: () = assert!(usize::BITS >= u64::BITS, "librdkafka carries the opaque number in a pointer");

/// How long the poll thread waits for reports while they are few: each is handed over at once, and dropping the producer waits this long at most.
const TICK_CALM: Duration = Duration::from_millis(20);
/// How long it lets reports gather while they are many. It sleeps meanwhile: a poll that waits is woken for each of them.
const TICK_BUSY: Duration = Duration::from_millis(4);
/// Reports in a calm tick from which they are many: 10,000 a second.
const BUSY_FROM: u64 = 200;
/// Reports in a busy tick below which they are few: 4,000 a second.
const CALM_BELOW: u64 = 16;

/// Why a message was not taken. It will have no report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The queue is full; the next report makes room.
    QueueFull,
    /// librdkafka has refused it at once.
    Refused {
        /// What is to be done about its record.
        verdict: Verdict,
        /// Its word.
        error: ErrorCode,
    },
}

/// An idempotent producer, or one of transactions where the settings say so. Dropping it purges what is in flight: each such message is reported with [`Verdict::Rebuild`] before the drop returns.
pub struct Producer {
    base: Arc<BaseProducer<Context>>,
    poll: Option<JoinHandle<()>>,
    transactions: Option<Transactions>,
}

impl Producer {
    /// Makes a producer and starts its poll thread. Kafka need not be there. `reports` must be new: numbers of an earlier producer would mix with this one's.
    pub fn new(settings: &Settings, reports: Reports, status: Status, metrics: metrics::Kafka) -> Result<Self, Error> {
        metrics.queue_max_messages.set(i64::try_from(settings.queue_max_messages()).unwrap_or(i64::MAX));
        let context = Context {
            reports,
            status,
            metrics,
            settings: settings.clone(),
            in_flight: AtomicU64::new(0),
            reported: AtomicU64::new(0),
            gathers: AtomicBool::new(false),
            gathered: Mutex::default(),
            echo: Mutex::default(),
            counted: Mutex::default(),
            most_in_flight: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            suspect: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        };
        let base: BaseProducer<Context> = settings.producer().create_with_context(context).map_err(|error| creation(&error))?;
        let base = Arc::new(base);
        let polled = Arc::clone(&base);
        let poll = thread::Builder::new()
            .name("kafka-poll".to_owned())
            .spawn(move || poll(&polled))
            .map_err(|error| Error::Client(format!("start its poll thread: {error}")))?;
        let mut producer = Self { base, poll: Some(poll), transactions: None };
        if let Some(place) = settings.positions() {
            producer.transactions = Some(Transactions::start(&producer.base, settings.clone(), place.clone())?);
        }
        Ok(producer)
    }

    /// Asks something of the transactions, once what was asked before has ended. Never waits.
    pub fn order(&self, order: Order) {
        if let Some(transactions) = &self.transactions {
            transactions.order(order);
        }
    }

    /// Hands over one of the positions, to the partition that is ours.
    ///
    /// # Errors
    /// As [`Producer::send`] has them.
    pub fn send_position(&self, key: &[u8], value: Option<&[u8]>, opaque: u64) -> Result<(), SendError> {
        let Some(place) = self.base.context().settings.positions() else { return Ok(()) };
        let number = usize::try_from(opaque).unwrap_or(usize::MAX);
        let mut record = BaseRecord::with_opaque_to(&place.topic, number).key(key).partition(i32::from(place.partition));
        record.payload = value;
        self.hand_over(record)
    }

    /// Hands a message to librdkafka, which copies it. Never waits. The record's time is now.
    ///
    /// # Errors
    /// Where the message was not taken: the caller keeps it, and no report will come.
    pub fn send<N: AsRef<str>, V: AsRef<[u8]>>(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        value: &[u8],
        headers: &[(N, V)],
        opaque: u64,
    ) -> Result<(), SendError> {
        let mut owned = OwnedHeaders::new_with_capacity(headers.len());
        for (name, content) in headers {
            owned = owned.insert(Header { key: name.as_ref(), value: Some(content.as_ref()) });
        }
        let number = usize::try_from(opaque).unwrap_or(usize::MAX);
        let mut record = BaseRecord::with_opaque_to(topic, number).payload(value).headers(owned);
        record.key = key;
        self.hand_over(record)
    }

    fn hand_over(&self, record: BaseRecord<'_, [u8], [u8], usize>) -> Result<(), SendError> {
        let context = self.base.context();
        // Counted first: the report may come before `send` returns.
        let before = context.in_flight.fetch_add(1, Ordering::AcqRel);
        context.most_in_flight.fetch_max(before + 1, Ordering::Relaxed);
        let Err((error, _)) = self.base.send(record) else { return Ok(()) };
        context.in_flight.fetch_sub(1, Ordering::AcqRel);
        Err(context.refused(&error))
    }

    /// Messages taken and not yet reported on.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.base.context().in_flight.load(Ordering::Acquire)
    }

    /// What the cluster says of these topics, within `timeout` altogether; waits on the calling thread. What is learned is this producer's knowledge too: a topic
    /// that it had given up takes messages again as soon as it is seen here.
    #[must_use]
    pub fn lookup(&self, topics: &[&str], timeout: Duration) -> BTreeMap<String, Presence> {
        topics::lookup(self.base.client(), topics, timeout).0
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.base.context().stop.store(true, Ordering::Release);
        if let Some(mut transactions) = self.transactions.take() {
            transactions.stop();
        }
        if let Some(poll) = self.poll.take() {
            // The thread has caught its own panic and told of it.
            drop(poll.join());
        }
        // The reports that the purge makes are handed over one by one.
        self.base.context().gathers.store(false, Ordering::Relaxed);
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Producer").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

fn poll(base: &BaseProducer<Context>) {
    let context = base.context();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut tick = TICK_CALM;
        while !context.stop.load(Ordering::Acquire) {
            context.gathers.store(tick == TICK_BUSY, Ordering::Relaxed);
            if tick == TICK_BUSY {
                thread::sleep(TICK_BUSY);
                serve_all(base);
            } else {
                // Since rdkafka 0.38 a poll uses its whole time, whatever it serves.
                base.poll(tick);
            }
            // rdkafka 0.39 passes an error on without telling whether it is fatal.
            if context.suspect.swap(false, Ordering::Relaxed)
                && let Some((code, reason)) = base.client().fatal_error()
            {
                context.dead(&format!("{code}: {}", context.settings.redact(&reason)));
            }
            tick = match context.end_of_tick() {
                many if tick == TICK_CALM && many >= BUSY_FROM => TICK_BUSY,
                few if tick == TICK_BUSY && few < CALM_BELOW => TICK_CALM,
                _ => tick,
            };
        }
    }));
    if result.is_err() {
        context.dead("the poll thread panicked");
    }
}

/// Takes what is there without waiting: each poll of no time serves one event, and an event holds the reports of one answer of a broker.
fn serve_all(base: &BaseProducer<Context>) {
    let reported = &base.context().reported;
    loop {
        let before = reported.load(Ordering::Relaxed);
        base.poll(Duration::ZERO);
        if reported.load(Ordering::Relaxed) == before {
            return;
        }
    }
}

/// What librdkafka calls back into. All calls but `log` come from the poll thread, or from the thread that drops the producer when that has ended.
pub(super) struct Context {
    reports: Reports,
    status: Status,
    metrics: metrics::Kafka,
    settings: Settings,
    in_flight: AtomicU64,
    /// Reports since the last tick.
    reported: AtomicU64,
    /// Whether reports are gathered until the end of the tick.
    gathers: AtomicBool,
    gathered: Mutex<Vec<Report>>,
    /// The error that rdkafka 0.39 will report a second time.
    echo: Mutex<Option<(Code, String)>>,
    /// What the last statistics counted up, and what they tell of repetitions.
    counted: Mutex<(Counted, Doubt)>,
    /// The most messages in flight at once since the last statistics.
    most_in_flight: AtomicU64,
    /// Reports of failures since the last statistics.
    failed: AtomicU64,
    /// An error has come that may have been fatal.
    suspect: AtomicBool,
    stop: AtomicBool,
}

impl Context {
    /// Hands over what was gathered; the answer is the number of reports since the last tick.
    fn end_of_tick(&self) -> u64 {
        self.reports.append(&mut self.gathered.lock().unwrap_or_else(PoisonError::into_inner));
        self.metrics.queue_messages.set(i64::try_from(self.in_flight.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
        self.reported.swap(0, Ordering::Relaxed)
    }

    fn hand_over(&self, report: Report) {
        self.reported.fetch_add(1, Ordering::Relaxed);
        if self.gathers.load(Ordering::Relaxed) {
            self.gathered.lock().unwrap_or_else(PoisonError::into_inner).push(report);
        } else {
            self.reports.push(report);
        }
    }

    fn refused(&self, error: &KafkaError) -> SendError {
        // Every error of a send bears a code but one: a NUL in the topic's name.
        let error = ErrorCode(error.rdkafka_error_code().unwrap_or(Code::InvalidTopic));
        if error.0 == Code::QueueFull {
            return SendError::QueueFull;
        }
        self.suspect.store(true, Ordering::Relaxed);
        self.metrics.errors(error.kind()).inc();
        SendError::Refused { verdict: error.verdict(), error }
    }

    /// Whether the producer is being dropped.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// An order to the transactions has come to its end.
    pub(super) fn ended(&self, outcome: Outcome) {
        self.reports.push_outcome(outcome);
    }

    pub(super) fn dead(&self, reason: &str) {
        // librdkafka goes on to tell of it with each further error.
        if self.reports.fail(reason) {
            self.status.fatal(reason);
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(&self.settings, level, facility, message);
    }

    fn stats_raw(&self, json: &[u8]) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, doubt) = &mut *counted;
        *last = self.status.statistics(json, *last);
        let failed = self.failed.swap(0, Ordering::Relaxed);
        let records = self.most_in_flight.swap(self.in_flight.load(Ordering::Acquire), Ordering::Relaxed);
        if doubt.arises(last.seen, failed) {
            tracing::info!(records, "kafka producer has numbered its records anew; some may be there twice");
            self.reports.doubt(records);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        let reason = self.settings.redact(reason);
        if is_echo(&self.echo, code, &reason) {
            return;
        }
        self.suspect.store(true, Ordering::Relaxed);
        self.status.error(ErrorCode(code), &reason);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let (message, error) = match result {
            Ok(message) => (message, None),
            Err((error, message)) => (message, Some(ErrorCode(error.rdkafka_error_code().unwrap_or(Code::Unknown)))),
        };
        let verdict = error.map_or(Verdict::Delivered, ErrorCode::verdict);
        match error {
            None => self.status.delivered(),
            Some(error) => {
                self.suspect.store(true, Ordering::Relaxed);
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.metrics.errors(error.kind()).inc();
            }
        }
        // Before the report is seen: whoever has drained the last one finds nothing in flight.
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        let opaque = u64::try_from(opaque).unwrap_or(u64::MAX);
        self.hand_over(Report { opaque, verdict, error, partition: message.partition(), offset: message.offset() });
    }
}

/// rdkafka 0.39 calls back twice, one right after the other, for each error event. Whether this call is the second of two.
pub(super) fn is_echo(last: &Mutex<Option<(Code, String)>>, code: Code, reason: &str) -> bool {
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    if last.as_ref().is_some_and(|(known, text)| *known == code && text == reason) {
        *last = None;
        return true;
    }
    *last = Some((code, reason.to_owned()));
    false
}

/// librdkafka's own lines. It repeats them while a broker is away, so they are for whoever looks for them; what has changed is told by [`Status`].
pub(super) fn log(settings: &Settings, level: RDKafkaLogLevel, facility: &str, message: &str) {
    let message = settings.redact(message);
    match level {
        RDKafkaLogLevel::Debug => tracing::trace!(target: "librdkafka", facility, message),
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning
        | RDKafkaLogLevel::Notice
        | RDKafkaLogLevel::Info => tracing::debug!(target: "librdkafka", facility, message),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    use rdkafka::{Offset, TopicPartitionList};

    use super::*;
    use crate::config;
    use crate::metrics::{Labels, Metrics};

    /// The embedded cluster takes any sequence number, as a broker does that knows nothing of the producer.
    #[test]
    fn a_batch_that_was_refused_is_not_taken_for_delivered_because_the_next_one_was() {
        const MESSAGES: u64 = 20;
        const TOPIC: &str = "chat.group-full";
        let cluster: MockCluster<'static, DefaultProducerContext> = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, 1, 1).unwrap();
        let properties = [("batch.num.messages", "1"), ("linger.ms", "1")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let bootstrap_servers = cluster.bootstrap_servers();
        let kafka = config::Kafka { bootstrap_servers, properties: properties.into(), ..config::Kafka::default() };
        let settings = Settings::load(&kafka, &config::Topics::default()).unwrap();
        let (wake, woken) = mpsc::channel();
        let reports = Reports::new(move || {
            let _nobody_waits_any_more = wake.send(());
        });
        let metrics = Metrics::new(&Labels { kafka_errors: &crate::kafka::ERROR_KINDS, ..Labels::default() }).unwrap().kafka;
        let producer = Producer::new(&settings, reports.clone(), Status::new(metrics.clone()), metrics).unwrap();
        let deadline = Instant::now() + Duration::from_mins(1);
        let left = || deadline.saturating_duration_since(Instant::now());
        let send = |number: u64| {
            let no_headers: &[(&str, &str)] = &[];
            producer.send(TOPIC, Some(b"k"), number.to_string().as_bytes(), no_headers, number).unwrap();
        };
        let mut reported = Vec::new();
        let mut wait_for = |count: u64| {
            while u64::try_from(reported.len()).unwrap() < count {
                woken.recv_timeout(left()).unwrap();
                reports.drain(&mut reported);
            }
        };
        send(0);
        wait_for(1);
        // From now on so slow that the next request is sent while the one before is under way, if it may be.
        cluster.broker_round_trip_time(1, Duration::from_millis(100)).unwrap();
        cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION]);
        (1..MESSAGES).for_each(send);
        wait_for(MESSAGES);
        assert!(reported.iter().all(|report| report.verdict == Verdict::Delivered), "{reported:?}");

        let consumer: BaseConsumer = settings.reader().create().unwrap();
        let mut place = TopicPartitionList::new();
        place.add_partition_offset(TOPIC, 0, Offset::Beginning).unwrap();
        consumer.assign(&place).unwrap();
        let (_, end) = consumer.fetch_watermarks(TOPIC, 0, left()).unwrap();
        let mut values = Vec::new();
        let mut next = 0;
        while next < end {
            let message = consumer.poll(left()).unwrap().unwrap();
            next = message.offset() + 1;
            values.push(std::str::from_utf8(message.payload().unwrap()).unwrap().parse::<u64>().unwrap());
        }
        assert_eq!(values, (0..MESSAGES).collect::<Vec<_>>());
    }

    #[test]
    fn of_two_equal_errors_in_a_row_the_second_is_an_echo() {
        let last = Mutex::default();
        let calls = [
            (Code::Resolve, "a"),
            (Code::Resolve, "a"),
            (Code::Resolve, "a"),
            (Code::Resolve, "a"),
            (Code::Resolve, "b"),
            (Code::SSL, "b"),
        ];
        let echoes: Vec<bool> = calls.iter().map(|(code, reason)| is_echo(&last, *code, reason)).collect();
        assert_eq!(echoes, [false, true, false, true, false, false]);
    }
}
