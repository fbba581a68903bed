//! What is said to a collector: a batch of spans as OTLP's message, and what is answered.
//!
//! Names of attributes: semantic conventions 1.34, HTTP server spans and messaging spans of Kafka.

use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource as OtlpResource;
use opentelemetry_proto::tonic::trace::v1::{
    ResourceSpans, ScopeSpans, Span as OtlpSpan, SpanFlags, Status, span::SpanKind, status::StatusCode,
};
use prost::Message as _;

use super::span::{Parent, Publication, Request, Span, Work};
use crate::clock::Timestamp;

/// The conventions that the names of attributes follow.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.34.0";

/// Who has recorded the spans.
const SCOPE: &str = "chat-bridge";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whose spans they are.
#[derive(Clone, Debug)]
pub(super) struct Resource {
    pub(super) service: String,
    pub(super) instance: String,
    pub(super) host: Option<String>,
}

/// The batch as a collector takes it, in protobuf.
pub(super) fn encode(resource: &Resource, spans: &[Span]) -> Vec<u8> {
    let mut attributes =
        vec![text("service.name", &resource.service), text("service.version", VERSION), text("service.instance.id", &resource.instance)];
    attributes.extend(resource.host.as_ref().map(|host| text("host.name", host)));
    attributes.extend([text("telemetry.sdk.name", SCOPE), text("telemetry.sdk.language", "rust"), text("telemetry.sdk.version", VERSION)]);
    let scope = InstrumentationScope { name: SCOPE.to_owned(), version: VERSION.to_owned(), ..InstrumentationScope::default() };
    let scope_spans = ScopeSpans { scope: Some(scope), spans: spans.iter().map(message).collect(), schema_url: SCHEMA.to_owned() };
    let resource = OtlpResource { attributes, ..OtlpResource::default() };
    let resource_spans = ResourceSpans { resource: Some(resource), scope_spans: vec![scope_spans], schema_url: SCHEMA.to_owned() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec()
}

/// How many spans a collector says that it has not taken, in an answer that is a success; what is not understood is nothing said.
pub(super) fn rejected(response: &[u8]) -> u64 {
    let partial = ExportTraceServiceResponse::decode(response).ok().and_then(|response| response.partial_success);
    partial.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or(0))
}

fn message(span: &Span) -> OtlpSpan {
    let (parent, remote) = match span.parent {
        Some(Parent::Remote(id)) => (Some(id), SpanFlags::ContextIsRemoteMask),
        Some(Parent::Local(id)) => (Some(id), SpanFlags::DoNotUse),
        None => (None, SpanFlags::DoNotUse),
    };
    let flags = [SpanFlags::ContextHasIsRemoteMask, remote].map(|flag| u32::try_from(i32::from(flag)).unwrap_or(0));
    let (name, kind, mut attributes) = match &span.work {
        Work::Request(request) => of_request(request),
        Work::Publication(publication) => of_publication(publication),
    };
    attributes.extend(span.error.as_ref().map(|error| text("error.type", error)));
    let status = span.error.as_ref().map(|error| Status { message: error.clone().into_owned(), code: StatusCode::Error.into() });
    OtlpSpan {
        trace_id: span.context.trace.bytes().to_vec(),
        span_id: span.context.span.bytes().to_vec(),
        trace_state: span.tracestate.clone().unwrap_or_default(),
        parent_span_id: parent.map(|parent| parent.bytes().to_vec()).unwrap_or_default(),
        flags: u32::from(span.context.flags()) | flags.iter().sum::<u32>(),
        name,
        kind: kind.into(),
        start_time_unix_nano: nanos(span.begun),
        end_time_unix_nano: nanos(span.ended),
        attributes,
        status,
        ..OtlpSpan::default()
    }
}

/// Any path is taken, so that is the route; the path itself is the sender's, and not told.
fn of_request(request: &Request) -> (String, SpanKind, Vec<KeyValue>) {
    let name = if request.method == "_OTHER" { "HTTP" } else { request.method };
    let mut attributes = vec![text("http.request.method", request.method), text("http.route", "/*"), text("url.scheme", request.scheme)];
    attributes.extend(request.status.map(|status| number("http.response.status_code", i64::from(status))));
    attributes.push(text("chat_bridge.outcome", request.outcome.label()));
    attributes.extend(request.app.map(|app| text("chat_bridge.app_id", &app.to_string())));
    attributes.extend(request.command.as_ref().map(|command| text("chat_bridge.command", command)));
    (format!("{name} /*"), SpanKind::Server, attributes)
}

fn of_publication(publication: &Publication) -> (String, SpanKind, Vec<KeyValue>) {
    let mut attributes = vec![
        text("messaging.system", "kafka"),
        text("messaging.operation.name", "send"),
        text("messaging.operation.type", "send"),
        text("messaging.destination.name", &publication.topic),
        text("messaging.message.id", &publication.id),
        number("messaging.message.body.size", i64::try_from(publication.body_bytes).unwrap_or(i64::MAX)),
    ];
    if let Some((partition, offset)) = publication.place {
        attributes.push(text("messaging.destination.partition.id", &partition.to_string()));
        attributes.push(number("messaging.kafka.offset", offset));
    }
    attributes.push(number("chat_bridge.lsn", i64::try_from(publication.lsn).unwrap_or(i64::MAX)));
    attributes.extend(publication.dead_letter.map(|reason| text("chat_bridge.dead_letter.reason", reason)));
    (format!("send {}", publication.topic), SpanKind::Producer, attributes)
}

