//! Diff IDs of layers in every compression that this crate reads.

use std::io::{Cursor, Read};

use cas_core::media_type::DiffCompression;
use cas_core::{Descriptor, Digest, Result, Store, image};

use crate::codec::{Decoder, MAGIC, detect};

/// Returns the diff ID of a layer, which [`image::diff_id`] determines. If the layer must be
/// decompressed, its compression is detected from its first bytes, because the media types of
/// layers are often wrong.
///
/// # Errors
/// Errors of [`image::diff_id`] and of [`Decoder`].
pub async fn diff_id(store: &Store, layer: &Descriptor) -> Result<Digest> {
    image::diff_id(store, layer, decompress).await
}

fn decompress(
    _stated: DiffCompression,
    mut stream: Box<dyn Read + Send>,
) -> Result<Box<dyn Read + Send>> {
    let mut first = Vec::new();
    stream.by_ref().take(MAGIC as u64).read_to_end(&mut first)?;
    let compression = detect(&first);
    let whole = Cursor::new(first).chain(stream);
    Ok(Box::new(Decoder::new(whole, compression)?))
}
