//! Owner, mode, extended attributes and times of the files of a layer.

use std::os::fd::{AsFd, BorrowedFd};

use cas_core::{Error, Result};
use cas_host::{calls, node};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Uid, XattrFlags};
use rustix::io::Errno;

use super::capability::{CAPABILITY, check_capability};
use super::dirs::Dir;
use super::owners::OWNER;
use super::seen::Inode;
use super::times::timestamps;
use super::{Layer, denied, os};
use crate::tar::{Entry, EntryKind, Excerpt};

/// Sets owner and mode of an open file or directory, with as few calls as possible.
pub(super) fn own(fd: BorrowedFd<'_>, stat: &Stat, uid: u32, gid: u32, mode: u32) -> Result<()> {
    let owned = (stat.st_uid, stat.st_gid) == (uid, gid);
    if !owned {
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
        calls::fchown(fd, Some(user), Some(group))
            .map_err(|errno| denied::owner(errno, uid, gid))?;
    }
    // A change of owner may have removed setuid and setgid.
    if stat.st_mode & 0o7777 != mode || (!owned && mode & 0o6000 != 0) {
        os(calls::fchmod(fd, Mode::from_raw_mode(mode)))?;
    }
    Ok(())
}

/// The reason in the warning about an attribute that does not fit.
const NO_ROOM: &str = "the file system has no room for it";

/// Returns whether a layer may set and remove an extended attribute. It may not if the attribute
/// belongs to the host, controls an overlay, or marks a directory as unfinished.
pub fn is_set(name: &[u8]) -> bool {
    // The mark of a directory that is being filled begins with the last prefix.
    let ours = [&b"trusted.overlay."[..], b"user.overlay.", b"user.cas."];
    !is_of_host(name) && !ours.iter().any(|prefix| name.starts_with(prefix))
}

/// Returns whether an extended attribute belongs to the host.
pub(crate) fn is_of_host(name: &[u8]) -> bool {
    matches!(name, b"security.selinux" | b"system.nfs4_acl")
}

impl Layer {
    /// Sets owner, mode and attributes of a file. `fresh` is as in [`Layer::set_xattrs`].
    pub(super) fn describe_file(
        &mut self,
        file: BorrowedFd<'_>,
        entry: &Entry,
        fresh: bool,
    ) -> Result<()> {
        let stat = os(calls::fstat(file))?;
        // A user without privileges can set attributes only on a file that the user may write to.
        let open = match self.rootless {
            Some(_) if !entry.xattrs.is_empty() => entry.mode | 0o200,
            _ => entry.mode,
        };
        own(file, &stat, entry.uid, entry.gid, open)?;
        self.set_xattrs(file, entry, fresh)?;
        if open != entry.mode {
            os(calls::fchmod(file, Mode::from_raw_mode(entry.mode)))?;
        }
        Ok(())
    }

    /// Returns the mode that a directory gets while layers are applied. `mode` is its final mode.
    pub(super) fn mode_for_now(&self, directory: Inode, mode: u32) -> Result<u32> {
        match &self.rootless {
            Some(rootless) => rootless.open_mode(directory, mode),
            None => Ok(mode),
        }
    }

    /// Warns of an attribute that is never set from a layer.
    pub(super) fn warn_of_unset(&mut self, name: &[u8]) {
        let shown = Excerpt(name);
        self.warn(&format!(
            "the xattr {shown} is left out, because layers may not set it"
        ));
    }

    /// Makes the attributes of an open file or directory equal to the attributes of the member,
    /// except those that [layers may not set](is_set). If `fresh` is set, the file or directory has
    /// no attributes that would have to be removed.
    pub(super) fn set_xattrs(
        &mut self,
        fd: BorrowedFd<'_>,
        entry: &Entry,
        fresh: bool,
    ) -> Result<()> {
        if !fresh {
            clear_xattrs(fd, entry)?;
        }
        for (name, value) in &entry.xattrs {
            self.set_xattr(entry, (name, value), |name| {
                calls::fsetxattr(fd, name, value, XattrFlags::empty())
            })?;
        }
        Ok(())
    }

