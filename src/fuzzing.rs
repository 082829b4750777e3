//! Doors to private parsers, for the fuzz targets of this repository.

use std::path::Path;

use crate::bundle::{self, Rootfs};
use crate::{Engines, Result, root};

/// Parses `cas.toml`.
///
/// # Errors
/// As the parser.
pub fn cas_toml(text: &str) -> Result<Engines> {
    root::parse(text, Path::new("/root"))
}

/// Returns the text of `cas.toml`.
///
/// # Errors
/// As the writer.
pub fn cas_toml_text(engines: &Engines) -> Result<String> {
    root::text(engines)
}

/// Parses the part of an image configuration that describes the process.
///
/// # Errors
/// As the parser.
pub fn process_config(data: &[u8]) -> Result<()> {
    bundle::Config::parse(data).map(|_| ())
}

/// Finds a user in the root file system at `path`.
///
/// # Errors
/// As the search.
pub fn account(path: &Path, wanted: &str) -> Result<()> {
    bundle::find_account(&Rootfs::open(path)?, wanted).map(|_| ())
}
