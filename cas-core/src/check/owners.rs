//! Adds the claims of owners to the blob records that a repair has made again.

use std::collections::BTreeSet;

use super::Checker;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::labels::kept_referrers;
use crate::owner::Owner;
use crate::records::BlobRecord;

impl Checker<'_> {
    /// Adds claims to the records that this repair has made: the claim of each owner with a name
    /// that reaches the blob. Other records keep their claims. Even without damage, these claims
    /// may differ from the names: an administrator may have moved a name, or a name may have been
    /// deleted since the last collection. After a killed repair, the claims are added to all
    /// records that the names reach.
    ///
    /// # Errors
    /// `Corrupt` if the record of an image is damaged; errors of the store.
    pub(super) async fn restore_claims(&self) -> Result<()> {
        for image in self.store.images.list(&[]).await? {
            if let Some(owner) = &image.owner {
                self.claim(&image, owner).await?;
            }
        }
        Ok(())
    }

    /// Adds the claim of `owner` to the records of `image` that a repair has made.
    async fn claim(&self, image: &Image, owner: &Owner) -> Result<()> {
        let (mut seen, mut pending) = (BTreeSet::new(), vec![image.target.digest]);
        let blobs = self.store.blobs();
        while let Some(digest) = pending.pop() {
            if !seen.insert(digest) {
                continue;
            }
            let Some(record) = blobs.load_sound(&digest).await? else {
                continue;
            };
            pending.extend(kept_referrers(&record.labels));
            pending.extend(&record.children);
            if self.is_continued || self.made.contains(&digest) {
                self.add_claim(&digest, owner).await?;
            }
        }
        Ok(())
    }

    async fn add_claim(&self, digest: &Digest, owner: &Owner) -> Result<()> {
        let add = |found: Option<BlobRecord>| {
            let mut record = found.ok_or_else(|| Error::not_found("the blob was collected"))?;
            record.owners.insert(owner.clone());
            Ok(record)
        };
        match self.store.blobs().update(digest, add).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            added => added.map(|_| ()),
        }
    }
}
