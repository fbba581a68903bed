//! The tokens of an app, and the file that they come from.
//!
//! The file holds one token a line: the old one and the new while rotating. It is read at start and compared every [`FILES_PERIOD`](super::FILES_PERIOD) by contents, for
//! Kubernetes swaps links under its name. While running, the last good tokens outlive a file that is gone or empty.

use std::io;
use std::path::{Path, PathBuf};

use prometheus::IntCounter;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::reload::{Reading, Reloaded, read_limited};

/// The largest tokens file: a token has at most 128 characters, so this is a file of something else.
const FILE_MAX_BYTES: u64 = 64 * 1024;

/// The most tokens of one app: each costs a digest a callback, and a rotation needs two.
const TOKENS_MAX: usize = 64;

/// Why a tokens file is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// It cannot be read.
    #[error("read it")]
    Read(#[source] io::Error),
    /// It holds no token: no request could be authentic.
    #[error("find a token in it")]
    Empty,
    /// It is longer than any list of tokens.
    #[error("take it as a list of tokens: it has more than {TOKENS_MAX}")]
    TooMany,
}

/// The tokens in force, never none. They are never shown.
struct Tokens {
    contents: Vec<u8>,
    /// For each token the state of the digest after it.
    digests: Vec<Sha256>,
}

impl Tokens {
    fn read(path: &Path) -> Result<Self, Problem> {
        let contents = read_limited(path, FILE_MAX_BYTES).map_err(Problem::Read)?;
        let tokens = contents.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty());
        let digests: Vec<_> = tokens.map(|token| Sha256::new().chain_update(token)).collect();
        match digests.len() {
            0 => Err(Problem::Empty),
            count if count > TOKENS_MAX => Err(Problem::TooMany),
            _ => Ok(Self { contents, digests }),
        }
    }
}

/// One app's tokens file and the tokens in force.
pub(super) struct TokensFile {
    path: PathBuf,
    tokens: Reloaded<Tokens>,
}

impl TokensFile {
    /// Reads the file for the first time.
    pub(super) fn open(path: &Path) -> Result<Self, Problem> {
        let tokens = Tokens::read(path)?;
        Ok(Self { path: path.to_owned(), tokens: Reloaded::new(path.display().to_string(), tokens) })
    }

    /// Whether `sign` is the digest of one of the tokens and `request_time`: hex of SHA-256(token ‖ `request_time`) in either case
    /// (Tencent Cloud Chat, "Webhook Overview", authentication). All tokens are compared, whichever fits.
    pub(super) fn sign_is_right(&self, sign: &[u8], request_time: &[u8]) -> bool {
        let Some(sign) = unhex(sign) else { return false };
        let tokens = self.tokens.get();
        let mut right = Choice::from(0);
        for digest in &tokens.digests {
            let expected: [u8; 32] = digest.clone().chain_update(request_time).finalize().into();
            right |= expected.ct_eq(&sign);
        }
        right.into()
    }

    /// Reads the file again. Where it is of no use the last good tokens stay, and a failure is counted.
    pub(super) fn refresh(&self, failures: &IntCounter) {
        let reading =
            self.tokens.refresh(|in_force| Tokens::read(&self.path).map(|read| (read.contents != in_force.contents).then_some(read)));
        match reading {
            Reading::Same => {}
            Reading::Changed => tracing::info!(path = %self.path.display(), tokens = self.tokens.get().digests.len(), "tokens changed"),
            Reading::Failed => failures.inc(),
        }
    }
}

/// 64 hex digits of either case as 32 bytes.
fn unhex(text: &[u8]) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        for digit in digits {
            let value = char::from(*digit).to_digit(16)?;
            *byte = (*byte << 4) | u8::try_from(value).ok()?;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The sample of Tencent's page.
    const TOKEN: &str = "xxxxyyyy";
    const TIME: &[u8] = b"1669872112";
    const SIGN: &[u8] = b"17773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061";

    fn file(contents: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        fs::write(&path, contents).unwrap();
        (folder, path)
    }

    #[test]
    fn the_official_sample_is_right() {
        for contents in [
            TOKEN.to_owned(),
            format!("{TOKEN}\n"),
            format!("\r\n  {TOKEN}\t\r\n"),
            format!("newer\n{TOKEN}\n"),
            format!("{TOKEN}\n\nnewer"),
        ] {
            let (_folder, path) = file(&contents);
            let tokens = TokensFile::open(&path).unwrap();
            assert!(tokens.sign_is_right(SIGN, TIME), "{contents:?}");
            assert!(tokens.sign_is_right(&SIGN.to_ascii_uppercase(), TIME), "{contents:?}");
        }
    }

    #[test]
    fn any_other_sign_is_wrong() {
        let (_folder, path) = file(&format!("{TOKEN}\nnewer\n"));
        let tokens = TokensFile::open(&path).unwrap();
        let mut flipped = SIGN.to_vec();
        flipped[63] = b'0';
        for sign in [&b""[..], &flipped, &SIGN[..62], &SIGN[..63], &[SIGN, b"00"].concat(), &[b'g'; 64], &[b'0'; 64]] {
            assert!(!tokens.sign_is_right(sign, TIME), "{}", String::from_utf8_lossy(sign));
        }
        assert!(!tokens.sign_is_right(SIGN, b"1669872113"));
        let (_folder, path) = file("xxxyyyy\n");
        assert!(!TokensFile::open(&path).unwrap().sign_is_right(SIGN, TIME));
    }

    #[test]
    fn a_file_without_tokens_is_an_error_at_start() {
        let (_folder, path) = file(" \r\n\n");
        assert!(matches!(TokensFile::open(&path), Err(Problem::Empty)));
        assert!(matches!(TokensFile::open(&path.with_extension("none")), Err(Problem::Read(_))));
        let (_folder, path) = file(&"x".repeat(70_000));
        assert!(matches!(TokensFile::open(&path), Err(Problem::Read(error)) if error.kind() == io::ErrorKind::FileTooLarge));
        let (_folder, path) = file(&"x\n".repeat(65));
        assert!(matches!(TokensFile::open(&path), Err(Problem::TooMany)));
    }

    #[test]
    fn the_last_good_tokens_outlive_their_file() {
        let failures = IntCounter::new("failures", "failures").unwrap();
        let (_folder, path) = file(TOKEN);
        let tokens = TokensFile::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        tokens.refresh(&failures);
        assert!(tokens.sign_is_right(SIGN, TIME));
        fs::write(&path, "\n").unwrap();
        tokens.refresh(&failures);
        assert!(tokens.sign_is_right(SIGN, TIME));
        assert_eq!(failures.get(), 2);
        fs::write(&path, "newer\n").unwrap();
        tokens.refresh(&failures);
        assert!(!tokens.sign_is_right(SIGN, TIME));
        assert_eq!(failures.get(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn a_swapped_link_is_noticed() {
        let failures = IntCounter::new("failures", "failures").unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (name, token) in [("one", "older"), ("two", TOKEN)] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("tokens"), token).unwrap();
        }
        let data = folder.path().join("data");
        std::os::unix::fs::symlink("one", &data).unwrap();
        let tokens = TokensFile::open(&data.join("tokens")).unwrap();
        assert!(!tokens.sign_is_right(SIGN, TIME));
        let swap = folder.path().join("swap");
        std::os::unix::fs::symlink("two", &swap).unwrap();
        fs::rename(&swap, &data).unwrap();
        tokens.refresh(&failures);
        assert!(tokens.sign_is_right(SIGN, TIME));
        assert_eq!(failures.get(), 0);
    }
}
