//! Pulls an image from a remote.
//!
//! A document is an index or a manifest. For each document, a pull first writes the records of
//! those children that will be stored. Then it stores the document, and then these children. Once
//! all content is durable, the pull adds the children to the record of each document. It writes the
//! name last. So a pull that fails or is killed leaves every image in the store as it was. The
//! content that it fetched stays in the store until a garbage collection removes it. Until then,
//! another pull can use this content.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::carry::{self, Carrier};
use super::documents::{self, Documents, blob_refs, descriptors};
use super::fetch::Fetch;
use super::options::PullOptions;
use super::remote::Fetcher;
use super::unpacker::{Unpacker, Want};
use super::wants::Wants;
use crate::complete::is_of_document;
use crate::content::{ContentStore, Durability};
use crate::descriptor::Descriptor;
use crate::dispatch::{self, Chooser, Handler, Next, dispatch};
use crate::document::{Document, Manifest, left_out};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::{self, Image, Reference, config_platform};
use crate::lease::{BlobRef, LeaseGuard};
use crate::platform::{Matcher, Only, Platform};
use crate::store::Store;
use crate::sync::lock;

/// Fetches the image that the name of `fetcher` refers to, and names it `name` in the store. If the
/// store has the name already, the target of the name is replaced, and the labels of the name stay.
/// Returns the image.
///
/// An index is stored unchanged. Manifests for platforms that were not chosen, non-distributable
/// layers, and layers for which [`Unpacker::wants`] returns [`Want::Feed`] or [`Want::Nothing`] are
/// [recorded as absent](crate::records::BlobRecord::absent), unless an earlier job stored them.
/// Entries of an index that [`left_out`] describes are left out with a warning. So are a nested
/// index that has no other entries, and a manifest that lists a digest of an unknown algorithm.
/// Content that is intact in the store is not fetched. With [`PullOptions::referrers`], the
/// referrers of each manifest and index that was pulled are stored, and garbage collections keep
/// them for as long as their subject. If the pull fails, the content that it fetched stays in the
/// store until a garbage collection removes it. Until then, another attempt does not fetch this
/// content again.
///
/// # Errors
/// `NotFound` if the remote does not have the name, the platform or a part of the image; `Corrupt`
/// for content that does not match its descriptor, or for a referrer that does not name the subject
/// for which it is listed; `OutOfRange` if a document, the image or its referrers exceed a bound of
/// [`limit`](crate::limit); `Unsupported` if what is left out is the image itself, or if there is
/// nothing else for the chosen platform; `Busy` if another job still writes a blob of the image
/// after a wait of ten minutes; errors of the remote, the store and the unpacker.
pub async fn pull(
    store: &Store,
    fetcher: &dyn Fetcher,
    name: Reference,
    options: &PullOptions<'_>,
) -> Result<Image> {
    let guard = LeaseGuard::begin(store, "pull").await?;
    match pull_content(store, &guard, fetcher, &name, options).await {
        Ok(target) => {
            let image = Image::new(name, target);
            guard.name_one(image, &["target"]).await
        }
        Err(error) => {
            if let Some(unpacker) = options.unpacker {
                unpacker.abandon().await;
            }
            guard.finish_with(Err(error)).await
        }
    }
}

/// Fetches the content. Returns the descriptor that the name refers to.
async fn pull_content(
    store: &Store,
    guard: &LeaseGuard,
    fetcher: &dyn Fetcher,
    name: &Reference,
    options: &PullOptions<'_>,
) -> Result<Descriptor> {
    let root = fetcher.resolve().await?;
    let (wanted, required) = (options.platforms.wanted(), options.platforms.required());
    let fetch = Fetch {
        store,
        guard,
        fetcher,
        limits: &options.limits,
        requests: &options.limits.requests().for_image(),
        progress: &*options.progress,
    };
    let pull = Pull {
        fetch,
        unpacker: options.unpacker,
        root: &root,
        required,
        chooser: Mutex::new(Chooser::new(wanted.as_ref())),
        manifests: AtomicUsize::new(0),
        unverifiable: Mutex::new(None),
        wants: Wants::new(store),
        documents: Documents::default(),
    };
    let fetched = pull.run(wanted.as_ref()).await;
    fetched.map_err(|error| error.within(name))?;
    if let Some(platform) = &wanted {
        pull.check_found(platform).during("pull", name)?;
    }
    if let Some(unpacker) = options.unpacker {
        for layer in unpacker.needs() {
            pull.fetch.store(&layer, None).await?;
        }
        unpacker.finish().await?;
    }
    store.content.flush().await?;
    let documents = pull.documents.children_first(root.digest);
    let subjects = descriptors(&documents);
    guard.record_children(blob_refs(documents)).await?;
    if let Some(lister) = options.referrers {
        let carried = carry::carry(lister, &fetch, subjects, fetch.progress).await;
        carry::record(guard, carried.map_err(|error| error.within(name))?).await?;
    }
    Ok(root)
}

