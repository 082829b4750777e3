//! Mounting the file system.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use cas_core::{Context, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

/// The device whose open file descriptors are sessions.
const DEVICE: &str = "/dev/fuse";

/// Mounts a new file system at `directory`, which must exist. Returns the file descriptor of the
/// session. Reads of files in the file system wait until a process serves the session. The reads
/// fail if no process has the descriptor any more.
///
/// # Errors
/// `Unsupported` if the kernel does not support FUSE; `Denied` without the right to mount; errors
/// of the file system.
pub fn mount(directory: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let opened = rustix::fs::open(DEVICE, flags, Mode::empty());
    let opened = opened.map_err(|errno| match errno {
        Errno::NOENT => no_fuse(errno),
        errno => explain(errno),
    });
    let device = opened.during("open", DEVICE)?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
        device.as_raw_fd()
    );
    let options = CString::new(options)
        .map_err(|_| Error::internal("the options of a mount have a NUL; please report it"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    rustix::mount::mount("cas", directory, "fuse.cas", flags, options.as_c_str())
        .map_err(explain)
        .during("mount on", directory.display())?;
    Ok(device)
}

fn explain(errno: Errno) -> Error {
    match errno {
        Errno::NODEV | Errno::NXIO => no_fuse(errno),
        Errno::PERM | Errno::ACCESS => {
            let why = "layers that are read on demand need the right to mount; run the \
                       command as root";
            Error::new(ErrorKind::Denied, why).source(std::io::Error::from(errno))
        }
        errno => std::io::Error::from(errno).into(),
    }
}

fn no_fuse(errno: Errno) -> Error {
    let why = "layers that are read on demand need FUSE, which the kernel does not support; load \
               the module `fuse`, or pull the image without --lazy";
    Error::unsupported(why).source(std::io::Error::from(errno))
}
