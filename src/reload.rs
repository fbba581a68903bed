//! Files that are read again while the bridge runs: secrets, certificates, headers.
//!
//! The last good contents stay in force where what replaces them is of no use; that is said once, and its end too. Absent on purpose: any notice of the
//! system that a file has changed, for Kubernetes swaps links under its name.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::log;

/// The file, where it has no more bytes than that: more is a file of something else. Not by the length that it tells, for a pipe has none.
///
/// # Errors
/// Of the system; [`io::ErrorKind::FileTooLarge`] beyond `max_bytes`.
pub(crate) fn read_limited(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    let length = File::open(path)?.take(max_bytes.saturating_add(1)).read_to_end(&mut contents)?;
    if u64::try_from(length).is_ok_and(|length| length <= max_bytes) {
        return Ok(contents);
    }
    Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {max_bytes} bytes")))
}

/// What is in force of a file, or of some that fit together.
pub(crate) struct Reloaded<T> {
    /// The file, or the setting that names it.
    name: String,
    in_force: RwLock<Arc<T>>,
    condition: Mutex<Condition>,
}

/// Kept so that each change is said once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Usable,
    Unusable,
}

/// What has come of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// It holds what is in force.
    Same,
    /// What it holds is in force now.
    Changed,
    /// It is of no use.
    Failed,
}

impl<T> Reloaded<T> {
    /// After the first reading.
    pub(crate) fn new(name: String, in_force: T) -> Self {
        Self { name, in_force: RwLock::new(Arc::new(in_force)), condition: Mutex::new(Condition::Usable) }
    }

    pub(crate) fn get(&self) -> Arc<T> {
        Arc::clone(&self.in_force.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads again; `read` is given what is in force, and tells nothing where that is what it finds. One reading at a time.
    pub(crate) fn refresh<E: Error>(&self, read: impl FnOnce(&T) -> Result<Option<T>, E>) -> Reading {
        let mut condition = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        match read(&self.get()) {
            Ok(found) => {
                if std::mem::replace(&mut *condition, Condition::Usable) == Condition::Unusable {
                    tracing::info!(file = self.name, "file usable again");
                }
                let Some(changed) = found else { return Reading::Same };
                *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(changed);
                Reading::Changed
            }
            Err(problem) => {
                if std::mem::replace(&mut *condition, Condition::Unusable) == Condition::Usable {
                    let problem = log::with_causes(&problem);
                    tracing::warn!(file = self.name, problem, "file unusable, its last good contents stay in force");
                }
                Reading::Failed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_is_too_large_is_refused_whatever_length_it_tells() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "12345678").unwrap();
        assert_eq!(read_limited(&path, 8).unwrap(), b"12345678");
        assert_eq!(read_limited(&path, 7).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        // It has no end, and no length.
        assert_eq!(read_limited(Path::new("/dev/zero"), 64 << 10).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read_limited(&path.with_extension("none"), 8).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_last_good_contents_stay_and_each_reading_tells_what_came_of_it() {
        let file = Reloaded::new("numbers".to_owned(), 1);
        let reading = |found: Result<u32, io::ErrorKind>| {
            let reading = file.refresh(|now| match found {
                Ok(found) => Ok((found != *now).then_some(found)),
                Err(kind) => Err(io::Error::from(kind)),
            });
            (reading, *file.get(), *file.condition.lock().unwrap())
        };
        assert_eq!(reading(Ok(1)), (Reading::Same, 1, Condition::Usable));
        assert_eq!(reading(Err(io::ErrorKind::NotFound)), (Reading::Failed, 1, Condition::Unusable));
        assert_eq!(reading(Err(io::ErrorKind::NotFound)), (Reading::Failed, 1, Condition::Unusable));
        assert_eq!(reading(Ok(1)), (Reading::Same, 1, Condition::Usable));
        assert_eq!(reading(Ok(2)), (Reading::Changed, 2, Condition::Usable));
    }
}
