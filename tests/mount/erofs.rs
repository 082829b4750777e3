//! Snapshots that share the mount of an EROFS image.

use std::process::Command;

use cas::ErrorKind;
use testkit::archive::Tar;

use crate::common::layout::layout;
use crate::common::{cas, fails, mounting_snapshotters, ok, small_archive};
use crate::imported;

/// The tar of a layer is cut off while snapshots on it are mounted.
#[test]
fn a_damaged_tar_prevents_neither_an_unmount_nor_a_removal() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let archive = small_archive(scratch.path());
    let (root, name) = imported(scratch.path(), "erofs", &archive);
    let [kept, target] = ["kept", "mnt"].map(|name| scratch.path().join(name));
    std::fs::create_dir(&kept).unwrap();
    let open = cas::blocking::Cas::open(&root).unwrap();
    open.create_snapshot("kept", &*name).unwrap();
    open.mount_snapshot("kept", &kept).unwrap();
    open.mount(&*name, &target).unwrap();
    let mounts = root.join("snapshots/erofs/mounts");
    let shared = || std::fs::read_dir(&mounts).unwrap().count();
    assert!(open.unmount_snapshot("kept").unwrap());
    assert_eq!(shared(), 1, "the other mount uses the image");
    open.mount_snapshot("kept", &kept).unwrap();
    let tars = ok(Command::new("find").arg(&root).args(["-name", "layer.tar"]));
    for tar in tars.lines() {
        std::fs::File::create(tar).unwrap();
    }
    open.unmount(&target).unwrap();
    assert_eq!(shared(), 1, "the other snapshot uses the image");
    let busy = open.remove_snapshot("kept").unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Busy, "{busy}");
    assert!(open.unmount_snapshot("kept").unwrap());
    assert!(std::fs::read_dir(&kept).unwrap().next().is_none());
    assert!(open.remove_snapshot("kept").unwrap());
    assert_eq!(shared(), 0);
}

#[test]
fn an_unmount_that_keeps_the_snapshot_releases_the_image() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let archive = small_archive(scratch.path());
    let (root, name) = imported(scratch.path(), "erofs", &archive);
    let [target, place] = ["mnt", "place"].map(|name| scratch.path().join(name));
    let open = cas::blocking::Cas::open(&root).unwrap();
    open.create_snapshot("kept", &*name).unwrap();
    let mounts = root.join("snapshots/erofs/mounts");
    let shared = || std::fs::read_dir(&mounts).unwrap().count();
    for _ in 0..2 {
        open.mount_snapshot("kept", &target).unwrap();
        open.prepare_root_dir(&place, &*name).unwrap();
        assert_eq!(shared(), 1);
        assert!(open.unmount_root_dir(&place).unwrap());
        assert_eq!(shared(), 1, "the snapshot uses the image");
        assert!(open.unmount_snapshot("kept").unwrap());
        assert_eq!(shared(), 0);
    }
}

/// The layers are committed by the first unpack, which finds that they cannot be merged.
#[test]
fn an_image_that_cannot_be_merged_is_damaged_each_time() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let bad = Tar::new().hardlink("link", "absent");
    layout(
        &scratch.path().join("bad"),
        vec![Tar::new().file("a", "a"), bad],
    );
    let root = scratch.path().join("root");
    ok(cas(&root).args(["--snapshotter", "erofs", "init"]));
    for _ in 0..3 {
        let mut import = cas(&root);
        import.args(["-q", "import", "--name", "bad:1", "--unpack"]);
        let said = fails(import.arg(scratch.path().join("bad")), 4);
        assert!(said.contains("absent"), "{said}");
    }
}

/// For kernels that cannot mount images from files.
#[test]
fn loop_devices_are_released_with_the_mount() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let archive = small_archive(scratch.path());
    let [root, target] = ["root", "mnt"].map(|name| scratch.path().join(name));
    std::fs::create_dir(&target).unwrap();
    let attached = || {
        let devices = std::fs::read_dir("/sys/block").unwrap();
        let files = devices.filter_map(|device| {
            let path = device.unwrap().path().join("loop/backing_file");
            std::fs::read_to_string(path).ok()
        });
        files
            .filter(|file| file.starts_with(root.to_str().unwrap()))
            .count()
    };
    let snapshotter = ["--snapshotter", "erofs://?mount=loop", "init"];
    let made = cas(&root).args(snapshotter).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    ok(cas(&root)
        .args(["-q", "import", "--unpack", "--name", "app:1"])
        .arg(&archive));
    assert_eq!(attached(), 0);
    ok(cas(&root).args(["mount", "app:1"]).arg(&target));
    assert!(attached() > 1, "the metadata and the tars");
    assert!(std::fs::read_dir(&target).unwrap().next().is_some());
    ok(cas(&root).arg("fsck"));
    ok(cas(&root).arg("umount").arg(&target));
    assert_eq!(attached(), 0);
}
