//! Opening a store: its owner, damaged and foreign files, and options.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead, BufReader, stdin};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use backend_redb::{RedbOpener, RedbStore};
use cas_core::records::{Expect, Notes};
use cas_core::{ContentExt, Descriptor, ErrorKind, Image, MediaType, Opener, pool::wait};
use redb::ReadableDatabase;

/// The environment variable with the store that the process [`owner`] opens.
const STORE: &str = "CAS_REDB_STORE";

/// Runs in another process: keeps the store open until standard input ends.
#[test]
fn owner() {
    let Ok(path) = std::env::var(STORE) else {
        return;
    };
    let _store = RedbStore::open(Path::new(&path)).unwrap();
    println!("\nopen");
    stdin().read_line(&mut String::new()).unwrap();
}

/// Creates a store with a few blobs and closes it. Returns its file.
fn create(path: &Path) -> PathBuf {
    let store = RedbStore::open(path).unwrap();
    for number in 0..20_u32 {
        let data = number.to_le_bytes().repeat(20_000);
        wait(store.content().put(data.into())).unwrap();
    }
    path.join("cas.redb")
}

/// Checks that the store does not open, and that its file is unchanged. Returns the kind of error.
fn refused(path: &Path, file: &Path) -> ErrorKind {
    let before = std::fs::read(file).unwrap();
    let error = RedbStore::open(path)
        .err()
        .expect("the store must not open");
    assert!(std::fs::read(file).unwrap() == before, "changed: {error:?}");
    assert!(
        error.to_string().contains(&*path.to_string_lossy()),
        "{error}"
    );
    error.kind()
}

#[test]
fn a_second_owner_fails_with_the_pid_of_the_first() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("store");
    let mut first = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner", "--nocapture", "--test-threads=1"])
        .env(STORE, &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(first.stdout.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    assert!(lines.any(|line| line == "open"));
    let error = RedbStore::open(&path).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Busy);
    let pid = format!("process {} has", first.id());
    assert!(error.to_string().contains(&pid), "{error}");
    first.kill().unwrap();
    first.wait().unwrap();
    // The pid of a killed owner stays in the file, but the lock is free.
    let left = std::fs::read_to_string(path.join("owner")).unwrap();
    assert_eq!(left, first.id().to_string());
    let store = RedbStore::open(&path).unwrap();
    let error = RedbStore::open(&path).err().unwrap();
    let ours = format!("process {} has", std::process::id());
    assert!(error.to_string().contains(&ours), "{error}");
    drop(store);
    RedbStore::open(&path).unwrap();
}

#[test]
fn a_truncated_file_is_corrupt_and_unchanged() {
    let temp = tempfile::tempdir().unwrap();
    let file = create(temp.path());
    let whole = std::fs::read(&file).unwrap();
    for kept in [
        0,
        1,
        8,
        100,
        511,
        512,
        4096,
        10_000,
        whole.len() / 2,
        whole.len() - 1,
    ] {
        std::fs::write(&file, &whole[..kept]).unwrap();
        assert_eq!(
            refused(temp.path(), &file),
            ErrorKind::Corrupt,
            "{kept} bytes"
        );
    }
    std::fs::write(&file, &whole).unwrap();
    let store = RedbStore::open(temp.path()).unwrap();
    assert_eq!(wait(store.content().list(None, 100)).unwrap().len(), 20);
}

/// Reading damaged pages causes errors or returns wrong bytes, but never panics.
#[test]
fn damaged_pages_do_not_panic() {
    let temp = tempfile::tempdir().unwrap();
    let file = create(temp.path());
    let whole = std::fs::read(&file).unwrap();
    static UNEXPECTED: AtomicUsize = AtomicUsize::new(0);
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !cas_core::caught::is_expected() {
            UNEXPECTED.fetch_add(1, Ordering::Relaxed);
            report(panic);
        }
    }));
    let mut errors = 0;
    for start in (4096..whole.len()).step_by(whole.len() / 40) {
        let mut damaged = whole.clone();
        for byte in damaged.iter_mut().skip(start).take(9000) {
            *byte ^= 0x5a;
        }
        std::fs::write(&file, &damaged).unwrap();
        let Ok(store) = RedbStore::open(temp.path()) else {
            errors += 1;
            continue;
        };
        let content = store.content();
        wait(async {
            let Ok(page) = content.list(None, 100).await else {
                errors += 1;
                return;
            };
            for stat in page {
                if let Ok(Some(reader)) = content.open(&stat.digest).await {
                    let _ = reader.read_at(0, 100_000).await;
                }
                let _ = content.remove_version(&stat.digest, stat.version).await;
            }
            let _ = content.put("more".into()).await;
        });
    }
    assert!(errors > 0, "no damage was detected");
    assert_eq!(UNEXPECTED.load(Ordering::Relaxed), 0);
}

