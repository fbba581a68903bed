//! `Sign`: the lower-case hex of SHA-256 over the token and the time in seconds, one after the other (Tencent Cloud Chat, "Webhook Overview").

use std::fmt;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// An app's token. It is never printed.
#[derive(Clone)]
pub struct Token(String);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("failed to read the token file {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file holds no token.
    #[error("the token file {} is empty", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
    },
}

impl Token {
    /// The first token of a file of one token a line.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let first = text.lines().map(str::trim).find(|line| !line.is_empty());
        first.map(|token| Self(token.to_owned())).ok_or_else(|| Error::Empty { path: path.to_owned() })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Token")
    }
}

/// Signs, and remembers the signature of the current second.
#[derive(Clone, Debug)]
pub(super) struct Signer {
    token: Token,
    request_time: i64,
    sign: String,
}

impl Signer {
    pub(super) fn new(token: Token) -> Self {
        let mut signer = Self { token, request_time: 0, sign: String::new() };
        signer.compute();
        signer
    }

    /// The `Sign` of a `RequestTime`, which is in seconds since 1970.
    pub(super) fn sign(&mut self, request_time: i64) -> &str {
        if self.request_time != request_time {
            self.request_time = request_time;
            self.compute();
        }
        &self.sign
    }

    fn compute(&mut self) {
        let digest = Sha256::new().chain_update(&self.token.0).chain_update(self.request_time.to_string()).finalize();
        self.sign.clear();
        for byte in digest {
            // Writing to memory cannot fail.
            let _infallible = write!(self.sign, "{byte:02x}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_official_vector_holds() {
        let mut signer = Signer::new(Token("xxxxyyyy".to_owned()));
        let other = signer.sign(1_669_872_113).to_owned();
        assert_eq!(signer.sign(1_669_872_112), "17773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061");
        assert_eq!(signer.sign(1_669_872_113), other);
    }

    #[test]
    fn the_first_token_of_a_file_counts_and_is_never_printed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        std::fs::write(&path, "\n new \nold\n").unwrap();
        let token = Token::read(&path).unwrap();
        assert_eq!(token.0, "new");
        assert!(!format!("{:?}", Signer::new(token)).contains("new"));
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(Token::read(&path), Err(Error::Empty { .. })));
        assert!(matches!(Token::read(&dir.path().join("none")), Err(Error::Io { .. })));
    }
}
