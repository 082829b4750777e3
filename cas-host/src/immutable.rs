//! The attribute of immutable files, which `chattr +i` sets.

use std::io;
use std::os::fd::AsFd;

use cas_core::error::{Error, ErrorKind, Result};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

use crate::calls::undisturbed;

/// Makes a file immutable, or mutable again. No user can write to, truncate, rename or remove an
/// immutable file. Does nothing if the file is already in the requested state.
///
/// # Errors
/// `Unsupported` if the file system has no such attribute; `Denied` without the right to change it
/// (`CAP_LINUX_IMMUTABLE`); errors of the file system.
pub fn set_immutable(file: impl AsFd, immutable: bool) -> Result<()> {
    let changed = undisturbed(|| ioctl_getflags(&file)).and_then(|flags| {
        if flags.contains(IFlags::IMMUTABLE) == immutable {
            return Ok(());
        }
        let mut wanted = flags;
        wanted.set(IFlags::IMMUTABLE, immutable);
        undisturbed(|| ioctl_setflags(&file, wanted))
    });
    changed.map_err(|errno| {
        let source = io::Error::from(errno);
        match errno {
            Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS => Error::unsupported(
                "the file system has no attribute for immutable files; use ext4, XFS or Btrfs, or \
                 a snapshotter without `immutable=true`",
            )
            .source(source),
            Errno::PERM => Error::new(
                ErrorKind::Denied,
                "making a file immutable, or mutable again, needs CAP_LINUX_IMMUTABLE; run `cas` \
                 as the superuser of the machine, or, for new snapshots, use a snapshotter \
                 without `immutable=true`",
            )
            .source(source),
            _ => source.into(),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_file_system_without_the_attribute_says_so() {
        let file = File::open("/proc/self/status").unwrap();
        for immutable in [true, false] {
            let error = set_immutable(&file, immutable).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains("immutable=true"), "{error}");
        }
    }
}
