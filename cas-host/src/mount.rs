//! Mounting through file descriptors. A mount is complete, with all its restrictions, before it is
//! visible. A mount that is not attached to a path ends when its file descriptor is closed or the
//! process is killed.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use cas_core::error::{Context, Error, Result};
use cas_core::snapshot::Mount;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use crate::IdMap;
use crate::calls::{self, proc_path};
use crate::erofs::{self, ImageFiles, SharedImage};
use crate::in_use;
use crate::mount_attr::set_attributes;
use crate::mount_right::explain;
pub use crate::mount_right::{check_right, has_no_right};
pub use crate::unmount::{UnmountMode, unmount};

/// Maximum number of lower directories that the kernel accepts in one overlay.
const LOWER: usize = 500;
/// Maximum length in bytes of a mount parameter, without the final zero.
const VALUE: usize = 255;

/// Opens the root directory of `mounts` for this process only, and returns it. Overlays and
/// EROFS images are mounted for this, but not attached to a path. For a bind mount, the source is
/// opened without a mount, so files in the returned directory can be changed even if the bind mount
/// is read-only.
///
/// # Errors
/// `Unsupported` unless `mounts` is one mount of a known type, or EROFS images and an overlay on
/// them; `Unsupported` for more than 500 layers if the kernel does not support that many;
/// `OutOfRange` for 1000 layers or more; `Denied` without the right to mount; errors of
/// [`erofs::mount_image`] and of the file system.
pub fn open(mounts: &[Mount]) -> Result<OwnedFd> {
    let (images, mount) = split(mounts)?;
    let mounted = images
        .iter()
        .map(|(image, shared)| Ok((*shared, erofs::mount_image(*image)?)))
        .collect::<Result<Vec<_>>>()?;
    match mount {
        Mount::Bind { source, .. } => directory(source).during("open directory", source.display()),
        Mount::Overlay {
            lower,
            upper,
            work,
            options,
        } => {
            let own = |path: &PathBuf| {
                let image = mounted.iter().find(|(shared, _)| shared == path);
                image.map_or_else(|| path.clone(), |(_, image)| proc_path(image))
            };
            let overlay = Mount::Overlay {
                lower: lower.iter().map(own).collect(),
                upper: upper.clone(),
                work: work.clone(),
                options: options.clone(),
            };
            root_of(&tree(&overlay, None)?)
        }
        other => match mounted.first() {
            Some((_, image)) => root_of(image),
            None => Err(other.unsupported()),
        },
    }
}

/// Returns the root directory of a mount that is not attached.
fn root_of(tree: &OwnedFd) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = calls::openat(tree, c".", flags, Mode::empty());
    root.map_err(io::Error::from).during("open", "the mount")
}

/// The rights that a mount gives to the users of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// Whether set-id programs run with the rights of their owner or group, and programs with file
    /// capabilities get these capabilities.
    pub suid: bool,
    /// Whether device nodes can be opened.
    pub devices: bool,
}

/// Mounts `mounts` at the directory `target`. If `idmap` is given, maps the owners of files with
/// it.
///
/// The kernel creates the work directory of an overlay as the user who mounts, so the map must
/// contain that user.
///
/// # Errors
/// As [`open`]; `NotFound` or `FailedPrecondition` if `target` is not a directory; `Unsupported` if
/// the kernel or the file system cannot map IDs, if the kernel (before 5.12) cannot restrict a
/// mount, or if the `shared` directories of the EROFS images do not have the same parent directory.
pub fn attach(
    mounts: &[Mount],
    target: &Path,
    idmap: Option<IdMap<'_>>,
    rights: Rights,
) -> Result<()> {
    let (images, mount) = split(mounts)?;
    // The images stay mounted at least until the lock is dropped.
    let _lock = erofs::share(&images)?;
    let tree = tree(mount, idmap)?;
    let mut attributes = MountAttrFlags::empty();
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOSUID, !rights.suid);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, !rights.devices);
    let is_read_only = matches!(
        mount,
        Mount::Bind {
            read_only: true,
            ..
        } | Mount::Erofs { .. }
    );
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, is_read_only);
    if !attributes.is_empty() {
        restrict(&tree, attributes).during("mount on", target.display())?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    let moved = calls::move_mount(&tree, c"", CWD, target, flags).map_err(explain);
    moved.during("mount on", target.display())
}

