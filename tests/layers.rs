//! Layers that are unpacked in parallel give the same tree as layers that are unpacked one after
//! the other, even after a kill, and in several concurrent processes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail anywhere"
)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::layout::layout;
use common::tree::differences;
use common::{can, cas, failing, fails, mounting_snapshotters, ok, real_image};
use serde_json::Value;
use testkit::archive::{Header, Tar};
use testkit::program::program_that_ends;

const NAME: &str = "app:1";
/// The names of the real image, which has two tags.
const REAL: [&str; 2] = ["app:latest", "app:small"];

/// Returns a tree whose directories have unusual attributes, so that a recreated one is noticed.
fn base() -> Tar {
    let odd = |name: &str| Header::new(b'5', name).mode(0o1750).owner(7, 8);
    let attribute: (&str, &[u8]) = ("SCHILY.xattr.user.odd", b"yes");
    Tar::new()
        .pax(&[attribute])
        .member(Header::new(b'5', "./").mode(0o711).owner(3, 4), b"")
        .pax(&[attribute])
        .member(odd("a"), b"")
        .member(odd("a/b"), b"")
        .file("a/b/one", "1")
        .file("a/b/two", "2")
        .member(odd("gone"), b"")
        .file("gone/x", "x")
        .member(odd("again"), b"")
        .file("again/old", "old")
        .file("file", "f")
        .symlink("link", "a/b")
        .symlink("up", "..")
        .symlink("a/up", "b/../..")
}

/// Returns layers on [`base`] that depend on the layers below in different ways, each with its
/// name.
fn changes() -> Vec<(&'static str, Tar)> {
    vec![
        ("a link into it", Tar::new().hardlink("a/hard", "a/b/one")),
        (
            "implied parents",
            Tar::new().file("a/b/three", "3").file("new/deep/x", "x"),
        ),
        (
            "whiteouts",
            Tar::new().file("a/b/.wh.one", "").file(".wh.gone", ""),
        ),
        (
            "whiteouts of nothing",
            Tar::new().file("no/.wh.x", "").file("a/.wh.no", ""),
        ),
        ("a whiteout below a file", Tar::new().file("file/.wh.x", "")),
        (
            "an opaque directory",
            Tar::new().file("a/b/.wh..wh..opq", "").file("a/b/new", "n"),
        ),
        (
            "an opaque root",
            Tar::new().file(".wh..wh..opq", "").file("a/b/new", "n"),
        ),
        ("an opaque nothing", Tar::new().file("no/.wh..wh..opq", "")),
        (
            "made again",
            Tar::new().file(".wh.again", "").file("again/new", "n"),
        ),
        (
            "taken away after",
            Tar::new().file("again/new", "n").file(".wh.again", ""),
        ),
        ("a parent that is a link", Tar::new().file("link/new", "n")),
        (
            "a whiteout through a link",
            Tar::new().file("link/.wh.one", ""),
        ),
        (
            "links that go up",
            Tar::new().file("up/a/up/x", "n").file("a/up/.wh.file", ""),
        ),
        (
            "a whiteout through a link that leads through an absent directory",
            Tar::new()
                .symlink("beside", "absent/../a/b")
                .file("beside/.wh.one", ""),
        ),
        (
            "an opaque directory behind a link that leads through a file",
            Tar::new()
                .symlink("beyond", "file/../a/b")
                .file("beyond/.wh..wh..opq", ""),
        ),
        (
            "a whiteout through links that are a loop only if a directory exists",
            Tar::new()
                .symlink("to-absent", "absent")
                .symlink("loop", "to-absent/../loop")
                .file("loop/absent/.wh.x", ""),
        ),
        (
            "a file behind a link that leads through the directory of a whiteout",
            Tar::new()
                .file("hollow/.wh.x", "")
                .symlink("through", "hollow/../a")
                .file("through/new", "n"),
        ),
        ("a parent that is a file", Tar::new().file("file/new", "n")),
        (
            "a file for a directory",
            Tar::new().file("gone", "now a file"),
        ),
        (
            "a directory for a link",
            Tar::new().dir("link").file("link/new", "n"),
        ),
        (
            "both, one after the other",
            Tar::new().file("gone", "f").dir("gone").file("gone/y", "y"),
        ),
    ]
}

