//! Second names for the files of blobs.

use std::fs::{self, File};
use std::path::Path;

use cas_core::layout::blob_path;
use cas_core::{Digest, Error, ErrorKind, Result};
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
            return Ok(file.sync_all()?);
        }
        fs::remove_file(path)?;
        fs::hard_link(self.path.join(blob_path(digest)), path).map_err(|error| {
            match Errno::from_io_error(&error) {
                Some(Errno::XDEV | Errno::OPNOTSUPP | Errno::PERM | Errno::MLINK) => Error::new(
                    ErrorKind::Unsupported,
                    format!("a file cannot be linked there: {error}; copy the blob instead"),
                ),
                _ => error.into(),
            }
        })
    }
}
