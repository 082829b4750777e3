//! Deletes image names, but keeps each name whose image a job has begun to use since the store was
//! scanned.
//!
//! If a job pulls or imports an image that the store already has, it pins the image, but may leave
//! the name as it is. A pin changes the record of the image's target. So the revision of this
//! record shows that the job has begun to use the image, even if the name does not change.

use std::collections::HashSet;

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::error::{ErrorKind, Result};
use crate::image::{Image, Reference};
use crate::records::{BlobRecord, Revision};
use crate::store::Store;

/// Maximum number of records that are loaded concurrently.
const CONCURRENT: usize = 16;

/// An image as it was before the scan.
pub(super) struct Seen {
    pub(super) image: Image,
    /// The revision that the record of its target had in the scan, or `None` if there was none.
    pub(super) revision: Option<Revision>,
}

/// Deletes the names that have not changed since they were listed, and whose targets no job has
/// pinned since the scan. Returns the deleted names.
///
/// A job may pin a target and find its name just before the name is deleted. The check after the
/// deletion finds this, and the name is created again. A later job does not find the name, and
/// creates the name itself. Another collection may remove a target once its name is deleted. The
/// name of such a target is not created again: no job at work has pinned it, because the pin would
/// have prevented the removal.
///
/// Two cases are not covered. If this process is killed between the deletion and the second check,
/// a name that a job has found stays deleted. If another collection runs between them, a job that
/// found the name and has ended by then may lose its image, too.
pub(super) async fn delete(store: &Store, seen: &[Seen]) -> Result<HashSet<Reference>> {
    let pinned = changed(store, seen, |_| true).await?;
    let free = seen.iter().filter(|one| !pinned.contains(&one.image.name));
    let free: Vec<Image> = free.map(|one| one.image.clone()).collect();
    let deleted = store.images.delete_unchanged(&free).await?;
    let mut deleted: HashSet<Reference> = deleted.into_iter().collect();
    let is_live = |record: Option<&BlobRecord>| record.is_some_and(|one| one.tombstone.is_none());
    let pinned = changed(store, seen, is_live).await?;
    for Seen { image, .. } in seen {
        if pinned.contains(&image.name) && deleted.remove(&image.name) {
            match store.images.create(image.clone()).await {
                // The job has created the name.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                created => created.map(|_| ())?,
            }
        }
    }
    Ok(deleted)
}

/// Returns the names of images whose targets may have been pinned since the scan: a pin changes the
/// record of the target. `may_be_pinned` judges the record after the change.
async fn changed(
    store: &Store,
    seen: &[Seen],
    may_be_pinned: impl Fn(Option<&BlobRecord>) -> bool,
) -> Result<HashSet<Reference>> {
    let may_be_pinned = &may_be_pinned;
    let blobs = &store.blobs();
    let each = seen.iter().map(|Seen { image, revision }| async move {
        let found = blobs.load(&image.target.digest).await?;
        let (record, now) = found.unzip();
        let is_pinned = now != *revision && may_be_pinned(record.as_ref());
        Ok::<_, crate::error::Error>(is_pinned.then(|| image.name.clone()))
    });
    let each: Vec<_> = each.collect();
    let found: Vec<Option<Reference>> = stream::iter(each)
        .buffered(CONCURRENT)
        .try_collect()
        .await?;
    Ok(found.into_iter().flatten().collect())
}
