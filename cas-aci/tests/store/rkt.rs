//! Directories of rkt, with databases that the real engine wrote.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use cas_core::pool::wait;
use cas_core::{Error, ErrorKind};
use tempfile::TempDir;

use super::common::*;

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/ql")
        .join(name);
    fs::read(path).unwrap()
}

/// Returns the ACIs whose keys are in the databases.
fn acis() -> [Vec<u8>; 2] {
    ["example.com/image0", "example.com/image1"].map(|name| aci(&manifest(name, "")))
}

/// Returns a directory of rkt with a database and archives.
fn directory(database: &[u8], archives: &[Vec<u8>]) -> TempDir {
    let root = TempDir::new().unwrap();
    fs::create_dir(root.path().join("db")).unwrap();
    fs::write(root.path().join("db/ql.db"), database).unwrap();
    for archive in archives {
        let key = key_of(archive).half();
        put(&root, &key, archive);
    }
    root
}

/// Returns a directory of the newest version, with both ACIs.
pub(crate) fn directory_of_rkt() -> TempDir {
    directory(&fixture("v7.ql"), &acis())
}

fn put(root: &TempDir, key: &str, archive: &[u8]) {
    let directory = root.path().join("blob/sha512").join(&key[7..9]);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(key), archive).unwrap();
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::new(seconds, 5000)
}

#[test]
fn every_version_is_brought_over_with_names_times_and_remotes() {
    for version in 1..=7 {
        let root = directory(&fixture(&format!("v{version}.ql")), &acis());
        let store = open(&memory());
        // The second import changes nothing.
        for _ in 0..2 {
            let done = wait(store.import_store(root.path())).unwrap();
            assert_eq!((done.imported.len(), done.remotes), (2, 2), "{version}");
            assert!(done.without_blob.is_empty() && done.without_row.is_empty());
            assert!(done.refused.is_empty());
        }
        for (number, archive) in acis().iter().enumerate() {
            let key = key_of(archive);
            let info = wait(store.get_aci_info(&key.half())).unwrap();
            assert_eq!(info.name, format!("example.com/image{number}"));
            assert_eq!(info.import_time, at(100 + number as u64));
            let used = if version < 4 { 100 } else { 200 };
            assert_eq!(info.last_used, at(used + number as u64), "{version}");
            assert_eq!(info.latest, number == 1);
            assert_eq!(read(&store, &key.half()), *archive);
        }
        let remote = wait(store.get_remote("https://host/a.aci")).unwrap();
        assert_eq!(remote.sig_url, "https://host/a.aci.asc");
        assert_eq!(remote.etag, "etag");
        assert_eq!(remote.key, Some(key_of(&acis()[0])));
        let known = version >= 2;
        assert_eq!(remote.cache_max_age.as_secs(), if known { 60 } else { 0 });
        let time = if known {
            at(300)
        } else {
            SystemTime::UNIX_EPOCH
        };
        assert_eq!(remote.download_time, time);
        let gone = wait(store.get_remote("https://host/gone.aci")).unwrap();
        assert_eq!(gone.key, None);
    }
}

#[test]
fn what_a_killed_rkt_left_is_reported() {
    let [first, second] = acis();
    let other = aci(&manifest("other", ""));
    let root = directory(&fixture("v7.ql"), &[first.clone(), other.clone()]);
    fs::write(root.path().join("blob/sha512/stray"), "").unwrap();
    let store = open(&memory());
    let done = wait(store.import_store(root.path())).unwrap();
    assert_eq!(done.imported, [key_of(&first)]);
    assert_eq!(done.without_blob, [key_of(&second).half()]);
    assert_eq!(done.without_row, [key_of(&other).half()]);
    // A truncated archive does not prevent the import of the others.
    put(
        &root,
        &key_of(&second).half(),
        &second[..second.len() - 100],
    );
    let done = wait(store.import_store(root.path())).unwrap();
    assert_eq!(done.imported.len(), 1);
    let (key, error) = &done.refused[0];
    assert_eq!(*key, key_of(&second).half());
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(wait(store.get_all_aci_infos(&[], true)).unwrap().len(), 1);
}

#[test]
fn a_remote_that_exceeds_its_bounds_does_not_prevent_the_import_of_the_others() {
    let mut database = fixture("v7.ql");
    let url = b"https://host/gone.aci";
    let mut places = database.windows(url.len());
    let at = places.position(|bytes| bytes == url).unwrap();
    database[at + 12] = b'\n';
    let root = directory(&database, &acis());
    let store = open(&memory());
    let done = wait(store.import_store(root.path())).unwrap();
    assert_eq!((done.imported.len(), done.remotes), (2, 1));
    let (url, error) = &done.refused_remotes[0];
    assert_eq!(url, "https://host\ngone.aci");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    wait(store.get_remote("https://host/a.aci")).unwrap();
}

#[test]
fn a_newer_damaged_open_or_missing_database_is_refused() {
    let store = open(&memory());
    let refused = |root: &TempDir| -> Error { wait(store.import_store(root.path())).unwrap_err() };
    let newer = refused(&directory(&fixture("v8.ql"), &acis()));
    assert_eq!(newer.kind(), ErrorKind::FailedPrecondition);
    assert!(
        newer.to_string().contains("version 7 or older, found 8"),
        "{newer}"
    );
    let whole = fixture("v7.ql");
    let truncated = refused(&directory(&whole[..whole.len() / 2], &acis()));
    assert_eq!(truncated.kind(), ErrorKind::Corrupt);
    assert!(truncated.to_string().contains("ql.db"), "{truncated}");
    assert_eq!(refused(&directory(b"", &[])).kind(), ErrorKind::Corrupt);
    assert_eq!(
        refused(&TempDir::new().unwrap()).kind(),
        ErrorKind::NotFound
    );
    let unclosed = directory(&whole, &acis());
    let log = "db/.34a8b4c1ad933745146fdbfef3073706ee571625";
    fs::write(unclosed.path().join(log), "x").unwrap();
    assert_eq!(refused(&unclosed).kind(), ErrorKind::FailedPrecondition);
    assert!(wait(store.get_all_aci_infos(&[], true)).unwrap().is_empty());
    // A closed database has an empty log.
    fs::write(unclosed.path().join(log), "").unwrap();
    wait(store.import_store(unclosed.path())).unwrap();
}

#[test]
fn the_locks_of_rkt_are_respected() {
    let root = directory_of_rkt();
    let key = key_of(&acis()[0]).half();
    let locks = root.path().join("imagelocks");
    fs::create_dir(&locks).unwrap();
    fs::write(locks.join(&key), "").unwrap();
    let store = open(&memory());
    for locked in ["", "db", &format!("imagelocks/{key}")] {
        let held = fs::File::open(root.path().join(locked)).unwrap();
        // rkt reads at the same time.
        held.lock_shared().unwrap();
        wait(store.import_store(root.path())).unwrap();
        held.lock().unwrap();
        let error = wait(store.import_store(root.path())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{locked}: {error}");
        // Nothing stays locked after a failure.
        drop(held);
        let other = fs::File::open(root.path().join(locked)).unwrap();
        other.try_lock().unwrap();
    }
    wait(store.import_store(root.path())).unwrap();
}
