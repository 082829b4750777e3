//! Doors to private parsers, for the fuzz targets of this repository.

use cas_core::Result;

use crate::{archive, ql};

/// Reads the tables of a database of ql. Returns the number of rows.
///
/// # Errors
/// As the reader.
pub fn ql_rows(file: &[u8]) -> Result<usize> {
    let tables = ql::tables(file)?;
    Ok(tables.iter().map(ql::Table::len).sum())
}

/// Reads the manifest of an archive.
///
/// # Errors
/// As the reader.
pub fn manifest_of(archive: &[u8]) -> Result<bytes::Bytes> {
    archive::read_manifest(archive)
}
