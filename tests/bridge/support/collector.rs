//! A collector of OpenTelemetry, by gRPC or HTTP, with or without TLS: it keeps the spans that it is sent.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::certificates::Pair;
use super::{PATIENCE, eventually};

/// What it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Grpc,
    Http,
}

impl Protocol {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }
}

/// What it does with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Takes,
    /// It says that its client may not.
    Refuses,
    /// It says of the first batch that it cannot take it now, and takes what comes then.
    IsBusyAtFirst,
    /// It never answers.
    Hangs,
    /// It takes it once it is released.
    Holds,
}

/// What it says of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Taken,
    Forbidden,
    Busy,
}

/// What has come.
#[derive(Debug, Default)]
struct Seen {
    requests: Vec<ExportTraceServiceRequest>,
    headers: Vec<HeaderMap>,
}

/// A running collector. Dropped, it is gone with its connections.
pub(crate) struct Collector {
    address: SocketAddr,
    scheme: &'static str,
    protocol: Protocol,
    seen: Arc<Mutex<Seen>>,
    released: watch::Sender<bool>,
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Clone)]
struct Desk {
    protocol: Protocol,
    manner: Manner,
    seen: Arc<Mutex<Seen>>,
    released: watch::Receiver<bool>,
}

impl Collector {
    pub(crate) fn start(protocol: Protocol, manner: Manner, tls: Option<&Pair>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (released, until) = watch::channel(manner != Manner::Holds);
        let desk = Desk { protocol, manner, seen: Arc::clone(&seen), released: until };
        let acceptor = tls.map(|pair| acceptor(protocol, &pair.certificate, &pair.key));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (desk, acceptor) = (desk.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => desk.serve(stream).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                desk.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        let scheme = if tls.is_some() { "https" } else { "http" };
        Self { address, scheme, protocol, seen, released, runtime: Some(runtime) }
    }

    /// What a configuration says of it.
    pub(crate) fn settings(&self) -> String {
        let Self { scheme, address, protocol, .. } = self;
        let port = address.port();
        format!("tracing.otlp_endpoint = \"{scheme}://localhost:{port}\"\ntracing.otlp_protocol = \"{}\"\n", protocol.name())
    }

    /// From now on it takes what it holds, and what comes.
    pub(crate) fn release(&self) {
        self.released.send_replace(true);
    }

    /// The spans that have come so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let seen = self.seen.lock().unwrap();
        let resources = seen.requests.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }

    /// Waits until so many spans have come.
    pub(crate) fn expect(&self, count: usize) -> Vec<Span> {
        eventually("spans come", PATIENCE, || (self.spans().len() >= count).then(|| self.spans()))
    }

    /// Waits until a batch has come, whatever is done with it.
    pub(crate) fn is_asked(&self) {
        eventually("a batch comes", PATIENCE, || (!self.seen.lock().unwrap().headers.is_empty()).then_some(()));
    }

    /// The attributes of whoever sent the first batch.
    pub(crate) fn sender(&self) -> Vec<(String, String)> {
        let seen = self.seen.lock().unwrap();
        attributes(&seen.requests[0].resource_spans[0].resource.as_ref().unwrap().attributes)
    }

    /// A header of the first batch.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let seen = self.seen.lock().unwrap();
        Some(seen.headers[0].get(name)?.to_str().unwrap().to_owned())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

/// Attributes as text.
pub(crate) fn attributes(list: &[KeyValue]) -> Vec<(String, String)> {
    let text = |attribute: &KeyValue| match attribute.value.clone().and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    list.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

impl Desk {
    async fn serve<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(self, stream: S) {
        let protocol = self.protocol;
        let service = service_fn(move |request| self.clone().answer(request));
        // A client that goes away ends its connection.
        match protocol {
            Protocol::Grpc => {
                let connection =
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
                drop(connection.await);
            }
            Protocol::Http => {
                let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                drop(connection.await);
            }
        }
    }

    async fn answer(mut self, request: Request<Incoming>) -> hyper::Result<Response<BoxBody<Bytes, Infallible>>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let (path, content_type) = match self.protocol {
            Protocol::Grpc => ("/opentelemetry.proto.collector.trace.v1.TraceService/Export", "application/grpc"),
            Protocol::Http => ("/v1/traces", "application/x-protobuf"),
        };
        let is_right = head.uri.path() == path && head.method == "POST" && head.headers["content-type"] == content_type;
        if !is_right {
            return Ok(status(StatusCode::NOT_FOUND));
        }
        let message = match self.protocol {
            Protocol::Grpc => message_of(&body),
            Protocol::Http => &body,
        };
        let export = ExportTraceServiceRequest::decode(message).unwrap();
        let is_first = {
            let mut seen = self.seen.lock().unwrap();
            seen.headers.push(head.headers);
            seen.headers.len() == 1
        };
        let verdict = match self.manner {
            Manner::Hangs => return std::future::pending().await,
            Manner::Refuses => Verdict::Forbidden,
            Manner::IsBusyAtFirst if is_first => Verdict::Busy,
            Manner::IsBusyAtFirst | Manner::Takes | Manner::Holds => {
                // The collector goes with its runtime, and this with it.
                drop(self.released.wait_for(|released| *released).await);
                self.seen.lock().unwrap().requests.push(export);
                Verdict::Taken
            }
        };
        Ok(self.say(verdict))
    }

    fn say(&self, verdict: Verdict) -> Response<BoxBody<Bytes, Infallible>> {
        let taken = ExportTraceServiceResponse { partial_success: None }.encode_to_vec();
        match (self.protocol, verdict) {
            (Protocol::Http, Verdict::Taken) => Response::new(Full::new(Bytes::from(taken)).boxed()),
            (Protocol::Http, Verdict::Forbidden) => status(StatusCode::UNAUTHORIZED),
            (Protocol::Http, Verdict::Busy) => status(StatusCode::SERVICE_UNAVAILABLE),
            (Protocol::Grpc, verdict) => {
                let mut framed = BytesMut::new();
                framed.put_u8(0);
                framed.put_u32(u32::try_from(taken.len()).unwrap());
                framed.extend_from_slice(&taken);
                let code = match verdict {
                    Verdict::Taken => "0",
                    // PERMISSION_DENIED
                    Verdict::Forbidden => "7",
                    // UNAVAILABLE
                    Verdict::Busy => "14",
                };
                let trailers: HeaderMap = std::iter::once(("grpc-status".parse().unwrap(), code.parse().unwrap())).collect();
                let body = Full::new(framed.freeze()).with_trailers(std::future::ready(Some(Ok(trailers))));
                let mut response = Response::new(body.boxed());
                response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
                response
            }
        }
    }
}

fn status(status: StatusCode) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = Response::new(Full::new(Bytes::new()).boxed());
    *response.status_mut() = status;
    response
}

/// The one message of a call of gRPC, which is not compressed.
fn message_of(body: &[u8]) -> &[u8] {
    let (head, message) = body.split_at(5);
    assert_eq!(head[0], 0, "compressed");
    assert_eq!(usize::try_from(u32::from_be_bytes(head[1..].try_into().unwrap())).unwrap(), message.len());
    message
}

fn acceptor(protocol: Protocol, certificate: &Path, key: &Path) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(certificate).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap();
    config.alpn_protocols = match protocol {
        Protocol::Grpc => vec![b"h2".to_vec()],
        Protocol::Http => vec![b"http/1.1".to_vec()],
    };
    TlsAcceptor::from(Arc::new(config))
}
