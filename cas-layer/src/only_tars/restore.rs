//! Makes blobs again from the tars of their layers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::pin::Pin;

use cas_core::content::{Durability, Sink, write_apart};
use cas_core::lease::{BlobRef, LeaseGuard};
use cas_core::progress::Progress;
use cas_core::records::{BlobRecord, Packing};
use cas_core::{
    Descriptor, Digest, Document, Error, ErrorKind, Manifest, MediaType, Platforms, Result,
    Snapshotter, Store, dispatch, gc, image, limit,
};
use serde_json::Value;

use super::{Layer, damaged, layers, packing};
use crate::unpack::{check_without_tar, note_verified};

/// Makes the blobs of layers again if the store does not have them because a snapshotter keeps the
/// tars. A lease keeps the new blobs in the store until [`Restorer::finish_with`].
pub struct Restorer<'a> {
    store: &'a Store,
    snapshotter: &'a dyn Snapshotter,
    progress: &'a dyn Progress,
    /// The manifest for the selected platform, and the indexes that lead to it. `None` means that
    /// all platforms are selected.
    selected: Option<BTreeSet<Digest>>,
    /// The lease of the new blobs. There is none until the first tar is read.
    guard: Option<LeaseGuard>,
    /// The layer blobs, manifests and indexes that this restorer stored.
    made: BTreeSet<Digest>,
    /// The manifests that list layers whose blobs this restorer made, or replaced by others.
    manifests: BTreeSet<Digest>,
}

impl<'a> Restorer<'a> {
    /// Returns a restorer that has not stored anything.
    pub fn new(
        store: &'a Store,
        snapshotter: &'a dyn Snapshotter,
        progress: &'a dyn Progress,
    ) -> Self {
        Restorer {
            store,
            snapshotter,
            progress,
            selected: None,
            guard: None,
            made: BTreeSet::new(),
            manifests: BTreeSet::new(),
        }
    }

    /// Makes and stores the missing layer blobs of `root`, an image or an index, for `platforms`.
    /// Makes none if the store does not have `root` for `platforms`, because the operation that
    /// needs the blobs reports this. Does not read the manifests of other platforms. The blobs are
    /// made from the tars that the snapshotter keeps. If the original bytes of a blob cannot be
    /// made again, compresses the tar with gzip instead, so the new blob has another digest. Does
    /// not make the layers of a manifest whose configuration is missing or is not that of an image.
    /// Returns `root` if every new blob has its original digest. Otherwise, stores new manifests
    /// and indexes that list the new blobs and the same configurations, and returns the descriptor
    /// of the manifest or index that takes the place of `root`. In this case, the progress receives
    /// a warning with the digest in this descriptor.
    ///
    /// # Errors
    /// `Corrupt` for a damaged or lost tar, for a damaged document, or if a manifest and its
    /// configuration do not match; `OutOfRange` if an index or a manifest is too large to be read,
    /// or if the indexes exceed a bound of [`dispatch::walk()`]; errors of the store, of its leases
    /// and of the snapshotter.
    pub async fn restore(
        &mut self,
        root: &Descriptor,
        platforms: &Platforms,
    ) -> Result<Descriptor> {
        use ErrorKind::{Corrupt, NotFound, Unsupported};
        self.selected = match platforms {
            Platforms::All => None,
            one => match image::manifest_for(&*self.store.content, root, one).await {
                Err(error) if matches!(error.kind(), Corrupt | NotFound | Unsupported) => {
                    return Ok(root.clone());
                }
                found => {
                    let found = found?;
                    let documents = found.indexes.iter().chain([&found.descriptor]);
                    Some(documents.map(|document| document.digest).collect())
                }
            },
        };
        let restored = self.document(root.clone(), limit::INDEX_DEPTH).await?;
        if restored.digest != root.digest {
            self.progress.warn(&format!(
                "the store keeps layers of {} as tars only, and their original compressed bytes \
                 cannot be made again; the layers are compressed again, and the image has the new \
                 digest {}, to which no signature applies",
                root.digest, restored.digest
            ));
        }
        Ok(restored)
    }

    /// Ends the lease of the new blobs. Removes the blobs that this restorer stored, except those
    /// that something else in the store refers to. Returns `outcome`, the result of the operation
    /// that needed the blobs. If the removal fails, the progress receives a warning.
    ///
    /// # Errors
    /// The error in `outcome`, or else errors of the lease.
    pub async fn finish_with<T>(mut self, outcome: Result<T>) -> Result<T> {
        let Some(guard) = self.guard.take() else {
            return outcome;
        };
        let outcome = guard.finish_with(outcome).await;
        let progress = self.progress;
        if let Err(error) = self.remove().await {
            progress.warn(&format!(
                "layers that were made from tars could not be removed: {error}; run `cas gc` to \
                 remove them"
            ));
        }
        outcome
    }

