//! Damage to blobs, records, ingests and snapshots.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cas::content::{Expected, Writer};
use cas::records::{Batch, Expect, Table};
use cas::{ContentExt, Digest, ErrorKind, Store};

use crate::common::{ENGINES, can, cas, fails, mounting_snapshotters, ok};
use crate::scene::{Scene, has, overwrite, without_leftovers};

#[test]
fn flipped_bytes_of_layers_and_documents_are_fetched_again() {
    for store in ENGINES {
        let scene = Scene::new(store);
        let (layer, document) = (scene.layer(), scene.manifest_digest);
        scene.flip(&layer);
        scene.heals("blob-damaged", layer.hex());
        for document in [document, scene.manifest.config.digest] {
            scene.flip(&document);
            if scene.keeps_documents_apart() {
                scene.heals("blob-damaged", document.hex());
                continue;
            }
            // RocksDB only says that a block is damaged. The block with the rows of the manifest is
            // read for the manifest, so the manifest is named. The configuration is so small that
            // it is in the list of blobs, which is read at once, so only the database is named.
            let (problem, subject) = match document == scene.manifest_digest {
                true => ("blob-damaged", document.hex()),
                false => ("database-damaged", "store/db".to_owned()),
            };
            let (code, found) = scene.fsck(&["--read-data"]);
            assert_eq!(code, 4, "on {store}: {found:#?}");
            assert!(has(&found, problem, &subject), "{problem}: {found:#?}");
            let (code, repaired) = scene.repair_from_source();
            assert_eq!(code, 0, "on {store}: {repaired:#?}");
            assert!(
                has(&repaired, problem, &subject),
                "{problem}: {repaired:#?}"
            );
            assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "on {store}");
            scene.works();
        }
    }
}

#[test]
fn a_truncated_or_lengthened_blob_is_fetched_again() {
    let scene = Scene::new("fs");
    for digest in [scene.manifest_digest, scene.layer()] {
        let file = scene.root.join("store/blobs/sha256").join(digest.hex());
        let bytes = scene.bytes(&digest);
        for wrong in [&bytes[..bytes.len() / 2], &[], &[&bytes[..], b"x"].concat()] {
            overwrite(&file, wrong);
            scene.heals("blob-damaged", digest.hex());
        }
    }
}

/// Only the record of the blob states its size.
#[test]
fn a_truncated_blob_to_which_nothing_refers_is_fetched_again() {
    let scene = Scene::new("fs");
    let bytes = b"nothing refers to these bytes";
    let file = scene.scratch.path().join("free");
    fs::write(&file, bytes).unwrap();
    for root in [&scene.source(), &scene.root] {
        ok(cas(root).args(["blob", "add"]).arg(&file));
    }
    let digest = Digest::sha256(bytes);
    let stored = scene.root.join("store/blobs/sha256").join(digest.hex());
    for wrong in [&bytes[..9], &[], &[&bytes[..], b"x"].concat()] {
        overwrite(&stored, wrong);
        scene.heals("blob-damaged", digest.hex());
        assert_eq!(fs::read(&stored).unwrap(), bytes);
    }
}

/// A program copied objects to names that the store does not give.
#[cfg(feature = "remote")]
#[test]
fn objects_under_names_without_a_key_are_moved_away() {
    let scene = Scene::new("dir");
    let store = scene.root.join("store");
    let first = |folder: &str| crate::scene::files(&store.join(folder)).remove(0);
    for (folder, verb, problem) in [
        ("records/images", "images", "record-damaged"),
        ("blobs/sha256", "blob", "blob-damaged"),
    ] {
        let object = first(folder);
        let other = object.with_file_name("other!");
        fs::copy(&object, &other).unwrap();
        let mut list = cas(&scene.root);
        list.arg(verb).args((verb == "blob").then_some("ls"));
        fails(&mut list, 4);
        scene.heals(problem, "other!");
        assert!(!other.exists());
        ok(&mut list);
    }
}

/// Returns the file with the bytes of an undamaged blob, which has one part, in a `dir:` store.
#[cfg(feature = "remote")]
fn part(scene: &Scene, digest: &Digest) -> PathBuf {
    let bytes = scene.bytes(digest);
    let parts = crate::scene::files(&scene.root.join("store/uploads"));
    let is_it = |part: &PathBuf| fs::read(part).unwrap() == bytes;
    parts.into_iter().find(is_it).unwrap()
}

/// A blob in a bucket or a directory is a cell, which is intact here, and parts.
#[cfg(feature = "remote")]
#[test]
fn a_part_that_is_truncated_or_missing_is_fetched_again() {
    let scene = Scene::new("dir");
    let layer = scene.layer();
    let bytes = scene.bytes(&layer);
    for wrong in [bytes.len() / 2, 0] {
        overwrite(&part(&scene, &layer), &bytes[..wrong]);
        scene.heals("blob-damaged", layer.hex());
    }
    fs::remove_file(part(&scene, &layer)).unwrap();
    scene.heals("blob-damaged", layer.hex());
}

