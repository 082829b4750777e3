//! A directory with four places to unpack into, and a canary next to them that nothing may touch.

use std::ffi::{CString, OsStr};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};

/// What is in a cage.
const PLACES: &[&str] = &[
    "canary", "erofs", "layout", "locks", "native", "overlay", "plain",
];
/// What is in a snapshot that is a directory.
const DIRECTORIES: &[&str] = &["fs", "work"];
/// What is in a snapshot that is a tar.
const TARS: &[&str] = &[
    "fs",
    "image.erofs",
    "image.json",
    "layer.digest",
    "sparse",
    "work",
];

/// A directory with these entries:
///
/// ```text
/// canary/                         never touched
/// plain/snapshots/0/fs/           a plain tree, as deep as those of snapshots
/// native/snapshots/N/fs/          a copying snapshotter
/// overlay/snapshots/N/{fs,work}/  an overlay snapshotter
/// erofs/snapshots/N/fs/           a snapshotter that keeps layers as tars
/// layout/                         the image, which is imported into each place
/// locks/                          the locks of the unpacks
/// ```
/// From each `fs`, `../../../../canary` is the canary.
pub(crate) struct Cage {
    dir: tempfile::TempDir,
    before: Vec<String>,
}

impl Cage {
    /// Makes a cage in a new directory of `place`.
    pub(crate) fn new_in(place: &Path) -> Self {
        let dir = tempfile::tempdir_in(place).unwrap();
        let canary = dir.path().join("canary");
        fs::create_dir_all(canary.join("dir/deep")).unwrap();
        fs::create_dir_all(dir.path().join("plain/snapshots/0")).unwrap();
        fs::write(canary.join("file"), "alive").unwrap();
        fs::write(canary.join("dir/deep/file"), "alive too").unwrap();
        fs::hard_link(canary.join("file"), canary.join("second")).unwrap();
        symlink("file", canary.join("link")).unwrap();
        let node = |name: &str, kind, device| {
            let path = canary.join(name);
            rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), device).unwrap();
        };
        node("pipe", FileType::Fifo, 0);
        node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
        let attribute = XattrFlags::empty();
        rustix::fs::lsetxattr(canary.join("file"), "user.canary", b"sings", attribute).unwrap();
        let set_user_id = fs::Permissions::from_mode(0o4711);
        fs::set_permissions(canary.join("file"), set_user_id).unwrap();
        fs::set_permissions(canary.join("dir"), fs::Permissions::from_mode(0o700)).unwrap();
        let mut cage = Cage {
            dir,
            before: Vec::new(),
        };
        for path in cage.outside() {
            // The last access is before the last change, so that the kernel updates the access time
            // on a read.
            let time = |seconds| Timespec {
                tv_sec: seconds,
                tv_nsec: 0,
            };
            let times = Timestamps {
                last_access: time(1),
                last_modification: time(2),
            };
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(CWD, &path, &times, flags).unwrap();
        }
        cage.before = cage.state();
        cage
    }

    /// Makes another cage next to this one.
    pub(crate) fn another(&self) -> Self {
        Self::new_in(self.dir.path().parent().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the absolute path of the canary, as in a layer.
    pub(crate) fn canary(&self) -> String {
        self.path("canary").to_str().unwrap().to_owned()
    }

    /// Returns the canary and everything in it, children before their parents.
    fn outside(&self) -> Vec<PathBuf> {
        let mut paths = vec![self.path("canary")];
        let mut next = 0;
        while let Some(path) = paths.get(next).cloned() {
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                paths.extend(children(&path));
            }
            next += 1;
        }
        paths.sort();
        paths.reverse();
        paths
    }

    fn state(&self) -> Vec<String> {
        let mut state: Vec<String> = self.outside().iter().map(|path| describe(path)).collect();
        // Nothing new is next to the places.
        for (place, known) in [
            (".", PLACES),
            ("plain", &["snapshots"]),
            ("plain/snapshots", &["0"]),
            ("plain/snapshots/0", &["fs"]),
            ("native", &["manifests", "snapshots"]),
            ("overlay", &["manifests", "snapshots"]),
            ("erofs", &["manifests", "mounts", "snapshots"]),
        ] {
            state.extend(strange(&self.path(place), known));
        }
        for (snapshotter, known) in [
            ("native", DIRECTORIES),
            ("overlay", DIRECTORIES),
            ("erofs", TARS),
        ] {
            let snapshots = self.path(snapshotter).join("snapshots");
            for snapshot in fs::read_dir(snapshots).into_iter().flatten() {
                state.extend(strange(&snapshot.unwrap().path(), known));
            }
        }
        state
    }

    /// Returns what has changed outside the places.
    pub(crate) fn disturbed(&self) -> Vec<String> {
        let state = self.state();
        let lost = self.before.iter().filter(|line| !state.contains(line));
        let found = state.iter().filter(|line| !self.before.contains(line));
        let lost = lost.map(|line| format!("lost outside: {line}"));
        let found = found.map(|line| format!("found outside: {line}"));
        lost.chain(found).collect()
    }

    /// Returns what the system has mounted here.
    pub(crate) fn mounted(&self) -> Vec<String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.dir.path().to_str().unwrap();
        let mounts = mounts.lines().filter(|line| line.contains(here));
        mounts.map(|line| format!("mounted: {line}")).collect()
    }
}

/// Returns the names in a directory except the known ones.
fn strange(place: &Path, known: &[&str]) -> Vec<String> {
    let names = fs::read_dir(place).into_iter().flatten();
    let names = names.map(|one| one.unwrap().file_name().to_string_lossy().into_owned());
    names
        .filter(|name| !known.contains(&&**name))
        .map(|name| format!("{}: {name}", place.display()))
        .collect()
}

/// Opens a file or a directory so that reading it does not change its access time.
fn open(path: &Path) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::NOATIME;
    rustix::fs::open(path, flags, Mode::empty()).unwrap()
}

/// Returns the paths of what is in a directory.
fn children(path: &Path) -> Vec<PathBuf> {
    let names = rustix::fs::Dir::new(open(path)).unwrap();
    let names = names.map(|one| one.unwrap().file_name().to_bytes().to_vec());
    names
        .filter(|name| !matches!(&name[..], b"." | b".."))
        .map(|name| path.join(OsStr::from_bytes(&name)))
        .collect()
}

/// Describes an entry without changing its times. The target of a link is not read, because that
/// changes the access time of the link. A link with another target would have another inode.
fn describe(path: &Path) -> String {
    let data = fs::symlink_metadata(path).unwrap();
    let times = (data.atime(), data.mtime(), data.ctime(), data.ctime_nsec());
    let id = (
        data.ino(),
        data.nlink(),
        data.mode(),
        data.uid(),
        data.gid(),
        data.size(),
    );
    let content = if data.is_file() {
        std::io::read_to_string(fs::File::from(open(path))).unwrap()
    } else {
        String::new()
    };
    let mut xattrs = vec![0; 4096];
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    let length = rustix::fs::llistxattr(&*name, &mut xattrs[..]).unwrap();
    let names = xattrs[..length].escape_ascii().to_string();
    let mut value = [0; 64];
    let length = rustix::fs::lgetxattr(path, "user.canary", &mut value[..]).unwrap_or(0);
    let value = value[..length].escape_ascii();
    let path = path.display();
    format!("{path} {id:?} {times:?} {content} {names} {value}")
}
