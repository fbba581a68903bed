//! The metrics of the process as a whole.

use prometheus::{IntGauge, Registry};

use super::{gauge, gauges};

/// What the process as a whole moves.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// 1 while new callbacks can be made durable.
    pub ready: IntGauge,
    /// 1 while the operator has the bridge drained.
    pub draining: IntGauge,
}

impl Bridge {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let build = gauges(registry, "build_info", "1; its label tells the version.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            ready: gauge(registry, "ready", "1 while new callbacks can be made durable.")?,
            draining: gauge(registry, "draining", "1 while the operator has the bridge drained.")?,
        })
    }
}
