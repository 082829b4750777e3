//! Removing trees. If the permissions of a directory do not let its owner remove entries, the
//! permissions are changed first.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use cas_core::error::{Context, Error, ErrorKind, Result};
use cas_core::snapshot::Usage;
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::calls::{self, undisturbed};
use crate::resolve::open_unmounted;
use crate::tree::{At, Visit, descend, open_below, proc_path, usage_of, walk};

/// Maximum number of attempts to remove a directory in which other processes write. A process that
/// serves layers that are read on demand writes a few files after the layer is removed.
const REPEATS: usize = 16;
/// How a directory is opened to reach what is in it.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Removes a tree and measures the freed space.
struct Remover {
    freed: Usage,
    privileged: bool,
}

impl Remover {
    fn new() -> Self {
        Remover {
            freed: Usage::default(),
            privileged: rustix::process::geteuid().is_root(),
        }
    }

    /// Removes everything below a directory. Another process may be removing the directory.
    fn empty(&mut self, dir: impl AsFd) -> Result<()> {
        match walk(dir, self) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            walked => walked,
        }
    }

    /// Returns whether a directory does not let this user remove what is in it.
    fn is_closed(&self, stat: &Stat) -> bool {
        !self.privileged && stat.st_mode & 0o700 != 0o700
    }
}

impl Visit for Remover {
    fn entry(&mut self, at: At<'_>) -> io::Result<()> {
        // The space of a file is freed with the last name of the file.
        if at.stat.st_nlink < 2 {
            self.freed += usage_of(at.stat);
        }
        ignore_absent(calls::unlinkat(at.dir, at.name, AtFlags::empty()))
    }

    /// If the permissions of the directory do not let this user remove its entries, first changes
    /// the permissions.
    fn open(&mut self, at: At<'_>) -> Result<OwnedFd, Errno> {
        if self.is_closed(at.stat) {
            // This call fails at a mount point, so that the mode of a mount point is not changed.
            let found = open_unmounted(at.dir, at.name.to_bytes(), DIRECTORY)?;
            calls::chmod(&proc_path(found.as_fd()), Mode::RWXU)?;
        }
        open_below(at)
    }

    fn enter(&mut self, at: At<'_>) -> io::Result<()> {
        self.freed += usage_of(at.stat);
        Ok(())
    }

    fn leave(&mut self, at: At<'_>, child: BorrowedFd<'_>) -> io::Result<()> {
        for _ in 0..REPEATS {
            match calls::unlinkat(at.dir, at.name, AtFlags::REMOVEDIR) {
                // Another process has just written something in the directory.
                Err(Errno::NOTEMPTY | Errno::EXIST) => self.empty(child)?,
                removed => return ignore_absent(removed),
            }
        }
        let message = "other processes add files while the directory is removed; retry";
        Err(Error::unavailable(message).into())
    }
}

/// Ignores that the entry is absent, because another process may be removing the same tree.
fn ignore_absent(outcome: Result<(), Errno>) -> io::Result<()> {
    match outcome {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

/// Removes the directory `name` in `parent` and everything below it. Returns the freed space. Also
/// removes a file or a symbolic link `name`, whose space is not counted. An absent entry is not an
/// error.
///
/// # Errors
/// `Busy` at a mount point; `Denied` if this user may not remove a file; `Unavailable` if a
/// directory is moved meanwhile, or if other processes keep adding files; errors of the file
/// system, with the path.
pub(crate) fn remove(parent: impl AsFd, name: &str) -> Result<Usage> {
    let mut remover = Remover::new();
    let removed = remove_any(parent.as_fd(), name, &mut remover).during("remove", name);
    match removed {
        Err(error) if error.kind() == ErrorKind::Denied && !remover.privileged => {
            let why =
                "other users may own files in the directory; run the command in `cas unshare`";
            Err(Error::new(ErrorKind::Denied, why).source(error)).during("remove", name)
        }
        removed => removed.map(|()| remover.freed),
    }
}

/// Removes everything below the directory `path`. If `itself` is set, also removes the directory
/// `path`; in this case, `path` must not be a symbolic link. If the permissions of a directory do
/// not let its owner remove entries, first changes the permissions.
///
/// # Errors
/// `Busy` at a mount point below `path`; if `itself` is set, also `Busy` if `path` is a mount point
/// or does not end in a name; `Unavailable` if a directory below `path` is moved meanwhile, or if
/// other processes keep adding files; errors of the file system. A mount point stays unchanged. If
/// the error is about something below `path` or about a mount point, the `io::Error` contains an
/// [`Error`] that names it.
pub fn remove_all(path: &Path, itself: bool) -> io::Result<()> {
    let mut remover = Remover::new();
    let open = |path| calls::open(path, DIRECTORY, Mode::empty());
    if itself {
        undisturbed(|| path.symlink_metadata())?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::BUSY.into());
        };
        let parent = open(Path::new(".").join(parent).as_path())?;
        return remove_with(parent.as_fd(), name, &mut remover);
    }
    let found = open(path)?;
    if remover.is_closed(&calls::fstat(&found)?) {
        calls::chmod(&proc_path(found.as_fd()), Mode::RWXU)?;
    }
    Ok(remover.empty(found)?)
}

