//! Databases and files of names that are damaged or lost.

use std::fs;

use bytes::Bytes;
use cas::records::{Batch, Expect, Table};

use crate::common::{ENGINES, cas, fails, ok, text};
use crate::scene::{Scene, files, has, overwrite};

#[test]
fn lost_and_damaged_files_of_the_fs_store_cost_no_name() {
    let scene = Scene::new("fs");
    let store = scene.root.join("store");
    let images = || ok(cas(&scene.root).args(["images", "--json"]));
    let before = images();
    let names = |said: &str| -> Vec<String> {
        let lines = said.lines().map(|line| serde_json::from_str(line).unwrap());
        lines
            .map(|image: serde_json::Value| image["name"].to_string())
            .collect()
    };
    for file in [".cas/records.db", "index.json", "oci-layout"] {
        for garbage in [Some(&b"garbage"[..]), Some(b""), Some(&[0; 9000]), None] {
            for log in ["-wal", "-shm"] {
                let _ = fs::remove_file(store.join(format!("{file}{log}")));
            }
            match garbage {
                Some(garbage) => fs::write(store.join(file), garbage).unwrap(),
                None => fs::remove_file(store.join(file)).unwrap(),
            }
            // Every command that finds the damage prints what to do.
            let out = cas(&scene.root).arg("images").output().unwrap();
            let said = text(&out.stderr);
            assert!(
                out.status.success() || said.contains("fsck --repair"),
                "{said}"
            );
            // An empty or absent database is a new one, so its records are missing.
            let (code, found) = scene.fsck(&[]);
            assert_eq!(code, 4, "{file} {garbage:?}: {found:#?}");
            let (code, repaired) = scene.fsck(&["--repair"]);
            assert_eq!(code, 0, "{file} {garbage:?}: {repaired:#?}");
            assert_eq!(
                scene.fsck(&["--read-data"]),
                (0, Vec::new()),
                "{file} {garbage:?}"
            );
            assert_eq!(names(&images()), names(&before), "{file} {garbage:?}");
            scene.works();
        }
    }
    ok(cas(&scene.root).arg("gc"));
    scene.works();
}

/// A directory in the place of a file is set aside with everything in it.
#[test]
fn a_directory_in_the_place_of_a_file_is_set_aside() {
    for file in [
        "store/.cas/records.db",
        "store/index.json",
        "store/oci-layout",
        "local/records.db",
    ] {
        let scene = Scene::new("fs");
        let path = scene.root.join(file);
        for log in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(scene.root.join(format!("{file}{log}")));
        }
        fs::create_dir_all(path.join("theirs")).unwrap();
        let said = fails(cas(&scene.root).arg("images"), 4);
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(
            said.contains(name) && said.contains("fsck --repair"),
            "{said}"
        );
        let (code, found) = scene.fsck(&[]);
        assert_eq!(code, 4, "{file}: {found:#?}");
        assert!(has(&found, "store-damaged", name), "{file}: {found:#?}");
        assert!(path.join("theirs").exists(), "{file}: only examined");
        let (code, repaired) = scene.fsck(&["--repair"]);
        assert_eq!(code, 0, "{file}: {repaired:#?}");
        let aside = scene.root.join(format!("{file}.damaged-1"));
        assert!(aside.join("theirs").exists(), "{file}: {repaired:#?}");
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "{file}");
        scene.works();
    }
}

#[test]
fn lost_local_records_cost_only_snapshots() {
    let scene = Scene::new("redb");
    for garbage in [Some(&b"garbage"[..]), None] {
        let local = scene.root.join("local");
        fs::remove_dir_all(&local).unwrap();
        if let Some(garbage) = garbage {
            fs::create_dir(&local).unwrap();
            fs::write(local.join("records.db"), garbage).unwrap();
            fails(cas(&scene.root).arg("images"), 4);
        }
        let (code, found) = scene.fsck(&["--repair"]);
        assert_eq!(code, 0, "{found:#?}");
        assert!(has(&found, "snapshot-left", "native"), "{found:#?}");
        assert_eq!(scene.fsck(&[]), (0, Vec::new()));
        let import = ["import", "--unpack", "--name", "app:1"];
        ok(cas(&scene.root)
            .args(import)
            .arg(scene.scratch.path().join("demo.tar")));
        scene.works();
    }
}

