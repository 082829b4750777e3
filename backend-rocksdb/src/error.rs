//! Errors of RocksDB, sorted by what the caller does about them.

use cas_core::{Error, ErrorKind};
use cas_kv::Failed;

/// What RocksDB failed with in the middle of a transaction.
pub(crate) fn broken(error: rocksdb::Error) -> Failed {
    Failed::Broken(sort(error))
}

/// The error of ours that stands for one of RocksDB, whose kinds are fewer than its words.
pub(crate) fn sort(error: rocksdb::Error) -> Error {
    let said = error.to_string();
    let says = |words: &str| said.contains(words);
    let sorted = match error.kind() {
        _ if says("No space left on device") => Error::new(
            ErrorKind::Full,
            "the disk is full; free some space and open the store anew",
        ),
        _ if says("Read-only file system") || says("Permission denied") => Error::new(
            ErrorKind::Denied,
            format!("{said}; mount it writable and be its owner"),
        ),
        rocksdb::ErrorKind::IOError if says("temporarily unavailable") || says("lock hold by") => {
            Error::busy("another program has the database open; wait for it to end")
        }
        rocksdb::ErrorKind::IOError if says("No such file or directory") => {
            corrupt(&format!("a file is missing: {said}"))
        }
        rocksdb::ErrorKind::IOError => {
            Error::precondition(format!("{said}; check the device and open the store anew"))
        }
        rocksdb::ErrorKind::Corruption => corrupt(&said),
        rocksdb::ErrorKind::InvalidArgument if says("does not exist") => {
            corrupt(&format!("a file is missing: {said}"))
        }
        rocksdb::ErrorKind::InvalidArgument if says("olumn famil") => {
            Error::precondition("it is a database of another program; choose another directory")
        }
        rocksdb::ErrorKind::NotSupported => {
            Error::precondition(format!("{said}; use the release that wrote it"))
        }
        _ => Error::internal(format!("{said}; please report it")),
    };
    sorted.source(error)
}

/// What is in the database cannot be right.
pub(crate) fn corrupt(why: &str) -> Error {
    Error::corrupt(format!(
        "the database is damaged: {why}; nothing was changed, restore a copy or import the images \
         anew"
    ))
}