    /// Removes what was stored. First records the layers as absent again, because the records of
    /// the manifests no longer list them as absent if the layers were pinned with their manifests.
    /// If this function fails or the process is killed, the layers have a blob and a tar.
    async fn remove(self) -> Result<()> {
        for manifest in &self.manifests {
            let change = |found: Option<BlobRecord>| {
                let mut record = found.ok_or_else(|| Error::not_found("no such manifest"))?;
                let tars = record.tars.keys().filter(|layer| self.made.contains(layer));
                let tars: Vec<Digest> = tars.copied().collect();
                record.absent.extend(tars);
                Ok(record)
            };
            match self.store.blobs().update(manifest, change).await {
                // The image was removed since.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                updated => drop(updated?),
            }
        }
        let options = gc::GcOptions::default().with_only(Some(self.made));
        gc::collect(self.store, &[self.snapshotter], &options)
            .await
            .map(|_| ())
    }

    /// Returns the descriptor of the document that takes the place of `descriptor`. Returns
    /// `descriptor` if nothing was changed.
    fn document(
        &mut self,
        descriptor: Descriptor,
        depth: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Descriptor>> + Send + '_>> {
        Box::pin(async move {
            if descriptor.data.is_some() || !self.store.present(&descriptor).await? {
                return Ok(descriptor);
            }
            let document = dispatch::document(&*self.store.content, &descriptor).await?;
            match document {
                Document::Manifest(manifest) => self.manifest(descriptor, &manifest).await,
                Document::Index(index) => {
                    // A deeper index is refused by the verb that reads it next.
                    let Some(depth) = depth.checked_sub(1) else {
                        return Ok(descriptor);
                    };
                    let mut changed = BTreeMap::new();
                    for child in index.manifests {
                        let digest = child.digest;
                        let is_needed = child.media_type.is_document() && self.selects(&digest);
                        if !is_needed || changed.contains_key(&digest) {
                            continue;
                        }
                        let new = self.document(child, depth).await?;
                        if new.digest != digest {
                            changed.insert(digest, new);
                        }
                    }
                    self.rewrite(descriptor, "manifests", &changed).await
                }
            }
        })
    }

    async fn manifest(&mut self, own: Descriptor, manifest: &Manifest) -> Result<Descriptor> {
        use ErrorKind::{NotFound, Unsupported};
        let Some((record, _)) = self.store.blobs().load(&own.digest).await? else {
            return Ok(own);
        };
        if record.absent.is_empty() {
            return Ok(own);
        }
        let layers = match layers(self.store, manifest).await {
            // Without the configuration, it is not known which tars belong to the layers, and an
            // artifact has no tars. The verb that needs the layers reports what is missing.
            Err(error) if matches!(error.kind(), NotFound | Unsupported) => return Ok(own),
            found => found?,
        };
        let mut changed = BTreeMap::new();
        for layer in layers {
            let digest = layer.descriptor.digest;
            if changed.contains_key(&digest) || !record.absent.contains(&digest) {
                continue;
            }
            if self.made.contains(&digest) {
                // The blob was made for another manifest.
                self.manifests.insert(own.digest);
                continue;
            }
            if self.store.present(&layer.descriptor).await? {
                continue;
            }
            let key = layer.chain_id.to_string();
            let Some(tar) = self.snapshotter.open_tar(&key).await? else {
                check_without_tar(self.snapshotter, &key).await?;
                continue;
            };
            let new = self.layer(&layer, &record, tar).await?;
            self.manifests.insert(own.digest);
            if new.digest != digest {
                changed.insert(digest, new);
            }
        }
        self.rewrite(own, "layers", &changed).await
    }

