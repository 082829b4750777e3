//! The file that redb reads and writes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use redb::StorageBackend;

use cas_kv::Space;

use crate::head::Head;

/// The database file, with the reserve that is removed when the disk is full.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) file: File,
    pub(crate) space: Space,
    /// The copy of the start of the file. `None` for a file that is being created.
    pub(crate) head: Option<Head>,
}

impl Disk {
    /// Calls `work`. If the disk is full, removes the reserve and calls `work` once more, because
    /// redb accepts no more writes after a write that failed.
    fn with_reserve(&self, work: impl Fn() -> io::Result<()>) -> io::Result<()> {
        match work() {
            Err(error) if is_full(&error) && self.space.release_reserve() => work(),
            done => done,
        }
    }
}

/// Returns whether the disk or the quota of the user is used up.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// The file is locked by [`crate::file::open`].
impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with_reserve(|| self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with_reserve(|| self.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with_reserve(|| self.file.write_all_at(data, offset))
    }

    fn close(&self) -> io::Result<()> {
        if let Some(head) = &self.head {
            head.save(&self.file);
        }
        // Closing is not enough: a child between fork and exec may share the open file.
        self.file.unlock()
    }
}
