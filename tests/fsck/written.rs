//! Files that a caller has written to a snapshot stay, whichever records of snapshots are damaged.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cas::backend::pool;
use cas::blocking::Cas;
use cas::records::{Batch, Expect, Records, Table};
use cas::snapshot::{Mount, SnapshotKind};
use cas_records_sqlite::SqliteRecords;

use crate::common::{cas, mounting_snapshotters, ok};
use crate::scene::{Scene, has};

/// Makes the snapshot `mine` and writes a file to it. Returns the path of the file.
fn write_file(scene: &Scene) -> PathBuf {
    let open = Cas::open(&scene.root).unwrap();
    open.create_snapshot("mine", "app:1").unwrap();
    let file = tree(&open).join("written");
    fs::write(&file, "only here").unwrap();
    file
}

/// Returns the directory that the mounts of the snapshot `mine` write to.
fn tree(open: &Cas) -> PathBuf {
    let mounts = pool::wait(open.snapshotter().unwrap().mounts("mine")).unwrap();
    let written = match mounts.last().unwrap() {
        Mount::Bind { source, .. } => Some(source.clone()),
        Mount::Overlay { upper, .. } => upper.clone(),
        _ => None,
    };
    written.unwrap()
}

/// Returns the keys of the snapshots of layers, lowest first.
pub(crate) fn layers(scene: &Scene) -> Vec<String> {
    let open = Cas::open(&scene.root).unwrap();
    let mut layers = open.snapshots().unwrap();
    layers.retain(|info| info.kind == SnapshotKind::Committed);
    let mut chain: Vec<String> = Vec::new();
    while let Some(next) = layers
        .iter()
        .find(|info| info.parent.as_ref() == chain.last())
    {
        chain.push(next.key.clone());
    }
    chain
}

/// Replaces or deletes the record of a snapshot.
fn damage(root: &Path, snapshotter: &str, key: &str, value: Option<&'static [u8]>) {
    let records = SqliteRecords::open(&root.join("local/records.db")).unwrap();
    let (mut batch, row) = (Batch::new(), format!("{snapshotter}/{key}"));
    match value {
        Some(value) => batch.put(
            Table::Snapshots,
            row,
            Expect::Any,
            Bytes::from_static(value),
        ),
        None => batch.delete(Table::Snapshots, row, Expect::Any),
    }
    pool::wait(records.commit(&batch)).unwrap();
}

pub(crate) fn lose_local_records(root: &Path) {
    for name in ["records.db", "records.db-wal", "records.db-shm"] {
        let removed = fs::remove_file(root.join("local").join(name));
        assert!(removed.is_ok() || name != "records.db", "{removed:?}");
    }
}

#[test]
fn a_layer_whose_record_is_damaged_is_made_again_below_a_written_snapshot() {
    for snapshotter in mounting_snapshotters() {
        for (top, value) in [(true, None), (true, Some(&b"{"[..])), (false, None)] {
            let scene = Scene::with("fs", snapshotter);
            let file = write_file(&scene);
            let chain = layers(&scene);
            let lost = if top { chain.last() } else { chain.first() };
            damage(&scene.root, snapshotter, lost.unwrap(), value);
            // The check goes on after the damaged record.
            let (code, found) = scene.fsck(&[]);
            assert_eq!(code, 4, "{found:#?}");
            assert!(has(&found, "record-damaged", "mine"), "{found:#?}");
            let (code, found) = scene.fsck(&["--repair"]);
            assert_eq!(code, 0, "{snapshotter}: {found:#?}");
            assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
            ok(cas(&scene.root).arg("gc"));
            assert_eq!(fs::read_to_string(&file).unwrap(), "only here");
            let open = Cas::open(&scene.root).unwrap();
            assert_eq!(tree(&open).join("written"), file);
            assert_eq!(layers(&scene), chain);
            // The parent counts its child.
            let parent = chain.last().unwrap();
            assert!(open.remove_snapshot(parent).is_err());
            assert!(open.remove_snapshot("mine").unwrap());
            assert!(!file.exists());
        }
    }
}

