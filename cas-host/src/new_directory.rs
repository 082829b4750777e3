//! A directory that is being filled.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cas_core::{Error, Result, background};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::calls::undisturbed;
use crate::dir_lock::DirLock;
use crate::remove::remove_all;
use crate::{calls, no_directory};

/// The extended attribute of a directory that is not complete yet.
const UNFINISHED: &str = "user.cas.unfinished";

/// A directory that is being filled, and was absent or empty before. If the file system can lock
/// directories, the directory is locked, so that no other caller fills it at the same time. When
/// the value is dropped and [`Self::keep`] was not called, the directory is
/// [cleared](Self::clear) in the background.
///
/// Until [`Self::keep`] is called, the directory has the extended attribute `user.cas.unfinished`,
/// if the file system supports such attributes. If a killed process leaves a directory with this
/// attribute, the next [`Self::try_begin`] removes everything in it. Clearing a directory that
/// existed before also removes the attribute.
pub struct NewDirectory {
    path: PathBuf,
    created: bool,
    /// Locked, if the file system can lock directories. `None` after [`Self::keep`] or
    /// [`Self::clear_by`], so that a drop then does nothing.
    locked: Option<DirLock>,
}

impl NewDirectory {
    /// Creates the directory `path` with the mode `mode` if it is absent, and locks it. If a killed
    /// process has left the directory with the attribute `user.cas.unfinished`, removes everything
    /// in the directory. Returns `None` if another caller has locked the directory or has just
    /// removed it.
    ///
    /// # Errors
    /// `InvalidArgument` if the directory is not empty and does not have the attribute, or if
    /// `path`, or a part of the path above it, exists and is not a directory; `NotFound` if its
    /// parent does not exist; errors of the file system, for example if the umask does not allow
    /// the owner to read the new directory, which is then removed.
    pub fn try_begin(path: &Path, mode: u32) -> Result<Option<Self>> {
        let created = match undisturbed(|| DirBuilder::new().mode(mode).create(path)) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && calls::is_dir(path) => {
                false
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let why = "the parent directory does not exist; create it first";
                return Err(Error::not_found(why).source(error));
            }
            Err(error) => return Err(no_directory(error, path)),
        };
        let locked = match DirLock::try_new(path) {
            Ok(Some(locked)) => locked,
            Ok(None) => return Ok(None),
            Err(error) => {
                // This removes only an empty directory. A caller that has locked the directory, but
                // has not written to it yet, then fails.
                if created {
                    let _ = undisturbed(|| fs::remove_dir(path));
                }
                return Err(error.into());
            }
        };
        if created {
            // The umask may have removed permissions.
            locked.set_mode(mode)?;
        } else if locked.is_unfinished() {
            remove_all(path, false)?;
        } else if !calls::list(locked.file())?.is_empty() {
            return Err(Error::invalid(
                "the directory is not empty; name one that is empty or absent",
            ));
        }
        locked.mark();
        Ok(Some(NewDirectory {
            path: path.to_owned(),
            created,
            locked: Some(locked),
        }))
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the directory to all users but its owner.
    ///
    /// # Errors
    /// `Denied` if the directory belongs to another user; errors of the file system.
    pub fn close(&self) -> Result<()> {
        let closed = undisturbed(|| fs::set_permissions(&self.path, Permissions::from_mode(0o700)));
        closed.map_err(|error| {
            let kind = error.kind();
            let error = Error::from(error);
            match kind {
                io::ErrorKind::PermissionDenied => Error::new(
                    error.kind(),
                    "only the owner of the directory can close it to other users; name an absent \
                     directory, or one that you own",
                )
                .source(error),
                _ => error,
            }
        })
    }

    /// Keeps the content of the directory, removes the attribute `user.cas.unfinished`, and unlocks
    /// the directory. If the file system refuses to remove the attribute, the next
    /// [`Self::try_begin`] removes the content.
    pub fn keep(mut self) {
        if let Some(locked) = self.locked.take() {
            locked.unmark();
        }
    }

    /// Removes everything in the directory, and the directory itself if it did not exist before.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn clear(self) -> io::Result<()> {
        self.clear_by(remove_all)
    }

    /// Runs `remove` instead of clearing the directory, which stays locked meanwhile. `remove`
    /// receives the path, and true if the directory did not exist before. Returns the result of
    /// `remove`.
    pub fn clear_by<T>(mut self, remove: impl FnOnce(&Path, bool) -> T) -> T {
        let locked = self.locked.take();
        let removed = remove(&self.path, self.created);
        locked.iter().for_each(|locked| locked.end(&self.path));
        removed
    }
}

