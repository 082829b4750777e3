//! Public functions that call private parsers, for the fuzz targets of this repository.

use cas_core::Result;

use crate::{archive, ql};

/// Reads the tables of a database of ql. Returns the number of rows in all tables.
///
/// # Errors
/// `Corrupt` if the database is damaged, or if its tables take more than
/// [`limit::QL_TABLES`](cas_core::limit::QL_TABLES) bytes in memory.
pub fn ql_rows(file: &[u8]) -> Result<usize> {
    let tables = ql::tables(file)?;
    Ok(tables.iter().map(ql::Table::len).sum())
}

/// Reads the archive of an ACI to its end. Returns the bytes of its manifest, which is not parsed.
///
/// # Errors
/// `InvalidArgument` if the archive is empty or its first member is malformed; `Corrupt` if another
/// member is malformed, if the archive is not the archive of an ACI, or if the manifest has more
/// than [`limit::ACI_MANIFEST`](cas_core::limit::ACI_MANIFEST) bytes; `OutOfRange` if the archive
/// exceeds any other bound of [`limit`](cas_core::limit), such as the number of members, or if an
/// owner, a group or a device number is out of range.
pub fn manifest_of(archive: &[u8]) -> Result<bytes::Bytes> {
    archive::read_manifest(archive)
}
