//! The collector: one connection, kept as long as it lasts, and one unary call a batch, by gRPC or by HTTP with protobuf bodies.
//!
//! Nothing is retried here; a failure says whether the same batch is worth another try.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, TE, USER_AGENT};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::batch;
use crate::config::{Endpoint, OtlpProtocol};

/// The most that is read of an answer.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const HTTP_PATH: &str = "/v1/traces";
const AGENT: &str = concat!("chat-bridge/", env!("CARGO_PKG_VERSION"));

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The collector cannot be reached, or the connection broke.
    #[error("reach the collector")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It has not answered in time.
    #[error("have an answer of the collector in time")]
    TimedOut,
    /// It cannot take the batch now.
    #[error("have the batch taken now: {0}")]
    Busy(Status),
    /// It does not take the batch, now or later.
    #[error("have the batch taken: {0}")]
    Refused(Status),
}

impl Failure {
    /// What an operator would act on, in a word.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::TimedOut => "unreachable",
            Self::Busy(_) => "busy",
            Self::Refused(_) => "refused",
        }
    }

    /// Whether the same batch may be taken later (OTLP 1.x, "Failures").
    pub(super) const fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TimedOut | Self::Busy(_) => true,
            Self::Refused(_) => false,
        }
    }
}

/// What the collector says of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Http(u16),
    Grpc(u16),
    /// An answer of gRPC without its status.
    None,
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(status) => write!(out, "HTTP status {status}"),
            Self::Grpc(status) => write!(out, "gRPC status {status}"),
            Self::None => out.write_str("no gRPC status"),
        }
    }
}

impl Status {
    fn failure(self) -> Failure {
        let passing = match self {
            // Cancelled, deadline exceeded, aborted, out of range, unavailable, data loss. Resource exhausted is only with a delay that we do not read.
            Self::Grpc(status) => matches!(status, 1 | 4 | 10 | 11 | 14 | 15),
            Self::Http(status) => matches!(status, 429 | 502..=504),
            Self::None => false,
        };
        if passing { Failure::Busy(self) } else { Failure::Refused(self) }
    }
}

/// The collector, and the connection to it where there is one.
pub(super) struct Collector {
    endpoint: Endpoint,
    protocol: OtlpProtocol,
    /// `None` where it is spoken to without TLS.
    tls: Option<TlsConnector>,
    uri: Uri,
    connection: Option<Connection>,
}

enum Connection {
    Grpc(http2::SendRequest<Full<Bytes>>),
    Http(http1::SendRequest<Full<Bytes>>),
}

impl Collector {
    /// `tls` is none for an endpoint without TLS.
    pub(super) fn new(endpoint: Endpoint, protocol: OtlpProtocol, tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        let path = match protocol {
            OtlpProtocol::Grpc => format!("{}{GRPC_PATH}", endpoint.base),
            OtlpProtocol::Http => format!("{}{HTTP_PATH}", endpoint.base),
        };
        let uri = match protocol {
            OtlpProtocol::Grpc => {
                let scheme = if tls.is_some() { "https" } else { "http" };
                Uri::builder().scheme(scheme).authority(endpoint.authority.as_str()).path_and_query(path).build()
            }
            OtlpProtocol::Http => Uri::builder().path_and_query(path).build(),
        };
        // Each part was taken from a URI.
        Self { endpoint, protocol, tls: tls.map(TlsConnector::from), uri: uri.unwrap_or_default(), connection: None }
    }

