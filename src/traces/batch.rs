//! OTLP on the wire: a batch of spans as the protobuf message that a collector takes, and what it answers.
//!
//! By hand, for what is said is little: the generated messages would bring the whole SDK. Numbers of fields are those of `opentelemetry/proto` 1.x, which
//! may not change; the tests read what is written here with the messages that its authors generate.
//! Names of attributes: semantic conventions 1.34, HTTP server spans and messaging spans of Kafka.

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

mod kind {
    pub(super) const SERVER: u64 = 2;
    pub(super) const PRODUCER: u64 = 4;
}

/// `STATUS_CODE_ERROR`.
const ERROR: u64 = 2;

/// In a span's flags beside those of the trace: whether it is known that the parent is remote, and whether it is.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// `ExportTraceServiceRequest`.
pub(super) fn encode(resource: &Resource, spans: &[Span]) -> Vec<u8> {
    let mut out = Message::default();
    out.message(1, |resource_spans| {
        resource_spans.message(1, |out| {
            out.text_attribute(1, "service.name", &resource.service);
            out.text_attribute(1, "service.version", VERSION);
            out.text_attribute(1, "service.instance.id", &resource.instance);
            if let Some(host) = &resource.host {
                out.text_attribute(1, "host.name", host);
            }
            out.text_attribute(1, "telemetry.sdk.name", SCOPE);
            out.text_attribute(1, "telemetry.sdk.language", "rust");
            out.text_attribute(1, "telemetry.sdk.version", VERSION);
        });
        resource_spans.message(2, |scope_spans| {
            scope_spans.message(1, |scope| {
                scope.text(1, SCOPE);
                scope.text(2, VERSION);
            });
            for span in spans {
                scope_spans.message(2, |out| write_span(out, span));
            }
            scope_spans.text(3, SCHEMA);
        });
        resource_spans.text(3, SCHEMA);
    });
    out.0
}

fn write_span(out: &mut Message, span: &Span) {
    let (parent, remote) = match span.parent {
        Some(Parent::Remote(id)) => (Some(id), HAS_IS_REMOTE | IS_REMOTE),
        Some(Parent::Local(id)) => (Some(id), HAS_IS_REMOTE),
        None => (None, HAS_IS_REMOTE),
    };
    out.bytes(1, span.context.trace.bytes());
    out.bytes(2, span.context.span.bytes());
    if let Some(state) = &span.tracestate {
        out.text(3, state);
    }
    if let Some(parent) = parent {
        out.bytes(4, parent.bytes());
    }
    match &span.work {
        Work::Request(request) => write_request(out, request),
        Work::Publication(publication) => write_publication(out, publication),
    }
    out.fixed64(7, nanos(span.begun));
    out.fixed64(8, nanos(span.ended));
    if let Some(error) = &span.error {
        out.text_attribute(9, "error.type", error);
        out.message(15, |status| {
            status.text(2, error);
            status.number(3, ERROR);
        });
    }
    out.fixed32(16, u32::from(span.context.flags()) | remote);
}

fn nanos(time: Timestamp) -> u64 {
    u64::try_from(time.micros()).unwrap_or(0).saturating_mul(1_000)
}

/// Any path is taken, so that is the route; the path itself is the sender's, and not told.
fn write_request(out: &mut Message, request: &Request) {
    let name = if request.method == "_OTHER" { "HTTP" } else { request.method };
    out.text(5, &format!("{name} /*"));
    out.number(6, kind::SERVER);
    out.text_attribute(9, "http.request.method", request.method);
    out.text_attribute(9, "http.route", "/*");
    out.text_attribute(9, "url.scheme", request.scheme);
    if let Some(status) = request.status {
        out.number_attribute(9, "http.response.status_code", u64::from(status));
    }
    out.text_attribute(9, "chat_bridge.outcome", request.outcome.label());
    if let Some(app) = request.app {
        out.text_attribute(9, "chat_bridge.app_id", &app.to_string());
    }
    if let Some(command) = &request.command {
        out.text_attribute(9, "chat_bridge.command", command);
    }
}

