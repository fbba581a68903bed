//! `journal verify`: reads every frame and every record, and says what is not what was written.

use std::fmt;

use clap::Args;
use serde::Serialize;

use super::super::output::Format;
use super::super::{Exit, Failure, Global, print};
use super::{Bar, Place, counted, failure, folder, lsns, size};
use crate::journal::inspect::{CheckpointState, Corruption, Folder, Found, Usage, View};
use crate::journal::{Error, Lsn};

/// Check every frame and every record; exit code 65 where something is not what was written, with where it is and which records it costs.
///
/// A torn tail is no corruption: nothing of it was answered, and the next start cuts it. It is told, and the exit code is 0. So it is where there
/// are only files in `set-aside/`, which are copies of what an earlier start or reading has found.
///
/// It takes no lock and changes nothing. Beside a running bridge it checks what the checkpoint calls durable, which is all but the last tenth of a
/// second.
#[derive(Debug, Args)]
pub(in crate::cli) struct Verify {
    #[command(flatten)]
    place: Place,
    /// The form of the output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl Verify {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let config = self.place.config(global)?;
        let report = report(&folder(&config)).map_err(|error| failure(&error))?;
        print(&self.format.write(&report)?)?;
        report.verdict()
    }
}

#[derive(Debug, Serialize)]
struct Report {
    dir: String,
    in_use: bool,
    /// What was checked.
    segments: usize,
    records: u64,
    bytes: u64,
    first_lsn: u64,
    next_lsn: u64,
    corrupt: Vec<Corrupt>,
    torn_tail: Option<Torn>,
    /// Records whose segments were freed meanwhile: they are published.
    freed_records: u64,
    /// Files that hold copies of corrupt pieces.
    set_aside: Vec<String>,
}

/// A damaged piece, as it is told.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Corrupt {
    file: String,
    from_offset: u64,
    to_offset: u64,
    /// Records that are lost by it: perhaps none, as where a frame's header alone is damaged.
    lost_records: u64,
    first_lsn: Option<u64>,
    last_lsn: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Torn {
    file: String,
    offset: u64,
    kept_records: u64,
    cut_records: u64,
}

fn report(folder: &Folder) -> Result<Report, Error> {
    let view = folder.look()?;
    let in_use = view.usage == Usage::InUse;
    let mut report = Report {
        dir: folder.dir().display().to_string(),
        in_use,
        segments: view.segments.len(),
        records: 0,
        bytes: 0,
        first_lsn: view.first().get(),
        next_lsn: view.end.get(),
        corrupt: checkpoint(folder, &view),
        torn_tail: view.torn_tail.as_ref().map(|torn| Torn {
            file: torn.file.clone(),
            offset: torn.offset,
            kept_records: torn.tail.kept_records,
            cut_records: torn.tail.cut_records,
        }),
        freed_records: 0,
        set_aside: view.set_aside.iter().map(|entry| entry.name.clone()).collect(),
    };
    let mut sweep = folder.sweep(&view, Lsn::FIRST, view.end);
    let mut bar = Bar::start();
    while let Some(found) = sweep.next()? {
        match found {
            Found::Record { .. } => report.records += 1,
            Found::Corrupt(corruption) => report.corrupt.push(Corrupt::of(&corruption)),
            Found::Freed { from, to } => report.freed_records += to.get().saturating_sub(from.get()),
        }
        bar.step(&sweep, || counted(report.records, "record"));
    }
    report.bytes = sweep.progress().1;
    Ok(report)
}

/// Without a checkpoint everything would be published again. A bridge that had no room yet to make one is none to blame.
fn checkpoint(folder: &Folder, view: &View) -> Vec<Corrupt> {
    let lost = match view.checkpoint {
        CheckpointState::Good => false,
        CheckpointState::Lost => true,
        CheckpointState::Absent => view.usage != Usage::InUse,
    };
    let file = folder.dir().join("checkpoint").display().to_string();
    let corrupt = Corrupt { file, from_offset: 0, to_offset: 0, lost_records: 0, first_lsn: None, last_lsn: None };
    lost.then_some(corrupt).into_iter().collect()
}

impl Corrupt {
    pub(super) fn of(corruption: &Corruption) -> Self {
        let lost_records = corruption.records();
        Self {
            file: corruption.file.display().to_string(),
            from_offset: corruption.from,
            to_offset: corruption.to,
            lost_records,
            first_lsn: (lost_records > 0).then(|| corruption.first.get()),
            last_lsn: (lost_records > 0).then(|| corruption.next.get() - 1),
        }
    }
}

impl Report {
    fn verdict(&self) -> Result<(), Failure> {
        if self.corrupt.is_empty() {
            return Ok(());
        }
        let pieces = u64::try_from(self.corrupt.len()).unwrap_or(u64::MAX);
        let lost = self.corrupt.iter().map(|corrupt| corrupt.lost_records).sum();
        let message = format!("the journal is corrupt: {}, {} lost", counted(pieces, "piece"), counted(lost, "record"));
        Err(Failure::new(Exit::Corruption, message))
    }
}

impl fmt::Display for Corrupt {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.file)?;
        match (self.to_offset, self.first_lsn, self.last_lsn) {
            (0, None, _) => write!(out, ": it cannot be read, so everything would be published again"),
            (0, Some(first), Some(last)) => write!(out, ": LSN {first} to {last} are unpublished, and no segment has them"),
            (to, Some(first), Some(last)) => {
                write!(
                    out,
                    ", offset {} up to {to}: {} lost, LSN {first} to {last}",
                    self.from_offset,
                    counted(self.lost_records, "record")
                )
            }
            (to, ..) => write!(out, ", offset {} up to {to}: no record lost", self.from_offset),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "{}: {} in {} ({}) checked, {}",
            self.dir,
            counted(self.records, "record"),
            counted(u64::try_from(self.segments).unwrap_or(u64::MAX), "segment"),
            size(self.bytes),
            lsns(self.first_lsn, self.next_lsn)
        )?;
        for corrupt in &self.corrupt {
            writeln!(out, "corrupt: {corrupt}")?;
        }
        if let Some(Torn { file, offset, kept_records, cut_records }) = &self.torn_tail {
            writeln!(
                out,
                "note: torn tail: {file} from offset {offset}; the next start keeps {kept_records} records of it and cuts {cut_records}, none of which was answered"
            )?;
        }
        for file in &self.set_aside {
            writeln!(out, "note: set aside earlier: {}/set-aside/{file}", self.dir)?;
        }
        if self.in_use {
            writeln!(out, "note: a process uses the folder; what it wrote since its last checkpoint is not checked")?;
        }
        if self.freed_records > 0 {
            writeln!(out, "note: {} were freed meanwhile, for they are published", counted(self.freed_records, "record"))?;
        }
        write!(out, "{}", if self.corrupt.is_empty() { "no corruption" } else { "corruption found" })
    }
}