    /// Sends a batch; tells how many of its spans were rejected all the same. Cancel safe: the connection goes, and the next batch has another one.
    pub(super) async fn send(&mut self, batch: &Bytes, headers: &HeaderMap) -> Result<u64, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) if connection.is_usable() => connection,
            Some(_) | None => self.connect().await.map_err(Failure::Unreachable)?,
        };
        let request = self.request(batch, headers);
        let response = connection.send(request).await.map_err(|error| Failure::Unreachable(Box::new(error)))?;
        let answer = read(self.protocol, response).await;
        if !matches!(answer, Err(Failure::Unreachable(_))) {
            self.connection = Some(connection);
        }
        answer
    }

    fn request(&self, batch: &Bytes, headers: &HeaderMap) -> Request<Full<Bytes>> {
        let body = match self.protocol {
            OtlpProtocol::Http => batch.clone(),
            OtlpProtocol::Grpc => {
                // One message, not compressed.
                let mut framed = BytesMut::with_capacity(batch.len() + 5);
                framed.put_u8(0);
                framed.put_u32(u32::try_from(batch.len()).unwrap_or(u32::MAX));
                framed.extend_from_slice(batch);
                framed.freeze()
            }
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let into = request.headers_mut();
        into.extend(headers.clone());
        into.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        match self.protocol {
            OtlpProtocol::Grpc => {
                into.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                into.insert(TE, HeaderValue::from_static("trailers"));
            }
            OtlpProtocol::Http => {
                into.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
                if let Ok(host) = HeaderValue::from_str(&self.endpoint.authority) {
                    into.insert(HOST, host);
                }
            }
        }
        request
    }

    async fn connect(&self) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect((self.endpoint.host.as_str(), self.endpoint.port)).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => self.shake_hands(stream).await,
            Some(tls) => {
                let name = ServerName::try_from(self.endpoint.host.clone()).map_err(io::Error::other)?;
                self.shake_hands(tls.connect(name, stream).await?).await
            }
        }
    }

    async fn shake_hands<S>(&self, stream: S) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        match self.protocol {
            OtlpProtocol::Grpc => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
                // It ends with its sender; what goes wrong is told to the request.
                tokio::spawn(connection);
                Ok(Connection::Grpc(sender))
            }
            OtlpProtocol::Http => {
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                Ok(Connection::Http(sender))
            }
        }
    }
}

impl Connection {
    fn is_usable(&self) -> bool {
        match self {
            Self::Grpc(sender) => !sender.is_closed(),
            Self::Http(sender) => !sender.is_closed(),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Grpc(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

async fn read(protocol: OtlpProtocol, response: Response<Incoming>) -> Result<u64, Failure> {
    let (head, body) = response.into_parts();
    // Of gRPC's answers too: another status is of a proxy between us and the collector. The status is enough, whatever the page says.
    if !head.status.is_success() {
        return Err(Status::Http(head.status.as_u16()).failure());
    }
    let answer = Limited::new(body, ANSWER_MAX_BYTES).collect().await.map_err(Failure::Unreachable)?;
    let trailers = answer.trailers().cloned().unwrap_or_default();
    let body = answer.to_bytes();
    match protocol {
        OtlpProtocol::Http => Ok(batch::rejected(&body)),
        OtlpProtocol::Grpc => {
            // An answer of trailers alone has them as its headers.
            let status = trailers.get("grpc-status").or_else(|| head.headers.get("grpc-status"));
            match status.and_then(|status| status.to_str().ok()?.parse().ok()) {
                Some(0) => Ok(body.get(5..).map_or(0, batch::rejected)),
                Some(status) => Err(Status::Grpc(status).failure()),
                None => Err(Status::None.failure()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_taken_later_is_told_from_what_is_not_taken() {
        let passing = [429, 502, 503, 504].map(Status::Http).into_iter().chain([1, 4, 10, 11, 14, 15].map(Status::Grpc));
        for status in passing {
            assert!(status.failure().is_passing(), "{status}");
            assert_eq!(status.failure().kind(), "busy");
        }
        let refused = [400, 401, 403, 404, 413, 500].map(Status::Http).into_iter().chain([2, 3, 5, 7, 8, 12, 13, 16].map(Status::Grpc));
        for status in refused.chain([Status::None]) {
            assert!(!status.failure().is_passing(), "{status}");
            assert_eq!(status.failure().kind(), "refused");
        }
        assert!(Failure::TimedOut.is_passing() && Failure::Unreachable("gone".into()).is_passing());
    }
}
