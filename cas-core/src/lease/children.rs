//! Recording the children of documents, once they are in the store.

use super::guard::LeaseGuard;
use super::pin::BlobRef;
use crate::complete::correct_indexes;
use crate::error::Result;

impl LeaseGuard {
    /// Records the children of documents, in one step if the records store can. Children that this
    /// job neither stored nor found in the store are recorded as absent, like those that the caller
    /// left out, unless an earlier job stored them.
    ///
    /// The documents and their children must be in the store, and durable: a job that fails before
    /// this leaves every image as it was.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn record_children(&self, mut documents: Vec<BlobRef>) -> Result<()> {
        for document in &mut documents {
            let pinned = self.lock();
            let is_missing = |child: &&_| pinned.get(child) != Some(&true);
            let missing = document.children.iter().filter(is_missing);
            document.absent.extend(missing.copied());
        }
        self.pin_all(&documents).await?;
        correct_indexes(&self.store).await
    }
}
