//! The labels by which a manifest or an index keeps its referrers.

use super::guard::LeaseGuard;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::Result;
use crate::labels::{Labels, gc_ref_referrer};
use crate::records::BlobRecord;

impl LeaseGuard {
    /// Records that `referrers` refer to `subject`. From then on, collections keep them for as long
    /// as the subject, and a job that pins the tree of the subject pins them too. The lease must
    /// have pinned them, and their own children must be recorded.
    ///
    /// # Errors
    /// `NotFound` if the subject, or something that it lists and that is not recorded as absent, is
    /// missing; `InvalidArgument` if the subject would keep more than
    /// [`limit::DESCRIPTORS`](crate::limit::DESCRIPTORS); errors of the store.
    pub async fn record_referrers(&self, subject: &Descriptor, referrers: &[Digest]) -> Result<()> {
        if referrers.is_empty() {
            return Ok(());
        }
        // This records the children of a subject that another program stored without a record.
        self.pin_tree(subject).await?;
        let label = |referrer: &Digest| (gc_ref_referrer(referrer), referrer.to_string());
        let labels: Labels = referrers.iter().map(label).collect();
        let add = |found: Option<BlobRecord>| {
            let unknown = || BlobRecord::new(subject.size, Some(subject.media_type.clone()));
            let mut record = found.unwrap_or_else(unknown);
            record.labels.extend(labels.clone());
            Ok(record)
        };
        let blobs = self.store.blobs();
        blobs.update(&subject.digest, add).await.map(|_| ())
    }
}
