//! Says in the log what only counters and states would tell: that the journal has no room, and that callbacks are refused.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use crate::ingress::Refusal;
use crate::journal::{Journal, State};
use crate::metrics;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How often refusals for one reason are told at most.
const TELL_EVERY: Duration = Duration::from_mins(1);

/// Looks until it is dropped. Cancel safe.
pub(super) async fn watch(journal: Journal, metrics: metrics::Ingress) -> Infallible {
    let mut full = false;
    let mut refusals = Refusals::default();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match journal.state() {
            State::Full(reason) if !full => {
                tracing::warn!(%reason, "journal full: callbacks are refused with 503 until there is room");
                full = true;
            }
            State::Open if full => {
                tracing::info!("journal has room again");
                full = false;
            }
            State::Open | State::Full(_) | State::Failed(_) | State::Closed => {}
        }
        let now = Instant::now();
        for refusal in Refusal::ALL {
            let total = metrics.refused(refusal.reason()).get();
            if let Some(callbacks) = refusals.news(refusal.reason(), total, now) {
                tracing::warn!(
                    reason = refusal.reason(),
                    status = refusal.status().as_u16(),
                    callbacks,
                    "callbacks refused: each one is lost"
                );
            }
        }
    }
}

/// What was told of each reason, and when.
#[derive(Default)]
struct Refusals {
    told: BTreeMap<&'static str, (u64, Instant)>,
}

impl Refusals {
    /// How many refusals are to be told now; none where there are none, or where some were told a short while ago.
    fn news(&mut self, reason: &'static str, total: u64, now: Instant) -> Option<u64> {
        let (before, at) = self.told.get(reason).map_or((0, None), |(total, at)| (*total, Some(*at)));
        let due = at.is_none_or(|at| now.duration_since(at) >= TELL_EVERY);
        let fresh = total.saturating_sub(before);
        if fresh == 0 || !due {
            return None;
        }
        self.told.insert(reason, (total, now));
        Some(fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_at_once_and_then_once_a_while_and_none_is_left_out() {
        let start = Instant::now();
        let mut refusals = Refusals::default();
        assert_eq!(refusals.news("source", 0, start), None);
        assert_eq!(refusals.news("source", 2, start), Some(2));
        assert_eq!(refusals.news("source", 9, start + TELL_EVERY / 2), None);
        assert_eq!(refusals.news("sign_wrong", 1, start + TELL_EVERY / 2), Some(1));
        assert_eq!(refusals.news("source", 9, start + TELL_EVERY), Some(7));
        assert_eq!(refusals.news("source", 9, start + TELL_EVERY * 3), None);
    }
}