/// Removes everything in the open directory `dir`, even if the directory has moved since it was
/// opened. If the permissions of a directory below `dir` do not let its owner remove entries, first
/// changes the permissions. Does not change the permissions of `dir`.
///
/// # Errors
/// `Busy` at a mount point; `Unavailable` if a directory below `dir` is moved meanwhile, or if other
/// processes keep adding files to it; errors of the file system, with the path.
pub fn clear(dir: impl AsFd) -> Result<()> {
    Remover::new().empty(dir)
}

fn remove_any(parent: BorrowedFd<'_>, name: &str, remover: &mut Remover) -> io::Result<()> {
    match calls::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => remove_with(parent, name.as_ref(), remover),
        removed => ignore_absent(removed),
    }
}

fn remove_with(parent: BorrowedFd<'_>, name: &OsStr, remover: &mut Remover) -> io::Result<()> {
    let name = CString::new(name.as_encoded_bytes())?;
    let stat = match calls::statat(parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        stat => stat?,
    };
    let at = At {
        dir: parent,
        name: &name,
        stat: &stat,
    };
    let Some(dir) = descend(at, remover)? else {
        return Ok(());
    };
    remover.empty(&dir)?;
    remover.leave(at, dir.as_fd())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_in_a_directory_is_removed_and_nothing_behind_links() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name);
        fs::create_dir_all(path("kept/below")).unwrap();
        let closed = fs::Permissions::from_mode(0o500);
        for itself in [false, true] {
            fs::create_dir_all(path("tree/a/b")).unwrap();
            fs::write(path("tree/a/file"), "").unwrap();
            symlink(path("kept"), path("tree/link")).unwrap();
            for name in ["tree/a/b", "tree/a", "tree"] {
                fs::set_permissions(path(name), closed.clone()).unwrap();
            }
            remove_all(&path("tree"), itself).unwrap();
            assert_eq!(path("tree").exists(), !itself);
        }
        symlink(path("kept"), path("tree")).unwrap();
        assert!(remove_all(&path("tree"), true).is_err());
        fs::create_dir_all(path("full/a/b")).unwrap();
        let opened = fs::File::open(path("full")).unwrap();
        fs::rename(path("full"), path("moved")).unwrap();
        symlink(path("kept"), path("full")).unwrap();
        clear(&opened).unwrap();
        assert_eq!(fs::read_dir(path("moved")).unwrap().count(), 0);
        let error = remove_all(&path("absent"), true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(path("kept/below").exists());
    }

    #[test]
    fn directories_that_others_remove_or_fill_meanwhile_are_removed() {
        let temp = tempfile::tempdir().unwrap();
        let tree = temp.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let opened = fs::File::open(&tree).unwrap();
        fs::remove_dir(&tree).unwrap();
        clear(&opened).unwrap();
        let walked = walk(&opened, &mut Remover::new());
        assert_eq!(walked.unwrap_err().kind(), ErrorKind::NotFound);

        fs::create_dir(&tree).unwrap();
        for name in 0..5000 {
            fs::write(tree.join(name.to_string()), "").unwrap();
        }
        let (first, late) = (tree.join("0"), tree.join("late"));
        std::thread::scope(|scope| {
            // The names are listed before the first of them is removed.
            scope.spawn(|| {
                while first.exists() {}
                let _ = fs::write(late, "");
            });
            remove(fs::File::open(temp.path()).unwrap(), "tree").unwrap();
        });
        assert!(!tree.exists());
    }

    #[test]
    fn a_mount_point_is_not_emptied() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: only root can mount");
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let (kept, mounted) = (temp.path().join("kept"), temp.path().join("mounted"));
        fs::create_dir_all(kept.join("below")).unwrap();
        fs::create_dir(&mounted).unwrap();
        let run = |command: &mut Command| assert!(command.status().unwrap().success());
        run(Command::new("mount").arg("--bind").args([&kept, &mounted]));
        let removed = remove_all(&mounted, true).map_err(Error::from);
        run(Command::new("umount").arg(&mounted));
        assert_eq!(removed.unwrap_err().kind(), ErrorKind::Busy);
        assert!(kept.join("below").exists());
        remove_all(&mounted, true).unwrap();
    }
}
