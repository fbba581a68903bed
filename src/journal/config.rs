//! The folder and the journal's limits.

use std::path::PathBuf;
use std::time::Duration;

use super::error::Error;
use super::number::to_u64;
use super::{frame, record, segment};
use crate::config;

/// The folder, and every limit by its name. [`Config::new`] has the defaults of what the configuration does not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The folder. It belongs to one instance alone.
    pub dir: PathBuf,
    /// Segments, spares and set-aside files together, bytes.
    pub size_max: u64,
    /// One segment, bytes.
    pub segment_size: u64,
    /// Room left free on the file system, bytes.
    pub free_space_min: u64,
    /// An append that the writer has not taken by then is withdrawn.
    pub answer_max: Duration,
    /// Least time from the beginning of one sync to the beginning of the next.
    pub sync_interval_min: Duration,
    /// The largest record, bytes: what a request with the largest headers and the largest body makes.
    pub record_max: usize,
    /// Payload of one batch, bytes; a single larger record makes a batch of its own. 1 MiB: a sync costs about the same up to there, and a batch
    /// that is larger only delays those that wait behind it.
    pub batch_bytes_max: usize,
    /// Records of one batch. 2048: beyond, the cost of the sync no longer shows in a record's share.
    pub batch_records_max: usize,
    /// Records that wait for the writer. 20,000: twice the default number of connections, each of which has one callback in hand at most.
    pub waiting_records_max: usize,
    /// Bytes of the records that wait for the writer. 64 MiB: 64 batches, which a disk that can follow at all clears within `answer_max`.
    pub waiting_bytes_max: usize,
    /// Durable frames kept in memory for readers that keep up, bytes. 8 MiB: some ten thousand callbacks, a second of heavy load.
    pub tail_bytes_max: usize,
    /// Prepared segments to keep. Two: one is used while the other is made.
    pub spares: usize,
    /// Least time between two writes of the checkpoint.
    pub checkpoint_write_interval: Duration,
    /// Least time between two syncs of the checkpoint, unless a segment is freed.
    pub checkpoint_sync_interval: Duration,
    /// How long a full journal waits before it looks for room again.
    pub room_retry_interval: Duration,
}

impl Config {
    /// What a segment has to hold beside one largest record: headers, alignment, and room so that it is not a segment a record.
    const SEGMENT_OVERHEAD: u64 = 64 * 1024;
    /// Segments that `size_max` has to hold: the active one, two spares, and one that is still being published.
    const SEGMENTS_MIN: u64 = 4;

    /// The settings, with the largest record that the ingress can make, and the defaults of everything else.
    #[must_use]
    pub fn new(settings: &config::Journal, record_max: usize) -> Self {
        Self {
            dir: settings.dir.clone(),
            size_max: settings.size_max.bytes(),
            segment_size: settings.segment_size.bytes(),
            free_space_min: settings.free_space_min.bytes(),
            answer_max: settings.answer_max.get(),
            sync_interval_min: settings.sync_interval_min.get(),
            record_max,
            batch_bytes_max: 1024 * 1024,
            batch_records_max: 2048,
            waiting_records_max: 20_000,
            waiting_bytes_max: 64 * 1024 * 1024,
            tail_bytes_max: 8 * 1024 * 1024,
            spares: 2,
            checkpoint_write_interval: Duration::from_millis(100),
            checkpoint_sync_interval: Duration::from_secs(1),
            room_retry_interval: Duration::from_secs(1),
        }
    }

    /// Refuses settings under which a record could never be written.
    pub(super) fn check(&self) -> Result<(), Error> {
        let largest = to_u64(self.record_max).saturating_add(Self::SEGMENT_OVERHEAD);
        let problem = if self.segment_size < largest {
            Some(format!("journal.segment_size must be at least {largest} bytes: the largest record and 64 KiB"))
        } else if self.segment_size > u64::from(u32::MAX) {
            Some(format!("journal.segment_size must be at most {} bytes", u32::MAX))
        } else if self.size_max < self.segment_size.saturating_mul(Self::SEGMENTS_MIN) {
            Some("journal.size_max must be at least four times journal.segment_size".to_owned())
        } else {
            None
        };
        problem.map_or(Ok(()), |problem| Err(Error::Settings { problem }))
    }

    /// Length of a segment file: `segment_size` without what does not align.
    pub(super) fn segment_length(&self) -> u64 {
        self.segment_size - self.segment_size % to_u64(record::ALIGN)
    }
}

// The overhead covers what is not payload in a segment with a single record.
const _: () = assert!(segment::PAGE + frame::HEADER + record::HEADER + 2 * record::ALIGN < 64 * 1024);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_leave_no_room_for_a_record_are_refused() {
        let base = Config { segment_size: 1 << 20, size_max: 4 << 20, ..Config::new(&config::Journal::default(), 4096) };
        assert!(base.check().is_ok());
        for (broken, name) in [
            (Config { record_max: 1 << 20, ..base.clone() }, "segment_size"),
            (Config { segment_size: 1 << 40, size_max: 1 << 50, ..base.clone() }, "segment_size"),
            (Config { size_max: (4 << 20) - 1, ..base.clone() }, "size_max"),
        ] {
            let problem = broken.check().expect_err("must be refused").to_string();
            assert!(problem.contains(name), "{problem}");
        }
    }
}
