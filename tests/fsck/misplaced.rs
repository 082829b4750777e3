//! Something else is in the place of the directory of a snapshot, or of its tree. A mount would
//! follow a symbolic link.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::common::{append, can, cas, fails, mounting_snapshotters, ok};
use crate::scene::{Scene, has, without_leftovers};

/// What is in the place of a directory or a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Link,
    Dangling,
    /// A link to itself.
    Loop,
    Pipe,
    Socket,
}

impl Kind {
    /// All kinds but files.
    pub(crate) const NOT_FILES: [Kind; 6] = [
        Kind::Directory,
        Kind::Link,
        Kind::Dangling,
        Kind::Loop,
        Kind::Pipe,
        Kind::Socket,
    ];

    /// Makes it at `place`. A link leads to `other`.
    pub(crate) fn make(self, place: &Path, other: &Path) {
        match self {
            Kind::File => fs::write(place, "text").unwrap(),
            Kind::Link => symlink(other, place).unwrap(),
            Kind::Directory => fs::create_dir_all(place.join("theirs")).unwrap(),
            Kind::Dangling => symlink("/nowhere", place).unwrap(),
            Kind::Loop => symlink(place.file_name().unwrap(), place).unwrap(),
            Kind::Pipe => node(place, FileType::Fifo),
            Kind::Socket => node(place, FileType::Socket),
        }
    }
}

fn node(place: &Path, kind: FileType) {
    mknodat(CWD, place, kind, Mode::RUSR, 0).unwrap();
}

/// Returns the directories of the snapshots, the lowest layer first.
fn directories(snapshots: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(snapshots).unwrap();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    let number = |path: &PathBuf| -> u64 {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.parse().unwrap()
    };
    found.sort_by_key(number);
    found
}

#[test]
fn what_is_in_the_place_of_a_directory_is_found_and_replaced() {
    for snapshotter in mounting_snapshotters() {
        if snapshotter != "native" && !can(&["mount", "umount"]) {
            continue;
        }
        let scene = Scene::with("fs", snapshotter);
        let snapshots = scene.root.join("snapshots").join(snapshotter);
        let snapshots = snapshots.join("snapshots");
        let (other, target) = (
            scene.scratch.path().join("other"),
            scene.scratch.path().join("mnt"),
        );
        fs::create_dir_all(other.join("fs")).unwrap();
        fs::write(other.join("fs/kept"), "of somebody else").unwrap();
        fs::create_dir(&target).unwrap();
        for kind in [Kind::File, Kind::Link, Kind::Dangling, Kind::Pipe] {
            for is_tree in [true, false] {
                for is_top in [true, false] {
                    let found = directories(&snapshots);
                    let lost = if is_top { found.last() } else { found.first() };
                    let mut place = lost.unwrap().clone();
                    if is_tree {
                        place.push("fs");
                    }
                    fs::remove_dir_all(&place).unwrap();
                    let to = if is_tree {
                        other.join("fs")
                    } else {
                        other.clone()
                    };
                    kind.make(&place, &to);
                    let case = format!("{snapshotter} {kind:?} {is_tree} {is_top}");
                    // A copy of the topmost tree does not need the trees below it. The numbers of
                    // repaired snapshots do not tell which one is on top.
                    if snapshotter != "native" {
                        let said = fails(cas(&scene.root).args(["mount", "app:1"]).arg(&target), 4);
                        assert!(
                            said.contains("cas fsck") && said.contains("--repair"),
                            "{case}: {said}"
                        );
                    }
                    let (code, damage) = scene.fsck(&[]);
                    let damage = without_leftovers(damage);
                    assert_eq!((code, damage.len()), (4, 1), "{case}: {damage:#?}");
                    assert!(has(&damage, "snapshot-damaged", snapshotter), "{case}");
                    assert_eq!(scene.fsck(&["--repair"]).0, 0, "{case}");
                    let left = without_leftovers(scene.fsck(&[]).1);
                    assert!(left.is_empty(), "{case}: {left:#?}");
                    assert!(fs::symlink_metadata(&place).is_err(), "{case}: it is left");
                    assert_eq!(
                        fs::read_to_string(other.join("fs/kept")).unwrap(),
                        "of somebody else",
                        "{case}"
                    );
                }
            }
        }
        scene.works();
    }
}

/// An import that unpacks heals what it finds, as it does for a missing directory.
#[test]
fn an_import_replaces_it_too_and_a_collection_removes_what_no_record_names() {
    let scene = Scene::new("fs");
    let snapshots = scene.root.join("snapshots/native/snapshots");
    let other = scene.scratch.path().join("other");
    fs::create_dir(&other).unwrap();
    let top = directories(&snapshots).pop().unwrap();
    fs::remove_dir_all(&top).unwrap();
    symlink(&other, &top).unwrap();
    let archive = scene.scratch.path().join("demo.tar");
    let import = ["import", "--unpack", "--name", "app:1"];
    ok(cas(&scene.root).args(import).arg(archive));
    assert_eq!(scene.fsck(&[]), (0, Vec::new()));
    symlink(&other, snapshots.join("9998")).unwrap();
    fs::write(snapshots.join("9999"), "").unwrap();
    let (code, found) = scene.fsck(&[]);
    assert!(
        code == 4 && has(&found, "snapshot-left", "native"),
        "{found:#?}"
    );
    ok(cas(&scene.root).arg("gc"));
    assert_eq!(scene.fsck(&[]), (0, Vec::new()));
    assert!(other.exists());
}