    /// Sets owner, mode, attributes and times of a new node that cannot be opened: a device, a pipe
    /// or a link. Does not set the mode of a link.
    pub(super) fn describe_node(&mut self, dir: &Dir, name: &[u8], entry: &Entry) -> Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = os(calls::openat(&dir.fd, name, flags, Mode::empty()))?;
        let stat = os(calls::fstat(&open))?;
        let owned = (stat.st_uid, stat.st_gid) == (entry.uid, entry.gid);
        if !owned {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            calls::chownat(&open, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
                .map_err(|errno| denied::owner(errno, entry.uid, entry.gid))?;
        }
        let link = matches!(entry.kind, EntryKind::Symlink(_));
        if !link && (stat.st_mode & 0o7777 != entry.mode || (!owned && entry.mode & 0o6000 != 0)) {
            os(node::set_mode(
                open.as_fd(),
                Mode::from_raw_mode(entry.mode),
            ))?;
        }
        if dir.default_acl.get() && !link {
            match node::remove_attribute(dir.fd.as_fd(), name, b"system.posix_acl_access") {
                Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
                removed => os(removed)?,
            }
        }
        for (attribute, value) in &entry.xattrs {
            self.set_xattr(entry, (attribute, value), |attribute| {
                node::set_attribute(dir.fd.as_fd(), name, attribute, value)
            })?;
        }
        let times = timestamps(entry.mtime);
        os(calls::utimensat(
            &dir.fd,
            name,
            &times,
            AtFlags::SYMLINK_NOFOLLOW,
        ))
    }

    fn set_xattr(
        &mut self,
        entry: &Entry,
        (name, value): (&[u8], &[u8]),
        set: impl FnOnce(&[u8]) -> rustix::io::Result<()>,
    ) -> Result<()> {
        let shown = Excerpt(name);
        if !is_set(name) {
            self.warn_of_unset(name);
            return Ok(());
        }
        if name == CAPABILITY {
            check_capability(value)?;
        }
        let Err(errno) = set(name) else {
            return Ok(());
        };
        if let Some(reason) = self.why_impossible(entry, name, errno)? {
            if self.rootless.is_some() && name == OWNER {
                self.owners.add(&entry.path);
                return Ok(());
            }
            let path = Excerpt(&entry.path);
            self.warn(&format!(
                "the xattr {shown} of {path} is left out: {reason}"
            ));
            return Ok(());
        }
        // Only a malformed value, or one with ids that are not mapped, is refused with this error.
        if errno == Errno::INVAL {
            return Err(Error::corrupt(format!(
                "the kernel refuses the value of the xattr {shown}: it is malformed, or names \
                 users or groups that are not mapped in this user namespace; build the image \
                 again, or unpack as the superuser"
            )));
        }
        let error = Error::from(std::io::Error::from(errno));
        let message = format!("the xattr {shown} cannot be set: {error}");
        Err(Error::new(error.kind(), message).source(error))
    }

    /// Returns why a file cannot have an attribute here, or `None` if setting it failed for another
    /// reason.
    fn why_impossible(
        &self,
        entry: &Entry,
        name: &[u8],
        errno: Errno,
    ) -> Result<Option<&'static str>> {
        let is_directory = entry.kind == EntryKind::Directory;
        let is_plain = is_directory || entry.kind == EntryKind::File;
        Ok(match errno {
            Errno::NOTSUP => Some("the file system does not support it"),
            Errno::PERM if name.starts_with(b"user.") && !is_plain => {
                Some("only files and directories can have it")
            }
            Errno::PERM if is_restricted(name) => Some("only the superuser can set it"),
            // The kernel checks only the values of access lists and of capabilities. Those of
            // capabilities were checked by `check_capability`.
            Errno::INVAL if self.rootless.is_some() && name.starts_with(b"system.posix_acl_") => {
                Some(
                    "it is malformed, or names users or groups that are not mapped in this user \
                     namespace",
                )
            }
            Errno::ACCESS if name == b"system.posix_acl_default" && !is_directory => {
                Some("only directories can have it")
            }
            Errno::TOOBIG | Errno::RANGE => Some(NO_ROOM),
            // Attributes have separate space, which may be full before the device is.
            Errno::NOSPC if !self.is_full()? => Some(NO_ROOM),
            _ => None,
        })
    }

    fn is_full(&self) -> Result<bool> {
        let stat = os(calls::fstatvfs(&self.dirs.root().fd))?;
        Ok(stat.f_blocks > 0 && stat.f_bavail == 0)
    }
}

/// Returns whether only the superuser may set an attribute.
fn is_restricted(name: &[u8]) -> bool {
    name.starts_with(b"security.") || name.starts_with(b"trusted.")
}

/// Removes the attributes that the member does not have, except those that layers may not set.
fn clear_xattrs(fd: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
    let mut names = vec![0u8; 64 << 10];
    let length = match calls::flistxattr(fd, &mut names[..]) {
        Err(Errno::NOTSUP) => return Ok(()),
        length => os(length)?,
    };
    for name in names[..length].split(|&byte| byte == 0) {
        let stays = name.is_empty() || !is_set(name);
        if !stays
            && entry
                .xattrs
                .binary_search_by(|(set, _)| set[..].cmp(name))
                .is_err()
        {
            match calls::fremovexattr(fd.as_fd(), name) {
                // The host has set it, because no layer could.
                Err(Errno::PERM) if is_restricted(name) => {}
                removed => os(removed)?,
            }
        }
    }
    Ok(())
}
