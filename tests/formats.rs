//! Roots of earlier releases open, keep everything, and are upgraded to the formats of today.
//! `tests/fixtures/make.sh` made these roots.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cas::records::{Expect, Notes};
use common::{can, cas, ok};
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/release-0.1");
    fixtures.join(name)
}

/// Unpacks the root of an engine, as if this machine had not been started again since. Returns its
/// path.
fn unpack(engine: &str, scratch: &Path) -> PathBuf {
    let root = scratch.join("root");
    fs::create_dir(&root).unwrap();
    let archive = fixture(&format!("{engine}.tar.gz"));
    let mut tar = Command::new("tar");
    ok(tar.arg("-C").arg(&root).arg("-xpzf").arg(archive));
    set_boot(&root.join("store/.cas"));
    root
}

/// Marks an `fs` store as used since the last boot of the machine, because the store removes
/// ingests from before it.
fn set_boot(private: &Path) {
    let Ok(old) = fs::read_to_string(private.join("boot")) else {
        return;
    };
    let new = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let ingests = fs::read_dir(private.join("ingest")).unwrap();
    let files = ingests.map(|entry| entry.unwrap().path());
    let keys = files.filter(|file| file.extension().is_some_and(|end| end == "key"));
    for file in keys.chain([private.join("boot")]) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(old.trim()), "{}: {text}", file.display());
        fs::write(&file, text.replace(old.trim(), new.trim())).unwrap();
    }
}

/// Returns the commands that the release was given, and what it listed.
fn listed(engine: &str) -> Vec<(String, Vec<Value>)> {
    let text = fs::read_to_string(fixture(&format!("{engine}.listed"))).unwrap();
    let parts = text.split("$ ").skip(1);
    let parts = parts.map(|part| {
        let (command, items) = part.split_once('\n').unwrap();
        (command.to_owned(), values(items))
    });
    parts.collect()
}

fn list(root: &Path, command: &str) -> Vec<Value> {
    values(&ok(cas(root).args(command.split(' ')).arg("--json")))
}

/// Returns the items of a listing, without the sizes of snapshots, which depend on the file system.
fn values(text: &str) -> Vec<Value> {
    let value = |line| {
        let mut value: Value = serde_json::from_str(line).expect(line);
        if let Some(usage) = value.get_mut("usage") {
            usage["bytes"].take();
        }
        if value["kind"] == "snapshots" {
            value["bytes"].take();
        }
        value
    };
    text.lines().map(value).collect()
}

/// Removes the members of a listed image, blob or snapshot that the release did not list yet.
fn forget_new(item: &mut Value) {
    let members = item.as_object_mut().unwrap();
    members.retain(|name, _| {
        !matches!(
            &**name,
            "usedAt" | "kind" | "format" | "content" | "referrers" | "snapshotter"
        )
    });
}

/// Returns the format of a database of SQLite, from the header of its file.
fn user_version(database: &Path) -> u32 {
    let file = fs::read(database).unwrap();
    u32::from_be_bytes(file[60..64].try_into().unwrap())
}

/// Writes a note, and reads it after the root was opened again.
fn use_notes(root: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread();
    { runtime }.build().unwrap().block_on(async {
        let open = || async { cas::Cas::open(root).await.unwrap().store().records.clone() };
        let notes = Notes::new(open().await, "test").unwrap();
        assert_eq!(notes.list("").await.unwrap(), []);
        notes.put("k", "v".into(), Expect::Absent).await.unwrap();
        drop(notes);
        let notes = Notes::new(open().await, "test").unwrap();
        assert_eq!(notes.load("k").await.unwrap().unwrap().0, "v");
    });
}

/// Checks twice that the root of an engine keeps everything with the code of today.
fn keeps_everything(engine: &str, is_upgraded: impl Fn(&Path)) {
    if !can(&["tar"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let root = unpack(engine, scratch.path());
    let local = root.join("local/records.db");
    let listed = listed(engine);
    assert!(listed.len() > 10, "{listed:?}");
    // The last command is a collection, which removes nothing.
    for _ in 0..2 {
        for (command, expected) in &listed {
            let mut found = list(&root, command);
            if ["blob info", "images", "inspect", "snapshot"]
                .iter()
                .any(|shown| command.starts_with(shown))
            {
                found.iter_mut().for_each(forget_new);
            }
            assert_eq!(found, *expected, "{engine}: cas {command}");
        }
        assert_eq!(user_version(&local), 2, "{engine}");
        is_upgraded(&root);
    }
    use_notes(&root);
    let target = scratch.path().join("tree");
    ok(cas(&root).args(["unpack", "app:1"]).arg(&target));
    let architecture = fs::read_to_string(target.join("etc/architecture"));
    assert_eq!(architecture.unwrap(), "amd64\n");
    let mounts = list(&root, "snapshot view look --parent layer");
    let source = mounts[0]["source"].as_str().unwrap();
    let kept = fs::read_to_string(Path::new(source).join("file"));
    assert_eq!(kept.unwrap(), "kept\n");
}

fn fs_is_upgraded(store: &Path) {
    let format = fs::read_to_string(store.join(".cas/format.json")).unwrap();
    assert!(format.contains(r#""version":2"#), "{format}");
    assert_eq!(user_version(&store.join(".cas/records.db")), 2);
}

#[test]
fn a_root_on_fs_keeps_everything() {
    keeps_everything("fs", |root| fs_is_upgraded(&root.join("store")));
}

/// The tests of the backend read the format in its database.
#[cfg(feature = "redb")]
#[test]
fn a_root_on_redb_keeps_everything() {
    keeps_everything("redb", |_| ());
}

/// The small store has the records, and the large one a format of its own.
#[cfg(feature = "redb")]
#[test]
fn a_root_on_two_stores_keeps_everything() {
    let small = |root: &Path| fs_is_upgraded(&root.join("stores/by-size/small"));
    keeps_everything("by-size", small);
}

#[test]
fn a_root_on_a_directory_of_objects_keeps_everything() {
    if !cfg!(feature = "remote") {
        eprintln!("SKIPPED: built without the feature `remote`");
        return;
    }
    keeps_everything("dir", |root| {
        let format = fs::read_to_string(root.join("store/format")).unwrap();
        assert!(format.contains(r#""version": 2"#), "{format}");
    });
}

/// The tests of the backend read the format in its database.
#[test]
fn a_root_on_rocksdb_keeps_everything() {
    if !cfg!(feature = "rocksdb") {
        eprintln!("SKIPPED: built without the feature `rocksdb`; `cargo xtask rocksdb` has it");
        return;
    }
    keeps_everything("rocksdb", |_| ());
}