/// A directory in the place of a blob counts as a missing blob, as any other misplaced entry does.
#[test]
fn a_directory_in_the_place_of_a_blob_is_found_and_replaced() {
    let scene = Scene::new("fs");
    let archive = scene.scratch.path().join("demo.tar");
    for digest in [
        scene.layer(),
        scene.manifest_digest,
        scene.manifest.config.digest,
    ] {
        let place = scene.root.join("store/blobs/sha256").join(digest.hex());
        for inside in ["", "theirs"] {
            let put = || {
                fs::remove_file(&place).unwrap();
                fs::create_dir_all(place.join(inside)).unwrap();
            };
            put();
            ok(cas(&scene.root)
                .args(["import", "--name", "app:1"])
                .arg(&archive));
            assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
            put();
            scene.heals("blob-missing", digest.hex());
        }
    }
}

/// The record and the metadata of an image, the digest of a packed tar, and the list of the files
/// of a snapshot.
#[test]
fn no_command_waits_at_a_pipe() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scene = Scene::with("fs", "erofs");
    let root = scene.root.join("snapshots/erofs");
    let target = scene.scratch.path().join("mnt");
    fs::create_dir(&target).unwrap();
    for (name, problems) in [
        ("image.json", 0),
        ("image.erofs", 0),
        ("layer.digest", 0),
        ("fs/layer.tar", 1),
        ("../../manifests", 0),
    ] {
        for kind in [Kind::Pipe, Kind::Link, Kind::Dangling] {
            ok(cas(&scene.root).args(["mount", "app:1"]).arg(&target));
            ok(cas(&scene.root).arg("umount").arg(&target));
            let top = directories(&root.join("snapshots")).pop().unwrap();
            let place = match name {
                "../../manifests" => root.join("manifests").join(top.file_name().unwrap()),
                _ => top.join(name),
            };
            let _ = fs::remove_file(&place);
            kind.make(&place, &scene.scratch.path().join("demo.tar"));
            let found = without_leftovers(scene.fsck(&["--read-data"]).1);
            assert_eq!(found.len(), problems, "{name} {kind:?}: {found:#?}");
            assert_eq!(
                scene.fsck(&["--read-data", "--repair"]).0,
                0,
                "{name} {kind:?}"
            );
        }
    }
    scene.works();
}

/// A repair writes the file `.replaced` of a snapshot whose directory may still be mounted.
#[test]
fn a_collection_does_not_wait_at_the_mark_of_a_replaced_directory() {
    let scene = Scene::new("fs");
    let root = scene.root.join("snapshots/native");
    let (directory, mark) = (
        root.join("snapshots/9998"),
        root.join("manifests/9998.replaced"),
    );
    for kind in [
        Kind::Link,
        Kind::Dangling,
        Kind::Loop,
        Kind::Pipe,
        Kind::Socket,
    ] {
        fs::create_dir(&directory).unwrap();
        kind.make(&mark, &scene.scratch.path().join("demo.tar"));
        // A command that waits is killed.
        let mut command = Command::new("timeout");
        append(
            command.args(["-s", "KILL", "60"]),
            cas(&scene.root).arg("gc"),
        );
        let code = command.output().unwrap().status.code();
        assert_eq!(code, Some(0), "{kind:?}");
        assert!(!directory.exists(), "{kind:?}");
        assert!(fs::symlink_metadata(&mark).is_err(), "{kind:?}");
    }
}

