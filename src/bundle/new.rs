//! The directory of a bundle that is being made.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use cas_core::{Context, Error, Progress, Result, background};
use cas_host::calls::{is_dir, undisturbed};
use cas_host::{NewDirectory, remove_all, remove_unused_dir};
use cas_layer::unpack;

use super::{DOCUMENT, ROOTFS, TEMPORARY};

/// Maximum number of attempts to remove a bundle. An unpack or a mount may first have to end in the
/// background.
const ATTEMPTS: u32 = 500;
/// Time between two attempts to remove a bundle.
const INTERVAL: Duration = Duration::from_millis(20);

/// The directory of a bundle. If this value is dropped before [`Self::keep`] or [`Self::remove`] is
/// called, what was made is removed in the background.
pub(crate) struct NewBundle {
    /// `None` once the bundle is kept or removed.
    directory: Option<NewDirectory>,
    path: PathBuf,
    /// Whether the root file system is a directory that was unpacked completely.
    unpacked: bool,
}

impl NewBundle {
    /// Creates the directory if it is absent, and closes it to other users. Waits while another job
    /// makes a bundle or unpacks an image there. If a killed job has left the directory and the
    /// file system has extended attributes, first removes everything in the directory.
    ///
    /// # Errors
    /// `InvalidArgument` if the path is not a directory, or if the directory is not empty;
    /// `NotFound` if its parent does not exist; `Denied` if the directory belongs to another user;
    /// errors of the file system.
    pub(crate) async fn begin(path: &Path, progress: &dyn Progress) -> Result<Self> {
        let begun = unpack::new_directory(path, 0o700, progress).await;
        let directory = begun.map_err(|error| {
            let is_invalid = error.kind() == cas_core::ErrorKind::InvalidArgument;
            // Otherwise, the path or a part of it is not a directory.
            if !is_invalid || !is_dir(path) {
                return error;
            }
            Error::invalid(
                "the directory is not empty; name one that is empty or absent, or remove what an \
                 interrupted `cas bundle` has left in it (if it ran with --mount, first run \
                 `cas umount DIR/rootfs`)",
            )
        })?;
        // A directory that existed may be open to others.
        directory.close()?;
        Ok(NewBundle {
            directory: Some(directory),
            path: path.to_owned(),
            unpacked: false,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path.join(ROOTFS)
    }

    /// Creates the directory that the root file system is mounted on.
    pub(crate) fn make_rootfs(&self) -> Result<()> {
        let rootfs = self.rootfs();
        let made = undisturbed(|| fs::create_dir(&rootfs));
        made.during("make directory", rootfs.display())
    }

    /// Records in this value that the root file system was unpacked, so that a removal also removes
    /// its files.
    pub(crate) fn unpacked(&mut self) {
        self.unpacked = true;
    }

    /// Keeps the bundle.
    pub(crate) fn keep(mut self) {
        self.directory
            .take()
            .into_iter()
            .for_each(NewDirectory::keep);
    }

    /// Removes what was made. The root file system must not be mounted any more. The next
    /// [`Self::begin`] removes what cannot be removed now.
    pub(crate) fn remove(mut self) -> Result<()> {
        let Some(directory) = self.directory.take() else {
            return Ok(());
        };
        let unpacked = self.unpacked;
        let removed = directory.clear_by(|path, created| remove(path, created, unpacked));
        removed.during("remove", self.path.display())
    }
}

impl Drop for NewBundle {
    fn drop(&mut self) {
        let Some(directory) = self.directory.take() else {
            return;
        };
        let unpacked = self.unpacked;
        background::run(async move {
            directory.clear_by(|path, created| {
                // An unpack or a mount that was interrupted removes in the background what it has
                // made there. Until it ends, the root file system may be in use, or may still be
                // created.
                for _ in 0..ATTEMPTS {
                    if remove(path, created, unpacked).is_ok() {
                        break;
                    }
                    thread::sleep(INTERVAL);
                }
            });
        });
    }
}

/// Removes the files of a bundle. Also removes the directory if it was `created` for the bundle.
fn remove(directory: &Path, created: bool, unpacked: bool) -> io::Result<()> {
    let rootfs = directory.join(ROOTFS);
    absent_is_ok(if unpacked {
        remove_all(&rootfs, true)
    } else {
        remove_unused_dir(&rootfs)
    })?;
    for name in [DOCUMENT, TEMPORARY] {
        let path = directory.join(name);
        absent_is_ok(undisturbed(|| fs::remove_file(&path)))?;
    }
    if created {
        undisturbed(|| fs::remove_dir(directory))?;
    }
    Ok(())
}

fn absent_is_ok(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use cas_core::progress::Silent;

    use super::*;

    /// A process may be killed before everything is removed.
    #[tokio::test]
    async fn what_is_left_of_a_bundle_is_removed_by_the_next_one() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("bundle");
        let bundle = NewBundle::begin(&path, &Silent).await.unwrap();
        bundle.make_rootfs().unwrap();
        fs::write(path.join(DOCUMENT), "{}").unwrap();
        // The files of a root file system that was to be mounted are not removed.
        fs::write(bundle.rootfs().join("file"), "").unwrap();
        bundle.remove().unwrap_err();
        assert!(path.join(DOCUMENT).exists());
        let again = NewBundle::begin(&path, &Silent).await.unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        again.remove().unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    }
}
