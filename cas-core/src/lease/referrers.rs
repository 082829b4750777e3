//! The labels of a manifest or an index that protect its referrers from garbage collections.

use super::guard::LeaseGuard;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::labels::{GC_REF_REFERRER, Labels, gc_ref_referrer};
use crate::limit;
use crate::records::BlobRecord;
use crate::store::Store;

impl LeaseGuard {
    /// Records that `referrers` refer to `subject`. From then on, garbage collections keep the
    /// referrers for as long as they keep the subject, and a job that pins the tree of the subject
    /// pins the referrers too. The lease must have pinned the referrers, and the children of the
    /// referrers must be recorded.
    ///
    /// # Errors
    /// `OutOfRange` if the subject would keep more than [`limit::REFERRERS`] referrers;
    /// `InvalidArgument` if the labels of the subject would exceed their bounds; otherwise as
    /// [`LeaseGuard::pin_tree`].
    pub async fn record_referrers(&self, subject: &Descriptor, referrers: &[Digest]) -> Result<()> {
        if referrers.is_empty() {
            return Ok(());
        }
        // This records the children of a subject that another program stored without a record.
        self.pin_tree(subject).await?;
        add_referrers(&self.store, subject, referrers).await
    }
}

/// Adds the labels by which `subject` keeps `referrers`.
///
/// # Errors
/// `OutOfRange` if the subject would keep more than [`limit::REFERRERS`] referrers; otherwise as
/// [`Blobs::update`](crate::records::Blobs::update).
pub(crate) async fn add_referrers(
    store: &Store,
    subject: &Descriptor,
    referrers: &[Digest],
) -> Result<()> {
    let label = |referrer: &Digest| (gc_ref_referrer(referrer), referrer.to_string());
    let labels: Labels = referrers.iter().map(label).collect();
    let add = |found: Option<BlobRecord>| {
        let unknown = || BlobRecord::new(subject.size, Some(subject.media_type.clone()));
        let mut record = found.unwrap_or_else(unknown);
        record.labels.extend(labels.clone());
        let kept = record.labels.keys();
        let kept = kept.filter(|key| key.starts_with(GC_REF_REFERRER)).count();
        if kept <= limit::REFERRERS {
            return Ok(record);
        }
        Err(Error::out_of_range(format!(
            "the document would keep {kept} referrers: at most {} are allowed; remove the labels \
             {GC_REF_REFERRER}… that refer to unneeded referrers, or transfer the image without \
             referrers",
            limit::REFERRERS
        ))
        .operation("record referrers")
        .subject(subject.digest))
    };
    let blobs = store.blobs();
    blobs.update(&subject.digest, add).await.map(|_| ())
}
