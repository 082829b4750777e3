//! Pushes an image to a remote.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::Semaphore;

use super::carry::{self, Carrier};
use super::documents::{Document, Documents, descriptors};
use super::options::PushOptions;
use super::remote::{Content, DocumentName, Pieces, Pusher};
use crate::complete::completeness;
use crate::content::{BlobReader, ContentStore};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch::{self, Handler, Next, dispatch, handler_fn};
use crate::document::left_out;
use crate::error::{Context, Error, ErrorKind, REPAIR_BYTES, Result};
use crate::image::manifest_for;
use crate::lease::ReadGuard;
use crate::limit;
use crate::platform::Platforms;
use crate::progress::Progress;
use crate::store::Store;
use crate::sync::lock;

/// Maximum number of bytes in one read from the store.
const PIECE: usize = 1 << 20;

/// Pushes `target` and everything below it that the remote does not have. Children are pushed
/// before the documents (indexes and manifests) that list them, and the topmost document last,
/// under the name of `pusher`. Non-distributable layers are left out. Returns the descriptor of the
/// topmost document.
///
/// With [`referrers`](PushOptions::referrers), the referrers of the image and their own referrers
/// are pushed afterwards, as far as the store has them.
///
/// With [`Platforms::One`], only the manifest for this platform is pushed, and other parts of the
/// image may be lost or damaged. Registries refuse an index if they do not have all of its
/// manifests. So if a manifest of the index is not complete in the store, or has a digest of an
/// unknown algorithm, [`Platforms::Host`] and [`Platforms::Like`] push only the manifest for their
/// platform and warn. [`Platforms::All`] fails then, unless only configurations or layers are
/// missing and the remote has them. If a document is missing, or a digest has an unknown algorithm,
/// nothing is pushed before the failure.
///
/// # Errors
/// `NotFound` if the image has nothing for the chosen platform, if the store lacks a document to
/// push or a part of the image that is recorded as stored, or if neither the store nor the remote
/// has a blob to push; `OutOfRange` for a document larger than [`limit::DOCUMENT_WRITE`] bytes, or
/// if the image or its referrers exceed another bound of [`limit`]; `Corrupt` for damaged content,
/// or for a referrer that does not name the subject for which it is listed; `Unsupported` for a
/// document to push with a digest of an unknown algorithm; errors of the store and of the remote.
pub async fn push(
    store: &Store,
    pusher: &dyn Pusher,
    target: &Descriptor,
    options: &PushOptions,
) -> Result<Descriptor> {
    let guard = ReadGuard::begin(store, "push").await?;
    let outcome = push_content(store, &guard, pusher, target, options).await;
    guard.finish_with(outcome).await
}

async fn push_content(
    store: &Store,
    guard: &ReadGuard,
    pusher: &dyn Pusher,
    target: &Descriptor,
    options: &PushOptions,
) -> Result<Descriptor> {
    // With a required platform, other parts of the image may be lost.
    let mut is_pinned = options.platforms.required().is_none();
    if is_pinned {
        match guard.pin_tree(target).await {
            // The manifest for one platform may still be pushed.
            Err(error) if error.kind() == ErrorKind::Unsupported => is_pinned = false,
            pinned => pinned?,
        }
    }
    let root = root(store, target, options).await?;
    if !is_pinned {
        guard.pin_tree(&root).await?;
    }
    let push = Push {
        store,
        pusher,
        options,
    };
    let documents = push.tree(&root, DocumentName::Root).await?;
    if options.referrers {
        let subjects = descriptors(&documents);
        carry::carry(store, &push, subjects, &*options.progress).await?;
    }
    Ok(root)
}

/// What the trees of one push have in common.
struct Push<'a> {
    store: &'a Store,
    pusher: &'a dyn Pusher,
    options: &'a PushOptions,
}

impl Push<'_> {
    /// Pushes everything at and below `root`, which gets this name. Returns the documents.
    async fn tree(&self, root: &Descriptor, name: DocumentName) -> Result<Vec<Document>> {
        let checked = check_documents(self.store, root).await;
        checked.during("push", root.digest)?;
        let blobs = PushBlobs {
            store: self.store,
            pusher: self.pusher,
            progress: &self.options.progress,
            documents: Documents::default(),
        };
        let limiter = Semaphore::new(self.options.blobs.clamp(1, PushOptions::MAX_BLOBS));
        dispatch(&blobs, Some(&limiter), std::slice::from_ref(root)).await?;
        let documents = blobs.documents.children_first(root.digest);
        for Document { descriptor, .. } in &documents {
            let is_root = descriptor.digest == root.digest;
            let data = dispatch::read(&*self.store.content, descriptor).await?;
            let document = dispatch::parse(descriptor, &data)?;
            // The remote may have a referrer, but not list it yet.
            let is_referrer = document.subject().is_some();
            if !is_root && !is_referrer && self.pusher.exists(descriptor).await? {
                continue;
            }
            let name = if is_root { name } else { DocumentName::Digest };
            let pushed = self.pusher.push_document(descriptor, data, name).await;
            pushed.during("push", descriptor.digest)?;
        }
        Ok(documents)
    }
}

