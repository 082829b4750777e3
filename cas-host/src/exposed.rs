//! Finds device nodes and privileged programs that other users of the machine can reach.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cas_core::Result;
use rustix::fs::{FileType, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::path::Arg;

use crate::calls::{self, undisturbed};
use crate::tree::{At, Visit, open_below, proc_path_of, walk};

/// The permission of the owner to run a program.
const OWNER: u32 = 0o100;
/// The permission of all users to search a directory or run a program.
const ALL: u32 = 0o001;
/// The permission of a group to search a directory or run a program. If the file has an ACL, this
/// bit is set if the ACL lets any other user or group do so.
const GROUP: u32 = 0o010;
/// The mark of a program that runs with the rights of its owner.
const SET_UID: u32 = 0o4000;
/// The marks of a program that runs with the rights of its group.
const SET_GID: u32 = 0o2010;
/// The extended attribute with the ACL of a file.
const ACL: &CStr = c"system.posix_acl_access";
/// The extended attribute with the capabilities that a program gets when it runs.
const CAPABILITIES: &CStr = c"security.capability";

/// The device nodes and privileged programs that other users can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposed {
    /// The number of device nodes and programs.
    pub count: u64,
    /// The path of the device node or program that was found first.
    pub first: PathBuf,
}

/// Counts the device nodes and privileged programs below the directory `path` that other users can
/// reach. Returns their number and the path of one of them, or `None` if there are none or if other
/// users cannot reach `path`.
///
/// Other users are all except root and the user of this process. A privileged program is set-id or
/// has capabilities, and other users can run it. A device node counts whatever its own permissions
/// are. On a mount with the option `nodev`, device nodes do not count. On a mount with the option
/// `nosuid`, programs do not count. Does not search file systems that are mounted below `path`.
///
/// # Errors
/// `Unavailable` if a directory is moved meanwhile; errors of the file system.
pub fn exposed(path: &Path) -> Result<Option<Exposed>> {
    let path = undisturbed(|| path.canonicalize())?;
    for above in path.ancestors() {
        let found = undisturbed(|| above.metadata())?;
        let has_acl = || has_attribute(above, ACL);
        if !is_foreign(found.uid()) && !is_open(found.mode(), found.gid(), has_acl) {
            return Ok(None);
        }
    }
    let dir = File::open(&path)?;
    let mount = calls::fstatvfs(&dir).map_err(std::io::Error::from)?;
    let mut search = Search {
        devices: !mount.f_flag.contains(StatVfsMountFlags::NODEV),
        programs: !mount.f_flag.contains(StatVfsMountFlags::NOSUID),
        here: path,
        found: None,
    };
    if search.devices || search.programs {
        walk(&dir, &mut search)?;
    }
    Ok(search.found)
}

/// A walk through what other users can reach.
struct Search {
    devices: bool,
    programs: bool,
    /// The directory that the walk is in.
    here: PathBuf,
    found: Option<Exposed>,
}

impl Search {
    fn counts(&self, at: At<'_>) -> bool {
        match at.file_type() {
            FileType::CharacterDevice | FileType::BlockDevice => self.devices,
            FileType::RegularFile => self.programs && is_privileged(at),
            _ => false,
        }
    }
}

/// Returns whether a file is a program that gives rights to other users when they run it.
fn is_privileged(at: At<'_>) -> bool {
    let has = |bits: u32| at.stat.st_mode & bits == bits;
    if is_open_to_others(at) {
        return has(SET_UID) || has(SET_GID) || has_capabilities(at);
    }
    // A set-user-ID program gives its owner no rights. The owner can let themselves run the
    // program, and the program keeps its capabilities. If the owner is not a member of the group,
    // such a change takes the mark of a set-group-ID program away.
    is_foreign(at.stat.st_uid) && (has(SET_GID | OWNER) || has_capabilities(at))
}

/// Returns whether a program has capabilities. Returns false if the attribute cannot be read.
fn has_capabilities(at: At<'_>) -> bool {
    has_attribute(&*proc_path_of(at.dir, at.name.to_bytes()), CAPABILITIES)
}

