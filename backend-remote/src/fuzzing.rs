//! Doors to private parsers, for the fuzz targets of this repository.

use bytes::Bytes;
use cas_core::Result;

use crate::blob::Pointer;
use crate::{cell, format};

/// Decodes a cell and encodes it again. Returns the new bytes, or `None` if these are no cell.
pub fn cell(body: &Bytes) -> Option<Bytes> {
    cell::recoded(body)
}

/// Parses the list of the parts of a blob, and finds the first and the last byte of the blob.
///
/// # Errors
/// As the parser.
pub fn parts(value: &[u8]) -> Result<()> {
    let pointer = Pointer::parse(value, "fuzzed")?;
    let size = pointer.size;
    for range in [0..size.min(1), size.saturating_sub(1)..size] {
        let _ = pointer.pieces(range).count();
    }
    Ok(())
}

/// Parses the object that names the format of a store.
///
/// # Errors
/// As the parser.
pub fn format(body: &[u8]) -> Result<()> {
    format::parse(body).map(|_| ())
}
