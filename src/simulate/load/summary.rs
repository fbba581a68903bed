//! What a load came to, as figures, text and JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use uuid::Uuid;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "how", content = "why")]
pub enum Ended {
    /// By its duration or count.
    Complete,
    /// It was told to stop.
    Stopped,
    /// A connection broke, or could not be opened, and it was not to go on.
    Broken(String),
}

/// Latencies, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half were not slower.
    pub p50: f64,
    /// 90 of 100 were not slower.
    pub p90: f64,
    /// 99 of 100 were not slower.
    pub p99: f64,
    /// 999 of 1000 were not slower.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

/// What a load came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// What tells this run's callbacks from any other's.
    pub run: Uuid,
    /// What the callbacks were drawn with.
    pub seed: u64,
    /// How it ended.
    pub ended: Ended,
    /// How long it took, seconds.
    pub seconds: f64,
    /// Callbacks sent: acknowledged, refused and unknown together.
    pub sent: u64,
    /// Answered 200.
    pub acknowledged: u64,
    /// Of these, answered with other bytes than those of a durable callback.
    pub acknowledged_otherwise: u64,
    /// Refused, by status.
    pub refused: BTreeMap<u16, u64>,
    /// Neither acknowledged nor refused.
    pub unknown: u64,
    /// Scheduled, and not sent because the run ended before their turn.
    pub unsent: u64,
    /// Connections that broke with a callback in flight.
    pub broken: u64,
    /// Connections that were opened again.
    pub reopened: u64,
    /// Attempts to connect that failed.
    pub connect_failures: u64,
    /// Acknowledged a second.
    pub acknowledged_per_second: f64,
    /// Of the acknowledged: from the moment at which a callback ought to have been sent to its answer, seconds.
    pub latency_seconds: Option<Percentiles>,
    /// Of the acknowledged: from the moment at which a callback was sent to its answer, seconds. In a closed loop the same.
    pub service_seconds: Option<Percentiles>,
}

impl Summary {
    /// How many were refused, whatever the status.
    #[must_use]
    pub fn refused_total(&self) -> u64 {
        self.refused.values().sum()
    }
}

impl Percentiles {
    /// `None` where nothing was measured: no latency is not a latency of nothing.
    pub(crate) fn of_micros(histogram: &Histogram<u64>) -> Option<Self> {
        if histogram.is_empty() {
            return None;
        }
        let seconds = |micros| Duration::from_micros(micros).as_secs_f64();
        let at = |quantile| seconds(histogram.value_at_quantile(quantile));
        Some(Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: seconds(histogram.max()) })
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, p999, max } = *self;
        let [p50, p90, p99, p999, max] = [p50, p90, p99, p999, max].map(written);
        write!(out, "p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, max {max}")
    }
}

/// A time in milliseconds, or from a second on in seconds.
fn written(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.2} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

/// The percentiles, or a dash where there are none.
pub(crate) fn or_dash(percentiles: Option<&Percentiles>) -> String {
    percentiles.map_or_else(|| "-".to_owned(), ToString::to_string)
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "run           {} (seed {})", self.run, self.seed)?;
        match &self.ended {
            Ended::Complete => writeln!(out, "ended         complete, after {:.1} s", self.seconds)?,
            Ended::Stopped => writeln!(out, "ended         stopped, after {:.1} s", self.seconds)?,
            Ended::Broken(why) => writeln!(out, "ended         broken, after {:.1} s: {why}", self.seconds)?,
        }
        writeln!(out, "sent          {}", self.sent)?;
        write!(out, "acknowledged  {} ({:.0}/s)", self.acknowledged, self.acknowledged_per_second)?;
        if self.acknowledged_otherwise > 0 {
            write!(out, ", {} of them with other bytes than a durable callback's", self.acknowledged_otherwise)?;
        }
        write!(out, "\nrefused       {}", self.refused_total())?;
        for (status, count) in &self.refused {
            write!(out, ", {status}: {count}")?;
        }
        writeln!(out, "\nunknown       {}", self.unknown)?;
        if self.unsent > 0 {
            writeln!(out, "unsent        {}", self.unsent)?;
        }
        if self.broken + self.reopened + self.connect_failures > 0 {
            writeln!(
                out,
                "connections   {} broke, {} opened again, {} attempts failed",
                self.broken, self.reopened, self.connect_failures
            )?;
        }
        writeln!(out, "latency       {}", or_dash(self.latency_seconds.as_ref()))?;
        write!(out, "service time  {}", or_dash(self.service_seconds.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_told_in_the_unit_that_reads_best_and_not_where_there_are_none() {
        let mut histogram = Histogram::new(3).unwrap();
        assert_eq!(or_dash(Percentiles::of_micros(&histogram).as_ref()), "-");
        for micros in [250, 1_500, 12_345_678] {
            histogram.record(micros).unwrap();
        }
        let text = or_dash(Percentiles::of_micros(&histogram).as_ref());
        assert_eq!(text, "p50 1.50 ms, p90 12.35 s, p99 12.35 s, p99.9 12.35 s, max 12.35 s");
    }
}