    /// Makes the blob of a layer from its tar, and stores it. Returns the descriptor of the blob.
    async fn layer(&mut self, layer: &Layer, record: &BlobRecord, tar: File) -> Result<Descriptor> {
        let Layer {
            descriptor,
            diff_id,
            chain_id,
        } = layer;
        let known = record.tars.get(&descriptor.digest).copied();
        let packing = match known {
            _ if descriptor.digest == *diff_id => Packing::Plain,
            Some(packing) => packing,
            None => Packing::Unknown,
        };
        self.begin().await?;
        self.guard()?
            .pin_snapshots(self.snapshotter.name(), &[chain_id.to_string()])
            .await?;
        let item = descriptor.digest.to_string();
        self.progress.begin(&item, None);
        let own = *diff_id;
        let pack = move |writer, waiter| {
            let (found, sink) = packing::pack(tar, packing, &own, Sink::new(writer, waiter))?;
            Ok((sink.finish()?, found))
        };
        let (ingest, (mut writer, found)) =
            write_apart(&self.store.content, "restore", pack).await?;
        if found != *diff_id {
            // The next pull or import then verifies the tar. If this fails, it finds the damage
            // only if the tar has changed since.
            let _ = note_verified(self.snapshotter, &chain_id.to_string(), String::new()).await;
            return Err(damaged(chain_id));
        }
        let (digest, size) = (writer.digest().await?, writer.offset());
        let new = if digest == descriptor.digest {
            descriptor.clone()
        } else {
            let gzip = match descriptor.media_type.is_docker() {
                true => MediaType::DOCKER_LAYER_GZIP,
                false => MediaType::OCI_LAYER_GZIP,
            };
            Descriptor::new(gzip, digest, size)
        };
        let blob = BlobRef::of(&new, Vec::new());
        if self.guard()?.pin_intact(blob.clone()).await? {
            drop(writer);
            ingest.discard().await?;
        } else {
            let published = self.guard()?.publish(writer, &blob, Durability::Relaxed);
            published.await?;
            ingest.published();
            self.made.insert(digest);
        }
        self.progress.end(&item);
        Ok(new)
    }

    /// Stores a copy of the document `own`. In the list `list` of the copy, each descriptor whose
    /// digest is a key of `changed` is replaced by the descriptor under this key. Returns the
    /// descriptor of the copy. If `changed` is empty, stores nothing and returns `own`.
    async fn rewrite(
        &mut self,
        own: Descriptor,
        list: &str,
        changed: &BTreeMap<Digest, Descriptor>,
    ) -> Result<Descriptor> {
        if changed.is_empty() {
            return Ok(own);
        }
        let bytes = dispatch::read(&*self.store.content, &own).await?;
        let mut value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| cas_core::error::malformed("not a valid document", &error))?;
        for entry in value[list].as_array_mut().into_iter().flatten() {
            let digest = entry["digest"].as_str().and_then(|text| text.parse().ok());
            if let Some(new) = digest.and_then(|digest: Digest| changed.get(&digest)) {
                replace(entry, new);
            }
        }
        let bytes = serde_json::to_vec(&value).map_err(|error| {
            Error::internal("a document could not be serialized; please report it").source(error)
        })?;
        let new = Descriptor {
            digest: Digest::sha256(&bytes),
            size: bytes.len() as u64,
            data: None,
            ..own.clone()
        };
        let guard = self.guard()?;
        // For one platform, the other children of an index are not needed, and may be damaged.
        if own.media_type.is_manifest() || self.selected.is_none() {
            guard.pin_tree_found(&own).await?;
        }
        guard.put(&new, bytes.into(), Durability::Relaxed).await?;
        self.made.insert(new.digest);
        Ok(new)
    }

    /// Returns whether the manifest or index `document` is selected, or leads to what is selected.
    fn selects(&self, document: &Digest) -> bool {
        let selected = self.selected.as_ref();
        selected.is_none_or(|selected| selected.contains(document))
    }

    /// Begins the lease, unless it has begun.
    async fn begin(&mut self) -> Result<()> {
        if self.guard.is_none() {
            self.guard = Some(LeaseGuard::begin(self.store, "restore").await?);
        }
        Ok(())
    }

    fn guard(&self) -> Result<&LeaseGuard> {
        let guard = self.guard.as_ref();
        guard.ok_or_else(|| Error::internal("a layer has no lease; please report it"))
    }
}

/// Replaces the digest, the size and the type in an entry of a document. Removes what described the
/// old bytes of a layer. Keeps what an index states about a manifest, such as its platform.
fn replace(entry: &mut Value, new: &Descriptor) {
    entry["digest"] = new.digest.to_string().into();
    entry["size"] = new.size.into();
    entry["mediaType"] = new.media_type.as_str().into();
    if let Some(members) = entry.as_object_mut() {
        members.remove("data");
        members.remove("urls");
        if !new.media_type.is_document() {
            // For example, where the table of contents of an eStargz layer is.
            members.remove("annotations");
        }
    }
}
