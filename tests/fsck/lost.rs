//! Stores whose directories are gone. An empty store is made in their place only on request.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{ENGINES, cas, fails, ok, small_archive, text};
use crate::misplaced::Kind;

/// Makes a root with an unpacked image. Returns it.
fn root_of(store: &str, scratch: &Path) -> PathBuf {
    let root = scratch.join("root");
    ok(cas(&root).args(["--store", store, "--snapshotter", "native", "init"]));
    let import = ["import", "--unpack", "--name", "app:1"];
    ok(cas(&root).args(import).arg(small_archive(scratch)));
    root
}

/// Checks that every command fails, and that its error names the directory and states what to do.
fn is_refused(root: &Path, lost: &Path) {
    for arguments in [
        &["images"][..],
        &["gc"],
        &["snapshot", "ls"],
        &["df"],
        &["rmi", "app:1"],
        &["fsck"],
        &["fsck", "--repair"],
    ] {
        let out = cas(root).args(arguments).output().unwrap();
        let said = text(&out.stdout) + &text(&out.stderr);
        assert_eq!(out.status.code(), Some(4), "{arguments:?}: {said}");
        assert!(said.contains(lost.to_str().unwrap()), "{said}");
        assert!(said.contains("`cas init`"), "{said}");
    }
}

fn snapshots(root: &Path) -> usize {
    let listed = ok(cas(root).args(["snapshot", "ls", "--json"]));
    listed.lines().count()
}

#[test]
fn a_lost_store_is_reported_and_comes_back_whole() {
    for store in ENGINES.iter().chain(&["by-size://?small=redb&large=fs"]) {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = root_of(store, scratch.path());
        let lost = match store.starts_with("by-size") {
            true => root.join("stores/by-size/large"),
            false => root.join("store"),
        };
        let (before, away) = (snapshots(&root), lost.with_extension("away"));
        assert!(before > 0);
        fs::rename(&lost, &away).unwrap();
        is_refused(&root, &lost);
        // The place of a disk that is not mounted.
        fs::create_dir(&lost).unwrap();
        is_refused(&root, &lost);
        assert_eq!(fs::read_dir(&lost).unwrap().count(), 0, "{store}");
        fs::remove_dir(&lost).unwrap();
        fs::rename(&away, &lost).unwrap();
        ok(cas(&root).arg("gc"));
        assert_eq!(snapshots(&root), before, "{store}");
        ok(cas(&root).arg("fsck"));
    }
}

#[test]
fn something_else_in_the_place_of_a_store_is_named_and_left() {
    for store in ENGINES.iter().chain(&["by-size://?small=redb&large=fs"]) {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = root_of(store, scratch.path());
        let places = match store.starts_with("by-size") {
            true => vec![
                root.join("stores/by-size"),
                root.join("stores/by-size/small"),
            ],
            false => vec![root.join("store")],
        };
        for lost in places {
            let away = lost.with_extension("away");
            fs::rename(&lost, &away).unwrap();
            for kind in Kind::NOT_FILES.into_iter().chain([Kind::File]) {
                kind.make(&lost, &scratch.path().join("demo.tar"));
                let modified = || fs::symlink_metadata(&lost).unwrap().modified().unwrap();
                let before = modified();
                is_refused(&root, &lost);
                assert_eq!(modified(), before, "{store} {kind:?}");
                match kind {
                    Kind::Directory => fs::remove_dir_all(&lost).unwrap(),
                    _ => fs::remove_file(&lost).unwrap(),
                }
            }
            fs::rename(&away, &lost).unwrap();
            ok(cas(&root).arg("gc"));
            assert!(ok(cas(&root).arg("images")).contains("app:1"), "{store}");
            ok(cas(&root).arg("fsck"));
        }
    }
}

/// The store of another engine is not lost: that engine can open it.
#[test]
fn a_store_of_another_engine_is_refused_by_the_engine_that_was_asked_for() {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = root_of("fs", scratch.path());
    let out = cas(&root).args(["--store", "redb", "images"]).output();
    let out = out.unwrap();
    let said = text(&out.stderr);
    assert!(
        !out.status.success() && !said.contains("has stored"),
        "{said}"
    );
    assert!(ok(cas(&root).arg("images")).contains("app:1"));
}

#[test]
fn a_lost_store_outside_of_the_root_is_reported() {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let lost = scratch.path().join("elsewhere");
    let root = root_of(&format!("fs://{}", lost.display()), scratch.path());
    fs::rename(&lost, scratch.path().join("away")).unwrap();
    is_refused(&root, &lost);
    // A moved root finds its own store, and misses the other one.
    let moved = scratch.path().join("moved");
    fs::rename(&root, &moved).unwrap();
    is_refused(&moved, &lost);
}

#[test]
fn init_makes_an_empty_store_in_place_of_a_lost_one() {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = root_of("redb", scratch.path());
    let lost = root.join("store");
    fs::rename(&lost, root.join("away")).unwrap();
    fails(cas(&root).args(["--store", "fs", "init"]), 5);
    is_refused(&root, &lost);
    ok(cas(&root).args(["--store", "redb", "init"]));
    assert_eq!(ok(cas(&root).args(["images", "--json"])), "");
    // The new store is not lost unnoticed, either.
    fs::rename(&lost, root.join("away-again")).unwrap();
    is_refused(&root, &lost);
}

/// A kill after the store was made, or an earlier release, leaves a root without the list.
#[test]
fn a_store_that_is_not_listed_is_used_and_listed() {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = root_of("fs", scratch.path());
    for list in [None, Some(""), Some("{"), Some("[1]")] {
        fs::remove_file(root.join("local/made.json")).unwrap();
        if let Some(text) = list {
            fs::write(root.join("local/made.json"), text).unwrap();
        }
        assert_eq!(ok(cas(&root).args(["images", "--json"])).lines().count(), 1);
        fs::rename(root.join("store"), root.join("away")).unwrap();
        is_refused(&root, &root.join("store"));
        fs::rename(root.join("away"), root.join("store")).unwrap();
    }
}

/// With another store, a collection would remove the snapshots of all images.
#[test]
fn init_refuses_another_store_for_a_root_that_has_lost_its_settings() {
    let by_size = "by-size://?small=redb&large=fs";
    for (store, others) in [
        ("fs", ["redb", by_size]),
        ("redb", ["fs", "dir:///absent"]),
        (by_size, ["fs", "redb"]),
    ] {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = root_of(store, scratch.path());
        let before = snapshots(&root);
        let settings = fs::read(root.join("cas.toml")).unwrap();
        fs::remove_file(root.join("cas.toml")).unwrap();
        for other in others {
            let said = fails(cas(&root).args(["--store", other, "init"]), 4);
            assert!(said.contains("name the store of this root"), "{said}");
            assert!(!root.join("cas.toml").exists(), "{store} {other}");
        }
        ok(cas(&root).args(["--store", store, "init"]));
        let made = fs::read(root.join("cas.toml")).unwrap();
        assert_eq!(
            text(&made),
            text(&settings),
            "{store}: also the snapshotter"
        );
        ok(cas(&root).arg("gc"));
        assert_eq!(snapshots(&root), before, "{store}");
        ok(cas(&root).arg("fsck"));
    }
}
