//! Why the bridge did not start, or ended, and what the operator can do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::admin;
use crate::forwarder;
use crate::ingress;
use crate::journal;
use crate::kafka;
use crate::traces;

/// Why the bridge did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The public side.
    #[error("serve callbacks")]
    Ingress(#[source] ingress::Error),
    /// An event loop of the public side ended.
    #[error("serve callbacks")]
    IngressEnded(#[source] ingress::Failure),
    /// The operator's side.
    #[error("serve the operator")]
    Admin(#[source] admin::Error),
    /// The settings of Kafka's client.
    #[error("set up kafka's client")]
    Kafka(#[source] kafka::Error),
    /// The journal could not be opened, or has failed.
    #[error("keep the journal")]
    Journal(#[source] Arc<journal::Error>),
    /// The forwarder ended.
    #[error("forward the journal")]
    Forwarder(#[source] forwarder::Error),
    /// The metrics could not be registered.
    #[error("register metrics")]
    Metrics(#[source] prometheus::Error),
    /// The file of the operator's tokens.
    #[error("read the file {} for admin.token_file", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// The mark of a drain.
    #[error("look for a drain")]
    Drain(#[source] admin::drain::Error),
    /// The sending of spans could not be set up.
    #[error("record traces")]
    Traces(#[source] traces::Error),
    /// The system refuses threads or signals.
    #[error("set up the process")]
    System(#[source] io::Error),
}

/// What the operator can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Change the configuration.
    Configuration,
    /// Look after disk or network of this machine.
    Io,
    /// Look after whoever else works under the same name.
    Unavailable,
    /// Report a fault of the program.
    Internal,
}

impl Error {
    /// What the operator can do about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Ingress(ingress::Error::Tokens(_) | ingress::Error::Tls(_))
            | Self::Forwarder(forwarder::Error::Record { .. } | forwarder::Error::Positions(_))
            | Self::Token { .. }
            | Self::Traces(
                traces::Error::Endpoint(_) | traces::Error::Headers(_) | traces::Error::Authorities { .. } | traces::Error::Tls(_),
            ) => Remedy::Configuration,
            Self::Forwarder(forwarder::Error::Superseded { .. }) => Remedy::Unavailable,
            Self::Kafka(error) if error.is_configuration() => Remedy::Configuration,
            Self::Journal(error) => match error.class() {
                journal::Class::Configuration => Remedy::Configuration,
                journal::Class::Io => Remedy::Io,
                journal::Class::Internal => Remedy::Internal,
            },
            Self::Ingress(_)
            | Self::Admin(_)
            | Self::Drain(_)
            | Self::System(_)
            | Self::Traces(traces::Error::Thread(_))
            | Self::Forwarder(forwarder::Error::Journal(_) | forwarder::Error::Oversized { .. } | forwarder::Error::Thread(_)) => {
                Remedy::Io
            }
            Self::Kafka(_) | Self::IngressEnded(_) | Self::Metrics(_) | Self::Forwarder(_) => Remedy::Internal,
        }
    }
}
