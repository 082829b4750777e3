//! Errors of RocksDB, classified by what the caller can do about them.

use cas_core::{Error, ErrorKind};
use cas_kv::Failed;

/// What the system calls a disk that is full, a quota that is used up, and a file that is too
/// large.
const FULL: &[&str] = &[
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
];

/// Converts an error of RocksDB inside a transaction.
pub(crate) fn broken(error: rocksdb::Error) -> Failed {
    Failed::Broken(classify(error))
}

/// Converts an error of RocksDB. The kinds of RocksDB's errors are too coarse, so the message is
/// searched for words, too.
pub(crate) fn classify(error: rocksdb::Error) -> Error {
    let message = error.to_string();
    let has = |words: &str| message.contains(words);
    let classified = match error.kind() {
        _ if FULL.iter().any(|words| has(words)) => Error::new(
            ErrorKind::Full,
            "the disk is full, or a quota or the limit on the size of files (`ulimit -f`) is \
             reached; free some space or raise the limit, and reopen the store",
        ),
        _ if has("Too many open files") => {
            Error::out_of_range(format!("{message}; raise the limit with `ulimit -n`"))
        }
        _ if has("Read-only file system") || has("Permission denied") => Error::new(
            ErrorKind::Denied,
            format!(
                "{message}; check the permissions of the directory of the store, and whether its \
                 file system is writable"
            ),
        ),
        rocksdb::ErrorKind::IOError if has("temporarily unavailable") || has("lock hold by") => {
            Error::busy("another program has the database open; wait until that program ends")
        }
        rocksdb::ErrorKind::IOError if has("No such file or directory") => {
            corrupt(&format!("a file is missing: {message}"))
        }
        rocksdb::ErrorKind::IOError => {
            Error::precondition(format!("{message}; check the device and reopen the store"))
        }
        rocksdb::ErrorKind::Corruption => corrupt(&message),
        rocksdb::ErrorKind::InvalidArgument if has("does not exist") => {
            corrupt(&format!("a file is missing: {message}"))
        }
        rocksdb::ErrorKind::InvalidArgument if has("olumn famil") => {
            Error::precondition("the database belongs to another program; choose another directory")
        }
        rocksdb::ErrorKind::NotSupported => Error::precondition(format!(
            "{message}; use the release of cas that wrote the database"
        )),
        _ => Error::internal(format!("RocksDB failed: {message}; please report it")),
    };
    classified.source(error)
}

/// Returns the error for a damaged database. `why` describes the damage.
pub(crate) fn corrupt(why: &str) -> Error {
    Error::corrupt(format!("the database is damaged: {why}"))
        .advice("run `cas fsck --repair`, restore a copy, or import the images into a new store")
}
