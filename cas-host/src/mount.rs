//! Mounting through file descriptors. A mount is complete, with all its restrictions, before it is
//! visible. A mount that is not attached ends when its file descriptor is closed, even by a kill.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use cas_core::error::{Context, Error, ErrorKind, Result};
use cas_core::snapshot::Mount;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree, unmount as unmount_at,
};

use crate::IdMap;
use crate::calls;
use crate::mount_attr::set_attributes;

/// Maximum number of lower directories that the kernel accepts in one overlay.
const LOWER: usize = 500;
/// Maximum length in bytes of a mount parameter, without the final zero.
const VALUE: usize = 255;

/// Opens the root directory of `mounts` for this process only. An overlay is mounted for that, but
/// not attached. Returns the directory.
///
/// # Errors
/// `Unsupported` if `mounts` is not exactly one mount of a known type, or if the kernel does not
/// support the number of layers; `OutOfRange` for 1000 layers or more; `Denied` without the right
/// to mount overlays; errors of the file system.
pub fn open(mounts: &[Mount]) -> Result<OwnedFd> {
    match single(mounts)? {
        Mount::Bind { source, .. } => directory(source).during("open directory", source.display()),
        other => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = calls::openat(&tree(other, None)?, c".", flags, Mode::empty());
            root.map_err(io::Error::from).during("open", "the overlay")
        }
    }
}

/// What a mount lets the users of the machine do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// Whether set-id programs run with the rights of their owner or group.
    pub suid: bool,
    /// Whether device nodes can be opened.
    pub devices: bool,
}

/// Mounts `mounts` at the directory `target`. If `idmap` is given, maps the owners of files by it.
///
/// The kernel creates the work directory of an overlay as the user who mounts, so the map must
/// contain that user.
///
/// # Errors
/// As [`open`]; `NotFound` or `FailedPrecondition` if `target` is not a directory; `Unsupported` if
/// the kernel or the file system cannot map IDs, or if the kernel (before 5.12) cannot restrict a
/// mount.
pub fn attach(
    mounts: &[Mount],
    target: &Path,
    idmap: Option<IdMap<'_>>,
    rights: Rights,
) -> Result<()> {
    let mount = single(mounts)?;
    let tree = tree(mount, idmap)?;
    let mut attributes = MountAttrFlags::empty();
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOSUID, !rights.suid);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, !rights.devices);
    let is_read_only = matches!(
        mount,
        Mount::Bind {
            read_only: true,
            ..
        }
    );
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, is_read_only);
    if !attributes.is_empty() {
        restrict(&tree, attributes).during("mount on", target.display())?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    let moved = move_mount(tree, c"", CWD, target, flags).map_err(explain);
    moved.during("mount on", target.display())
}

fn restrict(tree: &OwnedFd, attributes: MountAttrFlags) -> Result<()> {
    set_attributes(tree, attributes, None).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOSYS) => Error::unsupported(
            "Linux before 5.12 cannot restrict a mount before it is visible; use a newer kernel",
        )
        .source(error),
        _ => error.into(),
    })
}

/// How a mount that is in use is unmounted. By default, it stays mounted, and [`unmount`] fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnmountMode {
    /// Whether pending requests to a file system that does not answer are aborted (`MNT_FORCE`).
    pub force: bool,
    /// Whether the mount is only detached (`MNT_DETACH`): its path no longer shows it, and it ends
    /// when nothing uses it any more.
    pub lazy: bool,
}

/// Unmounts `target`.
///
/// # Errors
/// `Busy` if the mount is in use and `mode` is not `lazy`; `FailedPrecondition` if nothing is
/// mounted at `target`; `Denied` without the right to mount; errors of the system.
pub fn unmount(target: &Path, mode: UnmountMode) -> Result<()> {
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::FORCE, mode.force);
    flags.set(UnmountFlags::DETACH, mode.lazy);
    match unmount_at(target, flags) {
        Err(Errno::BUSY) => Err(Error::busy(
            "a file or directory in the mount is in use; end the process that uses it, or leave \
             the directory",
        )),
        Err(Errno::INVAL) => Err(Error::precondition(
            "nothing is mounted at this path; check the path",
        )),
        done => done.map_err(explain),
    }
    .during("unmount", target.display())
}

