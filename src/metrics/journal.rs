//! The metrics of the journal.

use prometheus::{Gauge, Histogram, IntCounter, IntGauge, Registry};

use super::{Ingress, counter, gauge, histogram, real_gauge};

/// What the journal moves.
#[derive(Clone, Debug)]
pub struct Journal {
    /// Records that became durable. It is `chat_bridge_callbacks_total{outcome="accepted"}`: a callback counts as accepted when it is durable, even
    /// if its sender has hung up.
    pub durable_records: IntCounter,
    /// Bytes written to segments.
    pub appended_bytes: IntCounter,
    /// Records written to segments.
    pub appended_records: IntCounter,
    /// Bytes made durable.
    pub synced_bytes: IntCounter,
    /// Records made durable.
    pub synced_records: IntCounter,
    /// Records a batch.
    pub batch_records: Histogram,
    /// One `fdatasync` of a segment, seconds.
    pub sync_duration_seconds: Histogram,
    /// Segments, spares and set-aside files together.
    pub size_bytes: IntGauge,
    /// The limit of [`Journal::size_bytes`].
    pub size_max_bytes: IntGauge,
    /// Segment files that hold records.
    pub segments: IntGauge,
    /// Segment files whose records are all completed.
    pub published_segments: IntGauge,
    /// Segments freed before `journal.retention` was over, because their room was needed.
    pub retention_cut_short: IntCounter,
    /// Prepared segment files that wait for their use.
    pub spares: IntGauge,
    /// 1 while no room is left.
    pub full: IntGauge,
    /// 1 once a write or a sync has failed.
    pub failed: IntGauge,
    /// Records durable and not yet completed.
    pub unpublished_records: IntGauge,
    /// When the oldest unpublished record was received, seconds since 1970; 0 where there is none.
    pub oldest_unpublished_timestamp_seconds: Gauge,
    /// Records that were unpublished at start.
    pub recovered_records: IntCounter,
    /// Torn tails that were cut at start.
    pub torn_tails: IntCounter,
    /// Corrupt pieces that were set aside.
    pub set_aside: IntCounter,
    /// New journal identities that were taken because the log had lost its end.
    pub identity_changes: IntCounter,
    /// Both slots of the checkpoint were bad at start.
    pub checkpoint_losses: IntCounter,
}

impl Journal {
    pub(super) fn new(registry: &Registry, ingress: &Ingress) -> Result<Self, prometheus::Error> {
        Ok(Self {
            durable_records: ingress.accepted.clone(),
            appended_bytes: counter(registry, "journal_appended_bytes_total", "Bytes written to segments.")?,
            appended_records: counter(registry, "journal_appended_records_total", "Records written to segments.")?,
            synced_bytes: counter(registry, "journal_synced_bytes_total", "Bytes made durable.")?,
            synced_records: counter(registry, "journal_synced_records_total", "Records made durable.")?,
            batch_records: histogram(
                registry,
                "journal_batch_records",
                "Records made durable by one sync.",
                &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0],
            )?,
            sync_duration_seconds: histogram(
                registry,
                "journal_sync_duration_seconds",
                "Duration of one fdatasync of a segment.",
                &[0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5],
            )?,
            size_bytes: gauge(registry, "journal_size_bytes", "Segments, spares and set-aside files together.")?,
            size_max_bytes: gauge(registry, "journal_size_max_bytes", "Limit of the journal's size.")?,
            segments: gauge(registry, "journal_segments", "Segment files that hold records.")?,
            published_segments: gauge(registry, "journal_published_segments", "Segment files whose records are all completed.")?,
            retention_cut_short: counter(
                registry,
                "journal_retention_cut_short_total",
                "Published segments freed before journal.retention was over, for room.",
            )?,
            spares: gauge(registry, "journal_spare_segments", "Prepared segment files that wait for their use.")?,
            full: gauge(registry, "journal_full", "1 while the journal has no room for callbacks.")?,
            failed: gauge(registry, "journal_failed", "1 once a write or a sync has failed.")?,
            unpublished_records: gauge(registry, "journal_unpublished_records", "Records durable and not yet completed.")?,
            oldest_unpublished_timestamp_seconds: real_gauge(
                registry,
                "journal_oldest_unpublished_timestamp_seconds",
                "When the oldest unpublished record was received, seconds since 1970; 0 where there is none.",
            )?,
            recovered_records: counter(registry, "journal_recovered_records_total", "Records that were unpublished at start.")?,
            torn_tails: counter(registry, "journal_torn_tails_total", "Incomplete last frames that were cut at start.")?,
            set_aside: counter(registry, "journal_set_aside_total", "Corrupt pieces that were set aside.")?,
            identity_changes: counter(
                registry,
                "journal_identity_changes_total",
                "New journal identities taken because the log had lost its end.",
            )?,
            checkpoint_losses: counter(registry, "journal_checkpoint_losses_total", "Starts at which no slot of the checkpoint was good.")?,
        })
    }
}
