//! Whole file systems, and the run of the kernel that may have left something unwritten.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

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

/// Whether what [`syncfs`] has written of this file is on the device, which kernels before 5.8 do
/// not say of all files. It waits for what is being written, and begins nothing.
///
/// # Errors
/// Those of the device, of writes since the file was opened that nobody has been told of.
pub fn check_written(of: &impl AsFd) -> io::Result<()> {
    let file = of.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for the time of the call, which touches no memory of ours.
    let done = unsafe { libc::sync_file_range(file, 0, 0, libc::SYNC_FILE_RANGE_WAIT_BEFORE) };
    match done {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // A kernel that is not Linux may not have it.
            error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(rustix::fs::fdatasync(of)?),
            error => Err(error),
        },
    }
}

/// Has the kernel begin to write a part of a file to its device, so that the sync that follows
/// some day finds less to do. A hint: nothing is promised, and nothing fails.
pub fn begin_write(file: &impl AsFd, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return;
    };
    let file = file.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for the time of the call, which touches no memory of ours.
    let _ = unsafe { libc::sync_file_range(file, offset, length, libc::SYNC_FILE_RANGE_WRITE) };
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
