//! Images that are unpacked with the import: the first one while its layers come, so that they
//! are read once; further ones from the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use cas_core::{Descriptor, Digest, Manifest, Platform, Result, Store, engine};
use futures_util::{StreamExt, stream};

use super::intake::Intake;
use super::plan::{AT_ONCE, Item};
use crate::progress::Progress;
use crate::unpack::{Target, Unpacking, first_cause};

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
    /// [`crate::unpack::to_snapshots`].
    pub(super) async fn take_in(
        &self,
        intake: &Intake<'_>,
        items: &[Item],
        images: &[Descriptor],
    ) -> Result<Chains> {
        let mut chains = Chains::new();
        let mut waiting = Vec::new();
        for image in images {
            let resolved = engine::manifest_for(&*intake.store.content, image, self.platform);
            waiting.push((image.digest, resolved.await?.manifest));
        }
        let mut waiting = waiting.into_iter();
        let first = waiting.next();
        let Some((image, manifest)) = first else {
            intake.copy_all(items).await?;
            return Ok(chains);
        };
        let unpacking = self.begin(intake.store, &manifest).await?;
        let copied = copy_all(intake, items, &unpacking).await;
        let unpacked = match copied {
            Ok(()) => unpacking.finish().await,
            Err(error) => unpacking.end(Err(error)).await,
        };
        chains.insert(image, unpacked?);
        for (image, manifest) in waiting {
            let unpacking = self.begin(intake.store, &manifest).await?;
            chains.insert(image, unpacking.finish().await?);
        }
        Ok(chains)
    }

    async fn begin<'b>(&'b self, store: &'b Store, manifest: &Manifest) -> Result<Unpacking<'b>> {
        Unpacking::begin(store, self.target, manifest, self.progress).await
    }
}

/// Stores blobs, several at once, and hands on those that are unpacked.
async fn copy_all(intake: &Intake<'_>, items: &[Item], unpacking: &Unpacking<'_>) -> Result<()> {
    let copies = items.iter().map(|item| copy(intake, item, unpacking));
    // All are waited for: those under way stop by themselves once one has failed.
    first_cause(
        stream::iter(copies)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await,
    )
}

async fn copy(intake: &Intake<'_>, item: &Item, unpacking: &Unpacking<'_>) -> Result<()> {
    let Some(place) = unpacking.wants(&item.descriptor.digest) else {
        return intake.copy(item, None).await;
    };
    let (feed, incoming) = engine::feed();
    let unpacked = async {
        let unpacked = unpacking.receive(place, incoming).await;
        unpacked.inspect_err(|_| intake.stop())
    };
    let (copied, unpacked) = tokio::join!(intake.copy(item, Some(feed)), unpacked);
    first_cause(vec![copied, unpacked])
}
