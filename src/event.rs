//! The versioned envelope (CloudEvents 1.0): what a callback becomes.
//!
//! [`normalise`] is a function of the callback and the configuration alone: the same record gives the same bytes, key, headers and id, however
//! often it is replayed. It has exactly one outcome: an event, or a dead letter with its reason. It never fails and never looks at a clock.
//! Consumers read `docs/events.md`; what `event/v1.rs` writes is frozen once it is released.

mod body;
pub mod dead_letter;
#[cfg(test)]
mod golden;
mod v1;

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use sha2::{Digest, Sha256};

pub use dead_letter::{DeadLetter, DeadLetterReason};

use crate::callback::query::Query;
use crate::callback::{Callback, json};
use crate::config::Mode;
use crate::routing::{Routing, StreamId};
use body::{Body, Member};
use v1::{Data, Envelope};

/// The header of the trace that a message is a part of: plain, as OpenTelemetry's libraries look for it, and no attribute of the event.
pub const TRACEPARENT: &str = "traceparent";
/// The header of what vendors keep along with it.
pub const TRACESTATE: &str = "tracestate";

/// What a callback becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Normalised {
    /// An event for the topic of its stream.
    Event {
        /// Where it belongs.
        stream: StreamId,
        /// What is published.
        message: Message,
    },
    /// What no topic of its own can take.
    DeadLetter(DeadLetter),
}

/// What Kafka is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The group's id, as bytes; `None` where there is none.
    pub key: Option<Vec<u8>>,
    /// The value, never null.
    pub value: Bytes,
    /// The headers in their order, each once.
    pub headers: Vec<(&'static str, Vec<u8>)>,
    /// The event's id, which `ce_id` bears too.
    pub id: EventId,
}

/// The id of an event: a function of what was received, written as 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub [u8; 16]);

/// Turns a callback into its event, or into a dead letter.
#[must_use]
pub fn normalise(callback: &Callback, routing: &Routing, mode: Mode) -> Normalised {
    let stream = routing.stream(&callback.command);
    let (body, outcome) = match Body::read(&callback.body, routing.command(stream)) {
        Ok(body) => {
            let outcome = shape(callback, &body, routing, stream);
            (body, outcome)
        }
        Err(error) => (Body::unreadable(), Err((DeadLetterReason::NotJson, error.to_string().into()))),
    };
    match outcome {
        Ok(data) => {
            let message = Envelope::new(callback, &body, data).message(mode);
            Normalised::Event { stream, message }
        }
        Err((reason, detail)) => {
            let topic = &routing.topic(routing.topic_of(stream)).name;
            let message = dead_letter::of(callback, &body, &dead_letter::Grounds { reason, detail: &detail, topic }, None);
            Normalised::DeadLetter(DeadLetter { reason, message })
        }
    }
}

type Refused = (DeadLetterReason, Cow<'static, str>);

/// Whether the body is what its command asks for, and how its data is to be written.
fn shape(callback: &Callback, body: &Body<'_>, routing: &Routing, stream: StreamId) -> Result<Data, Refused> {
    let wrong = |detail: &'static str| Err((DeadLetterReason::WrongShape, detail.into()));
    match &body.command {
        Member::Repeated => return wrong("CallbackCommand stands twice"),
        Member::Once(value) => {
            let names_another = json::text(value).is_some_and(|command| command != callback.command);
            // Without a command to hold it against, the body's was not usable as one; the callback is unrecognized.
            if names_another && !callback.command.is_empty() {
                return Err((DeadLetterReason::CommandMismatch, "query and body name different commands".into()));
            }
        }
        Member::Absent => {}
    }
    let Some(command) = routing.command(stream) else {
        return Ok(Data::Verbatim);
    };
    if !body.is_object {
        return wrong("body is not an object");
    }
    let group = match &body.group {
        Member::Absent => return wrong("GroupId is absent"),
        Member::Repeated => return wrong("GroupId stands twice"),
        Member::Once(value) => *value,
    };
    match json::text(group) {
        None => wrong("GroupId is not text"),
        Some(text) if text.is_empty() => wrong("GroupId is empty"),
        Some(_) => Ok(Data::Typed(command)),
    }
}

impl EventId {
    /// The id of a callback's event. `docs/events.md` says how to compute it elsewhere.
    fn of(callback: &Callback, body: &Body<'_>) -> Self {
        let mut digest = Sha256::new();
        let mut netstring = |bytes: &[u8]| {
            digest.update(itoa::Buffer::new().format(bytes.len()));
            digest.update(b":");
            digest.update(bytes);
            digest.update(b",");
        };
        netstring(itoa::Buffer::new().format(callback.app).as_bytes());
        netstring(callback.command.as_bytes());
        netstring(&callback.body);
        if !body.identifies_itself {
            match Query(&callback.query).get_bytes("RequestId") {
                Some(request) if !request.is_empty() => {
                    netstring(b"request");
                    netstring(&request);
                }
                Some(_) | None => {
                    netstring(b"receipt");
                    netstring(&hex(callback.receipt));
                }
            }
        }
        let digest = digest.finalize();
        Self(digest.first_chunk().copied().unwrap_or_default())
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&String::from_utf8_lossy(&hex(self.0)))
    }
}

