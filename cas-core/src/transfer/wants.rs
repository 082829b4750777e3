//! What a pull does with each layer.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use super::unpacker::{Unpacker, Want};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::document::Manifest;
use crate::error::Result;
use crate::lease::stored_copy;
use crate::store::Store;
use crate::sync::lock;

/// The answers of an unpacker. An answer holds for all manifests that list the layer.
pub(super) struct Wants<'a> {
    store: &'a Store,
    decided: Mutex<HashMap<Digest, Want>>,
}

impl<'a> Wants<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Wants {
            store,
            decided: Mutex::default(),
        }
    }

    /// Returns what to do with a blob. A blob for which nothing was decided is stored.
    pub(super) fn get(&self, descriptor: &Descriptor) -> Want {
        let decided = lock(&self.decided);
        decided.get(&descriptor.digest).copied().unwrap_or_default()
    }

    /// Asks the unpacker about the layers of `manifest`, whose descriptor is `own`. A layer that
    /// was stored before and was lost, or whose stored copy is damaged, is stored again, whatever
    /// the answer.
    ///
    /// # Errors
    /// Errors of the store.
    pub(super) async fn decide(
        &self,
        own: &Descriptor,
        manifest: &Manifest,
        unpacker: &dyn Unpacker,
    ) -> Result<()> {
        let left_out = self.ask(manifest, unpacker);
        if left_out.is_empty() {
            return Ok(());
        }
        let claimed = self.claimed(own).await?;
        for layer in left_out {
            let must_repair = match stored_copy(self.store, &layer.digest, layer.size).await? {
                Some((_, is_intact)) => !is_intact,
                None => claimed.contains(&layer.digest),
            };
            if must_repair {
                self.repair(layer);
            }
        }
        Ok(())
    }

    /// Asks the unpacker about the layers that are not decided yet. Returns the layers of the
    /// manifest that are not to be stored.
    fn ask<'b>(&self, manifest: &'b Manifest, unpacker: &dyn Unpacker) -> Vec<&'b Descriptor> {
        let mut decided = lock(&self.decided);
        // An artifact may list its configuration as a layer too.
        decided.insert(manifest.config.digest, Want::Store);
        let mut left_out = Vec::new();
        for layer in &manifest.layers {
            let want = decided.entry(layer.digest);
            if !want.or_insert_with(|| unpacker.wants(layer)).is_stored() {
                left_out.push(layer);
            }
        }
        left_out
    }

    /// Returns the children of a document, except those that its record lists as absent.
    async fn claimed(&self, document: &Descriptor) -> Result<BTreeSet<Digest>> {
        let loaded = self.store.blobs().load(&document.digest).await?;
        let Some((record, _)) = loaded else {
            return Ok(BTreeSet::new());
        };
        let children = record.children.into_iter();
        let stored = children.filter(|child| !record.absent.contains(child));
        Ok(stored.collect())
    }

    /// Decides to store a layer.
    fn repair(&self, layer: &Descriptor) {
        let mut decided = lock(&self.decided);
        let want = decided.entry(layer.digest).or_default();
        *want = if want.is_fed() {
            Want::StoreAndFeed
        } else {
            Want::Store
        };
    }
}