/// Without the image, the layer cannot be made again.
#[test]
fn a_written_snapshot_without_a_parent_stays_until_it_is_removed() {
    let scene = Scene::with("fs", "native");
    let file = write_file(&scene);
    let top = layers(&scene).pop().unwrap();
    ok(cas(&scene.root).args(["rmi", "app:1"]));
    damage(&scene.root, "native", &top, None);
    for _ in 0..2 {
        let (code, found) = scene.fsck(&["--repair"]);
        assert_eq!(code, 4, "{found:#?}");
        assert!(has(&found, "record-damaged", "mine"), "{found:#?}");
        ok(cas(&scene.root).arg("gc"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "only here");
    }
    ok(cas(&scene.root).args(["snapshot", "rm", "mine"]));
    assert!(!file.exists());
    assert_eq!(scene.fsck(&[]), (0, Vec::new()));
}

#[test]
fn the_directory_of_a_written_snapshot_stays_if_its_record_is_lost() {
    for snapshotter in mounting_snapshotters() {
        for all in [false, true] {
            let scene = Scene::with("fs", snapshotter);
            let file = write_file(&scene);
            if all {
                lose_local_records(&scene.root);
            } else {
                damage(&scene.root, snapshotter, "mine", Some(b"{"));
                assert_eq!(scene.fsck(&[]).0, 4);
            }
            let number = file.ancestors().nth(2).unwrap();
            for _ in 0..2 {
                let (code, found) = scene.fsck(&["--repair"]);
                assert_eq!(code, 4, "{found:#?}");
                let path = number.to_str().unwrap();
                assert!(has(&found, "snapshot-left", path), "{found:#?}");
                ok(cas(&scene.root).arg("gc"));
                assert_eq!(fs::read_to_string(&file).unwrap(), "only here");
            }
            fs::remove_dir_all(number).unwrap();
            assert_eq!(scene.fsck(&["--repair"]).0, 0);
            assert_eq!(scene.fsck(&[]), (0, Vec::new()));
        }
    }
}

/// What a removal or a killed preparation leaves is not kept.
#[test]
fn nothing_is_left_of_a_written_snapshot_that_is_removed() {
    let scene = Scene::with("fs", "native");
    let file = write_file(&scene);
    let manifests = scene.root.join("snapshots/native/manifests");
    let kept = || {
        let names = fs::read_dir(&manifests).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".kept")).count()
    };
    assert_eq!(kept(), 1);
    ok(cas(&scene.root).args(["snapshot", "rm", "mine"]));
    assert!(!file.exists());
    assert_eq!(kept(), 0);
    assert_eq!(scene.fsck(&[]), (0, Vec::new()));
}

/// Snapshots of earlier releases have neither manifests nor `.kept` files.
#[test]
fn snapshots_without_manifests_are_not_damaged_and_a_check_states_it_once() {
    for snapshotter in mounting_snapshotters() {
        let scene = Scene::with("fs", snapshotter);
        let file = write_file(&scene);
        let said = |arguments: &[&str]| ok(cas(&scene.root).arg("fsck").args(arguments));
        assert!(!said(&[]).contains("not checked"));
        let layers = layers(&scene).len();
        fs::remove_dir_all(
            scene
                .root
                .join("snapshots")
                .join(snapshotter)
                .join("manifests"),
        )
        .unwrap();
        let noun = if layers == 1 { "snapshot" } else { "snapshots" };
        let expected = format!("not checked: the files of {layers} {noun}, because");
        for arguments in [&[][..], &["--read-data"], &["--repair"]] {
            let said = said(arguments);
            assert_eq!(said.matches(&expected).count(), 1, "{snapshotter}: {said}");
            assert!(said.contains("0 problems left, 0 repaired"), "{said}");
        }
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
        for command in [&["gc"][..], &["df"], &["snapshot", "info", "mine"]] {
            ok(cas(&scene.root).args(command));
        }
        scene.works();
        assert_eq!(fs::read_to_string(&file).unwrap(), "only here");
        ok(cas(&scene.root).args(["snapshot", "rm", "mine"]));
        assert!(!file.exists());
    }
}

#[test]
fn a_directory_in_the_place_of_a_manifest_does_not_stop_a_collection() {
    let scene = Scene::with("fs", "native");
    let manifests = scene.root.join("snapshots/native/manifests");
    let own = fs::read_dir(&manifests).unwrap().next().unwrap().unwrap();
    fs::remove_file(own.path()).unwrap();
    for misplaced in [own.path(), manifests.join("9999")] {
        fs::create_dir(&misplaced).unwrap();
        fs::write(misplaced.join("file"), "text").unwrap();
    }
    scene.heals("snapshot-left", "native");
    ok(cas(&scene.root).args(["rmi", "app:1"]));
    ok(cas(&scene.root).arg("gc"));
    assert_eq!(fs::read_dir(&manifests).unwrap().count(), 0);
}
