//! Layers that the root keeps only as tars in its snapshotter (`keep = "tar"` in `cas.toml`).

use std::sync::Arc;

use cas_core::labels::VERIFIED_LAYER;
use cas_core::platform::Platforms;
use cas_core::progress::Progress;
use cas_core::records::Resource;
use cas_core::snapshot::{Info, SnapshotKind};
use cas_core::{Descriptor, Error, Image, Result, Snapshotter, image};
use cas_layer::only_tars::{Restorer, drop_blobs};
use cas_layer::unpack::LayersFrom;

use super::Cas;

impl Cas {
    /// Returns the snapshotter if it keeps tars and belongs to the store. It may then have layers
    /// that the store does not have.
    fn tars(&self) -> Option<&Arc<dyn Snapshotter>> {
        let snapshotter = self.snapshotter.as_ref().filter(|_| self.own_store);
        snapshotter.filter(|one| one.keeps_tars())
    }

    /// Returns where layers are read: the store, and the tars of layers that it does not have.
    pub(super) fn layers(&self) -> LayersFrom<'_> {
        LayersFrom {
            store: &self.store,
            tars: self.tars().map(|one| &**one),
        }
    }

    /// If the root keeps layers only as tars, removes the blobs of the layers of an image, for the
    /// platform that was unpacked.
    ///
    /// # Errors
    /// As [`drop_blobs`].
    pub(super) async fn drop_blobs(
        &self,
        target: &Descriptor,
        platforms: &Platforms,
        progress: &Arc<dyn Progress>,
    ) -> Result<()> {
        let Some(snapshotter) = self.tars().filter(|_| self.only_tars) else {
            return Ok(());
        };
        let store = self.writable()?;
        let platforms = self.to_unpack(&platforms.clone().narrowed());
        let found = image::manifest_for(&*store.content, target, &platforms).await?;
        let (own, manifest) = (&found.descriptor, &found.manifest);
        drop_blobs(store, snapshotter, own, manifest, progress).await
    }

    /// Calls `work` with `images`. For the duration of the call, the store also has the layers for
    /// `platforms` that the root keeps only as tars. If the bytes of a layer cannot be made again,
    /// its image gets a new target (see [`Restorer::restore`]). If the root is read-only, calls
    /// `work` without the layers that are kept only as tars.
    ///
    /// # Errors
    /// As [`Restorer::restore`]; errors of `work`.
    pub(super) async fn with_whole<T>(
        &self,
        mut images: Vec<Image>,
        platforms: &Platforms,
        progress: &Arc<dyn Progress>,
        work: impl AsyncFnOnce(Vec<Image>) -> Result<T>,
    ) -> Result<T> {
        let Some(snapshotter) = self.tars().filter(|_| self.read_only.is_none()) else {
            return work(images).await;
        };
        let mut restorer = Restorer::new(&self.store, &**snapshotter, &**progress);
        let mut restored = Ok(());
        for image in &mut images {
            match restorer.restore(&image.target, platforms).await {
                Ok(target) => image.target = target,
                Err(error) => {
                    restored = Err(error.within(&image.name));
                    break;
                }
            }
        }
        let outcome = match restored {
            Ok(()) => work(images).await,
            Err(error) => Err(error),
        };
        restorer.finish_with(outcome).await
    }

    /// Refuses to remove a committed snapshot that may have the only copy of a layer of an image.
    /// The caller must remove the snapshot only if it is still as `seen` describes it, because a
    /// job that is about to remove the blob of a layer first changes the label that is read here.
    ///
    /// # Errors
    /// `Busy` if an image needs the snapshot.
    pub(super) async fn refuse_only_copy(&self, seen: &Info) -> Result<()> {
        let verified = seen.labels.contains_key(VERIFIED_LAYER);
        let Some(snapshotter) = self.tars().filter(|_| verified) else {
            return Ok(());
        };
        if seen.kind != SnapshotKind::Committed {
            return Ok(());
        }
        let resource = Resource::Snapshot {
            snapshotter: snapshotter.name().to_owned(),
            key: seen.key.clone(),
        };
        let path = self.explain(&resource).await?.image;
        match path.and_then(|path| path.steps.into_iter().next()) {
            None => Ok(()),
            Some(first) => Err(Error::busy(format!(
                "the tar of the snapshot may be the only copy of a layer of {first}; remove the \
                 image first"
            ))
            .operation("remove snapshot")
            .subject(&seen.key)),
        }
    }
}