/// Removes an empty directory that no [`NewDirectory`] is filling or clearing.
///
/// # Errors
/// `NotFound` if the directory is absent; `ResourceBusy` if the directory is locked;
/// `DirectoryNotEmpty` if the directory is not empty; errors of the file system.
pub fn remove_unused_dir(path: &Path) -> io::Result<()> {
    match DirLock::try_new(path)? {
        Some(_locked) => undisturbed(|| fs::remove_dir(path)),
        None if undisturbed(|| path.try_exists())? => Err(io::ErrorKind::ResourceBusy.into()),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        let (path, created) = (std::mem::take(&mut self.path), self.created);
        if let Some(locked) = self.locked.take() {
            background::run(async move {
                let _ = remove_all(&path, created);
                locked.end(&path);
            });
        }
    }
}

impl DirLock {
    fn is_unfinished(&self) -> bool {
        calls::fgetxattr(self, UNFINISHED, &mut [0]).is_ok()
    }

    /// Marks the directory. If this fails, later processes do not recognize the files that a killed
    /// process leaves in it.
    fn mark(&self) {
        let _ = calls::fsetxattr(self, UNFINISHED, b"1", XattrFlags::empty());
    }

    /// Removes the mark from a directory that was cleared, if the directory still exists. If
    /// something could not be removed, the mark stays.
    fn end(&self, path: &Path) {
        if undisturbed(|| fs::read_dir(path)).is_ok_and(|mut entries| entries.next().is_none()) {
            self.unmark();
        }
    }

    /// Removes the mark durably: after a loss of power, a directory that is in use must not have
    /// the mark, because its content would be removed.
    fn unmark(&self) {
        let remove = || calls::fremovexattr(self, UNFINISHED);
        let removed = match (remove(), undisturbed(|| self.file().metadata())) {
            // The image may have made the directory read-only to its owner.
            (Err(Errno::ACCESS), Ok(found)) => {
                let mode = found.permissions().mode();
                let removed = self.set_mode(mode | 0o200).map(|()| remove());
                let _ = self.set_mode(mode);
                matches!(removed, Ok(Ok(())))
            }
            (removed, _) => removed.is_ok(),
        };
        if removed {
            let _ = self.file().sync_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use cas_core::ErrorKind;
    use rustix::fs::Uid;

    use super::*;

    #[test]
    fn what_a_killed_owner_left_is_removed_and_what_was_kept_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("new");
        fs::create_dir_all(path.join("half/a/tree")).unwrap();
        fs::write(path.join("file"), "").unwrap();
        let error = NewDirectory::try_begin(&path, 0o755).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "it is not ours");
        DirLock::try_new(&path).unwrap().unwrap().mark();
        let begun = NewDirectory::try_begin(&path, 0o755).unwrap().unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        fs::write(path.join("file"), "whole").unwrap();
        begun.keep();
        let error = NewDirectory::try_begin(&path, 0o755).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "it is complete");
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "whole");
    }

    #[test]
    fn a_new_directory_that_cannot_be_locked_is_removed() {
        const NOBODY: u32 = 65534;
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: only the superuser can become another user");
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(temp.path(), Some(NOBODY), None).unwrap();
        let path = temp.path().join("new");
        let new = path.clone();
        // The superuser may read every directory. Only this thread gets another user.
        let begun = thread::spawn(move || {
            let uid = Uid::from_raw(NOBODY);
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            NewDirectory::try_begin(&new, 0o300).map(drop)
        });
        let error = begun.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn a_cleared_directory_that_existed_before_is_the_users() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path();
        let ends: [fn(NewDirectory); 3] = [
            |begun| begun.clear().unwrap(),
            drop,
            |begun| begun.clear_by(|path, created| remove_all(path, created).unwrap()),
        ];
        for end in ends {
            let begun = NewDirectory::try_begin(path, 0o755).unwrap().unwrap();
            fs::write(path.join("half"), "").unwrap();
            end(begun);
            // The lock is held until the removal in the background has ended.
            while DirLock::try_new(path).unwrap().is_none() {
                thread::sleep(Duration::from_millis(1));
            }
            fs::write(path.join("precious"), "").unwrap();
            let error = NewDirectory::try_begin(path, 0o755).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            fs::remove_file(path.join("precious")).unwrap();
        }
    }

    #[test]
    fn a_directory_is_filled_by_one_owner_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("new");
        let first = NewDirectory::try_begin(&path, 0o755).unwrap().unwrap();
        assert!(NewDirectory::try_begin(&path, 0o755).unwrap().is_none());
        fs::write(path.join("file"), "").unwrap();
        first.clear().unwrap();
        assert!(!path.exists());

        let second = NewDirectory::try_begin(&path, 0o700).unwrap().unwrap();
        second.keep();
        let third = NewDirectory::try_begin(&path, 0o755).unwrap().unwrap();
        fs::write(path.join("file"), "").unwrap();
        // Its content is removed in the background, but not the directory.
        drop(third);
        let fourth = loop {
            match NewDirectory::try_begin(&path, 0o755) {
                Ok(Some(begun)) => break begun,
                _ => thread::sleep(Duration::from_millis(1)),
            }
        };
        fs::write(path.join("file"), "").unwrap();
        fourth.keep();
        let error = NewDirectory::try_begin(&path, 0o755).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}
