//! The headers that a collector is sent, from a file: its token stands there, and changes.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::log;

/// The largest file; tokens have some hundred bytes.
const FILE_MAX_BYTES: u64 = 64 * 1024;

/// Why the file is of no use. Nothing of its contents is in it.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It is larger than any of its kind.
    #[error("take {} for a file of headers: it is larger than {FILE_MAX_BYTES} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A line is no header.
    #[error("find `Name: value` in line {line} of {}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which, from 1.
        line: usize,
    },
}

/// The headers of the file, as they were last read.
#[derive(Debug)]
pub(super) struct Headers {
    path: Option<PathBuf>,
    known: HeaderMap,
    /// The last reading failed, and that was said.
    failed: bool,
}

impl Headers {
    /// Reads them for the first time.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Problem> {
        let known = path.map(read).transpose()?.unwrap_or_default();
        Ok(Self { path: path.map(Path::to_owned), known, failed: false })
    }

    /// The headers as they are now; those that were good last where the file is of no use.
    pub(super) fn current(&mut self) -> &HeaderMap {
        match self.path.as_deref().map(read) {
            Some(Ok(headers)) => {
                self.known = headers;
                self.failed = false;
            }
            Some(Err(problem)) if !std::mem::replace(&mut self.failed, true) => {
                let problem = log::with_causes(&problem);
                tracing::warn!(problem, "the file of tracing.headers_file is unusable, the last good headers stay in force");
            }
            None | Some(Err(_)) => {}
        }
        &self.known
    }
}

fn read(path: &Path) -> Result<HeaderMap, Problem> {
    let fail = |source| Problem::Read { path: path.to_owned(), source };
    let mut text = String::new();
    // Not by its length: a pipe has none.
    let length = File::open(path).and_then(|file| file.take(FILE_MAX_BYTES + 1).read_to_string(&mut text)).map_err(fail)?;
    if u64::try_from(length).is_ok_and(|length| length > FILE_MAX_BYTES) {
        return Err(Problem::TooLarge { path: path.to_owned() });
    }
    let mut headers = HeaderMap::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (name, value) = header(line).ok_or_else(|| Problem::Line { path: path.to_owned(), line: index + 1 })?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn header(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    let mut value: HeaderValue = value.trim().parse().ok()?;
    value.set_sensitive(true);
    Some((name.trim().parse().ok()?, value))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_is_too_large_is_refused_whatever_length_it_tells() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("headers");
        let line = "name: value\n";
        fs::write(&path, line.repeat(65_536 / line.len())).unwrap();
        assert!(Headers::open(Some(&path)).is_ok());
        fs::write(&path, "\n".repeat(65_537)).unwrap();
        assert!(matches!(Headers::open(Some(&path)), Err(Problem::TooLarge { .. })));
        // It has no end, and no length.
        assert!(matches!(Headers::open(Some(Path::new("/dev/zero"))), Err(Problem::TooLarge { .. })));
    }

    #[test]
    fn headers_are_read_again_and_the_last_good_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("headers");
        fs::write(&path, "Authorization: Bearer hunter2\r\n\nx-scope-orgid:im\n").unwrap();
        let mut headers = Headers::open(Some(&path)).unwrap();
        assert!(!format!("{headers:?}").contains("hunter2"));
        assert_eq!(headers.current().get("authorization").map(HeaderValue::as_bytes), Some(&b"Bearer hunter2"[..]));
        assert_eq!(headers.current().get("x-scope-orgid").map(HeaderValue::as_bytes), Some(&b"im"[..]));
        for bad in ["no header", "na me: x", "name: \u{7f}"] {
            fs::write(&path, bad).unwrap();
            assert_eq!(headers.current().len(), 2, "{bad}");
            let problem = Headers::open(Some(&path)).unwrap_err().to_string();
            assert!(problem.contains("line 1") && !problem.contains(bad), "{problem}");
        }
        fs::write(&path, "authorization: other").unwrap();
        assert_eq!(headers.current().len(), 1);
        fs::remove_file(&path).unwrap();
        assert_eq!(headers.current().len(), 1);
        assert!(Headers::open(Some(&path)).is_err() && Headers::open(None).is_ok());
    }
}
