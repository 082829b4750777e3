//! Space that is kept back: on a full disk the log of the records needs some to be read, and to
//! note a removal.

use cas_host::Dir;
use rustix::fs::{FallocateFlags, OFlags};

const NAME: &str = "reserve";

/// Enough for the log of a few removals, each of which frees more.
const SIZE: u64 = 256 << 10;

/// A file beside a database.
pub(crate) struct Reserve(pub(crate) Dir);

impl Reserve {
    /// Takes it where it is not there; without space there is none, and nothing is lost.
    pub(crate) fn take(&self) {
        let flags = OFlags::WRONLY | OFlags::CREATE;
        if let Ok(None) = self.0.stat(NAME)
            && let Ok(file) = self.0.open_file(NAME, flags, 0o600)
            && rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, SIZE).is_err()
        {
            let _ = self.0.remove(NAME);
        }
    }

    /// Gives it up until the database is opened again; false where there is none.
    pub(crate) fn give_up(&self) -> bool {
        self.0.remove(NAME).unwrap_or(false)
    }
}
