//! TLS on the public port: certificate, private key, and the authority whose clients alone are taken, where there is one.
//!
//! TLS 1.2 and 1.3 by rustls, HTTP/1.1 by ALPN. The files are read at start and compared every [`FILES_PERIOD`](super::FILES_PERIOD) by contents, for Kubernetes swaps links under their
//! names. What has changed holds for connections that come from then on. While running, the last good files outlive what replaces them and is of no use: a
//! certificate and a key that do not fit are mostly two halves of a change.
//! Absent on purpose: names (SNI), for one certificate serves all; lists of revoked clients; any switch that turns a check off.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;
use x509_cert::der::Decode;

use crate::config;
use crate::metrics;
use crate::pem::fault;
use crate::reload::{Reading, Reloaded, read_limited};

/// The largest file: a chain, or the authorities of all clients. More is a file of something else.
const FILE_MAX_BYTES: u64 = 1024 * 1024;

/// The one protocol that is spoken, as ALPN names it (RFC 7301).
const HTTP_1_1: &[u8] = b"http/1.1";

/// Why a file of `[http.tls]` is of no use. Nothing of its contents is in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// What stands in a file is not what belongs there, in PEM (RFC 7468).
    #[error("find {what} in {}: {why}", path.display())]
    Pem {
        /// What belongs there.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// The private key has a password, and nobody to enter it.
    #[error("use the private key in {}: it is encrypted, and there is nobody to enter its password", path.display())]
    Encrypted {
        /// The file.
        path: PathBuf,
    },
    /// The certificate and the private key do not fit together, or are of a kind that is not known.
    #[error("use the certificate with its private key")]
    Pair(#[source] rustls::Error),
    /// The certificate cannot be read for its end.
    #[error("read when the certificate ends")]
    Expiry(#[source] x509_cert::der::Error),
    /// The clients' authorities cannot be used.
    #[error("trust the authorities of http.tls.client_ca")]
    Authority(#[source] rustls::Error),
    /// No client can be judged by the authorities.
    #[error("judge clients by http.tls.client_ca")]
    Clients(#[source] VerifierBuilderError),
}

/// Files that fit together.
struct InForce {
    /// Of all files, to tell a change by; the key itself is not kept beside rustls's.
    digest: [u8; 32],
    config: Arc<ServerConfig>,
    /// When the certificate ends, seconds since 1970.
    not_after: u64,
}

/// The files of `[http.tls]` and what is in force of them.
pub struct Tls {
    files: config::Tls,
    in_force: Reloaded<InForce>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// See [`Problem`]; a fault of the configuration.
    pub fn open(files: &config::Tls) -> Result<Self, Problem> {
        let in_force = InForce::new(files, &Contents::read(files)?)?;
        Ok(Self { files: files.clone(), in_force: Reloaded::new("http.tls".to_owned(), in_force) })
    }

    /// What takes the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.in_force.get().config))
    }

    /// Reads the files again. Where they are of no use the last good ones stay, and a failure is counted.
    pub(super) fn refresh(&self, metrics: &metrics::Ingress) {
        let reading = self.in_force.refresh(|in_force| {
            let contents = Contents::read(&self.files)?;
            if contents.digest() == in_force.digest { Ok(None) } else { InForce::new(&self.files, &contents).map(Some) }
        });
        match reading {
            Reading::Same => {}
            Reading::Changed => {
                tracing::info!(not_after_seconds = self.in_force.get().not_after, "certificate changed");
                self.show(metrics);
            }
            Reading::Failed => metrics.certificate_reload_failures.inc(),
        }
    }

    /// Sets the metric of the certificate's end.
    pub(super) fn show(&self, metrics: &metrics::Ingress) {
        metrics.certificate_not_after_seconds.set(i64::try_from(self.in_force.get().not_after).unwrap_or(i64::MAX));
    }
}

/// The files as they are.
struct Contents {
    certificate: Vec<u8>,
    private_key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    fn read(files: &config::Tls) -> Result<Self, Problem> {
        Ok(Self {
            certificate: read(&files.certificate)?,
            private_key: read(&files.private_key)?,
            client_ca: files.client_ca.as_deref().map(read).transpose()?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for bytes in [&self.certificate, &self.private_key].into_iter().chain(&self.client_ca) {
            digest.update(bytes.len().to_le_bytes());
            digest.update(bytes);
        }
        digest.finalize().into()
    }
}

impl InForce {
    fn new(files: &config::Tls, contents: &Contents) -> Result<Self, Problem> {
        let chain = certificates(&files.certificate, &contents.certificate)?;
        let key = private_key(&files.private_key, &contents.private_key)?;
        let authorities = files.client_ca.as_deref().zip(contents.client_ca.as_deref());
        let authorities = authorities.map(|(path, pem)| certificates(path, pem)).transpose()?;
        let not_after = chain.first().map_or(Ok(0), not_after)?;
        let provider = Arc::new(ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().map_err(Problem::Pair)?;
        let builder = match authorities {
            Some(authorities) => builder.with_client_cert_verifier(verifier(authorities, provider)?),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(Problem::Pair)?;
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        Ok(Self { digest: contents.digest(), config: Arc::new(config), not_after })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    read_limited(path, FILE_MAX_BYTES).map_err(|source| Problem::Read { path: path.to_owned(), source })
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let wrong = |error| Problem::Pem { what: "a certificate", path: path.to_owned(), why: fault(&error) };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(wrong)?;
    if chain.is_empty() { Err(wrong(pem::Error::NoItemsFound)) } else { Ok(chain) }
}

fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, Problem> {
    // `BEGIN ENCRYPTED PRIVATE KEY` (RFC 5958), or OpenSSL's older `Proc-Type: 4,ENCRYPTED`. Base64 has neither space nor comma.
    if [&b" ENCRYPTED"[..], b",ENCRYPTED"].into_iter().any(|mark| pem.windows(mark.len()).any(|bytes| bytes == mark)) {
        return Err(Problem::Encrypted { path: path.to_owned() });
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| Problem::Pem { what: "a private key", path: path.to_owned(), why: fault(&error) })
}

/// When a certificate ends, seconds since 1970.
fn not_after(certificate: &CertificateDer<'_>) -> Result<u64, Problem> {
    let certificate = x509_cert::Certificate::from_der(certificate).map_err(Problem::Expiry)?;
    Ok(certificate.tbs_certificate.validity.not_after.to_unix_duration().as_secs())
}

/// Who takes a client whose certificate one of the authorities has signed, and nobody else.
fn verifier(
    authorities: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, Problem> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(Problem::Authority)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(Problem::Clients)
}
