//! System calls on files. They are repeated if a signal interrupts them.
//!
//! On network and user-space file systems, a signal may interrupt any of these calls. The program
//! that embeds this library may handle signals of its own. The standard library repeats only some
//! of the calls, and `rustix` repeats none.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, Dev, FallocateFlags, FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags,
    SeekFrom, Stat, StatVfs, Timestamps, Uid, XattrFlags,
};
use rustix::io::Result;
use rustix::path::Arg;

use crate::resolve::uninterrupted;

/// Returns the path in `/proc` of an open file. The path leads to that file only in this process,
/// and only while the file is open.
pub fn proc_path(file: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Defines functions that repeat the function of `rustix` with the same name.
macro_rules! repeated {
    ($($module:ident::$name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {$(
        #[doc = concat!("Calls `", stringify!($name), "`. Repeats the call after a signal.")]
        /// Returns the result of the call.
        ///
        /// # Errors
        /// Errors of the call, except `EINTR`.
        pub fn $name($($argument: $type),*) -> Result<$result> {
            uninterrupted(|| rustix::$module::$name($($argument),*))
        }
    )*};
}

repeated! {
    fs::open(path: impl Arg + Copy, flags: OFlags, mode: Mode) -> OwnedFd;
    fs::openat(dir: impl AsFd + Copy, path: impl Arg + Copy, flags: OFlags, mode: Mode) -> OwnedFd;
    fs::fstat(file: impl AsFd + Copy) -> Stat;
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
    fs::fsync(file: impl AsFd + Copy) -> ();
    fs::fdatasync(file: impl AsFd + Copy) -> ();
    fs::syncfs(file: impl AsFd + Copy) -> ();
    fs::flock(file: impl AsFd + Copy, operation: FlockOperation) -> ();
    io::pwrite(file: impl AsFd + Copy, bytes: &[u8], offset: u64) -> usize;
}

/// Returns the target of a symbolic link.
///
/// # Errors
/// Errors of the call, except `EINTR`.
pub fn readlinkat(dir: impl AsFd + Copy, path: impl Arg + Copy) -> Result<CString> {
    uninterrupted(|| rustix::fs::readlinkat(dir, path, Vec::new()))
}

/// Defines functions as `repeated!` does, for functions of `rustix` that fill a buffer.
macro_rules! reading {
    ($($module:ident::$name:ident($($argument:ident: $type:ty),*; $buffer:ident $(, $at:ident)?);)*) => {$(
        #[doc = concat!("Calls `", stringify!($name), "`. Repeats the call after a signal.")]
        ///
        /// Returns the number of bytes that were read.
        ///
        /// # Errors
        /// Errors of the call, except `EINTR`.
        pub fn $name($($argument: $type,)* $buffer: &mut [u8] $(, $at: u64)?) -> Result<usize> {
            uninterrupted(|| rustix::$module::$name($($argument,)* &mut $buffer[..] $(, $at)?))
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
