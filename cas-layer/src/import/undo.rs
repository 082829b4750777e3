//! Undoes an import. Removes its ingests, and the blobs that it created, except blobs to which
//! something else refers.

use std::collections::{BTreeMap, BTreeSet};

use cas_core::content::OwnIngest;
use cas_core::gc;
use cas_core::lease::LeaseGuard;
use cas_core::{Digest, Error, Image, Result, Store};

/// What an import created.
#[derive(Default)]
pub(super) struct Created {
    /// Blobs that were absent from the store before, or damaged in it.
    pub(super) blobs: BTreeSet<Digest>,
    /// Ingests that are not published, by key. They are discarded if the import is dropped.
    pub(super) ingests: BTreeMap<String, OwnIngest>,
}

/// An import that can be undone.
pub(super) struct Undo {
    pub(super) store: Store,
    pub(super) guard: LeaseGuard,
    pub(super) created: Created,
}

impl Undo {
    /// Removes what the import created, and ends its lease. Returns a warning for each step that
    /// failed.
    pub(super) async fn run(self) -> Vec<String> {
        let mut warnings = discard_all(self.created.ingests).await;
        if let Err(error) = self.guard.finish().await {
            warnings.push(format!(
                "the lease of the import could not be ended: {error}; the lease expires by itself"
            ));
        }
        if let Err(error) = collect_unreferenced(&self.store, self.created.blobs).await {
            warnings.push(not_removed(&error));
        }
        warnings
    }

    /// Writes the new name of an image that was stored, and ends the lease. If that fails, removes
    /// what the import created.
    pub(super) async fn or_name(self, image: Image) -> Result<Image> {
        let named = self.guard.name_new(image).await;
        if named.is_err() {
            // The caller has an error to report already. A later collection removes the blobs.
            let _ = collect_unreferenced(&self.store, self.created.blobs).await;
        }
        named
    }
}

/// Discards ingests, by key. Returns a warning for each that could not be discarded.
pub(super) async fn discard_all(ingests: BTreeMap<String, OwnIngest>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (key, ingest) in ingests {
        if let Err(error) = ingest.discard().await {
            warnings.push(format!(
                "the ingest {key} could not be removed: {error}; a garbage collection will remove it"
            ));
        }
    }
    warnings
}

/// Removes the blobs that nothing references, by a garbage collection of these blobs alone.
pub(super) async fn collect_unreferenced(store: &Store, blobs: BTreeSet<Digest>) -> Result<()> {
    if blobs.is_empty() {
        return Ok(());
    }
    let options = gc::GcOptions::default().with_only(Some(blobs));
    gc::collect(store, &[], &options).await.map(|_| ())
}

/// Returns the warning for blobs that could not be removed.
pub(super) fn not_removed(error: &Error) -> String {
    format!("unreferenced blobs could not be removed: {error}; run `cas gc` to remove them")
}
