//! Which records of a journal are meant: by LSN, time of receipt, command and group.

use std::time::{Duration, UNIX_EPOCH};

use clap::Args;

use super::super::{Exit, Failure};
use super::{Bar, counted, failure};
use crate::callback::Callback;
use crate::clock::Timestamp;
use crate::config::Mode;
use crate::event::{self, Message, Normalised};
use crate::journal::Lsn;
use crate::journal::inspect::{Corruption, Folder, Found, Sweep, View};
use crate::routing::Routing;

/// Which records. All of what is given must hold of a record.
#[derive(Debug, Args)]
pub(super) struct Filter {
    /// From this LSN on.
    #[arg(long, value_name = "LSN", value_parser = clap::value_parser!(u64).range(1..))]
    from_lsn: Option<u64>,
    /// Up to this LSN, which is included.
    #[arg(long, value_name = "LSN", value_parser = clap::value_parser!(u64).range(1..))]
    to_lsn: Option<u64>,
    /// Received at this moment or later: RFC 3339 in UTC (2026-11-21T20:00:00Z), or so long ago (90m).
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Moment>,
    /// Received before this moment: RFC 3339 in UTC, or so long ago.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Moment>,
    /// Of this command, such as Group.CallbackAfterMemberExit; may be given several times.
    #[arg(long = "command", value_name = "COMMAND")]
    commands: Vec<String>,
    /// Of this group; may be given several times.
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    At(Timestamp),
    Ago(Duration),
}

impl Moment {
    fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(moment) => moment,
            Self::Ago(age) => {
                let micros = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
                Timestamp::from_micros(now.micros().saturating_sub(micros))
            }
        }
    }
}

fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(age) = humantime::parse_duration(text) {
        return Ok(Moment::Ago(age));
    }
    let time = humantime::parse_rfc3339_weak(text);
    let micros = time.ok().and_then(|time| i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_micros()).ok());
    micros
        .map(|micros| Moment::At(Timestamp::from_micros(micros)))
        .ok_or_else(|| "it is neither a time such as 2026-11-21T20:00:00Z nor a duration such as 90m".to_owned())
}

impl Filter {
    /// The LSNs within what is there.
    fn range(&self, view: &View) -> (Lsn, Lsn) {
        let from = self.from_lsn.map_or(Lsn::FIRST, Lsn::new);
        let to = self.to_lsn.map_or(view.end, |last| Lsn::new(last).next()).min(view.end);
        (from, to)
    }

    /// With moments instead of ages.
    pub(super) fn resolve(self, now: Timestamp) -> Resolved {
        let (since, until) = (self.since.map(|moment| moment.before(now)), self.until.map(|moment| moment.before(now)));
        Resolved { since, until, filter: self }
    }
}

/// A filter at a given moment.
#[derive(Debug)]
pub(super) struct Resolved {
    filter: Filter,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Resolved {
    /// Whether a record is meant. Its group is looked at last, as that takes its event.
    fn takes(&self, callback: &Callback, group: impl FnOnce() -> Option<Vec<u8>>) -> bool {
        let Filter { commands, groups, .. } = &self.filter;
        self.since.is_none_or(|since| callback.received >= since)
            && self.until.is_none_or(|until| callback.received < until)
            && (commands.is_empty() || commands.contains(&callback.command))
            && (groups.is_empty() || group().is_some_and(|group| groups.iter().any(|wanted| wanted.as_bytes() == group)))
    }
}

/// What a record's callback becomes.
pub(super) fn message(normalised: Normalised) -> Message {
    match normalised {
        Normalised::Event { message, .. } => message,
        Normalised::DeadLetter(letter) => letter.message,
    }
}

/// A reading of the records that are meant.
pub(super) struct Selection<'a> {
    sweep: Sweep,
    /// All records where there is none.
    filter: Option<&'a Resolved>,
    routing: &'a Routing,
    mode: Mode,
    bar: Bar,
    /// Records read, meant or not.
    pub(super) read: u64,
    /// Records meant.
    pub(super) chosen: u64,
    /// What could not be read.
    pub(super) corrupt: Vec<Corruption>,
    /// Records whose segments were freed meanwhile.
    pub(super) freed: u64,
}

