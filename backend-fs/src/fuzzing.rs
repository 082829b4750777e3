//! Public functions that call private parsers, for the fuzz targets of this repository.

use cas_core::Result;

use crate::index::Index;

/// Parses `data` as an `index.json`, reads its entries, and encodes the document again. Returns the
/// encoded bytes.
///
/// # Errors
/// `Corrupt` if `data` is not an index, is too large or is nested too deep; `Full` if the encoded
/// document is too large. A malformed entry is not an error.
pub fn index(data: &[u8]) -> Result<Vec<u8>> {
    let mut index = Index::parse(data)?;
    for (name, _) in index.list() {
        let _ = index.targets(&name);
    }
    let _ = (index.unnamed(), index.wrong(), index.mend(|_| Ok(None)));
    index.encode()
}
