//! Doors to private parsers, for the fuzz targets of this repository.

use bytes::Bytes;
use cas_core::Result;

use crate::blob::Pointer;
use crate::{cell, format};

/// Decodes a cell and encodes it again. Returns the new bytes, or `None` if `body` is not a cell.
pub fn cell(body: &Bytes) -> Option<Bytes> {
    cell::recoded(body)
}

/// Parses the value that points to the parts of a blob, and finds the parts with the first and the
/// last byte of the blob.
///
/// # Errors
/// `Corrupt` if the value does not parse, or if the size of the parts is below the minimum.
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
/// `FailedPrecondition` if the object does not parse, or is of another kind or a newer version.
pub fn format(body: &[u8]) -> Result<()> {
    format::parse(body).map(|_| ())
}
