//! Opens paths below a directory while other processes rename and mount.
//!
//! While anything is renamed or mounted anywhere, the call `openat2` may refuse to resolve a path
//! with `..` inside a directory (`EAGAIN`). At the root of a mounted overlay, the call may fail
//! with `EAGAIN` every time. Network file systems report changes by other machines (`ESTALE`), and
//! signals interrupt calls (`EINTR`). This module repeats a call that fails with one of these
//! errors. If `openat2` keeps failing, if the kernel does not have it, or if a sandbox forbids it,
//! this module resolves the path itself, one name at a time. Renames and mounts elsewhere do not
//! make this resolution fail.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cas_core::limit;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::{Errno, Result};

use crate::calls::{self, TRIES};

/// Opens a path inside the root directory `root`, as a process with that root would. Returns the
/// file. Symbolic links are followed, except as the last name if `flags` has `NOFOLLOW`. Neither a
/// link nor `..` leads out of the root.
///
/// # Errors
/// `ELOOP` for more than [`limit::LINKS`] links; errors of the file system.
pub fn open_inside(root: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let scope = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let root = root.as_fd();
    match open(root, path, flags, scope) {
        Some(opened) => opened,
        None => step_inside(root, path, flags),
    }
}

/// Opens a path without `..` below `dir`. Returns the file. No link is followed.
///
/// # Errors
/// `ELOOP` or `ENOTDIR` for a link, unless it is the last name and `flags` has `PATH`; `EXDEV` for
/// a path with `..`; errors of the file system.
pub fn open_beneath(dir: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let scope = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let (dir, flags) = (dir.as_fd(), flags | OFlags::NOFOLLOW);
    if names(path).any(|name| name == b"..") {
        return Err(Errno::XDEV);
    }
    match open(dir, path, flags, scope) {
        // The kernel only accepts paths of less than 4096 bytes.
        Some(Err(Errno::NAMETOOLONG)) | None => step_beneath(dir, path, flags),
        Some(opened) => opened,
    }
}

/// Opens an entry of `dir`, unless it is a link or something is mounted on it.
///
/// # Errors
/// `EXDEV` for a mount; `ELOOP` or `ENOTDIR` for a link; errors of the file system.
pub(crate) fn open_unmounted(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let scope = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    if let Some(opened) = open(dir, name, flags | OFlags::NOFOLLOW, scope) {
        return opened;
    }
    let opened = step_beneath(dir, name, flags | OFlags::NOFOLLOW)?;
    match mount(&opened)? == mount(dir)? {
        true => Ok(opened),
        false => Err(Errno::XDEV),
    }
}

/// Opens a path in one call. Returns `None` if the call keeps failing with `EAGAIN`, `ESTALE` or
/// `EINTR`, if the kernel does not have the call, or if a sandbox forbids it.
fn open(
    dir: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    scope: ResolveFlags,
) -> Option<Result<OwnedFd>> {
    let flags = flags | OFlags::CLOEXEC;
    for _ in 0..TRIES {
        match rustix::fs::openat2(dir, path, flags, Mode::empty(), scope) {
            Err(Errno::AGAIN | Errno::STALE | Errno::INTR) => {}
            // A sandbox may forbid system calls that are newer than the sandbox.
            Err(Errno::NOSYS | Errno::PERM) => return None,
            opened => return Some(opened),
        }
    }
    None
}

/// Opens the entry `name` of a directory. A link is not followed.
fn open_name(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    calls::openat(dir, name, flags, Mode::empty())
}

fn step_beneath(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let mut names = names(path).peekable();
    let mut here = None::<OwnedFd>;
    while let Some(name) = names.next() {
        let flags = match names.peek() {
            Some(_) => OFlags::PATH | OFlags::DIRECTORY,
            None => flags,
        };
        let opened = open_name(here.as_ref().map_or(dir, OwnedFd::as_fd), name, flags)?;
        if names.peek().is_none() {
            return Ok(opened);
        }
        here = Some(opened);
    }
    Err(Errno::NOENT)
}

/// Opens a path inside `root`, one name at a time. The directories from the root to the current one
/// stay open, so that the kernel never resolves `..`.
fn step_inside(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let mut ahead: Vec<Vec<u8>> = Vec::new();
    let follow = |ahead: &mut Vec<Vec<u8>>, path: &[u8]| {
        let names: Vec<Vec<u8>> = names(path).map(<[u8]>::to_vec).collect();
        ahead.extend(names.into_iter().rev());
    };
    follow(&mut ahead, path);
    let mut above: Vec<OwnedFd> = Vec::new();
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        if matches!(&name[..], b"." | b"..") {
            if name == b".." {
                above.pop();
            }
            continue;
        }
        let dir = above.last().map_or(root, OwnedFd::as_fd);
        let found = open_name(dir, &name, OFlags::PATH)?;
        let stat = calls::fstat(&found)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if above.len() < limit::PATH_DEPTH => above.push(found),
            FileType::Directory => return Err(Errno::NAMETOOLONG),
            FileType::Symlink if !ahead.is_empty() || !flags.contains(OFlags::NOFOLLOW) => {
                links += 1;
                if links > limit::LINKS {
                    return Err(Errno::LOOP);
                }
                let target = calls::readlinkat(&found, "")?;
                if target.as_bytes().starts_with(b"/") {
                    above.clear();
                }
                follow(&mut ahead, target.as_bytes());
            }
            _ if ahead.is_empty() => return open_name(dir, &name, flags),
            _ => return Err(Errno::NOTDIR),
        }
    }
    let last = above.last().map_or(root, OwnedFd::as_fd);
    open_name(last, b".", flags)
}

