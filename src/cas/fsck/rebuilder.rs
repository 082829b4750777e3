//! Unpacking layers again for damaged snapshots.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cas_core::check::{RECOVERED, Rebuilder, Sources};
use cas_core::dispatch::{self, handler_fn, walk};
use cas_core::image::Reference;
use cas_core::lease::LeaseGuard;
use cas_core::progress::Progress;
use cas_core::records::Resource;
use cas_core::sync::lock;
use cas_core::transfer::{self, PullOptions};
use cas_core::{
    Descriptor, Digest, Document, Error, ErrorKind, Manifest, Next, Result, Snapshotter, Store,
    blob, gc,
};
use cas_layer::unpack;
use tokio::sync::OnceCell;

use super::sources::RepairSources;
use crate::cas::Cas;
use crate::cas::each_snapshotter::collected;

/// Unpacks the layers of the images in a store.
pub(super) struct LayerRebuilder<'a> {
    store: &'a Store,
    /// A handle for each snapshotter of the check.
    handles: &'a [Cas],
    sources: &'a RepairSources<'a>,
    progress: &'a Arc<dyn Progress>,
    /// For each chain ID, the layer with this chain ID, and an image that has the layer.
    layers: OnceCell<HashMap<String, Found>>,
}

/// A layer of an image.
struct Found {
    layer: Descriptor,
    is_on_demand: bool,
    manifest: Arc<Manifest>,
    /// The name of the image, if it has one.
    name: Option<Reference>,
}

impl<'a> LayerRebuilder<'a> {
    pub(super) fn new(
        store: &'a Store,
        handles: &'a [Cas],
        sources: &'a RepairSources<'a>,
        progress: &'a Arc<dyn Progress>,
    ) -> Self {
        LayerRebuilder {
            store,
            handles,
            sources,
            progress,
            layers: OnceCell::new(),
        }
    }

    /// Returns the layers of all images of all platforms by their chain IDs. Skips an image whose
    /// configuration cannot be read.
    async fn layers(&self) -> Result<HashMap<String, Found>> {
        let mut found = HashMap::new();
        for (target, name) in self.targets().await? {
            for manifest in self.manifests(target).await? {
                let manifest = Arc::new(manifest);
                let Ok(chain) = unpack::chain_of(self.store, &manifest).await else {
                    continue;
                };
                for (in_chain, layer) in chain.iter().zip(&manifest.layers) {
                    let one = Found {
                        layer: layer.clone(),
                        is_on_demand: in_chain.is_on_demand,
                        manifest: Arc::clone(&manifest),
                        name: name.clone(),
                    };
                    found.entry(in_chain.chain_id.to_string()).or_insert(one);
                }
            }
        }
        Ok(found)
    }

    /// Returns the targets of all images, with their names, and the documents that no name reaches
    /// and that the lease [`RECOVERED`] keeps.
    async fn targets(&self) -> Result<Vec<(Descriptor, Option<Reference>)>> {
        use ErrorKind::{Corrupt, InvalidArgument, NotFound};
        let roots = self.store.images.roots().await?.into_iter();
        let mut targets: Vec<_> = roots.map(|root| (root.target, root.name)).collect();
        let recovered = self.store.leases().load(RECOVERED).await?;
        for resource in recovered.into_iter().flat_map(|(lease, _)| lease.resources) {
            let Resource::Content(digest) = resource else {
                continue;
            };
            match blob::document(self.store, &digest).await {
                Err(error) if matches!(error.kind(), Corrupt | InvalidArgument | NotFound) => {}
                document => targets.push((document?, None)),
            }
        }
        Ok(targets)
    }

    /// Returns the handle of a snapshotter of the check.
    fn handle_of(&self, snapshotter: &dyn Snapshotter) -> Result<&Cas> {
        let name = snapshotter.name();
        let is_of = |cas: &&Cas| cas.snapshotter().is_ok_and(|one| one.name() == name);
        let found = self.handles.iter().find(is_of);
        found.ok_or_else(|| {
            Error::internal("the check does not cover this snapshotter; please report it")
        })
    }

    /// Fetches a layer into the store.
    async fn fetch(&self, guard: &LeaseGuard, found: &Found) -> Result<()> {
        let store = self.store;
        let options = PullOptions::default().with_progress(Arc::clone(self.progress));
        let mut last = Error::not_found(
            "the store does not have the layer, and no source for it is known; pull or import the \
             image again",
        )
        .subject(found.layer.digest);
        for source in self.sources.of(found.name.as_ref()).await? {
            match transfer::fetch(store, guard, &*source, &found.layer, &options).await {
                Ok(_) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Returns the manifests at and below a target that are in the store.
    async fn manifests(&self, target: Descriptor) -> Result<Vec<Manifest>> {
        let manifests = Mutex::new(Vec::new());
        let (content, found) = (&*self.store.content, &manifests);
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
    async fn rebuild(&self, snapshotter: &dyn Snapshotter, key: &str) -> Result<()> {
        let layers = self.layers.get_or_try_init(|| self.layers()).await?;
        let found = layers.get(key).ok_or_else(|| {
            Error::not_found(
                "no stored image has the layer of this snapshot; remove the snapshot with \
                 `cas snapshot rm`",
            )
            .subject(key)
        })?;
        let (store, chain_id) = (self.store, key.parse()?);
        let target = unpack::Target {
            tables: self.sources.tables(),
            ..self.handle_of(snapshotter)?.target()?
        };
        if snapshotter.stat(key).await?.is_none() {
            let made = unpack::to_snapshots(store, target, &found.manifest, self.progress);
            return made.await.map(drop);
        }
        let rebuild = || unpack::rebuild(store, target, &found.manifest, &chain_id, self.progress);
        let is_stored = store.content.stat(&found.layer.digest).await?.is_some();
        match rebuild().await {
            // The layer was kept only as the tar that is damaged, or was not fetched.
            Err(error)
                if error.kind() == ErrorKind::NotFound && !found.is_on_demand && !is_stored => {}
            rebuilt => return rebuilt,
        }
        let guard = LeaseGuard::begin(store, "fsck").await?;
        let rebuilt = match self.fetch(&guard, found).await {
            Ok(()) => rebuild().await,
            Err(error) => Err(error),
        };
        guard.finish_with(rebuilt).await?;
        let only = BTreeSet::from([found.layer.digest]);
        let options = gc::GcOptions::default().with_only(Some(only));
        gc::collect(store, &collected(self.handles), &options)
            .await
            .map(|_| ())
    }

    async fn restore(
        &self,
        snapshotter: &dyn Snapshotter,
        manifest: &Manifest,
        tars: BTreeMap<Digest, PathBuf>,
    ) -> Result<()> {
        let target = unpack::Target {
            tables: self.sources.tables(),
            ..self.handle_of(snapshotter)?.target()?
        };
        unpack::restore_snapshots(self.store, target, manifest, tars, self.progress).await
    }
}
