//! Copies an image from one store into another.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::content::{BlobReader, Durability};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch::{self, Handler, Next, dispatch};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::Image;
use crate::lease::{BlobRef, LeaseGuard};
use crate::store::Store;
use crate::sync::lock;

/// Blobs that are copied at once.
const CONCURRENT: usize = 4;

/// Copies everything below the target of `image`, children before what lists them, and then the
/// name; a name that is there is updated. What the other store has already is not read.
///
/// # Errors
/// `NotFound` for content that `from` has not; `Corrupt` for damaged content; those of the stores.
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
    let leaves = Leaves {
        from,
        to,
        guard,
        begun: Mutex::default(),
        documents: Mutex::default(),
    };
    let limiter = Semaphore::new(CONCURRENT);
    dispatch(&leaves, Some(&limiter), std::slice::from_ref(root)).await?;
    // Whoever published what was there may not have synced it.
    to.content.flush().await?;
    let documents = leaves.documents.into_inner();
    let documents = documents.unwrap_or_else(PoisonError::into_inner);
    for document in children_first(root.digest, documents) {
        let data = dispatch::read(&*from.content, &document).await?;
        guard.put(&document, data, Durability::Full).await?;
    }
    Ok(())
}

/// Copies what lists nothing, and remembers what does.
struct Leaves<'a> {
    from: &'a Store,
    to: &'a Store,
    guard: &'a LeaseGuard,
    /// The same bytes may be listed under two types.
    begun: Mutex<HashSet<(Digest, u64)>>,
    documents: Mutex<HashMap<Digest, Document>>,
}

/// A document, and what it lists.
pub(super) struct Document {
    pub(super) descriptor: Descriptor,
    pub(super) children: Vec<Digest>,
}

#[async_trait]
impl Handler for Leaves<'_> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
        let media_type = &descriptor.media_type;
        if !media_type.is_document() {
            let blob = (descriptor.digest, descriptor.size);
            if lock(&self.begun).insert(blob) {
                let wanted = BlobRef::of(descriptor, Vec::new());
                if !self.guard.pin(wanted.clone()).await? {
                    self.copy(descriptor, &wanted).await?;
                }
            }
            return Ok(Next::NONE);
        }
        let children = dispatch::children(&*self.from.content, descriptor).await?;
        let document = Document {
            descriptor: descriptor.clone(),
            children: children.iter().map(|child| child.digest).collect(),
        };
        lock(&self.documents).insert(descriptor.digest, document);
        Ok(Next::Children(children))
    }
}

/// Documents in an order that puts each after those it lists. On a stack of its own: shared
/// indexes can be chained longer than any of them is nested.
pub(super) fn children_first(
    root: Digest,
    mut documents: HashMap<Digest, Document>,
) -> Vec<Descriptor> {
    enum Step {
        Enter(Digest),
        Leave(Box<Descriptor>),
    }
    let mut sorted = Vec::with_capacity(documents.len());
    let mut steps = vec![Step::Enter(root)];
    while let Some(step) = steps.pop() {
        match step {
            Step::Leave(descriptor) => sorted.push(*descriptor),
            Step::Enter(digest) => {
                if let Some(document) = documents.remove(&digest) {
                    steps.push(Step::Leave(Box::new(document.descriptor)));
                    steps.extend(document.children.into_iter().map(Step::Enter));
                }
            }
        }
    }
    sorted
}

impl Leaves<'_> {
    async fn copy(&self, descriptor: &Descriptor, wanted: &BlobRef) -> Result<()> {
        if descriptor.data.is_some() {
            let data = dispatch::read(&*self.from.content, descriptor).await?;
            return self.guard.put(descriptor, data, Durability::Full).await;
        }
        let reader = self.from.content.open(&descriptor.digest).await?;
        let reader = reader.ok_or_else(|| {
            Error::not_found("no such blob in the store it is copied from")
                .operation("copy")
                .subject(descriptor.digest)
        })?;
        let outcome = self.pour(&*reader, descriptor, wanted).await;
        if outcome
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::Corrupt)
        {
            // What the ingest holds is no beginning of the blob, so it must not be resumed.
            self.to
                .content
                .discard(&descriptor.digest.to_string())
                .await?;
        }
        outcome.during("copy", descriptor.digest)
    }

    async fn pour(
        &self,
        reader: &dyn BlobReader,
        descriptor: &Descriptor,
        wanted: &BlobRef,
    ) -> Result<()> {
        let mut writer = self.to.writer(descriptor).await?;
        writer.write_blob(reader).await?;
        let published = self.guard.publish(writer, wanted, Durability::Full);
        published.await.map(|_| ())
    }
}