#[test]
fn a_lost_name_is_reported_and_its_image_is_kept() {
    for store in ENGINES.iter().filter(|store| **store != "fs") {
        let scene = Scene::new(store);
        let garbled = scene.open(async |store| {
            let mut batch = Batch::new();
            for record in store
                .records
                .scan(Table::Images, "", None, 10)
                .await
                .unwrap()
            {
                let garbage = Bytes::from_static(b"\x00{");
                batch.put(Table::Images, record.key, Expect::Any, garbage);
            }
            store.records.commit(&batch).await
        });
        garbled.unwrap();
        fails(cas(&scene.root).arg("images"), 4);
        let (code, found) = scene.fsck(&[]);
        assert_eq!(code, 4);
        assert!(
            has(&found, "record-damaged", "app:1"),
            "on {store}: {found:#?}"
        );
        let (code, found) = scene.fsck(&["--repair"]);
        assert_eq!(code, 4, "on {store}: {found:#?}");
        assert!(has(&found, "name-lost", "app:1"), "on {store}: {found:#?}");
        assert!(has(&found, "name-missing", ""), "on {store}: {found:#?}");
        let (code, found) = scene.fsck(&["--repair"]);
        assert_eq!((code, found.len()), (4, 1), "on {store}: {found:#?}");
        // A collection does not remove the image. Once the image has its name again, the check
        // reports nothing.
        ok(cas(&scene.root).arg("gc"));
        let import = ["import", "--name", "app:1"];
        ok(cas(&scene.root)
            .args(import)
            .arg(scene.scratch.path().join("demo.tar")));
        scene.fsck(&["--repair"]);
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "on {store}");
        scene.works();
    }
}

/// The `fs` store still has the target of the name in `index.json`.
#[test]
fn a_record_that_was_written_for_another_name_is_set_aside() {
    for store in ENGINES {
        let scene = Scene::new(store);
        let tag = || ok(cas(&scene.root).args(["tag", "app:1", "app:2"]));
        tag();
        scene.open(async |store| {
            let found = store.records.scan(Table::Images, "", None, 10).await;
            let found = found.unwrap();
            let of = |name: &str| found.iter().find(|record| record.key.contains(name));
            let (one, two) = (of("app:1").unwrap(), of("app:2").unwrap());
            let mut batch = Batch::new();
            batch.put(Table::Images, &*two.key, Expect::Any, one.value.clone());
            store.records.commit(&batch).await.unwrap();
        });
        let said = fails(cas(&scene.root).args(["inspect", "app:2"]), 4);
        assert!(said.contains("for another key"), "on {store}: {said}");
        if *store == "fs" {
            scene.heals("record-damaged", "app:2");
        } else {
            let (code, found) = scene.fsck(&["--repair"]);
            assert_eq!(code, 4, "on {store}: {found:#?}");
            for problem in ["record-damaged", "name-lost"] {
                assert!(has(&found, problem, "app:2"), "on {store}: {found:#?}");
            }
            tag();
            scene.fsck(&["--repair"]);
            assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "on {store}");
        }
        ok(cas(&scene.root).args(["inspect", "app:2"]));
        scene.works();
    }
}

/// Deletes all records of the store.
fn lose_records(scene: &Scene) {
    scene.open(async |store| {
        for table in Table::ALL {
            let mut batch = Batch::new();
            for record in store.records.scan(table, "", None, 100).await.unwrap() {
                batch.delete(table, record.key, Expect::Any);
            }
            store.records.commit(&batch).await.unwrap();
        }
    });
}

#[test]
fn a_store_that_lost_all_records_keeps_its_images_under_a_lease() {
    for store in ENGINES.iter().filter(|store| **store != "fs") {
        let scene = Scene::new(store);
        lose_records(&scene);
        let (code, found) = scene.fsck(&["--repair"]);
        assert_eq!(code, 0, "on {store}: {found:#?}");
        assert!(has(&found, "name-missing", ""), "on {store}: {found:#?}");
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "on {store}");
        ok(cas(&scene.root).arg("gc"));
        let leases = ok(cas(&scene.root).args(["lease", "ls"]));
        assert!(leases.contains("recovered"), "{leases}");
        let layer = scene.layer();
        let hashed = scene.open(async |store| cas::ContentExt::hash(&*store.content, &layer).await);
        assert_eq!(hashed.unwrap(), Some(layer), "on {store}");
    }
}

/// Only the lease `recovered` keeps the image.
#[test]
fn a_snapshot_of_an_image_that_lost_its_name_is_unpacked_again() {
    for store in ENGINES.iter().filter(|store| **store != "fs") {
        let scene = Scene::new(store);
        lose_records(&scene);
        let mut trees = files(&scene.root.join("snapshots/native/snapshots")).into_iter();
        let file = trees.find(|file| file.metadata().unwrap().len() > 0);
        overwrite(&file.unwrap(), b"");
        let (code, found) = scene.fsck(&["--repair"]);
        assert_eq!(code, 0, "on {store}: {found:#?}");
        assert!(has(&found, "snapshot-damaged", "native"), "{found:#?}");
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "on {store}");
    }
}

#[test]
fn records_of_leases_and_snapshots_that_do_not_parse_are_set_aside() {
    let scene = Scene::new("fs");
    ok(cas(&scene.root).args(["lease", "create", "--id", "mine"]));
    scene.open(async |store| {
        let mut batch = Batch::new();
        batch.put(Table::Leases, "mine", Expect::Any, Bytes::from_static(b"?"));
        store.records.commit(&batch).await.unwrap();
    });
    scene.heals("record-damaged", "leases/mine");
}
