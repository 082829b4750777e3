//! Unpacking layers again for damaged snapshots.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cas_core::check::Rebuilder;
use cas_core::dispatch::{self, handler_fn, walk};
use cas_core::progress::Progress;
use cas_core::sync::lock;
use cas_core::{Descriptor, Document, Error, Manifest, Next, Result, Snapshotter};
use cas_layer::unpack;
use tokio::sync::OnceCell;

use crate::cas::Cas;

/// Unpacks the layers of the images in a store.
pub(super) struct LayerRebuilder<'a> {
    cas: &'a Cas,
    progress: &'a Arc<dyn Progress>,
    /// For each chain ID, an image that has it.
    images: OnceCell<HashMap<String, Arc<Manifest>>>,
}

impl<'a> LayerRebuilder<'a> {
    pub(super) fn new(cas: &'a Cas, progress: &'a Arc<dyn Progress>) -> Self {
        LayerRebuilder {
            cas,
            progress,
            images: OnceCell::new(),
        }
    }

    /// Returns the images of all platforms by the chain IDs of their layers. Skips an image whose
    /// configuration cannot be read.
    async fn images(&self) -> Result<HashMap<String, Arc<Manifest>>> {
        let mut images = HashMap::new();
        for root in self.cas.store.images.roots().await? {
            for manifest in self.manifests(root.target).await? {
                let manifest = Arc::new(manifest);
                let Ok(chain) = unpack::chain_of(&self.cas.store, &manifest).await else {
                    continue;
                };
                for chain_id in chain {
                    images.insert(chain_id.to_string(), Arc::clone(&manifest));
                }
            }
        }
        Ok(images)
    }

    /// Returns the manifests at and below a target that are in the store.
    async fn manifests(&self, target: Descriptor) -> Result<Vec<Manifest>> {
        let manifests = Mutex::new(Vec::new());
        let (content, found) = (&*self.cas.store.content, &manifests);
        let handler = handler_fn(|descriptor: Descriptor| async move {
            if !descriptor.media_type.is_document() {
                return Ok(Next::NONE);
            }
            match dispatch::document(content, &descriptor).await {
                Ok(Document::Manifest(manifest)) => {
                    lock(found).push(*manifest);
                    Ok(Next::NONE)
                }
                Ok(Document::Index(index)) => Ok(Next::Children(index.manifests)),
                Err(_) => Ok(Next::NONE),
            }
        });
        walk(&handler, std::slice::from_ref(&target)).await?;
        Ok(std::mem::take(&mut lock(&manifests)))
    }
}

#[async_trait]
impl Rebuilder for LayerRebuilder<'_> {
    async fn rebuild(&self, _: &dyn Snapshotter, key: &str) -> Result<()> {
        let images = self.images.get_or_try_init(|| self.images()).await?;
        let manifest = images.get(key).ok_or_else(|| {
            Error::not_found(
                "no stored image has the layer of this snapshot; remove the snapshot with \
                 `cas snapshot rm`",
            )
            .subject(key)
        })?;
        let target = self.cas.target()?;
        unpack::rebuild(
            &self.cas.store,
            target,
            manifest,
            &key.parse()?,
            self.progress,
        )
        .await
    }
}