/// The kernel's refusal of a mount to a process without the right to mount.
#[derive(Debug)]
struct NoRight;

impl fmt::Display for NoRight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from(Errno::PERM).fmt(f)
    }
}

impl std::error::Error for NoRight {}

/// Returns whether the cause of an error is that this process has no right to mount.
pub fn has_no_right(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<NoRight>())
}

/// Checks that this process has the right to mount, so that a caller can fail before other work.
///
/// # Errors
/// `Denied` without the right; [`has_no_right`] then returns true.
pub fn check_right() -> Result<()> {
    match open_tree(
        CWD,
        "/",
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    ) {
        Err(Errno::PERM) => Err(explain(Errno::PERM).operation("mount")),
        // Any other failure here does not mean that other mounts would fail.
        _ => Ok(()),
    }
}

/// Returns the error of a call that needs the right to mount.
fn explain(errno: Errno) -> Error {
    if errno != Errno::PERM {
        return io::Error::from(errno).into();
    }
    let why = "mounting and unmounting need CAP_SYS_ADMIN";
    Error::new(ErrorKind::Denied, why).source(NoRight)
}

fn single(mounts: &[Mount]) -> Result<&Mount> {
    match mounts {
        [mount] => Ok(mount),
        other => Err(Error::unsupported(format!(
            "expected one mount from the snapshotter, found {}; use another snapshotter",
            other.len()
        ))
        .operation("mount")),
    }
}

/// Returns a new mount that is not attached yet.
fn tree(mount: &Mount, idmap: Option<IdMap<'_>>) -> Result<OwnedFd> {
    let (lower, upper, work, options) = match mount {
        Mount::Bind { source, .. } => return clone(source, idmap),
        Mount::Overlay {
            lower,
            upper,
            work,
            options,
        } => (lower, upper, work, options),
        other => return Err(other.unsupported()),
    };
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(explain);
    let mut overlay = Overlay {
        context: context.during("mount", "an overlay")?,
        layers: Vec::new(),
    };
    let (direct, nested) = split(lower)?;
    for path in direct {
        match idmap {
            Some(idmap) => {
                let mapped = overlay.map_owners(path, idmap)?;
                overlay.layer("lowerdir+", &mapped)?;
            }
            None => overlay.layer("lowerdir+", path)?,
        }
    }
    if !nested.is_empty() {
        overlay.nest(nested, options, idmap)?;
    }
    if let (Some(upper), Some(work)) = (upper, work) {
        // The kernel requires both directories in one mount.
        let both = match (idmap, upper.parent()) {
            (Some(idmap), Some(dir)) => Some((dir, overlay.map_owners(dir, idmap)?)),
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
        match (idmap, errno) {
            (Some(_), Errno::INVAL) => Error::unsupported(format!(
                "overlays with an ID map need Linux 6.15; mount without an ID map: {error}"
            ))
            .operation("map owners"),
            _ => error,
        }
    })
}

/// Splits the lower directories if they are too many for one overlay. Returns the directories of
/// the overlay itself, and the lowest directories. The caller makes a second overlay of the lowest
/// directories, which becomes the lowest layer of the first overlay.
fn split(lower: &[PathBuf]) -> Result<(&[PathBuf], &[PathBuf])> {
    match lower.len() {
        0..=LOWER => Ok((lower, &[])),
        found if found < 2 * LOWER => Ok(lower.split_at(LOWER - 1)),
        found => Err(Error::out_of_range(format!(
            "expected at most {} layers in an overlay, found {found}; use the native snapshotter",
            2 * LOWER - 1
        ))
        .operation("mount overlay")),
    }
}

