//! A copy of the start of the database file: its first 4 KiB. redb cannot read the rest of the file
//! without its start.
//!
//! A process that has the file open for writing makes the copy when it closes the file. If the
//! start of the file is damaged later, a repair reads the copy instead of the start.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cas_core::Result;

use crate::error::corrupt;

/// Number of bytes that are copied: the first page, in which redb has the roots of its tables.
const SIZE: usize = 4 << 10;

/// The copy next to a database file. It ends with the length of the file, as 8 bytes.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    copy: cas_kv::Head,
    /// Whether redb has opened the file. redb also closes a file that it could not open. The start
    /// of such a file must not replace the copy.
    opened: Arc<AtomicBool>,
}

impl Head {
    /// Returns the copy for the database file at `database`. The copy may not exist yet.
    pub(crate) fn of(database: &Path) -> Self {
        Head {
            copy: cas_kv::Head::of(database),
            opened: Arc::default(),
        }
    }

    /// Records that redb has opened the file. Only then does [`Self::save`] make a copy.
    pub(crate) fn set_opened(&self) {
        self.opened.store(true, Ordering::Release);
    }

    /// Copies the start of the file if redb has opened the file. Ignores errors, because only a
    /// repair needs the copy.
    pub(crate) fn save(&self, file: &File) {
        if self.opened.load(Ordering::Acquire) {
            let _ = self.copy.save(|copy| {
                let mut data = vec![0; SIZE];
                file.read_exact_at(&mut data, 0)?;
                data.extend(file.metadata()?.len().to_le_bytes());
                copy.write_all(&data)
            });
        }
    }

    /// Returns the copy, and the length of the file from which the copy was made.
    ///
    /// # Errors
    /// `Corrupt` if the copy is missing or not complete; errors of the file system.
    pub(crate) fn load(&self) -> Result<(Vec<u8>, u64)> {
        let none = || corrupt("the copy of its start is missing or not complete");
        let mut copy = self.copy.open()?.ok_or_else(none)?;
        let (mut start, mut length) = (vec![0; SIZE], [0; 8]);
        let read = copy.read_exact(&mut start);
        match read.and_then(|()| copy.read_exact(&mut length)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(none()),
            read => Ok(read.map(|()| (start, u64::from_le_bytes(length)))?),
        }
    }
}
