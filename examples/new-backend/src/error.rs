//! Errors of SQLite, sorted by what the caller does about them.

use cas_core::{Error, ErrorKind};
use rusqlite::ErrorCode;

/// Why a transaction was not made: an error of ours, or one of SQLite.
pub(crate) struct Failed(pub(crate) Error);

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed(error)
    }
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        let (kind, advice) = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => (ErrorKind::Full, "free some space"),
            Some(ErrorCode::SystemIoFailure) => (ErrorKind::Unavailable, "the device failed"),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => (
                ErrorKind::Corrupt,
                "restore the file, or begin with another directory",
            ),
            Some(ErrorCode::CannotOpen) => (
                ErrorKind::Unavailable,
                "check the rights of the directory, and its disk",
            ),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                (ErrorKind::Denied, "the file cannot be written here")
            }
            _ => (ErrorKind::Internal, "unexpected; please report it"),
        };
        Failed(Error::new(kind, format!("{error}; {advice}")).source(error))
    }
}
