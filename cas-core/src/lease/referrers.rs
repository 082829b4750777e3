//! The labels by which a manifest or an index keeps its referrers.

use super::guard::LeaseGuard;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::Result;
use crate::labels::{Labels, gc_ref_referrer};
use crate::records::BlobRecord;

impl LeaseGuard {
    /// Records that `referrers` refer to `subject`. From then on they are kept for as long as their
    /// subject is, and everything that pins the subject pins them. The lease has pinned all of them,
    /// and their own children are recorded.
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
