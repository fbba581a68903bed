//! Version 1 of the envelope and of the typed data. **Frozen once released**: a field may be added; anything else is a version of its own, beside
//! this one.
//!
//! Both modes are written from one list of attributes, so that they cannot differ. JSON is written by hand, in one pass and in a fixed order: what
//! Chat sent is copied as it stands, and only what we make is escaped.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::body::{Body, append_member};
use super::{EventId, Message, TRACEPARENT, TRACESTATE};
use crate::callback::query::Query;
use crate::callback::{Callback, Command, Field, Shape, json};
use crate::clock::Timestamp;
use crate::config::Mode;

/// The kind of the events whose command the bridge does not know.
const UNRECOGNIZED: &str = "unrecognized";
/// What every event's type begins with.
const TYPE: &str = "tencent.chat.";
/// What every schema's name begins with.
const SCHEMA: &str = "urn:chat-bridge:";
/// What every source begins with; the app's id follows.
const SOURCE: &str = "/tencent-chat/apps/";
const CONTENT_TYPE: &str = "content-type";
const JSON: &str = "application/json";
const CLOUDEVENTS_JSON: &[u8] = b"application/cloudevents+json";
/// More than the attributes of an ordinary event take.
const ENVELOPE_BYTES: usize = 896;

/// How an event's data is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Data {
    /// Field by field, by the description of its command.
    Typed(&'static Command),
    /// The body as it came.
    Verbatim,
}

/// An event before it is written.
#[derive(Debug)]
pub(super) struct Envelope<'a> {
    callback: &'a Callback,
    body: &'a Body<'a>,
    data: Data,
    id: EventId,
    group: Option<Cow<'a, str>>,
}

/// An attribute's name as each mode writes it.
struct Attribute {
    member: &'static str,
    header: &'static str,
}

macro_rules! attribute {
    ($name:literal) => {
        Attribute { member: concat!("\"", $name, "\":\""), header: concat!("ce_", $name) }
    };
}

const SPECVERSION: Attribute = attribute!("specversion");
const ID: Attribute = attribute!("id");
const SOURCE_OF: Attribute = attribute!("source");
const TYPE_OF: Attribute = attribute!("type");
const SUBJECT: Attribute = attribute!("subject");
const TIME: Attribute = attribute!("time");
/// In binary mode this one is the header `content-type` (Kafka protocol binding 1.0, 3.2.1).
const DATACONTENTTYPE: Attribute = Attribute { header: CONTENT_TYPE, ..attribute!("datacontenttype") };
const DATASCHEMA: Attribute = attribute!("dataschema");
const CHATCOMMAND: Attribute = attribute!("chatcommand");
const CHATAPPID: Attribute = attribute!("chatappid");
const CHATPLATFORM: Attribute = attribute!("chatplatform");
const CHATCLIENTIP: Attribute = attribute!("chatclientip");
const CHATRECEIVEDTIME: Attribute = attribute!("chatreceivedtime");

/// Where attributes go: members of a JSON object, or headers.
trait Sink {
    /// Takes an attribute whose value is these parts one after the other.
    fn put(&mut self, attribute: &Attribute, parts: &[&str]);
}

struct Members(Vec<u8>);

impl Sink for Members {
    fn put(&mut self, attribute: &Attribute, parts: &[&str]) {
        self.0.extend_from_slice(attribute.member.as_bytes());
        for part in parts {
            json::escape(&mut self.0, part);
        }
        self.0.extend_from_slice(b"\",");
    }
}

