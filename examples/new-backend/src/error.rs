//! Errors of SQLite, classified by what the caller can do about them.

use cas_core::{Error, ErrorKind};
use rusqlite::ErrorCode;

/// Why a transaction or a read failed: an error of this store or of SQLite.
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
            Some(ErrorCode::SystemIoFailure) => (ErrorKind::Unavailable, "check the device"),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => (
                ErrorKind::Corrupt,
                "restore the file, or choose another directory",
            ),
            Some(ErrorCode::CannotOpen) => (
                ErrorKind::Unavailable,
                "check the permissions of the directory, and the disk",
            ),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                (ErrorKind::Denied, "make the file writable")
            }
            _ => (ErrorKind::Internal, "please report it"),
        };
        Failed(Error::new(kind, format!("{error}; {advice}")).source(error))
    }
}
