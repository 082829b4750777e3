//! The directory of a bundle that is being made.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use cas_core::{Context, Error, Result, background};

use super::{DOCUMENT, ROOTFS, TEMPORARY};

/// How long the removal of a bundle waits for an unpack or an unmount to end in the background.
const ATTEMPTS: u32 = 500;
const INTERVAL: Duration = Duration::from_millis(20);

/// The directory of a bundle. Unless it is kept, what was made is removed in the background when it
/// is dropped.
pub(crate) struct NewBundle {
    directory: PathBuf,
    /// Whether the directory did not exist before.
    created: bool,
    /// Whether the root file system is a directory that was unpacked completely.
    unpacked: bool,
    /// Whether nothing is left to remove.
    ended: bool,
}

impl NewBundle {
    /// Creates the directory if it is absent.
    ///
    /// # Errors
    /// `FailedPrecondition` if it is not empty; `NotFound` if its parent does not exist; errors of
    /// the file system.
    pub(crate) fn begin(directory: &Path) -> Result<Self> {
        let created = match fs::DirBuilder::new().mode(0o700).create(directory) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let why = "the parent directory does not exist; create it first";
                return Err(Error::not_found(why).source(error));
            }
            Err(error) => return Err(error.into()),
        };
        if !created && fs::read_dir(directory)?.next().is_some() {
            return Err(Error::precondition(
                "the directory is not empty; name one that is empty or absent, or remove what an \
                 interrupted `cas bundle` has left in it (with --mount, `cas umount DIR/rootfs` \
                 first)",
            ));
        }
        Ok(NewBundle {
            directory: directory.to_owned(),
            created,
            unpacked: false,
            ended: false,
        })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.directory.join(ROOTFS)
    }

    /// Creates the directory that the root file system is mounted on.
    pub(crate) fn make_rootfs(&self) -> Result<()> {
        let rootfs = self.rootfs();
        fs::create_dir(&rootfs).during("make directory", rootfs.display())
    }

    /// Notes that the root file system was unpacked.
    pub(crate) fn unpacked(&mut self) {
        self.unpacked = true;
    }

    /// Keeps the bundle.
    pub(crate) fn keep(mut self) {
        self.ended = true;
    }

    /// Removes what was made. The root file system is not mounted any more.
    pub(crate) fn remove(mut self) -> Result<()> {
        self.ended = true;
        let removed = if self.unpacked {
            fs::remove_dir_all(self.rootfs())
        } else {
            fs::remove_dir(self.rootfs())
        };
        absent_is_ok(removed).during("remove", self.rootfs().display())?;
        remove_rest(&self.directory, self.created).during("remove", self.directory.display())
    }
}

impl Drop for NewBundle {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (directory, created) = (std::mem::take(&mut self.directory), self.created);
        let (rootfs, unpacked) = (directory.join(ROOTFS), self.unpacked);
        background::run(async move {
            if unpacked {
                let _ = fs::remove_dir_all(&rootfs);
            }
            // What is unpacked or mounted there is removed by others.
            for _ in 0..ATTEMPTS {
                if absent_is_ok(fs::remove_dir(&rootfs)).is_ok() {
                    break;
                }
                thread::sleep(INTERVAL);
            }
            let _ = remove_rest(&directory, created);
        });
    }
}

fn remove_rest(directory: &Path, created: bool) -> io::Result<()> {
    for name in [DOCUMENT, TEMPORARY] {
        absent_is_ok(fs::remove_file(directory.join(name)))?;
    }
    if created {
        fs::remove_dir(directory)?;
    }
    Ok(())
}

fn absent_is_ok(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
