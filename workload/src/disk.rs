//! Used and free space on a disk.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cas_core::{Context, Result};

/// Returns the size in bytes of all blocks that the files and directories below `directory` take.
pub(crate) fn taken(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).during("list", directory.display())? {
            let entry = entry?;
            let metadata = entry.metadata().during("stat", entry.path().display())?;
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                left.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

/// Returns the free space in bytes of the file system that `directory` is on. Space that is
/// reserved for the superuser does not count as free.
///
/// # Errors
/// `NotFound` if the directory does not exist; errors of the system.
pub fn free_space(directory: &Path) -> Result<u64> {
    let found = rustix::fs::statvfs(directory)
        .map_err(std::io::Error::from)
        .during("read the free space of", directory.display())?;
    Ok(found.f_bavail * found.f_frsize)
}
