//! The headers that a collector is sent, from a file: its token stands there, and changes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::reload::{Reloaded, read_limited};

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
    /// It is no text in UTF-8.
    #[error("read {} as text", path.display())]
    Text {
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

/// The headers of the file, as they were last read; none without a file.
pub(super) struct Headers(Option<(PathBuf, Reloaded<HeaderMap>)>);

impl Headers {
    /// Reads them for the first time.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Problem> {
        let Some(path) = path else { return Ok(Self(None)) };
        let headers = Reloaded::new(path.display().to_string(), read(path)?);
        Ok(Self(Some((path.to_owned(), headers))))
    }

    /// The headers as they are now; those that were good last where the file is of no use.
    pub(super) fn current(&self) -> Arc<HeaderMap> {
        let Some((path, headers)) = &self.0 else { return Arc::default() };
        headers.refresh(|_| read(path).map(Some));
        headers.get()
    }
}

fn read(path: &Path) -> Result<HeaderMap, Problem> {
    let fail = |source| Problem::Read { path: path.to_owned(), source };
    let contents = read_limited(path, FILE_MAX_BYTES).map_err(fail)?;
    let text = str::from_utf8(&contents).map_err(|_| Problem::Text { path: path.to_owned() })?;
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
    fn headers_are_read_again_and_the_last_good_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("headers");
        fs::write(&path, "Authorization: Bearer hunter2\r\n\nx-scope-orgid:im\n").unwrap();
        let headers = Headers::open(Some(&path)).unwrap();
        assert!(!format!("{:?}", headers.current()).contains("hunter2"));
        assert_eq!(headers.current().get("authorization").map(HeaderValue::as_bytes), Some(&b"Bearer hunter2"[..]));
        assert_eq!(headers.current().get("x-scope-orgid").map(HeaderValue::as_bytes), Some(&b"im"[..]));
        for bad in ["no header", "na me: x", "name: \u{7f}"] {
            fs::write(&path, bad).unwrap();
            assert_eq!(headers.current().len(), 2, "{bad}");
            let problem = Headers::open(Some(&path)).err().unwrap().to_string();
            assert!(problem.contains("line 1") && !problem.contains(bad), "{problem}");
        }
        fs::write(&path, [b'x', b':', 0xff]).unwrap();
        assert!(matches!(Headers::open(Some(&path)), Err(Problem::Text { .. })));
        fs::write(&path, " \n".repeat(40_000)).unwrap();
        assert!(matches!(Headers::open(Some(&path)), Err(Problem::Read { source, .. }) if source.kind() == io::ErrorKind::FileTooLarge));
        fs::write(&path, "authorization: other").unwrap();
        assert_eq!(headers.current().len(), 1);
        fs::remove_file(&path).unwrap();
        assert_eq!(headers.current().len(), 1);
        assert!(Headers::open(Some(&path)).is_err() && Headers::open(None).is_ok());
    }
}
