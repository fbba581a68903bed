//! `[journal]`: where callbacks become durable, and how much room they have.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::units::{Period, Size};

/// The journal's folder and its limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Journal {
    /// The folder. It belongs to one instance alone.
    pub dir: PathBuf,
    /// Segments, spares and set-aside files together. 8 GiB hold some ten million callbacks of 600 bytes.
    pub size_max: Size,
    /// One file. Large enough that changing files costs nothing, small enough that room comes back soon.
    pub segment_size: Size,
    /// Room that is left free on the file system, for whatever else lives there.
    pub free_space_min: Size,
    /// A callback that the writer has not taken by then is withdrawn and answered 503. Chat gives up after 2 s; the rest is the network's.
    pub answer_max: Period,
    /// Least time from the beginning of one sync to the beginning of the next. What arrives meanwhile shares the next one; a callback that finds the
    /// disk at rest is synced at once. A millisecond nobody notices, and it keeps a busy bridge under 1,000 syncs a second: cloud volumes are sold by
    /// the operation, and a sync costs as much processor time as several callbacks. `0s`: one sync follows the other.
    pub sync_interval_min: Period,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("/var/lib/chat-bridge"),
            size_max: Size::from_gib(8),
            segment_size: Size::from_mib(64),
            free_space_min: Size::from_mib(256),
            answer_max: Period::from_millis(1_500),
            sync_interval_min: Period::from_millis(1),
        }
    }
}
