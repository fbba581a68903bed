//! Small files beside the journal's own that a loss of power leaves whole, or as they were: written under another name, synced, renamed, and their folder synced.
//!
//! Whoever writes one has its folder to itself, by the journal's lock. A crash may leave the other name behind: such a file is of no use, and those who write here
//! remove it when they start.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// What the name of a file ends in that is not finished.
const PARTIAL: &str = ".partial";

/// Writes a file, or puts it in the place of the one that is there. Where that fails nothing unfinished stays.
pub(crate) fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    let partial = partial(path);
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    });
    if let Err(error) = written {
        // On a full disk it would take the room that it lacks.
        drop(fs::remove_file(&partial));
        return Err(error);
    }
    sync_folder_of(path)
}

/// Removes a file for good, if there is one.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder_of(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes durable which names there are beside a file.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Removes what a crash has left of writing this file. One that cannot be removed is told, and does no harm.
pub(crate) fn remove_unfinished(path: &Path) {
    discard(&partial(path));
}

/// Removes what a crash has left of writing any file of this folder, which holds no others.
pub(crate) fn remove_all_unfinished(folder: &Path) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => return tracing::warn!(folder = %folder.display(), %error, "a folder could not be searched for unfinished files"),
    };
    let is_partial = |path: &PathBuf| path.as_os_str().as_encoded_bytes().ends_with(PARTIAL.as_bytes());
    entries.flatten().map(|entry| entry.path()).filter(is_partial).for_each(|path| discard(&path));
}

fn discard(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => tracing::info!(file = %path.display(), "an unfinished file of an earlier run was removed"),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(file = %path.display(), %error, "an unfinished file of an earlier run could not be removed"),
    }
}

fn partial(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(PARTIAL);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_whole_or_as_it_was_and_nothing_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        for contents in [&b"one"[..], b"two"] {
            write(&file, contents).unwrap();
            assert_eq!((fs::read(&file).unwrap(), names(folder.path())), (contents.to_vec(), vec!["a".to_owned()]));
        }
        // A folder of that name cannot be replaced by a file.
        let other = folder.path().join("b");
        fs::create_dir_all(other.join("within")).unwrap();
        write(&other, b"three").unwrap_err();
        assert_eq!(names(folder.path()), ["a", "b"]);
        remove(&file).unwrap();
        remove(&file).unwrap();
        assert_eq!(names(folder.path()), ["b"]);
    }

    #[test]
    fn what_a_crash_has_left_unfinished_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let all = ["a", "a.partial", "b.partial", "partial", "c.partial.kept"];
        let fill = || all.iter().for_each(|name| fs::write(folder.path().join(name), b"x").unwrap());
        fill();
        remove_unfinished(&folder.path().join("a"));
        assert_eq!(names(folder.path()), ["a", "b.partial", "c.partial.kept", "partial"]);
        fill();
        remove_all_unfinished(folder.path());
        assert_eq!(names(folder.path()), ["a", "c.partial.kept", "partial"]);
        remove_all_unfinished(&folder.path().join("absent"));
    }
}