struct Headers(Vec<(&'static str, Vec<u8>)>);

impl Sink for Headers {
    fn put(&mut self, attribute: &Attribute, parts: &[&str]) {
        self.0.push((attribute.header, parts.concat().into_bytes()));
    }
}

impl<'a> Envelope<'a> {
    pub(super) fn new(callback: &'a Callback, body: &'a Body<'a>, data: Data) -> Self {
        Self { callback, body, data, id: EventId::of(callback, body), group: body.group_id() }
    }

    pub(super) fn message(self, mode: Mode) -> Message {
        let (value, mut headers) = match mode {
            Mode::Structured => (self.structured(), self.structured_headers()),
            Mode::Binary => (self.data(), self.binary_headers()),
        };
        if let Some(traceparent) = &self.callback.traceparent {
            headers.push((TRACEPARENT, traceparent.as_bytes().to_vec()));
        }
        if let Some(tracestate) = &self.callback.tracestate {
            headers.push((TRACESTATE, tracestate.as_bytes().to_vec()));
        }
        let key = self.group.map(|group| group.into_owned().into_bytes());
        Message { key, value, headers, id: self.id }
    }

    fn structured(&self) -> Bytes {
        let mut out = Vec::with_capacity(ENVELOPE_BYTES + self.callback.body.len() + self.callback.command.len());
        out.push(b'{');
        let mut members = Members(out);
        self.attributes(&mut members);
        let Members(mut out) = members;
        out.extend_from_slice(b"\"data\":");
        match self.data {
            Data::Typed(command) => write_data(&mut out, command, self.body),
            Data::Verbatim => out.extend_from_slice(&self.callback.body),
        }
        out.push(b'}');
        Bytes::from(out)
    }

    fn structured_headers(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut headers = Headers(Vec::with_capacity(4));
        headers.0.push((CONTENT_TYPE, CLOUDEVENTS_JSON.to_vec()));
        headers.put(&ID, &[&self.id.to_string()]);
        headers.put(&TYPE_OF, &[TYPE, self.kind(), ".v1"]);
        headers.0
    }

    fn data(&self) -> Bytes {
        match self.data {
            Data::Typed(command) => {
                let mut out = Vec::with_capacity(self.callback.body.len() + 64);
                write_data(&mut out, command, self.body);
                Bytes::from(out)
            }
            Data::Verbatim => self.callback.body.clone(),
        }
    }

    fn binary_headers(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut headers = Headers(Vec::with_capacity(14));
        self.attributes(&mut headers);
        headers.0
    }

    fn kind(&self) -> &'static str {
        match self.data {
            Data::Typed(command) => command.kind,
            Data::Verbatim => UNRECOGNIZED,
        }
    }

    /// Every attribute that the event has, in the order in which both modes write them.
    fn attributes(&self, sink: &mut impl Sink) {
        let Callback { received, app, command, query, .. } = self.callback;
        let kind = self.kind();
        let mut app_digits = itoa::Buffer::new();
        let app = app_digits.format(*app);
        let query = Query(query);
        sink.put(&SPECVERSION, &["1.0"]);
        sink.put(&ID, &[&self.id.to_string()]);
        sink.put(&SOURCE_OF, &[SOURCE, app]);
        sink.put(&TYPE_OF, &[TYPE, kind, ".v1"]);
        if let Some(group) = self.group.as_deref().filter(|group| is_permitted(group)) {
            sink.put(&SUBJECT, &[group]);
        }
        sink.put(&TIME, &[&rfc3339(self.body.time.unwrap_or(*received))]);
        sink.put(&DATACONTENTTYPE, &[JSON]);
        sink.put(&DATASCHEMA, &[SCHEMA, kind, ":1"]);
        put_text(sink, &CHATCOMMAND, command.as_bytes());
        sink.put(&CHATAPPID, &[app]);
        put_text(sink, &CHATPLATFORM, &query.get_bytes("OptPlatform").unwrap_or_default());
        put_text(sink, &CHATCLIENTIP, &query.get_bytes("ClientIP").unwrap_or_default());
        sink.put(&CHATRECEIVEDTIME, &[&rfc3339(*received)]);
    }
}

fn rfc3339(time: Timestamp) -> String {
    time.to_string()
}

/// What Chat sent as an attribute; none where it sent nothing.
fn put_text(sink: &mut impl Sink, attribute: &Attribute, bytes: &[u8]) {
    let text = attribute_text(bytes);
    if !text.is_empty() {
        sink.put(attribute, &[&text]);
    }
}

/// Bytes as an attribute may hold them: characters that `CloudEvents` forbids, and what is not UTF-8, stand percent-encoded.
fn attribute_text(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes)
        && is_permitted(text)
    {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len() * 3);
    let encode = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            let digit = |nibble: u8| char::from_digit(nibble.into(), 16).map_or('0', |digit| digit.to_ascii_uppercase());
            text.extend(['%', digit(byte >> 4), digit(byte & 0xf)]);
        }
    };
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if is_permitted_character(character) {
                text.push(character);
            } else {
                encode(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        encode(&mut text, chunk.invalid());
    }
    Cow::Owned(text)
}

fn is_permitted(text: &str) -> bool {
    // The first scan is the cheaper one, and enough for nearly every text.
    text.bytes().all(|byte| (b' '..0x7f).contains(&byte)) || text.chars().all(is_permitted_character)
}

