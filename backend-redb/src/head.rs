//! A copy of the start of the file, which leads to everything else in it.
//!
//! The copy is made when the file is closed. If the start of the file is damaged later, a repair
//! reads the file with the copy instead.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cas_kv::HEAD;

/// Number of bytes that are copied: the first page, in which redb has the roots of its tables.
const SIZE: usize = 4 << 10;

/// The copy next to a database file. It ends with the length of the file, as 8 bytes.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    path: PathBuf,
    /// Whether redb has opened the file. It also closes a file that it could not open, whose start
    /// must not replace the copy.
    opened: Arc<AtomicBool>,
}

impl Head {
    /// Returns the copy for the database file at `database`. It may not exist yet.
    pub(crate) fn of(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push(HEAD);
        Head {
            path: path.into(),
            opened: Arc::default(),
        }
    }

    /// Notes that the file was opened.
    pub(crate) fn set_opened(&self) {
        self.opened.store(true, Ordering::Release);
    }

    /// Copies the start of the file if it was opened. Without a copy, less can be repaired, so an
    /// error is ignored.
    pub(crate) fn save(&self, file: &File) {
        if self.opened.load(Ordering::Acquire) {
            let _ = self.write(file);
        }
    }

    fn write(&self, file: &File) -> io::Result<()> {
        let mut data = vec![0; SIZE];
        file.read_exact_at(&mut data, 0)?;
        data.extend(file.metadata()?.len().to_le_bytes());
        let mut copy = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&self.path)?;
        copy.write_all(&data)
    }

    /// Returns the copy and the length of the file that it was made of.
    ///
    /// # Errors
    /// `NotFound` if the copy is missing; `UnexpectedEof` if it is not complete.
    pub(crate) fn load(&self) -> io::Result<(Vec<u8>, u64)> {
        let data = fs::read(&self.path)?;
        let (head, length) = data
            .split_at_checked(SIZE)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let length = length
            .try_into()
            .map_err(|_| io::ErrorKind::UnexpectedEof)?;
        Ok((head.to_vec(), u64::from_le_bytes(length)))
    }
}