/// Fetches referrers, with all of their platforms.
#[async_trait]
impl Carrier for Fetch<'_> {
    async fn carry(&self, referrer: &Descriptor) -> Result<Vec<documents::Document>> {
        let pull = Pull {
            fetch: *self,
            unpacker: None,
            root: referrer,
            required: None,
            chooser: Mutex::new(Chooser::new(None)),
            manifests: AtomicUsize::new(0),
            unverifiable: Mutex::new(None),
            wants: Wants::new(self.store),
            documents: Documents::default(),
        };
        pull.run(None).await?;
        self.store.content.flush().await?;
        Ok(pull.documents.children_first(referrer.digest))
    }

    fn content(&self) -> &dyn ContentStore {
        &*self.store.content
    }
}

struct Pull<'a> {
    fetch: Fetch<'a>,
    unpacker: Option<&'a dyn Unpacker>,
    root: &'a Descriptor,
    /// The platform that the image must be for, even if it has no index to choose from.
    required: Option<&'a Platform>,
    chooser: Mutex<Chooser>,
    /// Number of manifests that were found.
    manifests: AtomicUsize,
    /// The error for the first document that was left out.
    unverifiable: Mutex<Option<Error>>,
    wants: Wants<'a>,
    documents: Documents,
}

#[async_trait]
impl Handler for Pull<'_> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
        if descriptor.media_type.is_document() {
            return self.document(descriptor).await.map(Next::Children);
        }
        self.blob(descriptor).await?;
        Ok(Next::NONE)
    }
}

