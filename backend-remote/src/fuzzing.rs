//! Public functions that call private parsers, for the fuzz targets of this repository.

use bytes::Bytes;
use cas_core::{Digest, Result};

use crate::blob::Pointer;
use crate::{cell, format};

/// Decodes a cell and encodes it again. Returns the new bytes, or `None` if `body` is not a cell.
pub fn cell(body: &Bytes) -> Option<Bytes> {
    cell::recoded(body)
}

/// Parses the value of the cell of a blob. Then finds the part that contains the first byte of the
/// blob, and the part that contains the last byte.
///
/// # Errors
/// `Corrupt` if the value does not parse, if it states a digest of the blob other than the SHA-256
/// of `fuzzed`, if it states a size of a part of less than 64 KiB or more than
/// [`cas_core::limit::PART`], or if there are more than [`cas_core::limit::PARTS`] parts.
pub fn parts(value: &[u8]) -> Result<()> {
    let pointer = Pointer::parse(value, &Digest::sha256(b"fuzzed"))?;
    let size = pointer.size;
    for range in [0..size.min(1), size.saturating_sub(1)..size] {
        let _ = pointer.pieces(range).count();
    }
    Ok(())
}

/// Parses the object `format` of a store.
///
/// # Errors
/// `FailedPrecondition` if the object does not parse, or if it describes a store of another kind or
/// of a newer format.
pub fn format(body: &[u8]) -> Result<()> {
    format::parse(body).map(|_| ())
}
