//! The metrics of the sending of spans.

use prometheus::{IntCounter, IntCounterVec, Registry};

use super::{counter, counters};

/// Why a finished span did not reach the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanLoss {
    /// More wait than the queue holds.
    QueueFull,
    /// The collector was away, or busy, for all tries.
    Unreachable,
    /// The collector does not take it.
    Rejected,
    /// The bridge ended first.
    Stopped,
}

impl SpanLoss {
    const ALL: [Self; 4] = [Self::QueueFull, Self::Unreachable, Self::Rejected, Self::Stopped];

    const fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Unreachable => "unreachable",
            Self::Rejected => "rejected",
            Self::Stopped => "stopped",
        }
    }
}

/// What the sending of spans moves.
#[derive(Clone, Debug)]
pub struct Traces {
    /// Spans that the collector has taken.
    pub exported: IntCounter,
    dropped: IntCounterVec,
}

impl Traces {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let dropped =
            counters(registry, "spans_dropped_total", "Finished spans that did not reach the collector, by reason.", &["reason"])?;
        for loss in SpanLoss::ALL {
            dropped.with_label_values(&[loss.label()]);
        }
        Ok(Self { exported: counter(registry, "spans_exported_total", "Spans that the collector has taken.")?, dropped })
    }

    /// The counter of one loss.
    #[must_use]
    pub fn dropped(&self, loss: SpanLoss) -> IntCounter {
        self.dropped.with_label_values(&[loss.label()])
    }
}