/// Whether a `CloudEvents` string may hold a character (`CloudEvents` 1.0, type system): no control characters, no noncharacters.
fn is_permitted_character(character: char) -> bool {
    let code = u32::from(character);
    !(character.is_control() || (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE)
}

/// Writes a known command's data: its fields in their order, then what stands nowhere else.
fn write_data(out: &mut Vec<u8>, command: &Command, body: &Body<'_>) {
    out.push(b'{');
    let mut unusable = Vec::new();
    for (field, value) in command.fields.iter().zip(body.fields) {
        out.push(b'"');
        out.extend_from_slice(field.ours.as_bytes());
        out.extend_from_slice(b"\":");
        match (write_field(out, field.shape, value), value) {
            (Written::InPart, Some(value)) => unusable.push((field, value)),
            (Written::Whole, _) | (_, None) => {}
        }
        out.push(b',');
    }
    if !(body.extra.is_empty() && unusable.is_empty()) {
        out.extend_from_slice(b"\"extra\":{");
        // Before the others: where a name stands twice, its values keep their order.
        for (Field { theirs, .. }, value) in unusable {
            append_member(out, &format!("\"{theirs}\""), value);
        }
        out.extend_from_slice(&body.extra);
        end_list(out);
        out.extend_from_slice(b"},");
    }
    end_list(out);
    out.push(b'}');
}

/// Takes off the comma after the last item, if there was one.
fn end_list(out: &mut Vec<u8>) {
    if out.last() == Some(&b',') {
        out.pop();
    }
}

/// How much of what Chat sent a field of ours holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Whole,
    /// Less than all of it: the rest has to stand in `extra`.
    InPart,
}

/// Writes the value of one field: null where there is none, and where there is one of another type.
fn write_field(out: &mut Vec<u8>, shape: Shape, value: Option<&str>) -> Written {
    let Some(value) = value.filter(|value| *value != "null") else {
        out.extend_from_slice(b"null");
        return Written::Whole;
    };
    let start = out.len();
    let written = match shape {
        Shape::GroupId | Shape::Text if json::is_string(value) => {
            out.extend_from_slice(value.as_bytes());
            Some(Written::Whole)
        }
        Shape::GroupId | Shape::Text => None,
        Shape::Word => json::text(value).map(|word| {
            write_string(out, &word.to_lowercase());
            Written::Whole
        }),
        Shape::Accounts(name) => serde_json::Deserializer::from_str(value).deserialize_seq(Accounts { out, name }).ok(),
    };
    written.unwrap_or_else(|| {
        out.truncate(start);
        out.extend_from_slice(b"null");
        Written::InPart
    })
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    json::escape(out, text);
    out.push(b'"');
}

/// Writes a list of accounts as a list of texts while it is read. An entry that is no account is an error, and the list is none.
struct Accounts<'a> {
    out: &'a mut Vec<u8>,
    name: &'static str,
}

impl<'de> Visitor<'de> for Accounts<'_> {
    type Value = Written;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a list of accounts")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Written, A::Error> {
        let mut all = Written::Whole;
        self.out.push(b'[');
        while let Some(written) = list.next_element_seed(Account { out: self.out, name: self.name })? {
            if written == Written::InPart {
                all = written;
            }
            self.out.push(b',');
        }
        end_list(self.out);
        self.out.push(b']');
        Ok(all)
    }
}

/// One entry of a list of accounts: a text, or an object whose member `name` is one.
struct Account<'a> {
    out: &'a mut Vec<u8>,
    name: &'static str,
}

impl<'de> DeserializeSeed<'de> for Account<'_> {
    type Value = Written;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Written, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Account<'_> {
    type Value = Written;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an account")
    }

    fn visit_str<E>(self, account: &str) -> Result<Written, E> {
        write_string(self.out, account);
        Ok(Written::Whole)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entry: A) -> Result<Written, A::Error> {
        let mut found = false;
        let mut written = Written::Whole;
        while let Some(Text(name)) = entry.next_key()? {
            if name == self.name && !found {
                found = true;
                let Text(account) = entry.next_value()?;
                write_string(self.out, &account);
            } else {
                written = Written::InPart;
                entry.next_value::<IgnoredAny>()?;
            }
        }
        if found { Ok(written) } else { Err(A::Error::custom("no account")) }
    }
}

#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
