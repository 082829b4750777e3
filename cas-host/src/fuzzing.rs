//! Doors to private parsers, for the fuzz targets of this repository.

use std::fs::File;
use std::os::fd::AsFd;

use cas_core::Result;

use crate::{MountedDirs, manifest};

/// Returns what a mount table says, as if it were that of this process.
pub fn mounted_dirs(table: String) -> MountedDirs {
    MountedDirs::of(table)
}

/// Compares a tree with a manifest.
///
/// # Errors
/// As the comparison.
pub fn compare(tree: impl AsFd, manifest: &File) -> Result<Option<String>> {
    manifest::compare(tree, manifest, None)
}

/// Writes the manifest of a tree.
///
/// # Errors
/// As the writer.
pub fn write(tree: impl AsFd, manifest: File) -> Result<()> {
    manifest::write(tree, manifest)
}
