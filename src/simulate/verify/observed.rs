//! What a record of a topic says, in either event mode, or as a dead letter.

use std::borrow::Cow;
use std::time::UNIX_EPOCH;

use rdkafka::Message;
use rdkafka::message::Headers;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::simulate::identity::{Identity, RunMark};

/// An event's id, or of one that is not 32 hex digits, its digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EventId([u64; 2]);

impl EventId {
    pub(super) fn of(text: &str) -> Self {
        let halves = text.split_at_checked(16).filter(|_| text.len() == 32);
        let parsed = halves.and_then(|(high, low)| {
            let hex = |half: &str| half.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase());
            let number = |half: &str| hex(half).then(|| u64::from_str_radix(half, 16).ok()).flatten();
            Some([number(high)?, number(low)?])
        });
        Self(parsed.unwrap_or_else(|| {
            let digest = Sha256::digest(text);
            let number = |bytes: Option<&[u8]>| bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
            [number(digest.get(..8)), number(digest.get(8..16))]
        }))
    }
}

/// What a record bears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Observed {
    /// A callback of a simulator.
    Callback(Box<Copied>),
    /// Something else that is well formed.
    Foreign,
    /// Neither an event nor a dead letter.
    Unreadable,
}

/// A callback as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copied {
    pub(super) identity: Identity,
    pub(super) id: EventId,
    pub(super) key: Option<Vec<u8>>,
    /// `GroupId` of the payload.
    pub(super) group_id: Option<String>,
    pub(super) letter: Letter,
    /// From the receipt of the callback to the record's timestamp, milliseconds; negative where a clock went back.
    pub(super) delay_millis: Option<i64>,
}

/// Whether it is an event or a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Letter {
    Event { event_type: String, command: Option<String>, subject: Option<String>, headers: HeadersAgree },
    Dead { reason: String },
}

/// Whether the headers that repeat an attribute are there and say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadersAgree {
    Yes,
    No,
}

/// The headers that matter here.
#[derive(Default)]
struct Found<'a> {
    content_type: Option<&'a str>,
    id: Option<&'a str>,
    event_type: Option<&'a str>,
    subject: Option<&'a str>,
    command: Option<&'a str>,
    received: Option<&'a str>,
    dead_reason: Option<&'a str>,
    dead_received: Option<&'a str>,
    dead_query: Option<&'a str>,
    dead_file: Option<&'a str>,
}

/// An event of structured mode.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    event_type: Cow<'a, str>,
    #[serde(borrow, default)]
    subject: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    chatcommand: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    chatreceivedtime: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Data<'a>,
}

/// An event's data, or the body of a callback: a dead letter and an unrecognized event bear it as Chat sent it.
#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow, default)]
    group_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "GroupId")]
    chat_group_id: Option<Cow<'a, str>>,
    #[serde(default)]
    extra: Option<Fields>,
    #[serde(default, rename = "SimulatorRun")]
    run: Option<Uuid>,
    #[serde(default, rename = "SimulatorConnection")]
    connection: Option<u32>,
    #[serde(default, rename = "SimulatorNumber")]
    number: Option<u32>,
}

/// What the simulator adds to a body.
#[derive(Clone, Copy, Deserialize)]
struct Fields {
    #[serde(default, rename = "SimulatorRun")]
    run: Option<Uuid>,
    #[serde(default, rename = "SimulatorConnection")]
    connection: Option<u32>,
    #[serde(default, rename = "SimulatorNumber")]
    number: Option<u32>,
}

impl Data<'_> {
    fn identity(&self) -> Option<Identity> {
        let own = Fields { run: self.run, connection: self.connection, number: self.number };
        let of = |fields: Fields| Some(Identity { run: RunMark::of(fields.run?), connection: fields.connection?, number: fields.number? });
        self.extra.and_then(of).or_else(|| of(own))
    }
}

