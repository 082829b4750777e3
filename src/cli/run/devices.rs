//! The devices and `/proc` of a chroot in a user namespace, where nobody can make devices.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use cas::bundle::Rootfs;
use cas_host::calls;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind, mount_bind_recursive};

/// The devices that every container has.
const DEVICES: &[&str] = &["full", "null", "random", "tty", "urandom", "zero"];

/// Mounts `/dev` and `/proc` into a root file system. `/dev` has only the [`DEVICES`], so that
/// `rm -rf /` in the chroot cannot reach the host's other device files. If the image has something
/// other than a directory at one of these paths, nothing is mounted there.
pub(super) fn mount_all(rootfs: &Rootfs) -> io::Result<()> {
    if let Some(proc) = directory(rootfs, "proc")? {
        mount_bind_recursive("/proc", path(&proc))?;
    }
    let Some(dev) = directory(rootfs, "dev")? else {
        return Ok(());
    };
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("tmpfs", path(&dev), "tmpfs", flags, c"mode=755")?;
    // `dev` is still the directory below the mount, so open `/dev` again to get the mounted one.
    let Some(dev) = directory(rootfs, "dev")? else {
        return Ok(());
    };
    for name in DEVICES {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        calls::openat(&dev, *name, flags, Mode::from_raw_mode(0o666))?;
        mount_bind(format!("/dev/{name}"), format!("{}/{name}", path(&dev)))?;
    }
    Ok(())
}

/// Opens a directory of the root file system, and makes the directory if it is absent. Returns
/// `None` if `name` exists and is not a directory.
fn directory(rootfs: &Rootfs, name: &str) -> io::Result<Option<OwnedFd>> {
    match calls::mkdirat(rootfs, name, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => {}
        made => made?,
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match calls::openat(rootfs, name, flags, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP) => Ok(None),
        opened => Ok(Some(opened?)),
    }
}

/// Returns a path that leads to an open directory, even if something is mounted over its name.
fn path(directory: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}
