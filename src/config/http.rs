//! `[http]`: the public listener and its limits.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::network;
use super::units::{Period, Size};

/// The public side: where callbacks arrive, and what bounds them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Where callbacks are received.
    #[serde(deserialize_with = "network::address")]
    pub listen: SocketAddr,
    /// The largest body. The bodies of a disbanded group of 6,000 members come to some 400 KB; 4 MiB leaves room for ten times that.
    pub body_max: Size,
    /// From the end of the headers to the end of the body. Chat itself gives up after 2 s; slower senders are not Chat.
    pub body_timeout: Period,
    /// From the first byte of a request to the end of its headers.
    pub header_timeout: Period,
    /// The largest head: request line and headers together.
    pub header_max: Size,
    /// How long a connection may stand without a request. Chat keeps its connections open, so this is long.
    pub idle_timeout: Period,
    /// Connections open at once; a further one is closed at once.
    pub connections_max: u32,
    /// Bytes of bodies in hand at once; beyond it 503. It bounds memory, with a share for each of the largest senders.
    pub bodies_max: Size,
    /// Networks whose `X-Forwarded-For` is believed: the sender is its rightmost address outside of them.
    #[serde(deserialize_with = "network::list")]
    pub trusted_proxies: Vec<IpNet>,
    /// TLS on the public port; plain HTTP where it is absent, as behind a proxy that ends TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// The files of TLS, in PEM. All of them are read again when their contents change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate, then those of the authorities between it and the root that clients know.
    pub certificate: PathBuf,
    /// The certificate's private key: PKCS#8, PKCS#1 or SEC1, without a password.
    pub private_key: PathBuf,
    /// The authorities by one of which a client's certificate must be signed (mutual TLS); clients need none where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)),
            body_max: Size::from_mib(4),
            body_timeout: Period::from_secs(10),
            header_timeout: Period::from_secs(10),
            header_max: Size::from_kib(32),
            idle_timeout: Period::from_secs(600),
            connections_max: 10_000,
            bodies_max: Size::from_mib(128),
            trusted_proxies: Vec::new(),
            tls: None,
        }
    }
}