/// Returns a new bind mount of a directory. The mount is not attached yet.
fn clone(path: &Path, idmap: Option<IdMap<'_>>) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, path, flags).map_err(explain);
    let tree = tree.during("mount", path.display())?;
    if let Some(idmap) = idmap {
        let mapped = idmap.apply(&tree);
        mapped.map_err(|error| error.subject(path.display()))?;
    }
    Ok(tree)
}

/// An overlay that is being configured.
struct Overlay {
    context: OwnedFd,
    /// Layers with a long path or with mapped owners, open until the mount is created.
    layers: Vec<File>,
}

impl Overlay {
    /// Mounts the directory with mapped owners. Returns the path of the mount.
    fn map_owners(&mut self, path: &Path, idmap: IdMap<'_>) -> Result<PathBuf> {
        Ok(self.keep_open(clone(path, Some(idmap))?))
    }

    /// Keeps a layer open until the mount is created. Returns a path to it.
    fn keep_open(&mut self, layer: OwnedFd) -> PathBuf {
        let path = format!("/proc/self/fd/{}", layer.as_raw_fd());
        self.layers.push(File::from(layer));
        path.into()
    }

    /// Sets one layer. Each layer is a parameter of its own, so the maximum length of a parameter
    /// does not bound their number.
    fn layer(&mut self, key: &str, path: &Path) -> Result<()> {
        let set = if path.as_os_str().len() <= VALUE {
            fsconfig_set_string(&self.context, key, path)
        } else {
            let layer = directory(path).during("open directory", path.display())?;
            let short = self.keep_open(layer);
            fsconfig_set_string(&self.context, key, short)
        };
        set.map_err(|errno| self.explain(errno).subject(path.display()))
    }

    /// Makes an overlay of the directories, and adds it as the lowest layer.
    fn nest(
        &mut self,
        lower: &[PathBuf],
        options: &[String],
        idmap: Option<IdMap<'_>>,
    ) -> Result<()> {
        let mount = Mount::Overlay {
            lower: lower.to_vec(),
            upper: None,
            work: None,
            options: options.to_vec(),
        };
        let path = self.keep_open(tree(&mount, idmap)?);
        self.layer("lowerdir+", &path).map_err(|error| {
            Error::unsupported(format!(
                "an overlay of more than {LOWER} layers needs Linux 6.15, and a store that is not \
                 on an overlay itself: {error}; use the native snapshotter"
            ))
            .operation("mount overlay")
        })
    }

    fn option(&self, option: &str) -> Result<()> {
        let set = match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&self.context, key, OsStr::new(value)),
            None => fsconfig_set_flag(&self.context, option),
        };
        set.map_err(|errno| self.explain(errno).subject(option))
    }

    /// Returns the error with the message of the kernel, which the context holds.
    fn explain(&self, errno: Errno) -> Error {
        let mut message = [0; 512];
        let length = rustix::io::read(self.context.as_fd(), &mut message).unwrap_or(0);
        let message = String::from_utf8_lossy(&message[..length]);
        let error = io::Error::from(errno);
        // A message begins with its kind: `e ` for an error.
        let error = match message.trim().trim_start_matches("e ") {
            "" => error,
            message => io::Error::new(error.kind(), format!("{error}; kernel: {message}")),
        };
        Error::from(error).operation("mount overlay")
    }
}

fn directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(calls::open(path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_refusal_to_mount_is_a_missing_right() {
        for (errno, expected) in [
            (Errno::PERM, true),
            (Errno::ACCESS, false),
            (Errno::ROFS, false),
            (Errno::BUSY, false),
            (Errno::NOENT, false),
        ] {
            let error = explain(errno).operation("mount").subject("/mnt");
            assert_eq!(has_no_right(&error), expected, "{error}");
        }
        let other = Error::from(io::Error::from(Errno::PERM));
        assert!(!has_no_right(&other));
    }
}
