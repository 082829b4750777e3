//! Mounted images, compared with the trees that `cas unpack` writes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

#[path = "../common/mod.rs"]
mod common;
mod erofs;
#[cfg(feature = "on-demand")]
mod lazy;
mod native;
mod only_tars;
mod shared_tars;

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use cas::{Digest, ErrorKind};
use common::disk::Disk;
use common::layout::{layout, layout_of};
use common::tree::differences;
use common::{
    append, can, cas, failing, fails, mounting_snapshotters, ok, real_image, small_archive,
};
use testkit::archive::Tar;

const NAME: &str = "app";

/// Makes a root with the image of `archive` under [`NAME`], and the directory `mnt` to mount on.
/// Returns the root, and the name that the import printed.
fn imported(scratch: &Path, snapshotter: &str, archive: &Path) -> (std::path::PathBuf, String) {
    let root = scratch.join(snapshotter);
    ok(cas(&root).args(["--snapshotter", snapshotter, "init"]));
    let names = ok(cas(&root)
        .args(["-q", "import", "--name", NAME])
        .arg(archive));
    std::fs::create_dir_all(scratch.join("mnt")).unwrap();
    (root, names.lines().next().unwrap().to_owned())
}

#[test]
fn a_mounted_image_is_the_plain_tree_and_its_programs_run() {
    let Some(layout) = real_image("small").filter(|_| can(&["chroot"])) else {
        return;
    };
    // The metadata of an EROFS image cannot be in memory.
    let scratch = tempfile::tempdir().unwrap();
    let (target, plain) = (scratch.path().join("mnt"), scratch.path().join("plain"));
    for snapshotter in mounting_snapshotters() {
        let (root, name) = imported(scratch.path(), snapshotter, &layout);
        if !plain.exists() {
            ok(cas(&root).args(["-q", "unpack", &name]).arg(&plain));
        }
        ok(cas(&root).args(["-q", "mount", &name]).arg(&target));
        let found = differences(&plain, &target);
        let version = Command::new("chroot")
            .arg(&target)
            .args(["/bin/busybox", "echo", "runs"])
            .output();
        ok(cas(&root).arg("umount").arg(&target));
        assert!(found.is_empty(), "{snapshotter}: {found:#?}");
        assert_eq!(version.unwrap().stdout, b"runs\n", "{snapshotter}");
    }
}

