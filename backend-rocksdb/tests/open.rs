//! Opening a store: damaged and foreign databases, and options.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};

use backend_rocksdb::{RocksOpener, RocksStore, Tuning};
use cas_core::{ContentExt, Error, ErrorKind, Opener, pool::wait};
use rocksdb::{DB, Options};

const BLOBS: u32 = 20;

/// Creates a store with blobs and closes it. Returns its database.
fn create(path: &Path) -> PathBuf {
    let store = RocksStore::open(path).unwrap();
    for number in 0..BLOBS {
        let data = number.to_le_bytes().repeat(20_000);
        wait(store.content().put(data.into())).unwrap();
    }
    path.join("db")
}

fn blobs(path: &Path) -> usize {
    let store = RocksStore::open(path).unwrap();
    wait(store.content().list(None, 100)).unwrap().len()
}

/// Returns whether the database is lost without `file`, because `file` has data, lists the files
/// with data, or names that list.
fn is_essential(file: &Path) -> bool {
    let name = file.file_name().unwrap().to_str().unwrap();
    let data = name.ends_with(".sst") || name.ends_with(".blob");
    data || name == "CURRENT" || name.starts_with("MANIFEST")
}

/// Opens the store and reads all blobs. Returns the first error. Panics if blobs are missing.
fn read_all(path: &Path) -> Result<(), Error> {
    let store = RocksStore::open(path)?;
    let content = store.content();
    wait(async {
        let page = content.list(None, 100).await?;
        for stat in &page {
            if let Some(reader) = content.open(&stat.digest).await? {
                reader.read_at(0, 100_000).await?;
            }
        }
        assert_eq!(
            page.len(),
            BLOBS as usize,
            "blobs are missing without an error"
        );
        Ok(())
    })
}

#[test]
fn a_truncated_or_missing_file_is_detected() {
    let temp = tempfile::tempdir().unwrap();
    let db = create(temp.path());
    let whole: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(&db)
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|file| (file.clone(), fs::read(&file).unwrap()))
        .collect();
    let restore = || {
        fs::remove_dir_all(&db).unwrap();
        fs::create_dir(&db).unwrap();
        whole
            .iter()
            .for_each(|(file, data)| fs::write(file, data).unwrap());
    };
    let essential: Vec<_> = whole
        .iter()
        .filter(|(file, _)| is_essential(file))
        .collect();
    assert!(essential.len() >= 4, "{essential:?}");
    for (file, data) in essential {
        for kept in [0, 1, data.len() / 2, data.len() - 1] {
            restore();
            fs::write(file, &data[..kept]).unwrap();
            let context = format!("{kept} of {} bytes of {}", data.len(), file.display());
            let error = read_all(temp.path()).expect_err(&context);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{context}: {error}");
        }
        restore();
        fs::remove_file(file).unwrap();
        let error = read_all(temp.path()).expect_err("a file is missing");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{file:?}: {error}");
    }
    restore();
    read_all(temp.path()).expect("all files are restored");
}

#[test]
fn an_older_format_is_upgraded_and_a_newer_or_foreign_one_refused() {
    let temp = tempfile::tempdir().unwrap();
    let db = create(temp.path());
    let mut options = Options::default();
    options.create_if_missing(true);
    let open = || {
        let names = DB::list_cf(&options, &db).unwrap_or(vec!["default".into()]);
        DB::open_cf(&options, &db, names).unwrap()
    };
    let write = |format: u64| open().put("format", format.to_le_bytes()).unwrap();
    write(4);
    let error = RocksStore::open(temp.path()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    assert!(error.to_string().contains("found 4"), "{error}");
    assert!(error.to_string().contains("newer version"), "{error}");
    write(1);
    assert_eq!(blobs(temp.path()), BLOBS as usize);
    assert_eq!(open().get("format").unwrap().unwrap(), 3_u64.to_le_bytes());
    fs::remove_dir_all(&db).unwrap();
    write(1);
    let error = RocksStore::open(temp.path()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    assert!(error.to_string().contains("another program"), "{error}");
    let held = DB::open(&options, &db).unwrap();
    let error = RocksStore::open(temp.path()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    drop(held);
}

#[test]
fn an_interrupted_creation_is_started_again() {
    let temp = tempfile::tempdir().unwrap();
    let new = temp.path().join("db.new");
    fs::create_dir(&new).unwrap();
    fs::write(new.join("CURRENT"), "half").unwrap();
    create(temp.path());
    assert!(!new.exists());
    assert_eq!(blobs(temp.path()), BLOBS as usize);
}

#[test]
fn unknown_options_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let open = |options: &str| {
        let location = format!("rocksdb://{}/store{options}", temp.path().display());
        wait(RocksOpener.open(&location.parse().unwrap())).map(drop)
    };
    open("?cache=1MiB&buffer=1MiB&jobs=3&garbage=10&statistics=true").unwrap();
    for bad in [
        "?cache=much",
        "?inline=1KiB",
        "?jobs=0",
        "?garbage=-1",
        "?garbage=101",
        "?statistics=1",
    ] {
        let error = open(bad).expect_err(bad);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}: {error}");
    }
}

#[test]
fn statistics_are_collected_on_request() {
    let temp = tempfile::tempdir().unwrap();
    let store = RocksStore::open(temp.path()).unwrap();
    assert!(store.statistics().is_none());
    drop(store);
    let tuning = Tuning {
        statistics: true,
        ..Tuning::default()
    };
    let store = RocksStore::open_with(temp.path(), tuning).unwrap();
    wait(store.content().put("counted".into())).unwrap();
    let statistics = store.statistics().unwrap();
    assert!(statistics.contains("rocksdb.wal.synced"), "{statistics}");
}
