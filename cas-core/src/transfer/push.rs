//! Pushes an image to a remote.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::sync::Semaphore;

use super::copy::{Document, children_first};
use super::remote::{Pieces, Pusher};
use crate::content::BlobReader;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch::{self, Handler, Next, dispatch, handler_fn, walk};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::manifest_for;
use crate::lease::LeaseGuard;
use crate::limit;
use crate::platform::Choice;
use crate::progress::Progress;
use crate::store::Store;
use crate::sync::lock;

/// Blobs that are pushed at once.
const CONCURRENT: usize = 3;
/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

/// Pushes everything below `target` that the remote has not, children before what lists them, and
/// last the root under the name of `pusher`; what the name stands for there now.
///
/// One platform is its manifest. Where an index lists platforms that the store has not, which
/// registries refuse, [`Choice::Own`] pushes the manifest for this machine, with a warning.
///
/// # Errors
/// `NotFound` for content that the store has not; `OutOfRange` for a document over
/// [`limit::DOCUMENT_WRITE`]; those of both sides.
pub async fn push(
    store: &Store,
    pusher: &dyn Pusher,
    target: &Descriptor,
    choice: &Choice,
    progress: &Arc<dyn Progress>,
) -> Result<Descriptor> {
    let guard = LeaseGuard::begin(store, "push").await?;
    let outcome = content(store, &guard, pusher, target, choice, progress).await;
    guard.finish_with(outcome).await
}

async fn content(
    store: &Store,
    guard: &LeaseGuard,
    pusher: &dyn Pusher,
    target: &Descriptor,
    choice: &Choice,
    progress: &Arc<dyn Progress>,
) -> Result<Descriptor> {
    guard.pin_tree(target).await?;
    let root = root(store, target, choice, &**progress).await?;
    let push = Push {
        store,
        pusher,
        progress,
        documents: Mutex::default(),
    };
    let limiter = Semaphore::new(CONCURRENT);
    dispatch(&push, Some(&limiter), std::slice::from_ref(&root)).await?;
    let documents = push.documents.into_inner();
    let documents = documents.unwrap_or_else(PoisonError::into_inner);
    for document in children_first(root.digest, documents) {
        let is_root = document.digest == root.digest;
        if !is_root && pusher.exists(&document).await? {
            continue;
        }
        let data = dispatch::read(&*store.content, &document).await?;
        let pushed = pusher.push_document(&document, data, is_root).await;
        pushed.during("push", document.digest)?;
    }
    Ok(root)
}

/// What is pushed of an image.
async fn root(
    store: &Store,
    target: &Descriptor,
    choice: &Choice,
    progress: &dyn Progress,
) -> Result<Descriptor> {
    let platform = match choice {
        Choice::All => return Ok(target.clone()),
        Choice::One(platform) => Some(platform),
        Choice::Own if is_whole(store, target).await? => return Ok(target.clone()),
        Choice::Own => None,
    };
    let resolved = manifest_for(&*store.content, target, platform).await?;
    if platform.is_none() {
        progress.warn(
            "the index lists platforms that the store has not; pushed is the manifest for this \
             machine alone",
        );
    }
    Ok(resolved.descriptor)
}

/// Whether the store has every document of an image.
async fn is_whole(store: &Store, target: &Descriptor) -> Result<bool> {
    let documents = handler_fn(|descriptor: Descriptor| async move {
        let media_type = &descriptor.media_type;
        if !media_type.is_document() {
            return Ok(Next::NONE);
        }
        let children = dispatch::children(&*store.content, &descriptor).await?;
        Ok(Next::Children(children))
    });
    match walk(&documents, std::slice::from_ref(target)).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

/// Pushes what lists nothing, and remembers what does.
struct Push<'a> {
    store: &'a Store,
    pusher: &'a dyn Pusher,
    progress: &'a Arc<dyn Progress>,
    documents: Mutex<HashMap<Digest, Document>>,
}

#[async_trait]
impl Handler for Push<'_> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
        let media_type = &descriptor.media_type;
        if media_type.is_non_distributable() {
            return Ok(Next::NONE);
        }
        if !media_type.is_document() {
            let pushed = self.blob(descriptor).await;
            return pushed
                .during("push", descriptor.digest)
                .map(|()| Next::NONE);
        }
        if descriptor.size > limit::DOCUMENT_WRITE {
            let (found, allowed) = (descriptor.size, limit::DOCUMENT_WRITE);
            return Err(Error::out_of_range(format!(
                "a document of {found} bytes, at most {allowed} are pushed"
            ))
            .operation("push")
            .subject(descriptor.digest));
        }
        let children = dispatch::children(&*self.store.content, descriptor).await?;
        let document = Document {
            descriptor: descriptor.clone(),
            children: children.iter().map(|child| child.digest).collect(),
        };
        lock(&self.documents).insert(descriptor.digest, document);
        Ok(Next::Children(children))
    }
}

impl Push<'_> {
    async fn blob(&self, descriptor: &Descriptor) -> Result<()> {
        if self.pusher.exists(descriptor).await? {
            return Ok(());
        }
        let item = descriptor.digest.to_string();
        let content = match &descriptor.data {
            Some(_) => {
                let data = dispatch::read(&*self.store.content, descriptor).await?;
                stream::iter([Ok(data)]).boxed()
            }
            None => {
                let reader = self.store.content.open(&descriptor.digest).await?;
                let reader = reader.filter(|reader| reader.size() == descriptor.size);
                let reader = reader.ok_or_else(|| {
                    Error::not_found(
                        "the store has not this part of the image; pull or import all of it",
                    )
                })?;
                pieces(reader, item.clone(), Arc::clone(self.progress))
            }
        };
        self.progress.begin(&item, Some(descriptor.size));
        self.pusher.push(descriptor, content).await?;
        self.progress.end(&item);
        Ok(())
    }
}

/// The bytes of a blob, as they are asked for.
fn pieces(reader: Arc<dyn BlobReader>, item: String, progress: Arc<dyn Progress>) -> Pieces {
    let state = (reader, 0, item, progress);
    stream::try_unfold(state, |(reader, at, item, progress)| async move {
        let piece = reader.read_at(at, PIECE).await?;
        if piece.is_empty() {
            return Ok(None);
        }
        progress.advance(&item, piece.len() as u64);
        let next = at + piece.len() as u64;
        Ok(Some((piece, (reader, next, item, progress))))
    })
    .boxed()
}
