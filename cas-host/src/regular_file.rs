//! Opening and reading a file that may have been replaced by something else.

use std::fs::File;
use std::io::{self, Read};
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

/// Reads a regular file as a whole. Does not wait if `path` is a pipe. Returns the bytes of the
/// file.
///
/// # Errors
/// As [`open_file`]; errors of the file system.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_file(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use cas_core::ErrorKind;
    use rustix::fs::{CWD, FileType};

    use super::*;

    #[test]
    fn only_a_regular_file_is_read() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        std::fs::write(at("file"), "bytes").unwrap();
        assert_eq!(read_file(&at("file")).unwrap(), b"bytes");
        let kind = |name: &str| read_file(&at(name)).unwrap_err().kind();
        assert_eq!(kind("absent"), ErrorKind::NotFound);
        std::fs::create_dir(at("directory")).unwrap();
        symlink(at("file"), at("link")).unwrap();
        for (name, node) in [("pipe", FileType::Fifo), ("socket", FileType::Socket)] {
            calls::mknodat(CWD, &at(name), node, Mode::RWXU, 0).unwrap();
        }
        for name in ["directory", "link", "pipe", "socket"] {
            assert_eq!(kind(name), ErrorKind::Corrupt, "{name}");
        }
    }
}
