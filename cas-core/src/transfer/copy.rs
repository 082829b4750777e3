//! Copies an image from one store into another.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::carry::{self, Carrier};
use super::documents::{Document, Documents, blob_refs, descriptors};
use super::options::CopyOptions;
use super::source::StoredBlob;
use super::store_blob::{BlobWrite, RecordOrder, Resume, store_blob};
use crate::blob::name_damaged;
use crate::complete::{Available, is_of_document};
use crate::content::{ContentStore, Durability, WRITER_TIMEOUT};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch::{self, Chooser, Handler, Next, dispatch};
use crate::error::{Context, Error, Result};
use crate::image::{Image, manifest_for};
use crate::lease::{BlobRef, LeaseGuard, ReadGuard};
use crate::platform::{Platform, Platforms};
use crate::store::Store;
use crate::sync::lock;

/// Maximum number of blobs that are copied concurrently.
const CONCURRENT: usize = 4;

/// Copies an image, and those of its referrers that `from` has. Children are copied before the
/// indexes and manifests that list them, and the name is written last. If `to` has the name
/// already, the target and the labels of the name are replaced. Layers and configurations that are
/// intact in `to` are not copied. Returns the image as it is in `to`.
///
/// Three kinds of content are [recorded as absent](crate::records::BlobRecord::absent) in `to`,
/// unless an earlier job stored them there:
///
/// - layers that registries do not distribute and that `from` does not have
/// - manifests that an index lists and that are not complete in `from`
/// - manifests for platforms that were not chosen
///
/// If one platform is chosen, other platforms may be lost or damaged in `from`. Then a manifest or
/// a nested index that states no platform is left out with a warning, too, if it is lost or
/// damaged, or if a layer of the manifest is not stored in `from`. This does not apply to the
/// manifest that [`manifest_for`] returns for the platform.
///
/// After a failure, content that was copied stays in `to` for the next attempt, until a garbage
/// collection.
///
/// # Errors
/// `NotFound` for content that was lost in `from`, a layer that `from` discarded after the layer
/// was unpacked, or a platform that the image does not have; `Corrupt` for damaged content, or for
/// a referrer that does not name the subject for which it is listed; `Busy` if another job still
/// writes a blob of the image after a wait of ten minutes; `OutOfRange` if a document, the image or
/// its referrers exceed a bound of [`limit`](crate::limit); errors of the stores.
pub async fn copy(from: &Store, to: &Store, image: &Image, options: &CopyOptions) -> Result<Image> {
    let reading = ReadGuard::begin(from, "copy").await?;
    let copied = copy_image(from, &reading, to, image, options).await;
    reading.finish_with(copied).await
}

async fn copy_image(
    from: &Store,
    reading: &ReadGuard,
    to: &Store,
    image: &Image,
    options: &CopyOptions,
) -> Result<Image> {
    let mut chosen = None;
    match &options.platforms {
        Platforms::All => reading.pin_tree(&image.target).await?,
        one => {
            // Other platforms may be lost or damaged.
            reading.pin_readable(&image.target).await?;
            if let Ok(found) = manifest_for(&*from.content, &image.target, one).await {
                reading.pin_tree(&found.descriptor).await?;
                chosen = Some(found.descriptor.digest);
            }
        }
    }
    let guard = LeaseGuard::begin(to, "copy").await?;
    if let Err(error) = copy_content(from, to, &guard, &image.target, chosen, options).await {
        return guard.finish_with(Err(error)).await;
    }
    guard.name_one(image.clone(), &[]).await
}

async fn copy_content(
    from: &Store,
    to: &Store,
    guard: &LeaseGuard,
    root: &Descriptor,
    chosen: Option<Digest>,
    options: &CopyOptions,
) -> Result<()> {
    let wanted = options.platforms.wanted();
    if options.platforms.required().is_some() && !root.media_type.is_index() {
        manifest_for(&*from.content, root, &options.platforms).await?;
    }
    let mut blobs = CopyBlobs::new(from, to, guard, options, root, wanted.as_ref()).await?;
    blobs.chosen = chosen;
    blobs.copy(root).await?;
    blobs.check_found(wanted.as_ref(), root)?;
    let documents = blobs.write_documents(root).await?;
    let subjects = descriptors(&documents);
    guard.record_children(blob_refs(documents)).await?;
    let copier = ReferrerCopier {
        from,
        to,
        guard,
        options,
    };
    let carried = carry::carry(from, &copier, subjects, &*options.progress).await?;
    carry::record(guard, carried).await
}

/// Copies referrers, with all of their platforms.
struct ReferrerCopier<'a> {
    from: &'a Store,
    to: &'a Store,
    guard: &'a LeaseGuard,
    options: &'a CopyOptions,
}

#[async_trait]
impl Carrier for ReferrerCopier<'_> {
    async fn carry(&self, referrer: &Descriptor) -> Result<Vec<Document>> {
        let (from, to, guard, options) = (self.from, self.to, self.guard, self.options);
        let blobs = CopyBlobs::new(from, to, guard, options, referrer, None).await?;
        blobs.copy(referrer).await?;
        blobs.write_documents(referrer).await
    }

    fn content(&self) -> &dyn ContentStore {
        &*self.from.content
    }
}