fn has_attribute(path: impl Arg + Copy, name: &CStr) -> bool {
    calls::lgetxattr(path, name, &mut []).is_ok()
}

/// Returns whether the permissions of this directory or program let others than its owner search or
/// run it.
fn is_open_to_others(at: At<'_>) -> bool {
    is_open(at.stat.st_mode, at.stat.st_gid, || {
        has_attribute(&*proc_path_of(at.dir, at.name.to_bytes()), ACL)
    })
}

/// Returns whether this user is neither root nor the user of this process. A directory of such a
/// user is open to that user whatever its mode is, because the owner can change the mode.
fn is_foreign(user: u32) -> bool {
    user != 0 && user != rustix::process::geteuid().as_raw()
}

/// Returns whether the permissions of a file let others than its owner search or run it: all users,
/// a group other than the group of this process, or users and groups that an ACL names.
fn is_open(mode: u32, group: u32, has_acl: impl FnOnce() -> bool) -> bool {
    let is_other = || group != rustix::process::getegid().as_raw();
    mode & ALL != 0 || mode & GROUP != 0 && (is_other() || has_acl())
}

fn name(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

impl Visit for Search {
    fn entry(&mut self, at: At<'_>) -> io::Result<()> {
        if self.counts(at) {
            let first = || Exposed {
                count: 0,
                first: self.here.join(name(at.name)),
            };
            self.found.get_or_insert_with(first).count += 1;
        }
        Ok(())
    }

    /// Skips a directory that others cannot enter.
    fn open(&mut self, at: At<'_>) -> Result<OwnedFd, Errno> {
        match is_foreign(at.stat.st_uid) || is_open_to_others(at) {
            false => Err(Errno::NOENT),
            true => open_below(at),
        }
    }

    fn enter(&mut self, at: At<'_>) -> io::Result<()> {
        self.here.push(name(at.name));
        Ok(())
    }

    fn leave(&mut self, _: At<'_>, _: BorrowedFd<'_>) -> io::Result<()> {
        self.here.pop();
        Ok(())
    }

    fn mounted(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(path: PathBuf, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn close(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_others_can_reach_is_found() {
        let temp = tempfile::tempdir().unwrap();
        close(temp.path(), 0o755);
        let root = temp.path().join("root");
        let names = [
            ("plain", 0o755),
            ("a/b/uid", 0o4755),
            ("a/gid", 0o2755),
            // These are not programs. The mode of the second means mandatory locking.
            ("a/data", 0o4644),
            ("a/locked", 0o2644),
            // Programs that others cannot run.
            ("a/own", 0o4700),
            ("a/group", 0o6750),
            ("closed/uid", 0o4755),
        ];
        for (name, mode) in names {
            file(root.join(name), mode);
        }
        close(&root.join("closed"), 0o750);
        let found = exposed(&root).unwrap().unwrap();
        assert_eq!(found.count, 2, "{found:?}");
        let first = found.first.strip_prefix(root.canonicalize().unwrap());
        assert_eq!(first.unwrap(), Path::new("a/gid"));
        for (closed, mode) in [(&root, 0o700), (&root, 0o754), (&root, 0o710)] {
            close(closed, mode);
            assert_eq!(exposed(&root).unwrap(), None, "{mode:o}");
        }
        close(&root, 0o711);
        assert_eq!(exposed(&root).unwrap().unwrap().count, 2);
        close(temp.path(), 0o700);
        assert_eq!(exposed(&root).unwrap(), None);
        close(temp.path(), 0o755);
        for name in ["a/b/uid", "a/gid"] {
            fs::remove_file(root.join(name)).unwrap();
        }
        assert_eq!(exposed(&root).unwrap(), None);
    }

    #[test]
    fn groups_and_users_of_an_acl_are_others() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let temp = tempfile::tempdir_in("/var/tmp").unwrap();
        close(temp.path(), 0o755);
        let root = temp.path().join("root");
        file(root.join("uid"), 0o4755);
        close(&root, 0o770);
        assert_eq!(
            exposed(&root).unwrap(),
            None,
            "its group is that of this process"
        );
        std::os::unix::fs::chown(&root, None, Some(4321)).unwrap();
        assert_eq!(exposed(&root).unwrap().unwrap().count, 1);
        // Members of the group cannot run the program.
        close(&root.join("uid"), 0o4740);
        assert_eq!(exposed(&root).unwrap(), None);
        close(&root.join("uid"), 0o4755);
        std::os::unix::fs::chown(&root, None, Some(0)).unwrap();
        // Version 2: the owner, the user 4321, the group, the mask and all others.
        let entry = |tag: u16, bits: u16, id: u32| {
            [
                &tag.to_le_bytes()[..],
                &bits.to_le_bytes(),
                &id.to_le_bytes(),
            ]
            .concat()
        };
        let nobody = u32::MAX;
        let entries = [
            entry(1, 7, nobody),
            entry(2, 5, 4321),
            entry(4, 0, nobody),
            entry(16, 5, nobody),
            entry(32, 0, nobody),
        ];
        let acl = [&[2, 0, 0, 0][..], &entries.concat()].concat();
        let no_flags = rustix::fs::XattrFlags::empty();
        calls::lsetxattr(&root, ACL, &acl, no_flags).unwrap();
        assert_eq!(exposed(&root).unwrap().unwrap().count, 1);
    }

    #[test]
    fn an_owner_other_than_root_is_another_user() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let temp = tempfile::tempdir_in("/var/tmp").unwrap();
        close(temp.path(), 0o755);
        let root = temp.path().join("root");
        let give = |path: &Path| std::os::unix::fs::chown(path, Some(4321), None).unwrap();
        let count = || exposed(&root).unwrap().map_or(0, |exposed| exposed.count);
        file(root.join("dir/uid"), 0o4755);
        let dir = root.join("dir");
        for (above, closed) in [
            (temp.path(), 0o700),
            (root.as_path(), 0o700),
            (dir.as_path(), 0),
        ] {
            close(above, closed);
            assert_eq!(count(), 0, "{above:?}");
            give(above);
            assert_eq!(count(), 1, "{above:?}");
        }
        // Version 2, effective: CAP_SETUID.
        let capability = [&[1, 0, 0, 2, 0x80][..], &[0; 15]].concat();
        for (mode, capable, expected) in [
            (0o4700, false, 0),
            (0o2600, false, 0),
            (0o2700, false, 0),
            (0o2710, false, 1),
            (0o600, true, 1),
        ] {
            let program = root.join("program");
            file(program.clone(), mode);
            assert_eq!(count(), 1, "{mode:o} of root");
            give(&program);
            if capable {
                let no_flags = rustix::fs::XattrFlags::empty();
                calls::lsetxattr(&program, CAPABILITIES, &capability, no_flags).unwrap();
            }
            // The change of the owner has removed the marks.
            close(&program, mode);
            assert_eq!(count(), 1 + expected, "{mode:o}");
            fs::remove_file(program).unwrap();
        }
    }

    #[test]
    fn programs_with_capabilities_are_found() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let temp = tempfile::tempdir_in("/var/tmp").unwrap();
        close(temp.path(), 0o755);
        // Version 2, effective: CAP_SETUID.
        let capability = [&[1, 0, 0, 2, 0x80][..], &[0; 15]].concat();
        for (name, mode, capable, count) in [
            ("plain", 0o755, false, 0),
            ("all", 0o755, true, 1),
            ("other", 0o701, true, 1),
            ("both", 0o4755, true, 1),
            ("data", 0o644, true, 0),
            ("own", 0o700, true, 0),
            ("group", 0o750, true, 0),
            ("closed/all", 0o755, true, 0),
        ] {
            let root = temp.path().join("root");
            file(root.join(name), mode);
            if capable {
                let no_flags = rustix::fs::XattrFlags::empty();
                calls::lsetxattr(&root.join(name), CAPABILITIES, &capability, no_flags).unwrap();
            }
            if name.starts_with("closed") {
                close(&root.join("closed"), 0o700);
            }
            let found = exposed(&root).unwrap().map_or(0, |exposed| exposed.count);
            assert_eq!(found, count, "{name}");
            fs::remove_dir_all(root).unwrap();
        }
    }
}
