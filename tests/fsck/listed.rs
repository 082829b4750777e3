//! Lists of what is beside a damaged record.

use std::collections::BTreeSet;

use bytes::Bytes;
use cas::backend::pool;
use cas::records::{Batch, Expect, Records, Table};
use cas_records_sqlite::SqliteRecords;
use serde_json::Value;

use crate::common::{ENGINES, cas, ok, text};
use crate::scene::Scene;

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    WrongChecksum,
    DoesNotParse,
}

const FLAWS: [Flaw; 2] = [Flaw::WrongChecksum, Flaw::DoesNotParse];

/// Damages the record of a table whose key contains `part`.
async fn damage(records: &dyn Records, table: Table, part: &str, flaw: Flaw) {
    let found = records.scan(table, "", None, 100).await.unwrap();
    let mut found = found.into_iter();
    let record = found.find(|record| record.key.contains(part)).unwrap();
    let mut value = record.value.to_vec();
    match flaw {
        // The last digit of the checksum.
        Flaw::WrongChecksum => {
            let last = value.len() - 3;
            value[last] ^= 1;
        }
        Flaw::DoesNotParse => value.truncate(1),
    }
    let mut batch = Batch::new();
    batch.put(table, record.key, Expect::Any, Bytes::from(value));
    records.commit(&batch).await.unwrap();
}

/// Runs a command that makes a list, and checks that it names what is damaged and says what to do.
/// Returns the items of the list.
fn listed(scene: &Scene, command: &[&str], damaged: &str) -> Vec<Value> {
    let run = |option: &str| {
        let out = cas(&scene.root).arg(option).args(command).output().unwrap();
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(4), "{command:?}: {said}");
        assert!(said.contains(damaged), "{command:?}: {said}");
        assert!(said.contains("run `cas fsck --repair`"), "{said}");
        text(&out.stdout)
    };
    let list = run("--json");
    let items = list
        .lines()
        .map(|line| serde_json::from_str(line).expect(line));
    let items: Vec<Value> = items.collect();
    // Only a list for people has a line with the names of the columns.
    let lines = run("--quiet").lines().count();
    assert!(lines >= items.len(), "{command:?}");
    items
}

#[test]
fn a_damaged_record_does_not_hide_the_other_images() {
    for store in ENGINES {
        for flaw in FLAWS {
            let scene = Scene::new(store);
            for name in ["app:2", "app:3"] {
                ok(cas(&scene.root).args(["tag", "app:1", name]));
            }
            scene.open(async |store| {
                damage(&*store.records, Table::Images, "app:2", flaw).await;
            });
            let items = listed(&scene, &["images"], "app:2");
            let names = items.iter().map(|item| item["familiar"].as_str().unwrap());
            let names: Vec<&str> = names.collect();
            assert_eq!(names, ["app:1", "app:3"], "{store} {flaw:?}");
            #[cfg(feature = "soci")]
            listed(&scene, &["soci", "ls"], "app:2");
            // The filter may select the damaged image.
            let filtered = ["images", "--filter", "name~=none"];
            assert_eq!(listed(&scene, &filtered, "app:2").len(), 0);
            scene.fsck(&["--repair"]);
            ok(cas(&scene.root).arg("images"));
        }
    }
}

#[test]
fn a_damaged_record_does_not_hide_the_other_leases() {
    for store in ENGINES {
        for flaw in FLAWS {
            let scene = Scene::new(store);
            for id in ["one", "two", "three"] {
                ok(cas(&scene.root).args(["lease", "create", "--id", id]));
            }
            scene.open(async |store| {
                damage(&*store.records, Table::Leases, "two", flaw).await;
            });
            let items = listed(&scene, &["lease", "ls"], "two");
            let ids: Vec<&str> = items
                .iter()
                .map(|item| item["id"].as_str().unwrap())
                .collect();
            assert_eq!(ids, ["one", "three"], "{store} {flaw:?}");
            ok(cas(&scene.root).args(["ingest", "ls"]));
        }
    }
}

#[test]
fn a_damaged_record_does_not_hide_the_other_snapshots() {
    for flaw in FLAWS {
        let scene = Scene::new("fs");
        ok(cas(&scene.root).args(["snapshot", "prepare", "mine"]));
        let keys = |items: Vec<Value>| -> BTreeSet<String> {
            let key = |item: Value| item["info"]["key"].as_str().unwrap().to_owned();
            items.into_iter().map(key).collect()
        };
        let all = ok(cas(&scene.root).args(["--json", "snapshot", "ls"]));
        let all = all.lines().map(|line| serde_json::from_str(line).unwrap());
        let mut expected = keys(all.collect());
        assert!(expected.len() > 2, "{expected:?}");
        // The lowest layer may be the one whose record is damaged.
        for lost in expected.clone().into_iter().filter(|key| key != "mine") {
            let records = SqliteRecords::open(&scene.root.join("local/records.db")).unwrap();
            pool::wait(damage(&records, Table::Snapshots, &lost, flaw));
            drop(records);
            expected.remove(&lost);
            for command in [["snapshot", "ls"], ["snapshot", "tree"]] {
                let items = listed(&scene, &command, &lost);
                assert_eq!(keys(items), expected, "{command:?} {flaw:?}");
            }
        }
    }
}

#[test]
fn a_damaged_record_does_not_hide_the_other_sizes() {
    for flaw in FLAWS {
        let scene = Scene::new("fs");
        let whole = ok(cas(&scene.root).args(["--json", "df"]));
        let whole = whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        let whole: Vec<Value> = whole.collect();
        let records = SqliteRecords::open(&scene.root.join("local/records.db")).unwrap();
        pool::wait(damage(&records, Table::Snapshots, "native/sha256:", flaw));
        drop(records);
        let items = listed(&scene, &["df"], "native/sha256:");
        assert_eq!(items[..2], whole[..2], "blobs and ingests, {flaw:?}");
        assert_eq!(items[2]["kind"], "snapshots");
        let count = |item: &Value| item["count"].as_u64().unwrap();
        assert_eq!(count(&items[2]) + 1, count(&whole[2]), "{flaw:?}");
    }
}

/// What the damaged record keeps is not known.
#[test]
fn a_collection_stops_at_a_damaged_record_and_removes_nothing() {
    for store in ENGINES {
        for flaw in FLAWS {
            for table in [Table::Blobs, Table::Leases] {
                let scene = Scene::new(store);
                ok(cas(&scene.root).args(["lease", "create", "--id", "one"]));
                ok(cas(&scene.root).args(["tag", "app:1", "app:2"]));
                let layer = scene.layer();
                let key = match table {
                    Table::Blobs => layer.to_string(),
                    _ => "one".to_owned(),
                };
                scene.open(async |store| damage(&*store.records, table, &key, flaw).await);
                // The name is removed. What a collection would free is not known.
                let rmi = cas(&scene.root).args(["rmi", "app:2"]).output().unwrap();
                assert_eq!(rmi.status.code(), Some(4));
                assert_eq!(text(&rmi.stdout), "removed app:2\n");
                assert!(text(&rmi.stderr).contains("run `cas fsck --repair`"));
                for command in [
                    &["gc", "--dry-run"][..],
                    &["gc"],
                    &["gc", "--older-than", "1s"],
                ] {
                    assert_eq!(listed(&scene, command, &key).len(), 0, "{store} {flaw:?}");
                }
                let stored = scene.open(async |store| store.content.stat(&layer).await);
                assert!(stored.unwrap().is_some(), "{store} {flaw:?}");
            }
        }
    }
}
