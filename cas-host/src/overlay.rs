//! Whiteouts, opaque directories and mounts of overlayfs.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::{fs, io};

use cas_core::error::{Context, Result};
use cas_core::snapshot::Mount;
use rustix::fs::{FileType, Mode, XattrFlags, makedev};
use rustix::path::Arg;

use crate::{LockedDir, calls};

/// The name of the work directory in the directory of a snapshot. Overlayfs needs a work directory
/// for writes.
pub const WORK: &str = "work";

/// The ID map of the initial user namespace, which maps every ID to itself.
const ALL: &str = "0 0 4294967295";

/// Returns whether this process is in a user namespace other than the initial one. Such a process
/// cannot write `trusted.*` attributes.
fn in_user_namespace() -> Result<bool> {
    const MAP: &str = "/proc/self/uid_map";
    let map = fs::read_to_string(MAP).during("read", MAP)?;
    let map: Vec<&str> = map.split_whitespace().collect();
    Ok(map.join(" ") != ALL)
}

/// Returns the mount options that every overlay of this process needs.
///
/// # Errors
/// Errors of reading `/proc`.
pub fn options() -> Result<Vec<String>> {
    // With an index, the kernel remembers the topmost lower directory of the first mount of an
    // upper directory, and refuses later mounts on another one. A repair may have replaced the
    // lower directory.
    let mut options = vec!["index=off".to_owned()];
    if in_user_namespace()? {
        options.push("userxattr".to_owned());
    }
    Ok(options)
}

/// Creates the work directory [`WORK`] in the new directory `dir` of a snapshot.
///
/// # Errors
/// Errors of the file system.
pub fn make_work(dir: &LockedDir) -> Result<()> {
    let made = calls::mkdirat(dir, WORK, Mode::RWXU).map_err(io::Error::from);
    made.during("make directory", WORK)
}

/// Returns a read-only mount of the directories `trees`, stacked with the first on top. Returns
/// `None` if `trees` is empty.
///
/// # Errors
/// As [`options`].
pub fn stack(mut trees: Vec<PathBuf>) -> Result<Option<Mount>> {
    let source = match trees.len() {
        0 => return Ok(None),
        1 => trees.pop(),
        _ => None,
    };
    Ok(Some(match source {
        Some(source) => Mount::Bind {
            source,
            read_only: true,
        },
        None => Mount::Overlay {
            lower: trees,
            upper: None,
            work: None,
            options: options()?,
        },
    }))
}

/// Writes a whiteout into the directory `dir` of a layer. The whiteout hides what the layers below
/// have at `name`.
///
/// # Errors
/// `AlreadyExists` if `dir` already has an entry `name`; errors of the file system.
pub fn hide(dir: &BorrowedFd<'_>, name: impl Arg + Copy) -> Result<()> {
    let whiteout = FileType::CharacterDevice;
    let made = calls::mknodat(dir, name, whiteout, Mode::empty(), makedev(0, 0));
    Ok(made.map_err(io::Error::from)?)
}

/// Returns the prefix of the attributes with which this process mounts and writes overlays:
/// `trusted.overlay.` in the initial user namespace, and `user.overlay.` in any other.
///
/// # Errors
/// Errors of reading `/proc`.
pub fn attribute_prefix() -> Result<&'static str> {
    Ok(match in_user_namespace()? {
        true => "user.overlay.",
        false => "trusted.overlay.",
    })
}

/// Makes a directory opaque: hides everything that the layers below have in it.
///
/// # Errors
/// Errors of reading `/proc` and of the file system.
pub fn make_opaque(dir: impl AsFd) -> Result<()> {
    let name = format!("{}opaque", attribute_prefix()?);
    let set = calls::fsetxattr(&dir, &name, b"y", XattrFlags::empty());
    Ok(set.map_err(io::Error::from)?)
}