#[test]
fn missing_blobs_are_fetched_again() {
    for store in ENGINES {
        let scene = Scene::new(store);
        for digest in [
            scene.layer(),
            scene.manifest_digest,
            scene.manifest.config.digest,
        ] {
            let removed = scene.open(async |store| store.content.remove(&digest).await);
            assert!(removed.unwrap());
            scene.heals("blob-missing", digest.hex());
        }
    }
}

#[test]
fn damaged_bytes_without_a_source_are_set_aside_and_reported_until_they_are_back() {
    for store in ENGINES {
        let scene = Scene::new(store);
        let layer = scene.layer();
        scene.flip(&layer);
        let (code, found) = scene.fsck(&["--read-data", "--repair"]);
        assert_eq!(code, 4);
        assert!(has(&found, "blob-damaged", layer.hex()), "{found:#?}");
        for _ in 0..2 {
            let (code, found) = scene.fsck(&["--read-data", "--repair"]);
            assert_eq!(code, 4, "on {store}: {found:#?}");
            // The attempt to fetch the layer leaves an ingest, which the check discards.
            let mut others = found.iter().filter(|one| one["problem"] != "ingest-left");
            assert!(others.all(|one| one["repaired"] == false), "{found:#?}");
            assert!(
                has(&found, "blob-missing", layer.hex()) || *store != "fs",
                "{found:#?}"
            );
        }
        // A collection keeps the bytes that were set aside.
        crate::common::ok(crate::common::cas(&scene.root).arg("gc"));
        assert_eq!(scene.repair_from_source().0, 0);
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "on {store}");
        scene.works();
    }
}

/// Checks that a repair without a source reports a damaged blob, that a later check reports these
/// problems of the blob, and that a repair with a source heals it.
fn stays_reported(scene: &Scene, digest: &Digest, later: &[&str]) {
    let store = scene.store;
    let (code, found) = scene.fsck(&["--read-data", "--repair"]);
    assert_eq!(code, 4, "on {store}: {found:#?}");
    assert!(has(&found, "blob-damaged", digest.hex()), "{found:#?}");
    let (code, found) = scene.fsck(&["--read-data"]);
    assert_eq!(code, 4, "on {store}: {found:#?}");
    for problem in later {
        assert!(
            has(&found, problem, digest.hex()),
            "{problem} on {store}: {found:#?}"
        );
    }
    let (code, repaired) = scene.repair_from_source();
    assert_eq!(code, 0, "on {store}: {repaired:#?}");
    assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "on {store}");
    scene.works();
}

/// A check finds a damaged manifest before it knows the other blobs of the image, and finds a
/// damaged configuration only when it reads all blobs.
#[test]
fn damaged_documents_without_a_source_are_set_aside_and_reported() {
    for store in ENGINES.iter().filter(|store| **store != "rocksdb") {
        let scene = Scene::new(store);
        for document in [scene.manifest_digest, scene.manifest.config.digest] {
            scene.flip(&document);
            stays_reported(&scene, &document, &["quarantined", "blob-missing"]);
        }
    }
}

#[test]
fn a_truncated_layer_without_a_source_is_set_aside_and_reported() {
    let scene = Scene::new("fs");
    let layer = scene.layer();
    let bytes = scene.bytes(&layer);
    let half = &bytes[..bytes.len() / 2];
    let blobs = scene.root.join("store/blobs/sha256");
    overwrite(&blobs.join(layer.hex()), half);
    stays_reported(&scene, &layer, &["quarantined", "blob-missing"]);
    let aside = blobs.join(Digest::sha256(half).hex());
    assert_eq!(fs::read(aside).unwrap(), half, "the bytes are set aside");
}

/// The store cannot read a part that is too short, so the repair has no bytes to set aside.
#[cfg(feature = "remote")]
#[test]
fn a_truncated_part_without_a_source_stays_in_its_place_and_is_reported() {
    let scene = Scene::new("dir");
    let layer = scene.layer();
    let bytes = scene.bytes(&layer);
    let part = part(&scene, &layer);
    let half = &bytes[..bytes.len() / 2];
    overwrite(&part, half);
    assert_eq!(scene.fsck(&["--read-data", "--repair"]).0, 4);
    assert_eq!(fs::read(&part).unwrap(), half, "the bytes stay");
    stays_reported(&scene, &layer, &["blob-damaged"]);
}

