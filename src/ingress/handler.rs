//! From a request to its answer: the only place that answers with success, and only after the journal has made the callback durable.
//!
//! One handler belongs to each event loop. Refusals are decided in the order in which the code stands: method, parameters, app and source, `Sign`,
//! encoding, length, room; then while reading the body its size and its time.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use prometheus::IntCounter;

use super::authentication::{Apps, Origin};
use super::body::{self, Budget, Failure, Remainder, Share};
use super::lifecycle::{Lifecycle, Stage};
use super::link::{Ending, LinkState};
use super::parameters::Parameters;
use super::refusal::{Refusal, Unanswered};
use super::tls::Tls;
use crate::callback::query::Query;
use crate::callback::{self, Callback};
use crate::clock::Clock;
use crate::config;
use crate::journal::{AppendError, Appender, Journal, State};
use crate::metrics;
use crate::traces::context::Carried;
use crate::traces::{self, RequestSpan, Served, Tracer};

/// The answer to every callback that is durable or discarded.
const SUCCESS: Bytes = Bytes::from_static(br#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#);

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const POST: HeaderValue = HeaderValue::from_static("POST");
const CLOSE: HeaderValue = HeaderValue::from_static("close");
const ONE_SECOND: HeaderValue = HeaderValue::from_static("1");
const TRACEPARENT: HeaderName = HeaderName::from_static(crate::event::TRACEPARENT);
const TRACESTATE: HeaderName = HeaderName::from_static(crate::event::TRACESTATE);

/// What all handlers share: read from the configuration once.
pub(super) struct Policy {
    pub(super) apps: Apps,
    discard: BTreeSet<String>,
    /// The bodies of the configured answers to before-commands.
    answers: HashMap<String, Bytes>,
    limits: body::Limits,
}

impl Policy {
    pub(super) fn new(config: &config::Config, apps: Apps) -> Self {
        // An after-command's answer is ignored by Chat, and the interface promises the fixed bytes.
        let answers = config.answers.iter().filter(|(command, _)| callback::is_before(command));
        Self {
            apps,
            discard: config.topics.discard.clone(),
            answers: answers.map(|(command, answer)| (command.clone(), answer_body(answer))).collect(),
            limits: body::Limits { body_max: config.http.body_max.bytes(), body_timeout: config.http.body_timeout.get() },
        }
    }
}

fn answer_body(answer: &config::Answer) -> Bytes {
    let status = if answer.error_code == 0 { "OK" } else { "FAIL" };
    let info = serde_json::Value::from(answer.error_info.as_str());
    Bytes::from(format!(r#"{{"ActionStatus":"{status}","ErrorInfo":{info},"ErrorCode":{}}}"#, answer.error_code))
}

/// What tells two receipts apart: 8 bytes drawn at random for each event loop, and a number.
struct Receipts {
    random: u64,
    number: Cell<u64>,
}

impl Receipts {
    fn new() -> Self {
        // The high half of a random UUID: 60 random bits from the system, for processes and event loops that number alike.
        Self { random: uuid::Uuid::new_v4().as_u64_pair().0, number: Cell::new(0) }
    }

    fn next(&self) -> [u8; 16] {
        let number = self.number.get();
        self.number.set(number.wrapping_add(1));
        ((u128::from(self.random) << 64) | u128::from(number)).to_be_bytes()
    }
}

/// The counters that every callback moves, looked up once.
struct Counters {
    by_command: HashMap<&'static str, IntCounter>,
    other: IntCounter,
}

impl Counters {
    fn new(metrics: &metrics::Ingress) -> Self {
        let by_command = callback::commands().map(|command| (command.name, metrics.command(Some(command.name)))).collect();
        Self { by_command, other: metrics.command(None) }
    }

    fn count(&self, command: &str) {
        self.by_command.get(command).unwrap_or(&self.other).inc();
    }
}

/// One event loop's handler.
pub(super) struct Handler {
    policy: Arc<Policy>,
    budget: Arc<Budget>,
    lifecycle: Arc<Lifecycle>,
    journal: Journal,
    appender: Appender,
    clock: Clock,
    metrics: metrics::Ingress,
    counters: Counters,
    receipts: Receipts,
    /// None where no spans are recorded.
    tracer: Option<Tracer>,
    scheme: &'static str,
}

/// What handlers share, as far as it is not the journal's.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) policy: Arc<Policy>,
    /// None where the public port speaks plain HTTP.
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) budget: Arc<Budget>,
    pub(super) lifecycle: Arc<Lifecycle>,
    pub(super) clock: Clock,
    pub(super) metrics: metrics::Ingress,
    /// None where no spans are recorded.
    pub(super) tracer: Option<Tracer>,
}

impl Handler {
    pub(super) fn new(shared: Shared, journal: Journal, appender: Appender) -> Self {
        let Shared { policy, budget, lifecycle, clock, metrics, tls, tracer } = shared;
        let counters = Counters::new(&metrics);
        let scheme = if tls.is_some() { "https" } else { "http" };
        Self { policy, budget, lifecycle, journal, appender, clock, metrics, counters, receipts: Receipts::new(), tracer, scheme }
    }

    /// Answers one request, and counts its outcome. An error ends the connection without an answer.
    ///
    /// Dropped while the body is read, the request counts as one whose sender hung up; by a panic, as one that we failed. Dropped while the journal
    /// has it, which only the end of a stop does, it is withdrawn, or becomes durable and is counted by the journal.
    pub(super) async fn handle(
        &self,
        link: &LinkState,
        peer: IpAddr,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Unanswered> {
        let started = Instant::now();
        link.request_begins();
        let (parts, mut body) = request.into_parts();
        let mut answer = Answer { status: StatusCode::OK, body: SUCCESS, extra: None, ending: Ending::Quiet };
        let outcome = Outcome::new(&self.metrics);
        let mut span = self.begin_span(&parts);
        let mut became = traces::Outcome::Accepted;
        let mut error = None;
        match self.receive(peer, &parts, &mut body, &outcome, &mut span).await {
            Ok(Done::Durable(bytes)) => answer.body = bytes,
            Ok(Done::Discarded) => became = traces::Outcome::Discarded,
            Err(Failure::Refused(refusal)) => {
                outcome.count(refusal.reason());
                (became, error) = (traces::Outcome::Refused, Some(refusal.reason()));
                answer = Answer::refusal(refusal, self.remainder(&parts, &mut body).await);
            }
            Err(Failure::Unanswered(unanswered)) => {
                outcome.count(unanswered.reason());
                return Err(unanswered);
            }
        }
        if self.lifecycle.stage() != Stage::Serving {
            answer.ending = Ending::Lingering;
        }
        link.request_ends(answer.ending);
        self.metrics.answer_duration_seconds.observe(started.elapsed().as_secs_f64());
        if let Some(span) = span {
            span.end(&Served { status: answer.status.as_u16(), outcome: became, error });
        }
        Ok(answer.into_response(parts.headers))
    }

    /// The request's span, where spans are recorded.
    fn begin_span(&self, parts: &Parts) -> Option<RequestSpan> {
        let mut span = self.tracer.as_ref()?.request(carried(&parts.headers), self.clock.now());
        span.came_by(parts.method.as_str(), self.scheme);
        Some(span)
    }

    /// Takes a request to its end: the bytes of the answer once the callback is durable or discarded.
    async fn receive(
        &self,
        peer: IpAddr,
        parts: &Parts,
        body: &mut Incoming,
        outcome: &Outcome<'_>,
        span: &mut Option<RequestSpan>,
    ) -> Result<Done, Failure> {
        let received = self.clock.now();
        if parts.method != Method::POST {
            return Err(Refusal::Method.into());
        }
        let query = Query(parts.uri.query().unwrap_or_default());
        let parameters = Parameters::read(query)?;
        let origin = Origin { peer, headers: &parts.headers };
        let app = self.policy.apps.admit(parameters.claim(), origin, received, &self.metrics)?;
        let mut command = parameters.command();
        if let Some(span) = span {
            span.is_of(app, &command);
        }
        if !is_identity(&parts.headers) {
            return Err(Refusal::ContentEncoding.into());
        }
        if body::is_too_large(body, self.policy.limits) {
            return Err(Refusal::BodyTooLarge.into());
        }
        self.room_for(&command)?;
        let mut share = Share::none(&self.budget);
        let body = outcome.while_sent(body::read(body, self.policy.limits, &mut share)).await?;
        if command.is_empty() {
            command = callback::command_in(&body).unwrap_or_default();
            if let Some(span) = span {
                span.is_of(app, &command);
            }
        }
        if self.policy.discard.contains(&command) {
            outcome.is_elsewhere();
            self.metrics.discarded.inc();
            self.counters.count(&command);
            return Ok(Done::Discarded);
        }
        let (traceparent, tracestate) = match span {
            Some(span) => Some(span.carried().clone()),
            None => carried(&parts.headers),
        }
        .map(Carried::into_texts)
        .unzip();
        let query = if parameters.sign.is_some() { query.without_sign().into_owned() } else { query.0.to_owned() };
        let callback =
            Callback { received, receipt: self.receipts.next(), app, command, query, traceparent, tracestate: tracestate.flatten(), body };
        let mut record = Vec::new();
        callback.encode(&mut record);
        outcome.is_elsewhere();
        self.keep(&callback.command, record).await.map(Done::Durable).map_err(Failure::Refused)
    }

    /// Makes the callback durable. This function keeps the promise: there is no other way to an answer for a callback that is not discarded.
    async fn keep(&self, command: &str, record: Vec<u8>) -> Result<Bytes, Refusal> {
        self.appender.append(record).await.map_err(|error| match error {
            AppendError::Full => Refusal::JournalFull,
            AppendError::TooManyWaiting => Refusal::TooManyWaiting,
            AppendError::NotTakenInTime => Refusal::NotTaken,
            AppendError::TooLarge => Refusal::BodyTooLarge,
            AppendError::Failed => Refusal::JournalFailed,
            AppendError::Sealed | AppendError::Closed => Refusal::Draining,
        })?;
        self.counters.count(command);
        Ok(self.policy.answers.get(command).cloned().unwrap_or(SUCCESS))
    }

    /// Whether a callback could be kept as things stand. One that the configuration discards needs no journal.
    fn room_for(&self, command: &str) -> Result<(), Refusal> {
        if self.lifecycle.stage() >= Stage::Refusing {
            return Err(Refusal::Draining);
        }
        if self.policy.discard.contains(command) {
            return Ok(());
        }
        match self.journal.state() {
            State::Open => Ok(()),
            State::Full(_) => Err(Refusal::JournalFull),
            State::Failed(_) => Err(Refusal::JournalFailed),
            State::Closed => Err(Refusal::Draining),
        }
    }

    /// What of a refused request's body stays unread.
    async fn remainder(&self, parts: &Parts, body: &mut Incoming) -> Remainder {
        if body.is_end_stream() {
            return Remainder::Nothing;
        }
        // To read on would ask a sender that waits for `100 Continue` to send what we do not want.
        if parts.headers.contains_key(EXPECT) {
            return Remainder::Unread;
        }
        body::discard_arrived(body, self.policy.limits).await
    }
}

/// A request that was not refused.
enum Done {
    /// Its callback is durable, and this its answer.
    Durable(Bytes),
    /// The configuration discards its callback.
    Discarded,
}

/// Sees to it that a request that ends without an answer is counted all the same.
struct Outcome<'a> {
    metrics: &'a metrics::Ingress,
    pending: Cell<Pending>,
}

/// Who counts the request if it ends now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pending {
    /// We do, if it ends by a panic.
    Ours,
    /// We do, however it ends: hyper drops us with the connection when its sender hangs up.
    Sent,
    /// It is counted, or the journal counts it.
    Settled,
}

