//! Converts errors of SQLite to errors of `cas`.

use std::error::Error as _;
use std::io;

use cas_core::{Error, ErrorKind};
use cas_host::{Dir, calls};
use rusqlite::ErrorCode;

/// Returns an error of SQLite, classified by what the caller must do about it.
pub(crate) fn classify(error: rusqlite::Error) -> Error {
    // SQLite names the call that failed. The reason is the last error of the system.
    let cause = Error::from(io::Error::last_os_error());
    let full = (ErrorKind::Full, "free some disk space");
    let denied = (
        ErrorKind::Denied,
        "allow this user to read and write the database of records and its directory",
    );
    let (kind, advice) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (ErrorKind::Busy, "retry when the other writer is done")
        }
        Some(ErrorCode::DiskFull) => full,
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => denied,
        Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) => match cause.kind() {
            // Too many open files: the message of `cause` names the limit to raise.
            ErrorKind::OutOfRange => return cause,
            // The limit on the size of files: the message of `cause` names it.
            ErrorKind::Full if is_too_large(&cause) => return cause,
            ErrorKind::Full => full,
            ErrorKind::Denied => denied,
            _ => (ErrorKind::Unavailable, "check the device and the path"),
        },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => (
            ErrorKind::Corrupt,
            "the database of records is damaged; run `cas fsck --repair`, which replaces it",
        ),
        _ => (ErrorKind::Internal, "please report it"),
    };
    Error::new(kind, format!("{error}; {advice}")).source(error)
}

fn is_too_large(cause: &Error) -> bool {
    let io = cause
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>());
    io.is_some_and(|error| error.kind() == io::ErrorKind::FileTooLarge)
}

/// Returns a `Full` error if a database in `dir` could not be opened because the disk has no free
/// inodes, otherwise returns `error`. SQLite does not report this reason: if it cannot create a
/// file, it tries to open the file, and reports only that this failed.
pub(crate) fn without_inodes(error: Error, dir: &Dir) -> Error {
    let has_none = || {
        let found = calls::fstatvfs(dir);
        found.is_ok_and(|found| found.f_files > 0 && found.f_favail == 0)
    };
    if error.kind() == ErrorKind::Unavailable && has_none() {
        let why = "the disk has no inode left for the database; remove files to free inodes";
        return Error::new(ErrorKind::Full, why).source(error);
    }
    error
}