/// Copies blobs, and collects documents.
struct CopyBlobs<'a> {
    from: &'a Store,
    to: &'a Store,
    guard: &'a LeaseGuard,
    options: &'a CopyOptions,
    root: Digest,
    available: Available<'a>,
    chooser: Mutex<Chooser>,
    /// The manifest for the chosen platform, if one platform is chosen and the store has it.
    chosen: Option<Digest>,
    has_manifest: AtomicBool,
    /// The error for the first document that was left out because it cannot be read.
    unreadable: Mutex<Option<Error>>,
    /// The digests and sizes of the blobs whose copies have begun. The media type is left out, so
    /// that bytes that are listed under two types are copied once.
    begun: Mutex<HashSet<(Digest, u64)>>,
    documents: Documents,
}

#[async_trait]
impl Handler for CopyBlobs<'_> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
        if descriptor.media_type.is_document() {
            return self.document(descriptor).await.map(Next::Children);
        }
        let blob = (descriptor.digest, descriptor.size);
        if lock(&self.begun).insert(blob) {
            self.blob(descriptor).await?;
        }
        Ok(Next::NONE)
    }
}

impl<'a> CopyBlobs<'a> {
    async fn new(
        from: &'a Store,
        to: &'a Store,
        guard: &'a LeaseGuard,
        options: &'a CopyOptions,
        root: &Descriptor,
        wanted: Option<&Platform>,
    ) -> Result<Self> {
        let progress = &*options.progress;
        let available = match wanted {
            None => Available::below(from, std::slice::from_ref(root), progress).await?,
            Some(_) => Available::or_damaged(from, root, progress).await?,
        };
        Ok(CopyBlobs {
            from,
            to,
            guard,
            options,
            root: root.digest,
            available,
            chooser: Mutex::new(Chooser::new(wanted)),
            chosen: None,
            has_manifest: AtomicBool::new(false),
            unreadable: Mutex::default(),
            begun: Mutex::default(),
            documents: Documents::default(),
        })
    }

    /// Copies the blobs below `root`, and collects its documents.
    async fn copy(&self, root: &Descriptor) -> Result<()> {
        let limiter = Semaphore::new(CONCURRENT);
        dispatch(self, Some(&limiter), std::slice::from_ref(root)).await
    }

    /// Writes the documents at and below `root`, but does not record what they list. Returns the
    /// documents.
    async fn write_documents(self, root: &Descriptor) -> Result<Vec<Document>> {
        let documents = self.documents.children_first(root.digest);
        for Document { descriptor, .. } in &documents {
            let data = dispatch::read(&*self.from.content, descriptor).await?;
            let put = self.guard.put_alone(descriptor, data, Durability::Relaxed);
            put.await?;
        }
        // Blobs that `to` had already may not be synced yet.
        self.to.content.flush().await?;
        Ok(documents)
    }

    /// Collects a document with everything that it lists. Returns the children to copy.
    async fn document(&self, descriptor: &Descriptor) -> Result<Vec<Descriptor>> {
        let (listed, available) = match self.listed(descriptor).await {
            Err(error) if self.may_leave_out(descriptor) && is_of_document(&error) => {
                self.options.progress.warn(&format!(
                    "a part of the image that states no platform is left out: {error}"
                ));
                lock(&self.unreadable).get_or_insert(error);
                return Ok(Vec::new());
            }
            listed => listed?,
        };
        self.documents.add(descriptor, &listed);
        if descriptor.media_type.is_manifest() {
            self.has_manifest.store(true, Ordering::Relaxed);
            return Ok(available);
        }
        let mut chooser = lock(&self.chooser);
        available.iter().for_each(|entry| chooser.offer(entry));
        Ok(chooser.choose(&available))
    }

    /// Returns what a document lists, and those of its children that `from` has not left out.
    async fn listed(&self, descriptor: &Descriptor) -> Result<(Vec<Descriptor>, Vec<Descriptor>)> {
        let listed = dispatch::children(&*self.from.content, descriptor).await?;
        let available = self.available.children(descriptor).await?;
        Ok((listed, available))
    }

    /// Returns whether a document may be left out if it cannot be copied. It may be for another
    /// platform than the one that was chosen.
    fn may_leave_out(&self, descriptor: &Descriptor) -> bool {
        let is_needed = [Some(self.root), self.chosen].contains(&Some(descriptor.digest));
        !is_needed && descriptor.platform.is_none() && !lock(&self.chooser).takes_all()
    }

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
            Error::not_found(
                "the source store lacks this blob; pull or import the image there, or run \
                 `cas fsck --repair` there",
            )
            .operation("copy")
            .subject(descriptor.digest)
        })?;
        let write = BlobWrite {
            store: self.to,
            guard: self.guard,
            record: RecordOrder::WithBytes(descriptor),
            durability: Durability::Full,
            resume: Resume::Once,
            writer_timeout: WRITER_TIMEOUT,
            feed: None,
            progress: &*self.options.progress,
        };
        let stored = store_blob(&write, &mut StoredBlob::new(reader)).await;
        let stored = name_damaged(self.from, std::slice::from_ref(descriptor), stored).await;
        stored.map(|_| ()).during("copy", descriptor.digest)
    }

    /// Checks that a manifest was found, if one platform was chosen. If none was found, returns the
    /// error for the first document that could not be read, if there is one.
    fn check_found(&self, wanted: Option<&Platform>, root: &Descriptor) -> Result<()> {
        match wanted {
            Some(platform) if !self.has_manifest.load(Ordering::Relaxed) => {
                if let Some(error) = lock(&self.unreadable).take() {
                    return Err(error);
                }
                let others = lock(&self.chooser).others();
                let why = format!("the image has nothing for {platform}; {others}");
                Err(Error::not_found(why).operation("copy").subject(root.digest))
            }
            _ => Ok(()),
        }
    }
}
