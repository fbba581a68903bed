//! Where a load is sent.

use std::str::FromStr;

use super::traffic::PathAndHost;

/// Where callbacks are sent: the URL that an app's owner would enter in Chat's console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Host and port, to connect to.
    pub(super) authority: String,
    pub(super) request: PathAndHost,
}

/// Why a text is no [`Target`].
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Not a URL at all.
    #[error("not a URL")]
    Malformed(#[from] hyper::http::uri::InvalidUri),
    /// Another scheme.
    #[error("only http:// is supported")]
    Scheme,
    /// No host.
    #[error("it names no host")]
    NoHost,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let uri: hyper::Uri = text.parse()?;
        if uri.scheme_str() != Some("http") {
            return Err(TargetError::Scheme);
        }
        let authority = uri.authority().ok_or(TargetError::NoHost)?;
        let host = authority.host();
        if host.is_empty() {
            return Err(TargetError::NoHost);
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let joint = if path.contains('?') { '&' } else { '?' };
        Ok(Self {
            authority: format!("{host}:{}", authority.port_u16().unwrap_or(80)),
            request: PathAndHost { path: format!("{path}{joint}"), host: authority.as_str().to_owned() },
        })
    }
}
