//! Loop devices: block devices that show the bytes of a file.

use std::fs::File;
use std::io;
use std::mem::zeroed;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cas_core::error::{Error, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::calls;

/// The device that returns the numbers of free loop devices.
const CONTROL: &str = "/dev/loop-control";
/// Size in bytes of a sector.
const SECTOR: u32 = 512;
/// Maximum number of free devices that are tried if other processes take them at the same time.
const TRIES: usize = 64;

/// `LOOP_CTL_GET_FREE`: returns the number of a free device, which is made if there is none.
const GET_FREE: u32 = 0x4C82;
/// `LOOP_CONFIGURE`: attaches a file with all settings in one call. It needs Linux 5.8.
const CONFIGURE: u32 = 0x4C0A;
/// `LO_FLAGS_READ_ONLY` and `LO_FLAGS_AUTOCLEAR`. With the second flag, the kernel releases the
/// device when the last user closes it, even if that user was killed.
const FLAGS: u32 = 1 | 4;

/// `struct loop_info64` of the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    identity: [u64; 3],
    offset: u64,
    size_limit: u64,
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    name: [u8; 64],
    encryption_name: [u8; 64],
    key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of the kernel.
#[repr(C)]
struct Config {
    file: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// Attaches a file to a free loop device, read-only and with sectors of 512 bytes. The device is
/// released when the returned file is closed and nothing is mounted from it. The kernel keeps the
/// end of `path` as the name of the attached file.
///
/// # Errors
/// `Unsupported` if this machine has no loop devices; `Busy` if other processes took every free
/// device that was tried; `Denied` without the right to use them; errors of the system.
pub(crate) fn attach(file: &File, path: &Path) -> Result<File> {
    let control = open(CONTROL, OFlags::RDWR)?;
    for _ in 0..TRIES {
        // SAFETY: the call has no argument, and returns a number.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE as _) };
        if number < 0 {
            return Err(io::Error::last_os_error().into());
        }
        let device = format!("/dev/loop{number}");
        let device = open(&device, OFlags::RDONLY)?;
        match configure(&device, file, path) {
            // Another process has attached a file to this device since.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            configured => return Ok(configured.map(|()| device)?),
        }
    }
    Err(Error::busy(
        "other processes take all free loop devices; try again later",
    ))
}

/// Opens a device. A missing device must not look like a missing file of an image.
fn open(device: &str, flags: OFlags) -> Result<File> {
    match calls::open(device, flags | OFlags::CLOEXEC, Mode::empty()) {
        Ok(opened) => Ok(File::from(opened)),
        Err(Errno::NOENT) => Err(Error::unsupported(
            "this machine has no such device; load the module `loop`, or use another snapshotter",
        )
        .subject(device)),
        Err(errno) => Err(Error::from(io::Error::from(errno)).subject(device)),
    }
}

fn configure(device: &File, file: &File, path: &Path) -> io::Result<()> {
    // SAFETY: the structure has only numbers, for which zeros are valid.
    let mut config: Config = unsafe { zeroed() };
    config.file = u32::try_from(file.as_raw_fd()).unwrap_or(u32::MAX);
    config.block_size = SECTOR;
    config.info.flags = FLAGS;
    let name = path.as_os_str().as_bytes();
    // The last byte stays zero.
    let end = &name[name.len().saturating_sub(config.info.name.len() - 1)..];
    config.info.name[..end.len()].copy_from_slice(end);
    // SAFETY: the kernel reads the structure, which outlives the call, and keeps no pointer to it.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE as _, &raw const config) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use cas_core::error::ErrorKind;

    use super::*;

    #[test]
    fn the_structures_have_the_sizes_of_the_kernel() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<Config>(), 304);
    }

    #[test]
    fn a_machine_without_loop_devices_is_told_so() {
        let error = open("/dev/loop-absent", OFlags::RDONLY).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }

    #[test]
    fn a_device_shows_a_file_until_it_is_closed() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 1536]).unwrap();
        let device = match attach(file.as_file(), file.path()) {
            Ok(device) => device,
            Err(error) => {
                eprintln!("SKIPPED: {error}");
                return;
            }
        };
        let mut read = vec![0; 1536];
        device.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(read, [7; 1536]);
        assert!(device.write_at(b"x", 0).is_err(), "it is read-only");
        let name = std::fs::read_link(calls::proc_path(&device)).unwrap();
        let shown = Path::new("/sys/block").join(name.file_name().unwrap());
        let backing = std::fs::read_to_string(shown.join("loop/backing_file")).unwrap();
        assert_eq!(backing.trim_end(), file.path().to_str().unwrap());
        drop(device);
        let backing = std::fs::read_to_string(shown.join("loop/backing_file"));
        assert!(backing.is_err_and(|error| error.kind() == io::ErrorKind::NotFound));
    }
}
