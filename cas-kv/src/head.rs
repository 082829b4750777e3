//! A copy of the part of a database that an engine reads first. The copy is a file next to the
//! database.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// A copy of the part of a database that an engine reads first to find all other parts, for example
/// the first page of a redb database or the manifest of a RocksDB database. An engine makes the
/// copy when it closes a database that it had open for writing. The engine can open a damaged
/// database with the copy.
#[derive(Clone, Debug)]
pub struct Head(PathBuf);

impl Head {
    /// Returns the copy for the database at `database`. The file of the copy may be absent.
    pub fn of(database: &Path) -> Self {
        Head(beside(database, ".head"))
    }

    /// Replaces the copy in one step with the bytes that `write` writes. The copy is not synced.
    ///
    /// # Errors
    /// Errors of `write` and of the file system. The earlier copy is then kept.
    pub fn save(&self, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        let new = beside(&self.0, ".new");
        remove_any(&new)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(&new)?;
        let written = write(&mut file).and_then(|()| fs::rename(&new, &self.0));
        if written.is_err() {
            // The disk may be full, so the unfinished copy must not take up space.
            let _ = fs::remove_file(&new);
        }
        written
    }

    /// Opens the copy to read it. Returns `None` if there is none.
    ///
    /// # Errors
    /// Errors of the file system. A symbolic link is also an error.
    pub fn open(&self) -> io::Result<Option<File>> {
        match open_no_follow(OpenOptions::new().read(true), &self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

/// Returns the path of a directory next to a database. An engine may create this directory when it
/// opens a damaged database ([`OpenMode::Damaged`](crate::OpenMode::Damaged)), and removes the
/// directory when it closes the database. If a kill prevents the removal, the directory is removed
/// by the next repair, or by the next process that opens the store for writing.
pub fn side_dir(database: &Path) -> PathBuf {
    beside(database, ".repair")
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Opens a file. Does not follow a symbolic link, and does not wait if `path` is a pipe.
pub(crate) fn open_no_follow(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    options.custom_flags(flags.bits().cast_signed()).open(path)
}

/// Removes a file or a directory. Does nothing if it does not exist. Does not follow a symbolic
/// link.
pub(crate) fn remove_any(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn read(head: &Head) -> Option<String> {
        let mut text = String::new();
        let copy = head.open().unwrap();
        copy.map(|mut copy| copy.read_to_string(&mut text).map(|_| text).unwrap())
    }

    #[test]
    fn a_copy_that_cannot_be_written_leaves_the_earlier_one() {
        let temp = tempfile::tempdir().unwrap();
        let head = Head::of(&temp.path().join("db"));
        assert_eq!(read(&head), None);
        head.save(|file| file.write_all(b"earlier")).unwrap();
        let full = head.save(|file| {
            file.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(read(&head).as_deref(), Some("earlier"));
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_pipe_in_the_place_of_the_copy_is_not_waited_for() {
        let temp = tempfile::tempdir().unwrap();
        let head = Head::of(&temp.path().join("db"));
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, head.path(), FileType::Fifo, mode, 0).unwrap();
        assert_eq!(read(&head).as_deref(), Some(""));
    }

    #[test]
    fn a_symbolic_link_is_replaced_and_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let theirs = temp.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("file"), "kept").unwrap();
        for name in ["db.head", "db.head.new"] {
            std::os::unix::fs::symlink(&theirs, temp.path().join(name)).unwrap();
        }
        let head = Head::of(&temp.path().join("db"));
        head.open().unwrap_err();
        head.save(|file| file.write_all(b"copy")).unwrap();
        assert_eq!(read(&head).as_deref(), Some("copy"));
        assert_eq!(fs::read(theirs.join("file")).unwrap(), b"kept");
        assert_eq!(fs::read_dir(&theirs).unwrap().count(), 1);
    }
}
