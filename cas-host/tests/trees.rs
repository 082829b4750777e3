//! Copying, measuring and removing trees with all kinds of entries.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests")]

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use cas_core::ErrorKind;
use cas_host::{SnapshotDirs, copy_tree, measure};
use rustix::fs::{AtFlags, FileType, Mode, XattrFlags};

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: owners, devices and mounts need the superuser");
    }
    root
}

fn fill(dir: &Path) {
    fs::create_dir_all(dir.join("d/e")).unwrap();
    fs::write(dir.join("d/file"), "text").unwrap();
    fs::hard_link(dir.join("d/file"), dir.join("d/e/link")).unwrap();
    symlink("/no/such/thing", dir.join("symlink")).unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 32 << 20).unwrap();
    let file = FileType::CharacterDevice;
    let null = rustix::fs::makedev(1, 3);
    let here = File::open(dir).unwrap();
    rustix::fs::mknodat(&here, "null", file, Mode::from_raw_mode(0o620), null).unwrap();
    rustix::fs::mknodat(&here, "whiteout", file, Mode::empty(), 0).unwrap();
    rustix::fs::mknodat(&here, "fifo", FileType::Fifo, Mode::RWXU, 0).unwrap();
    for (name, xattr) in [
        ("d/file", "user.one"),
        ("d", "user.two"),
        ("symlink", "trusted.three"),
        ("null", "trusted.four"),
    ] {
        let value = name.as_bytes();
        rustix::fs::lsetxattr(dir.join(name), xattr, value, XattrFlags::empty()).unwrap();
    }
    let long = [b'x'; 2000];
    rustix::fs::lsetxattr(dir.join("sparse"), "user.long", &long, XattrFlags::empty()).unwrap();
    rustix::fs::lsetxattr(dir.join("d/e"), "user.empty", b"", XattrFlags::empty()).unwrap();
    for (number, name) in ["symlink", "null", "d/file", "d", "sparse"]
        .into_iter()
        .enumerate()
    {
        let number = u32::try_from(number).unwrap();
        std::os::unix::fs::lchown(dir.join(name), Some(1000 + number), Some(3_000_000)).unwrap();
    }
    fs::set_permissions(dir.join("d/file"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(dir.join("d"), fs::Permissions::from_mode(0o0)).unwrap();
    let old = UNIX_EPOCH + Duration::new(1, 987_654_321);
    for name in ["d/file", "d/e", "d", "sparse"] {
        File::open(dir.join(name))
            .unwrap()
            .set_modified(old)
            .unwrap();
    }
}

/// Describes the entries of a tree, one line for each, without holes and without the values of
/// extended attributes.
fn describe(dir: &Path, out: &mut Vec<String>) {
    let mut entries: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let stat = fs::symlink_metadata(&path).unwrap();
        let kind = stat.file_type();
        let mut names = vec![0; 1024];
        let length = rustix::fs::llistxattr(&path, &mut names[..]).unwrap();
        let data = if kind.is_file() {
            let data = fs::read(&path).unwrap();
            data.iter().map(|byte| u64::from(*byte)).sum()
        } else {
            0
        };
        out.push(format!(
            "{:?} {:o} {}:{} {} links, device {} {}, {}.{}, {data} {:?} {:?}",
            entry.file_name(),
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.nlink(),
            stat.rdev(),
            kind.is_fifo(),
            stat.mtime(),
            stat.mtime_nsec(),
            fs::read_link(&path).ok(),
            String::from_utf8_lossy(&names[..length]),
        ));
        if kind.is_dir() {
            describe(&path, out);
        }
    }
}

#[test]
fn a_copy_keeps_all_metadata_links_and_holes() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    fill(&from);
    copy_tree(File::open(&from).unwrap(), File::open(&to).unwrap()).unwrap();
    let (mut expected, mut found) = (Vec::new(), Vec::new());
    describe(&from, &mut expected);
    describe(&to, &mut found);
    assert_eq!(found, expected);
    assert_eq!(expected.len(), 9);
    let stat = |name: &str| fs::metadata(to.join(name)).unwrap();
    assert_eq!(stat("d/file").ino(), stat("d/e/link").ino());
    assert!(stat("sparse").blocks() < 64, "a hole was filled");
    let xattr = |name: &str, key: &str| {
        let mut value = [0; 4096];
        let length = rustix::fs::lgetxattr(to.join(name), key, &mut value[..]).unwrap();
        String::from_utf8_lossy(&value[..length]).into_owned()
    };
    assert_eq!(xattr("symlink", "trusted.three"), "symlink");
    assert_eq!(xattr("d", "user.two"), "d");
    assert_eq!(xattr("d/e", "user.empty"), "");
    assert_eq!(xattr("sparse", "user.long").len(), 2000);
    let sizes = [&from, &to].map(|dir| measure(File::open(dir).unwrap()).unwrap());
    assert_eq!(sizes[0], sizes[1]);
    assert_eq!(sizes[0].inodes, 8);
}

