//! Decides which blobs an archive contains, and writes them to it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::complete::Available;
use cas_core::dispatch::{self, Handler, Next};
use cas_core::error::{FETCH_AGAIN, REPAIR_BYTES};
use cas_core::layout::blob_path;
use cas_core::progress::Progress;
use cas_core::sync::lock;
use cas_core::{
    BlobReader, Descriptor, Digest, Error, ErrorKind, Hasher, Result, Store, blob, limit, pool,
};
use futures_util::future::join;

use super::BlobFilter;
use super::archive::Archive;
use crate::buffers::{At, Buffers, PIECE};

/// The blobs of an archive, in order, each once.
#[derive(Default)]
pub(super) struct Plan {
    blobs: Vec<Blob>,
    digests: HashSet<Digest>,
}

/// A blob of the plan.
pub(super) struct Blob(Descriptor);

impl Plan {
    /// Returns the plan with `roots`, the manifests and indexes that they reach, and the other
    /// blobs that they reach and that `filter` selects. A document is followed by the blobs that it
    /// lists and that are not in the plan yet.
    ///
    /// # Errors
    /// `NotFound` if a root or a part of a manifest is missing, or if no manifest of a root that is
    /// an index is complete; `Corrupt` for a wrong size or a damaged document; `OutOfRange` if a
    /// bound of [`dispatch::walk()`] is exceeded; errors of the store.
    pub(super) async fn of(
        store: &Store,
        roots: &[Descriptor],
        filter: &BlobFilter,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let planner = Planner {
            available: Available::below(store, roots, progress).await?,
            filter,
            plan: Mutex::default(),
        };
        dispatch::walk(&planner, roots).await?;
        Ok(planner
            .plan
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds the referrers of the documents in the plan, if the store has any, and the referrers of
    /// these referrers. Returns the referrers. A referrer that is not complete in the store is left
    /// out with a warning.
    ///
    /// # Errors
    /// `OutOfRange` for more than [`limit::REFERRERS`] referrers; errors of [`blob::referrers()`];
    /// otherwise as [`Plan::of`], but `NotFound` is only a warning.
    pub(super) async fn add_referrers(
        &mut self,
        store: &Store,
        filter: &BlobFilter,
        progress: &dyn Progress,
    ) -> Result<Vec<Descriptor>> {
        let (mut found, mut at) = (Vec::new(), 0);
        while let Some(Blob(subject)) = self.blobs.get(at) {
            at += 1;
            if !subject.media_type.is_document() {
                continue;
            }
            for referrer in blob::referrers(store, &subject.digest.clone()).await? {
                if self.has(&referrer.digest) {
                    continue;
                }
                if found.len() == limit::REFERRERS {
                    let allowed = limit::REFERRERS;
                    return Err(Error::out_of_range(format!(
                        "the images have more than {allowed} referrers; export fewer images at a \
                         time"
                    )));
                }
                let roots = std::slice::from_ref(&referrer);
                match Plan::of(store, roots, filter, progress).await {
                    Err(error) if error.kind() == ErrorKind::NotFound => progress.warn(&format!(
                        "the referrer {} is not complete in the store; it is left out: {error}",
                        referrer.digest
                    )),
                    tree => {
                        self.extend(tree?);
                        found.push(referrer);
                    }
                }
            }
        }
        Ok(found)
    }

    fn extend(&mut self, other: Plan) {
        let new = other.blobs.into_iter();
        let new = new.filter(|Blob(one)| self.digests.insert(one.digest));
        self.blobs.extend(new);
    }

    /// Returns the blobs in their order.
    pub(super) fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    /// Returns whether the archive contains this blob.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.digests.contains(digest)
    }
}

/// Walks the images.
struct Planner<'a> {
    available: Available<'a>,
    filter: &'a BlobFilter,
    plan: Mutex<Plan>,
}

#[async_trait]
impl Handler for Planner<'_> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
        if !self.available.has(descriptor).await? {
            return Err(missing(descriptor));
        }
        self.add(descriptor);
        let mut children = self.available.children(descriptor).await?;
        children.retain(|child| child.media_type.is_document() || (self.filter)(child));
        Ok(Next::Children(children))
    }
}

impl Planner<'_> {
    fn add(&self, descriptor: &Descriptor) {
        let mut plan = lock(&self.plan);
        if plan.digests.insert(descriptor.digest) {
            plan.blobs.push(Blob(descriptor.clone()));
        }
    }
}

fn missing(descriptor: &Descriptor) -> Error {
    Error::not_found(format!(
        "the image lists this blob of type {:.200}, but the store does not have it",
        descriptor.media_type
    ))
    .advice(FETCH_AGAIN)
    .operation("read")
    .subject(descriptor.digest)
}

impl Blob {
    /// Writes the blob to `archive` and verifies it.
    ///
    /// # Errors
    /// `NotFound` if the store does not have the blob; `Corrupt` if it is damaged. The archive is
    /// then incomplete, and must not be published.
    pub(super) async fn write(
        &self,
        store: &Store,
        archive: &mut Archive,
        progress: &dyn Progress,
    ) -> Result<()> {
        let Blob(descriptor) = self;
        let path = blob_path(&descriptor.digest);
        if descriptor.data.is_some() {
            let data = dispatch::read(&*store.content, descriptor).await?;
            return archive.file(&path, data).await;
        }
        let reader = store.content.open(&descriptor.digest).await?;
        let reader = reader.ok_or_else(|| missing(descriptor))?;
        let item = descriptor.digest.to_string();
        progress.begin(&item, Some(descriptor.size));
        archive.begin(&path, descriptor.size).await?;
        let advance = |bytes| progress.advance(&item, bytes);
        let copied = self.copy(reader, archive, &advance).await;
        progress.end(&item);
        copied.map_err(|error| error.operation("read").subject(descriptor.digest))
    }

    /// Reads each piece while the previous one is hashed and written.
    async fn copy(
        &self,
        reader: Arc<dyn BlobReader>,
        archive: &mut Archive,
        advance: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        let Blob(descriptor) = self;
        let buffers = Buffers::default();
        let mut hasher = Hasher::new(descriptor.digest.algorithm());
        let mut at = 0;
        let mut piece = read(&reader, at, &buffers).await?;
        while !piece.is_empty() {
            let length = piece.len() as u64;
            at += length;
            let next = read(&reader, at, &buffers);
            let (written, next) = join(archive.piece(piece, hasher), next).await;
            hasher = written?;
            advance(length);
            piece = next?;
        }
        let found = hasher.finish();
        if at != descriptor.size || found != descriptor.digest {
            return Err(Error::corrupt(format!(
                "the stored blob is damaged: expected {} bytes of this digest, found {at} bytes \
                 of {found}",
                descriptor.size
            ))
            .advice(REPAIR_BYTES));
        }
        archive.end(at).await
    }
}

/// Returns a piece of the blob, starting at `at`. The piece is empty at the end.
async fn read(reader: &Arc<dyn BlobReader>, at: u64, buffers: &Buffers) -> Result<Bytes> {
    if reader.file().is_none() {
        return reader.read_at(at, PIECE).await;
    }
    let (reader, buffers) = (Arc::clone(reader), buffers.clone());
    pool::run(move || {
        let Some(file) = reader.file() else {
            return Err(Error::internal(
                "a reader no longer has its file; please report it",
            ));
        };
        Ok(buffers.read(&mut At { file, from: at }, PIECE as u64)?)
    })
    .await
}
