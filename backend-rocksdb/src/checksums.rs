//! Checks the checksums of all blocks of the table files of a database. The crate `rocksdb` has no
//! function for this, so this module calls the C interface of RocksDB.

use std::ffi::{CStr, c_char};
use std::ptr;

use cas_core::{Error, Result};
use librocksdb_sys::{rocksdb_free, rocksdb_verify_checksum};
use rocksdb::{AsRawPtr, DB};

use crate::error::corrupt;

/// Reads all table files and checks the checksums of their blocks. Does not read blob files.
///
/// # Errors
/// `Corrupt` if a checksum is wrong, or if a file is missing or truncated; `FailedPrecondition` for
/// other errors of the file system.
pub(crate) fn check(db: &DB) -> Result<()> {
    let Some(message) = verify(db) else {
        return Ok(());
    };
    if message.starts_with("IO error") && !message.contains("No such file or directory") {
        return Err(Error::precondition(message).advice("check the device and reopen the store"));
    }
    Err(corrupt(&message))
}

/// Returns RocksDB's message about the first damage, or `None` if there is none.
fn verify(db: &DB) -> Option<String> {
    let mut message: *mut c_char = ptr::null_mut();
    // SAFETY: the pointer to the database is valid as long as `db`. If there is an error, RocksDB
    // writes a pointer to a text that it has allocated to `message`.
    unsafe { rocksdb_verify_checksum(db.as_raw_ptr(), &raw mut message) };
    if message.is_null() {
        return None;
    }
    // SAFETY: the text ends with a zero byte.
    let text = unsafe { CStr::from_ptr(message) }
        .to_string_lossy()
        .into_owned();
    // SAFETY: the text belongs to the caller, and is not used any more.
    unsafe { rocksdb_free(message.cast()) };
    Some(text)
}
