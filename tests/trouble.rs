//! The tool after a kill, on a full disk, with little memory, and in several concurrent processes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testkit::archive::Tar;

use common::cgroup::Cgroup;
use common::disk::Disk;
use common::{can, cas, demo_archive, fails, layout, ok, text};

/// Returns a directory in memory, where a sync does not wait for all that the machine writes.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}

/// Waits until something is in `directory`. Returns false if `child` ended before.
fn begins(directory: &Path, child: &mut Child) -> bool {
    let begun = Instant::now();
    while is_empty(directory) {
        assert!(begun.elapsed() < Duration::from_secs(120), "nothing began");
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

#[test]
fn after_a_killed_import_the_same_import_succeeds() {
    let scratch = scratch();
    let root = scratch.path().join("root");
    let archive = demo_archive(scratch.path());
    let bytes = fs::read(&archive).unwrap();
    let mut child = cas(&root)
        .args(["import", "-", "--name", "app"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    // The rest never arrives, so the import is certainly in the middle of a blob.
    let mut input = child.stdin.take().unwrap();
    input.write_all(&bytes[..bytes.len() / 2]).unwrap();
    assert!(begins(&root.join("store/.cas/ingest"), &mut child));
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    drop(input);
    assert_eq!(ok(cas(&root).args(["images", "--json"])), "");
    ok(cas(&root).args(["import", "--name", "app"]).arg(&archive));
    ok(cas(&root)
        .args(["unpack", "app"])
        .arg(scratch.path().join("tree")));
    assert!(is_empty(&root.join("store/.cas/ingest")));
}

#[test]
fn after_a_killed_unpack_the_same_unpack_succeeds() {
    let scratch = scratch();
    let root = scratch.path().join("root");
    let archive = demo_archive(scratch.path());
    ok(cas(&root).args(["import", "--name", "app"]).arg(&archive));
    let tree = scratch.path().join("tree");
    let unpack = || {
        let mut unpack = cas(&root);
        unpack.args(["unpack", "app"]).arg(&tree);
        unpack
    };
    let killed = (0..20).any(|_| {
        let _ = fs::remove_dir_all(&tree);
        let mut child = unpack().stdout(Stdio::null()).spawn().unwrap();
        begins(&tree, &mut child) && child.kill().is_ok() && !child.wait().unwrap().success()
    });
    assert!(killed, "it was never caught in the middle");
    ok(&mut unpack());
    assert!(tree.join("app/run").exists());
    let said = fails(&mut unpack(), 2);
    assert!(said.contains("the directory is not empty"), "{said}");
    assert!(tree.join("app/run").exists(), "what is complete stays");
}

#[test]
fn a_full_disk_is_reported_and_the_store_is_unchanged() {
    if !can(&["mount", "umount"]) {
        return;
    }
    let scratch = scratch();
    let archive = demo_archive(scratch.path());
    let disk = Disk::mount(scratch.path().join("disk"), "size=8m");
    let root = disk.0.join("root");
    ok(cas(&root).args(["blob", "add"]).arg("/dev/null"));
    let blobs = || ok(cas(&root).args(["blob", "ls", "--json"]));
    let before = blobs();
    let filler = disk.fill(256 << 10);
    for piped in [false, true] {
        let mut import = cas(&root);
        import.args(["import", "--name", "app"]);
        if piped {
            import.arg("-").stdin(File::open(&archive).unwrap())
        } else {
            import.arg(&archive)
        };
        let said = fails(&mut import, 6);
        assert!(said.contains("No space left"), "{said}");
        assert_eq!(ok(cas(&root).args(["images", "--json"])), "");
        assert_eq!(blobs(), before);
        assert!(is_empty(&root.join("store/.cas/ingest")));
    }
    fs::remove_file(filler).unwrap();
    ok(cas(&root).args(["import", "--name", "app"]).arg(&archive));

    let small = Disk::mount(scratch.path().join("small"), "size=512k");
    for tree in [small.0.clone(), small.0.join("tree")] {
        fails(cas(&root).args(["unpack", "app"]).arg(&tree), 6);
        assert!(is_empty(&small.0));
    }
    ok(cas(&root)
        .args(["unpack", "app"])
        .arg(scratch.path().join("tree")));
}

/// The disk fills up while a blob, a record or a tree is written.
#[test]
fn a_disk_that_fills_up_during_unpacking_is_reported_and_nothing_stays() {
    if !can(&["mount", "umount"]) {
        return;
    }
    let scratch = scratch();
    let archive = demo_archive(scratch.path());
    let target = scratch.path().join("mnt");
    fs::create_dir(&target).unwrap();
    let disk = Disk::mount(scratch.path().join("disk"), "size=64m");
    let root = disk.0.join("root");
    ok(cas(&root).args(["--snapshotter", "overlay", "init"]));
    let snapshots = || ok(cas(&root).args(["snapshot", "ls", "--json"]));
    assert_eq!(snapshots(), "");
    let fails_full = |command: &mut Command, left: u64| {
        let filler = disk.fill(left << 10);
        let said = fails(command, 6);
        assert!(said.contains("space"), "{left} KiB: {said}");
        assert_eq!(snapshots(), "", "{left} KiB: {said}");
        let trees = root.join("snapshots/overlay/snapshots");
        assert!(is_empty(&trees), "{left} KiB: {said}");
        assert!(is_empty(&root.join("store/.cas/ingest")), "{left} KiB");
        fs::remove_file(filler).unwrap();
    };
    let import = |unpack: &[&str]| {
        let mut import = cas(&root);
        import.args(["import", "--name", "app"]).args(unpack);
        import.arg(&archive);
        import
    };
    for left in [160, 320, 512, 768, 1280, 2048, 3072] {
        fails_full(&mut import(&["--unpack"]), left);
        assert_eq!(ok(cas(&root).args(["images", "--json"])), "", "{left} KiB");
    }
    ok(&mut import(&[]));
    let mount = || {
        let mut mount = cas(&root);
        mount.args(["mount", "app"]).arg(&target);
        mount
    };
    for left in [64, 512, 2048] {
        fails_full(&mut mount(), left);
        assert!(is_empty(&target));
    }
    ok(&mut import(&["--unpack"]));
    ok(&mut mount());
    assert!(target.join("app/run").exists());
    ok(cas(&root).arg("umount").arg(&target));
}

#[test]
fn many_open_a_fresh_root_at_once() {
    // The root is on a disk, where creating a directory takes some time.
    let scratch = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let root = scratch.path().join(round.to_string());
        let open = || cas(&root).arg("images").stdout(Stdio::null()).spawn();
        let mut all: Vec<_> = (0..3).map(|_| open().unwrap()).collect();
        assert!(all.iter_mut().all(|child| child.wait().unwrap().success()));
    }
}

#[test]
fn imports_into_a_fresh_root_and_an_unpack_run_side_by_side() {
    let scratch = scratch();
    let root = scratch.path().join("root");
    let archive = demo_archive(scratch.path());
    ok(cas(&root).args(["import", "--name", "app"]).arg(&archive));
    let fresh = scratch.path().join("fresh");
    let start = |root: &Path, arguments: &[&str], path: &Path| {
        let mut command = cas(root);
        command.args(arguments).arg(path).stdout(Stdio::null());
        command.spawn().unwrap()
    };
    let mut all = vec![start(
        &root,
        &["unpack", "app"],
        &scratch.path().join("tree"),
    )];
    for _ in 0..3 {
        all.push(start(
            &root,
            &["import", "--unpack", "--name", "app"],
            &archive,
        ));
        all.push(start(
            &fresh,
            &["import", "--unpack", "--name", "app"],
            &archive,
        ));
    }
    assert!(all.iter_mut().all(|child| child.wait().unwrap().success()));
    for root in [root, fresh] {
        let snapshots = ok(cas(&root).args(["snapshot", "ls", "--json"]));
        assert_eq!(snapshots.lines().count(), 3, "{snapshots}");
        assert!(is_empty(&root.join("store/.cas/ingest")));
    }
}

#[test]
fn a_quiet_demo_says_nothing_and_a_json_demo_only_json() {
    let scratch = scratch();
    let root = scratch.path();
    assert_eq!(ok(cas(root).args(["demo", "-q"])), "");
    let steps = ok(cas(root).args(["demo", "--json"]));
    let steps: Vec<serde_json::Value> = steps
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    assert_eq!(steps.last().unwrap()["step"], 7);
}

/// A command with too little memory is killed and loses nothing. With a certain amount of memory,
/// commands work on images that are larger.
#[test]
fn with_little_memory_nothing_is_lost_and_large_images_can_be_used() {
    const FILES: u8 = 32;
    // On a disk, because a file in memory counts as memory of the process that writes it.
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let layer = (0..FILES).fold(Tar::new(), |layer, number| {
        layer.file(format!("{number}"), vec![number; 2 << 20])
    });
    layout::layout(&at("image"), vec![layer]);
    let mut killed = 0;
    for (name, store, enough) in [
        ("fs", "fs", 48),
        #[cfg(feature = "redb")]
        ("redb", "redb://?cache=4MiB", 48),
        #[cfg(feature = "remote")]
        ("dir", "dir", 160),
    ] {
        // Each store has a group of its own, because a limit below what is used can be refused.
        let Some(group) = Cgroup::new() else {
            return;
        };
        let root = at(name);
        let init = ["--store", store, "--snapshotter", "native", "init"];
        ok(cas(&root).args(init));
        let mut import = cas(&root);
        import.args(["import", "--unpack", "--name", "app"]);
        import.arg(at("image"));
        for mib in [4, 8, 12, 16, 20, 24, 32] {
            let out = group.limited(mib, &import).output().unwrap();
            let said = text(&out.stderr);
            // The kernel may also refuse to allocate, and `cas` then says so.
            let refused = said.contains("memory") || said.contains("allocat");
            let ended = out.status.success() || out.status.signal() == Some(9) || refused;
            assert!(ended, "{store}, {mib} MiB: {:?}, {said}", out.status);
            killed += u32::from(!out.status.success());
            ok(cas(&root).args(["fsck", "--read-data"]));
        }
        let (image, file, tree) = (at("image"), at("app.tar"), at("tree"));
        let [image, file, tree] = [&image, &file, &tree].map(|path| path.to_str().unwrap());
        for arguments in [
            &["import", "--unpack", "--name", "app", image][..],
            &["export", "app", "-o", file],
            &["unpack", "app", tree],
            &["fsck", "--read-data"],
            &["rmi", "app"],
            &["gc"],
        ] {
            let mut command = cas(&root);
            command.args(arguments);
            ok(&mut group.limited(enough, &command));
        }
        fs::remove_dir_all(tree).unwrap();
        fs::remove_file(file).unwrap();
    }
    assert!(killed > 0);
}
