//! A file that gets its name when it is complete.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cas_core::snapshot::Usage;
use cas_core::{Context, Error, Result, unique};
use rustix::fs::OFlags;

use crate::{Dir, calls, no_directory};

/// The beginning of the names of temporary files, after a dot.
const PURPOSE: &str = "cas-export";

/// A file that has a temporary name in the directory of its final name until it is
/// [published](Self::publish). If the value is dropped before the file is published, the file is
/// removed. If the file system can lock files, the next [`NewFile::begin`] in the same directory
/// removes temporary files that killed processes have left.
pub struct NewFile {
    dir: Dir,
    file: File,
    temporary: String,
    name: String,
}

impl NewFile {
    /// Creates the temporary file for `path`. A file at `path` may exist. If the file system can
    /// lock files, the temporary file is locked until the value is dropped.
    ///
    /// # Errors
    /// `InvalidArgument` if the path is a directory or does not end in a UTF-8 file name, or if its
    /// parent is not a directory; `NotFound` if its parent does not exist; errors of the file
    /// system.
    pub fn begin(path: &Path) -> Result<Self> {
        if calls::is_dir(path) {
            return Err(Error::invalid("the path is a directory; name a file in it"));
        }
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| {
            Error::invalid("the path does not end in a UTF-8 file name; name another file")
        })?;
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        let parent = parent.unwrap_or(Path::new("."));
        let dir = Dir::open(parent).map_err(|error| no_directory(error, parent));
        let dir = dir.during("open", parent.display())?;
        leftovers(&dir, true);
        let (file, temporary) = create(&dir)?;
        let name = name.to_owned();
        Ok(NewFile {
            dir,
            file,
            temporary,
            name,
        })
    }

    /// Returns the file, open for writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Syncs the file and gives it its final name, durably. Replaces an existing file of this name.
    ///
    /// # Errors
    /// Errors of the file system. If the error occurs before the file has its final name, the file
    /// is removed.
    pub fn publish(self) -> Result<()> {
        self.file.sync_all()?;
        self.dir.rename(&*self.temporary, &self.dir, &*self.name)?;
        Ok(self.dir.sync()?)
    }
}

impl Drop for NewFile {
    /// Removes the file. After the rename there is nothing to remove.
    fn drop(&mut self) {
        let _ = self.dir.remove(&*self.temporary);
    }
}

/// Creates a temporary file, and locks it if the file system can lock files. Returns the file and
/// its name.
fn create(dir: &Dir) -> Result<(File, String)> {
    loop {
        let name = format!(".{}", unique::key(PURPOSE));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = dir.open_file(&name, flags, 0o666)?;
        // Another process may have removed the file as a leftover before it was locked.
        let is_locked = !matches!(file.try_lock(), Err(TryLockError::WouldBlock));
        if is_locked && dir.stat(&*name)?.is_some() {
            return Ok((file, name));
        }
    }
}

/// Returns the space that the temporary files of killed processes take in a directory. Those are
/// the temporary files that no process has locked. Removes these files if `remove` is set. A file
/// that cannot be locked or removed stays, and is not counted.
pub(crate) fn leftovers(dir: &Dir, remove: bool) -> Usage {
    let prefix = format!(".{PURPOSE}-");
    let entries = calls::list(dir).unwrap_or_default();
    let names = entries
        .into_iter()
        .filter_map(|(name, _)| name.into_string().ok());
    let mut sum = Usage::default();
    for name in names.filter(|name| name.starts_with(&prefix)) {
        let opened = dir.open_file(&*name, OFlags::WRONLY | OFlags::NONBLOCK, 0);
        let Some(file) = opened.ok().filter(|file| file.try_lock().is_ok()) else {
            continue;
        };
        if !remove || dir.remove(&*name).is_ok() {
            sum += Usage {
                bytes: file.metadata().map_or(0, |data| data.blocks() * 512),
                inodes: 1,
            };
        }
    }
    sum
}
