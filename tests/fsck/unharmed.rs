//! What a check must not do: change anything, report what is sound, or make a root.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::common::{ENGINES, cas, fails, ok, text};
use crate::scene::{Scene, files};

#[test]
fn a_sound_root_has_no_findings_and_a_repair_changes_nothing() {
    for store in ENGINES {
        let scene = Scene::new(store);
        for arguments in [
            &[][..],
            &["--read-data"],
            &["--read-data=2/3", "--rate", "1GiB"],
            &["--read-data=50%"],
            &["--read-data", "--resume"],
            &["--repair"],
            &["--repair", "--read-data"],
        ] {
            assert_eq!(
                scene.fsck(arguments),
                (0, Vec::new()),
                "{arguments:?} on {store}"
            );
        }
        scene.works();
    }
}

#[test]
fn a_check_without_repair_changes_no_blob_and_no_snapshot() {
    let scene = Scene::new("fs");
    scene.flip(&scene.layer());
    let directories = ["store/blobs", "snapshots/native/snapshots"];
    let read = || -> BTreeMap<PathBuf, Vec<u8>> {
        let found = directories
            .iter()
            .flat_map(|name| files(&scene.root.join(name)));
        found
            .map(|file| (file.clone(), fs::read(file).unwrap()))
            .collect()
    };
    let before = read();
    assert_eq!(scene.fsck(&["--read-data"]).0, 4);
    assert!(before == read(), "the check changed a file");
}

#[test]
fn wrong_arguments_and_places_are_explained() {
    let scratch = tempfile::tempdir().unwrap();
    let nowhere = scratch.path().join("nowhere");
    let said = fails(cas(&nowhere).arg("fsck"), 3);
    assert!(said.contains("not a root"), "{said}");
    assert!(!nowhere.exists(), "a check makes no root");
    let scene = Scene::new("fs");
    for (wrong, code) in [
        (&["--read-data=0/3"][..], 2),
        (&["--read-data=4/3"], 2),
        (&["--read-data=0%"], 2),
        (&["--read-data=101%"], 2),
        (&["--read-data=x"], 2),
        (&["--read-data", "--rate", "0"], 2),
        (&["--read-data", "--rate", "fast"], 2),
        (&["--resume"], 2),
        (&["--from", "x"], 2),
        (&["--repair", "--from", "/nowhere/at/all"], 3),
    ] {
        fails(cas(&scene.root).arg("fsck").args(wrong), code);
    }
    let redb = Scene::new("redb");
    redb.open(async |_| {
        let said = fails(cas(&redb.root).arg("fsck"), 5);
        assert!(said.contains("has the store open"), "{said}");
    });
}

#[test]
fn findings_are_told_to_people_in_one_line_each() {
    let scene = Scene::new("fs");
    let layer = scene.layer();
    scene.flip(&layer);
    let out = cas(&scene.root)
        .args(["fsck", "--read-data"])
        .output()
        .unwrap();
    let said = text(&out.stdout);
    let lines: Vec<&str> = said.lines().collect();
    let first = lines[0];
    assert!(
        first.starts_with(&format!("found: blob damaged: {layer}: ")),
        "{said}"
    );
    assert!(
        first.contains("app:1") && first.contains("pull or import"),
        "{said}"
    );
    assert!(lines[1].contains("1 problem left, 0 repaired"), "{said}");
    ok(cas(&scene.root)
        .args(["fsck", "--repair", "--read-data", "--from"])
        .arg(scene.source()));
}
