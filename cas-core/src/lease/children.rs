//! Recording the children of documents, once the documents and the children are in the store.

use super::guard::LeaseGuard;
use super::pin::BlobRef;
use crate::complete::correct_indexes;
use crate::error::Result;

impl LeaseGuard {
    /// Records the children of documents, in one batch if possible. A child is recorded as absent
    /// if it is in [`BlobRef::absent`], or if this job neither stored nor found it. A child that an
    /// earlier job recorded as stored stays recorded as stored. For each blob whose stored bytes
    /// this job has verified, the same batch records the verified version of the bytes. A document
    /// should be given only once: otherwise, each record is changed on its own.
    ///
    /// Call this once the documents and all children that are not absent are in the store and
    /// durable. A job that fails before this call changes no image. The first call for a store also
    /// corrects the records of all indexes, because earlier releases could record a missing or
    /// incomplete manifest as stored.
    ///
    /// # Errors
    /// `Corrupt` if a record does not parse; `Conflict` if every attempt lost against another
    /// writer; errors of the store.
    pub async fn record_children(&self, mut documents: Vec<BlobRef>) -> Result<()> {
        let mut verified = self.verified();
        for document in &mut documents {
            self.leave_out_missing(document);
            // A batch that changes a record twice would fail.
            document.verified = verified.remove(&document.digest).or(document.verified);
        }
        documents.extend(verified.into_iter().map(|(digest, version)| BlobRef {
            verified: Some(version),
            ..BlobRef::existing(digest)
        }));
        self.pin_all(&documents).await?;
        correct_indexes(&self.store).await
    }

    /// Adds to the absent children each child that this job neither stored nor found.
    pub(super) fn leave_out_missing(&self, document: &mut BlobRef) {
        let pinned = self.lock();
        let is_missing = |child: &&_| !pinned.get(child).is_some_and(|known| known.stored);
        let missing = document.children.iter().filter(is_missing);
        document.absent.extend(missing.copied());
    }
}