/// Reads a record.
pub(super) fn read(message: &impl Message) -> Observed {
    let headers = headers(message);
    let value = message.payload().unwrap_or_default();
    let read = if headers.dead_file.is_some() && value.is_empty() {
        dead_elsewhere(&headers, message.key())
    } else if headers.dead_reason.is_some() {
        dead(&headers, value)
    } else if headers.content_type.is_some_and(|content_type| content_type.starts_with("application/cloudevents+json")) {
        structured(&headers, value)
    } else {
        binary(&headers, value)
    };
    let Some(Parsed { identity, group_id, id, received, letter }) = read else { return Observed::Unreadable };
    let Some(identity) = identity else { return Observed::Foreign };
    let delay_millis = received.zip(message.timestamp().to_millis()).map(|(received, handed)| handed - received.millis());
    Observed::Callback(Box::new(Copied { identity, id, key: message.key().map(<[u8]>::to_vec), group_id, letter, delay_millis }))
}

struct Parsed {
    identity: Option<Identity>,
    group_id: Option<String>,
    id: EventId,
    received: Option<Timestamp>,
    letter: Letter,
}

fn structured(headers: &Found<'_>, value: &[u8]) -> Option<Parsed> {
    let envelope: Envelope<'_> = serde_json::from_slice(value).ok()?;
    let agree = headers.id == Some(&*envelope.id) && headers.event_type == Some(&*envelope.event_type);
    let letter = Letter::Event {
        headers: if agree { HeadersAgree::Yes } else { HeadersAgree::No },
        event_type: envelope.event_type.into_owned(),
        command: envelope.chatcommand.map(Cow::into_owned),
        subject: envelope.subject.map(Cow::into_owned),
    };
    let received = envelope.chatreceivedtime.as_deref().and_then(timestamp);
    Some(parsed(&envelope.data, EventId::of(&envelope.id), received, letter))
}

fn binary(headers: &Found<'_>, value: &[u8]) -> Option<Parsed> {
    let data: Data<'_> = serde_json::from_slice(value).ok()?;
    let letter = Letter::Event {
        headers: HeadersAgree::Yes,
        event_type: headers.event_type?.to_owned(),
        command: headers.command.map(str::to_owned),
        subject: headers.subject.map(str::to_owned),
    };
    Some(parsed(&data, EventId::of(headers.id?), headers.received.and_then(timestamp), letter))
}

fn dead(headers: &Found<'_>, value: &[u8]) -> Option<Parsed> {
    let data: Data<'_> = serde_json::from_slice(value).ok()?;
    let letter = Letter::Dead { reason: headers.dead_reason?.to_owned() };
    Some(parsed(&data, EventId::of(headers.id?), headers.dead_received.and_then(timestamp), letter))
}

/// A dead letter whose body lies in a file of the bridge: the query tells which callback it is of, and of its group there is no more than the key.
fn dead_elsewhere(headers: &Found<'_>, key: Option<&[u8]>) -> Option<Parsed> {
    Some(Parsed {
        identity: headers.dead_query.and_then(Identity::of_query),
        group_id: key.map(|key| String::from_utf8_lossy(key).into_owned()),
        id: EventId::of(headers.id?),
        received: headers.dead_received.and_then(timestamp),
        letter: Letter::Dead { reason: headers.dead_reason?.to_owned() },
    })
}

fn parsed(data: &Data<'_>, id: EventId, received: Option<Timestamp>, letter: Letter) -> Parsed {
    let group_id = data.group_id.as_deref().or(data.chat_group_id.as_deref()).map(str::to_owned);
    Parsed { identity: data.identity(), group_id, id, received, letter }
}

fn headers(message: &impl Message) -> Found<'_> {
    let mut found = Found::default();
    let Some(headers) = message.headers() else { return found };
    for index in 0..headers.count() {
        let Some(header) = headers.try_get(index) else { break };
        let slot = match header.key {
            "content-type" => &mut found.content_type,
            "ce_id" => &mut found.id,
            "ce_type" => &mut found.event_type,
            "ce_subject" => &mut found.subject,
            "ce_chatcommand" => &mut found.command,
            "ce_chatreceivedtime" => &mut found.received,
            "dl_reason" => &mut found.dead_reason,
            "dl_received_time" => &mut found.dead_received,
            "dl_query" => &mut found.dead_query,
            "dl_file" => &mut found.dead_file,
            _ => continue,
        };
        *slot = header.value.and_then(|value| std::str::from_utf8(value).ok());
    }
    found
}

fn timestamp(text: &str) -> Option<Timestamp> {
    let since = humantime::parse_rfc3339(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp::from_micros(i64::try_from(since.as_micros()).ok()?))
}