/// Imports the layout at `source` into a new root, unpacks it and mounts it. Returns how the
/// mounted tree differs from the unpacked one.
fn compared(scratch: &Path, snapshotter: &str, source: &Path) -> Vec<String> {
    let [root, mounted, plain] = ["root", "mounted", "plain"].map(|name| scratch.join(name));
    fs::create_dir_all(&mounted).unwrap();
    ok(cas(&root).args(["--snapshotter", snapshotter, "init"]));
    ok(cas(&root)
        .args(["-q", "import", "--unpack", "--name", NAME])
        .arg(source));
    ok(cas(&root).args(["-q", "unpack", NAME]).arg(&plain));
    ok(cas(&root).args(["-q", "mount", NAME]).arg(&mounted));
    let found = differences(&plain, &mounted);
    ok(cas(&root).arg("umount").arg(&mounted));
    for made in [root, plain] {
        fs::remove_dir_all(made).unwrap();
    }
    found
}

#[test]
fn layers_that_depend_on_lower_layers_give_the_right_tree() {
    if !can(&[]) {
        return;
    }
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let source = scratch.path().join("layout");
    let mut all = vec![base()];
    for (what, change) in changes() {
        layout(&source, vec![base(), change.clone()]);
        let found = compared(scratch.path(), "overlay", &source);
        assert!(found.is_empty(), "{what}: {found:#?}");
        all.push(change);
    }
    layout(&source, all);
    for snapshotter in ["overlay", "native"] {
        let found = compared(scratch.path(), snapshotter, &source);
        assert!(found.is_empty(), "{snapshotter}: {found:#?}");
    }
}

/// Calls that are made to fail every second time, as if a signal interrupted them, or as if another
/// machine had changed what they look at. The loader and SQLite make none of these calls.
const CALLS: &str = "openat2,mkdirat,mknodat,symlinkat,linkat,unlinkat,renameat,renameat2,fchown,\
     fchownat,fchmod,fchmodat,utimensat,fgetxattr,fsetxattr,flistxattr,flock,copy_file_range,\
     fallocate,statx,getdents64,ioctl";

#[test]
fn calls_that_fail_because_of_others_do_not_change_the_tree() {
    if !can(&["strace"]) {
        return;
    }
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let [source, right] = ["layout", "right"].map(|name| scratch.path().join(name));
    let all = changes().into_iter().map(|(_, change)| change);
    layout(&source, [base()].into_iter().chain(all).collect());
    let good = scratch.path().join("good");
    ok(cas(&good)
        .args(["-q", "import", "--name", NAME])
        .arg(&source));
    ok(cas(&good).args(["-q", "unpack", NAME]).arg(&right));
    // Calls fail like this while others rename or mount, on a network file system, in an old
    // sandbox, and when signals arrive.
    let [stale, interrupted] =
        ["ESTALE", "EINTR"].map(|error| format!("{CALLS}:error={error}:when=1+2"));
    // The metadata of the images of erofs cannot be in memory.
    let disk = tempfile::tempdir().unwrap();
    let usable = mounting_snapshotters();
    for (calls, snapshotter) in [
        ("openat2:error=EAGAIN", "overlay"),
        ("openat2:error=EAGAIN", "native"),
        ("openat2:error=ESTALE", "overlay"),
        ("openat2:error=ENOSYS", "overlay"),
        ("syncfs:error=EINTR:when=1+2", "overlay"),
        (&stale, "overlay"),
        (&stale, "native"),
        (&stale, "erofs"),
        (&interrupted, "overlay"),
        (&interrupted, "native"),
        (&interrupted, "erofs"),
    ] {
        if !usable.contains(&snapshotter) {
            continue;
        }
        let place = match snapshotter {
            "erofs" => disk.path(),
            _ => scratch.path(),
        };
        let [root, mounted] = ["root", "mounted"].map(|name| place.join(name));
        fs::create_dir_all(&mounted).unwrap();
        ok(cas(&root).args(["--snapshotter", snapshotter, "init"]));
        let mut import = cas(&root);
        import.args(["-q", "import", "--unpack", "--name", NAME]);
        ok(&mut failing(import.arg(&source), calls));
        let [plain, archive] = ["plain", "app.tar"].map(|name| place.join(name));
        ok(&mut failing(
            cas(&root).args(["-q", "unpack", NAME]).arg(&plain),
            calls,
        ));
        ok(&mut failing(
            cas(&root).args(["-q", "export", NAME, "-o"]).arg(&archive),
            calls,
        ));
        let found = differences(&right, &plain);
        assert!(found.is_empty(), "{calls} {snapshotter}: {found:#?}");
        ok(cas(&root).args(["-q", "mount", NAME]).arg(&mounted));
        let found = differences(&right, &mounted);
        ok(cas(&root).arg("umount").arg(&mounted));
        assert!(found.is_empty(), "{calls} {snapshotter}: {found:#?}");
        // A collection removes trees, so its calls are made to fail, too.
        ok(&mut failing(cas(&root).args(["-q", "rmi", NAME]), calls));
        ok(&mut failing(cas(&root).args(["-q", "gc"]), calls));
        ok(&mut failing(cas(&root).args(["-q", "fsck"]), calls));
        for made in [root, plain] {
            fs::remove_dir_all(made).unwrap();
        }
        fs::remove_file(archive).unwrap();
    }
}

