//! `[admin]`: the operator's listener.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::network;
use super::units::Period;

/// The operator's side: probes and metrics, on a port of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    #[serde(deserialize_with = "network::address")]
    pub listen: SocketAddr,
    /// Connections open at once; a further one is closed at once. Probes and scrapes need few.
    pub connections_max: u32,
    /// From the opening of a connection to the end of its answer. Probes give up sooner.
    pub request_timeout: Period,
    /// How long an event loop may go without a turn before `/livez` says so. Far longer than any pause of a loop that works.
    pub stall_max: Period,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9090)),
            connections_max: 64,
            request_timeout: Period::from_secs(10),
            stall_max: Period::from_secs(10),
        }
    }
}