fn nanos(time: Timestamp) -> u64 {
    u64::try_from(time.micros()).unwrap_or(0).saturating_mul(1_000)
}

fn text(name: &str, value: &str) -> KeyValue {
    attribute(name, any_value::Value::StringValue(value.to_owned()))
}

fn number(name: &str, value: i64) -> KeyValue {
    attribute(name, any_value::Value::IntValue(value))
}

fn attribute(name: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;

    use super::super::context::TraceContext;
    use super::super::span::Outcome;
    use super::*;

    fn attributes(list: &[KeyValue]) -> Vec<(String, String)> {
        let text = |value: &KeyValue| match value.value.clone().and_then(|value| value.value) {
            Some(Value::StringValue(text)) => text,
            Some(Value::IntValue(number)) => number.to_string(),
            other => panic!("{other:?}"),
        };
        list.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
    }

    fn own(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_batch_says_what_was_done_by_whom_and_when() {
        let context = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        let parent = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-0102030405060708-01").unwrap().span;
        let request = Span {
            context,
            tracestate: Some("a=1".to_owned()),
            parent: Some(Parent::Remote(parent)),
            begun: Timestamp::from_micros(1_670_574_414_123_456),
            ended: Timestamp::from_micros(1_670_574_414_200_000),
            work: Work::Request(Request {
                method: "POST",
                scheme: "https",
                status: Some(503),
                outcome: Outcome::Refused,
                app: Some(1_400_000_000),
                command: Some("A.b".to_owned()),
            }),
            error: Some("journal_full".into()),
        };
        let publication = Span {
            context,
            tracestate: None,
            parent: Some(Parent::Local(parent)),
            begun: Timestamp::from_micros(1),
            ended: Timestamp::from_micros(2),
            work: Work::Publication(Publication {
                topic: "chat.member-exit".to_owned(),
                id: "5f".to_owned(),
                lsn: u64::from(u32::MAX) + 5,
                body_bytes: 300,
                dead_letter: None,
                place: Some((7, 1 << 40)),
            }),
            error: None,
        };
        let resource = Resource { service: "bridge".to_owned(), instance: "7".to_owned(), host: Some("pod-7".to_owned()) };
        let read = ExportTraceServiceRequest::decode(encode(&resource, &[request, publication]).as_slice()).unwrap();
        let [resource_spans] = read.resource_spans.as_slice() else { panic!("{read:?}") };
        assert_eq!(resource_spans.schema_url, SCHEMA);
        let who = attributes(&resource_spans.resource.as_ref().unwrap().attributes);
        assert_eq!(who[0..2], own(&[("service.name", "bridge"), ("service.version", VERSION)]));
        assert_eq!(who[2..4], own(&[("service.instance.id", "7"), ("host.name", "pod-7")]));
        let [scope_spans] = resource_spans.scope_spans.as_slice() else { panic!("{read:?}") };
        assert_eq!(scope_spans.scope.as_ref().map(|scope| (scope.name.as_str(), scope.version.as_str())), Some((SCOPE, VERSION)));
        let [request, publication] = scope_spans.spans.as_slice() else { panic!("{read:?}") };

        assert_eq!(request.trace_id, context.trace.bytes());
        assert_eq!((request.span_id.as_slice(), request.parent_span_id.as_slice()), (&context.span.bytes()[..], &parent.bytes()[..]));
        assert_eq!((request.name.as_str(), request.kind, request.trace_state.as_str(), request.flags), ("POST /*", 2, "a=1", 0x301));
        assert_eq!((request.start_time_unix_nano, request.end_time_unix_nano), (1_670_574_414_123_456_000, 1_670_574_414_200_000_000));
        let status = request.status.as_ref().unwrap();
        assert_eq!((status.code, status.message.as_str()), (2, "journal_full"));
        let expected = own(&[
            ("http.request.method", "POST"),
            ("http.route", "/*"),
            ("url.scheme", "https"),
            ("http.response.status_code", "503"),
            ("chat_bridge.outcome", "refused"),
            ("chat_bridge.app_id", "1400000000"),
            ("chat_bridge.command", "A.b"),
            ("error.type", "journal_full"),
        ]);
        assert_eq!(attributes(&request.attributes), expected);

        assert_eq!((publication.name.as_str(), publication.kind, publication.flags), ("send chat.member-exit", 4, 0x101));
        assert_eq!(publication.status, None);
        let expected = own(&[
            ("messaging.system", "kafka"),
            ("messaging.operation.name", "send"),
            ("messaging.operation.type", "send"),
            ("messaging.destination.name", "chat.member-exit"),
            ("messaging.message.id", "5f"),
            ("messaging.message.body.size", "300"),
            ("messaging.destination.partition.id", "7"),
            ("messaging.kafka.offset", "1099511627776"),
            ("chat_bridge.lsn", "4294967300"),
        ]);
        assert_eq!(attributes(&publication.attributes), expected);
    }

    #[test]
    fn what_a_collector_rejects_is_read() {
        for (rejected_spans, message, told) in [(0, "", 0), (3, "no", 3), (1 << 40, "", 1 << 40), (-1, "", 0)] {
            let partial_success = Some(ExportTracePartialSuccess { rejected_spans, error_message: message.to_owned() });
            let response = ExportTraceServiceResponse { partial_success }.encode_to_vec();
            assert_eq!(rejected(&response), told);
        }
        assert_eq!(rejected(&ExportTraceServiceResponse { partial_success: None }.encode_to_vec()), 0);
        assert_eq!(rejected(b"<html>"), 0);
    }
}
