//! The file of a store, as the file system has it.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use cas_core::{Error, Result};
use cas_kv::Names;

/// What is in the directory of a store.
pub(crate) const NAMES: Names = Names {
    engine: "redb",
    database: "cas.redb",
    new: "cas.redb.new",
};

/// Opens the file, or makes it, and locks it: other programs that read such files heed this lock.
/// Never through a symbolic link to what is not ours.
pub(crate) fn open(path: &Path, new: bool) -> Result<File> {
    let name = NAMES.database;
    if path.is_dir() {
        return Err(Error::precondition(format!(
            "expected the file {name}, found a directory; choose another place"
        )));
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(new)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    if !new && file.metadata()?.len() == 0 {
        return Err(Error::corrupt(format!(
            "{name} is empty, and no store ever is; restore a copy, or remove the file to begin \
             anew"
        )));
    }
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::busy(format!(
            "another program has {name} open; wait for it to end"
        ))),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}
