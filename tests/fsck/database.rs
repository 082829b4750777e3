//! Databases of engines of which some rows cannot be read.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::common::{cas, fails, ok};
use crate::misplaced::Kind;
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

/// Makes the rows unreadable that contain these bytes, wherever they are in the database.
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
    // Leaves out the copies of the heads of these databases, which are set aside with them.
    found.retain(|path| path.extension().is_none_or(|extension| extension != "head"));
    found
}

#[test]
fn unreadable_rows_of_blobs_are_fetched_again() {
    for store in DATABASES {
        let scene = Scene::new(store);
        let digest = scene.manifest.config.digest;
        match *store {
            "redb" => spoil(&scene, &[&[1][..], digest.as_bytes()].concat()),
            // RocksDB does not store the common beginning of keys, so the digest cannot be found.
            // An entry begins with the size.
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
        // The repaired copy of the database also leads from the digest to the name.
        let prefix = &scene.manifest_digest.hex()[..12];
        let shown = ok(cas(&scene.root).args(["inspect", prefix]));
        assert!(shown.contains("app:1"), "{shown}");
        assert_eq!(aside(&scene).len(), 1);
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "on {store}");
        scene.works();
    }
}

/// RocksDB can write a row again that it cannot read. The block stays damaged until a repair, which
/// needs no source, because it finds the new rows.
#[test]
fn an_import_replaces_rows_of_blobs_that_rocksdb_cannot_read() {
    if !DATABASES.contains(&"rocksdb") {
        return;
    }
    let scene = Scene::new("rocksdb");
    spoil(&scene, &scene.manifest.config.size.to_le_bytes());
    let out = scene.scratch.path().join("refused");
    fails(cas(&scene.root).args(["unpack", "app:1"]).arg(out), 4);
    ok(cas(&scene.root)
        .args(["import", "--name", "app:1"])
        .arg(scene.scratch.path().join("demo.tar")));
    scene.works();
    let (code, found) = scene.fsck(&["--read-data"]);
    assert_eq!(code, 4, "{found:#?}");
    assert!(has(&found, "database-damaged", ""), "{found:#?}");
    let (code, repaired) = scene.fsck(&["--read-data", "--repair"]);
    assert_eq!(code, 0, "{repaired:#?}");
    assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
    scene.works();
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
    for (store, left) in [
        ("redb", "cas.redb.new"),
        ("rocksdb", "db.new"),
        ("rocksdb", "db.repair"),
    ] {
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
        let document = scene.manifest_digest.hex();
        if *store == "redb" {
            scene.heals("blob-damaged", document);
            continue;
        }
        // RocksDB only says that a block is damaged, and cannot say whose entries the block has. So
        // a check names the database. A repair copies the other blocks, and then names each blob
        // whose entry is gone.
        let (code, found) = scene.fsck(&["--read-data"]);
        assert_eq!(code, 4, "{found:#?}");
        assert!(
            has(&found, "database-damaged", store_file(store)),
            "{found:#?}"
        );
        let (code, repaired) = scene.repair_from_source();
        assert_eq!(code, 0, "{repaired:#?}");
        assert!(has(&repaired, "blob-missing", document), "{repaired:#?}");
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
        scene.works();
    }
}

/// A function that damages or removes files in the directory of a store.
type Harm = fn(&Path);

fn overwrite_start(store: &Path) {
    let file = fs::File::options()
        .write(true)
        .open(store.join("cas.redb"))
        .unwrap();
    file.write_all_at(&[0xa5; PAGE], 0).unwrap();
}

fn cut_in_half(store: &Path) {
    let file = fs::File::options()
        .write(true)
        .open(store.join("cas.redb"))
        .unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

/// Removes the files in the directory of RocksDB whose names contain `part`.
fn remove(store: &Path, part: &str) {
    let mut found = files(&store.join("db"));
    found.retain(|file| file.file_name().unwrap().to_str().unwrap().contains(part));
    assert!(!found.is_empty(), "no file has {part} in its name");
    found.iter().for_each(|file| fs::remove_file(file).unwrap());
}

fn spoil_a_table(store: &Path) {
    let mut tables = files(&store.join("db"));
    tables.retain(|file| file.extension().is_some_and(|extension| extension == "sst"));
    tables.sort();
    let mut data = fs::read(&tables[0]).unwrap();
    let end = data.len() - 50;
    data[end..].fill(0xa5);
    overwrite(&tables[0], &data);
}

#[test]
fn a_database_that_does_not_open_is_copied_as_far_as_it_can_be_read() {
    let harms: [(&str, Harm); 6] = [
        ("redb", overwrite_start),
        ("redb", cut_in_half),
        ("rocksdb", |store| remove(store, "CURRENT")),
        ("rocksdb", |store| remove(store, "MANIFEST")),
        ("rocksdb", |store| {
            // Without the copy, RocksDB makes another manifest from the tables.
            fs::remove_file(store.join("db.head")).unwrap();
            remove(store, "MANIFEST");
        }),
        ("rocksdb", spoil_a_table),
    ];
    for (number, (store, harm)) in harms.into_iter().enumerate() {
        if !DATABASES.contains(&store) {
            continue;
        }
        let scene = Scene::new(store);
        harm(&scene.root.join("store"));
        fails(cas(&scene.root).arg("images"), 4);
        let (code, found) = scene.fsck(&[]);
        assert_eq!((code, aside(&scene).len()), (4, 0), "harm {number}");
        assert!(
            has(&found, "database-damaged", store_file(store)),
            "{found:#?}"
        );
        let (code, repaired) = scene.repair_from_source();
        assert_eq!(
            (code, aside(&scene).len()),
            (0, 1),
            "{number}: {repaired:#?}"
        );
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "{number}");
        scene.works();
    }
}