fn write_publication(out: &mut Message, publication: &Publication) {
    out.text(5, &format!("send {}", publication.topic));
    out.number(6, kind::PRODUCER);
    out.text_attribute(9, "messaging.system", "kafka");
    out.text_attribute(9, "messaging.operation.name", "send");
    out.text_attribute(9, "messaging.operation.type", "send");
    out.text_attribute(9, "messaging.destination.name", &publication.topic);
    out.text_attribute(9, "messaging.message.id", &publication.id);
    out.number_attribute(9, "messaging.message.body.size", u64::try_from(publication.body_bytes).unwrap_or(u64::MAX));
    if let Some((partition, offset)) = publication.place {
        out.text_attribute(9, "messaging.destination.partition.id", &partition.to_string());
        out.number_attribute(9, "messaging.kafka.offset", u64::try_from(offset).unwrap_or(0));
    }
    out.number_attribute(9, "chat_bridge.lsn", publication.lsn);
    if let Some(reason) = publication.dead_letter {
        out.text_attribute(9, "chat_bridge.dead_letter.reason", reason);
    }
}

/// A protobuf message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    const VARINT: u32 = 0;
    const FIXED64: u32 = 1;
    const BYTES: u32 = 2;
    const FIXED32: u32 = 5;

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(u8::try_from(number & 0x7f).unwrap_or_default() | 0x80);
            number >>= 7;
        }
        self.0.push(u8::try_from(number).unwrap_or_default());
    }

    fn tag(&mut self, field: u32, wire: u32) {
        self.varint(u64::from(field << 3 | wire));
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.tag(field, Self::BYTES);
        self.varint(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u32, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn number(&mut self, field: u32, number: u64) {
        self.tag(field, Self::VARINT);
        self.varint(number);
    }

    fn fixed64(&mut self, field: u32, number: u64) {
        self.tag(field, Self::FIXED64);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn fixed32(&mut self, field: u32, number: u32) {
        self.tag(field, Self::FIXED32);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    /// A `KeyValue` whose `AnyValue` is text.
    fn text_attribute(&mut self, field: u32, name: &str, value: &str) {
        self.message(field, |out| {
            out.text(1, name);
            out.message(2, |out| out.text(1, value));
        });
    }

    /// A `KeyValue` whose `AnyValue` is a number.
    fn number_attribute(&mut self, field: u32, name: &str, value: u64) {
        self.message(field, |out| {
            out.text(1, name);
            out.message(2, |out| out.number(3, value));
        });
    }
}

/// How many spans a collector says that it has not taken, in an answer that is a success; what is not understood is nothing said.
pub(super) fn rejected(response: &[u8]) -> u64 {
    match field(response, 1) {
        Some(Field::Bytes(partial)) => match field(partial, 1) {
            Some(Field::Number(rejected)) => i64::try_from(rejected).map_or(0, i64::unsigned_abs),
            Some(Field::Bytes(_)) | None => 0,
        },
        Some(Field::Number(_)) | None => 0,
    }
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The first field of that number in a message.
fn field(mut message: &[u8], wanted: u64) -> Option<Field<'_>> {
    while !message.is_empty() {
        let tag = read_varint(&mut message)?;
        let found = match tag & 7 {
            0 => Field::Number(read_varint(&mut message)?),
            1 => Field::Bytes(message.split_off(..8)?),
            2 => {
                let length = usize::try_from(read_varint(&mut message)?).ok()?;
                Field::Bytes(message.split_off(..length)?)
            }
            5 => Field::Bytes(message.split_off(..4)?),
            _ => return None,
        };
        if tag >> 3 == wanted {
            return Some(found);
        }
    }
    None
}

fn read_varint(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = message.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    };
    use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
    use proptest::prelude::*;
    use prost::Message as _;

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
    fn a_batch_is_read_by_the_generated_messages() {
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
        for (rejected_spans, message) in [(0, ""), (3, "no"), (1 << 40, "")] {
            let partial_success = Some(ExportTracePartialSuccess { rejected_spans, error_message: message.to_owned() });
            let response = ExportTraceServiceResponse { partial_success }.encode_to_vec();
            assert_eq!(rejected(&response), rejected_spans.unsigned_abs());
        }
        assert_eq!(rejected(&ExportTraceServiceResponse { partial_success: None }.encode_to_vec()), 0);
    }

    proptest! {
        #[test]
        fn an_answer_of_any_bytes_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = rejected(&bytes);
        }
    }
}
