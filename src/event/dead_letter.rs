//! What no topic of its own can take: the body as it came, and headers that say why.

use bytes::Bytes;

use super::body::Body;
use super::{EventId, Message, TRACEPARENT, TRACESTATE};
use crate::callback::Callback;

/// A callback that becomes a dead letter by what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Why, for the metrics.
    pub reason: DeadLetterReason,
    /// What is published to the stream of dead letters.
    pub message: Message,
}

/// Why something is a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeadLetterReason {
    /// The body is not JSON, not UTF-8, or nested too deep.
    NotJson,
    /// The body is not what its command asks for.
    WrongShape,
    /// The query and the body name different commands.
    CommandMismatch,
    /// The event is larger than its topic takes.
    TooLarge,
    /// The broker refused the event for what it is.
    RefusedByBroker,
}

impl DeadLetterReason {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::NotJson, Self::WrongShape, Self::CommandMismatch, Self::TooLarge, Self::RefusedByBroker];

    /// The reason as `dl_reason` and the metrics' label have it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::WrongShape => "wrong_shape",
            Self::CommandMismatch => "command_mismatch",
            Self::TooLarge => "too_large",
            Self::RefusedByBroker => "refused_by_broker",
        }
    }
}

/// Why a callback or its event is a dead letter, and where it would have gone.
#[derive(Clone, Copy, Debug)]
pub struct Grounds<'a> {
    /// The reason.
    pub reason: DeadLetterReason,
    /// A short fixed text, or librdkafka's; never anything of the body.
    pub detail: &'a str,
    /// The topic that could not take it.
    pub topic: &'a str,
}

/// Where a body lies that is too large for the dead-letter topic too.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The bridge whose journal's folder it is.
    pub instance: &'a str,
    /// The file's name in `oversized/`.
    pub file: &'a str,
}

/// The dead letter of a callback.
#[must_use]
pub fn message(callback: &Callback, grounds: &Grounds<'_>) -> Message {
    of(callback, &read(callback), grounds, None)
}

/// The dead letter of a callback whose body lies elsewhere: its value is empty, not null.
#[must_use]
pub fn message_without_body(callback: &Callback, grounds: &Grounds<'_>, place: &Place<'_>) -> Message {
    of(callback, &read(callback), grounds, Some(place))
}

fn read(callback: &Callback) -> Body<'_> {
    Body::read(&callback.body, None).unwrap_or_else(|_| Body::unreadable())
}

pub(super) fn of(callback: &Callback, body: &Body<'_>, grounds: &Grounds<'_>, place: Option<&Place<'_>>) -> Message {
    let id = EventId::of(callback, body);
    let mut headers = Vec::with_capacity(10);
    let mut put = |name: &'static str, value: &str| headers.push((name, value.as_bytes().to_vec()));
    put("dl_reason", grounds.reason.label());
    put("dl_detail", grounds.detail);
    put("dl_command", &callback.command);
    put("dl_topic", grounds.topic);
    put("dl_received_time", &callback.received.to_string());
    put("dl_query", &callback.query);
    put("ce_id", &id.to_string());
    if let Some(Place { instance, file }) = place {
        put("dl_instance", instance);
        put("dl_file", file);
    }
    if let Some(traceparent) = &callback.traceparent {
        put(TRACEPARENT, traceparent);
    }
    if let Some(tracestate) = &callback.tracestate {
        put(TRACESTATE, tracestate);
    }
    let value = if place.is_some() { Bytes::new() } else { callback.body.clone() };
    Message { key: body.group_id().map(|group| group.into_owned().into_bytes()), value, headers, id }
}
