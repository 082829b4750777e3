//! Layers that are kept only as tars in the snapshotter, without blobs in the store.
//!
//! [`drop_blobs`] removes the layer blobs of an unpacked image in these steps:
//!
//! 1. The bytes of each tar are compared with the diff ID of its layer.
//! 2. One write to the record of the manifest lists the layers as absent and as tars.
//! 3. A garbage collection of these layer blobs alone removes those to which nothing else refers.
//!
//! Before the first step, the snapshots of the image were committed, and the record of its
//! configuration refers to the topmost snapshot. A garbage collection therefore keeps the tars for
//! as long as the configuration. If the process is killed, the tar and the blob of a layer are
//! left, or the tar alone. If the blob is left after the second step, the next garbage collection
//! removes it.
//!
//! [`Restorer`] makes the blobs again for operations that need them.

mod drop;
mod packing;
mod restore;

use cas_core::image::{self, image_config};
use cas_core::snapshot::{LAYER_TAR, chain_ids};
use cas_core::{Descriptor, Digest, Error, Manifest, Result, Store};

pub use drop::drop_blobs;
pub use restore::Restorer;

/// A layer, and where its tar is if the image was unpacked as a whole.
struct Layer {
    descriptor: Descriptor,
    diff_id: Digest,
    chain_id: Digest,
}

/// Returns the layers of an image, lowest first.
async fn layers(store: &Store, manifest: &Manifest) -> Result<Vec<Layer>> {
    let config = image_config(&*store.content, &manifest.config).await?;
    let layers = image::layers(manifest, &config)?;
    let diff_ids: Vec<Digest> = layers.iter().map(|(_, diff_id)| *diff_id).collect();
    let with_chain = layers.into_iter().zip(chain_ids(&diff_ids));
    let layer = |((descriptor, diff_id), chain_id)| Layer {
        descriptor,
        diff_id,
        chain_id,
    };
    Ok(with_chain.map(layer).collect())
}

/// Returns the error for a tar with other bytes than its layer.
fn damaged(chain_id: &Digest) -> Error {
    Error::corrupt(format!(
        "{LAYER_TAR} does not have the diff ID of its layer; run `cas fsck --read-data --repair`"
    ))
    .subject(chain_id)
}
