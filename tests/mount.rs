//! Images as mounted directories, beside what `cas unpack` makes of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

mod common;

use std::path::Path;
use std::process::Command;

use common::tree::differences;
use common::{can, cas, demo_archive, fails, ok, real_image};

const NAME: &str = "app:1";

/// A root with the image of `archive` under [`NAME`], and a directory to mount on.
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
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let (target, plain) = (scratch.path().join("mnt"), scratch.path().join("plain"));
    for snapshotter in ["overlay", "native"] {
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

#[test]
fn a_mount_is_read_only_unless_it_is_asked_for_and_is_kept_by_collections() {
    if !can(&[]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("mnt");
    let archive = demo_archive(scratch.path());
    for snapshotter in ["overlay", "native"] {
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
        fails(cas(&root).arg("umount").arg(&target), 3);

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
        // Somebody else may take it away first, or the machine be started anew.
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

#[test]
fn a_new_root_takes_copies_where_overlays_cannot_be_had_and_says_why() {
    if !can(&["setpriv"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let tool = env!("CARGO_BIN_EXE_cas");
    // Without the right to mount.
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
    assert!(why.contains("overlays cannot be had here"), "{why}");
}
