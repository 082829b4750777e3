//! Mounts of EROFS images. Snapshots that are mounted with [`attach`](crate::mount::attach) share
//! one mount of each image, because the kernel has a separate cache of files for each mount. A
//! mount that [`mount_image`] returns is not shared.
//!
//! The directory that contains the shared mounts is locked while a snapshot and its images are
//! being mounted, and while unused mounts are being unmounted. Only the mount table of this process
//! is read, so a mount that is in use only in another mount namespace may be unmounted in this
//! namespace. The mount stays usable in the other namespace, but the next user in this namespace
//! gets another mount of the image.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use cas_core::error::{Context, Error, ErrorKind, Result};
use cas_core::snapshot::Backing;
use rustix::fs::{Advice, CWD, fadvise};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};

use crate::calls;
use crate::dir_lock::DirLock;
use crate::in_use::MountedDirs;
use crate::loop_device;
use crate::mount_right::explain;
use crate::unmount::{UnmountMode, unmount};

pub use crate::regular_file::open_file;

/// Maximum length in bytes of a mount parameter, without the final zero.
const VALUE: usize = 255;

/// The files of an image.
#[derive(Clone, Copy, Debug)]
pub struct ImageFiles<'a> {
    /// The file with the metadata.
    pub metadata: &'a Path,
    /// The files with the data, in the order in which the image numbers them.
    pub devices: &'a [PathBuf],
    /// How the kernel reads the files.
    pub backing: Backing,
}

/// An image, and the directory at which all users share its mount.
pub(crate) type SharedImage<'a> = (ImageFiles<'a>, &'a Path);

/// Mounts each image at its shared directory, unless something is mounted there already. Makes
/// missing directories. Returns the lock on the directory that contains the shared directories, or
/// `None` if there are no images. The images stay mounted at least until the lock is dropped.
///
/// # Errors
/// `Unsupported` if the shared directories are not in one directory; as [`mount_image`]; errors of
/// the file system.
pub(crate) fn share(images: &[SharedImage<'_>]) -> Result<Option<DirLock>> {
    let Some((_, first)) = images.first() else {
        return Ok(None);
    };
    let directory = first.parent().unwrap_or(Path::new("/"));
    let make = |path: &Path| {
        let made = calls::make_dirs(path);
        made.during("make directory", path.display())
    };
    make(directory)?;
    let lock = DirLock::wait(directory).during("lock", directory.display())?;
    let there = MountedDirs::read_own();
    for (image, shared) in images {
        if shared.parent() != Some(directory) {
            return Err(Error::unsupported(
                "expected the images of a snapshot to be mounted in one directory; use another \
                 snapshotter",
            )
            .operation("mount")
            .subject(shared.display()));
        }
        make(shared)?;
        if !there.has(shared) {
            let mounted = mount_image(*image)?;
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            let moved = calls::move_mount(&mounted, c"", CWD, *shared, flags);
            let moved = moved.map_err(explain);
            moved.during("mount on", shared.display())?;
        }
    }
    Ok(Some(lock))
}

/// Unmounts the shared mounts in `directory` that no other mount uses, and removes their
/// directories. A mount that a process uses stays. Does nothing if `directory` is absent.
///
/// If a mount that is not in use cannot be unmounted, or a directory cannot be removed, logs the
/// error and continues with the next mount. If `directory` cannot be listed or locked, logs the
/// error and unmounts nothing. A later call tries again.
pub fn release_unused(directory: &Path) {
    if let Err(error) = release_each(directory) {
        tracing::warn!(
            %error,
            "cannot unmount unused images; the next removal of a snapshot tries again"
        );
    }
}

fn release_each(directory: &Path) -> Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.during("list", directory.display())?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let paths: Vec<PathBuf> = paths
        .collect::<io::Result<_>>()
        .during("list", directory.display())?;
    if paths.is_empty() {
        return Ok(());
    }
    let _lock = DirLock::wait(directory).during("lock", directory.display())?;
    let mounted = MountedDirs::read_own();
    for path in paths {
        if let Err(error) = release(&path, &mounted) {
            tracing::warn!(
                %error,
                "cannot unmount an unused image; the next removal of a snapshot tries again"
            );
        }
    }
    Ok(())
}

/// Unmounts a shared mount and removes its directory. Does nothing if the mount is in use.
fn release(path: &Path, mounted: &MountedDirs) -> Result<()> {
    if mounted.has(path) {
        if mounted.is_shared_by_others(path) {
            return Ok(());
        }
        match unmount(path, UnmountMode::default()) {
            Err(error) if error.kind() == ErrorKind::Busy => return Ok(()),
            unmounted => unmounted?,
        }
    }
    match fs::remove_dir(path) {
        // Something may be mounted on the directory in another mount namespace. Old kernels then
        // refuse to remove it.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.during("remove", path.display()),
    }
}

