//! Doors to private parsers, for the fuzz targets of this repository.

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

/// Returns the text of `cas.toml` for these engines.
///
/// # Errors
/// `Internal` if the engines cannot be serialized.
pub fn cas_toml_text(engines: &Engines) -> Result<String> {
    root::text(engines)
}

/// Parses the part of an image configuration that describes the process.
///
/// # Errors
/// `Corrupt` if `data` is not an image configuration, or exceeds a bound on JSON documents.
pub fn process_config(data: &[u8]) -> Result<()> {
    bundle::Config::parse(data).map(|_| ())
}

/// Finds the user and the groups that `wanted` names, as `USER[:GROUP]`, in the root file system at
/// `path`.
///
/// # Errors
/// `NotFound` for a name that the root file system does not have; `Corrupt` for a number that is
/// too large, or if `/etc/passwd` or `/etc/group` is not a regular file; `OutOfRange` if one of
/// them is too long, or if the user is in too many groups; errors of the file system.
pub fn account(path: &Path, wanted: &str) -> Result<()> {
    bundle::find_account(&Rootfs::open(path)?, wanted).map(|_| ())
}
