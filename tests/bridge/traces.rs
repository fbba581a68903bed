//! Traces: a request's goes on to the record in Kafka and to whoever consumes it; spans reach a collector, or are counted, and are never in the way.

use opentelemetry_proto::tonic::trace::v1::Span;

use crate::support::bridge::{APP, Bridge, Delivery, PATIENCE, Site, exchange, group_full, prefix};
use crate::support::certificates::Authority;
use crate::support::collector::{Collector, Manner, Protocol, attributes};
use crate::support::kafka::{self, Record};
use crate::support::{eventually, free_port};

const FULL: &str = "Group.CallbackAfterGroupFull";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const THEIRS: &str = "00f067aa0ba902b7";

const SERVER: i32 = 2;
const PRODUCER: i32 = 4;
const ERROR: i32 = 2;

/// `traceparent` of a sender that records its part of the trace.
fn sampled() -> String {
    format!("00-{TRACE}-{THEIRS}-01")
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn header(record: &Record, name: &str) -> Option<String> {
    let (_, value) = record.headers.iter().find(|(known, _)| known == name)?;
    Some(String::from_utf8(value.clone()).unwrap())
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    attributes(&span.attributes).into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
}

/// Posts a callback with these headers; tells the status.
fn post(bridge: &Bridge, app: &str, headers: &str, body: &str) -> u16 {
    let request = format!(
        "POST /secret-path?SdkAppid={app}&CallbackCommand={FULL}&Sign=secret-sign HTTP/1.1\r\nHost: b\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    exchange(bridge.public, request.as_bytes()).status
}

fn traced(bridge: &Bridge, group: &str, traceparent: &str) {
    assert_eq!(post(bridge, APP, &format!("traceparent: {traceparent}\r\n"), &group_full(group, 1)), 200);
}

fn dropped(bridge: &Bridge, reason: &str) -> f64 {
    bridge.metric(&format!("chat_bridge_spans_dropped_total{{reason=\"{reason}\"}}"))
}

/// The one record of a topic with this key.
fn record_of(records: &[Record], key: &str) -> Record {
    let mut found = records.iter().filter(|record| record.key.as_deref() == Some(key.as_bytes()));
    let record = found.next().unwrap_or_else(|| panic!("{key} in {records:?}")).clone();
    assert_eq!(found.next(), None);
    record
}

/// The request's span and the publication's of one trace.
fn pair(spans: &[Span], trace: &str) -> (Span, Span) {
    let of = |kind| {
        let mut found = spans.iter().filter(|span| span.kind == kind && hex(&span.trace_id) == trace);
        let span = found.next().unwrap_or_else(|| panic!("kind {kind} of {trace} in {spans:?}")).clone();
        assert_eq!(found.next(), None);
        span
    };
    (of(SERVER), of(PRODUCER))
}

/// A record's trace and the span that it names.
fn context(record: &Record) -> (String, String) {
    let text = header(record, "traceparent").unwrap();
    let [version, trace, span, flags] = text.split('-').collect::<Vec<_>>()[..] else { panic!("{text}") };
    assert_eq!((version, flags), ("00", "01"));
    (trace.to_owned(), span.to_owned())
}

#[test]
fn a_trace_goes_from_the_request_to_the_delivery_report_and_on_to_the_consumer() {
    let kafka = kafka::shared();
    for (protocol, delivery) in [(Protocol::Grpc, Delivery::AtLeastOnce), (Protocol::Http, Delivery::ExactlyOnce)] {
        let prefix = prefix("traced");
        let collector = Collector::start(protocol, Manner::Takes, None);
        let site = Site::new(&kafka.bootstrap_servers(), &prefix, &(delivery.settings(&prefix) + &collector.settings()));
        site.make_topics();
        let bridge = site.start();
        let headers = format!("traceparent: {}\r\ntracestate: a=1\r\ntracestate: b=2\r\n", sampled());
        assert_eq!(post(&bridge, APP, &headers, &group_full("theirs", 1)), 200);
        assert_eq!(post(&bridge, APP, "", &group_full("ours", 1)), 200);
        bridge.settled(PATIENCE);
        let spans = collector.expect(4);
        assert_eq!(spans.len(), 4, "{spans:?}");
        let records = kafka.read(&format!("{prefix}group-full"));

        let record = record_of(&records, "theirs");
        let (request, publication) = pair(&spans, TRACE);
        assert_eq!(hex(&request.parent_span_id), THEIRS);
        assert_eq!(publication.parent_span_id, request.span_id);
        assert_eq!(context(&record), (TRACE.to_owned(), hex(&publication.span_id)), "a consumer goes on from the publication");
        assert_eq!(header(&record, "tracestate").as_deref(), Some("a=1,b=2"));
        assert_eq!([&request.trace_state, &publication.trace_state], ["a=1,b=2"; 2]);
        assert!(request.start_time_unix_nano <= publication.start_time_unix_nano);
        assert!(request.start_time_unix_nano < request.end_time_unix_nano);
        assert!(publication.start_time_unix_nano < publication.end_time_unix_nano);
        assert_eq!(attribute(&request, "http.response.status_code").as_deref(), Some("200"));
        assert_eq!(attribute(&request, "chat_bridge.outcome").as_deref(), Some("accepted"));
        assert_eq!(attribute(&request, "chat_bridge.app_id").as_deref(), Some(APP));
        assert_eq!(attribute(&request, "chat_bridge.command").as_deref(), Some(FULL));
        assert_eq!(publication.name, format!("send {prefix}group-full"));
        assert_eq!(attribute(&publication, "messaging.kafka.offset"), Some(record.offset.to_string()));
        assert_eq!(attribute(&publication, "messaging.destination.partition.id"), Some(record.partition.to_string()));
        assert_eq!(attribute(&publication, "messaging.message.id"), header(&record, "ce_id"));
        assert!(spans.iter().all(|span| span.status.is_none()), "{spans:?}");

        // A trace that begins here.
        let (trace, span) = context(&record_of(&records, "ours"));
        let (request, publication) = pair(&spans, &trace);
        assert_ne!(trace, TRACE);
        assert_eq!((request.parent_span_id.len(), hex(&publication.span_id)), (0, span));

        assert_eq!(collector.sender()[0], ("service.name".to_owned(), "chat-bridge".to_owned()));
        eventually("the spans are counted", PATIENCE, || (bridge.metric("chat_bridge_spans_exported_total") == 4.0).then_some(()));
        assert!(bridge.threads().iter().any(|name| name == "traces"), "{:?}", bridge.threads());
        let told = format!("{spans:?}");
        assert!(!told.contains("secret") && !told.contains("theirs"), "nothing of path, query and body: {told}");
        bridge.stop();
    }
}

#[test]
fn a_refusal_and_a_dead_letter_say_so_in_their_spans() {
    let kafka = kafka::shared();
    let prefix = prefix("spans");
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(&dir.path().join("authority"));
    let collector = Collector::start(Protocol::Grpc, Manner::Takes, Some(&authority.pair("collector", 2)));
    let headers = dir.path().join("headers");
    std::fs::write(&headers, "Authorization: Bearer sesame\n").unwrap();
    let files = format!("tracing.ca_file = {:?}\ntracing.headers_file = {headers:?}\n", authority.certificate());
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, &(collector.settings() + &files));
    site.make_topics();
    let bridge = site.start();
    assert_eq!(post(&bridge, "7", "", "{}"), 403);
    assert_eq!(post(&bridge, APP, &format!("traceparent: {}\r\n", sampled()), "no json"), 200);
    bridge.settled(PATIENCE);
    let spans = collector.expect(3);
    let (request, publication) = pair(&spans, TRACE);
    assert_eq!((&request.status, publication.status.as_ref().unwrap().code), (&None, ERROR));
    let not_json = Some("not_json".to_owned());
    assert_eq!(["error.type", "chat_bridge.dead_letter.reason"].map(|name| attribute(&publication, name)), [not_json.clone(), not_json]);
    assert_eq!(context(&kafka.read(&format!("{prefix}dead-letter"))[0]).1, hex(&publication.span_id));
    let refused = spans.iter().find(|span| hex(&span.trace_id) != TRACE).unwrap();
    assert_eq!(
        ["http.response.status_code", "chat_bridge.outcome", "chat_bridge.app_id"].map(|name| attribute(refused, name)),
        [Some("403".to_owned()), Some("refused".to_owned()), None]
    );
    assert_eq!(refused.status, None, "what a sender does wrong is no failure of ours");
    assert_eq!(collector.header("authorization").as_deref(), Some("Bearer sesame"));
    let log = bridge.stop();
    assert!(!log.contains("sesame"), "{log}");
}

#[test]
fn what_is_not_sampled_is_carried_and_not_exported() {
    let kafka = kafka::shared();
    let prefix = prefix("unsampled");
    let collector = Collector::start(Protocol::Grpc, Manner::Takes, None);
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, &(collector.settings() + "tracing.sample_ratio = 0\n"));
    site.make_topics();
    let bridge = site.start();
    let unsampled = format!("00-{}-{THEIRS}-00", TRACE.replace('4', "5"));
    traced(&bridge, "unsampled", &unsampled);
    assert_eq!(post(&bridge, APP, "", &group_full("begun", 1)), 200);
    bridge.settled(PATIENCE);
    // Spans are sent in their order, so whatever was recorded before comes with this one.
    traced(&bridge, "sampled", &sampled());
    let spans = collector.expect(2);
    bridge.settled(PATIENCE);
    assert_eq!(spans.len(), 2, "{spans:?}");
    pair(&spans, TRACE);
    let records = kafka.read(&format!("{prefix}group-full"));
    assert_eq!(header(&record_of(&records, "unsampled"), "traceparent"), Some(unsampled), "as it came");
    let begun = header(&record_of(&records, "begun"), "traceparent").unwrap();
    assert!(begun.len() == 55 && begun.ends_with("-00"), "consumers are told not to record it either: {begun}");
    bridge.stop();
}

