//! Snapshots that are repaired while they are mounted, and mounts that are gone.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use cas::Labels;
use cas::blocking::Cas;
use cas_host::mount::{self, Rights};

use crate::common::{can, cas, mounting_snapshotters, ok, unmount};
use crate::scene::{Scene, files, has, overwrite};

#[test]
fn what_is_mounted_keeps_its_files_until_it_is_unmounted() {
    if !can(&["tar"]) {
        return;
    }
    let scene = Scene::with("fs", "overlay");
    let snapshots = scene.root.join("snapshots/overlay/snapshots");
    let (target, read) = (scene.scratch.path().join("mounted"), |file: &PathBuf| {
        fs::read(file).unwrap()
    });
    fs::create_dir(&target).unwrap();
    ok(cas(&scene.root).args(["mount", "app:1"]).arg(&target));
    let mounted: Vec<(PathBuf, Vec<u8>)> = files(&target)
        .into_iter()
        .map(|file| (file.clone(), read(&file)))
        .collect();
    let count = || fs::read_dir(&snapshots).unwrap().count();
    let before = count();
    let file = files(&snapshots)
        .into_iter()
        .find(|file| file.metadata().unwrap().len() > 0);
    overwrite(&file.unwrap(), b"");
    assert_eq!(scene.fsck(&["--repair"]).0, 0);
    assert_eq!(
        scene.fsck(&["--repair"]),
        (0, Vec::new()),
        "what is in use is not left over"
    );
    ok(cas(&scene.root).arg("gc"));
    assert_eq!(count(), before + 1, "the old directory is still there");
    let emptied = mounted.iter().filter(|(file, bytes)| read(file) != *bytes);
    assert_eq!(emptied.count(), 1, "the mount keeps the files that it had");
    ok(cas(&scene.root).arg("umount").arg(&target));
    ok(cas(&scene.root).arg("gc"));
    assert_eq!(count(), before, "the old directory is gone");
    ok(cas(&scene.root).args(["mount", "app:1"]).arg(&target));
    for (file, bytes) in &mounted {
        assert_eq!(read(file), *bytes, "{} is right again", file.display());
    }
    ok(cas(&scene.root).arg("umount").arg(&target));
}

#[test]
fn a_mount_that_is_gone_is_found_and_its_snapshot_is_removed() {
    if !can(&["umount"]) {
        return;
    }
    for snapshotter in ["native", "overlay"] {
        let scene = Scene::with("fs", snapshotter);
        let target = scene.scratch.path().join("a place");
        fs::create_dir(&target).unwrap();
        ok(cas(&scene.root)
            .args(["mount", "--rw", "app:1"])
            .arg(&target));
        assert_eq!(scene.fsck(&[]), (0, Vec::new()), "it is mounted");
        unmount(&target);
        let (code, found) = scene.fsck(&[]);
        assert!(
            has(&found, "mount-left", target.to_str().unwrap()),
            "{found:#?}"
        );
        assert_eq!(code, 4);
        assert_eq!(scene.fsck(&["--repair"]).0, 0);
        assert_eq!(scene.fsck(&[]), (0, Vec::new()));
    }
}

#[test]
fn a_mount_in_the_making_is_kept() {
    if !can(&[]) {
        return;
    }
    let scene = Scene::new("fs");
    let target = scene.scratch.path().join("a place");
    fs::create_dir(&target).unwrap();
    let key = format!("mounted {}", target.display());
    let open = Cas::open(&scene.root).unwrap();
    let top = open.snapshot("app:1").unwrap().unwrap().to_string();
    let snapshotter = open.snapshotter().unwrap();
    let view = snapshotter.view(&key, Some(&top), Labels::new());
    let mounts = cas::backend::pool::wait(view).unwrap();
    open.close().unwrap();
    // The check begins before the snapshot is mounted, and ends after that.
    let mounting = std::thread::spawn({
        let target = target.clone();
        move || {
            std::thread::sleep(Duration::from_secs(1));
            mount::attach(&mounts, &target, None, Rights::default()).unwrap();
        }
    });
    assert_eq!(scene.fsck(&["--repair"]), (0, Vec::new()));
    mounting.join().unwrap();
    ok(cas(&scene.root).arg("umount").arg(&target));
    assert_eq!(scene.fsck(&[]), (0, Vec::new()));
}

/// A view of the topmost layer, or of every layer, that a repair gives another directory.
#[test]
fn a_mounted_view_of_repaired_layers_is_not_taken_for_a_mount_that_is_gone() {
    for snapshotter in mounting_snapshotters() {
        if !can(&["mount", "umount"]) {
            return;
        }
        let scene = Scene::with("fs", snapshotter);
        let snapshots = scene.root.join("snapshots").join(snapshotter);
        let snapshots = snapshots.join("snapshots");
        let target = scene.scratch.path().join("mounted");
        fs::create_dir(&target).unwrap();
        ok(cas(&scene.root).args(["mount", "app:1"]).arg(&target));
        for entry in fs::read_dir(&snapshots).unwrap() {
            fs::write(entry.unwrap().path().join("fs/added"), "").unwrap();
        }
        assert_eq!(scene.fsck(&["--repair"]).0, 0);
        assert_eq!(scene.fsck(&["--repair"]), (0, Vec::new()), "{snapshotter}");
        let listed = ok(cas(&scene.root).args(["snapshot", "ls", "--json"]));
        assert!(listed.contains("mounted "), "{snapshotter}: {listed}");
        ok(cas(&scene.root).arg("gc"));
        assert!(!files(&target).is_empty(), "{snapshotter}");
        ok(cas(&scene.root).arg("umount").arg(&target));
        assert!(fs::read_dir(&target).unwrap().next().is_none());
        ok(cas(&scene.root).arg("gc"));
        assert_eq!(scene.fsck(&[]), (0, Vec::new()), "{snapshotter}");
    }
}

/// A repair gives a layer another directory. The image in the old one stays mounted.
#[test]
fn an_image_is_known_as_mounted_after_its_layers_were_repaired() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scene = Scene::with("fs", "erofs");
    let target = scene.scratch.path().join("mounted");
    fs::create_dir(&target).unwrap();
    ok(cas(&scene.root).args(["mount", "app:1"]).arg(&target));
    for tar in files(&scene.root.join("snapshots/erofs/snapshots")) {
        if tar.ends_with("layer.tar") {
            overwrite(&tar, b"");
        }
    }
    assert_eq!(scene.fsck(&["--repair"]).0, 0);
    assert_eq!(scene.fsck(&["--repair"]), (0, Vec::new()));
    ok(cas(&scene.root).arg("umount").arg(&target));
    assert!(fs::read_dir(&target).unwrap().next().is_none());
    ok(cas(&scene.root).args(["mount", "app:1"]).arg(&target));
    assert!(!files(&target).is_empty());
    ok(cas(&scene.root).arg("umount").arg(&target));
}
