//! `[shutdown]`: how the bridge ends.

use serde::{Deserialize, Serialize};

use super::units::Period;

/// The deadlines of a stop by signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// How long callbacks are still accepted after the bridge is unready: until load balancers have noticed.
    pub lame_duck: Period,
    /// How long the journal is forwarded after that. What is left stays for the next start.
    pub drain_max: Period,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { lame_duck: Period::from_secs(5), drain_max: Period::from_secs(20) }
    }
}
