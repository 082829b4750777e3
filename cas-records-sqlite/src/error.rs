//! Converts errors of SQLite to errors of `cas`.

use std::error::Error as _;
use std::io;

use cas_core::{Error, ErrorKind, Result};
use cas_host::{Dir, calls};
use rusqlite::{ErrorCode, ffi};
use rustix::io::Errno;

/// Maximum number of attempts of work that others disturb.
const TRIES: usize = 16;

/// Runs `work`, which opens a database or makes a transaction, and returns its result. Runs `work`
/// again, up to [`TRIES`] times in all, if it fails because of a signal (`EINTR`), or because of a
/// stale file handle (`ESTALE`) in a call other than a sync.
///
/// SQLite repeats only some of its system calls. If another call of a commit fails, also the sync
/// of the log, SQLite rolls the whole transaction back: other connections have not seen it, and the
/// next transaction overwrites it in the log. After a signal, a sync can be repeated
/// ([`cas_host::calls`]). After any other error, a second sync may succeed although data was lost.
pub(crate) fn undisturbed<T>(mut work: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 1..TRIES {
        match work() {
            Err(error) if is_disturbed(&error) => {}
            done => return done,
        }
    }
    work()
}

fn is_disturbed(error: &Error) -> bool {
    let errno = system_error(error).and_then(Errno::from_io_error);
    matches!(errno, Some(Errno::INTR | Errno::STALE))
}

/// Returns the reason of an error of SQLite if the failed work can be repeated. `last` is the last
/// error of the system.
fn disturbance(error: &rusqlite::Error, last: &io::Error) -> Option<Errno> {
    let of_system = [ErrorCode::CannotOpen, ErrorCode::SystemIoFailure].map(Some);
    let syncs = [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_DIR_FSYNC].map(Some);
    let errno =
        Errno::from_io_error(last).filter(|_| of_system.contains(&error.sqlite_error_code()));
    errno.filter(|errno| match *errno {
        Errno::INTR => true,
        Errno::STALE => !syncs.contains(&error.sqlite_extended_error_code()),
        _ => false,
    })
}

/// Returns an error of SQLite, classified by what the caller must do about it.
pub(crate) fn classify(error: rusqlite::Error) -> Error {
    // SQLite names the call that failed. The reason is the last error of the system.
    let last = io::Error::last_os_error();
    let disturbance = disturbance(&error, &last);
    let cause = Error::from(last);
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
        _ if lacks_table(&error) => (
            ErrorKind::Corrupt,
            "another program has changed the tables of the database of records; run `cas fsck \
             --repair`, which replaces it",
        ),
        _ => (ErrorKind::Internal, "please report it"),
    };
    let classified = Error::new(kind, format!("{error}; {advice}"));
    match disturbance {
        Some(errno) => classified.source(io::Error::from(errno)),
        None => classified.source(error),
    }
}

/// Returns whether the database lacks a table, a column, or the row of the table `revisions`.
fn lacks_table(error: &rusqlite::Error) -> bool {
    let text = error.to_string();
    matches!(error, rusqlite::Error::QueryReturnedNoRows)
        || text.starts_with("no such table")
        || text.starts_with("no such column")
}

fn is_too_large(cause: &Error) -> bool {
    system_error(cause).is_some_and(|error| error.kind() == io::ErrorKind::FileTooLarge)
}

/// Returns the error of the system that is the source of an error.
fn system_error(error: &Error) -> Option<&io::Error> {
    error.source()?.downcast_ref::<io::Error>()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_repeated_if_others_disturb_it() {
        let attempts = |errors: &[Errno]| {
            let mut made = 0;
            let outcome = undisturbed(|| {
                made += 1;
                let failed = |errno: &Errno| Err(io::Error::from(*errno).into());
                errors.get(made - 1).map_or(Ok(()), failed)
            });
            (outcome.is_ok(), made)
        };
        assert_eq!(attempts(&[]), (true, 1));
        assert_eq!(attempts(&[Errno::INTR, Errno::STALE]), (true, 3));
        assert_eq!(attempts(&[Errno::INTR; 99]), (false, TRIES));
        assert_eq!(attempts(&[Errno::IO]), (false, 1));
    }

    #[test]
    fn a_sync_is_repeated_only_after_a_signal() {
        let found = |code, errno: Errno| {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            disturbance(&error, &errno.into())
        };
        let (opening, sync) = (ffi::SQLITE_CANTOPEN, ffi::SQLITE_IOERR_FSYNC);
        assert_eq!(found(opening, Errno::STALE), Some(Errno::STALE));
        assert_eq!(found(opening, Errno::INTR), Some(Errno::INTR));
        assert_eq!(found(sync, Errno::INTR), Some(Errno::INTR));
        assert_eq!(found(sync, Errno::STALE), None);
        assert_eq!(found(sync, Errno::IO), None);
        // The last error of the system is older than these errors.
        assert_eq!(found(ffi::SQLITE_BUSY, Errno::INTR), None);
        assert_eq!(found(ffi::SQLITE_CORRUPT, Errno::INTR), None);
    }
}