impl Pull<'_> {
    /// Fetches everything, except what is left out. If what was found without it is not an image
    /// for the platform `wanted`, returns the error for what was left out.
    async fn run(&self, wanted: Option<&Platform>) -> Result<()> {
        let limiter = Semaphore::new(self.fetch.limits.blobs());
        dispatch(self, Some(&limiter), std::slice::from_ref(self.root)).await?;
        let Some(unverifiable) = lock(&self.unverifiable).take() else {
            return Ok(());
        };
        let is_found = match wanted {
            None => self.manifests.load(Ordering::Relaxed) > 0,
            Some(platform) => self.has_stored(platform).await?,
        };
        match is_found {
            true => Ok(()),
            false => Err(unverifiable),
        }
    }

    /// Returns whether the store has a manifest of the image for a platform.
    async fn has_stored(&self, platform: &Platform) -> Result<bool> {
        let content = &*self.fetch.store.content;
        match image::manifest(content, self.root, &Only::new(platform)).await {
            Err(error) if is_of_document(&error) => Ok(false),
            found => found.map(|_| true),
        }
    }

    /// Writes the records of the children that will be stored, and then stores the document. The
    /// record of the document gets its children when all of them are stored. Returns the children
    /// to visit. Leaves out a document with digests that cannot be verified, unless it is the image
    /// itself.
    async fn document(&self, descriptor: &Descriptor) -> Result<Vec<Descriptor>> {
        let data = self.read(descriptor).await?;
        let document = match dispatch::parse(descriptor, &data) {
            Err(error) if error.kind() == ErrorKind::Unsupported && descriptor != self.root => {
                let why = error.without_advice();
                let progress = self.fetch.progress;
                progress.warn(&format!("{why}; the document is not pulled"));
                lock(&self.unverifiable).get_or_insert(error);
                return Ok(Vec::new());
            }
            document => document?,
        };
        if descriptor.media_type.is_index()
            && let Some(what) = left_out(&data)
        {
            let index = descriptor.digest;
            let message = format!("{index}: {what}; only the other entries are pulled");
            self.fetch.progress.warn(&message);
        }
        self.documents.add(descriptor, document.children());
        let children = match document {
            Document::Index(index) => {
                let mut chooser = lock(&self.chooser);
                index
                    .manifests
                    .iter()
                    .for_each(|entry| chooser.offer(entry));
                chooser.choose(&index.manifests)
            }
            Document::Manifest(manifest) => self.manifest(descriptor, &manifest).await?,
        };
        let is_stored = |child: &&Descriptor| self.wants.get(child).is_stored();
        let stored = children.iter().filter(is_stored);
        let pins: Vec<BlobRef> = stored.map(|child| BlobRef::of(child, Vec::new())).collect();
        let guard = self.fetch.guard;
        guard.pin_all(&pins).await?;
        guard
            .put_alone(descriptor, data, Durability::Relaxed)
            .await?;
        Ok(children)
    }

    async fn read(&self, descriptor: &Descriptor) -> Result<Bytes> {
        // A pinned document cannot be collected before it is read.
        let blob = BlobRef::of(descriptor, Vec::new());
        let is_stored = self.fetch.guard.pin_intact(blob).await?;
        if is_stored || descriptor.data.is_some() {
            dispatch::read(&*self.fetch.store.content, descriptor).await
        } else {
            self.fetch.document(descriptor).await
        }
    }

    /// Checks a manifest, and decides what to do with its layers. Returns the children to visit.
    async fn manifest(&self, own: &Descriptor, manifest: &Manifest) -> Result<Vec<Descriptor>> {
        self.manifests.fetch_add(1, Ordering::Relaxed);
        self.check_platform(own, manifest).await?;
        if let Some(unpacker) = self.unpacker {
            self.store(&manifest.config, None).await?;
            if own == self.root || self.is_image(manifest).await? {
                unpacker.begin(self.root, own, manifest).await?;
                self.wants.decide(own, manifest, unpacker).await?;
            }
        }
        let mut children = vec![manifest.config.clone()];
        children.extend(self.distributed(manifest));
        children.retain(|child| self.wants.get(child) != Want::Nothing);
        Ok(children)
    }

    /// Returns the layers that registries serve. The URLs in the descriptors of other layers are
    /// never followed.
    fn distributed(&self, manifest: &Manifest) -> Vec<Descriptor> {
        let is_served = |layer: &&Descriptor| {
            let is_served = !layer.media_type.is_non_distributable();
            if !is_served {
                let digest = layer.digest;
                self.fetch.progress.warn(&format!(
                    "the layer {digest} is not served by registries; it is left out"
                ));
            }
            is_served
        };
        manifest.layers.iter().filter(is_served).cloned().collect()
    }

    async fn blob(&self, descriptor: &Descriptor) -> Result<()> {
        let want = self.wants.get(descriptor);
        let unpacker = self.unpacker.filter(|_| want.is_fed());
        match unpacker {
            Some(unpacker) if !want.is_stored() => self.fetch.feed(descriptor, unpacker).await,
            unpacker => self.store(descriptor, unpacker).await,
        }
    }

    async fn store(&self, descriptor: &Descriptor, unpacker: Option<&dyn Unpacker>) -> Result<()> {
        let Fetch { store, guard, .. } = self.fetch;
        if descriptor.data.is_some() {
            let data = dispatch::read(&*store.content, descriptor).await?;
            return guard.put(descriptor, data, Durability::Relaxed).await;
        }
        self.fetch.store(descriptor, unpacker).await.map(|_| ())
    }

    /// Returns whether a manifest, whose configuration is in the store, describes an image and not
    /// an artifact that an index lists next to its images.
    async fn is_image(&self, manifest: &Manifest) -> Result<bool> {
        let content = &*self.fetch.store.content;
        match config_platform(content, &manifest.config).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(false),
            platform => platform.map(|_| true),
        }
    }

    /// Checks that an image without an index is for the required platform.
    async fn check_platform(&self, own: &Descriptor, manifest: &Manifest) -> Result<()> {
        let Some(platform) = self.required.filter(|_| own == self.root) else {
            return Ok(());
        };
        self.store(&manifest.config, None).await?;
        let content = &*self.fetch.store.content;
        let found = config_platform(content, &manifest.config).await?;
        if Only::new(platform).matches(&found) {
            return Ok(());
        }
        Err(Error::not_found(format!(
            "the image is for {found} only, not for {platform}; choose {found}"
        ))
        .operation("pull")
        .subject(own.digest))
    }

    /// Checks that a manifest was found.
    fn check_found(&self, platform: &Platform) -> Result<()> {
        if self.manifests.load(Ordering::Relaxed) > 0 {
            return Ok(());
        }
        let others = lock(&self.chooser).others();
        Err(Error::not_found(format!(
            "the image has nothing for {platform}; {others}"
        )))
    }
}
