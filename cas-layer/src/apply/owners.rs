//! Keeps the owners of files in an extended attribute, for layers that are applied without
//! privileges. Later, privileged code can give the files to these owners.
//!
//! The value is the protobuf message that umoci and others use: field 1 is the user and field 2 the
//! group, each as a varint. `u32::MAX` stands for 0. A file of the owner 0:0 has no attribute.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use cas_core::{Context, Result};
use cas_host::{calls, for_each, proc_path_of};
use rustix::fs::{AtFlags, FileType, Gid, Mode, Stat, Uid};
use rustix::io::Errno;

use super::os;

/// The name of the attribute.
pub(super) const OWNER: &[u8] = b"user.rootlesscontainers";

/// The number that stands for 0 in a value.
const DEFAULT: u32 = u32::MAX;

/// Maximum length of a value in bytes. Each of its two fields has one byte for the number of the
/// field, and up to five bytes for an id.
const LONGEST: usize = 12;

/// Returns the value for an owner, or `None` for 0:0.
pub(super) fn encode(uid: u32, gid: u32) -> Option<Vec<u8>> {
    if (uid, gid) == (0, 0) {
        return None;
    }
    let mut value = Vec::with_capacity(LONGEST);
    for (field, id) in [(1, uid), (2, gid)] {
        // The number of the field, and the wire type 0 of a varint.
        value.push(field << 3);
        let mut rest = if id == 0 { DEFAULT } else { id };
        while rest > 0x7f {
            value.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        value.push(rest as u8);
    }
    Some(value)
}

/// Returns the owner that a value names, or `None` if it is not valid.
fn decode(mut value: &[u8]) -> Option<(u32, u32)> {
    let (mut uid, mut gid) = (0, 0);
    while let Some((&field, rest)) = value.split_first() {
        let length = rest.iter().position(|byte| byte & 0x80 == 0)? + 1;
        let mut number = 0u64;
        for byte in rest[..length.min(5)].iter().rev() {
            number = number << 7 | u64::from(byte & 0x7f);
        }
        let number = u32::try_from(number).ok().filter(|_| length <= 5)?;
        let number = if number == DEFAULT { 0 } else { number };
        match field >> 3 {
            1 => uid = number,
            2 => gid = number,
            _ => return None,
        }
        value = &rest[length..];
    }
    Some((uid, gid))
}

/// In a tree that was [unpacked without privileges](super::Tree::into_rootless), gives each file to
/// the owner that its xattr `user.rootlesscontainers` names, and removes the xattr. A file stays as
/// it is if the xattr is not valid, or names a user or group that is not mapped in this user
/// namespace.
///
/// # Errors
/// `Busy` if a directory below `root` is a mount point; `Unavailable` if a directory is moved
/// meanwhile; errors of the file system, with the path.
pub fn give_to_owners(root: &Path) -> Result<()> {
    let give = || -> Result<()> {
        let directory = File::open(root)?;
        for_each(&directory, give)?;
        let stat = os(calls::fstat(&directory))?;
        os(give(directory.as_fd(), c".", &stat))
    };
    give().during("change the owners of files in", root.display())
}

fn give(dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return Ok(());
    }
    let path = proc_path_of(dir, name.to_bytes());
    let mut value = [0; LONGEST];
    let length = match calls::lgetxattr(&path, OWNER, &mut value) {
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => return Ok(()),
        length => length?,
    };
    let Some((uid, gid)) = decode(&value[..length]) else {
        return Ok(());
    };
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    match calls::chownat(dir, name, Some(uid), Some(gid), nofollow) {
        Err(Errno::INVAL) => return Ok(()),
        given => given?,
    }
    // A change of owner may have removed setuid and setgid.
    if stat.st_mode & 0o6000 != 0 {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        calls::chmodat(dir, name, mode, AtFlags::empty())?;
    }
    calls::lremovexattr(&path, OWNER)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use testkit::archive::{Header, Tar};

    use super::*;
    use crate::apply::Tree;
    use crate::tar::Reader;

    #[test]
    fn owners_are_written_as_umoci_writes_them() {
        for (uid, gid, value) in [
            (0, 0, None),
            (1, 2, Some(&b"\x08\x01\x10\x02"[..])),
            (127, 128, Some(b"\x08\x7f\x10\x80\x01")),
            (1000, 1000, Some(b"\x08\xe8\x07\x10\xe8\x07")),
            (0, 42, Some(b"\x08\xff\xff\xff\xff\x0f\x10\x2a")),
            (65534, 0, Some(b"\x08\xfe\xff\x03\x10\xff\xff\xff\xff\x0f")),
            (
                u32::MAX - 1,
                16384,
                Some(b"\x08\xfe\xff\xff\xff\x0f\x10\x80\x80\x01"),
            ),
        ] {
            assert_eq!(encode(uid, gid).as_deref(), value, "{uid}:{gid}");
            if let Some(value) = value {
                assert_eq!(decode(value), Some((uid, gid)));
                assert!(value.len() <= LONGEST);
            }
        }
    }

    #[test]
    fn what_is_not_an_owner_is_refused() {
        for bad in [
            &b"\x08"[..],
            b"\x08\x80",
            b"\x08\xff\xff\xff\xff\x1f",
            b"\x08\xff\xff\xff\xff\xff\x01",
            b"\x18\x01",
            b"\x08\x01\x10",
        ] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
        assert_eq!(decode(b"\x10\x07"), Some((0, 7)), "proto3 omits zeros");
    }

    #[test]
    fn files_are_given_to_their_owners() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("SKIPPED: only the superuser can give files away");
        }
        let temp = tempfile::tempdir().unwrap();
        let header = |flag, name, mode| Header::new(flag, name).mode(mode).owner(33, 34);
        let tar = Tar::new()
            .member(header(b'5', "./", 0o755), "")
            .member(header(b'5', "closed", 0o2500), "")
            .member(header(b'0', "closed/su", 0o6555), "")
            .hardlink("again", "closed/su")
            .member(header(b'2', "link", 0o777).link("closed"), "")
            .file("plain", "")
            .end();
        let tree = Tree::open(temp.path()).unwrap().into_rootless();
        tree.apply(&mut Reader::new(&tar[..])).unwrap();
        tree.close_directories().unwrap();
        let look = |name: &str| {
            let path = temp.path().join(name);
            let found = fs::symlink_metadata(&path).unwrap();
            let kept = calls::lgetxattr(&path, OWNER, &mut [0; 64]).is_ok();
            (found.mode() & 0o7777, found.uid(), found.gid(), kept)
        };
        assert_eq!(look("closed"), (0o2500, 0, 0, true));
        for _ in 0..2 {
            give_to_owners(temp.path()).unwrap();
            for (name, mode, owner) in [
                ("", 0o755, (33, 34)),
                ("closed", 0o2500, (33, 34)),
                ("closed/su", 0o6555, (33, 34)),
                ("again", 0o6555, (33, 34)),
                ("link", 0o777, (0, 0)),
                ("plain", 0o644, (0, 0)),
            ] {
                assert_eq!(look(name), (mode, owner.0, owner.1, false), "{name}");
            }
        }
    }
}