/// The mount table then shows the files of a snapshot under another path than the root has.
#[test]
fn a_mount_of_a_root_below_a_bind_mount_is_checked_and_unmounted() {
    if !can(&["mount"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (real, target) = (scratch.path().join("real"), scratch.path().join("here/mnt"));
    std::fs::create_dir(&real).unwrap();
    let here = Disk::bound(&real, scratch.path().join("here"));
    let archive = small_archive(scratch.path());
    for snapshotter in mounting_snapshotters() {
        let (root, name) = imported(&here.0, snapshotter, &archive);
        ok(cas(&root).args(["-q", "mount", &name]).arg(&target));
        ok(cas(&root).arg("fsck"));
        ok(cas(&root).arg("umount").arg(&target));
        assert_eq!(
            std::fs::read_dir(&target).unwrap().count(),
            0,
            "{snapshotter}"
        );
    }
}

/// The snapshot is mounted only in the namespace of `cas unshare`. An unmount outside this
/// namespace is refused, and a collection keeps the snapshot.
#[test]
fn an_unmount_in_another_namespace_leaves_what_was_written() {
    if !can(&[]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("mnt");
    let archive = small_archive(scratch.path());
    for snapshotter in ["overlay", "native"] {
        let (root, name) = imported(scratch.path(), snapshotter, &archive);
        let script = "\"$CAS\" -q mount --rw \"$NAME\" . > /dev/null && cd . && \
                      echo precious > precious && \
                      echo ready && read go && cat precious && cd / && \"$CAS\" -q umount \"$OLDPWD\" \
                      > /dev/null";
        let mut inside = cas(&root)
            .args(["unshare", "--", "sh", "-c", script])
            .current_dir(&target)
            .env("CAS", env!("CARGO_BIN_EXE_cas"))
            .env("NAME", &name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(inside.stdout.take().unwrap()).lines();
        assert_eq!(said.next().unwrap().unwrap(), "ready");
        let refused = fails(cas(&root).arg("umount").arg(&target), 5);
        assert!(refused.contains("another mount namespace"), "{refused}");
        ok(cas(&root).arg("gc"));
        writeln!(inside.stdin.take().unwrap(), "go").unwrap();
        assert_eq!(said.next().unwrap().unwrap(), "precious", "{snapshotter}");
        assert!(inside.wait().unwrap().success());
        assert_eq!(
            ok(cas(&root).args(["snapshot", "ls", "-q"]))
                .matches("mounted")
                .count(),
            0
        );
    }
}

/// The path of a mount is in the key of its snapshot, of which users need not know.
#[test]
fn a_directory_whose_path_cannot_be_in_a_key_is_refused() {
    if !can(&[]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let archive = small_archive(scratch.path());
    let (root, name) = imported(scratch.path(), "native", &archive);
    let long = vec!["d".repeat(200); 6].join("/");
    for (path, expected) in [
        ("red\u{1b}[31m", "the path contains a control character"),
        (&*long, "the path has "),
    ] {
        let target = scratch.path().join(path);
        std::fs::create_dir_all(&target).unwrap();
        let said = fails(cas(&root).args(["mount", &name]).arg(&target), 2);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_mount_is_read_only_unless_it_is_asked_for_and_is_kept_by_collections() {
    if !can(&[]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("mnt");
    let archive = small_archive(scratch.path());
    for snapshotter in mounting_snapshotters() {
        let (root, name) = imported(scratch.path(), snapshotter, &archive);
        ok(cas(&root).args(["mount", &name]).arg(&target));
        let refused = std::fs::write(target.join("new"), "").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        let taken = fails(cas(&root).args(["mount", &name]).arg(&target), 5);
        assert!(taken.contains("umount"), "{taken}");
        ok(cas(&root).args(["rmi", &name]));
        ok(cas(&root).arg("gc"));
        assert!(std::fs::read_dir(&target).unwrap().next().is_some());

        let inside = std::fs::File::open(&target).unwrap();
        let busy = fails(cas(&root).arg("umount").arg(&target), 5);
        assert!(busy.contains("in use"), "{busy}");
        drop(inside);
        ok(cas(&root).arg("umount").arg(&target));
        let gone = fails(cas(&root).arg("umount").arg(&target), 3);
        assert!(gone.contains("give DIR/rootfs"), "{gone}");

        let names = ok(cas(&root)
            .args(["-q", "import", "--name", NAME])
            .arg(&archive));
        let name = names.lines().next().unwrap();
        for _ in 0..2 {
            ok(cas(&root).args(["mount", "--rw", name]).arg(&target));
            assert!(!target.join("new").exists(), "what was written is gone");
            std::fs::write(target.join("new"), "").unwrap();
            ok(cas(&root).arg("umount").arg(&target));
        }
        // Another program may unmount the image first, or the machine may be restarted.
        ok(cas(&root).args(["mount", name]).arg(&target));
        ok(Command::new("umount").arg(&target));
        ok(cas(&root).arg("umount").arg(&target));
        fails(
            cas(&root)
                .args(["mount", name])
                .arg(scratch.path().join("absent")),
            3,
        );
    }
}

/// By default, device nodes of an image cannot be opened and its set-user-id programs do not change
/// the user.
#[test]
fn a_mount_has_no_devices_and_no_set_user_ids_unless_they_are_asked_for() {
    if !can(&[]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("mnt");
    let archive = small_archive(scratch.path());
    let cases: [(&[&str], bool, bool); 6] = [
        (&[], true, true),
        (&["--rw"], true, true),
        (&["--suid"], false, true),
        (&["--dev"], true, false),
        (&["--suid", "--dev"], false, false),
        (&["--rw", "--suid", "--dev"], false, false),
    ];
    for snapshotter in mounting_snapshotters() {
        let (root, name) = imported(scratch.path(), snapshotter, &archive);
        for (flags, nosuid, nodev) in cases {
            ok(cas(&root).arg("mount").args(flags).arg(&name).arg(&target));
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            let here = format!(" {} ", target.display());
            let line = mounts.lines().find(|line| line.contains(&here)).unwrap();
            // The sixth field has the options of the mount, not those of the file system.
            let options: Vec<&str> = line.split(' ').nth(5).unwrap().split(',').collect();
            ok(cas(&root).arg("umount").arg(&target));
            let case = format!("{snapshotter} {flags:?}: {line}");
            assert_eq!(options.contains(&"nosuid"), nosuid, "{case}");
            assert_eq!(options.contains(&"nodev"), nodev, "{case}");
            assert_eq!(options.contains(&"ro"), !flags.contains(&"--rw"), "{case}");
        }
    }
}

/// The owners of the image's files are mapped to other ids. Files that these other ids write belong
/// to the image's ids on disk.
#[test]
fn ids_are_mapped_both_ways() {
    if !can(&["setpriv"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("mnt");
    std::fs::set_permissions(scratch.path(), Permissions::from_mode(0o755)).unwrap();
    let archive = small_archive(scratch.path());
    for snapshotter in mounting_snapshotters() {
        let (root, name) = imported(scratch.path(), snapshotter, &archive);
        let mount = |options: &[&str]| {
            let mut mount = cas(&root);
            mount.args(["mount", &name]).arg(&target).args(options);
            mount
        };
        for bad in ["0:1", "0:1:0", "x:0:1", "1:4294967290:10"] {
            fails(&mut mount(&["--map-ids", bad]), 2);
        }
        let said = fails(
            &mut mount(&["--map-ids", "0:1:9", "--map-ids", "5:20:9"]),
            2,
        );
        assert!(said.contains("0:1:9 and 5:20:9 share an id"), "{said}");
        let mapped = [
            "--map-ids",
            "0:100000:1000",
            "--map-ids",
            "1000:200000:64536",
        ];
        for writable in [false, true] {
            let rw: &[&str] = if writable { &["--rw"] } else { &[] };
            ok(&mut mount(&[&mapped, rw].concat()));
            let seen = std::fs::metadata(target.join("app/run")).unwrap();
            assert_eq!(
                (seen.uid(), seen.gid()),
                (100_000, 100_000),
                "{snapshotter}"
            );
            if writable {
                let script = "echo new > new; echo more >> app/run; mkdir dir; mv new dir/new";
                ok(Command::new("setpriv")
                    .args(["--reuid", "100000", "--regid", "100000", "--clear-groups"])
                    .args(["sh", "-ec", script])
                    .current_dir(&target));
                let on_disk = root.join("snapshots").join(snapshotter).join("snapshots");
                let stored = ok(Command::new("find").arg(on_disk).args([
                    "-path",
                    "*/fs/dir/new",
                    "-printf",
                    "%U:%G",
                ]));
                assert_eq!(stored, "0:0", "{snapshotter}");
            }
            ok(cas(&root).arg("umount").arg(&target));
        }
    }
}

#[test]
fn a_new_root_falls_back_to_copies_and_says_why() {
    if !can(&["setpriv"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let tool = env!("CARGO_BIN_EXE_cas");
    // The tool runs without the permission to mount.
    let output = Command::new("setpriv")
        .args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"])
        .args([tool, "--root"])
        .arg(&root)
        .arg("init")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("snapshotter native"), "{said}");
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(why.contains("overlayfs is not usable here"), "{why}");
}

#[test]
fn printed_mounts_are_arguments_of_mount_whatever_the_root_is_called() {
    if !can(&["mount", "sh"]) {
        return;
    }
    for name in ["plain", "a b", "it's", "a:b", "a,b", "a\\b"] {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = scratch.path().join(name);
        ok(cas(&root).args(["--snapshotter", "overlay", "init"]));
        let run = |arguments: &[&str]| ok(cas(&root).arg("snapshot").args(arguments));
        let source = run(&["prepare", "base", "--json"]);
        let source: serde_json::Value = serde_json::from_str(&source).unwrap();
        let file = Path::new(source["source"].as_str().unwrap()).join("file");
        std::fs::write(file, "text").unwrap();
        run(&["commit", "lower", "base"]);
        let printed = run(&["prepare", "work", "--parent", "lower"]);
        let target = scratch.path().join("target");
        std::fs::create_dir(&target).unwrap();
        let script = format!("mount {} \"$0\"", printed.trim());
        ok(Command::new("sh").args(["-c", &script]).arg(&target));
        let read = std::fs::read_to_string(target.join("file"));
        ok(Command::new("umount").arg(&target));
        assert_eq!(read.unwrap(), "text", "{name}: {printed}");
    }
}

/// An image states the diff IDs of another image, whose snapshots exist, but has other layers.
/// Every command reports it as damaged, and so does an import that unpacks it.
#[test]
fn an_image_with_the_diff_ids_of_another_image_is_damaged_for_all() {
    if !can(&[]) {
        return;
    }
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let at = |name: &str| scratch.path().join(name);
    let tar = |name: &str| Tar::new().file(name, name).end();
    let [one, two, other] = ["one", "two", "other"].map(tar);
    let diff_ids = [&one, &two].map(|tar| Digest::sha256(tar));
    layout(
        &at("good"),
        ["one", "two"]
            .map(|name| Tar::new().file(name, name))
            .into(),
    );
    let longer = [two.clone(), vec![0; 512]].concat();
    let cut = two[..two.len() - 512].to_vec();
    let cases = [
        ("top", [&one, &other]),
        ("base", [&other, &two]),
        ("swapped", [&two, &one]),
        ("twice", [&one, &one]),
        ("longer", [&one, &longer]),
        ("cut", [&one, &cut]),
    ];
    for (name, layers) in &cases {
        layout_of(&at(name), &layers.map(Clone::clone), &diff_ids);
    }
    for (snapshotter, cases) in [("overlay", &cases[..]), ("native", &cases[..1])] {
        let (root, good) = imported(scratch.path(), snapshotter, &at("good"));
        let (mnt, out) = (at("mnt"), at("out"));
        ok(cas(&root).args(["mount", &good]).arg(&mnt));
        ok(cas(&root).arg("umount").arg(&mnt));
        for (name, _) in cases {
            let image = format!("{name}:1");
            let import = ["-q", "import", "--name", &image];
            fails(cas(&root).args(import).arg("--unpack").arg(at(name)), 4);
            ok(cas(&root).args(import).arg(at(name)));
            for arguments in [
                &["mount", &image, mnt.to_str().unwrap()][..],
                &["mount", "--rw", &image, mnt.to_str().unwrap()],
                &["bundle", "--mount", &image, out.to_str().unwrap()],
                &["bundle", &image, out.to_str().unwrap()],
                &["unpack", &image, out.to_str().unwrap()],
                &["run", &image, "--", "/one"],
            ] {
                let said = fails(cas(&root).args(arguments), 4);
                assert!(said.contains("sha256:"), "{arguments:?}: {said}");
            }
            assert!(!out.exists() && mnt.read_dir().unwrap().next().is_none());
        }
    }
}

/// Mounts an empty file system that does not belong to `cas`.
fn mount_other(target: &Path) {
    ok(Command::new("mount")
        .args(["-t", "tmpfs", "other"])
        .arg(target));
}

/// A user has unmounted the image, and has mounted something else at the same place.
#[test]
fn an_unmount_leaves_what_others_have_mounted_there() {
    if !can(&["mount", "umount"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("mnt");
    let archive = small_archive(scratch.path());
    for snapshotter in ["overlay", "native"] {
        let (root, name) = imported(scratch.path(), snapshotter, &archive);
        let mount = || ok(cas(&root).args(["-q", "mount", &name]).arg(&target));
        let snapshots = || ok(cas(&root).args(["snapshot", "ls", "-q"]));
        mount();
        mount_other(&target);
        let refused = fails(cas(&root).arg("umount").arg(&target), 5);
        assert!(
            refused.contains("unmount that other mount first"),
            "{refused}"
        );
        ok(Command::new("umount").arg(&target));
        assert!(std::fs::read_dir(&target).unwrap().next().is_some());
        ok(Command::new("umount").arg(&target));
        mount_other(&target);
        std::fs::write(target.join("precious"), "").unwrap();
        let checked = cas(&root).arg("fsck").output().unwrap();
        let said = String::from_utf8_lossy(&checked.stdout);
        assert!(said.contains("mount left"), "{said}");
        assert_eq!(checked.status.code(), Some(4));
        ok(cas(&root).arg("umount").arg(&target));
        assert!(target.join("precious").exists(), "{snapshotter}");
        assert!(!snapshots().contains("mounted"), "{snapshotter}");
        ok(Command::new("umount").arg(&target));
    }
}

/// A snapshot can be mounted over another one. Each is unmounted only from the top.
#[test]
fn two_snapshots_at_one_place_are_told_apart() {
    if !can(&[]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("mnt");
    let archive = small_archive(scratch.path());
    for snapshotter in ["overlay", "native"] {
        let (root, name) = imported(scratch.path(), snapshotter, &archive);
        let cas = cas::blocking::Cas::open(&root).unwrap();
        for key in ["lower", "upper"] {
            cas.create_snapshot(key, &*name).unwrap();
            cas.mount_snapshot(key, &target).unwrap();
            std::fs::write(target.join(key), "").unwrap();
        }
        let taken = cas.mount_snapshot("upper", &target).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AlreadyExists, "{taken}");
        let covered = cas.unmount_snapshot("lower").unwrap_err();
        assert_eq!(covered.kind(), ErrorKind::Busy, "{covered}");
        assert!(target.join("upper").exists(), "{snapshotter}");
        assert!(cas.unmount_snapshot("upper").unwrap());
        assert!(target.join("lower").exists(), "{snapshotter}");
        assert!(cas.unmount_snapshot("lower").unwrap());
        assert!(std::fs::read_dir(&target).unwrap().next().is_none());
    }
}

/// The tool must not take a signal or another machine's change for a failure of the kernel.
#[test]
fn mounts_are_made_and_ended_although_their_calls_are_interrupted() {
    const CALLS: &str = "fsopen,fsconfig,fsmount,open_tree,move_mount,mount_setattr,umount2";
    if !can(&["strace"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let archive = small_archive(scratch.path());
    let target = scratch.path().join("mnt");
    for snapshotter in mounting_snapshotters() {
        let (root, name) = imported(scratch.path(), snapshotter, &archive);
        for error in ["EINTR", "ESTALE"] {
            let faults = format!("{CALLS}:error={error}:when=1+2");
            for how in [&["--rw"][..], &["--suid", "--dev"], &[]] {
                let mut mount = cas(&root);
                mount.args(["-q", "mount"]).args(how).arg(&name);
                ok(&mut failing(mount.arg(&target), &faults));
                assert!(target.read_dir().unwrap().next().is_some());
                ok(&mut failing(cas(&root).arg("umount").arg(&target), &faults));
                assert!(target.read_dir().unwrap().next().is_none());
            }
            let bundle = scratch.path().join("bundle");
            let mut make = cas(&root);
            make.args(["-q", "bundle", "--mount", &name]);
            ok(&mut failing(make.arg(&bundle), &faults));
            let rootfs = bundle.join("rootfs");
            ok(&mut failing(cas(&root).arg("umount").arg(rootfs), &faults));
            std::fs::remove_dir_all(&bundle).unwrap();
        }
    }
}

/// Runs `command` under strace, which makes the first call on `path` in each thread fail. Checks
/// that a call has failed. `run` checks how the command ends. Returns what `run` returns.
fn with_a_failure(
    command: &Command,
    path: &Path,
    fault: &str,
    run: impl FnOnce(&mut Command) -> String,
) -> String {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o"]).arg(log.path());
    strace.arg("-P").arg(path);
    strace.args(["-e", &format!("inject={fault}:when=1")]);
    append(&mut strace, command);
    let said = run(&mut strace);
    let calls = std::fs::read_to_string(log.path()).unwrap();
    assert!(calls.contains("(INJECTED)"), "{fault}: {calls}");
    said
}

/// A call of the standard library or of SQLite that fails once must not look like an absent
/// directory or a failed device.
#[test]
fn calls_of_libraries_that_fail_once_are_repeated() {
    if !can(&["strace"]) || !mounting_snapshotters().contains(&"native") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let archive = small_archive(scratch.path());
    let target = scratch.path().join("mnt");
    let (root, name) = imported(scratch.path(), "native", &archive);
    for fault in ["statx:error=EINTR", "statx:error=ESTALE"] {
        let mut mount = cas(&root);
        mount.args(["-q", "mount", &name]).arg(&target);
        with_a_failure(&mount, &target, fault, ok);
        with_a_failure(cas(&root).arg("umount").arg(&target), &target, fault, ok);
    }
    let records = root.join("store/.cas/records.db");
    for fault in ["newfstatat:error=EINTR", "newfstatat:error=ESTALE"] {
        let names = with_a_failure(cas(&root).arg("images"), &records, fault, ok);
        assert!(names.contains(NAME), "{fault}: {names}");
    }
    let log = root.join("store/.cas/records.db-wal");
    let mut tag = cas(&root);
    tag.args(["-q", "tag", &name, "other:1"]);
    with_a_failure(&tag, &log, "fsync:error=EINTR", ok);
    ok(cas(&root).args(["inspect", "other:1"]));
    // After such a failure of a sync, data may be lost.
    let mut tag = cas(&root);
    tag.args(["-q", "tag", &name, "third:1"]);
    let ends_with_7 = |command: &mut Command| fails(command, 7);
    with_a_failure(&tag, &log, "fsync:error=ESTALE", ends_with_7);
    for fault in ["EINTR", "ESTALE"] {
        let fault = format!("faccessat2:error={fault}");
        with_a_failure(cas(&root).arg("images"), &root, &fault, ok);
    }
    let null = Path::new("/dev/null");
    let mut images = cas(&root);
    images.arg("images");
    with_a_failure(&images, null, "openat:error=ESTALE", ok);
    let said = with_a_failure(&images, null, "openat:error=EIO", ends_with_7);
    assert!(said.contains("open /dev/null"), "{said}");
}