#[test]
fn an_unpack_that_is_killed_anywhere_and_repeated_gives_the_right_tree() {
    let Some(source) = real_image("small").filter(|_| can(&[])) else {
        return;
    };
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let [root, mounted, plain] = ["root", "mounted", "plain"].map(|name| scratch.path().join(name));
    fs::create_dir_all(&mounted).unwrap();
    let import = || {
        let mut command = cas(&root);
        command
            .args(["-q", "import", "--unpack", "--name", "app"])
            .arg(&source);
        command
    };
    let begun = Instant::now();
    ok(&mut import());
    let whole = begun.elapsed();
    for part in 0..12 {
        ok(cas(&root).args(["rmi"].iter().chain(&REAL)));
        ok(cas(&root).arg("gc"));
        let mut child = import().stdout(Stdio::null()).spawn().unwrap();
        thread::sleep(whole * part / 12);
        child.kill().unwrap();
        child.wait().unwrap();
        // The next process does not wait for the dead one, or for a collection.
        ok(&mut import());
    }
    ok(cas(&root).args(["-q", "unpack", REAL[0]]).arg(&plain));
    ok(cas(&root).args(["-q", "mount", REAL[0]]).arg(&mounted));
    let found = differences(&plain, &mounted);
    ok(cas(&root).arg("umount").arg(&mounted));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_layer_with_a_recorded_diff_id_is_checked_by_its_digest() {
    let Some(source) = real_image("small").filter(|_| can(&[])) else {
        return;
    };
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let [root, tree] = ["root", "tree"].map(|name| scratch.path().join(name));
    let mut import = cas(&root);
    import.args(["-q", "import", "--unpack", "--name", "app"]);
    ok(import.arg(&source));
    ok(cas(&root).args(["-q", "unpack", REAL[0]]).arg(&tree));
    fs::remove_dir_all(&tree).unwrap();
    // Byte 4 of a gzip stream is part of the time in its header. It does not affect the
    // decompressed bytes.
    let blobs = fs::read_dir(root.join("store/blobs/sha256")).unwrap();
    let blobs = blobs.map(|blob| blob.unwrap().path());
    let largest = blobs
        .max_by_key(|blob| blob.metadata().unwrap().len())
        .unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    bytes[4] ^= 1;
    fs::write(&largest, bytes).unwrap();
    let said = fails(cas(&root).args(["unpack", REAL[0]]).arg(&tree), 4);
    assert!(said.contains("the stored blob is damaged"), "{said}");
    assert!(!tree.exists());
}

#[test]
fn two_processes_unpack_each_layer_once() {
    let Some(source) = real_image("small").filter(|_| can(&[])) else {
        return;
    };
    for snapshotter in ["overlay", "native"] {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = scratch.path().join("root");
        ok(cas(&root).args(["--snapshotter", snapshotter, "init"]));
        ok(cas(&root)
            .args(["-q", "import", "--name", "app"])
            .arg(&source));
        let snapshots = || {
            let mut command = cas(&root);
            command
                .args(["-q", "import", "--unpack", "--name", "app"])
                .arg(&source);
            command.stdout(Stdio::null()).spawn().unwrap()
        };
        let both = [snapshots(), snapshots()];
        for mut one in both {
            assert!(one.wait().unwrap().success());
        }
        // Every snapshot that was ever prepared has used the next number of its process, and each
        // process has 64 numbers of its own. So none was prepared and removed.
        let made = fs::read_dir(root.join("snapshots").join(snapshotter).join("snapshots"));
        let numbers = made.unwrap().map(|one| one.unwrap().file_name());
        let numbers = numbers.map(|name| name.to_str().unwrap().parse::<u64>().unwrap());
        let numbers: BTreeSet<u64> = numbers.collect();
        let is_next = |number: &u64| number % 64 == 1 || numbers.contains(&(number - 1));
        assert!(
            numbers.len() == 5 && numbers.iter().all(is_next),
            "{snapshotter}: {numbers:?}"
        );
    }
}

#[test]
fn a_lock_of_another_process_is_waited_for() {
    let Some(source) = real_image("small").filter(|_| can(&["flock"])) else {
        return;
    };
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = scratch.path().join("root");
    ok(cas(&root).args(["--snapshotter", "overlay", "init"]));
    ok(cas(&root)
        .args(["-q", "import", "--name", "app"])
        .arg(&source));
    let config = ok(cas(&root).args(["--json", "inspect", REAL[0]]));
    let config: Value = serde_json::from_str(&config).unwrap();
    let lowest = find(&config, "diff_ids").unwrap()[0]
        .as_str()
        .unwrap()
        .to_owned();
    let locks = root.join("snapshots/overlay/locks");
    fs::create_dir_all(&locks).unwrap();
    // Prints a line when it has the lock, and ends at the end of its input.
    let mut holder = Command::new("flock")
        .arg(locks.join(lowest))
        .args(["sh", "-c", "echo; read end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let held = holder.stdout.as_mut().unwrap().read_exact(&mut [0]);
    held.unwrap();
    let mut import = cas(&root);
    import
        .args(["import", "--unpack", "--name", "app"])
        .arg(&source);
    let import = import.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut import = import.spawn().unwrap();
    let mut said = BufReader::new(import.stderr.take().unwrap()).lines();
    let waits = "waiting until another unpack";
    assert!(said.any(|line| line.unwrap().contains(waits)));
    thread::sleep(Duration::from_millis(500));
    assert!(import.try_wait().unwrap().is_none(), "it has not waited");
    drop(holder.stdin.take());
    said.for_each(drop);
    assert!(import.wait().unwrap().success());
    holder.wait().unwrap();
}

/// Returns the value under this key, at any depth.
fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) => map
            .get(key)
            .or_else(|| map.values().find_map(|value| find(value, key))),
        Value::Array(list) => list.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}

/// Returns a layer that adds a file, replaces another, and from the 500th layer on changes what the
/// lowest layers have.
fn numbered(number: usize) -> Tar {
    let text = number.to_string();
    let layer = Tar::new()
        .file(format!("own-{number}"), &text)
        .file("last", &text)
        .dir("dir")
        .file(format!("dir/{}", number % 20), &text);
    match number.checked_sub(498) {
        None => layer,
        Some(above) if above % 5 == 4 => layer.file("dir/.wh..wh..opq", ""),
        Some(above) => layer
            .file(format!(".wh.own-{above}"), "")
            .hardlink(format!("link-{number}"), format!("own-{}", above + 20)),
    }
}

/// An overlay has at most 500 lower directories. An image with more layers has nested overlays.
#[test]
fn an_image_with_as_many_layers_as_are_allowed_is_mounted() {
    if !can(&[]) {
        return;
    }
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let [root, mounted] = ["root", "mounted"].map(|name| scratch.path().join(name));
    fs::create_dir_all(&mounted).unwrap();
    ok(cas(&root).args(["--snapshotter", "overlay", "init"]));
    for count in [499, 500, 501, 512, 513] {
        let [source, plain] =
            ["layout", "plain"].map(|name| scratch.path().join(format!("{name}-{count}")));
        layout(&source, (0..count).map(numbered).collect());
        let mut import = cas(&root);
        import.args(["-q", "import", "--unpack", "--name", NAME]);
        import.arg(&source);
        if count == 513 {
            let said = fails(&mut import, 4);
            assert!(said.contains("513 layers; at most 512"), "{said}");
            continue;
        }
        ok(&mut import);
        ok(cas(&root).args(["-q", "unpack", NAME]).arg(&plain));
        let ways: &[&[&str]] = match count {
            512 => &[&[], &["--rw"], &["--map-ids", "0:0:65536"]],
            _ => &[&["--rw"]],
        };
        for options in ways {
            let mut mount = cas(&root);
            ok(mount
                .args(["-q", "mount", NAME])
                .arg(&mounted)
                .args(*options));
            let mut found = differences(&plain, &mounted);
            found.retain(|difference| !difference.starts_with(": "));
            if *options == ["--rw"] {
                fs::remove_file(mounted.join("own-200")).unwrap();
                fs::write(mounted.join("dir/new"), "new").unwrap();
                assert!(!mounted.join("own-200").exists());
            }
            ok(cas(&root).arg("umount").arg(&mounted));
            assert!(found.is_empty(), "{count} {options:?}: {found:#?}");
        }
    }
}

/// Returns a layer that has a file, and as the lowest layer also what a container needs.
fn runnable(number: usize) -> Tar {
    let layer = Tar::new().file("last", number.to_string());
    if number > 0 {
        return layer;
    }
    let program = program_that_ends();
    let header = Header::new(b'0', "true").mode(0o755);
    ["dev", "proc", "sys", "etc"]
        .into_iter()
        .fold(layer, Tar::dir)
        .member(header.size(program.len() as u64), program)
}

/// Checks that every verb that shows files takes as many layers as are allowed, and that the import
/// refuses one more.
fn takes_as_many_layers_as_are_allowed(snapshotter: &str) {
    if !can(&["runc"]) || !mounting_snapshotters().contains(&snapshotter) {
        return;
    }
    // The kernel mounts no image of EROFS from a file in memory.
    let scratch = match snapshotter {
        "erofs" => tempfile::tempdir(),
        _ => tempfile::tempdir_in("/dev/shm"),
    };
    let scratch = scratch.unwrap();
    let path = |name: &str| scratch.path().join(name);
    let root = path("root");
    ok(cas(&root).args(["--snapshotter", snapshotter, "init"]));
    let import = |count: usize| {
        let source = path(&format!("layout-{count}"));
        layout(&source, (0..count).map(runnable).collect());
        let mut import = cas(&root);
        import.args(["-q", "import", "--unpack", "--name", NAME]);
        import.arg(source);
        import
    };
    ok(&mut import(512));
    for runtime in ["runc", "chroot"] {
        ok(cas(&root).args(["run", "--runtime", runtime, NAME, "--", "/true"]));
    }
    let last = |file: &str| assert_eq!(fs::read_to_string(path(file)).unwrap(), "511");
    fs::create_dir(path("mounted")).unwrap();
    ok(cas(&root).args(["mount", NAME]).arg(path("mounted")));
    last("mounted/last");
    ok(cas(&root).arg("umount").arg(path("mounted")));
    let prepare = ["rootfs", "prepare", "--image", NAME];
    ok(cas(&root).args(prepare).arg(path("prepared")));
    last("prepared/rootfs/last");
    ok(cas(&root).args(["rootfs", "remove"]).arg(path("prepared")));
    let bundle = ["bundle", "--mount", NAME];
    ok(cas(&root).args(bundle).arg(path("bundle")));
    last("bundle/rootfs/last");
    ok(cas(&root).arg("umount").arg(path("bundle/rootfs")));
    let said = fails(&mut import(513), 4);
    assert!(said.contains("513 layers; at most 512"), "{said}");
}

#[test]
fn every_verb_takes_as_many_layers_as_are_allowed_on_overlay() {
    takes_as_many_layers_as_are_allowed("overlay");
}

#[test]
fn every_verb_takes_as_many_layers_as_are_allowed_on_erofs() {
    takes_as_many_layers_as_are_allowed("erofs");
}

/// Copies the files of the lower layers for each layer.
#[test]
#[ignore = "half a minute; `cargo xtask long` runs it"]
fn every_verb_takes_as_many_layers_as_are_allowed_on_native() {
    takes_as_many_layers_as_are_allowed("native");
}