#[test]
fn a_directory_without_a_store_is_refused_and_unchanged() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path();
    let file = path.join("cas.redb");
    std::fs::write(&file, "not a database ".repeat(1000)).unwrap();
    assert_eq!(refused(path, &file), ErrorKind::Corrupt, "not a redb file");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let error = RedbStore::open(path).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "a directory");
    std::fs::remove_dir(&file).unwrap();
    std::fs::write(path.join("theirs"), "").unwrap();
    let error = RedbStore::open(path).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "not empty");
    let error = RedbStore::open(path.join("theirs")).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "a file");
}

#[test]
fn a_newer_format_and_a_foreign_database_are_refused() {
    const META: redb::TableDefinition<&str, u64> = redb::TableDefinition::new("cas");
    let temp = tempfile::tempdir().unwrap();
    let file = create(temp.path());
    let write = |table, format| {
        let db = redb::Database::create(&file).unwrap();
        let tx = db.begin_write().unwrap();
        { tx.open_table::<&str, u64>(table) }
            .unwrap()
            .insert("format", format)
            .unwrap();
        tx.commit().unwrap();
    };
    write(META, 4);
    let error = RedbStore::open(temp.path()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    assert!(error.to_string().contains("found 4"), "{error}");
    assert!(error.to_string().contains("newer version"), "{error}");
    std::fs::remove_file(&file).unwrap();
    write(redb::TableDefinition::new("theirs"), 1);
    let error = RedbStore::open(temp.path()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    assert!(error.to_string().contains("another program"), "{error}");
}

/// Format 1 has no table of notes, so the notes that lead from targets to names are missing.
#[test]
fn an_older_format_is_upgraded() {
    const META: redb::TableDefinition<&str, u64> = redb::TableDefinition::new("cas");
    const NOTES: redb::TableDefinition<&[u8], (u64, &[u8])> = redb::TableDefinition::new("notes");
    let temp = tempfile::tempdir().unwrap();
    let file = create(temp.path());
    let images = RedbStore::open(temp.path()).unwrap().images();
    let target = Descriptor::of(MediaType::OCI_MANIFEST, b"{}");
    for name in ["a:1", "b:1"] {
        let image = Image::new(name.parse().unwrap(), target.clone());
        wait(images.create(image)).unwrap();
    }
    drop(images);
    let db = redb::Database::create(&file).unwrap();
    let tx = db.begin_write().unwrap();
    assert!(tx.delete_table(NOTES).unwrap());
    tx.open_table(META).unwrap().insert("format", 1).unwrap();
    tx.commit().unwrap();
    drop(db);
    let store = RedbStore::open(temp.path()).unwrap();
    assert_eq!(wait(store.content().list(None, 100)).unwrap().len(), 20);
    let found = wait(store.images().find(&target.digest.into())).unwrap();
    assert_eq!(found, wait(store.images().list(&[])).unwrap());
    assert_eq!(found.len(), 2);
    let notes = Notes::new(store.records(), "test").unwrap();
    assert_eq!(wait(notes.list("")).unwrap(), []);
    wait(notes.put("k", "v".into(), Expect::Absent)).unwrap();
    assert_eq!(wait(notes.load("k")).unwrap().unwrap().0, "v");
    drop((notes, store));
    let db = redb::Database::create(&file).unwrap();
    let meta = db.begin_read().unwrap().open_table(META).unwrap();
    assert_eq!(meta.get("format").unwrap().unwrap().value(), 3);
}

#[test]
fn unknown_options_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let open = |options: &str| {
        let location = format!("redb://{}/store{options}", temp.path().display());
        wait(RedbOpener.open(&location.parse().unwrap())).map(drop)
    };
    open("?cache=1MiB").unwrap();
    let examine = |options: &str| {
        let location = format!("redb://{}/store{options}", temp.path().display());
        wait(RedbOpener.examine(&location.parse().unwrap(), true)).map(drop)
    };
    examine("?cache=1MiB").unwrap();
    let refused = examine("?inline=1KiB").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    for bad in ["?cache=much", "?inline=1KiB", "?cache=-1"] {
        assert_eq!(
            open(bad).unwrap_err().kind(),
            ErrorKind::InvalidArgument,
            "{bad}"
        );
    }
}