#[test]
fn without_a_collector_a_trace_is_passed_on_as_it_came_and_none_is_begun() {
    let kafka = kafka::shared();
    let prefix = prefix("untraced");
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, "");
    site.make_topics();
    let bridge = site.start();
    assert_eq!(post(&bridge, APP, "tracestate: a=1\r\n", &group_full("none", 1)), 200);
    assert_eq!(post(&bridge, APP, &format!("traceparent: {}\r\ntracestate: a=1\r\n", sampled()), &group_full("theirs", 1)), 200);
    bridge.settled(PATIENCE);
    let records = kafka.read(&format!("{prefix}group-full"));
    let names = |key| record_of(&records, key).headers.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names("none"), ["content-type", "ce_id", "ce_type"]);
    assert_eq!(names("theirs"), ["content-type", "ce_id", "ce_type", "traceparent", "tracestate"]);
    assert_eq!(header(&record_of(&records, "theirs"), "traceparent"), Some(sampled()));
    assert!(!bridge.threads().iter().any(|name| name == "traces"), "{:?}", bridge.threads());
    bridge.stop();
}

#[test]
fn a_collector_that_is_away_or_refuses_costs_spans_and_no_callback() {
    let kafka = kafka::shared();
    let refusing = Collector::start(Protocol::Grpc, Manner::Refuses, None);
    let away = format!("tracing.otlp_endpoint = \"http://127.0.0.1:{}\"\ntracing.queue_max = 8\n", free_port());
    for (settings, reasons) in [(away, &["queue_full", "unreachable"][..]), (refusing.settings(), &["rejected"])] {
        let prefix = prefix("away");
        let site = Site::new(&kafka.bootstrap_servers(), &prefix, &settings);
        site.make_topics();
        let bridge = site.start();
        let mut callbacks = 0;
        eventually("spans are lost, and counted", PATIENCE, || {
            assert_eq!(post(&bridge, APP, "", &group_full(&format!("g{callbacks}"), 1)), 200);
            callbacks += 1;
            reasons.iter().all(|reason| dropped(&bridge, reason) > 0.0).then_some(())
        });
        bridge.settled(PATIENCE);
        assert_eq!(kafka.read(&format!("{prefix}group-full")).len(), callbacks, "{}", bridge.log());
        let log = bridge.stop();
        assert_eq!(log.matches("spans cannot be sent").count(), 1, "{log}");
    }
}

