//! Opens every engine in a directory that belongs to another engine, is in use, read-only or full.
//! The error has the right kind and states what to do, and nothing is changed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]
#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cas::backend::pool::wait;
use cas::content::Durability;
use cas::{ContentExt, Descriptor, Error, ErrorKind, Location, MediaType, Result, Store};
use common::disk::Disk;
use common::{ENGINES, can};

/// The variable that names the store that a child process must keep open.
const HOLD: &str = "CAS_HOLD";

fn open(engine: &str, path: &Path) -> Result<Store> {
    wait(cas::registry().open(&Location::of_path(engine, path).unwrap()))
}

fn blob(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(32 << 10)
}

fn target(number: u32) -> Descriptor {
    Descriptor::of(MediaType::OCI_LAYER, &blob(number))
}

fn put(store: &Store, number: u32) -> Result<()> {
    wait(store.put(&target(number), blob(number).into(), Durability::Full))
}

/// Makes a store with three blobs, and closes it.
fn made(engine: &str, path: &Path) {
    let store = open(engine, path).unwrap();
    (0..3).for_each(|number| put(&store, number).unwrap());
}

/// Returns all files below `path` with their content.
fn files(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![path.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path)
            } else {
                drop(found.insert(path.clone(), fs::read(&path).unwrap()))
            }
        }
    }
    found
}

/// Returns the error of an open that must fail. It names the directory.
fn refused(engine: &str, path: &Path) -> Error {
    let error = open(engine, path).err();
    let error = error.expect(engine);
    let said = error.to_string();
    assert!(said.contains(path.to_str().unwrap()), "{engine}: {said}");
    error
}

/// If the store were made in another directory, its content would be lost.
#[test]
fn a_root_whose_path_is_not_text_is_refused_and_nothing_is_made() {
    let temp = tempfile::tempdir().unwrap();
    for bytes in [
        &b"r\xe9pertoire"[..],
        b"\xff",
        b"a/\xc0\x80/b",
        b"\xed\xa0\x80",
    ] {
        let path = temp.path().join(OsStr::from_bytes(bytes));
        let opened = cas::blocking::Cas::open(&path).map(drop);
        let made = cas::blocking::Cas::init(&path).map(drop);
        for error in [opened.unwrap_err(), made.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
            let text = error.to_string();
            assert!(text.contains(&path.display().to_string()), "{text}");
        }
        let output = common::cas(&path).arg("images").output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    }
}

#[test]
fn the_directory_of_another_engine_is_left_alone() {
    for made_by in ENGINES {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("store");
        made(made_by, &path);
        let before = files(&path);
        for engine in ENGINES.iter().filter(|engine| *engine != made_by) {
            let error = refused(engine, &path);
            let context = format!("{engine} in a store of {made_by}: {error}");
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{context}");
            assert!(error.to_string().contains("choose another"), "{context}");
            assert!(files(&path) == before, "{context}: it was changed");
        }
        let store = open(made_by, &path).unwrap();
        assert!(wait(store.present(&target(2))).unwrap());
    }
}

#[test]
fn holder() {
    let Ok(held) = std::env::var(HOLD) else {
        return;
    };
    let (engine, path) = held.split_once(' ').unwrap();
    let store = open(engine, Path::new(path)).unwrap();
    println!("\nopen");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    drop(store);
}

#[test]
fn a_second_process_shares_the_store_or_is_told_the_owner() {
    for engine in ENGINES {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("store");
        made(engine, &path);
        let mut holder = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "holder", "--nocapture", "--test-threads=1"])
            .env(HOLD, format!("{engine} {}", path.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "open"), "{engine}");
        match open(engine, &path) {
            Ok(store) => assert!(wait(store.present(&target(0))).unwrap()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
                let pid = format!("process {}", holder.id());
                assert!(error.to_string().contains(&pid), "{error}");
            }
        }
        drop(holder.stdin.take());
        holder.wait().unwrap();
        let store = open(engine, &path).unwrap();
        assert!(wait(store.present(&target(0))).unwrap(), "{engine}");
    }
}

#[test]
fn a_read_only_mount_is_reported_and_loses_nothing() {
    if !can(&["mount"]) {
        return;
    }
    for engine in ENGINES {
        let temp = tempfile::tempdir().unwrap();
        let disk = Disk::mount(temp.path().join("disk"), "size=100m");
        let path = disk.0.join("store");
        made(engine, &path);
        let before = files(&path);
        disk.remount("ro");
        match open(engine, &path) {
            // Reading works, and writing is an error.
            Ok(store) => {
                assert!(wait(store.content.fetch(&target(1))).is_ok(), "{engine}");
                let error = put(&store, 7).expect_err(engine);
                assert_eq!(error.kind(), ErrorKind::Denied, "{engine}: {error}");
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Denied, "{engine}: {error}"),
        }
        assert!(files(&path) == before, "{engine}");
        disk.remount("rw");
        let store = open(engine, &path).unwrap();
        assert!(wait(store.content.fetch(&target(1))).is_ok(), "{engine}");
    }
}

#[test]
fn a_full_disk_is_reported_and_the_store_opens_and_frees() {
    if !can(&["mount"]) {
        return;
    }
    for engine in ENGINES {
        let temp = tempfile::tempdir().unwrap();
        let disk = Disk::mount(temp.path().join("disk"), "size=64m");
        let path = disk.0.join("store");
        let store = open(engine, &path).unwrap();
        let mut stored = 0;
        let error = loop {
            match put(&store, stored) {
                Ok(()) => stored += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Full, "{engine}: {error}");
        assert!(stored > 60, "{engine}: only {stored}");
        assert!(wait(store.content.fetch(&target(0))).is_ok(), "{engine}");
        drop(store);
        // Fill the disk to the last byte.
        let mut filler = fs::File::create(disk.0.join("filler")).unwrap();
        while std::io::Write::write(&mut filler, &[0; 4096]).is_ok_and(|written| written > 0) {}
        let store = open(engine, &path).expect(engine);
        for number in 0..stored {
            assert!(wait(store.present(&target(number))).unwrap(), "{engine}");
        }
        let removed = wait(async {
            for number in 0..stored / 2 {
                let digest = target(number).digest;
                store.content.remove(&digest).await?;
                store.blobs().remove(&digest).await?;
            }
            store.content.flush().await?;
            store.content.compact().await
        });
        removed.expect(engine);
        put(&store, stored).expect(engine);
    }
}
