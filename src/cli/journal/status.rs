//! `journal status`: what is in the folder, and how far the streams are.

use std::fmt;

use clap::Args;
use serde::Serialize;

use super::super::output::Format;
use super::super::{Failure, Global, print};
use super::{Place, counted, failure, folder, lsns, size};
use crate::app;
use crate::callback::Callback;
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::journal::inspect::{CheckpointState, Folder, Found, Usage, View};
use crate::journal::storage::Entry;
use crate::journal::{Error, Lsn};
use crate::routing::Routing;

/// Show what is in the folder: segments, how far each stream is, what is unpublished and since when, and how much room there is.
///
/// It takes no lock and changes nothing, so it is safe beside a running bridge, where it is true to within a tenth of a second.
#[derive(Debug, Args)]
pub(in crate::cli) struct Status {
    #[command(flatten)]
    place: Place,
    /// The form of the output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl Status {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let config = self.place.config(global)?;
        let report = report(&config, &folder(&config)).map_err(|error| failure(&error))?;
        print(&self.format.write(&report)?)
    }
}

#[derive(Debug, Serialize)]
struct Report {
    dir: String,
    identity: Option<String>,
    /// `in_use`, `closed` or `left`.
    state: &'static str,
    #[serde(skip)]
    usage: Usage,
    /// When the operator asked for the drain that stands in the folder.
    drained_since: Option<String>,
    /// Whether callbacks may still come: without a drain, and until the lame duck of one is over.
    accepting: bool,
    /// `good`, `absent` or `lost`.
    checkpoint: &'static str,
    first_lsn: u64,
    /// The LSN of the next record.
    next_lsn: u64,
    unpublished: Unpublished,
    positions: Positions,
    segments: Vec<Segment>,
    headless: Vec<File>,
    spares: usize,
    disk: Disk,
    set_aside: Vec<File>,
    oversized: Vec<File>,
    torn_tail: Option<Torn>,
}

#[derive(Debug, Serialize)]
struct Unpublished {
    records: u64,
    oldest_lsn: Option<u64>,
    oldest_received: Option<String>,
    #[serde(skip)]
    age: Option<String>,
}

#[derive(Debug, Serialize)]
struct Positions {
    lowest: u64,
    scanned: u64,
    streams: Vec<Stream>,
}

#[derive(Debug, Serialize)]
struct Stream {
    #[serde(rename = "stream")]
    name: String,
    topic: String,
    /// The LSN of the first record that it may lack.
    position: u64,
}

#[derive(Debug, Serialize)]
struct Segment {
    file: String,
    first_lsn: u64,
    records: u64,
    bytes: u64,
    created: String,
    /// No stream lacks anything of it.
    published: bool,
}

#[derive(Debug, Serialize)]
struct File {
    file: String,
    bytes: u64,
}

