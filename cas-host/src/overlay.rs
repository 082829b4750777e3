//! How overlayfs marks what a layer hides, and overlays of several trees.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::{fs, io};

use cas_core::error::{Context, Result};
use cas_core::snapshot::Mount;
use rustix::fs::{FileType, Mode, XattrFlags, makedev, mknodat};
use rustix::path::Arg;

/// The user namespace that the system begins with has all numbers.
const ALL: &str = "0 0 4294967295";

/// Whether this process is in a user namespace, where only the attributes of users can be
/// written.
fn in_user_namespace() -> Result<bool> {
    const MAP: &str = "/proc/self/uid_map";
    let map = fs::read_to_string(MAP).during("read", MAP)?;
    let map: Vec<&str> = map.split_whitespace().collect();
    Ok(map.join(" ") != ALL)
}

/// Options of every mount.
///
/// # Errors
/// Those of `/proc`.
pub fn options() -> Result<Vec<String>> {
    // An index would tie a layer to the work directory that it was made with.
    let mut options = vec!["index=off".to_owned()];
    if in_user_namespace()? {
        options.push("userxattr".to_owned());
    }
    Ok(options)
}

/// What shows the trees over each other, topmost first, read-only; nothing where there are none.
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

/// Hides the name in a directory of a layer.
///
/// # Errors
/// `AlreadyExists` where the layer has something there; those of the file system.
pub fn hide(dir: &BorrowedFd<'_>, name: impl Arg) -> Result<()> {
    let whiteout = FileType::CharacterDevice;
    let made = mknodat(dir, name, whiteout, Mode::empty(), makedev(0, 0));
    Ok(made.map_err(io::Error::from)?)
}

/// Hides everything that the layers below have in a directory.
///
/// # Errors
/// Those of the file system.
pub fn make_opaque(dir: impl AsFd) -> Result<()> {
    let name = match in_user_namespace()? {
        true => "user.overlay.opaque",
        false => "trusted.overlay.opaque",
    };
    let set = rustix::fs::fsetxattr(dir, name, b"y", XattrFlags::empty());
    Ok(set.map_err(io::Error::from)?)
}
