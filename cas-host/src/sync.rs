//! Syncing whole file systems, and detecting a reboot.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use cas_core::{Context, Error, Result};

use crate::calls;

/// Syncs the whole file system of `file`.
///
/// # Errors
/// Errors of the device, including errors in writes to files of other processes.
pub fn syncfs(file: &impl AsFd) -> Result<()> {
    calls::syncfs(file)
        .map_err(std::io::Error::from)
        .during("sync", "the file system")
}

/// Checks that [`syncfs`] has written this file to the device. The check is needed because, before
/// Linux 5.8, `syncfs` does not report all failed writes. This function waits for writes to the
/// file that are under way. It starts writes only on a kernel without `sync_file_range`.
///
/// # Errors
/// Errors of the device in writes to the file since it was opened, except errors that an earlier
/// call has reported.
pub fn check_written(of: &impl AsFd) -> io::Result<()> {
    let file = of.as_fd().as_raw_fd();
    // SAFETY: the file descriptor is open during the call, which accesses no memory of this
    // process.
    let done = unsafe { libc::sync_file_range(file, 0, 0, libc::SYNC_FILE_RANGE_WAIT_BEFORE) };
    if done == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // A kernel other than Linux may not have the call.
        error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(calls::fdatasync(of)?),
        error => Err(error),
    }
}

/// Starts writing a part of a file to the device, so that a later sync has less to do. The call is
/// a hint to the kernel: it guarantees nothing, and ignores errors.
pub fn begin_write(file: &impl AsFd, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return;
    };
    let file = file.as_fd().as_raw_fd();
    // SAFETY: the file descriptor is open during the call, which accesses no memory of this
    // process.
    let _ = unsafe { libc::sync_file_range(file, offset, length, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Returns the ID of this boot. Unsynced bytes that were written in another boot may be lost.
///
/// # Errors
/// `NotFound` if `/proc` is not mounted or does not have the ID; `Unsupported` if the ID is empty;
/// errors of reading `/proc`.
pub fn boot_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(PATH).during("read", PATH)?;
    let id = text.trim();
    if id.is_empty() {
        return Err(Error::unsupported(
            "expected a boot ID, found an empty file; use a kernel or sandbox that provides the ID",
        )
        .operation("read")
        .subject(PATH));
    }
    Ok(id.to_owned())
}