#[test]
fn what_a_collector_cannot_take_now_it_is_sent_again() {
    let kafka = kafka::shared();
    for protocol in [Protocol::Grpc, Protocol::Http] {
        let prefix = prefix("busy");
        let collector = Collector::start(protocol, Manner::IsBusyAtFirst, None);
        let site = Site::new(&kafka.bootstrap_servers(), &prefix, &collector.settings());
        site.make_topics();
        let bridge = site.start();
        traced(&bridge, "busy", &sampled());
        pair(&collector.expect(2), TRACE);
        eventually("the spans are counted", PATIENCE, || (bridge.metric("chat_bridge_spans_exported_total") == 2.0).then_some(()));
        assert!(["queue_full", "unreachable", "rejected", "stopped"].iter().all(|reason| dropped(&bridge, reason) == 0.0));
        let log = bridge.stop();
        for said in ["spans cannot be sent", "the collector takes spans again"] {
            assert_eq!(log.matches(said).count(), 1, "{said}: {log}");
        }
    }
}

#[test]
fn a_collector_that_does_not_answer_holds_up_no_stop() {
    let kafka = kafka::shared();
    let prefix = prefix("hanging");
    let collector = Collector::start(Protocol::Http, Manner::Hangs, None);
    let settings = format!("shutdown.drain_max = \"3s\"\ntracing.otlp_timeout = \"1h\"\n{}", collector.settings());
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, &settings);
    site.make_topics();
    let bridge = site.start();
    traced(&bridge, "hanging", &sampled());
    bridge.settled(PATIENCE);
    collector.is_asked();
    let log = bridge.stop();
    assert!(log.contains("some spans were not sent before the end"), "{log}");
}

