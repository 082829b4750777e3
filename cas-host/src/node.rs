//! Mode and extended attributes of files that are opened only with `O_PATH`: symbolic links,
//! devices and pipes.
//!
//! Linux 6.13 has calls that take a file opened with `O_PATH`, or an open directory and a name. If
//! these calls cannot be used, for example on an older kernel or in a sandbox, this module uses
//! calls that take a path. The path then leads through `/proc`.

use std::ffi::{CStr, CString, c_int, c_long};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::OnceLock;

use rustix::fs::{Mode, XattrFlags};
use rustix::io::{Errno, Result};

use crate::calls::{chmod, lremovexattr, lsetxattr, proc_path, undisturbed};
use crate::proc_path_of;

// The numbers are the same on all architectures that [`NUMBERS_ARE_KNOWN`] names.
pub(crate) const FCHMODAT2: c_long = 452;
pub(crate) const SETXATTRAT: c_long = 463;
pub(crate) const REMOVEXATTRAT: c_long = 466;

const NUMBERS_ARE_KNOWN: bool = cfg!(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
));

/// The value of an attribute, as the kernel defines it.
#[repr(C, align(8))]
struct Value {
    address: u64,
    size: u32,
    flags: u32,
}

/// Sets the mode of a file that was opened with `O_PATH` and is not a symbolic link.
///
/// # Errors
/// `ENOENT` if the calls of Linux 6.13 cannot be used and `/proc` is not mounted; errors of the
/// call, except `EINTR`.
pub fn set_mode(node: BorrowedFd<'_>, mode: Mode) -> Result<()> {
    match needs_proc() {
        true => chmod(&proc_path(&node), mode),
        false => undisturbed(|| fchmodat2(node.as_raw_fd(), mode)),
    }
}

/// Sets the extended attribute `attribute` of the entry `name` in the directory `dir`. Replaces an
/// existing value. Does not follow a symbolic link.
///
/// # Errors
/// `EINVAL` if `name` or `attribute` contains a zero byte; otherwise as [`set_mode`].
pub fn set_attribute(
    dir: BorrowedFd<'_>,
    name: &[u8],
    attribute: &[u8],
    value: &[u8],
) -> Result<()> {
    if needs_proc() {
        let path = proc_path_of(dir, name);
        return lsetxattr(&path, attribute, value, XattrFlags::empty());
    }
    let (name, attribute) = (c_string(name)?, c_string(attribute)?);
    undisturbed(|| setxattrat(dir.as_raw_fd(), &name, &attribute, value))
}

/// Removes the extended attribute `attribute` of the entry `name` in the directory `dir`. Does not
/// follow a symbolic link.
///
/// # Errors
/// `ENODATA` if the entry does not have the attribute; otherwise as [`set_attribute`].
pub fn remove_attribute(dir: BorrowedFd<'_>, name: &[u8], attribute: &[u8]) -> Result<()> {
    if needs_proc() {
        return lremovexattr(&proc_path_of(dir, name), attribute);
    }
    let (name, attribute) = (c_string(name)?, c_string(attribute)?);
    undisturbed(|| removexattrat(dir.as_raw_fd(), &name, &attribute))
}

/// Returns whether these functions need `/proc`, because the calls of Linux 6.13 cannot be used:
/// the kernel does not have them, a sandbox forbids them, or their numbers are not known here.
pub(crate) fn needs_proc() -> bool {
    static NEEDS: OnceLock<bool> = OnceLock::new();
    // A sandbox may forbid system calls that are newer than the sandbox.
    let exists = |called: Result<()>| !matches!(called, Err(Errno::NOSYS | Errno::PERM));
    *NEEDS.get_or_init(|| {
        let has_calls = NUMBERS_ARE_KNOWN
            && exists(fchmodat2(-1, Mode::empty()))
            && exists(setxattrat(-1, c"", c"user.", &[]))
            && exists(removexattrat(-1, c"", c"user."));
        !has_calls
    })
}

fn fchmodat2(node: RawFd, mode: Mode) -> Result<()> {
    let (path, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: the path is a constant that ends with a zero.
    done(unsafe { libc::syscall(FCHMODAT2, node, path, mode.as_raw_mode(), flags) })
}

fn setxattrat(dir: RawFd, name: &CStr, attribute: &CStr, value: &[u8]) -> Result<()> {
    let value = Value {
        address: value.as_ptr() as u64,
        size: u32::try_from(value.len()).map_err(|_| Errno::TOOBIG)?,
        flags: 0,
    };
    // SAFETY: both names end with a zero, and `value` describes memory that lives until the call
    // returns.
    done(unsafe {
        libc::syscall(
            SETXATTRAT,
            dir,
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            attribute.as_ptr(),
            &raw const value,
            size_of::<Value>(),
        )
    })
}

fn removexattrat(dir: RawFd, name: &CStr, attribute: &CStr) -> Result<()> {
    let (name, attribute) = (name.as_ptr(), attribute.as_ptr());
    let flags: c_int = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: both names end with a zero.
    done(unsafe { libc::syscall(REMOVEXATTRAT, dir, name, flags, attribute) })
}

fn c_string(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Errno::INVAL)
}

fn done(result: c_long) -> Result<()> {
    match result {
        -1 => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
        _ => Ok(()),
    }
}
