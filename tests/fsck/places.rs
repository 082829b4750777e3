//! Something else in the place of a file or a directory that `cas` makes itself, in an `fs` store
//! and in its root.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::common::{cas, ok, text};
use crate::misplaced::Kind;
use crate::scene::{Scene, has};

/// What is in a place of the store besides the files that other tests damage.
const IN_STORE: &[&str] = &[
    "blobs",
    "blobs/sha256",
    "blobs/sha512",
    "index.json",
    "oci-layout",
    ".cas",
    ".cas/boot",
    ".cas/boot.new",
    ".cas/format.json",
    ".cas/format.new",
    ".cas/index.lock",
    ".cas/index.new",
    ".cas/ingest",
    ".cas/lock",
    ".cas/mark.new",
    ".cas/records.db",
    ".cas/records.db-shm",
    ".cas/records.db-wal",
    ".cas/records.db.lock",
    ".cas/remove.lock",
    ".cas/reserve",
    ".cas/unsynced",
];

/// What is in a place of the root.
const IN_ROOT: &[&str] = &[
    ".lock",
    "local",
    "local/made.json",
    "local/records.db",
    "local/records.db-shm",
    "local/records.db-wal",
    "local/records.db.lock",
    "local/reserve",
    "run",
    "snapshots",
    "snapshots/native",
    "snapshots/native/jobs",
    "snapshots/native/locks",
    "snapshots/native/manifests",
    "snapshots/native/snapshots",
];

/// Names of directories. All other names are those of files.
const DIRECTORIES: &[&str] = &[
    "blobs",
    "sha256",
    "sha512",
    ".cas",
    "ingest",
    "unsynced",
    "local",
    "run",
    "snapshots",
    "native",
    "jobs",
    "locks",
    "manifests",
];

/// Puts something else in the place: a directory or a file with something in it, or a symbolic link.
fn misplace(place: &Path, is_link: bool) {
    match fs::symlink_metadata(place) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(place).unwrap(),
        Ok(_) => fs::remove_file(place).unwrap(),
        Err(_) => {}
    }
    let name = place.file_name().unwrap().to_str().unwrap();
    if is_link {
        symlink("/nowhere/at/all", place).unwrap();
    } else if DIRECTORIES.contains(&name) {
        fs::write(place, "theirs").unwrap();
    } else {
        fs::create_dir_all(place.join("theirs")).unwrap();
    }
}

/// Returns whether [`misplace`] has put something here that is still there.
fn is_misplaced(place: &Path) -> bool {
    let name = place.file_name().unwrap().to_str().unwrap();
    fs::symlink_metadata(place).is_ok_and(|found| match DIRECTORIES.contains(&name) {
        true => !found.is_dir(),
        false => !found.is_file(),
    })
}

/// Runs commands, each of which works, or fails with exit code 4, the name of the place and the next
/// step. Returns how many of them failed.
fn failed(scene: &Scene, place: &Path) -> usize {
    let archive = scene.scratch.path().join("demo.tar");
    let import = ["import", "--name", "new:1", archive.to_str().unwrap()];
    let mut failed = 0;
    for arguments in [
        &["images"][..],
        &["tag", "app:1", "new:2"],
        &import,
        &["gc"],
    ] {
        let out = cas(&scene.root).args(arguments).output().unwrap();
        let (said, name) = (text(&out.stderr), place.file_name().unwrap());
        if !out.status.success() {
            assert_eq!(out.status.code(), Some(4), "{arguments:?}: {said}");
            assert!(said.contains("fsck --repair"), "{arguments:?}: {said}");
            assert!(
                said.contains(name.to_str().unwrap()),
                "{arguments:?}: {said}"
            );
            failed += 1;
        }
    }
    failed
}

/// Misplaces each of `places` below `within`, and checks that this is found and healed.
fn each_heals(scene: &Scene, within: &Path, places: &[&str]) {
    let mut all_failed = 0;
    for (number, name) in places.iter().enumerate() {
        let place = within.join(name);
        let is_link = number % 2 == 0;
        for is_link in [is_link, !is_link] {
            misplace(&place, is_link);
            all_failed += failed(scene, &place);
            if !is_misplaced(&place) {
                // A command has removed it.
                continue;
            }
            let (code, found) = scene.fsck(&[]);
            // The log is a part of the database.
            let subject = name.trim_end_matches("-wal");
            let is_named = has(&found, "store-damaged", subject);
            assert!(code == 4 && is_named, "{name} {is_link}: {code} {found:#?}");
            let (code, repaired) = scene.repair_from_source();
            assert_eq!(code, 0, "{name}: {repaired:#?}");
            assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "{name}");
            assert_eq!(failed(scene, &place), 0, "{name}");
        }
    }
    assert!(
        all_failed > places.len(),
        "{all_failed} commands have failed"
    );
    scene.works();
}

#[test]
fn what_is_in_a_place_of_the_store_is_named_and_set_aside() {
    let scene = Scene::new("fs");
    each_heals(&scene, &scene.root.join("store"), IN_STORE);
    // What was set aside is kept.
    let aside = scene.root.join("store/.cas/index.lock.damaged-1");
    assert!(fs::symlink_metadata(aside).is_ok());
}

#[test]
fn what_is_in_a_place_of_the_root_is_named_and_set_aside() {
    let scene = Scene::new("fs");
    each_heals(&scene, &scene.root, IN_ROOT);
}

#[test]
fn a_socket_in_the_place_of_a_document_of_the_store_is_named_and_replaced() {
    let scene = Scene::new("fs");
    for name in ["oci-layout", "index.json", ".cas/format.json"] {
        let place = scene.root.join("store").join(name);
        fs::remove_file(&place).unwrap();
        Kind::Socket.make(&place, &place);
        assert!(failed(&scene, &place) > 0, "{name}");
        scene.heals("store-damaged", name);
        assert_eq!(failed(&scene, &place), 0, "{name}");
    }
}

/// Directories of blobs that are gone are not made again unasked, because all blobs are lost.
#[test]
fn a_lost_directory_of_blobs_is_made_again_and_filled() {
    let scene = Scene::new("fs");
    let blobs = scene.root.join("store/blobs");
    fs::remove_dir_all(&blobs).unwrap();
    assert_eq!(failed(&scene, &blobs), 4);
    assert!(!blobs.exists());
    scene.heals("store-damaged", "blobs");
    // Without a source, the loss is reported until the blobs are back.
    fs::remove_dir_all(&blobs).unwrap();
    for _ in 0..2 {
        let (code, found) = scene.fsck(&["--repair"]);
        assert_eq!(code, 4, "{found:#?}");
        assert!(has(&found, "blob-missing", ""), "{found:#?}");
    }
    ok(cas(&scene.root).arg("gc"));
    let archive = scene.scratch.path().join("demo.tar");
    ok(cas(&scene.root)
        .args(["import", "--name", "app:1"])
        .arg(archive));
    assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
    scene.works();
}

/// A root that a user spread over several disks works, and is not damaged.
#[test]
fn moved_directories_behind_symbolic_links_are_sound() {
    let scene = Scene::new("fs");
    for (number, name) in ["local", "snapshots/native", "snapshots"]
        .iter()
        .enumerate()
    {
        let (place, moved) = (
            scene.root.join(name),
            scene.scratch.path().join(format!("disk-{number}")),
        );
        fs::rename(&place, &moved).unwrap();
        symlink(&moved, &place).unwrap();
    }
    assert_eq!(scene.fsck(&["--repair"]), (0, Vec::new()));
    scene.works();
}
