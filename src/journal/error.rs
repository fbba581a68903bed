//! What can go wrong, apart from appends.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

/// Why the journal could not be opened, read, written or closed. Each text is a fragment that fits after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process holds the folder's lock.
    #[error("lock {}: another process uses this journal", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The settings contradict each other.
    #[error("use the journal's settings: {problem}")]
    Settings {
        /// What is wrong, with the names of the settings.
        problem: String,
    },
    /// A segment or the checkpoint was written in a format that this program does not know. Nothing has been touched.
    #[error("read {}: its format version is {version}, which this program does not know", path.display())]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// A segment stands where it cannot have been written: by its name, its identity or its LSNs it is of another journal. Nothing has been touched.
    #[error("use {}: it does not belong to this journal ({why})", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What tells.
        why: &'static str,
    },
    /// There is nothing of a journal in the folder.
    #[error("find a journal in {}", dir.display())]
    NoJournal {
        /// The folder.
        dir: PathBuf,
    },
    /// An operation of the file system failed.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// Two readings of one file during recovery had different results.
    #[error("read {} twice with the same result", path.display())]
    Unstable {
        /// The file.
        path: PathBuf,
    },
    /// A write or a sync has failed earlier; nothing is retried.
    #[error("use the journal after a failure")]
    Poisoned(#[source] Arc<Error>),
    /// A thread of the journal ended before its time.
    #[error("keep the {thread} thread running")]
    Died {
        /// Which one.
        thread: &'static str,
    },
}

/// What kind of trouble an [`Error`] is; `main` makes its exit code of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A person has to change something: exit code 78.
    Configuration,
    /// The disk or its file system: exit code 74.
    Io,
    /// A fault of this program: exit code 70.
    Internal,
}

impl Error {
    /// The kind of trouble.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Locked { .. } | Self::Settings { .. } | Self::UnknownVersion { .. } | Self::Foreign { .. } | Self::NoJournal { .. } => {
                Class::Configuration
            }
            Self::Io { .. } | Self::Unstable { .. } => Class::Io,
            Self::Died { .. } => Class::Internal,
            Self::Poisoned(first) => first.class(),
        }
    }

    /// Whether the file system or a quota had no room, which is no failure but a full journal.
    pub(super) fn is_no_space(&self) -> bool {
        self.io().is_some_and(|source| matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    /// Whether the process or the machine had no file descriptor left, which passes.
    pub(super) fn is_no_descriptor(&self) -> bool {
        let codes = [Errno::MFILE, Errno::NFILE].map(|error| Some(error.raw_os_error()));
        self.io().is_some_and(|source| codes.contains(&source.raw_os_error()))
    }

    /// Whether a new file may be made another time.
    pub(super) fn is_shortage(&self) -> bool {
        self.is_no_space() || self.is_no_descriptor()
    }

    fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Locked { .. }
            | Self::Settings { .. }
            | Self::UnknownVersion { .. }
            | Self::Foreign { .. }
            | Self::NoJournal { .. }
            | Self::Unstable { .. }
            | Self::Poisoned(_)
            | Self::Died { .. } => None,
        }
    }
}

/// Adds operation and path to the result of an operation of the file system.
pub(super) trait Context<T> {
    fn context(self, operation: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, operation: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io { operation, path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_classified_by_who_can_help() {
        let path = PathBuf::from("x");
        let io = || Error::Io { operation: "sync", path: PathBuf::from("x"), source: io::Error::from(io::ErrorKind::StorageFull) };
        for (error, class) in [
            (Error::Locked { path: path.clone() }, Class::Configuration),
            (Error::Settings { problem: String::new() }, Class::Configuration),
            (Error::UnknownVersion { path: path.clone(), version: 9 }, Class::Configuration),
            (Error::Foreign { path: path.clone(), why: "name" }, Class::Configuration),
            (Error::NoJournal { dir: path.clone() }, Class::Configuration),
            (Error::Unstable { path }, Class::Io),
            (Error::Died { thread: "writer" }, Class::Internal),
            (Error::Poisoned(Arc::new(io())), Class::Io),
            (io(), Class::Io),
        ] {
            assert_eq!(error.class(), class, "{error}");
        }
        assert!(io().is_no_space() && io().is_shortage() && !io().is_no_descriptor());
        for code in [Errno::MFILE, Errno::NFILE] {
            let error = Error::Io { operation: "create", path: PathBuf::from("x"), source: code.into() };
            assert!(error.is_no_descriptor() && error.is_shortage() && !error.is_no_space(), "{error:?}");
        }
        assert!(!Error::Poisoned(Arc::new(io())).is_no_space(), "a journal that has failed is not merely full");
    }
}
