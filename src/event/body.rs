//! What the envelope needs of a body, found in one pass over the members of its top level.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::callback::json::{self, NotJson, Top};
use crate::callback::{Command, FIELDS_MAX};
use crate::clock::Timestamp;

/// A member of the top level that may stand once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member<'a> {
    Absent,
    /// Its value as it stands there.
    Once(&'a str),
    Repeated,
}

/// A body that is JSON.
#[derive(Debug)]
pub(super) struct Body<'a> {
    pub is_object: bool,
    pub command: Member<'a>,
    pub group: Member<'a>,
    /// The event's own time, where `EventTime` is one.
    pub time: Option<Timestamp>,
    /// Whether it carries a time or an id of its own, so that the same body is the same event.
    pub identifies_itself: bool,
    /// The value of each of the command's fields, in the command's order, as it stands there.
    pub fields: [Option<&'a str>; FIELDS_MAX],
    /// The members that stand nowhere else in the event, as they stand in the body, each followed by a comma. Only of a command that is known.
    pub extra: Vec<u8>,
}

impl<'a> Member<'a> {
    fn see(&mut self, value: &'a str) {
        *self = if *self == Self::Absent { Self::Once(value) } else { Self::Repeated };
    }
}

impl<'a> Body<'a> {
    /// What stands for a body that is not JSON.
    pub(super) const fn unreadable() -> Self {
        Self {
            is_object: false,
            command: Member::Absent,
            group: Member::Absent,
            time: None,
            identifies_itself: false,
            fields: [None; FIELDS_MAX],
            extra: Vec::new(),
        }
    }

    /// Reads a body; its fields where the command is known.
    pub(super) fn read(bytes: &'a [u8], known: Option<&Command>) -> Result<Self, NotJson> {
        let mut body = Self::unreadable();
        let mut saw_time = false;
        let top = json::read(bytes, |name, value| {
            let text = name.text();
            let text = text.as_deref();
            body.identifies_itself = body.identifies_itself || text.is_some_and(|name| identifies(name, value));
            let stands_elsewhere = match text {
                Some("CallbackCommand") => {
                    body.command.see(value);
                    // As text it is the attribute `chatcommand`, or the callback is a dead letter.
                    json::text(value).is_some()
                }
                Some("EventTime") => {
                    let first = !saw_time;
                    saw_time = true;
                    if first {
                        body.time = json::integer(value).and_then(Timestamp::from_millis);
                    }
                    first && body.time.is_some()
                }
                other => {
                    if other == Some("GroupId") {
                        body.group.see(value);
                    }
                    let field = known.and_then(|known| known.fields.iter().position(|field| Some(field.theirs) == other));
                    match field.and_then(|at| body.fields.get_mut(at)) {
                        Some(slot @ None) => {
                            *slot = Some(value);
                            true
                        }
                        Some(Some(_)) | None => false,
                    }
                }
            };
            if known.is_some() && !stands_elsewhere {
                append_member(&mut body.extra, name.raw(), value);
            }
        })?;
        body.is_object = top == Top::Object;
        Ok(body)
    }

    /// The group's id where it stands once, as text that is not empty.
    pub(super) fn group_id(&self) -> Option<Cow<'a, str>> {
        match self.group {
            Member::Once(value) => json::text(value).filter(|group| !group.is_empty()),
            Member::Absent | Member::Repeated => None,
        }
    }
}

/// Appends a member and a comma; the name as JSON, with its quotes.
pub(super) fn append_member(out: &mut Vec<u8>, name: &str, value: &str) {
    out.reserve(name.len() + value.len() + 2);
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    out.extend_from_slice(value.as_bytes());
    out.push(b',');
}