impl<'a> Outcome<'a> {
    const fn new(metrics: &'a metrics::Ingress) -> Self {
        Self { metrics, pending: Cell::new(Pending::Ours) }
    }

    /// Waits for what is being sent.
    async fn while_sent<T>(&self, sending: impl Future<Output = T>) -> T {
        self.pending.set(Pending::Sent);
        let sent = sending.await;
        self.pending.set(Pending::Ours);
        sent
    }

    /// From here on the outcome is counted by another.
    fn is_elsewhere(&self) {
        self.pending.set(Pending::Settled);
    }

    /// It is refused for this reason.
    fn count(&self, reason: &'static str) {
        self.pending.set(Pending::Settled);
        self.metrics.refused(reason).inc();
    }
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        match self.pending.get() {
            Pending::Ours | Pending::Sent if std::thread::panicking() => self.count(Unanswered::Internal.reason()),
            Pending::Sent => self.count(Unanswered::BodyIncomplete.reason()),
            Pending::Ours | Pending::Settled => {}
        }
    }
}

/// An answer of ours. hyper adds `Date` and `Content-Length`.
struct Answer {
    status: StatusCode,
    body: Bytes,
    extra: Option<(HeaderName, HeaderValue)>,
    ending: Ending,
}

impl Answer {
    fn refusal(refusal: Refusal, remainder: Remainder) -> Self {
        let status = refusal.status();
        let extra = match status {
            StatusCode::METHOD_NOT_ALLOWED => Some((ALLOW, POST)),
            StatusCode::SERVICE_UNAVAILABLE => Some((RETRY_AFTER, ONE_SECOND)),
            _ => None,
        };
        let ending = match remainder {
            Remainder::Nothing => Ending::Quiet,
            Remainder::Unread => Ending::Lingering,
        };
        Self { status, body: Bytes::from_static(refusal.body().as_bytes()), extra, ending }
    }

