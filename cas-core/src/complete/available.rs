//! [`Available`]: selects the parts of images that an export or a copy can read.

use std::collections::BTreeSet;

use super::{Completeness, Unreadable, completeness, find};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch;
use crate::error::{Error, FETCH_AGAIN, Result};
use crate::progress::Progress;
use crate::store::Store;

/// Selects the parts of images that an export or a copy reads. Incomplete children of an index are
/// left out, and so are missing layers that registries do not distribute.
pub struct Available<'a> {
    store: &'a Store,
    progress: &'a dyn Progress,
    /// The incomplete children of indexes.
    incomplete: BTreeSet<Digest>,
}

impl<'a> Available<'a> {
    /// Finds the incomplete children of each index in `roots`, and of the indexes below it. Returns
    /// the selection. [`children`](Self::children) later sends `progress` a warning for each part
    /// that is left out.
    ///
    /// # Errors
    /// `NotFound` if a stored index in `roots` lists manifests, but none of them is complete;
    /// errors of [`completeness`]. A descriptor in `roots` whose blob the store does not have is
    /// not an error here.
    pub async fn below(
        store: &'a Store,
        roots: &[Descriptor],
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let mut incomplete = BTreeSet::new();
        for root in roots.iter().filter(|root| root.media_type.is_index()) {
            incomplete.extend(left_out(completeness(store, root).await?, root)?);
        }
        Ok(Available {
            store,
            progress,
            incomplete,
        })
    }

    /// As [`Available::below`] for one root, but what is damaged below `root` is neither an error
    /// nor left out. A caller that needs such a part finds the damage when it reads the part.
    ///
    /// # Errors
    /// As [`Available::below`], but `Corrupt` only if `root` is damaged.
    pub(crate) async fn or_damaged(
        store: &'a Store,
        root: &Descriptor,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let incomplete = match root.media_type.is_index() {
            true => left_out(find(store, root, Unreadable::Complete).await?, root)?,
            false => BTreeSet::new(),
        };
        Ok(Available {
            store,
            progress,
            incomplete,
        })
    }

    /// Returns the children of a descriptor, without the children that are left out.
    ///
    /// The children of a manifest include blobs that were stored and later lost, except layers that
    /// registries do not distribute. The children of an index do not include lost manifests. A
    /// caller that needs an error for a lost manifest pins the image first: pinning fails if a
    /// manifest was lost. An image can be pinned only in a store that can be written.
    ///
    /// # Errors
    /// `NotFound` for a layer that the store does not have because a pull discarded it after
    /// unpacking it, or because a snapshotter keeps its tar; errors of [`dispatch::children`], of
    /// [`has`](Self::has) and of the store.
    pub async fn children(&self, descriptor: &Descriptor) -> Result<Vec<Descriptor>> {
        let listed = dispatch::children(&*self.store.content, descriptor).await?;
        let media_type = &descriptor.media_type;
        let mut absent = match media_type.is_manifest() {
            true => self.absent(&descriptor.digest).await?,
            false => BTreeSet::new(),
        };
        // A configuration is never left out on purpose.
        if let Some(config) = listed.first() {
            absent.remove(&config.digest);
        }
        let mut kept = Vec::with_capacity(listed.len());
        for child in listed {
            let why = match media_type.is_index() {
                true => self.why_incomplete(&child).await?,
                false => self.why_undistributed(&child).await?,
            };
            match why {
                None if absent.contains(&child.digest) && !self.has(&child).await? => {
                    return Err(self.not_stored(&descriptor.digest, &child.digest).await?);
                }
                Some(why) => self.warn_left_out(&child, why),
                None => kept.push(child),
            }
        }
        Ok(kept)
    }

    /// Returns whether the bytes of a blob are in the store or in the descriptor itself.
    ///
    /// # Errors
    /// `Corrupt` if the stored blob has another size than the descriptor states; errors of the
    /// store.
    pub async fn has(&self, descriptor: &Descriptor) -> Result<bool> {
        Ok(descriptor.data.is_some() || self.store.present(descriptor).await?)
    }

    /// Returns the children of a manifest that its record states as absent, or none if the record
    /// is damaged.
    async fn absent(&self, manifest: &Digest) -> Result<BTreeSet<Digest>> {
        let record = self.store.blobs().load_sound(manifest).await?;
        Ok(record.map(|record| record.absent).unwrap_or_default())
    }

    /// Returns the error for a layer that the record of `manifest` states as absent.
    async fn not_stored(&self, manifest: &Digest, layer: &Digest) -> Result<Error> {
        let record = self.store.blobs().load_sound(manifest).await?;
        let is_tar = record.is_some_and(|record| record.is_tar(layer));
        let error = match is_tar {
            true => Error::not_found(
                "the store does not have the blob of the layer, because a snapshotter keeps the \
                 layer as a tar; make a read-only root writable, so that the blob can be made from \
                 the tar",
            )
            .advice(format!("if the tar is lost, {FETCH_AGAIN}")),
            false => Error::not_found(
                "the store does not have the blob of the layer, because a pull discarded it after \
                 unpacking it; pull the image again without discarding its unpacked layers, or \
                 make a read-only root writable if its snapshotter keeps tars",
            ),
        };
        Ok(error.operation("read").subject(layer))
    }

    async fn why_incomplete(&self, child: &Descriptor) -> Result<Option<&'static str>> {
        if !self.incomplete.contains(&child.digest) {
            return Ok(None);
        }
        Ok(Some(match self.has(child).await? {
            true => "is not complete in the store",
            false => "is not in the store",
        }))
    }

    async fn why_undistributed(&self, child: &Descriptor) -> Result<Option<&'static str>> {
        let is_left_out = child.media_type.is_non_distributable() && !self.has(child).await?;
        Ok(is_left_out.then_some("is not distributed"))
    }

    fn warn_left_out(&self, descriptor: &Descriptor, why: &str) {
        let platform = descriptor.platform.as_ref();
        let of = platform.map(|platform| format!(" of {platform}"));
        self.progress.warn(&format!(
            "{}{} {why} and is left out",
            descriptor.digest,
            of.unwrap_or_default()
        ));
    }
}

/// Returns the incomplete children of the index `root`, and of the indexes below it.
///
/// # Errors
/// `NotFound` if the store has `root`, but nothing that it lists is complete.
fn left_out(found: Completeness, root: &Descriptor) -> Result<BTreeSet<Digest>> {
    if let Some(missing) = found.missing.filter(|missing| *missing != root.digest) {
        return Err(Error::not_found(format!(
            "no manifest of the index is complete in the store: {missing} is missing; pull or \
             import the image again"
        ))
        .operation("read")
        .subject(root.digest));
    }
    Ok(found.left_out)
}
