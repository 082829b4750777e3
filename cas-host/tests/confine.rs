//! Confined threads do their work, and cannot do anything else. Each escape works on a thread that
//! is not confined.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::thread;

use cas_host::{Confinement, calls, node};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, XattrFlags, makedev};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// A tree, and next to it a directory with a canary. Both directories are open.
struct Place {
    dir: tempfile::TempDir,
    tree: OwnedFd,
    beside: OwnedFd,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["tree", "tree/sub", "beside"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("beside/canary"), "alive").unwrap();
        symlink(path("beside"), path("tree/out")).unwrap();
        symlink("../beside", path("tree/up")).unwrap();
        let [tree, beside] = ["tree", "beside"].map(|name| File::open(path(name)).unwrap().into());
        Place { dir, tree, beside }
    }

    fn canary(&self) -> PathBuf {
        self.dir.path().join("beside/canary")
    }

    /// Does `work` on a thread with these bounds. Returns the result of the work.
    fn within<T: Send>(&self, bounds: Confinement<'_>, work: impl FnOnce(&Self) -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = bounds.spawn(scope, "confined", || work(self));
            thread.unwrap().join().unwrap()
        })
    }

    fn below(&self) -> Confinement<'_> {
        Confinement::Below(self.tree.as_fd())
    }
}

/// Returns whether the tests can run here, which needs Landlock of Linux 6.12.
fn can() -> bool {
    // SAFETY: without attributes, the call returns the version.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) };
    if version < 6 {
        eprintln!("SKIPPED: expected version 6 or later of Landlock, found {version}");
    }
    version >= 6
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: only the superuser can do this");
    }
    root
}

type Escape = (&'static str, fn(&Place) -> io::Result<()>);

fn write(dir: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    calls::openat(dir, path, flags, Mode::RUSR)?;
    Ok(())
}

/// Converts the result of a system call.
fn done(result: i64) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// What a thread may do after a layer has misled its code.
const ESCAPES: &[Escape] = &[
    ("write to an absolute path", |place| {
        write(CWD, place.canary().to_str().unwrap())
    }),
    ("write through a link", |place| {
        write(place.tree.as_fd(), "out/canary")
    }),
    ("write through a relative link", |place| {
        write(place.tree.as_fd(), "up/canary")
    }),
    ("write through ..", |place| {
        write(place.tree.as_fd(), "../beside/canary")
    }),
    ("write to an open directory", |place| {
        write(place.beside.as_fd(), "canary")
    }),
    ("create", |place| write(place.beside.as_fd(), "new")),
    ("read", |place| fs::read(place.canary()).map(drop)),
    ("link to a file outside", |place| {
        let (tree, name) = (place.tree.as_fd(), "stolen");
        calls::linkat(&place.beside, "canary", tree, name, AtFlags::empty())?;
        Ok(calls::unlinkat(tree, name, AtFlags::empty())?)
    }),
    ("move out", |place| {
        write(place.tree.as_fd(), "file")?;
        Ok(calls::renameat(&place.tree, "file", &place.beside, "file")?)
    }),
    ("execute", |_| {
        std::process::Command::new("/bin/true").status().map(drop)
    }),
    ("listen", |_| TcpListener::bind("127.0.0.1:0").map(drop)),
    ("connect a socket", |_| {
        std::os::unix::net::UnixStream::pair().map(drop)
    }),
    ("signal another process", |_| {
        let parent = rustix::process::getppid().unwrap();
        Ok(rustix::process::test_kill_process(parent)?)
    }),
    ("trace another process", |_| {
        // SAFETY: process 0 does not exist, so the call changes nothing.
        match done(unsafe { libc::ptrace(libc::PTRACE_DETACH, 0, 0, 0) }) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other,
        }
    }),
    ("make a namespace", |_| {
        // SAFETY: the call changes only this thread, which ends soon.
        done(unsafe { libc::unshare(libc::CLONE_FS) }.into())
    }),
    ("change the directory of the process", |place| {
        Ok(rustix::process::fchdir(&place.tree)?)
    }),
];

/// Further escapes of the superuser.
const ESCAPES_OF_ROOT: &[Escape] = &[
    ("change a mode through a link", |place| {
        Ok(calls::chmodat(
            &place.tree,
            "out/canary",
            Mode::RUSR,
            AtFlags::empty(),
        )?)
    }),
    ("change an owner through ..", |place| {
        let (path, owner) = ("../beside/canary", Some(Uid::from_raw(1)));
        Ok(calls::chownat(
            &place.tree,
            path,
            owner,
            None,
            AtFlags::empty(),
        )?)
    }),
    ("set an attribute at an absolute path", |place| {
        let path = place.canary();
        Ok(calls::lsetxattr(
            &path,
            "user.escaped",
            b"",
            XattrFlags::empty(),
        )?)
    }),
    ("change the root directory", |_| {
        Ok(rustix::process::chroot("/")?)
    }),
    ("mount", |_| {
        cas_host::mount::check_right().map_err(io::Error::other)
    }),
    ("have the right to trace", |_| {
        let has = capabilities(None)?
            .permitted
            .contains(CapabilitySet::SYS_PTRACE);
        has.then_some(())
            .ok_or(io::ErrorKind::PermissionDenied.into())
    }),
];

