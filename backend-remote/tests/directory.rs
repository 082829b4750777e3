//! A directory as a bucket: one owner, no foreigners, everything there after a kill.

use std::fs;

use backend_remote::{DirOpener, RemoteStore};
use bytes::Bytes;
use cas_core::pool::wait;
use cas_core::records::{Batch, Expect, Table};
use cas_core::{ContentExt, ContentStore, ErrorKind, Opener};

#[test]
fn a_second_owner_hears_who_the_first_is() {
    let home = tempfile::tempdir().unwrap();
    let store = wait(RemoteStore::open_dir(home.path())).unwrap();
    let second = wait(RemoteStore::open_dir(home.path())).err().unwrap();
    assert_eq!(second.kind(), ErrorKind::Busy);
    let process = format!("process {} ", std::process::id());
    assert!(second.to_string().contains(&process), "{second}");
    drop(store);
    wait(RemoteStore::open_dir(home.path())).unwrap();
}

#[test]
fn a_directory_of_others_is_refused_and_left_alone() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("photo.jpg"), "x").unwrap();
    let refused = wait(RemoteStore::open_dir(home.path())).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    fs::write(home.path().join("format"), "{}").unwrap();
    let refused = wait(RemoteStore::open_dir(home.path())).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
}

#[test]
fn what_was_half_written_is_swept_away() {
    let home = tempfile::tempdir().unwrap();
    let store = wait(RemoteStore::open_dir(home.path())).unwrap();
    let digest = wait(store.put(Bytes::from_static(b"blob"))).unwrap();
    drop(store);
    fs::write(home.path().join("beside/half"), "x").unwrap();
    let store = wait(RemoteStore::open_dir(home.path())).unwrap();
    assert!(!home.path().join("beside/half").exists());
    assert!(wait(store.stat(&digest)).unwrap().is_some());
}

/// A key may be longer than a name of a file, and every option is a mistake.
#[test]
fn long_keys_fit_and_options_do_not() {
    let home = tempfile::tempdir().unwrap();
    let location = format!("dir://{}", home.path().display());
    let store = wait(DirOpener.open(&location.parse().unwrap())).unwrap();
    let key = "ä/".repeat(300);
    let mut batch = Batch::new();
    batch.put(
        Table::Images,
        &key,
        Expect::Absent,
        Bytes::from_static(b"v"),
    );
    wait(store.records.commit(&batch)).unwrap();
    let page = wait(store.records.scan(Table::Images, "ä/ä", None, 9)).unwrap();
    assert_eq!(page[0].key, key);
    drop(store);
    let odd = format!("{location}?single=true").parse().unwrap();
    let refused = wait(DirOpener.open(&odd)).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
}
