//! The figures of a run: each round, and for each number of connections the median of its rounds.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;

use chat_bridge::simulate::load::{Percentiles, Summary};
use serde::Serialize;

use super::Kind;
use super::process::Usage;

/// What one server did in one round.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Round {
    server: Kind,
    connections: u32,
    acknowledged_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    /// User and system time of the server's process, for each acknowledged callback.
    cpu_us_per_callback: f64,
    rss_mib: f64,
    /// From a callback's receipt to the report, or the commit, of its event; the mean.
    to_kafka_ms: f64,
    /// Callbacks that were not acknowledged.
    failed: u64,
}

type Figure = (&'static str, fn(&Round) -> f64);

/// The figures of a [`Round`] that are compared, in the order of the table.
const FIGURES: [Figure; 7] = [
    ("callbacks/s", |round| round.acknowledged_per_second),
    ("p50 ms", |round| round.p50_ms),
    ("p99 ms", |round| round.p99_ms),
    ("p99.9 ms", |round| round.p999_ms),
    ("CPU µs/callback", |round| round.cpu_us_per_callback),
    ("RSS MiB", |round| round.rss_mib),
    ("to Kafka ms", |round| round.to_kafka_ms),
];

/// Events that were delivered, and the time that it took for all of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deliveries {
    pub(crate) count: f64,
    pub(crate) seconds: f64,
}

impl Deliveries {
    pub(crate) fn since(self, before: Self) -> Self {
        Self { count: self.count - before.count, seconds: self.seconds - before.seconds }
    }
}

impl Round {
    pub(crate) fn of(server: Kind, connections: NonZeroU32, summary: &Summary, usage: Usage, deliveries: Deliveries) -> Self {
        let millis = |of: fn(Percentiles) -> f64| summary.latency_seconds.map_or(f64::NAN, of) * 1e3;
        let acknowledged = float(summary.acknowledged).max(1.0);
        Self {
            server,
            connections: connections.get(),
            acknowledged_per_second: summary.acknowledged_per_second,
            p50_ms: millis(|latency| latency.p50),
            p99_ms: millis(|latency| latency.p99),
            p999_ms: millis(|latency| latency.p999),
            cpu_us_per_callback: usage.cpu.as_secs_f64() * 1e6 / acknowledged,
            rss_mib: float(usage.rss_bytes) / f64::from(1 << 20),
            to_kafka_ms: deliveries.seconds * 1e3 / deliveries.count.max(1.0),
            failed: summary.sent - summary.acknowledged,
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} connections, {}:", self.connections, self.server.name())?;
        for (name, figure) in FIGURES {
            write!(out, " {name} {:.2},", figure(self))?;
        }
        write!(out, " {} failed", self.failed)
    }
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Naive => "naive",
            Self::Baseline => "baseline",
            Self::Bridge => "bridge",
            Self::Traced => "traced",
            Self::ExactlyOnce => "exactly-once",
        }
    }

    /// What it is read beside, and the name of that row.
    const fn beside(self) -> &'static [(Self, &'static str)] {
        match self {
            Self::Bare | Self::Baseline => &[],
            Self::Naive => &[(Self::Bare, "naive/bare")],
            Self::Bridge => &[(Self::Bare, "bridge/bare"), (Self::Naive, "bridge/naive"), (Self::Baseline, "bridge/baseline")],
            Self::Traced => &[(Self::Bridge, "traced/bridge")],
            Self::ExactlyOnce => &[(Self::Bridge, "once/bridge")],
        }
    }
}

/// The medians.
pub(crate) struct Table(BTreeMap<(u32, Kind), Medians>);

struct Medians {
    figures: [f64; FIGURES.len()],
    failed: u64,
}

impl Table {
    pub(crate) fn of(rounds: &[Round]) -> Self {
        let mut groups: BTreeMap<(u32, Kind), Vec<&Round>> = BTreeMap::new();
        for round in rounds {
            groups.entry((round.connections, round.server)).or_default().push(round);
        }
        let medians = |rounds: Vec<&Round>| Medians {
            figures: FIGURES.map(|(_, figure)| median(rounds.iter().map(|round| figure(round)).collect())),
            failed: rounds.iter().map(|round| round.failed).sum(),
        };
        Self(groups.into_iter().map(|(group, rounds)| (group, medians(rounds))).collect())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:>11}  {:<15}", "connections", "server")?;
        for (name, _) in FIGURES {
            write!(out, "  {name:>15}")?;
        }
        writeln!(out, "  {:>6}", "failed")?;
        for ((connections, kind), medians) in &self.0 {
            write!(out, "{connections:>11}  {:<15}", kind.name())?;
            for figure in medians.figures {
                write!(out, "  {figure:>15.2}")?;
            }
            writeln!(out, "  {:>6}", medians.failed)?;
            for (beside, name) in kind.beside() {
                let Some(of_beside) = self.0.get(&(*connections, *beside)) else { continue };
                write!(out, "{connections:>11}  {name:<15}")?;
                for (figure, of_beside) in medians.figures.iter().zip(of_beside.figures) {
                    // The bare server delivers nothing.
                    let ratio = if of_beside > 0.0 { format!("{:.2}", figure / of_beside) } else { "-".to_owned() };
                    write!(out, "  {ratio:>15}")?;
                }
                writeln!(out)?;
            }
        }
        Ok(())
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let (low, high) = (figures.get((figures.len().saturating_sub(1)) / 2), figures.get(figures.len() / 2));
    low.zip(high).map_or(0.0, |(low, high)| f64::midpoint(*low, *high))
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "counts beyond 2^53 do not occur, and std has no other way")]
fn float(count: u64) -> f64 {
    count as f64
}
