//! The directory that an image is unpacked into.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cas_core::{Error, Result, background};

/// A directory that is being filled. Unless it is kept, it is emptied again in the background when
/// it is dropped, and removed if it did not exist before.
pub(super) struct NewDirectory {
    path: PathBuf,
    /// Whether it did not exist before.
    created: bool,
    /// Whether nothing is left to remove.
    ended: bool,
}

impl NewDirectory {
    /// Creates the directory if it is absent.
    ///
    /// # Errors
    /// `FailedPrecondition` if it is not empty; `NotFound` if its parent does not exist; errors of
    /// the file system.
    pub(super) fn begin(path: PathBuf) -> Result<Self> {
        let created = match fs::create_dir(&path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let why = "the parent directory does not exist; create it first";
                return Err(Error::not_found(why).source(error));
            }
            Err(error) => return Err(error.into()),
        };
        if !created && fs::read_dir(&path)?.next().is_some() {
            return Err(Error::precondition(
                "the directory is not empty; name one that is empty or absent, or remove what an \
                 interrupted unpack has left in it",
            ));
        }
        let directory = NewDirectory {
            path,
            created,
            ended: false,
        };
        if created {
            // The umask may have removed permissions.
            fs::set_permissions(&directory.path, Permissions::from_mode(0o755))?;
        }
        Ok(directory)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps what was unpacked.
    pub(super) fn keep(mut self) {
        self.ended = true;
    }

    /// Removes what was unpacked, and the directory itself if it did not exist before.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.ended = true;
        clear(&self.path, self.created)
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (path, created) = (std::mem::take(&mut self.path), self.created);
        background::run(async move {
            let _ = clear(&path, created);
        });
    }
}

fn clear(path: &Path, created: bool) -> io::Result<()> {
    if created {
        return fs::remove_dir_all(path);
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
