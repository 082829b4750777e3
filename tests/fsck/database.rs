//! Databases of engines of which some rows cannot be read.

use std::fs;
use std::path::PathBuf;

use crate::common::{cas, ok};
use crate::scene::{Scene, files, has, overwrite};

/// The engines of this build that keep everything in one database.
const DATABASES: &[&str] = &[
    #[cfg(feature = "redb")]
    "redb",
    #[cfg(feature = "rocksdb")]
    "rocksdb",
];

/// Size of a page of redb. A block of RocksDB is not larger.
const PAGE: usize = 4096;

/// Makes the rows around each place of the database with these bytes unreadable.
fn spoil(scene: &Scene, bytes: &[u8]) {
    let mut spoilt = 0;
    for file in files(&scene.root.join("store")) {
        let mut data = fs::read(&file).unwrap();
        let places: Vec<usize> = data
            .windows(bytes.len())
            .enumerate()
            .filter_map(|(at, window)| (window == bytes).then_some(at))
            .collect();
        for at in &places {
            match scene.store {
                "redb" => data[at / PAGE * PAGE..][..PAGE].fill(0xff),
                _ => data[*at] ^= 1,
            }
        }
        spoilt += places.len();
        if !places.is_empty() {
            overwrite(&file, &data);
        }
    }
    assert!(spoilt > 0, "{} has these bytes nowhere", scene.store);
}

/// Returns the databases that were set aside.
fn aside(scene: &Scene) -> Vec<PathBuf> {
    let entries = fs::read_dir(scene.root.join("store")).unwrap();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.to_str().unwrap().contains(".damaged-"));
    found
}

#[test]
fn unreadable_rows_of_blobs_are_fetched_again() {
    for store in DATABASES {
        let scene = Scene::new(store);
        let digest = scene.manifest.config.digest;
        match *store {
            "redb" => spoil(&scene, &[&[1][..], digest.as_bytes()].concat()),
            // RocksDB leaves out what keys have in common. This is how an entry begins.
            _ => spoil(&scene, &scene.manifest.config.size.to_le_bytes()),
        }
        let (code, found) = scene.fsck(&[]);
        assert!(has(&found, "database-damaged", ""), "{found:#?}");
        assert_eq!((code, aside(&scene).len()), (4, 0), "only examined");
        let (code, repaired) = scene.repair_from_source();
        assert_eq!(code, 0, "on {store}: {repaired:#?}");
        assert!(
            has(&repaired, "blob-missing", digest.hex()),
            "{repaired:#?}"
        );
        // The copy also leads from the digest to the name.
        let prefix = &scene.manifest_digest.hex()[..12];
        let shown = ok(cas(&scene.root).args(["inspect", prefix]));
        assert!(shown.contains("app:1"), "{shown}");
        assert_eq!(aside(&scene).len(), 1);
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "on {store}");
        scene.works();
    }
}

#[test]
fn images_whose_names_cannot_be_read_are_kept() {
    for store in DATABASES {
        let scene = Scene::new(store);
        spoil(&scene, b"app:1\",\"target\":");
        let (_, found) = scene.fsck(&[]);
        assert!(has(&found, "database-damaged", ""), "{found:#?}");
        let (code, repaired) = scene.fsck(&["--read-data", "--repair"]);
        assert_eq!(code, 0, "on {store}: {repaired:#?}");
        let document = scene.manifest_digest;
        assert!(
            has(&repaired, "name-missing", document.hex()),
            "{repaired:#?}"
        );
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "on {store}");
        ok(cas(&scene.root).arg("gc"));
        let import = ["import", "--name", "app:1"];
        ok(cas(&scene.root)
            .args(import)
            .arg(scene.scratch.path().join("demo.tar")));
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "on {store}");
        scene.works();
    }
}

/// A kill may leave the unfinished copy. It is no longer there after the next opening.
#[test]
fn what_a_killed_repair_leaves_is_removed() {
    for (store, left) in [("redb", "cas.redb.new"), ("rocksdb", "db.new")] {
        if !DATABASES.contains(&store) {
            continue;
        }
        let scene = Scene::new(store);
        let left = scene.root.join("store").join(left);
        fs::write(&left, "a part of the copy").unwrap();
        scene.works();
        assert!(!left.exists(), "on {store}");
    }
}

/// The size is in the entry of the blob. RocksDB finds that the checksum of the block is wrong.
#[test]
fn a_document_that_is_truncated_is_fetched_again() {
    for store in DATABASES {
        let scene = Scene::new(store);
        let size = scene.bytes(&scene.manifest_digest).len() as u64;
        let mut entries = 0;
        for file in files(&scene.root.join("store")) {
            let mut data = fs::read(&file).unwrap();
            for at in 0..data.len().saturating_sub(8) {
                if data[at..].starts_with(&size.to_le_bytes()) {
                    data[at..][..8].copy_from_slice(&(size / 2).to_le_bytes());
                    entries += 1;
                }
            }
            overwrite(&file, &data);
        }
        assert!(entries > 0, "{store} has the entry nowhere");
        match *store {
            "redb" => scene.heals("blob-damaged", scene.manifest_digest.hex()),
            _ => scene.heals("database-damaged", ""),
        }
    }
}