/// Makes directories in each other, `levels` in all. Returns the deepest one.
fn nest(mut here: File, levels: usize) -> File {
    for _ in 0..levels {
        rustix::fs::mkdirat(&here, "deeper", Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY;
        let deeper = rustix::fs::openat(&here, "deeper", flags, Mode::empty());
        here = deeper.unwrap().into();
    }
    here
}

/// The path of the names is longer than one call accepts.
#[test]
fn names_of_one_file_may_have_any_depth() {
    let temp = tempfile::tempdir().unwrap();
    let dirs = SnapshotDirs::open(temp.path()).unwrap();
    let (from, to) = (
        dirs.create(1).unwrap().unwrap(),
        dirs.create(2).unwrap().unwrap(),
    );
    let here = nest(File::open(dirs.path(1)).unwrap(), 600);
    rustix::fs::mknodat(&here, "a", FileType::RegularFile, Mode::RUSR, 0).unwrap();
    rustix::fs::linkat(&here, "a", &here, "b", AtFlags::empty()).unwrap();
    copy_tree(&from, &to).unwrap();
    // A file counts once, whatever number of names it has.
    assert_eq!(measure(&to).unwrap().inodes, 601);
    // The standard library cannot remove trees of this depth.
    assert_eq!(dirs.remove(1).unwrap().inodes, 602);
    assert_eq!(dirs.remove(2).unwrap().inodes, 602);
}

/// The tree is deeper than the limits of paths and of open file descriptors.
#[test]
fn a_tree_may_have_any_depth() {
    let temp = tempfile::tempdir().unwrap();
    let dirs = SnapshotDirs::open(temp.path()).unwrap();
    let (from, to) = (
        dirs.create(1).unwrap().unwrap(),
        dirs.create(2).unwrap().unwrap(),
    );
    nest(File::open(dirs.path(1)).unwrap(), 1200);
    copy_tree(&from, &to).unwrap();
    assert_eq!(measure(&to).unwrap().inodes, 1200);
    assert_eq!(dirs.remove(1).unwrap().inodes, 1201);
    assert_eq!(dirs.remove(2).unwrap().inodes, 1201);
    assert!(dirs.ids().unwrap().is_empty());
    assert_eq!(
        dirs.remove(2).unwrap().inodes,
        0,
        "an absent directory is not an error"
    );
}

#[test]
fn a_removal_stops_at_a_mount_point() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let dirs = SnapshotDirs::open(temp.path().join("root")).unwrap();
    drop(dirs.create(7).unwrap());
    let live = temp.path().join("live");
    fs::create_dir(&live).unwrap();
    fs::write(live.join("file"), "text").unwrap();
    let at = dirs.path(7).join("fs");
    fs::create_dir(&at).unwrap();
    let bind = Command::new("mount")
        .arg("--bind")
        .args([&live, &at])
        .status();
    assert!(bind.unwrap().success());
    let error = dirs.remove(7).unwrap_err();
    let unmounted = Command::new("umount").arg(&at).status();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(unmounted.unwrap().success());
    assert_eq!(fs::read_to_string(live.join("file")).unwrap(), "text");
    dirs.remove(7).unwrap();
}

#[test]
fn a_directory_in_use_cannot_be_locked() {
    let temp = tempfile::tempdir().unwrap();
    let dirs = SnapshotDirs::open(temp.path()).unwrap();
    let made = dirs.create(1).unwrap().unwrap();
    assert!(dirs.create(1).unwrap().is_none(), "a number is used once");
    assert!(dirs.try_lock_exclusive(1).unwrap().is_none());
    drop(made);
    let (one, two) = (dirs.lock_shared(1).unwrap(), dirs.lock_shared(1).unwrap());
    assert!(dirs.try_lock_exclusive(1).unwrap().is_none());
    drop((one, two));
    assert!(dirs.try_lock_exclusive(1).unwrap().is_some());
    fs::create_dir(temp.path().join("snapshots/lost+found")).unwrap();
    fs::create_dir(temp.path().join("snapshots/01")).unwrap();
    assert_eq!(dirs.ids().unwrap(), [1], "only the directories made here");
    assert_eq!(
        dirs.lock_shared(5).err().unwrap().kind(),
        ErrorKind::NotFound
    );
}