/// Pushes referrers under their digests.
#[async_trait]
impl Carrier for Push<'_> {
    async fn carry(&self, referrer: &Descriptor) -> Result<Vec<Document>> {
        self.tree(referrer, DocumentName::Digest).await
    }

    fn content(&self) -> &dyn ContentStore {
        &*self.store.content
    }
}

/// Returns the platforms that a push of `target` for `platforms` pushes: all platforms if
/// `platforms` is [`Platforms::Host`] or [`Platforms::Like`] and all manifests of the image can be
/// pushed, or else `platforms`.
///
/// # Errors
/// `Corrupt` for damaged content; `OutOfRange` if the image exceeds a bound of [`limit`]; errors of
/// the store.
pub async fn pushed_platforms(
    store: &Store,
    target: &Descriptor,
    platforms: &Platforms,
) -> Result<Platforms> {
    let may_be_one = matches!(platforms, Platforms::Host | Platforms::Like(_));
    if may_be_one && why_not_whole(store, target).await?.is_none() {
        return Ok(Platforms::All);
    }
    Ok(platforms.clone())
}

/// Returns the descriptor of what is pushed: the target, or one manifest.
async fn root(store: &Store, target: &Descriptor, options: &PushOptions) -> Result<Descriptor> {
    let platforms = &options.platforms;
    let why = match platforms {
        Platforms::All => return Ok(target.clone()),
        Platforms::One(_) => None,
        Platforms::Host | Platforms::Like(_) => match why_not_whole(store, target).await? {
            None => return Ok(target.clone()),
            why => why,
        },
    };
    let resolved = manifest_for(&*store.content, target, platforms).await?;
    if let Some(why) = why {
        let whose = match platforms {
            Platforms::Like(platform) => platform.to_string(),
            _ => "this machine".to_owned(),
        };
        let warning = format!("only the manifest for {whose} is pushed: {why}");
        options.progress.warn(&warning);
    }
    Ok(resolved.descriptor)
}

/// Returns why not all manifests of an image can be pushed, or `None` if all of them can be pushed.
async fn why_not_whole(store: &Store, target: &Descriptor) -> Result<Option<String>> {
    let is_whole = match check_documents(store, target).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            return Ok(Some(error.without_advice()));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        checked => {
            checked?;
            completeness(store, target).await?.left_out.is_empty()
        }
    };
    Ok((!is_whole).then(|| {
        let why = "the store does not have all platforms of the index";
        format!("{why}; pull all platforms to push them, unless pulls leave some of them out")
    }))
}

/// Checks that the store has all documents at and below `root`, and checks the algorithms of all
/// digests in them.
///
/// # Errors
/// `Unsupported` if an algorithm is unknown; otherwise `NotFound` if a document is missing;
/// `Corrupt` for a damaged document; `OutOfRange` if the image exceeds a bound of [`limit`]; errors
/// of the store.
async fn check_documents(store: &Store, root: &Descriptor) -> Result<()> {
    let missing: &Mutex<Option<Digest>> = &Mutex::default();
    let handler = handler_fn(|descriptor: Descriptor| async move {
        if !descriptor.media_type.is_document() {
            return Ok(Next::NONE);
        }
        let data = match dispatch::read(&*store.content, &descriptor).await {
            Err(error) if error.kind() == ErrorKind::NotFound && descriptor != *root => {
                lock(missing).get_or_insert(descriptor.digest);
                return Ok(Next::NONE);
            }
            data => data?,
        };
        let document = dispatch::parse(&descriptor, &data)?;
        if descriptor.media_type.is_index()
            && let Some(what) = left_out(&data)
        {
            return Err(Error::unsupported(format!(
                "{what}; registries refuse an index without all of its manifests"
            ))
            .advice("push a single platform, as with `--platform linux/amd64`")
            .subject(descriptor.digest));
        }
        Ok(Next::Children(document.children().cloned().collect()))
    });
    let limiter = Semaphore::new(PushOptions::MAX_BLOBS);
    dispatch(&handler, Some(&limiter), std::slice::from_ref(root)).await?;
    match *lock(missing) {
        None => Ok(()),
        Some(digest) => Err(Error::not_found(
            "the store does not have this part of the index",
        )
        .advice(
            "pull all platforms of the image, or push a single platform, as with `--platform \
             linux/amd64`",
        )
        .subject(digest)),
    }
}

