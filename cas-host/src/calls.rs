//! System calls on files and mounts. A call is repeated if a signal or a change by another machine
//! makes it fail.
//!
//! On network and user-space file systems, a signal may interrupt any of these calls (`EINTR`), and
//! after a change by another machine, a call may find that what it has looked up is stale
//! (`ESTALE`). In both cases, the call has changed nothing. The program that embeds this library
//! may handle signals of its own. The standard library repeats only some of the calls, and `rustix`
//! repeats none.
//!
//! A sync is repeated only after a signal. The signal ends only the wait, and the kernel continues
//! to write. After any other error, a second sync may report success although data was lost.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dev, FallocateFlags, FileType, FlockOperation, Gid, Mode, OFlags, RawDir,
    RenameFlags, SeekFrom, Stat, StatVfs, Statx, StatxFlags, Timestamps, Uid, XattrFlags,
};
use rustix::io::{Errno, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use rustix::path::Arg;

/// Maximum number of attempts of a call that finds something stale, or that the kernel cannot
/// resolve at the moment.
pub(crate) const TRIES: usize = 16;

/// Size in bytes of the buffer for entries of a directory.
const ENTRIES: usize = 64 << 10;

/// An error of a system call.
pub trait CallError {
    /// Returns the error number that the kernel reported, or `None` if the error is not from the
    /// kernel.
    fn number(&self) -> Option<Errno>;
}

impl CallError for Errno {
    fn number(&self) -> Option<Errno> {
        Some(*self)
    }
}

impl CallError for io::Error {
    fn number(&self) -> Option<Errno> {
        Errno::from_io_error(self)
    }
}

/// The attempts of a call that may fail because of others.
#[derive(Default)]
struct Attempts {
    stale: usize,
}

impl Attempts {
    /// Returns whether a call that has failed with `error` is to be repeated: always after a
    /// signal, and up to [`TRIES`] attempts if something is stale.
    fn again(&mut self, error: &impl CallError) -> bool {
        match error.number() {
            Some(Errno::INTR) => true,
            Some(Errno::STALE) => {
                self.stale += 1;
                self.stale < TRIES
            }
            _ => false,
        }
    }
}

/// Runs `call`, and returns its result. Runs `call` again after each `EINTR`. Also runs it again
/// after `ESTALE`, but returns this error when `call` fails with it for the 16th time. Use this
/// function for system calls that the standard library makes.
///
/// # Errors
/// Errors of the call, except `EINTR`.
pub fn undisturbed<T, E: CallError>(
    mut call: impl FnMut() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    let mut attempts = Attempts::default();
    loop {
        match call() {
            Err(error) if attempts.again(&error) => {}
            done => return done,
        }
    }
}

/// Runs a sync, and runs it again if a signal interrupts it. Returns its result.
fn uninterrupted<T>(mut sync: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match sync() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Returns the path in `/proc` of an open file. The path leads to that file only in this process,
/// and only while the file is open.
pub fn proc_path(file: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Defines functions that repeat the function of `rustix` with the same name, as `$again` does.
macro_rules! repeated {
    ($again:ident: $($module:ident::$name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {$(
        #[doc = concat!("Calls `", stringify!($name), "`. Repeats the call as this module explains.")]
        /// Returns the result of the call.
        ///
        /// # Errors
        /// Errors of the call, except `EINTR`.
        pub fn $name($($argument: $type),*) -> Result<$result> {
            $again(|| rustix::$module::$name($($argument),*))
        }
    )*};
}

repeated! { uninterrupted:
    fs::fsync(file: impl AsFd + Copy) -> ();
    fs::fdatasync(file: impl AsFd + Copy) -> ();
    fs::syncfs(file: impl AsFd + Copy) -> ();
}

repeated! { undisturbed:
    fs::open(path: impl Arg + Copy, flags: OFlags, mode: Mode) -> OwnedFd;
    fs::openat(dir: impl AsFd + Copy, path: impl Arg + Copy, flags: OFlags, mode: Mode) -> OwnedFd;
    fs::fstat(file: impl AsFd + Copy) -> Stat;
    fs::statx(
        dir: impl AsFd + Copy, path: impl Arg + Copy, flags: AtFlags, wanted: StatxFlags
    ) -> Statx;
    fs::statat(dir: impl AsFd + Copy, path: impl Arg + Copy, flags: AtFlags) -> Stat;
    fs::fstatvfs(file: impl AsFd + Copy) -> StatVfs;
    fs::mkdirat(dir: impl AsFd + Copy, path: impl Arg + Copy, mode: Mode) -> ();
    fs::mknodat(
        dir: impl AsFd + Copy, path: impl Arg + Copy, kind: FileType, mode: Mode, device: Dev
    ) -> ();
    fs::symlinkat(target: impl Arg + Copy, dir: impl AsFd + Copy, path: impl Arg + Copy) -> ();
    fs::linkat(
        from: impl AsFd + Copy, path: impl Arg + Copy,
        to: impl AsFd + Copy, new: impl Arg + Copy, flags: AtFlags
    ) -> ();
    fs::unlinkat(dir: impl AsFd + Copy, path: impl Arg + Copy, flags: AtFlags) -> ();
    fs::renameat(
        from: impl AsFd + Copy, path: impl Arg + Copy, to: impl AsFd + Copy, new: impl Arg + Copy
    ) -> ();
    fs::renameat_with(
        from: impl AsFd + Copy, path: impl Arg + Copy,
        to: impl AsFd + Copy, new: impl Arg + Copy, flags: RenameFlags
    ) -> ();
    fs::fchown(file: impl AsFd + Copy, user: Option<Uid>, group: Option<Gid>) -> ();
    fs::chownat(
        dir: impl AsFd + Copy, path: impl Arg + Copy,
        user: Option<Uid>, group: Option<Gid>, flags: AtFlags
    ) -> ();
    fs::fchmod(file: impl AsFd + Copy, mode: Mode) -> ();
    fs::chmod(path: impl Arg + Copy, mode: Mode) -> ();
    fs::chmodat(dir: impl AsFd + Copy, path: impl Arg + Copy, mode: Mode, flags: AtFlags) -> ();
    fs::futimens(file: impl AsFd + Copy, times: &Timestamps) -> ();
    fs::utimensat(
        dir: impl AsFd + Copy, path: impl Arg + Copy, times: &Timestamps, flags: AtFlags
    ) -> ();
    fs::fsetxattr(
        file: impl AsFd + Copy, name: impl Arg + Copy, value: &[u8], flags: XattrFlags
    ) -> ();
    fs::lsetxattr(
        path: impl Arg + Copy, name: impl Arg + Copy, value: &[u8], flags: XattrFlags
    ) -> ();
    fs::fremovexattr(file: impl AsFd + Copy, name: impl Arg + Copy) -> ();
    fs::lremovexattr(path: impl Arg + Copy, name: impl Arg + Copy) -> ();
    fs::seek(file: impl AsFd + Copy, to: SeekFrom) -> u64;
    fs::ftruncate(file: impl AsFd + Copy, size: u64) -> ();
    fs::fallocate(file: impl AsFd + Copy, mode: FallocateFlags, offset: u64, length: u64) -> ();
    fs::flock(file: impl AsFd + Copy, operation: FlockOperation) -> ();
    fs::ioctl_ficlone(to: impl AsFd + Copy, from: impl AsFd + Copy) -> ();
    io::pwrite(file: impl AsFd + Copy, bytes: &[u8], offset: u64) -> usize;
    mount::fsopen(file_system: impl Arg + Copy, flags: FsOpenFlags) -> OwnedFd;
    mount::fsconfig_set_flag(context: impl AsFd + Copy, key: impl Arg + Copy) -> ();
    mount::fsconfig_set_string(
        context: impl AsFd + Copy, key: impl Arg + Copy, value: impl Arg + Copy
    ) -> ();
    mount::fsconfig_create(context: impl AsFd + Copy) -> ();
    mount::fsmount(
        context: impl AsFd + Copy, flags: FsMountFlags, attributes: MountAttrFlags
    ) -> OwnedFd;
    mount::open_tree(
        dir: impl AsFd + Copy, path: impl Arg + Copy, flags: OpenTreeFlags
    ) -> OwnedFd;
    mount::move_mount(
        from_dir: impl AsFd + Copy, from_path: impl Arg + Copy,
        to_dir: impl AsFd + Copy, to_path: impl Arg + Copy, flags: MoveMountFlags
    ) -> ();
    mount::unmount(target: impl Arg + Copy, flags: UnmountFlags) -> ();
}

/// Returns the target of a symbolic link.
///
/// # Errors
/// Errors of the call, except `EINTR`.
pub fn readlinkat(dir: impl AsFd + Copy, path: impl Arg + Copy) -> Result<CString> {
    undisturbed(|| rustix::fs::readlinkat(dir, path, Vec::new()))
}

/// Defines functions as `repeated!` does, for functions of `rustix` that fill a buffer.
macro_rules! reading {
    ($($module:ident::$name:ident($($argument:ident: $type:ty),*; $buffer:ident $(, $at:ident)?);)*) => {$(
        #[doc = concat!("Calls `", stringify!($name), "`. Repeats the call as this module explains.")]
        ///
        /// Returns the number of bytes that were read.
        ///
        /// # Errors
        /// Errors of the call, except `EINTR`.
        pub fn $name($($argument: $type,)* $buffer: &mut [u8] $(, $at: u64)?) -> Result<usize> {
            undisturbed(|| rustix::$module::$name($($argument,)* &mut $buffer[..] $(, $at)?))
        }
    )*};
}

reading! {
    fs::fgetxattr(file: impl AsFd + Copy, name: impl Arg + Copy; value);
    fs::lgetxattr(path: impl Arg + Copy, name: impl Arg + Copy; value);
    fs::flistxattr(file: impl AsFd + Copy; names);
    fs::llistxattr(path: impl Arg + Copy; names);
    io::pread(file: impl AsFd + Copy; bytes, offset);
}

/// Creates a directory and its missing parents with the mode 0700. If the directory exists already,
/// does nothing.
///
/// # Errors
/// `AlreadyExists` or `NotADirectory` if `path` or one of its parents exists and is not a
/// directory; errors of the file system.
pub fn make_dirs(path: &Path) -> io::Result<()> {
    match (mkdirat(CWD, path, Mode::RWXU), path.parent()) {
        (Err(Errno::NOENT), Some(parent)) if !parent.as_os_str().is_empty() => {
            make_dirs(parent)?;
            // Another process may have created the directory meanwhile.
            match mkdirat(CWD, path, Mode::RWXU) {
                Err(Errno::EXIST) => Ok(()),
                made => Ok(made?),
            }
        }
        (Err(Errno::EXIST), _) if is_dir(path) => Ok(()),
        (made, _) => Ok(made?),
    }
}

/// Returns whether a path leads to a directory. Returns false if the path cannot be looked up.
pub fn is_dir(path: &Path) -> bool {
    undisturbed(|| path.metadata()).is_ok_and(|found| found.is_dir())
}

/// Returns whether a path leads to a regular file. Returns false if the path cannot be looked up.
pub fn is_file(path: &Path) -> bool {
    undisturbed(|| path.metadata()).is_ok_and(|found| found.is_file())
}

/// Calls `visit` with the name and the type of each entry of an open directory, except `.` and
/// `..`, in any order. Begins at the current position of `dir`. The type is `Unknown` if the
/// directory does not store types.
///
/// # Errors
/// Errors of `visit` and of the file system.
pub fn each_entry(
    dir: impl AsFd,
    mut visit: impl FnMut(&CStr, FileType) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(ENTRIES);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut attempts = Attempts::default();
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Err(error) if attempts.again(&error) => continue,
            entry => entry?,
        };
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            visit(entry.file_name(), entry.file_type())?;
        }
    }
    Ok(())
}

/// Returns the name and the type of each entry of a directory, except `.` and `..`, in any order.
/// Reads the whole directory, regardless of the position of `dir`. The type is `Unknown` if the
/// directory does not store types.
///
/// # Errors
/// Errors of the file system.
pub fn list(dir: impl AsFd + Copy) -> io::Result<Vec<(CString, FileType)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let (again, mut entries) = (openat(dir, ".", flags, Mode::empty())?, Vec::new());
    each_entry(again, |name, kind| {
        entries.push((name.to_owned(), kind));
        Ok(())
    })?;
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the result of a call that fails with these errors first, and the number of attempts.
    fn after(
        errors: &[Errno],
        again: impl Fn(&mut dyn FnMut() -> Result<()>) -> Result<()>,
    ) -> (Result<()>, usize) {
        let mut made = 0;
        let result = again(&mut || {
            made += 1;
            errors.get(made - 1).map_or(Ok(()), |error| Err(*error))
        });
        (result, made)
    }

    #[test]
    fn calls_are_repeated_if_others_make_them_fail() {
        let call = |errors: &[Errno]| after(errors, |call| undisturbed(call));
        assert_eq!(call(&[Errno::INTR, Errno::STALE, Errno::INTR]), (Ok(()), 4));
        assert_eq!(call(&[Errno::INTR; 99]), (Ok(()), 100));
        assert_eq!(call(&[Errno::STALE; 99]), (Err(Errno::STALE), TRIES));
        assert_eq!(call(&[Errno::IO]), (Err(Errno::IO), 1));
        let io = || undisturbed(|| Err::<(), _>(io::Error::from(Errno::STALE)));
        assert_eq!(
            io().unwrap_err().kind(),
            io::ErrorKind::StaleNetworkFileHandle
        );
    }

    #[test]
    fn a_sync_is_repeated_only_after_a_signal() {
        let sync = |errors: &[Errno]| after(errors, |sync| uninterrupted(sync));
        assert_eq!(sync(&[Errno::INTR, Errno::INTR]), (Ok(()), 3));
        for error in [Errno::STALE, Errno::IO] {
            assert_eq!(sync(&[error]), (Err(error), 1));
        }
    }
}