/// Whether a member of the top level is a time or an id of what happened. `MsgTime` counts seconds, `EventTime` milliseconds.
fn identifies(name: &str, value: &str) -> bool {
    match name {
        "EventTime" => json::integer(value).and_then(Timestamp::from_millis).is_some(),
        "MsgTime" => is_seconds(value),
        "MsgKey" | "MsgId" => json::text(value).is_some_and(|text| !text.is_empty()),
        "MsgSeq" => json::integer(value).is_some(),
        "Events" => is_batch(value),
        _ => false,
    }
}

fn is_seconds(value: &str) -> bool {
    json::integer(value).and_then(|seconds| seconds.checked_mul(1_000)).and_then(Timestamp::from_millis).is_some()
}

/// Whether this is a batch as `Push.*` sends it: a list of events, each with its `EventTime` (of seconds).
fn is_batch(value: &str) -> bool {
    serde_json::Deserializer::from_str(value).deserialize_seq(Batch).unwrap_or(false)
}

struct Batch;

impl<'de> Visitor<'de> for Batch {
    type Value = bool;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a list of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        let mut events = 0_usize;
        let mut timed = 0_usize;
        while let Some(event) = list.next_element::<&RawValue>()? {
            events += 1;
            let mut has_time = false;
            let read = json::read(event.get().as_bytes(), |name, value| has_time |= name.is("EventTime") && is_seconds(value));
            timed += usize::from(has_time && read.is_ok());
        }
        Ok(events > 0 && events == timed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_with_a_time_or_an_id_identifies_itself() {
        for (body, identifies) in [
            (r#"{"EventTime":1670574414123}"#, true),
            (r#"{"EventTime":"1670574414123"}"#, true),
            (r#"{"Event\u0054ime":0}"#, true),
            (r#"{"EventTime":""}"#, false),
            (r#"{"EventTime":null}"#, false),
            (r#"{"EventTime":253402300800000}"#, false),
            (r#"{"EventTime":null,"EventTime":1}"#, true),
            (r#"{"eventtime":1}"#, false),
            (r#"{"MsgTime":1657612269}"#, true),
            (r#"{"MsgTime":253402300800}"#, false),
            (r#"{"MsgKey":"1_2_3"}"#, true),
            (r#"{"MsgKey":""}"#, false),
            (r#"{"MsgKey":5}"#, false),
            (r#"{"MsgId":"144115213033478435-1"}"#, true),
            (r#"{"MsgSeq":4}"#, true),
            (r#"{"MsgSeq":"4"}"#, true),
            (r#"{"MsgSeq":[4]}"#, false),
            (r#"{"Events":[{"EventTime":1657612269},{"a":1,"EventTime":"1657612269"}]}"#, true),
            (r#"{"Events":[{"EventTime":1657612269},{"a":1}]}"#, false),
            (r#"{"Events":[]}"#, false),
            (r#"{"Events":[1]}"#, false),
            (r#"{"Events":{"EventTime":1657612269}}"#, false),
            (r#"{"Info":{"EventTime":1657612269}}"#, false),
            ("{}", false),
            (r#"[{"EventTime":1}]"#, false),
        ] {
            assert_eq!(Body::read(body.as_bytes(), None).unwrap().identifies_itself, identifies, "{body}");
        }
    }

    #[test]
    fn a_group_id_is_text_that_stands_once() {
        for (body, group) in [
            (r#"{"GroupId":"@TGS#1"}"#, Some("@TGS#1")),
            (r#"{"Group\u0049d":"\u0040\u0000"}"#, Some("@\0")),
            (r#"{"GroupId":"a","GroupId":"a"}"#, None),
            (r#"{"GroupId":"a","GroupId":null}"#, None),
            (r#"{"GroupId":""}"#, None),
            (r#"{"GroupId":"\ud800"}"#, None),
            (r#"{"GroupId":1}"#, None),
            (r#"{"groupid":"a"}"#, None),
            (r#"["GroupId"]"#, None),
        ] {
            assert_eq!(Body::read(body.as_bytes(), None).unwrap().group_id().as_deref(), group, "{body}");
        }
    }
}
