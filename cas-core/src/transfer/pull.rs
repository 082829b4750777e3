//! Pulls an image from a remote.
//!
//! A document is stored before what it lists, but after the records of that: so a kill leaves
//! what a collection finds, and the next pull goes on from there. The name comes last.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::fetch;
use super::remote::Fetcher;
use super::unpacker::Unpacker;
use crate::content::Durability;
use crate::descriptor::Descriptor;
use crate::dispatch::{self, Handler, Next, dispatch};
use crate::document::{Document, Manifest};
use crate::error::{Context, Error, Result};
use crate::image::{Image, Reference, config_platform};
use crate::lease::{BlobRef, LeaseGuard};
use crate::platform::{Choice, Matcher, Only, Platform};
use crate::progress::Progress;
use crate::store::Store;
use crate::sync::lock;

/// Blobs that are fetched at once.
const CONCURRENT: usize = 3;

/// Fetches what the name of `fetcher` stands for, and gives it the name `name` here. An index
/// stays as it is, with the platforms that are not chosen missing. What the store has is not
/// fetched; after a failure it keeps what came, for the next attempt, until a collection.
///
/// # Errors
/// `NotFound` for a name, a platform or content that the remote has not; `Corrupt` for content
/// that is not what refers to it says; those of both sides.
pub async fn pull(
    store: &Store,
    fetcher: &dyn Fetcher,
    name: Reference,
    choice: &Choice,
    unpacker: Option<&dyn Unpacker>,
    progress: &Arc<dyn Progress>,
) -> Result<Image> {
    let guard = LeaseGuard::begin(store, "pull").await?;
    let pulled = target(store, &guard, fetcher, &name, choice, unpacker, &**progress).await;
    let target = match pulled {
        Ok(target) => target,
        Err(error) => {
            if let Some(unpacker) = unpacker {
                unpacker.abandon().await;
            }
            return guard.finish_with(Err(error)).await;
        }
    };
    guard.name_one(Image::new(name, target), &["target"]).await
}

/// Fetches what the name stands for; that.
async fn target(
    store: &Store,
    guard: &LeaseGuard,
    fetcher: &dyn Fetcher,
    name: &Reference,
    choice: &Choice,
    unpacker: Option<&dyn Unpacker>,
    progress: &dyn Progress,
) -> Result<Descriptor> {
    let root = fetcher.resolve().await?;
    let (wanted, insisted) = match choice {
        Choice::Own => (Some(Platform::host()), None),
        Choice::One(platform) => (Some(platform.clone()), Some(platform)),
        Choice::All => (None, None),
    };
    let pull = Pull {
        store,
        guard,
        fetcher,
        unpacker,
        progress,
        root: &root,
        only: wanted.as_ref().map(Only::new),
        insisted,
        met: Mutex::default(),
    };
    let limiter = Semaphore::new(CONCURRENT);
    let fetched = dispatch(&pull, Some(&limiter), std::slice::from_ref(&root)).await;
    fetched.map_err(|error| error.within(name))?;
    if let Some(platform) = &wanted {
        pull.check_found(platform).during("pull", name)?;
    }
    if let Some(unpacker) = unpacker {
        unpacker.finish().await?;
    }
    store.content.flush().await?;
    Ok(root)
}

struct Pull<'a> {
    store: &'a Store,
    guard: &'a LeaseGuard,
    fetcher: &'a dyn Fetcher,
    unpacker: Option<&'a dyn Unpacker>,
    progress: &'a dyn Progress,
    root: &'a Descriptor,
    only: Option<Only>,
    insisted: Option<&'a Platform>,
    met: Mutex<Met>,
}

/// What was seen on the way.
#[derive(Default)]
struct Met {
    manifests: usize,
    platforms: BTreeSet<String>,
}

#[async_trait]
impl Handler for Pull<'_> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
        let media_type = &descriptor.media_type;
        if media_type.is_document() {
            return self.document(descriptor).await.map(Next::Children);
        }
        self.blob(descriptor).await?;
        Ok(Next::NONE)
    }
}