/// Checks that each escape works without bounds, and fails within `bounds`.
fn check(escapes: &[Escape], bounds: fn(&Place) -> Confinement<'_>) {
    for (name, escape) in escapes {
        let place = Place::new();
        let free = place.within(Confinement::None, escape);
        assert!(free.is_ok(), "{name}, not confined: {free:?}");
        let place = Place::new();
        let confined = place.within(bounds(&place), escape);
        assert!(confined.is_err(), "{name}, confined: it worked");
        assert_eq!(fs::read(place.canary()).unwrap(), b"alive", "{name}");
        let left = fs::read_dir(place.dir.path().join("beside")).unwrap();
        assert_eq!(left.count(), 1, "{name}");
    }
}

#[test]
fn no_escape_works_on_a_thread_that_writes_files() {
    if can() {
        check(ESCAPES, Place::below);
    }
}

#[test]
fn no_escape_of_the_superuser_works_on_a_thread_that_writes_files() {
    if can() && is_root() {
        check(ESCAPES_OF_ROOT, Place::below);
    }
}

#[test]
fn no_escape_works_on_a_thread_that_writes_nothing() {
    if can() && is_root() {
        check(ESCAPES, |_| Confinement::Closed);
        check(ESCAPES_OF_ROOT, |_| Confinement::Closed);
        let in_tree: &[Escape] = &[
            ("read the tree", |place| {
                Ok(calls::openat(&place.tree, ".", OFlags::RDONLY, Mode::empty()).map(drop)?)
            }),
            ("change a mode", |place| {
                Ok(calls::fchmod(&place.beside, Mode::RWXU)?)
            }),
            // Without a new owner or group, the call needs no capability.
            ("change an owner", |place| {
                Ok(calls::fchown(&place.beside, None, None)?)
            }),
            ("change an owner by name", |place| {
                let flags = AtFlags::empty();
                Ok(calls::chownat(&place.beside, ".", None, None, flags)?)
            }),
        ];
        check(in_tree, |_| Confinement::Closed);
    }
}

/// Without capabilities, the thread has no root directory of its own.
#[test]
fn no_escape_works_on_a_thread_without_a_root_directory_of_its_own() {
    if !can() {
        return;
    }
    let check = || {
        let none = CapabilitySet::empty();
        let sets = CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        };
        set_capabilities(None, sets).unwrap();
        check(ESCAPES, Place::below);
    };
    thread::spawn(check).join().unwrap();
}

#[test]
fn a_confined_thread_writes_every_kind_of_file() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    place.within(place.below(), |place| {
        let tree = place.tree.as_fd();
        write(tree, "file").unwrap();
        calls::mkdirat(tree, "dir", Mode::RWXU).unwrap();
        calls::linkat(tree, "file", tree, "dir/second", AtFlags::empty()).unwrap();
        calls::renameat(tree, "file", tree, "sub/moved").unwrap();
        let file = calls::openat(tree, "sub/moved", OFlags::RDWR, Mode::empty()).unwrap();
        calls::pwrite(&file, b"text", 0).unwrap();
        calls::ftruncate(&file, 2).unwrap();
        for name in ["user.a", "trusted.a", "security.a"] {
            calls::fsetxattr(&file, name, b"value", XattrFlags::empty()).unwrap();
        }
        calls::fchown(&file, Some(Uid::from_raw(7)), Some(Gid::from_raw(8))).unwrap();
        // The file belongs to another user now.
        calls::fchmod(&file, Mode::from_raw_mode(0o4755)).unwrap();
        for (name, kind, device) in [
            ("pipe", FileType::Fifo, 0),
            ("null", FileType::CharacterDevice, makedev(1, 3)),
            ("loop", FileType::BlockDevice, makedev(7, 0)),
        ] {
            calls::mknodat(tree, name, kind, Mode::RUSR, device).unwrap();
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            let open = calls::openat(tree, name, flags, Mode::empty()).unwrap();
            node::set_mode(open.as_fd(), Mode::from_raw_mode(0o640)).unwrap();
            node::set_attribute(tree, name.as_bytes(), b"trusted.a", b"value").unwrap();
        }
        calls::symlinkat("/absolute", tree, "link").unwrap();
        node::set_attribute(tree, b"link", b"trusted.a", b"value").unwrap();
        node::remove_attribute(tree, b"link", b"trusted.a").unwrap();
        calls::unlinkat(tree, "dir/second", AtFlags::empty()).unwrap();
        calls::unlinkat(tree, "dir", AtFlags::REMOVEDIR).unwrap();
    });
    let mode = |name: &str| {
        let path = place.dir.path().join("tree").join(name);
        calls::statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW)
            .unwrap()
            .st_mode
            & 0o7777
    };
    assert_eq!([mode("pipe"), mode("sub/moved")], [0o640, 0o4755]);
    let path = place.dir.path().join("tree");
    let mut value = [0; 9];
    let length =
        |name: &str, value: &mut [u8]| calls::lgetxattr(&path.join(name), "trusted.a", value);
    assert_eq!(length("loop", &mut value), Ok(5));
    assert_eq!(length("link", &mut value), Err(rustix::io::Errno::NODATA));
}