/// Returns a new read-only mount of an image. The mount is not attached to a path yet. If the
/// kernel reads the files through loop devices, it releases the devices when the mount ends.
///
/// # Errors
/// `NotFound` if the file with the metadata is missing; `FailedPrecondition` if a data file is
/// missing; `Corrupt` if the kernel refuses the image, or if one of the files is not a regular
/// file; `Unsupported` if the kernel does not support EROFS, if it cannot mount an image
/// directly from a file (Linux before 6.12, or a file in memory, on an overlay or on EROFS), or if
/// loop devices are needed and the machine does not have them; `Busy` if other processes take all
/// free loop devices; `Denied` without the right to mount; errors of the file system.
pub fn mount_image(image: ImageFiles<'_>) -> Result<OwnedFd> {
    let ImageFiles {
        metadata: path,
        devices,
        backing,
    } = image;
    let metadata = open_backed(path, backing)?;
    // Without this advice, the kernel reads the metadata in small pieces. A failure is ignored,
    // because it only makes the reads slower.
    let _ = fadvise(&metadata, 0, None, Advice::WillNeed);
    let devices: Vec<File> = devices
        .iter()
        .map(|device| match open_backed(device, backing) {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::precondition(
                "the data file of a layer is missing; if the layer is read on demand, run \
                 `cas lazy serve`, otherwise `cas fsck --repair`",
            )
            .subject(device.display())),
            opened => opened,
        })
        .collect::<Result<_>>()?;
    let context = calls::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(refused);
    let context = context.during("mount", path.display())?;
    // A mount table shows the source, so this is the real path if it is possible. Mount tables do
    // not show the paths of data files.
    let source = match (backing, path.as_os_str().len()) {
        (Backing::File, ..=VALUE) => path.as_os_str().to_owned(),
        _ => calls::proc_path(&metadata).into_os_string(),
    };
    let set = |key: &str, value: &OsStr| calls::fsconfig_set_string(&context, key, value);
    let mounted = set("source", &source)
        .and_then(|()| calls::fsconfig_set_flag(&context, "ro"))
        .and_then(|()| {
            let mut each = devices.iter();
            each.try_for_each(|device| set("device", calls::proc_path(device).as_os_str()))
        })
        .and_then(|()| calls::fsconfig_create(&context))
        .and_then(|()| {
            let flags = FsMountFlags::FSMOUNT_CLOEXEC;
            calls::fsmount(&context, flags, MountAttrFlags::MOUNT_ATTR_RDONLY)
        });
    mounted.map_err(refused).during("mount", path.display())
}

/// Opens a file of an image, or a loop device that shows it.
fn open_backed(path: &Path, backing: Backing) -> Result<File> {
    let file = open_file(path).during("open", path.display())?;
    match backing {
        Backing::Loop => loop_device::attach(&file, path).during("attach", path.display()),
        _ => Ok(file),
    }
}

/// Returns the error of a mount that the kernel refused.
fn refused(errno: Errno) -> Error {
    let why = match errno {
        Errno::NODEV => "this kernel does not support EROFS; load the module `erofs`",
        Errno::NOTBLK => {
            "the kernel cannot mount an image from a file here: this needs Linux 6.12 or later, \
             and the file must not be in memory, on an overlay or on EROFS; move the root, use \
             loop devices (`--snapshotter 'erofs://?mount=loop'`), or use the overlay snapshotter"
        }
        Errno::INVAL | Errno::UCLEAN | Errno::BADMSG => {
            return Error::corrupt(
                "the kernel refuses the image; run `cas fsck --repair` to make it again from its \
                 tars; if the layer is an EROFS image itself, get another build of the layer",
            )
            .source(io::Error::from(errno));
        }
        errno => return explain(errno),
    };
    Error::unsupported(why).source(io::Error::from(errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::has_no_right;

    #[test]
    fn a_refusal_of_the_kernel_is_explained() {
        for (errno, kind, text) in [
            (Errno::NODEV, ErrorKind::Unsupported, "not support EROFS"),
            (Errno::NOTBLK, ErrorKind::Unsupported, "Linux 6.12"),
            (Errno::NOTBLK, ErrorKind::Unsupported, "mount=loop"),
            (Errno::INVAL, ErrorKind::Corrupt, "fsck"),
            (Errno::UCLEAN, ErrorKind::Corrupt, "fsck"),
            (Errno::PERM, ErrorKind::Denied, "CAP_SYS_ADMIN"),
        ] {
            let error = refused(errno);
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(text), "{error}");
            assert_eq!(has_no_right(&error), errno == Errno::PERM);
        }
    }
}
