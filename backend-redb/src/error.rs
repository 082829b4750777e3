//! Errors of redb, sorted by what the caller does about them.

use cas_core::{Error, Kind};

/// Why a change was not made.
pub(crate) enum Failed {
    /// It does not fit what is there, and has changed nothing: others in its transaction go on.
    Refused(Error),
    /// The engine failed in the middle: the transaction is lost.
    Broken(Error),
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Refused(error) | Failed::Broken(error) => error,
        }
    }
}

macro_rules! broken {
    ($($engine:ident),*) => {$(
        impl From<redb::$engine> for Failed {
            fn from(error: redb::$engine) -> Self {
                Failed::Broken(sort(error))
            }
        }
    )*};
}
broken!(
    StorageError,
    TableError,
    TransactionError,
    CommitError,
    SetDurabilityError
);

/// The error of ours that stands for one of redb.
pub(crate) fn sort(error: impl Into<redb::Error>) -> Error {
    let error = error.into();
    match error {
        redb::Error::Io(error) => {
            let error = Error::from(error);
            match error.kind() {
                Kind::Full => Error::new(
                    Kind::Full,
                    "the disk is full; free some space and open the store anew",
                )
                .source(error),
                _ => error,
            }
        }
        redb::Error::PreviousIo => Error::precondition(
            "an earlier read or write failed; check the device and open the store anew",
        ),
        redb::Error::Corrupted(why) => corrupt(&why),
        redb::Error::UpgradeRequired(found) => Error::precondition(format!(
            "the file has format {found} of redb, which this version does not read; use the \
             release that wrote it"
        )),
        redb::Error::DatabaseAlreadyOpen => Error::busy("another program has the file open"),
        other => Error::internal(format!("{other}; please report it")).source(other),
    }
}

/// What is in the file cannot be right.
pub(crate) fn corrupt(why: &str) -> Error {
    Error::corrupt(format!(
        "the file is damaged: {why}; nothing was changed, restore a copy or import the images anew"
    ))
}