/// Pushes blobs, and collects documents.
struct PushBlobs<'a> {
    store: &'a Store,
    pusher: &'a dyn Pusher,
    progress: &'a Arc<dyn Progress>,
    documents: Documents,
}

#[async_trait]
impl Handler for PushBlobs<'_> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
        let next = if descriptor.media_type.is_document() {
            self.document(descriptor).await
        } else if descriptor.media_type.is_non_distributable() {
            return Ok(Next::NONE);
        } else {
            self.blob(descriptor).await.map(|()| Next::NONE)
        };
        next.during("push", descriptor.digest)
    }
}

impl PushBlobs<'_> {
    async fn document(&self, descriptor: &Descriptor) -> Result<Next> {
        let (size, allowed) = (descriptor.size, limit::DOCUMENT_WRITE);
        if size > allowed {
            return Err(Error::out_of_range(format!(
                "the document has {size} bytes; at most {allowed} are pushed; build the image \
                 again with fewer entries or annotations"
            )));
        }
        let children = dispatch::children(&*self.store.content, descriptor).await?;
        self.documents.add(descriptor, &children);
        Ok(Next::Children(children))
    }

    async fn blob(&self, descriptor: &Descriptor) -> Result<()> {
        if self.pusher.exists(descriptor).await? {
            return Ok(());
        }
        let item = descriptor.digest.to_string();
        let sent = Sent {
            item: item.clone(),
            progress: Arc::clone(self.progress),
            most: AtomicU64::new(0),
        };
        let content = if descriptor.data.is_some() {
            in_memory(
                dispatch::read(&*self.store.content, descriptor).await?,
                sent,
            )
        } else {
            let reader = self.store.content.open(&descriptor.digest).await?;
            let reader = reader.ok_or_else(|| {
                Error::not_found(
                    "neither the store nor the remote has this part of the image; pull or import \
                     the whole image, or run `cas fsck --repair`; if the part is a layer that a \
                     read-only root keeps only as a tar, make the root writable, so that the push \
                     can make the part from the tar",
                )
            })?;
            if reader.size() != descriptor.size {
                return Err(Error::corrupt(format!(
                    "the stored part of the image has the wrong size: expected {} bytes, found {}",
                    descriptor.size,
                    reader.size()
                ))
                .advice(REPAIR_BYTES));
            }
            stored(reader, sent)
        };
        self.progress.begin(&item, Some(descriptor.size));
        self.pusher.push(descriptor, content).await?;
        self.progress.end(&item);
        Ok(())
    }
}

/// Reports how much of a blob was sent. Bytes that are sent again are not counted twice.
struct Sent {
    item: String,
    progress: Arc<dyn Progress>,
    /// The highest offset up to which bytes of the blob were sent.
    most: AtomicU64,
}

impl Sent {
    fn reached(&self, at: u64) {
        let before = self.most.fetch_max(at, Ordering::Relaxed);
        if at > before {
            self.progress.advance(&self.item, at - before);
        }
    }
}

/// Returns the content of a blob in memory.
fn in_memory(data: Bytes, sent: Sent) -> Content {
    let sent = Arc::new(sent);
    Arc::new(move |at| {
        let (data, sent) = (data.clone(), Arc::clone(&sent));
        stream::once(async move {
            sent.reached(data.len() as u64);
            Ok(data.slice(data.len().min(at as usize)..))
        })
        .boxed()
    })
}

/// Returns the content of a stored blob, which is read on demand.
fn stored(reader: Arc<dyn BlobReader>, sent: Sent) -> Content {
    let sent = Arc::new(sent);
    Arc::new(move |at| pieces(Arc::clone(&reader), at, Arc::clone(&sent)))
}

fn pieces(reader: Arc<dyn BlobReader>, at: u64, sent: Arc<Sent>) -> Pieces {
    stream::try_unfold((reader, at, sent), |(reader, at, sent)| async move {
        let piece = reader.read_at(at, PIECE).await?;
        if piece.is_empty() {
            return Ok(None);
        }
        let next = at + piece.len() as u64;
        sent.reached(next);
        Ok(Some((piece, (reader, next, sent))))
    })
    .boxed()
}
