//! Public functions that call private code, for the fuzz targets of this repository.

use std::fs::File;
use std::os::fd::AsFd;

use cas_core::Result;

use crate::{MountedDirs, manifest};

/// Returns the mounts in a mount table that is given as text.
pub fn mounted_dirs(table: String) -> MountedDirs {
    MountedDirs::of(table)
}

/// Compares a tree with its manifest, the list of the entries of the tree with their attributes and
/// checksums. Does not compare the bytes of files. Returns a text with the first differences, or
/// `None` if there are none, or if the manifest is incomplete or damaged.
///
/// # Errors
/// `Unavailable` if a directory is moved meanwhile; errors of the file system.
pub fn compare(tree: impl AsFd, manifest: &File) -> Result<Option<String>> {
    manifest::compare(tree, manifest, None)
}

/// Writes the manifest of a tree, with checksums of the bytes of files.
///
/// # Errors
/// `Unavailable` if a directory is moved meanwhile; errors of the file system.
pub fn write(tree: impl AsFd, manifest: File) -> Result<()> {
    manifest::write(tree, manifest)
}