#[test]
fn a_stop_sends_what_waits() {
    let kafka = kafka::shared();
    let prefix = prefix("flush");
    let collector = Collector::start(Protocol::Grpc, Manner::Holds, None);
    let site = Site::new(&kafka.bootstrap_servers(), &prefix, &collector.settings());
    site.make_topics();
    let mut bridge = site.start();
    traced(&bridge, "first", &sampled());
    collector.is_asked();
    for number in 0..20 {
        traced(&bridge, &format!("g{number}"), &sampled());
    }
    bridge.terminate();
    // All else is over by then.
    eventually("the journal is empty", PATIENCE, || bridge.log().contains("the journal is empty").then_some(()));
    assert_eq!(collector.spans(), []);
    collector.release();
    let log = bridge.ended_with(0, PATIENCE);
    assert_eq!(collector.spans().len(), 42, "each request's and each publication's: {log}");
}

#[test]
fn what_a_killed_bridge_had_answered_is_published_in_its_trace_by_the_next() {
    let kafka = kafka::shared();
    let prefix = prefix("later");
    let collector = Collector::start(Protocol::Grpc, Manner::Takes, None);
    // Nobody takes the record before the kill.
    let nowhere = format!("127.0.0.1:{}", free_port());
    let site = Site::new(&nowhere, &prefix, &collector.settings());
    let bridge = site.start();
    traced(&bridge, "later", &sampled());
    let request = collector.expect(1).remove(0);
    bridge.kill();
    assert_eq!((request.kind, hex(&request.trace_id), hex(&request.parent_span_id)), (SERVER, TRACE.to_owned(), THEIRS.to_owned()));

    site.configure(&kafka.bootstrap_servers(), &prefix, &collector.settings());
    site.make_topics();
    let bridge = site.start();
    bridge.settled(PATIENCE);
    let spans = collector.expect(2);
    let (_, publication) = pair(&spans, TRACE);
    assert_eq!(publication.parent_span_id, request.span_id, "the first process has received it");
    let records = kafka.read(&format!("{prefix}group-full"));
    assert_eq!(context(&record_of(&records, "later")), (TRACE.to_owned(), hex(&publication.span_id)));
    bridge.stop();
}