/// Replaces or deletes records of a table.
async fn garble(store: &Store, table: Table, value: Option<&'static [u8]>) {
    let mut batch = Batch::new();
    for record in store.records.scan(table, "", None, 100).await.unwrap() {
        match value {
            Some(value) => batch.put(table, record.key, Expect::Any, Bytes::from_static(value)),
            None => batch.delete(table, record.key, Expect::Any),
        }
    }
    store.records.commit(&batch).await.unwrap();
}

#[test]
fn records_of_blobs_are_made_again() {
    for store in ENGINES {
        let scene = Scene::new(store);
        for value in [
            None,
            Some(&b"{"[..]),
            Some(b""),
            Some(&[0xff; 100]),
            Some(b"[1,2]"),
        ] {
            scene.open(async |store| garble(store, Table::Blobs, value).await);
            let problem = match value {
                None => "record-missing",
                Some(_) => "record-damaged",
            };
            let (_, found) = scene.fsck(&[]);
            let of_layer = found.iter().filter(|one| {
                let subject = one["subject"].as_str().unwrap();
                subject.contains(&scene.layer().hex())
            });
            assert_eq!(of_layer.count(), 1, "on {store}: {found:#?}");
            scene.heals(problem, scene.layer().hex());
        }
        // The children that the records list are kept.
        crate::common::ok(crate::common::cas(&scene.root).arg("gc"));
        assert_eq!(
            scene.fsck(&["--read-data"]),
            (0, Vec::new()),
            "after gc on {store}"
        );
    }
}

#[test]
fn a_record_that_was_written_for_another_blob_is_made_again() {
    for store in ENGINES {
        let scene = Scene::new(store);
        let (layer, document) = (scene.layer(), scene.manifest_digest);
        let read = scene.open(async |store| {
            let copied = store.records.load(Table::Blobs, &layer.to_string()).await;
            let value = copied.unwrap().unwrap().value;
            let mut batch = Batch::new();
            batch.put(Table::Blobs, document.to_string(), Expect::Any, value);
            store.records.commit(&batch).await.unwrap();
            store.blobs().load(&document).await
        });
        assert_eq!(read.unwrap_err().kind(), ErrorKind::Corrupt, "on {store}");
        scene.heals("record-damaged", document.hex());
    }
}

#[test]
fn wrong_children_are_corrected() {
    for store in ENGINES {
        let scene = Scene::new(store);
        let document = scene.manifest_digest;
        scene.open(async |store| {
            let blobs = store.blobs();
            let changed = blobs.update(&document, |record| {
                let mut record = record.unwrap();
                record.children = vec![Digest::sha256(b"another")];
                Ok(record)
            });
            changed.await.unwrap();
        });
        scene.heals("children-wrong", document.hex());
    }
}

#[test]
fn ingests_that_nobody_writes_are_discarded() {
    for store in ENGINES.iter().filter(|store| **store != "dir") {
        let scene = Scene::new(store);
        scene.open(async |store| {
            let begun = Writer::begin(&*store.content, "left", Expected::ANY).await;
            let mut writer = begun.unwrap();
            writer.write(Bytes::from(vec![7; 3_000_000])).await.unwrap();
        });
        scene.heals("ingest-left", "left");
    }
}

#[test]
fn snapshots_are_unpacked_again() {
    for snapshotter in mounting_snapshotters() {
        if snapshotter != "native" && !can(&["tar"]) {
            continue;
        }
        let scene = Scene::with("fs", snapshotter);
        let directory = scene
            .root
            .join("snapshots")
            .join(snapshotter)
            .join("snapshots");
        let file = || {
            let files = crate::scene::files(&directory);
            let is_committed = |file: &PathBuf| {
                let in_tree = file.components().any(|part| part.as_os_str() == "fs");
                in_tree && file.metadata().unwrap().len() > 0
            };
            files.into_iter().find(is_committed).unwrap()
        };
        overwrite(&file(), b"");
        scene.heals("snapshot-damaged", snapshotter);
        flip_unseen(&file());
        assert_eq!(scene.fsck(&[]), (0, Vec::new()), "no file is read");
        scene.heals("snapshot-damaged", snapshotter);
        fs::remove_file(file()).unwrap();
        scene.heals("snapshot-damaged", snapshotter);
        let first = || {
            fs::read_dir(&directory)
                .unwrap()
                .next()
                .unwrap()
                .unwrap()
                .path()
        };
        fs::write(first().join("fs/added"), "x").unwrap();
        scene.heals("snapshot-damaged", snapshotter);
        fs::remove_dir_all(first()).unwrap();
        scene.heals("snapshot-missing", snapshotter);
        for entry in fs::read_dir(&directory).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        scene.heals("snapshot-missing", snapshotter);
        fs::create_dir_all(directory.join("9999/fs/etc")).unwrap();
        scene.heals("snapshot-left", snapshotter);
    }
}

