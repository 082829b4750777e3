//! Copies an image from one store into another.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::documents::{Document, Documents, blob_refs};
use super::source::StoredBlob;
use super::store_blob::{BlobWrite, RecordOrder, Resume, store_blob};
use crate::content::Durability;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch::{self, Handler, Next, dispatch};
use crate::error::{Context, Error, Result};
use crate::image::Image;
use crate::lease::{BlobRef, LeaseGuard};
use crate::progress::Silent;
use crate::store::Store;
use crate::sync::lock;

/// Maximum number of blobs that are copied concurrently.
const CONCURRENT: usize = 4;

/// Copies the target of `image` and everything below it, children before the documents that list
/// them, and then the name. An existing name is updated. Layers and configurations that `to` has
/// intact are not copied. Returns the image as it is in `to`.
///
/// # Errors
/// `NotFound` for content that is missing in `from`; `Corrupt` for damaged content; errors of the
/// stores.
pub async fn copy(from: &Store, to: &Store, image: &Image) -> Result<Image> {
    let guard = LeaseGuard::begin(to, "copy").await?;
    if let Err(error) = copy_content(from, to, &guard, &image.target).await {
        return guard.finish_with(Err(error)).await;
    }
    guard.name_one(image.clone(), &[]).await
}

async fn copy_content(
    from: &Store,
    to: &Store,
    guard: &LeaseGuard,
    root: &Descriptor,
) -> Result<()> {
    let blobs = CopyBlobs {
        from,
        to,
        guard,
        begun: Mutex::default(),
        documents: Documents::default(),
    };
    let limiter = Semaphore::new(CONCURRENT);
    dispatch(&blobs, Some(&limiter), std::slice::from_ref(root)).await?;
    let documents = blobs.documents.children_first(root.digest);
    for Document { descriptor, .. } in &documents {
        let data = dispatch::read(&*from.content, descriptor).await?;
        guard
            .put_alone(descriptor, data, Durability::Relaxed)
            .await?;
    }
    // Blobs that `to` had already may not be synced yet.
    to.content.flush().await?;
    guard.record_children(blob_refs(documents)).await
}

/// Copies blobs, and collects documents.
struct CopyBlobs<'a> {
    from: &'a Store,
    to: &'a Store,
    guard: &'a LeaseGuard,
    /// Blobs met so far: the same bytes may be listed under two types.
    begun: Mutex<HashSet<(Digest, u64)>>,
    documents: Documents,
}

#[async_trait]
impl Handler for CopyBlobs<'_> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
        if descriptor.media_type.is_document() {
            let children = dispatch::children(&*self.from.content, descriptor).await?;
            self.documents.add(descriptor, &children);
            return Ok(Next::Children(children));
        }
        let blob = (descriptor.digest, descriptor.size);
        if lock(&self.begun).insert(blob) {
            self.blob(descriptor).await?;
        }
        Ok(Next::NONE)
    }
}

impl CopyBlobs<'_> {
    async fn blob(&self, descriptor: &Descriptor) -> Result<()> {
        let blob = BlobRef::of(descriptor, Vec::new());
        if self.guard.pin_intact(blob).await? {
            return Ok(());
        }
        if descriptor.data.is_some() {
            let data = dispatch::read(&*self.from.content, descriptor).await?;
            return self.guard.put(descriptor, data, Durability::Full).await;
        }
        let reader = self.from.content.open(&descriptor.digest).await?;
        let reader = reader.ok_or_else(|| {
            Error::not_found("the source store lacks this blob; pull or import the image there")
                .operation("copy")
                .subject(descriptor.digest)
        })?;
        let write = BlobWrite {
            store: self.to,
            guard: self.guard,
            record: RecordOrder::WithBytes(descriptor),
            durability: Durability::Full,
            resume: Resume::Once,
            writer_timeout: Duration::ZERO,
            feed: None,
            progress: &Silent,
        };
        let stored = store_blob(&write, &mut StoredBlob::new(reader)).await;
        stored.map(|_| ()).during("copy", descriptor.digest)
    }
}
