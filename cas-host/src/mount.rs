//! Mounts by descriptors: a tree is whole before anybody can see it, and one that is attached
//! nowhere is gone with its descriptor, whatever becomes of the process.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use cas_core::error::{Context, Error, Result};
use cas_core::snapshot::Mount;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    mount_remount, move_mount, open_tree, unmount as unmount_at,
};

use crate::owners;

/// Longest value of one parameter that the kernel takes, without its end.
const VALUE: usize = 255;

/// The root directory of what `mounts` show, for this process alone.
///
/// # Errors
/// `Unsupported` for more than one mount; `Denied` where overlays need more rights; those of the
/// file system.
pub fn open(mounts: &[Mount]) -> Result<OwnedFd> {
    match single(mounts)? {
        Mount::Bind { source, .. } => directory(source).during("open directory", source.display()),
        overlay @ Mount::Overlay { .. } => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::openat(tree(overlay, None)?, c".", flags, Mode::empty());
            root.map_err(io::Error::from).during("open", "the overlay")
        }
    }
}

/// Shows what `mounts` say at the directory `target`; with the owners that a user namespace, where
/// there is one, maps those on disk to.
///
/// The kernel makes an overlay's work directory as the user who mounts, so that the namespace must
/// have him, as whomever.
///
/// # Errors
/// As [`open`]; `NotFound` or `FailedPrecondition` where `target` is no directory; `Unsupported`
/// where the kernel or the file system cannot map owners.
pub fn attach(mounts: &[Mount], target: &Path, owners: Option<BorrowedFd<'_>>) -> Result<()> {
    let mount = single(mounts)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    let moved = move_mount(tree(mount, owners)?, c"", CWD, target, flags).map_err(io::Error::from);
    moved.during("mount on", target.display())?;
    if let Mount::Bind {
        read_only: true, ..
    } = mount
    {
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        let fixed = mount_remount(target, flags, c"").map_err(io::Error::from);
        fixed
            .during("mount read-only", target.display())
            .inspect_err(|_| {
                // What cannot be made read-only must not stay; the first error is the one to tell.
                let _ = unmount(target);
            })?;
    }
    Ok(())
}

/// Takes away what is mounted at `target`.
///
/// # Errors
/// `Busy` while it is used; `FailedPrecondition` where nothing is mounted; those of the system.
pub fn unmount(target: &Path) -> Result<()> {
    match unmount_at(target, UnmountFlags::NOFOLLOW) {
        Err(Errno::BUSY) => Err(Error::busy(
            "something in it is in use; end that or leave the directory",
        )),
        Err(Errno::INVAL) => Err(Error::precondition("nothing is mounted there")),
        done => done.map_err(|errno| io::Error::from(errno).into()),
    }
    .during("unmount", target.display())
}

fn single(mounts: &[Mount]) -> Result<&Mount> {
    match mounts {
        [mount] => Ok(mount),
        other => Err(Error::unsupported(format!(
            "expected one mount from the snapshotter, found {}",
            other.len()
        ))
        .operation("mount")),
    }
}

/// Makes a mount that is attached nowhere yet.
fn tree(mount: &Mount, owners: Option<BorrowedFd<'_>>) -> Result<OwnedFd> {
    let (lower, upper, work, options) = match mount {
        Mount::Bind { source, .. } => return clone(source, owners),
        Mount::Overlay {
            lower,
            upper,
            work,
            options,
        } => (lower, upper, work, options),
    };
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(io::Error::from);
    let mut overlay = Overlay {
        context: context.during("mount", "an overlay")?,
        layers: Vec::new(),
    };
    for path in lower {
        match owners {
            Some(owners) => {
                let mapped = overlay.mapped(path, owners)?;
                overlay.layer("lowerdir+", &mapped)?;
            }
            None => overlay.layer("lowerdir+", path)?,
        }
    }
    if let (Some(upper), Some(work)) = (upper, work) {
        // The kernel wants both in one mount.
        let both = match (owners, upper.parent()) {
            (Some(owners), Some(dir)) => Some((dir, overlay.mapped(dir, owners)?)),
            _ => None,
        };
        for (key, path) in [("upperdir", upper), ("workdir", work)] {
            match &both {
                Some((dir, mapped)) => {
                    let below = path.strip_prefix(dir).unwrap_or(path);
                    overlay.layer(key, &mapped.join(below))?;
                }
                None => overlay.layer(key, path)?,
            }
        }
    }
    for option in options {
        overlay.option(option)?;
    }
    let attributes = match upper {
        Some(_) => MountAttrFlags::empty(),
        None => MountAttrFlags::MOUNT_ATTR_RDONLY,
    };
    let created = fsconfig_create(&overlay.context)
        .and_then(|()| fsmount(&overlay.context, FsMountFlags::FSMOUNT_CLOEXEC, attributes));
    created.map_err(|errno| {
        let error = overlay.explain(errno);
        match (owners, errno) {
            (Some(_), Errno::INVAL) => Error::unsupported(format!(
                "overlays show other owners from Linux 6.15 on; mount without a map of ids: {error}"
            ))
            .operation("map owners"),
            _ => error,
        }
    })
}

/// A mount of the directory that is attached nowhere.
fn clone(path: &Path, owners: Option<BorrowedFd<'_>>) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, path, flags).map_err(io::Error::from);
    let tree = tree.during("mount", path.display())?;
    if let Some(owners) = owners {
        owners::map(&tree, owners).map_err(|error| error.subject(path.display()))?;
    }
    Ok(tree)
}

/// An overlay that is being described to the kernel.
struct Overlay {
    context: OwnedFd,
    /// Layers whose paths are too long, or whose owners are mapped, open until the mount is made.
    layers: Vec<File>,
}

impl Overlay {
    /// A mount of the directory that has mapped owners.
    fn mapped(&mut self, path: &Path, owners: BorrowedFd<'_>) -> Result<PathBuf> {
        Ok(self.keep(clone(path, Some(owners))?))
    }

    /// Keeps it open; its path until then.
    fn keep(&mut self, layer: OwnedFd) -> PathBuf {
        let path = format!("/proc/self/fd/{}", layer.as_raw_fd());
        self.layers.push(File::from(layer));
        path.into()
    }

    /// A parameter of its own for each layer, so that no number of them is too long.
    fn layer(&mut self, key: &str, path: &Path) -> Result<()> {
        let set = match path.as_os_str().len() <= VALUE {
            true => fsconfig_set_string(&self.context, key, path),
            false => {
                let layer = directory(path).during("open directory", path.display())?;
                let short = self.keep(layer);
                fsconfig_set_string(&self.context, key, short)
            }
        };
        set.map_err(|errno| self.explain(errno).subject(path.display()))
    }

    fn option(&self, option: &str) -> Result<()> {
        let set = match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&self.context, key, OsStr::new(value)),
            None => fsconfig_set_flag(&self.context, option),
        };
        set.map_err(|errno| self.explain(errno).subject(option))
    }

    /// The error with what the kernel says of it, which it does here alone.
    fn explain(&self, errno: Errno) -> Error {
        let mut said = [0; 512];
        let length = rustix::io::read(self.context.as_fd(), &mut said).unwrap_or(0);
        let said = String::from_utf8_lossy(&said[..length]);
        let error = io::Error::from(errno);
        // Each message begins with its kind: `e ` for an error.
        let error = match said.trim().trim_start_matches("e ") {
            "" => error,
            said => io::Error::new(error.kind(), format!("{error}; the kernel says: {said}")),
        };
        Error::from(error).operation("mount overlay")
    }
}

fn directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}
