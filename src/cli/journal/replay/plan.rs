//! What a replay would publish, and what it leaves out.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::super::super::{Exit, Failure};
use super::super::filter::Selection;
use super::super::{counted, filter};
use crate::callback::Callback;
use crate::clock::Timestamp;
use crate::config::Mode;
use crate::event::{self, Message, Normalised};
use crate::journal::Lsn;
use crate::journal::inspect::{Folder, Usage, View};
use crate::routing::Routing;

/// Where each record goes.
pub(super) struct Planner<'a> {
    pub(super) routing: &'a Routing,
    pub(super) mode: Mode,
    /// The first LSN that each stream may lack.
    positions: Vec<u64>,
    topic: Option<&'a str>,
}

/// What a replay does with a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Destination {
    Topic {
        topic: String,
        message: Message,
    },
    /// Its stream may lack it: it is the bridge's to publish.
    Unpublished,
    /// The configuration discards its command.
    Discarded,
    /// A dead letter, where the events go to a topic that was named.
    DeadLetter,
}

impl<'a> Planner<'a> {
    pub(super) fn new(routing: &'a Routing, mode: Mode, view: &View, topic: Option<&'a str>) -> Self {
        let behind: Vec<_> = view.positions.behind.iter().map(|(stream, lsn)| (stream.clone(), lsn.get())).collect();
        let positions = routing.positions_from(&behind, view.positions.scanned.get());
        Self { routing, mode, positions, topic }
    }

    pub(super) fn destination(&self, lsn: Lsn, callback: &Callback) -> Destination {
        let normalised = event::normalise(callback, self.routing, self.mode);
        let (stream, is_event) = match &normalised {
            Normalised::Event { stream, .. } => (*stream, true),
            Normalised::DeadLetter(_) => (self.routing.dead_letter(), false),
        };
        if self.positions.get(stream.index()).is_none_or(|position| lsn.get() >= *position) {
            return Destination::Unpublished;
        }
        if is_event && self.routing.is_discarded(&callback.command) {
            return Destination::Discarded;
        }
        let topic = match self.topic {
            Some(_) if !is_event => return Destination::DeadLetter,
            Some(topic) => topic,
            None => &self.routing.topic(self.routing.topic_of(stream)).name,
        };
        Destination::Topic { topic: topic.to_owned(), message: filter::message(normalised) }
    }
}

/// What a replay would do.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    dir: String,
    in_use: bool,
    /// Records of the range that were read.
    read: u64,
    first_lsn: Option<u64>,
    last_lsn: Option<u64>,
    first_received: Option<String>,
    last_received: Option<String>,
    /// Records by topic.
    topics: BTreeMap<String, u64>,
    left_out: LeftOut,
    #[serde(skip)]
    received: Option<(Timestamp, Timestamp)>,
}

/// Records that were meant and are not published.
#[derive(Debug, Default, Serialize)]
struct LeftOut {
    unpublished: u64,
    discarded: u64,
    dead_letters: u64,
    corrupt: u64,
    freed: u64,
}

impl Plan {
    pub(super) fn new(folder: &Folder, view: &View) -> Self {
        Self {
            dir: folder.dir().display().to_string(),
            in_use: view.usage == Usage::InUse,
            read: 0,
            first_lsn: None,
            last_lsn: None,
            first_received: None,
            last_received: None,
            topics: BTreeMap::new(),
            left_out: LeftOut::default(),
            received: None,
        }
    }

    pub(super) fn add(&mut self, lsn: Lsn, received: Timestamp, destination: &Destination) {
        match destination {
            Destination::Topic { topic, .. } => {
                *self.topics.entry(topic.clone()).or_default() += 1;
                self.first_lsn.get_or_insert(lsn.get());
                self.last_lsn = Some(lsn.get());
                let (first, last) = self.received.unwrap_or((received, received));
                self.received = Some((first.min(received), last.max(received)));
            }
            Destination::Unpublished => self.left_out.unpublished += 1,
            Destination::Discarded => self.left_out.discarded += 1,
            Destination::DeadLetter => self.left_out.dead_letters += 1,
        }
    }

