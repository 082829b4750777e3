//! Images that are unpacked with the import: the first one while its layers come, so that they
//! are read once; further ones from the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use cas_core::transfer::{Receiving, Unpacker};
use cas_core::{Descriptor, Digest, Platform, Result, image};
use futures_util::{StreamExt, stream};

use super::intake::Intake;
use super::item::{AT_ONCE, Item};
use crate::progress::Progress;
use crate::unpack::{LiveUnpacker, Target, first_cause, to_snapshots};

/// The chain ids of images that were unpacked, by the digests of their targets.
pub(super) type Chains = BTreeMap<Digest, Option<Digest>>;

/// What is unpacked, and where.
pub(super) struct Unpack<'a> {
    pub(super) target: Target<'a>,
    pub(super) platform: Option<&'a Platform>,
    pub(super) progress: &'a Arc<dyn Progress>,
}

impl Unpack<'_> {
    /// Stores the blobs of `items`, and unpacks the images, whose documents are in the store.
    ///
    /// # Errors
    /// `NotFound` for an image that has nothing for the platform; those of the import and of
    /// [`to_snapshots`].
    pub(super) async fn take_in(
        &self,
        intake: &Intake<'_>,
        items: &[Item],
        images: &[Descriptor],
    ) -> Result<Chains> {
        let mut manifests = Vec::new();
        for image in images {
            let resolved = image::manifest_for(&*intake.store.content, image, self.platform);
            manifests.push((image.digest, resolved.await?.manifest));
        }
        let mut manifests = manifests.into_iter();
        let mut chains = Chains::new();
        let unpacker = LiveUnpacker::new(intake.store, self.target, self.progress);
        let first = manifests.next();
        if let Some((_, manifest)) = &first {
            unpacker.begin(manifest).await?;
        }
        if let Err(error) = copy_all(intake, items, &unpacker).await {
            unpacker.abandon().await;
            return Err(error);
        }
        unpacker.finish().await?;
        if let Some((image, _)) = first {
            chains.insert(image, unpacker.into_chain_id());
        }
        for (image, manifest) in manifests {
            let unpacked = to_snapshots(intake.store, self.target, &manifest, self.progress);
            chains.insert(image, unpacked.await?);
        }
        Ok(chains)
    }
}

/// Stores blobs, several at once, and hands on those that are unpacked.
async fn copy_all(intake: &Intake<'_>, items: &[Item], unpacker: &LiveUnpacker<'_>) -> Result<()> {
    let copies = items.iter().map(|item| copy(intake, item, unpacker));
    // All are waited for: those under way stop by themselves once one has failed.
    first_cause(
        stream::iter(copies)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await,
    )
}

async fn copy(intake: &Intake<'_>, item: &Item, unpacker: &LiveUnpacker<'_>) -> Result<()> {
    let Some(Receiving { feed, unpacked }) = unpacker.receive(&item.descriptor) else {
        return intake.copy(item, None).await;
    };
    let unpacked = async { unpacked.await.inspect_err(|_| intake.stop()) };
    let (copied, unpacked) = tokio::join!(intake.copy(item, Some(feed)), unpacked);
    first_cause(vec![copied, unpacked])
}