/// Flips a bit of a file as a failing device does: no time and no size changes.
fn flip_unseen(file: &Path) {
    let modified = file.metadata().unwrap().modified().unwrap();
    let mut data = fs::read(file).unwrap();
    *data.last_mut().unwrap() ^= 1;
    fs::write(file, data).unwrap();
    let open = fs::File::options().write(true).open(file).unwrap();
    open.set_modified(modified).unwrap();
}

#[test]
fn parts_of_the_snapshots_are_read_in_turn() {
    let scene = Scene::new("fs");
    let mut found = Vec::new();
    let directory = scene.root.join("snapshots/native/snapshots");
    for snapshot in fs::read_dir(directory).unwrap() {
        let files = crate::scene::files(&snapshot.unwrap().path());
        let is_filled = |file: &&PathBuf| file.metadata().unwrap().len() > 0;
        flip_unseen(files.iter().find(is_filled).unwrap());
    }
    for part in ["1/3", "2/3", "3/3"] {
        found.extend(scene.fsck(&[&format!("--read-data={part}")]).1);
    }
    let subjects: BTreeSet<&str> = found
        .iter()
        .map(|one| one["subject"].as_str().unwrap())
        .collect();
    assert_eq!((found.len(), subjects.len()), (3, 3), "{found:#?}");
    let (code, repaired) = scene.fsck(&["--read-data", "--repair", "--rate", "100MiB"]);
    assert_eq!((code, repaired.len()), (0, 3), "{repaired:#?}");
    assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
}

/// If directories of snapshots are gone, the next command that needs them makes them again. This
/// holds for any of the directories.
#[test]
fn lost_snapshot_directories_are_made_again_by_what_needs_them() {
    let mounts: &[&[&str]] = match can(&["mount", "umount"]) {
        true => &[&["mount"], &["mount", "--rw"]],
        false => &[],
    };
    for snapshotter in mounting_snapshotters() {
        if snapshotter != "native" && mounts.is_empty() {
            continue;
        }
        let scene = Scene::with("fs", snapshotter);
        let archive = scene.scratch.path().join("demo.tar");
        let target = scene.scratch.path().join("mnt");
        fs::create_dir(&target).unwrap();
        for (number, lost) in [0..1, 1..2, 2..3, 0..3].into_iter().enumerate() {
            for mount in mounts.iter().skip(number % 2).step_by(2) {
                lose_directories(&scene, snapshotter, lost.clone());
                ok(cas(&scene.root).args(*mount).arg("app:1").arg(&target));
                assert!(target.join("app/run").exists(), "{snapshotter} {lost:?}");
                ok(cas(&scene.root).arg("umount").arg(&target));
            }
            lose_directories(&scene, snapshotter, lost.clone());
            let import = ["import", "--unpack", "--name", "app:1"];
            ok(cas(&scene.root).args(import).arg(&archive));
            let found = without_leftovers(scene.fsck(&[]).1);
            assert!(found.is_empty(), "{snapshotter} {lost:?}: {found:#?}");
        }
    }
}

/// Only a check that reads all data finds bytes that were changed, so every command names it.
#[test]
fn damaged_bytes_are_reported_with_the_repair_that_finds_them() {
    let repair = "run `cas fsck --read-data --repair`, or pull or import the image again";
    let scene = Scene::new("fs");
    let [tree, archive, other] = ["tree", "app.tar", "other"].map(|name| {
        let place = scene.scratch.path().join(name);
        place.to_str().unwrap().to_owned()
    });
    ok(cas(Path::new(&other)).arg("init"));
    let copy = format!("{other}#app:1");
    let (layer, config) = (scene.layer(), scene.manifest.config.digest);
    let commands: [(&Digest, &[&str]); 4] = [
        (&layer, &["unpack", "app:1", &tree]),
        (&layer, &["export", "app:1", "-o", &archive]),
        (&layer, &["copy", "app:1", &copy]),
        (&config, &["inspect", "app:1"]),
    ];
    for (digest, command) in commands {
        scene.flip(digest);
        let said = fails(cas(&scene.root).args(command), 4);
        for text in [repair, &*digest.to_string()] {
            assert!(said.contains(text), "{command:?}: {said}");
        }
        assert_eq!(scene.repair_from_source().0, 0, "{command:?}");
    }
    scene.works();
}

/// Removes the directories of some of the three snapshots, in the order in which they were made.
fn lose_directories(scene: &Scene, snapshotter: &str, lost: std::ops::Range<usize>) {
    let place = scene.root.join("snapshots").join(snapshotter);
    let entries = fs::read_dir(place.join("snapshots")).unwrap();
    let mut directories: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    let number = |path: &PathBuf| -> u64 {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.parse().unwrap()
    };
    directories.sort_by_key(number);
    for directory in directories.drain(..).skip(lost.start).take(lost.len()) {
        fs::remove_dir_all(directory).unwrap();
    }
}
