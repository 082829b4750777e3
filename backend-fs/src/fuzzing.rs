//! Doors to private parsers, for the fuzz targets of this repository.

use cas_core::Result;

use crate::index::Index;

/// Parses `index.json` and reads all entries, and writes the document again. Returns the new bytes.
///
/// # Errors
/// As the parser and the writer.
pub fn index(data: &[u8]) -> Result<Vec<u8>> {
    let index = Index::parse(data)?;
    for (name, _) in index.list() {
        let _ = index.targets(&name);
    }
    let _ = (index.unnamed(), index.wrong());
    index.encode()
}
