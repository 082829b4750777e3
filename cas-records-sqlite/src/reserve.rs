//! Reserved disk space. On a full disk SQLite needs some space to read the log of the database, and
//! to write a removal to it.

use cas_host::Dir;
use rustix::fs::{FallocateFlags, OFlags};

const NAME: &str = "reserve";

/// Bytes that are enough for the log of a few removals, each of which frees more.
const SIZE: u64 = 256 << 10;

/// The reserve file in the directory of a database.
pub(crate) struct Reserve(pub(crate) Dir);

impl Reserve {
    /// Allocates the file if it is absent. If the disk is too full, the database works without it.
    pub(crate) fn allocate(&self) {
        let flags = OFlags::WRONLY | OFlags::CREATE;
        if let Ok(None) = self.0.stat(NAME)
            && let Ok(file) = self.0.open_file(NAME, flags, 0o600)
            && rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, SIZE).is_err()
        {
            let _ = self.0.remove(NAME);
        }
    }

    /// Removes the file until the database is opened again. Returns false if there was none.
    pub(crate) fn release(&self) -> bool {
        self.0.remove(NAME).unwrap_or(false)
    }
}