    /// The map of the request's headers is used again, and hyper uses it for the next request: it costs no allocation.
    fn into_response(self, mut headers: HeaderMap) -> Response<Full<Bytes>> {
        headers.clear();
        headers.insert(CONTENT_TYPE, JSON);
        if let Some((name, value)) = self.extra {
            headers.insert(name, value);
        }
        if self.ending == Ending::Lingering {
            headers.insert(CONNECTION, CLOSE);
        }
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}

/// Whether the body is sent as it is.
fn is_identity(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().all(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity"))
    })
}

/// The trace that the sender is in; none where its header is not what the W3C asks for. Where there is no header it costs a look-up.
fn carried(headers: &HeaderMap) -> Option<Carried> {
    // What is no text is as malformed as this.
    const NO_TEXT: &str = "?";
    if !headers.contains_key(TRACEPARENT) {
        return None;
    }
    let texts = |name| headers.get_all(name).iter().map(|value| value.to_str().unwrap_or(NO_TEXT));
    Carried::read(texts(TRACEPARENT), texts(TRACESTATE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_a_valid_trace_is_kept() {
        const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for (parents, states, kept) in [
            (&[VALID][..], &[][..], Some((VALID, None))),
            (&[VALID], &["a=1", "b=2"], Some((VALID, Some("a=1,b=2")))),
            (&[VALID], &["a=\u{e4}"], Some((VALID, None))),
            (&[VALID], &["a=1", "b=\u{e4}"], Some((VALID, None))),
            (&[], &["a=1"], None),
            (&[VALID, VALID], &[], None),
            (&[""], &[], None),
            (&["00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"], &[], None),
        ] {
            let mut headers = headers(&TRACEPARENT, parents);
            for state in states {
                headers.append(TRACESTATE, HeaderValue::from_bytes(state.as_bytes()).unwrap());
            }
            let kept = kept.map(|(parent, state)| (parent.to_owned(), state.map(str::to_owned)));
            assert_eq!(carried(&headers).map(Carried::into_texts), kept, "{parents:?} {states:?}");
        }
    }

    #[test]
    fn a_request_that_ends_without_an_answer_is_counted_once() {
        type End = fn(&Outcome<'_>);
        let broken: End = |_| panic!("broken on purpose");
        let broken_while_sent: End = |outcome| drop(poll_once(outcome.while_sent(async { panic!("broken on purpose") })));
        let hung_up: End = |outcome| drop(poll_once(outcome.while_sent(std::future::pending::<()>())));
        let broken_later: End = |outcome| {
            outcome.is_elsewhere();
            panic!("broken on purpose")
        };
        for (end, counted) in [
            (broken, &["internal"][..]),
            (broken_while_sent, &["internal"]),
            (hung_up, &["body_incomplete"]),
            (|outcome| drop(poll_once(outcome.while_sent(async {}))), &[]),
            (|outcome| outcome.count("source"), &["source"]),
            (broken_later, &[]),
        ] {
            let labels = metrics::Labels { refusals: Refusal::REASONS, ..metrics::Labels::default() };
            let metrics = metrics::Metrics::new(&labels).unwrap().ingress;
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| end(&Outcome::new(&metrics))));
            let found: Vec<_> = Refusal::REASONS.iter().filter(|reason| metrics.refused(reason).get() == 1).copied().collect();
            assert_eq!(found, counted, "{ended:?}");
        }
    }

    /// Polls once, and gives the future back, to be dropped.
    fn poll_once<F: Future>(future: F) -> std::pin::Pin<Box<F>> {
        let mut future = Box::pin(future);
        let _ = future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        future
    }

    #[test]
    fn only_identity_is_taken_as_content_encoding() {
        for (values, identity) in [
            (&[][..], true),
            (&["identity"], true),
            (&["Identity"], true),
            (&[""], true),
            (&["identity, identity"], true),
            (&["gzip"], false),
            (&["identity, gzip"], false),
            (&["identity", "br"], false),
            (&["x-identity"], false),
        ] {
            assert_eq!(is_identity(&headers(&CONTENT_ENCODING, values)), identity, "{values:?}");
        }
    }

    #[test]
    fn a_configured_answer_is_chats_form() {
        for (error_code, status) in [(0, "OK"), (1, "FAIL"), (10100, "FAIL"), (-1, "FAIL")] {
            let body = answer_body(&config::Answer { error_code, error_info: "say \"no\"\n".to_owned() });
            let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(answer, serde_json::json!({"ActionStatus": status, "ErrorInfo": "say \"no\"\n", "ErrorCode": error_code}));
        }
        assert_eq!(answer_body(&config::Answer { error_code: 0, error_info: String::new() }), SUCCESS);
    }

    #[test]
    fn no_two_receipts_are_the_same() {
        let (one, other) = (Receipts::new(), Receipts::new());
        let receipts = [one.next(), one.next(), other.next(), other.next()];
        assert_eq!(receipts.iter().collect::<BTreeSet<_>>().len(), receipts.len());
    }
}