/// Hex digits in lower case.
fn hex(bytes: [u8; 16]) -> [u8; 32] {
    let mut digits = [0; 32];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        for (digit, nibble) in pair.iter_mut().zip([byte >> 4, byte & 0xf]) {
            *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        }
    }
    digits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;
    use serde_json::value::RawValue;

    use super::*;
    use crate::clock::Timestamp;
    use crate::config;

    const DISBAND: &str = "Group.CallbackAfterGroupDestroyed";
    const EXIT: &str = "Group.CallbackAfterMemberExit";
    const FULL: &str = "Group.CallbackAfterGroupFull";
    const RECEIVED: i64 = 1_795_291_200_000_999;

    fn callback(command: &str, body: impl Into<Vec<u8>>) -> Callback {
        Callback {
            received: Timestamp::from_micros(RECEIVED),
            receipt: [0xab; 16],
            app: 1_400_000_000,
            command: command.to_owned(),
            query: format!("SdkAppid=1400000000&CallbackCommand={command}"),
            traceparent: None,
            tracestate: None,
            body: Bytes::from(body.into()),
        }
    }

    fn outcome(callback: &Callback, mode: Mode) -> Normalised {
        normalise(callback, &Routing::new(&config::Topics::default()), mode)
    }

    fn event(callback: &Callback, mode: Mode) -> Message {
        match outcome(callback, mode) {
            Normalised::Event { message, .. } => message,
            Normalised::DeadLetter(dead) => panic!("a dead letter: {:?}", dead.message.headers),
        }
    }

    /// The data of the event, as text.
    fn data(command: &str, body: &str) -> String {
        let callback = callback(command, body);
        let binary = event(&callback, Mode::Binary).value;
        let structured = event(&callback, Mode::Structured).value;
        assert!(structured.ends_with(&[b"\"data\":", &binary[..], b"}"].concat()), "both modes have the same data");
        String::from_utf8(binary.to_vec()).unwrap()
    }

    fn header(message: &Message, name: &str) -> Option<String> {
        let value = message.headers.iter().find(|(header, _)| *header == name);
        value.map(|(_, value)| String::from_utf8(value.clone()).unwrap())
    }

    fn attribute(callback: &Callback, name: &'static str) -> Option<String> {
        let structured = event(callback, Mode::Structured).value;
        let members = raw_members(std::str::from_utf8(&structured).unwrap());
        let value = members.iter().find(|(member, _)| member == name).map(|(_, value)| json::text(value).unwrap().into_owned());
        assert_eq!(header(&event(callback, Mode::Binary), &format!("ce_{name}")), value, "both modes have the same attributes");
        value
    }

    fn refused(command: &str, body: impl Into<Vec<u8>>) -> Option<(&'static str, String)> {
        match outcome(&callback(command, body), Mode::Structured) {
            Normalised::Event { .. } => None,
            Normalised::DeadLetter(dead) => {
                assert_eq!(header(&dead.message, "dl_reason").as_deref(), Some(dead.reason.label()));
                Some((dead.reason.label(), header(&dead.message, "dl_detail").unwrap()))
            }
        }
    }

    #[test]
    fn data_has_each_field_in_its_place_and_the_rest_in_extra() {
        for (command, body, expected) in [
            (DISBAND, r#"{"GroupId":"g"}"#, r#"{"group_id":"g","group_type":null,"owner":null,"group_name":null,"members":null}"#),
            (
                DISBAND,
                r#"{"MemberList":[],"Name":"\u00e4\/","Owner_Account":"","Type":null,"GroupId":"g"}"#,
                r#"{"group_id":"g","group_type":null,"owner":"","group_name":"\u00e4\/","members":[]}"#,
            ),
            (
                DISBAND,
                r#"{"GroupId":"g","Name":["x"],"Owner_Account":1e15,"MemberList":"x"}"#,
                r#"{"group_id":"g","group_type":null,"owner":null,"group_name":null,"members":null,"extra":{"Owner_Account":1e15,"Name":["x"],"MemberList":"x"}}"#,
            ),
            (
                EXIT,
                r#"{"GroupId":"g","ExitType":"K\u0049CKED","ExitMemberList":["a",{"Member_Account":"b"}]}"#,
                r#"{"group_id":"g","group_type":null,"exit_type":"kicked","operator":null,"members":["a","b"]}"#,
            ),
            (
                EXIT,
                r#"{"GroupId":"g","ExitType":"\ud800","Operator_Account":{}}"#,
                r#"{"group_id":"g","group_type":null,"exit_type":null,"operator":null,"members":null,"extra":{"ExitType":"\ud800","Operator_Account":{}}}"#,
            ),
            (FULL, r#"{"GroupId":"g","extra":1,"EventTime":5,"X":1.0}"#, r#"{"group_id":"g","extra":{"extra":1,"X":1.0}}"#),
            (FULL, r#"{"GroupId":"\u0000\"","CallbackCommand":5}"#, r#"{"group_id":"\u0000\"","extra":{"CallbackCommand":5}}"#),
            ("Foo.Bar", r#" {"GroupId": ["g"],"a":1e400} "#, r#" {"GroupId": ["g"],"a":1e400} "#),
            ("", "null", "null"),
        ] {
            assert_eq!(data(command, body), expected, "{body}");
        }
    }

    #[test]
    fn a_list_is_whole_or_null_and_more_than_the_accounts_stands_in_extra() {
        for (list, members, verbatim) in [
            (r#"[{"Member_Account":"a"}]"#, r#"["a"]"#, false),
            (r#"[{"Member\u005fAccount":"a\"\u0001"}, "\u0061" ]"#, r#"["a\"\u0001","a"]"#, false),
            (r#"[{"Member_Account":"a","Role":"Admin"},"b"]"#, r#"["a","b"]"#, true),
            (r#"[{"Role":[[]],"Member_Account":"a"}]"#, r#"["a"]"#, true),
            (r#"[{"Member_Account":"a","Member_Account":"b"}]"#, r#"["a"]"#, true),
            (r#"[{"Member_Account":1}]"#, "null", true),
            (r#"["a",{"member_account":"b"}]"#, "null", true),
            (r#"["a",{}]"#, "null", true),
            (r#"["a",null]"#, "null", true),
            (r#"["a",["b"]]"#, "null", true),
            (r#"["\ud800"]"#, "null", true),
            (r#"{"Member_Account":"a"}"#, "null", true),
            ("true", "null", true),
        ] {
            let extra = if verbatim { format!(r#","extra":{{"ExitMemberList":{list}}}"#) } else { String::new() };
            let expected = format!(r#"{{"group_id":"g","group_type":null,"exit_type":null,"operator":null,"members":{members}{extra}}}"#);
            assert_eq!(data(EXIT, &format!(r#"{{"GroupId":"g","ExitMemberList":{list}}}"#)), expected);
        }
    }

    #[test]
    fn a_field_given_twice_counts_once_and_the_others_stand_in_extra_in_their_order() {
        let body =
            r#"{"Type":7,"GroupId":"g","Type":"b","New":1,"ExitType":"Quit","ExitType":"Kicked","New":2,"EventTime":1,"EventTime":2}"#;
        let expected = r#"{"group_id":"g","group_type":null,"exit_type":"quit","operator":null,"members":null,"extra":{"Type":7,"Type":"b","New":1,"ExitType":"Kicked","New":2,"EventTime":2}}"#;
        assert_eq!(data(EXIT, body), expected);
    }

    #[test]
    fn the_time_is_the_events_own_where_it_has_one() {
        let received = "2026-11-21T20:00:00.000Z";
        for (value, time, in_extra) in [
            ("1670574414123", "2022-12-09T08:26:54.123Z", false),
            ("\"1670574414123\"", "2022-12-09T08:26:54.123Z", false),
            ("0", "1970-01-01T00:00:00.000Z", false),
            ("253402300799999", "9999-12-31T23:59:59.999Z", false),
            ("253402300800000", received, true),
            ("-1", received, true),
            ("1670574414123.0", received, true),
            ("1e400", received, true),
            ("\"\"", received, true),
            ("\"2022\\u002d\"", received, true),
            ("null", received, true),
            ("[1670574414123]", received, true),
        ] {
            let body = format!(r#"{{"GroupId":"g","EventTime":{value}}}"#);
            let extra = if in_extra { format!(r#","extra":{{"EventTime":{value}}}"#) } else { String::new() };
            assert_eq!(data(FULL, &body), format!(r#"{{"group_id":"g"{extra}}}"#));
            assert_eq!(attribute(&callback(FULL, body.clone()), "time").as_deref(), Some(time), "{value}");
            assert_eq!(attribute(&callback("Foo.Bar", body), "time").as_deref(), Some(time), "{value}, unrecognized");
        }
        assert_eq!(attribute(&callback(FULL, r#"{"GroupId":"g"}"#), "time").as_deref(), Some(received));
    }

    #[test]
    fn attributes_are_what_chat_wrote_and_absent_where_it_wrote_nothing() {
        for (query, platform, address) in [
            ("OptPlatform=iOS&ClientIP=127.0.0.1", Some("iOS"), Some("127.0.0.1")),
            ("optplatform=IOS&CLIENTIP=%3A%3a1", Some("IOS"), Some("::1")),
            ("OptPlatform=a%20b+%22%5C&ClientIP=", Some("a b+\"\\"), None),
            ("OptPlatform=%00%7F%C2%85%FF%EF%BF%BFx", Some("%00%7F%C2%85%FF%EF%BF%BFx"), None),
            ("", None, None),
        ] {
            let callback = Callback { query: query.to_owned(), ..callback(FULL, r#"{"GroupId":"g"}"#) };
            assert_eq!(attribute(&callback, "chatplatform").as_deref(), platform, "{query}");
            assert_eq!(attribute(&callback, "chatclientip").as_deref(), address, "{query}");
        }
    }

    #[test]
    fn the_command_and_the_group_stand_in_the_envelope() {
        let full = callback(FULL, r#"{"GroupId":"@TGS#1"}"#);
        assert_eq!(attribute(&full, "chatcommand").as_deref(), Some(FULL));
        assert_eq!(attribute(&full, "subject").as_deref(), Some("@TGS#1"));
        assert_eq!(event(&full, Mode::Binary).key.as_deref(), Some(&b"@TGS#1"[..]));
        let odd = callback("Foo\n", r#"{"GroupId":"a\nb"}"#);
        assert_eq!(attribute(&odd, "chatcommand").as_deref(), Some("Foo%0A"));
        assert_eq!(attribute(&odd, "subject"), None, "no attribute may hold a control character");
        assert_eq!(event(&odd, Mode::Binary).key.as_deref(), Some(&b"a\nb"[..]), "a key may");
        let nothing = callback("", r#"{"GroupId":"","CallbackCommand":["x"]}"#);
        assert_eq!(attribute(&nothing, "chatcommand"), None);
        assert_eq!(attribute(&nothing, "subject"), None);
        assert_eq!(event(&nothing, Mode::Structured).key, None);
    }

    #[test]
    fn headers_are_few_in_structured_mode_and_all_in_binary_mode() {
        let traced = Callback {
            query: "OptPlatform=Web&ClientIP=1.1.1.1".to_owned(),
            traceparent: Some("00-1-2-01".to_owned()),
            tracestate: Some("a=1".to_owned()),
            ..callback(FULL, r#"{"GroupId":"g"}"#)
        };
        let names = |message: Message| message.headers.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        let structured = event(&traced, Mode::Structured);
        assert_eq!(header(&structured, "content-type").as_deref(), Some("application/cloudevents+json"));
        assert_eq!(header(&structured, "ce_type").as_deref(), Some("tencent.chat.group-full.v1"));
        assert_eq!(header(&structured, "ce_id").as_deref(), Some(structured.id.to_string().as_str()));
        assert_eq!(header(&structured, "traceparent").as_deref(), Some("00-1-2-01"));
        assert_eq!(header(&structured, "tracestate").as_deref(), Some("a=1"));
        assert_eq!(names(structured), ["content-type", "ce_id", "ce_type", "traceparent", "tracestate"]);
        let binary = event(&traced, Mode::Binary);
        assert_eq!(header(&binary, "content-type").as_deref(), Some("application/json"));
        let expected = [
            "ce_specversion",
            "ce_id",
            "ce_source",
            "ce_type",
            "ce_subject",
            "ce_time",
            "content-type",
            "ce_dataschema",
            "ce_chatcommand",
            "ce_chatappid",
            "ce_chatplatform",
            "ce_chatclientip",
            "ce_chatreceivedtime",
            "traceparent",
            "tracestate",
        ];
        assert_eq!(names(binary), expected);
    }

    #[test]
    fn only_an_unusable_body_or_group_is_a_dead_letter() {
        for (command, body, expected) in [
            (FULL, r#"{"EventTime":1}"#, Some(("wrong_shape", "GroupId is absent"))),
            (FULL, r#"{"GroupId":""}"#, Some(("wrong_shape", "GroupId is empty"))),
            (FULL, r#"{"GroupId":null}"#, Some(("wrong_shape", "GroupId is not text"))),
            (FULL, r#"{"GroupId":34}"#, Some(("wrong_shape", "GroupId is not text"))),
            (FULL, r#"{"GroupId":"\ud800"}"#, Some(("wrong_shape", "GroupId is not text"))),
            (FULL, r#"{"GroupId":"a","Group\u0049d":"a"}"#, Some(("wrong_shape", "GroupId stands twice"))),
            (FULL, r#"["GroupId"]"#, Some(("wrong_shape", "body is not an object"))),
            (FULL, "null", Some(("wrong_shape", "body is not an object"))),
            (
                FULL,
                r#"{"CallbackCommand":"Group.CallbackAfterGroupFull","GroupId":"g","CallbackCommand":"Group.CallbackAfterGroupFull"}"#,
                Some(("wrong_shape", "CallbackCommand stands twice")),
            ),
            ("Foo.Bar", r#"{"CallbackCommand":"Foo.Bar","CallbackCommand":1}"#, Some(("wrong_shape", "CallbackCommand stands twice"))),
            (FULL, r#"{"CallbackCommand":"Foo.Bar"}"#, Some(("command_mismatch", "query and body name different commands"))),
            ("Foo.Bar", r#"{"CallbackCommand":"foo.bar"}"#, Some(("command_mismatch", "query and body name different commands"))),
            (FULL, "", Some(("not_json", "empty body"))),
            ("", "{", Some(("not_json", "ends early"))),
            ("Foo.Bar", "secret", Some(("not_json", "syntax error at line 1 column 1"))),
            (FULL, r#"{"GroupId":"g","CallbackCommand":null}"#, None),
            ("Foo.Bar", r#"{"GroupId":1,"GroupId":2}"#, None),
            ("Foo.Bar", "[]", None),
            ("", r#"{"GroupId":null}"#, None),
        ] {
            let result = refused(command, body);
            assert_eq!(result.as_ref().map(|(reason, detail)| (*reason, detail.as_str())), expected, "{command} {body}");
        }
    }

    #[test]
    fn hostile_bodies_have_an_outcome_like_any_other() {
        let wide = format!(r#"{{"GroupId":"g","X":"{}"}}"#, "x".repeat(1 << 20));
        let members = format!(r#"{{"GroupId":"g","ExitMemberList":[{}"a"]}}"#, r#"{"Member_Account":"a"},"#.repeat(40_000));
        let many = format!(r#"{{"GroupId":"g"{}}}"#, r#","":0"#.repeat(200_000));
        let digits = format!(r#"{{"GroupId":"g","EventTime":{}}}"#, "9".repeat(10_000));
        let nested = format!(r#"{{"GroupId":"g","X":{}{}}}"#, "[".repeat(127), "]".repeat(127));
        for body in [wide, members, many, digits, nested] {
            assert_eq!(refused(EXIT, body.clone()), None, "{body:.40}");
            assert!(event(&callback(EXIT, body.clone()), Mode::Structured).value.len() > body.len() / 10);
        }
        let too_deep = Some(("not_json", "deeper than 128 levels".to_owned()));
        assert_eq!(refused(EXIT, format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))), too_deep);
        assert_eq!(refused(EXIT, format!(r#"{{"GroupId":"g","X":{}{}}}"#, "[".repeat(128), "]".repeat(128))), too_deep);
        for bytes in
            [&b"\xef\xbb\xbf{\"GroupId\":\"g\"}"[..], b"{\"GroupId\":\"\xff\"}", b"\0", b"{\"GroupId\":\"g\0\"}", b"{\"GroupId\":\"g\"}\0"]
        {
            assert_eq!(refused(EXIT, bytes).map(|(reason, _)| reason), Some("not_json"));
        }
    }

    /// Computed by a program of its own, from the page.
    #[test]
    fn ids_are_what_the_page_says() {
        let timed = r#"{"CallbackCommand":"Group.CallbackAfterGroupFull","GroupId":"@TGS#2J4SZEAEL","EventTime":"1670574414123"}"#;
        let timeless = r#"{"CallbackCommand":"Group.CallbackAfterGroupFull","GroupId":"@TGS#2J4SZEAEL"}"#;
        let id = |query: &str, body: &str| {
            let callback = Callback { query: query.to_owned(), receipt: *b"0123456789abcdef", ..callback(FULL, body) };
            event(&callback, Mode::Structured).id.to_string()
        };
        let request = "RequestID=c637d5f9-0b5e-4bb3-8c5e-0f6f0a5d7e11";
        assert_eq!(id("", timed), "2d29307aa0962d4751b2226aa69f4f49");
        assert_eq!(id(request, timed), "2d29307aa0962d4751b2226aa69f4f49");
        assert_eq!(id(request, timeless), "88a1fd0dbe9b2aa6d4b7aaf63899b3b1");
        assert_eq!(id("", timeless), "3136644f0f64b79cfd9f3ca30bea2a09");
        assert_eq!(id("RequestId=", timeless), "3136644f0f64b79cfd9f3ca30bea2a09");
    }

    #[test]
    fn an_id_depends_on_what_identifies_the_event_and_on_nothing_else() {
        let id = |callback: &Callback| event(callback, Mode::Structured).id;
        let timed = callback(FULL, r#"{"GroupId":"g","EventTime":1}"#);
        let again = Callback { received: Timestamp::from_micros(1), receipt: [1; 16], query: "x=1".to_owned(), ..timed.clone() };
        assert_eq!(id(&timed), id(&again), "a retry");
        assert_eq!(event(&timed, Mode::Binary).id, id(&timed), "the mode");
        assert_ne!(id(&timed), id(&Callback { app: 2, ..timed.clone() }));
        assert_ne!(id(&timed), id(&Callback { command: "Foo.Bar".to_owned(), ..timed.clone() }));
        assert_ne!(id(&timed), id(&Callback { body: Bytes::from_static(br#"{"GroupId":"g","EventTime":2}"#), ..timed.clone() }));
        let timeless = callback(FULL, r#"{"GroupId":"g"}"#);
        assert_ne!(id(&timeless), id(&Callback { receipt: [1; 16], ..timeless.clone() }), "two receipts");
        let request = |id: &str, receipt: u8| Callback { query: format!("RequestId={id}"), receipt: [receipt; 16], ..timeless.clone() };
        assert_eq!(id(&request("a", 1)), id(&request("a", 2)), "a retry with its RequestId");
        assert_ne!(id(&request("a", 1)), id(&request("b", 1)));
    }

    #[test]
    fn a_dead_letter_keeps_the_body_and_says_why() {
        let callback = Callback {
            traceparent: Some("00-1-2-01".to_owned()),
            tracestate: Some("a=1".to_owned()),
            ..callback(FULL, r#"{"GroupId":"g","EventTime":1}"#)
        };
        let grounds =
            dead_letter::Grounds { reason: DeadLetterReason::TooLarge, detail: "Message size too large", topic: "chat.group-full" };
        let dead = dead_letter::message(&callback, &grounds);
        let expected = [
            ("dl_reason", "too_large"),
            ("dl_detail", "Message size too large"),
            ("dl_command", FULL),
            ("dl_topic", "chat.group-full"),
            ("dl_received_time", "2026-11-21T20:00:00.000Z"),
            ("dl_query", callback.query.as_str()),
            ("ce_id", &event(&callback, Mode::Structured).id.to_string()),
            ("traceparent", "00-1-2-01"),
            ("tracestate", "a=1"),
        ];
        let headers: Vec<_> = dead.headers.iter().map(|(name, value)| (*name, std::str::from_utf8(value).unwrap())).collect();
        assert_eq!(headers, expected);
        assert_eq!(dead.value, callback.body);
        assert_eq!(dead.key.as_deref(), Some(&b"g"[..]));
        let place = dead_letter::Place { instance: "0", file: "17.body" };
        let elsewhere = dead_letter::message_without_body(&callback, &grounds, &place);
        assert!(elsewhere.value.is_empty());
        assert_eq!((header(&elsewhere, "dl_instance").as_deref(), header(&elsewhere, "dl_file").as_deref()), (Some("0"), Some("17.body")));
        assert_eq!((elsewhere.key, elsewhere.id), (dead.key, dead.id));
    }

    fn json_values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,6}".prop_map(Value::from),
            ".{0,4}".prop_map(Value::from),
            Just(Value::from("1670574414123")),
            Just(Value::from(FULL)),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((names(), inner), 0..4).prop_map(|members| members.into_iter().collect::<Value>()),
            ]
        })
    }

    const NAMES: &[&str] = &[
        "GroupId",
        "Type",
        "ExitType",
        "Operator_Account",
        "ExitMemberList",
        "MemberList",
        "Member_Account",
        "Owner_Account",
        "Name",
        "EventTime",
        "MsgSeq",
        "Events",
        "extra",
    ];

    fn names() -> impl Strategy<Value = String> {
        prop_oneof![3 => prop::sample::select(NAMES).prop_map(str::to_owned), 1 => ".{0,5}".prop_map(|name: String| name)]
    }

    fn accounts() -> impl Strategy<Value = Value> {
        let entry = prop_oneof![
            ".{0,4}".prop_map(Value::from),
            ".{0,4}".prop_map(|account| serde_json::json!({ "Member_Account": account })),
            json_values(),
        ];
        prop::collection::vec(entry, 0..4).prop_map(Value::from)
    }

    /// The members of an object, as they stand there.
    fn raw_members(json: &str) -> Vec<(String, String)> {
        let mut members = Vec::new();
        json::read(json.as_bytes(), |name, value| members.push((name.text().unwrap().into_owned(), value.to_owned()))).unwrap();
        members
    }

    /// What a field of ours must be where it stands for all of what Chat sent.
    fn stands_for(shape: crate::callback::Shape, theirs: &str, ours: &str) -> bool {
        use crate::callback::Shape;
        let (theirs_value, ours_value): (Value, Value) = (serde_json::from_str(theirs).unwrap(), serde_json::from_str(ours).unwrap());
        match shape {
            Shape::GroupId | Shape::Text => theirs == ours,
            Shape::Word => theirs == ours || theirs_value.as_str().is_some_and(|word| ours_value == word.to_lowercase()),
            Shape::Accounts(name) => {
                theirs_value.as_array().zip(ours_value.as_array()).is_some_and(|(theirs, ours)| {
                    theirs.len() == ours.len()
                        && theirs
                            .iter()
                            .zip(ours)
                            .all(|(entry, account)| entry == account || *entry == serde_json::json!({ name: account }))
                }) || theirs == ours
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn everything_that_chat_sends_stands_in_the_event(
            command in prop::sample::select(&[DISBAND, EXIT, FULL][..]),
            members in prop::collection::vec((names(), json_values()), 0..8),
            list in accounts(),
            group in "\\PC{1,8}",
        ) {
            let mut parts: Vec<_> =
                members.iter().filter(|(name, _)| name != "GroupId").map(|(name, value)| format!("{}:{value}", Value::from(name.as_str()))).collect();
            parts.insert(parts.len() / 2, format!("\"GroupId\":{}", Value::from(group.as_str())));
            let list_name = if command == EXIT { "ExitMemberList" } else { "MemberList" };
            parts.insert(0, format!("\"{list_name}\":{list}"));
            let body = format!("{{{}}}", parts.join(", "));
            let callback = callback(command, body.clone());
            let message = event(&callback, Mode::Binary);
            prop_assert_eq!(message.key.as_deref(), Some(group.as_bytes()));
            let structured = event(&callback, Mode::Structured).value;
            prop_assert!(serde_json::from_slice::<&RawValue>(&structured).is_ok());

            let data = raw_members(std::str::from_utf8(&message.value).unwrap());
            let mut extra = data.iter().find(|(name, _)| name == "extra").map(|(_, extra)| raw_members(extra)).unwrap_or_default();
            let fields = crate::callback::find(command).unwrap().fields;
            prop_assert_eq!(data.len(), fields.len() + usize::from(!extra.is_empty()));
            let mut seen = std::collections::BTreeSet::new();
            for (name, value) in raw_members(&body) {
                let first = seen.insert(name.clone());
                let field = fields.iter().zip(&data).find(|(field, _)| first && field.theirs == name);
                let in_field = field.is_some_and(|(field, (ours, written))| field.ours == ours && stands_for(field.shape, &value, written));
                let in_envelope = first && name == "EventTime" && json::integer(&value).and_then(Timestamp::from_millis).is_some();
                if !in_field && !in_envelope {
                    let at = extra.iter().position(|member| *member == (name.clone(), value.clone()));
                    prop_assert!(at.is_some(), "{name} is lost");
                    extra.remove(at.unwrap());
                    if let Some((field, (_, written))) = field {
                        prop_assert!(written == "null" || matches!(field.shape, crate::callback::Shape::Accounts(_)));
                    }
                }
            }
            prop_assert!(extra.is_empty(), "invented: {extra:?}");
        }

        #[test]
        fn an_unrecognized_body_is_passed_on_untouched(body in json_values()) {
            let callback = callback("Foo.Bar", body.to_string());
            prop_assert_eq!(event(&callback, Mode::Binary).value, callback.body.clone());
            let structured = event(&callback, Mode::Structured).value;
            prop_assert!(serde_json::from_slice::<&RawValue>(&structured).is_ok());
        }

        #[test]
        fn any_bytes_and_any_query_have_one_outcome_that_is_always_the_same(
            body: Vec<u8>, query: String, command: String, known: bool, traceparent: Option<String>, tracestate: Option<String>, receipt: [u8; 16], micros: i64, app: u64,
        ) {
            let command = if known { EXIT.to_owned() } else { command };
            let received = Timestamp::from_micros(micros);
            let callback = Callback { received, receipt, app, command, query, traceparent, tracestate, body: Bytes::from(body) };
            for mode in [Mode::Structured, Mode::Binary] {
                let first = outcome(&callback, mode);
                prop_assert_eq!(&first, &outcome(&callback.clone(), mode));
                if let Normalised::DeadLetter(dead) = first {
                    prop_assert_eq!(dead.message.value, callback.body.clone());
                }
            }
        }

        #[test]
        fn almost_json_never_panics(body in "[\\[\\]{}\",:\\\\u0-9a-e ]{0,40}") {
            for command in [EXIT, "Foo.Bar"] {
                let _ = outcome(&callback(command, body.clone()), Mode::Structured);
            }
        }
    }
}
