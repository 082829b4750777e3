//! Whole file systems, and the run of the kernel that may have left something unwritten.

use std::fs;
use std::os::fd::AsFd;

use cas_core::{Context, Error, Result};

/// Writes everything that the file system of `file` holds back to its device.
///
/// # Errors
/// Those of the device, also for files that others wrote since the last sync.
pub fn syncfs(file: &impl AsFd) -> Result<()> {
    rustix::fs::syncfs(file)
        .map_err(std::io::Error::from)
        .during("sync", "the file system")
}

/// The identity of this run of the kernel: another one means that unsynced bytes were lost.
///
/// # Errors
/// `Unavailable` or `NotFound` where `/proc` is not mounted.
pub fn boot_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(PATH).during("read", PATH)?;
    let id = text.trim();
    match id.is_empty() {
        true => Err(Error::unsupported("is empty")
            .operation("read")
            .subject(PATH)),
        false => Ok(id.to_owned()),
    }
}
