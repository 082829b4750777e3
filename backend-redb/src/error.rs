//! Errors of redb, classified by what the caller can do about them.

use std::io;

use cas_core::{Error, ErrorKind};
use cas_kv::Failed;

/// Converts an error of redb inside a transaction.
pub(crate) fn broken(error: impl Into<redb::Error>) -> Failed {
    Failed::Broken(classify(error))
}

/// Converts an error of redb.
pub(crate) fn classify(error: impl Into<redb::Error>) -> Error {
    let error = error.into();
    match error {
        redb::Error::Io(error) => {
            // A limit on the size of files is not a full disk.
            let is_limited = error.kind() == io::ErrorKind::FileTooLarge;
            let error = Error::from(error);
            match error.kind() {
                ErrorKind::Full if !is_limited => Error::new(
                    ErrorKind::Full,
                    "the disk is full; free some space and reopen the store",
                )
                .source(error),
                _ => error,
            }
        }
        redb::Error::PreviousIo => Error::precondition(
            "an earlier read or write failed; check the device and reopen the store",
        ),
        redb::Error::Corrupted(why) => corrupt(&why),
        redb::Error::UpgradeRequired(found) => Error::precondition(format!(
            "the file has format {found} of redb, which this release of cas does not read; use the \
             release of cas that wrote the file"
        )),
        redb::Error::DatabaseAlreadyOpen => {
            Error::busy("another program has the file open; wait until it closes the file")
        }
        other => Error::internal(format!("redb failed: {other}; please report it")).source(other),
    }
}

/// Returns the error for a damaged file. `why` describes the damage.
pub(crate) fn corrupt(why: &str) -> Error {
    Error::corrupt(format!("the file is damaged: {why}"))
        .advice("run `cas fsck --repair`, restore a copy, or import the images into a new store")
}
