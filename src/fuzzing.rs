//! Public functions that call private parsers, for the fuzz targets of this repository.

use std::path::Path;

use crate::bundle::{self, Rootfs};
use crate::{Engines, Result, root};

/// Parses `cas.toml`, except the table `[pull_modes]`.
///
/// # Errors
/// `Corrupt` if the text does not parse; `FailedPrecondition` if `format` in the text is not the
/// number that this version reads.
pub fn cas_toml(text: &str) -> Result<Engines> {
    root::parse(text, Path::new("/root"))
}

/// Returns the text of a `cas.toml` with the settings in `engines`: the store, the snapshotter and
/// others.
///
/// # Errors
/// `Internal` if `engines` cannot be serialized.
pub fn cas_toml_text(engines: &Engines) -> Result<String> {
    root::text(engines)
}

/// Parses the part of an image configuration that describes the process.
///
/// # Errors
/// `Corrupt` if `data` is not an image configuration, has more than
/// [`DOCUMENT_READ`](crate::limit::DOCUMENT_READ) bytes, or is nested deeper than
/// [`JSON_DEPTH`](crate::limit::JSON_DEPTH) levels.
pub fn process_config(data: &[u8]) -> Result<()> {
    bundle::Config::parse(data).map(|_| ())
}

/// Finds the user and the groups that `wanted` names, as `USER[:GROUP]`, in the root file system at
/// `path`.
///
/// # Errors
/// `NotFound` for a name that `/etc/passwd` or `/etc/group` does not list; `Corrupt` for a number
/// above [`ID`](crate::limit::ID), or if one of these files is not a regular file; `OutOfRange` if
/// one of these files has more than [`ACCOUNTS`](crate::limit::ACCOUNTS) bytes, or if the user is
/// in more than [`GROUPS`](crate::limit::GROUPS) groups; errors of the file system.
pub fn account(path: &Path, wanted: &str) -> Result<()> {
    bundle::find_account(&Rootfs::open(path)?, wanted).map(|_| ())
}