/// Returns the names of a path. If the path ends with a slash, the last name is `.`, because such a
/// path must lead to a directory.
fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let names = path.split(|&byte| byte == b'/');
    let directory = path.ends_with(b"/").then_some(&b"."[..]);
    names.filter(|name| !name.is_empty()).chain(directory)
}

/// Returns the id of the mount that a file is on.
fn mount(file: impl AsFd) -> Result<u64> {
    let wanted = StatxFlags::MNT_ID;
    let found = calls::statx(&file, "", AtFlags::EMPTY_PATH, wanted)?;
    // Kernels before Linux 5.8 do not report the id.
    let is_known = found.stx_mask & wanted.bits() != 0;
    is_known.then_some(found.stx_mnt_id).ok_or(Errno::NOSYS)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::Path;

    use super::*;
    use crate::Dir;

    fn tree() -> tempfile::TempDir {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("root/usr/lib/deep")).unwrap();
        for file in ["secret", "root/usr/lib/file", "root/secret", "root/top"] {
            fs::write(temp.path().join(file), file).unwrap();
        }
        let link = |name: &str, target: &str| symlink(target, temp.path().join(name)).unwrap();
        link("root/up", "..");
        link("root/usr/up", "../..");
        link("root/lib", "usr/lib");
        link("root/usr/lib/back", "../../lib/deep/..");
        link("root/absolute", "/usr/../usr/./lib/");
        link("root/file", "lib/file");
        link("root/slash", "lib/file/");
        link("root/dot", "lib/file/.");
        link("root/loop", "loop");
        link("root/usr/dangling", "nowhere/..");
        link("root/l0", "usr/..");
        for n in 1..=50 {
            link(&format!("root/l{n}"), &format!("l{}", n - 1));
        }
        temp
    }

    /// Paths inside the root of [`tree`].
    const PATHS: [&str; 28] = [
        "top",
        "top/",
        "top/.",
        "up/secret",
        "up/up/../../up/secret",
        "../../secret",
        "usr/up/secret",
        "lib/file",
        "lib/file/..",
        "lib/back/file",
        "lib/back/back/deep",
        "absolute/file",
        "absolute",
        "file",
        "file/",
        "slash",
        "dot",
        "loop",
        "loop/x",
        "usr/dangling",
        "usr/nowhere/../lib",
        "l39/top",
        "l40/top",
        "l39/lib/file",
        "/",
        ".",
        "..",
        "usr/lib/deep/../../../../usr/lib",
    ];

    #[test]
    fn one_name_at_a_time_gives_what_the_kernel_gives() {
        let temp = tree();
        let root = Dir::open(temp.path().join("root")).unwrap();
        let flags = [
            OFlags::PATH,
            OFlags::PATH | OFlags::NOFOLLOW,
            OFlags::RDONLY | OFlags::DIRECTORY,
            OFlags::RDONLY,
        ];
        let scope = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let inode = |opened: Result<OwnedFd>| opened.map(|file| rustix::fs::fstat(file).unwrap());
        let inode = |opened| inode(opened).map(|stat| (stat.st_dev, stat.st_ino));
        for path in PATHS.map(str::as_bytes) {
            for flags in flags {
                let kernel = open(root.as_fd(), path, flags, scope).unwrap();
                let steps = step_inside(root.as_fd(), path, flags);
                let shown = path.escape_ascii();
                assert_eq!(inode(steps), inode(kernel), "{shown} {flags:?}");
            }
        }
    }

    #[test]
    fn a_path_of_ordinary_names_follows_no_link() {
        let temp = tree();
        let root = Dir::open(temp.path().join("root")).unwrap();
        let stepped = |path: &str| step_beneath(root.as_fd(), path.as_bytes(), OFlags::PATH);
        let opened = |path: &str| open_beneath(&root, path.as_bytes(), OFlags::PATH);
        for path in ["usr", "usr/lib/deep", "lib", "usr//./lib/file"] {
            assert!(stepped(path).is_ok() && opened(path).is_ok(), "{path}");
        }
        for path in ["lib/file", "usr/no", "top/x", "up/top", "usr/lib/back/deep"] {
            assert!(stepped(path).is_err() && opened(path).is_err(), "{path}");
        }
        for path in ["..", "usr/../top", "usr/.."] {
            assert_eq!(opened(path).err(), Some(Errno::XDEV), "{path}");
        }
        // Longer than the kernel takes in one call.
        let long = [b"./".repeat(4096), b"usr".to_vec()].concat();
        assert!(open_beneath(&root, &long, OFlags::PATH).is_ok());
    }

    #[test]
    fn a_path_is_resolved_while_others_rename() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let temp = tree();
        let root = Dir::open(temp.path().join("root")).unwrap();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let expected = inode(&temp.path().join("root/secret"));
        let done = AtomicBool::new(false);
        let storm = || {
            let (one, other) = (temp.path().join("one"), temp.path().join("other"));
            fs::create_dir(&one).unwrap();
            while !done.load(Ordering::Relaxed) {
                fs::rename(&one, &other).unwrap();
                fs::rename(&other, &one).unwrap();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(storm);
            let open = |_| open_inside(&root, b"usr/up/up/../usr/up/secret", OFlags::PATH);
            let opened: Vec<_> = (0..2000).map(open).collect();
            done.store(true, Ordering::Relaxed);
            for file in opened {
                assert_eq!(rustix::fs::fstat(file.unwrap()).unwrap().st_ino, expected);
            }
        });
    }
}