    /// The range has been read.
    pub(super) fn complete(&mut self, selection: &Selection<'_>) {
        self.read = selection.read;
        self.left_out.corrupt = selection.lost();
        self.left_out.freed = selection.freed;
        if let Some((first, last)) = self.received {
            self.first_received = Some(first.to_string());
            self.last_received = Some(last.to_string());
        }
    }

    pub(super) fn records(&self) -> u64 {
        self.topics.values().sum()
    }

    pub(super) fn topics(&self) -> Vec<&str> {
        self.topics.keys().map(String::as_str).collect()
    }

    /// What the range has lost may have been meant, too.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        match self.left_out.corrupt {
            0 => Ok(()),
            lost => Err(Failure::new(Exit::Corruption, format!("the journal is corrupt: {} lost", counted(lost, "record")))),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "journal      {}{}", self.dir, if self.in_use { " (a process uses it)" } else { "" })?;
        writeln!(out, "to publish   {} of {} read", counted(self.records(), "record"), self.read)?;
        if let (Some(first), Some(last)) = (self.first_lsn, self.last_lsn) {
            writeln!(out, "LSN          {first} to {last}")?;
        }
        if let (Some(first), Some(last)) = (&self.first_received, &self.last_received) {
            writeln!(out, "received     {first} to {last}")?;
        }
        let width = self.topics.keys().map(String::len).max().unwrap_or(0);
        for (topic, records) in &self.topics {
            writeln!(out, "  {topic:width$}  {records}")?;
        }
        let LeftOut { unpublished, discarded, dead_letters, corrupt, freed } = self.left_out;
        for (count, why) in [
            (unpublished, "not published yet: the bridge, or `journal drain`, does that"),
            (discarded, "discarded by the configuration"),
            (dead_letters, "dead letters, which go to no topic of events"),
            (corrupt, "corrupt: see `journal verify`"),
            (freed, "freed meanwhile"),
        ] {
            if count > 0 {
                writeln!(out, "left out     {count} {why}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::config;

    fn callback(command: &str, body: &str) -> Callback {
        Callback {
            received: Timestamp::from_micros(1_670_574_414_123_000),
            receipt: [1; 16],
            app: 7,
            command: command.to_owned(),
            query: String::new(),
            traceparent: None,
            tracestate: None,
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    #[test]
    fn each_record_goes_where_it_went_or_is_left_out_for_a_reason() {
        const FULL: &str = "Group.CallbackAfterGroupFull";
        let topics = config::Topics { discard: ["A.Discarded".to_owned()].into(), ..config::Topics::default() };
        let routing = Routing::new(&topics);
        let behind = |stream: &str| if stream == "member-exit" { 5 } else { 10 };
        let positions: Vec<u64> = routing.streams().map(|stream| behind(routing.stream_name(stream))).collect();
        let planner = |topic| Planner { routing: &routing, mode: Mode::Structured, positions: positions.clone(), topic };
        let to = |topic: Option<&'static str>, lsn, command, body| match planner(topic).destination(Lsn::new(lsn), &callback(command, body))
        {
            Destination::Topic { topic, .. } => topic,
            other @ (Destination::Unpublished | Destination::Discarded | Destination::DeadLetter) => format!("{other:?}"),
        };
        let good = r#"{"GroupId":"g"}"#;
        for (lsn, command, body, same, other) in [
            (9, FULL, good, "chat.group-full", "x"),
            (10, FULL, good, "Unpublished", "Unpublished"),
            (4, "Group.CallbackAfterMemberExit", good, "chat.member-exit", "x"),
            (5, "Group.CallbackAfterMemberExit", good, "Unpublished", "Unpublished"),
            (1, "A.Discarded", good, "Discarded", "Discarded"),
            (1, FULL, "no json", "chat.dead-letter", "DeadLetter"),
            (1, "A.Unknown", good, "chat.unrecognized", "x"),
        ] {
            assert_eq!(
                (to(None, lsn, command, body).as_str(), to(Some("x"), lsn, command, body).as_str()),
                (same, other),
                "{lsn} {command}"
            );
        }
    }
}