impl Pull<'_> {
    /// Stores a document under the records of what is going to be fetched of its children; these.
    async fn document(&self, descriptor: &Descriptor) -> Result<Vec<Descriptor>> {
        let data = self.read(descriptor).await?;
        let document = dispatch::parse(descriptor, &data)?;
        let chosen = match &document {
            Document::Index(index) => self.choose(&index.manifests),
            Document::Manifest(manifest) => {
                self.met().manifests += 1;
                self.check_platform(descriptor, manifest).await?;
                self.distributed(manifest)
            }
        };
        let wanted = |child| BlobRef::of(child, Vec::new());
        let wanted: Vec<BlobRef> = chosen.iter().map(wanted).collect();
        self.guard.pin_all(&wanted).await?;
        self.guard
            .put(descriptor, data, Durability::Relaxed)
            .await?;
        if let (Some(unpacker), Document::Manifest(manifest)) = (self.unpacker, &document) {
            self.blob(&manifest.config).await?;
            unpacker.begin(manifest).await?;
        }
        Ok(chosen)
    }

    async fn read(&self, descriptor: &Descriptor) -> Result<Bytes> {
        // Held first, what is there stays until it is read.
        let wanted = BlobRef::of(descriptor, Vec::new());
        let there = self.guard.pin(wanted).await?;
        match there || descriptor.data.is_some() {
            true => dispatch::read(&*self.store.content, descriptor).await,
            false => fetch::document(self.fetcher, descriptor).await,
        }
    }

    async fn blob(&self, descriptor: &Descriptor) -> Result<()> {
        if descriptor.data.is_some() {
            let data = dispatch::read(&*self.store.content, descriptor).await?;
            return self.guard.put(descriptor, data, Durability::Relaxed).await;
        }
        let Pull {
            store,
            guard,
            fetcher,
            unpacker,
            progress,
            ..
        } = *self;
        fetch::fetch(store, guard, fetcher, descriptor, unpacker, progress).await
    }

    fn choose(&self, listed: &[Descriptor]) -> Vec<Descriptor> {
        let Some(only) = &self.only else {
            return listed.to_vec();
        };
        let said = listed.iter().filter_map(|child| child.platform.as_ref());
        let known = said.filter(|said| !said.is_unknown());
        let known = known.map(|said| said.normalized().to_string());
        self.met().platforms.extend(known);
        dispatch::choose(listed, only)
    }

    /// Without the layers that registries do not hand out; the addresses that descriptors give
    /// for these are never followed.
    fn distributed(&self, manifest: &Manifest) -> Vec<Descriptor> {
        let children = std::iter::once(&manifest.config).chain(&manifest.layers);
        let mut children: Vec<Descriptor> = children.cloned().collect();
        children.retain(|child| {
            let kept = !child.media_type.is_non_distributable();
            if !kept {
                let digest = child.digest;
                self.progress.warn(&format!(
                    "{digest} is a layer that registries do not hand out; it is left out"
                ));
            }
            kept
        });
        children
    }

    /// An image of one platform must be for the one that is insisted on.
    async fn check_platform(&self, own: &Descriptor, manifest: &Manifest) -> Result<()> {
        let Some(platform) = self.insisted.filter(|_| own == self.root) else {
            return Ok(());
        };
        self.blob(&manifest.config).await?;
        let found = config_platform(&*self.store.content, &manifest.config).await?;
        match Only::new(platform).matches(&found) {
            true => Ok(()),
            false => Err(
                Error::not_found(format!("has no {platform}, it is for {found} only"))
                    .operation("pull")
                    .subject(own.digest),
            ),
        }
    }

    fn check_found(&self, platform: &Platform) -> Result<()> {
        let met = self.met();
        if met.manifests > 0 {
            return Ok(());
        }
        let offered: Vec<&str> = met.platforms.iter().map(String::as_str).collect();
        let offered = offered.join(", ");
        Err(Error::not_found(format!(
            "has no {platform}; choose with --platform among: {offered}"
        )))
    }

    fn met(&self) -> MutexGuard<'_, Met> {
        lock(&self.met)
    }
}
