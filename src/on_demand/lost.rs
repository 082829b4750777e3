//! If the snapshot of a layer that is read on demand is lost or damaged, fetches the table of
//! contents of the layer again.

use cas_core::image::FullName;
use cas_core::transfer::Fetcher;
use cas_core::{Context, Result};
use cas_layer::unpack::TableContent;
use cas_lazy::StoredTable;

use super::registry::read;

/// Fetches the table of contents that `description` describes. Returns the files for the snapshot
/// of the layer, except the list of the spans to fetch first.
///
/// # Errors
/// `Corrupt` if the description does not parse, or names a table that is not in the layer; as
/// [`StoredTable::read`] for a table that cannot be used; errors of the registry.
pub(crate) async fn fetch(
    registry: &dyn Fetcher,
    description: &str,
) -> Result<Vec<(&'static str, TableContent)>> {
    let stored = StoredTable::from_bytes(description.as_bytes())?;
    let (blob, range) = stored.place()?;
    let bytes = read(registry, &blob, range).await;
    let bytes = bytes.during("fetch the table of contents of", stored.layer.digest)?;
    stored.read(&bytes)?;
    Ok(vec![
        (StoredTable::FILE, description.as_bytes().to_vec().into()),
        (StoredTable::TABLE_FILE, bytes.into()),
    ])
}

/// Returns the reference of the image with which the layer was pulled.
///
/// # Errors
/// `Corrupt` if the description does not parse; `InvalidArgument` if the reference does not.
pub(crate) fn reference(description: &str) -> Result<FullName> {
    StoredTable::from_bytes(description.as_bytes())?
        .reference
        .parse()
}
