//! `/drain`: the only page that changes anything, so that it asks for a token.
//!
//! What a drain is stands in the wiring; here is who may ask for it, and how it is told. The tokens stand in a file, one a line, the old one and the new while
//! rotating. The file is read with each request, of which there are few; the last good tokens outlive a file that is gone or empty.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::header::HeaderValue;
use serde::Serialize;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::clock::Timestamp;
use crate::reload::{Reloaded, read_limited};

/// The largest tokens file: more is a file of something else.
const FILE_MAX_BYTES: u64 = 64 * 1024;

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Take no callbacks any more, and publish what is there.
    Begin,
    /// Tell how it stands.
    Tell,
    /// Take callbacks again.
    End,
}

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Which bridge this is, so that nobody drains one and ends another.
    pub instance: String,
    /// Whether the bridge is drained, or on its way there.
    pub draining: bool,
    /// Since when, where it is.
    pub since: Option<Moment>,
    /// When that ends by itself.
    pub expires: Option<Moment>,
    /// Whether callbacks are taken: still, at the beginning of a drain.
    pub accepting: bool,
    /// Records that are durable and not completed.
    pub unpublished: u64,
    /// Topics that cannot take their records for now.
    pub parked: Vec<String>,
    /// Since when a drained bridge has nothing left to publish. Nothing comes after that while it is drained.
    pub empty_since: Option<Moment>,
}

/// A moment as RFC 3339 has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub Timestamp);

impl Serialize for Moment {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Why an order was not carried out. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal is being recovered: there is nothing to drain yet.
    #[error("the bridge has not started yet")]
    Starting,
    /// The mark that survives a restart could not be written, or removed.
    #[error("failed to {operation} {}: {source}", path.display())]
    Mark {
        /// What was tried.
        operation: &'static str,
        /// The mark.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Carries an order out. May wait for the disk.
pub type Control = Arc<dyn Fn(Order) -> Result<Report, Error> + Send + Sync>;

/// Who may ask, and who does it.
#[derive(Clone)]
pub struct Desk {
    /// Who may.
    pub tokens: Arc<Tokens>,
    /// Who does.
    pub control: Control,
}

/// The tokens of `admin.token_file`.
pub struct Tokens {
    path: PathBuf,
    /// Digests, so that no comparison tells a token's length; never none.
    digests: Reloaded<Vec<[u8; 32]>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Tokens").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// Where it cannot be read, or holds no token.
    pub fn open(path: &Path) -> io::Result<Self> {
        let digests = read(path)?;
        Ok(Self { path: path.to_owned(), digests: Reloaded::new(path.display().to_string(), digests) })
    }

    /// Whether `Authorization` bears one of the tokens. All are compared, whichever it is. Reads the file.
    pub(super) fn admit(&self, authorization: Option<&HeaderValue>) -> bool {
        self.digests.refresh(|_| read(&self.path).map(Some));
        let Some(token) = authorization.and_then(bearer) else { return false };
        let given: [u8; 32] = Sha256::digest(token).into();
        let right = self.digests.get().iter().fold(Choice::from(0), |right, digest| right | digest.ct_eq(&given));
        right.into()
    }
}

fn read(path: &Path) -> io::Result<Vec<[u8; 32]>> {
    let contents = read_limited(path, FILE_MAX_BYTES)?;
    let tokens = contents.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty());
    let digests: Vec<[u8; 32]> = tokens.map(|token| Sha256::digest(token).into()).collect();
    if digests.is_empty() { Err(io::Error::new(io::ErrorKind::InvalidData, "it holds no token")) } else { Ok(digests) }
}

/// The token of `Bearer <token>` (RFC 6750, 2.1).
fn bearer(header: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = header.as_bytes().split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> HeaderValue {
        HeaderValue::from_str(text).unwrap()
    }

    #[test]
    fn only_a_token_of_the_file_is_admitted_and_the_last_good_ones_outlive_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        for contents in [None, Some(""), Some(" \n\r\n")] {
            if let Some(contents) = contents {
                std::fs::write(&path, contents).unwrap();
            }
            assert!(Tokens::open(&path).is_err(), "{contents:?}");
        }
        std::fs::write(&path, "sesame\r\n\nnewer").unwrap();
        let tokens = Tokens::open(&path).unwrap();
        for (given, admitted) in [
            ("Bearer sesame", true),
            ("bearer newer", true),
            ("BEARER  sesame ", true),
            ("Bearer", false),
            ("Bearer ", false),
            ("Bearer sesam", false),
            ("Bearer sesame2", false),
            ("Bearer sesame newer", false),
            ("Basic sesame", false),
            ("sesame", false),
            ("", false),
        ] {
            assert_eq!(tokens.admit(Some(&header(given))), admitted, "{given}");
        }
        assert!(!tokens.admit(None));
        std::fs::write(&path, "newer").unwrap();
        assert!(!tokens.admit(Some(&header("Bearer sesame"))), "it was taken out");
        for contents in [Some(""), None] {
            match contents {
                Some(contents) => std::fs::write(&path, contents).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            assert!(tokens.admit(Some(&header("Bearer newer"))), "{contents:?}");
            assert!(!tokens.admit(Some(&header("Bearer "))), "{contents:?}");
        }
        assert!(!format!("{tokens:?}").contains("newer"));
    }
}