/// Unmounts the EROFS images of `mounts` that nothing uses any more, and all other unused EROFS
/// images that are mounted in the same directories. `mounts` are the mounts of a snapshot that the
/// caller has unmounted. If an image cannot be unmounted, logs the error. A later removal of a
/// snapshot, or a later garbage collection, tries again.
pub fn release(mounts: &[Mount]) {
    let directories = mounts.iter().filter_map(|mount| match mount {
        Mount::Erofs { shared, .. } => shared.parent(),
        _ => None,
    });
    let directories: BTreeSet<&Path> = directories.collect();
    directories.into_iter().for_each(erofs::release_unused);
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

/// Returns the images that are mounted first, and the mount that shows the snapshot. If the only
/// mount is an image, the image is in the list and is also that mount.
fn split(mounts: &[Mount]) -> Result<(Vec<SharedImage<'_>>, &Mount)> {
    let images: Vec<_> = mounts.iter().filter_map(shared_image).collect();
    match mounts {
        [top] => Ok((images, top)),
        [below @ .., top @ Mount::Overlay { .. }] if images.len() == below.len() => {
            Ok((images, top))
        }
        other => Err(Error::unsupported(format!(
            "expected one mount from the snapshotter, or an overlay on EROFS images, found {} \
             mounts; use another snapshotter",
            other.len()
        ))
        .operation("mount")),
    }
}

/// Returns the image that a mount shows, or `None` if it shows none.
fn shared_image(mount: &Mount) -> Option<SharedImage<'_>> {
    match mount {
        Mount::Erofs {
            image,
            devices,
            shared,
            backing,
        } => {
            let files = ImageFiles {
                metadata: image,
                devices,
                backing: *backing,
            };
            Some((files, shared))
        }
        _ => None,
    }
}

/// Returns a new mount that is not attached yet.
fn tree(mount: &Mount, idmap: Option<IdMap<'_>>) -> Result<OwnedFd> {
    let (lower, upper, work, options) = match mount {
        Mount::Bind { source: path, .. } | Mount::Erofs { shared: path, .. } => {
            return clone(path, idmap);
        }
        Mount::Overlay {
            lower,
            upper,
            work,
            options,
        } => (lower, upper, work, options),
        other => return Err(other.unsupported()),
    };
    let context = calls::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(explain);
    let mut overlay = Overlay {
        context: context.during("mount", "an overlay")?,
        layers: Vec::new(),
    };
    let (direct, nested) = split_lower(lower)?;
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
    if !overlay.layers.is_empty() {
        let source = in_use::overlay_source(lower, upper.as_deref());
        let set = calls::fsconfig_set_string(&overlay.context, "source", &*source);
        set.map_err(|errno| overlay.explain(errno).subject("its source"))?;
    }
    let attributes = match upper {
        Some(_) => MountAttrFlags::empty(),
        None => MountAttrFlags::MOUNT_ATTR_RDONLY,
    };
    let created = calls::fsconfig_create(&overlay.context)
        .and_then(|()| calls::fsmount(&overlay.context, FsMountFlags::FSMOUNT_CLOEXEC, attributes));
    created.map_err(|errno| {
        let error = overlay.explain(errno);
        // The kernel accepts a layer that it cannot use, and refuses the mount.
        if errno == Errno::INVAL && !nested.is_empty() {
            return Error::unsupported(format!(
                "an overlay of more than {LOWER} layers can be mounted only with Linux 6.15 or \
                 later, and only if the directories of the layers are not themselves on an \
                 overlay: {error}; use the native snapshotter"
            ))
            .operation("mount overlay");
        }
        match (idmap, errno) {
            (Some(_), Errno::INVAL) => Error::unsupported(format!(
                "overlays with an ID map need Linux 6.15: {error}; mount without an ID map"
            ))
            .operation("map owners"),
            _ => error,
        }
    })
}

/// Splits the lower directories if they are too many for one overlay. Returns the directories of
/// the overlay itself, and the lowest directories. The caller makes a second overlay of the lowest
/// directories, which becomes the lowest layer of the first overlay.
fn split_lower(lower: &[PathBuf]) -> Result<(&[PathBuf], &[PathBuf])> {
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
    let tree = calls::open_tree(CWD, path, flags).map_err(explain);
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
    /// Layers with a long path or with mapped owners, and a nested overlay, open until the mount is
    /// created.
    layers: Vec<File>,
}

impl Overlay {
    /// Mounts the directory with mapped owners. Returns the path of the mount.
    fn map_owners(&mut self, path: &Path, idmap: IdMap<'_>) -> Result<PathBuf> {
        Ok(self.keep_open(clone(path, Some(idmap))?))
    }

    /// Keeps a layer open until the mount is created. Returns a path to it.
    fn keep_open(&mut self, layer: OwnedFd) -> PathBuf {
        let path = proc_path(&layer);
        self.layers.push(File::from(layer));
        path
    }

    /// Sets one layer. Each layer is a parameter of its own, so the maximum length of a parameter
    /// does not limit the number of layers.
    fn layer(&mut self, key: &str, path: &Path) -> Result<()> {
        let set = if path.as_os_str().len() <= VALUE {
            calls::fsconfig_set_string(&self.context, key, path)
        } else {
            let layer = directory(path).during("open directory", path.display())?;
            let short = self.keep_open(layer);
            calls::fsconfig_set_string(&self.context, key, &*short)
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
        self.layer("lowerdir+", &path)
    }

    fn option(&self, option: &str) -> Result<()> {
        let set = match option.split_once('=') {
            Some((key, value)) => calls::fsconfig_set_string(&self.context, key, OsStr::new(value)),
            None => calls::fsconfig_set_flag(&self.context, option),
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