#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names that JSON has tell the unit")]
struct Disk {
    used_bytes: u64,
    size_max_bytes: u64,
    free_bytes: u64,
    free_space_min_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Torn {
    file: String,
    offset: u64,
    kept_records: u64,
    cut_records: u64,
    cut_bytes: u64,
}

fn report(config: &Config, folder: &Folder) -> Result<Report, Error> {
    let view = folder.look()?;
    let lowest = view.positions.lowest();
    let segment = |segment: &crate::journal::inspect::SegmentView| Segment {
        file: segment.file.clone(),
        first_lsn: segment.first.get(),
        records: segment.end.get().saturating_sub(segment.first.get()),
        bytes: segment.bytes,
        created: segment.created.to_string(),
        published: segment.end <= lowest,
    };
    let mark = app::drained_since(folder.dir()).map_err(|source| Error::Io {
        operation: "read the mark of a drain in",
        path: folder.dir().to_owned(),
        source,
    })?;
    // What was in hand at the end of the lame duck has its time too.
    let intake = config.shutdown.lame_duck.get() + config.http.body_timeout.get() + config.journal.answer_max.get();
    let accepting = mark.is_none_or(|since| since.until(Clock::system().now()) < intake);
    Ok(Report {
        dir: folder.dir().display().to_string(),
        identity: view.identity.map(|identity| identity.to_string()),
        state: match view.usage {
            Usage::InUse => "in_use",
            Usage::Closed => "closed",
            Usage::Left => "left",
        },
        usage: view.usage,
        drained_since: mark.map(|since| since.to_string()),
        accepting,
        checkpoint: match view.checkpoint {
            CheckpointState::Good => "good",
            CheckpointState::Absent => "absent",
            CheckpointState::Lost => "lost",
        },
        first_lsn: view.first().get(),
        next_lsn: view.end.get(),
        unpublished: unpublished(folder, &view)?,
        positions: Positions { lowest: lowest.get(), scanned: view.positions.scanned.get(), streams: streams(config, &view) },
        segments: view.segments.iter().map(segment).collect(),
        headless: files(&view.headless),
        spares: view.spares.len(),
        disk: Disk {
            used_bytes: view.bytes(),
            size_max_bytes: config.journal.size_max.bytes(),
            free_bytes: folder.free_space()?,
            free_space_min_bytes: config.journal.free_space_min.bytes(),
        },
        set_aside: files(&view.set_aside),
        oversized: files(&folder.files_within("oversized")?),
        torn_tail: view.torn_tail.map(|torn| Torn {
            file: torn.file,
            offset: torn.offset,
            kept_records: torn.tail.kept_records,
            cut_records: torn.tail.cut_records,
            cut_bytes: torn.tail.cut_bytes,
        }),
    })
}

fn files(entries: &[Entry]) -> Vec<File> {
    entries.iter().map(|entry| File { file: entry.name.clone(), bytes: entry.length }).collect()
}

/// The record at the lowest position is the oldest that some stream lacks.
fn unpublished(folder: &Folder, view: &View) -> Result<Unpublished, Error> {
    let records = view.unpublished_records();
    let mut oldest = None;
    if records > 0 {
        let mut sweep = folder.sweep(view, view.positions.lowest(), view.end);
        while let Some(found) = sweep.next()? {
            if let Found::Record { lsn, record } = found {
                oldest = Some((lsn, Callback::decode(record).ok().map(|callback| callback.received)));
                break;
            }
        }
    }
    let received: Option<Timestamp> = oldest.and_then(|(_, received)| received);
    Ok(Unpublished {
        records,
        oldest_lsn: oldest.map(|(lsn, _): (Lsn, _)| lsn.get()),
        oldest_received: received.map(|received| received.to_string()),
        age: received.map(|received| {
            let age = received.until(Clock::system().now());
            humantime::format_duration(std::time::Duration::from_secs(age.as_secs())).to_string()
        }),
    })
}

/// Every stream of the configuration, as a start with it would take the checkpoint.
fn streams(config: &Config, view: &View) -> Vec<Stream> {
    let routing = Routing::new(&config.topics);
    let behind: Vec<_> = view.positions.behind.iter().map(|(stream, lsn)| (stream.clone(), lsn.get())).collect();
    let positions = routing.positions_from(&behind, view.positions.scanned.get());
    let stream = |(stream, position)| Stream {
        name: routing.stream_name(stream).to_owned(),
        topic: routing.topic(routing.topic_of(stream)).name.clone(),
        position,
    };
    routing.streams().zip(positions).map(stream).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "journal      {} ({})", self.dir, self.identity.as_deref().unwrap_or("no identity"))?;
        writeln!(out, "used         {}", self.usage)?;
        if let Some(since) = &self.drained_since {
            writeln!(out, "drained      since {since}{}", if self.accepting { "; callbacks may still come" } else { "" })?;
        }
        if self.checkpoint != "good" {
            writeln!(out, "checkpoint   {}: everything that is here counts as unpublished", self.checkpoint)?;
        }
        writeln!(out, "records      {}", lsns(self.first_lsn, self.next_lsn))?;
        write!(out, "unpublished  {}", counted(self.unpublished.records, "record"))?;
        match (self.unpublished.oldest_lsn, &self.unpublished.oldest_received, &self.unpublished.age) {
            (Some(lsn), Some(received), Some(age)) => writeln!(out, "; the oldest, LSN {lsn}, was received {received} ({age} ago)")?,
            _ => writeln!(out)?,
        }
        let Disk { used_bytes, size_max_bytes, free_bytes, free_space_min_bytes } = self.disk;
        writeln!(
            out,
            "disk         {} of {} used, {} free on the file system ({} are left alone)",
            size(used_bytes),
            size(size_max_bytes),
            size(free_bytes),
            size(free_space_min_bytes)
        )?;
        if let Some(Torn { file, offset, kept_records, cut_records, cut_bytes }) = &self.torn_tail {
            writeln!(
                out,
                "torn tail    {file} from offset {offset}: a start keeps {kept_records} records of it and cuts {cut_records} ({})",
                size(*cut_bytes)
            )?;
        }
        let width = self.positions.streams.iter().map(|stream| stream.name.len()).max().unwrap_or(0);
        writeln!(out, "positions    up to this LSN a stream lacks nothing")?;
        for Stream { name, topic, position } in &self.positions.streams {
            writeln!(out, "  {name:width$}  {}  {topic}", position.saturating_sub(1))?;
        }
        let spares = u64::try_from(self.spares).unwrap_or(u64::MAX);
        writeln!(out, "segments     {}, {}", self.segments.len(), counted(spares, "spare"))?;
        for Segment { file, first_lsn, records, bytes, created, published } in &self.segments {
            let note = if *published && *records > 0 { ", published" } else { "" };
            writeln!(out, "  {file}  from LSN {first_lsn}, {}, {}, since {created}{note}", counted(*records, "record"), size(*bytes))?;
        }
        for (what, files) in [("no header", &self.headless), ("set aside", &self.set_aside), ("oversized", &self.oversized)] {
            for File { file, bytes } in files {
                writeln!(out, "{what}    {file}, {}", size(*bytes))?;
            }
        }
        Ok(())
    }
}
