//! Removing and labelling single blobs.

use std::collections::BTreeMap;

use cas_core::gc::{self, RemoveOptions, Removed};
use cas_core::{Digest, Labels, Result, lease};

use super::Cas;

impl Cas {
    /// Removes blobs to which nothing but each other refers. Other jobs may use the store
    /// meanwhile. Returns what was removed; a blob that came into use meanwhile is missing there.
    ///
    /// # Errors
    /// As [`gc::remove`]: `NotFound` for a blob that is not in the store; `Busy`, with what refers
    /// to it, for a blob that is in use. Nothing is removed then.
    pub async fn remove_blobs(&self, blobs: impl IntoIterator<Item = Digest>) -> Result<Removed> {
        let options = RemoveOptions::default();
        self.remove_blobs_with(blobs, options).await
    }

    /// Removes with options. Returns what was removed.
    ///
    /// # Errors
    /// As [`Cas::remove_blobs`].
    pub async fn remove_blobs_with(
        &self,
        blobs: impl IntoIterator<Item = Digest>,
        options: RemoveOptions,
    ) -> Result<Removed> {
        let store = self.writable()?;
        let snapshotters = self.collected_snapshotters();
        let blobs = blobs.into_iter().collect();
        gc::remove(store, &snapshotters, &blobs, &options).await
    }

    /// Changes labels of a blob: sets those with a value, and removes those without one. Labels
    /// that begin with `containerd.io/gc.` decide what a collection keeps, as in containerd.
    /// Returns all labels that the blob has then.
    ///
    /// # Errors
    /// As [`lease::change_labels`].
    pub async fn label_blob(
        &self,
        blob: &Digest,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<Labels> {
        lease::change_labels(self.writable()?, blob, changes).await
    }
}
