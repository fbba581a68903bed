//! `[tracing]`: whether spans are recorded, and where they go.

use std::fmt;
use std::path::PathBuf;

use hyper::Uri;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::units::Period;

/// Spans of requests and publications, for a collector of OpenTelemetry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tracing {
    /// The collector; nothing is recorded where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
    /// What the collector speaks.
    pub otlp_protocol: OtlpProtocol,
    /// The share of traces that is recorded, of those that begin here. A request in a trace goes by the decision that it carries.
    pub sample_ratio: Ratio,
    /// How long the collector may take to accept a batch.
    pub otlp_timeout: Period,
    /// Finished spans that wait; what comes beyond is dropped and counted.
    pub queue_max: u32,
    /// A file of headers for the collector, `Name: value` a line, which may hold its token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers_file: Option<PathBuf>,
    /// The authorities, in PEM, by one of which the collector's certificate must be signed. The default is where Debian has the system's, and images made from it.
    pub ca_file: PathBuf,
    /// `service.name` of the spans: what this bridge is called among the services.
    pub service_name: String,
}

impl Default for Tracing {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            otlp_protocol: OtlpProtocol::Grpc,
            sample_ratio: Ratio(1.0),
            otlp_timeout: Period::from_secs(10),
            queue_max: 8192,
            headers_file: None,
            ca_file: "/etc/ssl/certs/ca-certificates.crt".into(),
            service_name: "chat-bridge".to_owned(),
        }
    }
}

/// How OTLP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OtlpProtocol {
    /// gRPC, by convention on port 4317.
    Grpc,
    /// HTTP/1.1 with protobuf bodies, by convention on port 4318.
    Http,
}

/// A share: 0 is none, 1 is all.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Ratio(f64);

/// It is never NaN.
impl Eq for Ratio {}

impl Ratio {
    /// A share from 0 to 1; `None` outside of that.
    #[must_use]
    pub fn new(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then_some(Self(share))
    }

    /// Whether a draw of 63 bits is within the share.
    #[must_use]
    pub fn admits(self, draw: u64) -> bool {
        const DRAWS: f64 = 9_223_372_036_854_775_808.0;
        #[expect(clippy::cast_precision_loss, clippy::as_conversions, reason = "a share of traces needs no 63 bits")]
        let draw = draw as f64;
        self.0 >= 1.0 || draw < self.0 * DRAWS
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

impl Serialize for Ratio {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0)
    }
}

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Ratio;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a number from 0 to 1")
            }

            fn visit_f64<E: de::Error>(self, share: f64) -> Result<Ratio, E> {
                Ratio::new(share).ok_or_else(|| E::invalid_value(de::Unexpected::Float(share), &self))
            }

            fn visit_u64<E: de::Error>(self, share: u64) -> Result<Ratio, E> {
                let unexpected = || E::invalid_value(de::Unexpected::Unsigned(share), &self);
                u32::try_from(share).ok().and_then(|share| Ratio::new(f64::from(share))).ok_or_else(unexpected)
            }

            fn visit_i64<E: de::Error>(self, share: i64) -> Result<Ratio, E> {
                let unexpected = || E::invalid_value(de::Unexpected::Signed(share), &self);
                i32::try_from(share).ok().and_then(|share| Ratio::new(f64::from(share))).ok_or_else(unexpected)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Where the collector is, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it is spoken to by TLS.
    pub security: Security,
    /// A name, or an address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Host and port as a request names them.
    pub authority: String,
    /// What is before the path of OTLP; empty where nothing is.
    pub base: String,
}

/// Whether a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// `http://`
    Plain,
    /// `https://`
    Tls,
}

impl Endpoint {
    /// Takes a URL apart; the error says what it has to be. It is not quoted: a URL may hold a password.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        const FORM: &str = "is `http://host:port` or `https://host:port`, and may have a path";
        let uri: Uri = url.parse().map_err(|_| FORM)?;
        let (security, port) = match uri.scheme_str() {
            Some("http") => (Security::Plain, 80),
            Some("https") => (Security::Tls, 443),
            Some(_) | None => return Err(FORM),
        };
        let (Some(authority), Some(host)) = (uri.authority(), uri.host().filter(|host| !host.is_empty())) else { return Err(FORM) };
        if authority.as_str().contains('@') {
            return Err("holds a name or password: write them as a header into the file of `tracing.headers_file`");
        }
        // What follows the host is a port, which may be none.
        let is_no_port = authority.as_str() != authority.host() && authority.port_u16().is_none();
        if is_no_port || uri.query().is_some() || url.contains('#') {
            return Err(FORM);
        }
        Ok(Self {
            security,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: uri.port_u16().unwrap_or(port),
            authority: authority.as_str().to_owned(),
            base: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_taken_apart_or_refused() {
        for (url, apart) in [
            ("http://localhost:4317", Some((Security::Plain, "localhost", 4317, "localhost:4317", ""))),
            ("http://collector", Some((Security::Plain, "collector", 80, "collector", ""))),
            ("https://[::1]/", Some((Security::Tls, "::1", 443, "[::1]", ""))),
            ("https://otlp.example.com:8443/otlp/", Some((Security::Tls, "otlp.example.com", 8443, "otlp.example.com:8443", "/otlp"))),
            ("localhost:4317", None),
            ("grpc://localhost:4317", None),
            ("http://", None),
            ("http://:4317", None),
            ("http://host:99999", None),
            ("http://host:", None),
            ("http://[::1]:4317/v1", Some((Security::Plain, "::1", 4317, "[::1]:4317", "/v1"))),
            ("http://user:hunter2@host:4317", None),
            ("http://host?token=hunter2", None),
            ("http://host#x", None),
            ("", None),
        ] {
            let parsed = Endpoint::parse(url);
            let found = parsed.as_ref().ok().map(|e| (e.security, e.host.as_str(), e.port, e.authority.as_str(), e.base.as_str()));
            assert_eq!(found, apart, "{url}");
            assert!(!parsed.err().unwrap_or_default().contains("hunter2"));
        }
    }

    #[test]
    fn a_ratio_is_a_share_of_all_draws() {
        for (share, draw, admitted) in [
            (0.0, 0, false),
            (1.0, u64::MAX >> 1, true),
            (0.5, (1 << 62) - 1024, true),
            (0.5, 1 << 62, false),
            (0.25, 1 << 61, false),
            (0.25, (1 << 61) - 1024, true),
        ] {
            assert_eq!(Ratio(share).admits(draw), admitted, "{share} {draw}");
        }
        assert_eq!([-0.1, 1.1, f64::NAN].map(Ratio::new), [None; 3]);
        let read = |text: &str| toml::from_str::<Tracing>(&format!("sample_ratio = {text}")).ok().map(|tracing| tracing.sample_ratio.0);
        assert_eq!(["0.1", "1", "0", "2", "-1", "'1'", "nan"].map(read), [Some(0.1), Some(1.0), Some(0.0), None, None, None, None]);
    }
}