/// The reserves, the settings of the root, and the files of each store.
#[test]
fn no_command_waits_at_a_pipe_in_the_root() {
    let places: &[(&'static str, &[&str])] = &[
        (
            "fs",
            &[
                "cas.toml",
                "local/reserve",
                "store/.cas/reserve",
                "store/index.json",
            ],
        ),
        #[cfg(feature = "redb")]
        (
            "redb",
            &[
                "store/reserve",
                "store/owner",
                "store/cas.redb",
                "store/cas.redb.head",
            ],
        ),
        #[cfg(feature = "remote")]
        ("dir", &["store/reserve", "store/lock", "store/format"]),
    ];
    for (store, places) in places {
        let scene = Scene::new(store);
        for name in *places {
            let place = scene.root.join(name);
            let kept = fs::read(&place).unwrap();
            fs::remove_file(&place).unwrap();
            Kind::Pipe.make(&place, &place);
            for arguments in [&["images"][..], &["gc"], &["fsck"], &["fsck", "--repair"]] {
                // A command that waits is killed.
                let mut command = Command::new("timeout");
                append(
                    command.args(["-s", "KILL", "60"]),
                    cas(&scene.root).args(arguments),
                );
                let code = command.output().unwrap().status.code();
                assert!(
                    matches!(code, Some(0 | 4)),
                    "{name} {arguments:?}: {code:?}"
                );
            }
            if *name == "cas.toml" {
                fs::remove_file(&place).unwrap();
                fs::write(&place, kept).unwrap();
            }
            ok(cas(&scene.root)
                .args(["import", "--name", "app:1"])
                .arg(scene.scratch.path().join("demo.tar")));
            assert_eq!(
                scene.fsck(&["--read-data"]),
                (0, Vec::new()),
                "{store} {name}"
            );
        }
    }
}

/// The settings are not made again, so the user must do something.
#[test]
fn what_is_in_the_place_of_the_settings_is_named_and_left() {
    let scene = Scene::new("fs");
    let place = scene.root.join("cas.toml");
    let moved = scene.scratch.path().join("moved.toml");
    fs::rename(&place, &moved).unwrap();
    for kind in [
        Kind::Directory,
        Kind::Dangling,
        Kind::Loop,
        Kind::Pipe,
        Kind::Socket,
    ] {
        kind.make(&place, &moved);
        for arguments in [&["images"][..], &["init"], &["fsck"], &["fsck", "--repair"]] {
            let said = fails(cas(&scene.root).args(arguments), 4);
            assert!(said.contains("/cas.toml"), "{kind:?}: {said}");
            assert!(
                said.contains("expected a file, found a"),
                "{kind:?}: {said}"
            );
            assert!(said.contains("move it away"), "{kind:?}: {said}");
        }
        let removed = match kind {
            Kind::Directory => fs::remove_dir_all(&place),
            _ => fs::remove_file(&place),
        };
        removed.unwrap();
    }
    Kind::Link.make(&place, &moved);
    scene.works();
}

#[test]
fn a_root_that_has_lost_its_settings_keeps_its_engines() {
    for store in crate::common::ENGINES {
        let scene = Scene::new(store);
        let settings = scene.root.join("cas.toml");
        let text = fs::read_to_string(&settings).unwrap();
        fs::remove_file(&settings).unwrap();
        assert!(
            ok(cas(&scene.root).arg("images")).contains("app:1"),
            "{store}"
        );
        assert_eq!(fs::read_to_string(&settings).unwrap(), text, "{store}");
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "{store}");
    }
}

/// A check reports the loss and changes nothing.
#[test]
fn lost_settings_are_named_and_made_again() {
    for store in crate::common::ENGINES {
        let scene = Scene::new(store);
        let settings = scene.root.join("cas.toml");
        let text = fs::read_to_string(&settings).unwrap();
        fs::remove_file(&settings).unwrap();
        for arguments in [&[][..], &["--read-data"]] {
            let (code, found) = scene.fsck(arguments);
            let is_named = has(&found, "store-damaged", "/cas.toml");
            assert!(is_named && found.len() == 1, "{store}: {found:#?}");
            assert_eq!(code, 4, "{store}");
            assert!(!settings.exists(), "{store}");
        }
        let (code, repaired) = scene.fsck(&["--repair"]);
        assert_eq!((code, repaired.len()), (0, 1), "{store}: {repaired:#?}");
        let said = repaired[0]["detail"].as_str().unwrap();
        assert!(said.contains("without other settings"), "{said}");
        assert_eq!(fs::read_to_string(&settings).unwrap(), text, "{store}");
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "{store}");
        scene.works();
    }
}

#[test]
fn a_directory_of_another_program_is_not_taken_for_a_root_without_settings() {
    let scratch = tempfile::tempdir().unwrap();
    fs::create_dir(scratch.path().join("store")).unwrap();
    fs::write(scratch.path().join("store/file"), "theirs").unwrap();
    fs::write(scratch.path().join("other"), "theirs").unwrap();
    for arguments in [&["fsck"][..], &["fsck", "--repair"]] {
        let said = fails(cas(scratch.path()).args(arguments), 3);
        assert!(said.contains("not a root"), "{said}");
    }
    assert!(!scratch.path().join("cas.toml").exists());
}

/// The rest of the store is lost, so it could be an `fs` store or a store in a directory.
#[test]
fn the_engine_of_a_store_is_looked_for_without_a_change() {
    let scene = Scene::new("fs");
    let store = scene.root.join("store");
    fs::remove_file(scene.root.join("cas.toml")).unwrap();
    fs::remove_dir_all(store.join(".cas")).unwrap();
    for lost in ["oci-layout", "index.json"] {
        fs::remove_file(store.join(lost)).unwrap();
    }
    let out = cas(&scene.root).arg("images").output().unwrap();
    assert!(!out.status.success());
    let left = fs::read_dir(&store).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["blobs"]);
}
