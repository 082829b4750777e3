//! Opening and locking the database file.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use cas_core::{Error, Result};
use cas_kv::{FileNames, OpenMode};
use rustix::fs::OFlags;

/// File names in the directory of a store.
pub(crate) const NAMES: FileNames = FileNames {
    engine: "redb",
    database: "cas.redb",
    new: "cas.redb.new",
};

/// Opens or creates the file, and locks it against other programs that use redb files. Returns the
/// file. In read-only mode, other programs may still read the file. Does not follow a symbolic
/// link, because another user may have placed it there, and does not wait if `path` is a pipe.
///
/// # Errors
/// `Corrupt` if the file is empty; `Busy` if another program has it open; errors of the file
/// system.
pub(crate) fn open(path: &Path, mode: OpenMode) -> Result<File> {
    let name = NAMES.database;
    let (new, writable) = (mode == OpenMode::Create, mode.is_writable());
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .write(writable)
        .create_new(new)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if !new && file.metadata()?.len() == 0 {
        return Err(Error::corrupt(format!("{name} is empty"))
            .advice("restore a copy, or let `cas fsck --repair` make a new database"));
    }
    let locked = if writable {
        file.try_lock()
    } else {
        file.try_lock_shared()
    };
    match locked {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::busy(format!(
            "another program has {name} open; wait until it closes the file"
        ))),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}
