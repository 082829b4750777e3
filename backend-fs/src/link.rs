//! Reflinks and hard links of the files of blobs.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cas_core::layout::blob_path;
use cas_core::{Digest, Error, ErrorKind, Result};
use cas_host::proc_path_of;
use rustix::fs::ioctl_ficlone;
use rustix::io::Errno;

use crate::shared::Shared;

impl Shared {
    /// Makes `path` a reflink of the blob, or a hard link where the file system has no reflinks.
    pub(crate) fn link(&self, digest: &Digest, path: &Path) -> Result<()> {
        let absent = || Error::not_found("no such blob in the store; check the digest");
        let (blob, _) = self.blobs.open_blob(digest)?.ok_or_else(absent)?;
        let file = File::create_new(path)?;
        if ioctl_ficlone(&file, &blob).is_ok() {
            // A file that is not durable must not be left behind.
            return Ok(file.sync_all().or_else(|error| {
                fs::remove_file(path)?;
                Err(error)
            })?);
        }
        fs::remove_file(path)?;
        // This path leads to the directory that was opened, even if it has moved since.
        let blob = proc_path_of(self.layout.root.as_fd(), blob_path(digest).as_bytes());
        fs::hard_link(OsStr::from_bytes(&blob), path).map_err(|error| {
            match Errno::from_io_error(&error) {
                Some(Errno::XDEV | Errno::OPNOTSUPP | Errno::PERM | Errno::MLINK) => Error::new(
                    ErrorKind::Unsupported,
                    format!("cannot link the blob to this path: {error}; copy the blob instead"),
                ),
                _ => error.into(),
            }
        })
    }
}