impl<'a> Selection<'a> {
    pub(super) fn new(folder: &Folder, view: &View, filter: &'a Resolved, (routing, mode): (&'a Routing, Mode)) -> Self {
        let (from, to) = filter.filter.range(view);
        let sweep = folder.sweep(view, from, to);
        Self { sweep, filter: Some(filter), routing, mode, bar: Bar::start(), read: 0, chosen: 0, corrupt: Vec::new(), freed: 0 }
    }

    /// One record, without a bar.
    pub(super) fn of_one(folder: &Folder, view: &View, lsn: Lsn, (routing, mode): (&'a Routing, Mode)) -> Self {
        let sweep = folder.sweep(view, lsn, lsn.next());
        Self { sweep, filter: None, routing, mode, bar: Bar::hidden(), read: 0, chosen: 0, corrupt: Vec::new(), freed: 0 }
    }

    /// The next record that is meant.
    pub(super) fn next(&mut self) -> Result<Option<(Lsn, Callback)>, Failure> {
        loop {
            let Some(found) = self.sweep.next().map_err(|error| failure(&error))? else { return Ok(None) };
            self.bar.step(&self.sweep, || format!("{} of {} chosen", self.chosen, counted(self.read, "record")));
            let (lsn, record) = match found {
                Found::Record { lsn, record } => (lsn, record),
                Found::Corrupt(corruption) => {
                    self.corrupt.push(corruption);
                    continue;
                }
                Found::Freed { from, to } => {
                    self.freed += to.get().saturating_sub(from.get());
                    continue;
                }
            };
            self.read += 1;
            let callback = Callback::decode(record)
                .map_err(|error| Failure::new(Exit::Configuration, format!("failed to read record {lsn}: {error}")))?;
            let group = || message(event::normalise(&callback, self.routing, self.mode)).key;
            if self.filter.is_none_or(|filter| filter.takes(&callback, group)) {
                self.chosen += 1;
                return Ok(Some((lsn, callback)));
            }
        }
    }

    /// Records that are lost to corruption.
    pub(super) fn lost(&self) -> u64 {
        self.corrupt.iter().map(Corruption::records).sum()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_moment_is_a_time_or_an_age() {
        let now = Timestamp::from_micros(10_000_000);
        for (text, micros) in [
            ("1970-01-01T00:00:03Z", Some(3_000_000)),
            ("1970-01-01 00:00:03.5", Some(3_500_000)),
            ("4s", Some(6_000_000)),
            ("1m", Some(-50_000_000)),
            ("yesterday", None),
            ("5", None),
        ] {
            let found = moment(text).ok().map(|moment| moment.before(now).micros());
            assert_eq!(found, micros, "{text}");
        }
    }

    #[test]
    fn a_record_is_meant_where_all_that_is_given_holds() {
        let callback = |command: &str, micros| Callback {
            received: Timestamp::from_micros(micros),
            receipt: [0; 16],
            app: 1,
            command: command.to_owned(),
            query: String::new(),
            traceparent: None,
            tracestate: None,
            body: Bytes::new(),
        };
        let filter = Filter {
            from_lsn: None,
            to_lsn: None,
            since: Some(Moment::Ago(Duration::from_micros(10))),
            until: Some(Moment::At(Timestamp::from_micros(95))),
            commands: vec!["A".to_owned(), "B".to_owned()],
            groups: vec!["g".to_owned()],
        }
        .resolve(Timestamp::from_micros(100));
        for (command, micros, group, meant) in [
            ("A", 90, Some("g"), true),
            ("B", 94, Some("g"), true),
            ("A", 89, Some("g"), false),
            ("A", 95, Some("g"), false),
            ("C", 90, Some("g"), false),
            ("A", 90, Some("h"), false),
            ("A", 90, None, false),
        ] {
            let group = group.map(|group| group.as_bytes().to_vec());
            assert_eq!(filter.takes(&callback(command, micros), || group), meant, "{command} {micros}");
        }
    }
}