/// Returns the name of the database in the directory of a store.
fn store_file(store: &str) -> &'static str {
    match store {
        "redb" => "cas.redb",
        _ => "store/db",
    }
}

/// Puts a directory in the place of the file of redb.
fn put_directory(store: &Path) {
    fs::remove_file(store.join("cas.redb")).unwrap();
    fs::create_dir_all(store.join("cas.redb/theirs")).unwrap();
}

/// Puts a file in the place of the directory of RocksDB.
fn put_file(store: &Path) {
    fs::remove_dir_all(store.join("db")).unwrap();
    fs::write(store.join("db"), "theirs").unwrap();
}

#[test]
fn what_is_in_the_place_of_a_database_is_said_with_the_next_step() {
    let harms: [(&str, Harm); 2] = [("redb", put_directory), ("rocksdb", put_file)];
    for (store, harm) in harms {
        if !DATABASES.contains(&store) {
            continue;
        }
        let scene = Scene::new(store);
        harm(&scene.root.join("store"));
        let said = fails(cas(&scene.root).arg("images"), 4);
        for part in [scene.root.to_str().unwrap(), "found a", "fsck --repair"] {
            assert!(said.contains(part), "{said}");
        }
    }
}

#[test]
fn a_database_of_which_nothing_is_left_is_replaced_by_an_empty_one() {
    let harms: [(&str, usize, Harm); 7] = [
        ("redb", 1, |store| {
            fs::write(store.join("cas.redb"), "").unwrap();
        }),
        ("redb", 1, |store| {
            fs::remove_file(store.join("cas.redb.head")).unwrap();
            overwrite_start(store);
        }),
        ("redb", 0, |store| {
            fs::remove_file(store.join("cas.redb")).unwrap();
        }),
        ("redb", 1, put_directory),
        ("rocksdb", 1, put_file),
        ("rocksdb", 1, |store| remove(store, ".sst")),
        ("rocksdb", 0, |store| {
            fs::remove_dir_all(store.join("db")).unwrap();
        }),
    ];
    for (store, set_aside, harm) in harms {
        if !DATABASES.contains(&store) {
            continue;
        }
        let scene = Scene::new(store);
        harm(&scene.root.join("store"));
        fails(cas(&scene.root).arg("images"), 4);
        assert_eq!(scene.fsck(&[]).0, 4, "on {store}");
        let (code, found) = scene.fsck(&["--repair"]);
        assert_eq!((code, aside(&scene).len()), (4, set_aside), "{found:#?}");
        assert!(
            has(&found, "database-damaged", store_file(store)),
            "{found:#?}"
        );
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "on {store}");
        ok(cas(&scene.root)
            .args(["import", "--name", "app:1"])
            .arg(scene.scratch.path().join("demo.tar")));
        scene.works();
    }
}

/// A database that is set aside is lost, but the other files are made again.
#[test]
fn what_is_in_the_place_of_a_file_of_redb_is_named_and_set_aside() {
    if !DATABASES.contains(&"redb") {
        return;
    }
    for (name, loses) in [("owner", false), ("cas.redb", true)] {
        for kind in Kind::NOT_FILES {
            let scene = Scene::new("redb");
            let place = scene.root.join("store").join(name);
            fs::remove_file(&place).unwrap();
            kind.make(&place, &scene.scratch.path().join("demo.tar"));
            let said = fails(cas(&scene.root).arg("images"), 4);
            for part in [place.to_str().unwrap(), ", found a", "fsck --repair"] {
                assert!(said.contains(part), "{kind:?}: {said}");
            }
            let (code, found) = scene.fsck(&[]);
            assert!(
                code == 4 && has(&found, "store-damaged", name),
                "{found:#?}"
            );
            let (code, repaired) = scene.fsck(&["--repair"]);
            assert!(has(&repaired, "store-damaged", name), "{repaired:#?}");
            assert_eq!(code, if loses { 4 } else { 0 }, "{kind:?}: {repaired:#?}");
            assert_eq!(aside(&scene).len(), 1, "{kind:?}");
            assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "{kind:?}");
            if !loses {
                scene.works();
            }
        }
    }
}
