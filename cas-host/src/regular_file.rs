//! Opening a file that may have been replaced by something else.

use std::fs::File;
use std::io;
use std::path::Path;

use cas_core::{Error, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::calls::{self, undisturbed};

/// Opens a regular file for reading. Does not wait if `path` is a pipe.
///
/// # Errors
/// `Corrupt` if `path` is a directory, a symbolic link, a pipe, a socket or a device; errors of the
/// file system.
pub fn open_file(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match calls::open(path, flags, Mode::empty()) {
        // A symbolic link or a socket.
        Err(Errno::LOOP | Errno::NXIO) => None,
        opened => Some(File::from(opened.map_err(io::Error::from)?)),
    };
    if let Some(file) = file
        && undisturbed(|| file.metadata())?.is_file()
    {
        return Ok(file);
    }
    Err(Error::corrupt(
        "expected a regular file, found something else; run `cas fsck --repair`",
    ))
}
