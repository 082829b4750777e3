//! [`StoreRepository`]: a name in a store, as a remote repository that another store pulls from and
//! pushes to.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::OnceCell;

use super::referrers::{ReferrerPages, Referrers};
use super::remote::{Content, DocumentName, Fetcher, Pieces, Pusher};
use super::source::BlobSource;
use super::store_blob::{BlobWrite, RecordOrder, Resume, store_blob};
use super::store_fetcher::StoreFetcher;
use crate::blob;
use crate::content::{Durability, WRITER_TIMEOUT};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::{Image, Reference};
use crate::lease::{BlobRef, LeaseGuard, ReadGuard};
use crate::progress::Silent;
use crate::store::Store;

/// A [`Fetcher`] and a [`Pusher`] for one name in a store.
///
/// Until the repository is dropped, leases keep garbage collections from removing the images that
/// it has resolved and the content that was pushed to it. In a store that cannot be written,
/// resolved images are not protected. A store that was opened for an owner serves the names of this
/// owner. If the name has a digest, the store serves the document with this digest even if only
/// other owners have named the document, or nobody has, because all owners share the content.
pub struct StoreRepository {
    store: Store,
    name: Reference,
    /// The name without its digest, and the digest. `None` if the name does not have a digest.
    parts: Option<(String, Digest)>,
    reading: OnceCell<ReadGuard>,
    writing: OnceCell<LeaseGuard>,
}

impl StoreRepository {
    /// Returns the repository for `name` in `store`. `name` is the name of an image, or such a name
    /// with a digest: `name@sha256:…`. With a digest, [`resolve`](Fetcher::resolve) finds the
    /// document even if the store does not have the name.
    pub fn new(store: &Store, name: &Reference) -> Self {
        let parts = name.as_str().rsplit_once('@');
        let parts = parts.and_then(|(name, digest)| Some((name.to_owned(), digest.parse().ok()?)));
        StoreRepository {
            store: store.clone(),
            name: name.clone(),
            parts,
            reading: OnceCell::new(),
            writing: OnceCell::new(),
        }
    }

    async fn find(&self) -> Result<Descriptor> {
        let images = &self.store.images;
        let named = images.get(&self.name).await?;
        // An earlier release may have stored an image under a name that states another digest.
        if let Some(image) = named.filter(|image| self.name.allows(&image.target.digest)) {
            return Ok(image.target);
        }
        let Some((name, digest)) = &self.parts else {
            return Err(Error::not_found("no such image; check the name"));
        };
        let image = match name.parse() {
            Ok(name) => images.get(&name).await?,
            Err(_) => None,
        };
        match image.filter(|image| image.target.digest == *digest) {
            Some(image) => Ok(image.target),
            None => blob::document(&self.store, digest).await,
        }
    }

    /// Pins an image that is about to be fetched.
    async fn pin(&self, target: &Descriptor) -> Result<()> {
        let begun = self
            .reading
            .get_or_try_init(|| ReadGuard::begin(&self.store, "serve"));
        begun.await?.pin_tree(target).await
    }

    async fn guard(&self) -> Result<&LeaseGuard> {
        let begun = self
            .writing
            .get_or_try_init(|| LeaseGuard::begin(&self.store, "receive"));
        begun.await
    }

    /// Records a pushed document as a referrer of its subject, if the document names a subject that
    /// the store has. The subject may be any blob: registries accept every subject, even an absent
    /// one.
    async fn record_subject(&self, descriptor: &Descriptor, data: &[u8]) -> Result<()> {
        let document = dispatch::parse(descriptor, data)?;
        let Some(subject) = document.subject() else {
            return Ok(());
        };
        let subject = match blob::describe(&self.store, &subject.digest).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            described => described?,
        };
        let guard = self.guard().await?;
        guard.record_referrers(&subject, &[descriptor.digest]).await
    }

    /// Names a document that was pushed.
    async fn point(&self, descriptor: &Descriptor) -> Result<()> {
        let guard = LeaseGuard::begin(&self.store, "receive").await?;
        if let Err(error) = guard.pin_tree(descriptor).await {
            return guard.finish_with(Err(error)).await;
        }
        let image = Image::new(self.name.clone(), descriptor.clone());
        guard.name_one(image, &["target"]).await.map(|_| ())
    }
}

#[async_trait]
impl Fetcher for StoreRepository {
    async fn resolve(&self) -> Result<Descriptor> {
        let target = self.find().await.during("resolve", &self.name)?;
        self.pin(&target).await?;
        Ok(target)
    }

    async fn fetch(&self, descriptor: &Descriptor, range: Range<u64>) -> Result<Pieces> {
        let fetcher = StoreFetcher(Arc::clone(&self.store.content));
        fetcher.fetch(descriptor, range).await
    }
}

#[async_trait]
impl Referrers for StoreRepository {
    async fn referrers(
        &self,
        subject: &Descriptor,
        artifact_type: Option<&str>,
    ) -> Result<ReferrerPages> {
        self.store.referrers(subject, artifact_type).await
    }
}

#[async_trait]
impl Pusher for StoreRepository {
    async fn exists(&self, descriptor: &Descriptor) -> Result<bool> {
        let blob = BlobRef::of(descriptor, Vec::new());
        self.guard().await?.pin_intact(blob).await
    }

    async fn push(&self, descriptor: &Descriptor, content: Content) -> Result<()> {
        if self.exists(descriptor).await? {
            return Ok(());
        }
        let write = BlobWrite {
            store: &self.store,
            guard: self.guard().await?,
            record: RecordOrder::WithBytes(descriptor),
            durability: Durability::Full,
            resume: Resume::Never,
            writer_timeout: WRITER_TIMEOUT,
            feed: None,
            progress: &Silent,
        };
        store_blob(&write, &mut Received(content(0)))
            .await
            .map(|_| ())
    }

    async fn push_document(
        &self,
        descriptor: &Descriptor,
        data: Bytes,
        name: DocumentName,
    ) -> Result<()> {
        if let (DocumentName::Root, Some((_, digest))) = (name, &self.parts)
            && *digest != descriptor.digest
        {
            let found = descriptor.digest;
            return Err(Error::invalid(format!(
                "the document has the digest {found}; push it to a name without a digest, or \
                 with this digest"
            ))
            .operation("push")
            .subject(&self.name));
        }
        let guard = self.guard().await?;
        guard
            .put(descriptor, data.clone(), Durability::Full)
            .await?;
        self.record_subject(descriptor, &data).await?;
        match name {
            DocumentName::Root => self.point(descriptor).await,
            DocumentName::Digest => Ok(()),
        }
    }
}

/// The content of a push as a source.
struct Received(Pieces);

#[async_trait]
impl BlobSource for Received {
    async fn open(&mut self, offset: u64) -> Result<()> {
        match offset {
            0 => Ok(()),
            // A push sends the whole content.
            _ => Err(Error::internal(format!(
                "expected a push that sends the blob from its first byte, found the offset \
                 {offset}; please report it"
            ))),
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.0.next().await.transpose()? {
                Some(piece) if piece.is_empty() => {}
                piece => return Ok(piece),
            }
        }
    }
}
