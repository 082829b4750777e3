//! Which blobs an archive contains, and how they are written to it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::complete::completeness;
use cas_core::dispatch::{self, Handler, Next};
use cas_core::progress::Progress;
use cas_core::sync::lock;
use cas_core::{BlobReader, Descriptor, Digest, Error, Hasher, Result, Store, pool};
use futures_util::future::join;

use super::archive::Archive;
use crate::buffers::{At, Buffers, PIECE};
use crate::layout::blob_path;

/// The blobs of an archive, in order, each once.
#[derive(Default)]
pub(super) struct Plan {
    blobs: Vec<Blob>,
    digests: HashSet<Digest>,
}

/// A blob of the plan.
pub(super) struct Blob(Descriptor);

impl Plan {
    /// Returns the plan with all blobs that `roots` reach, each before the blobs that it lists. The
    /// caller has pinned the roots.
    ///
    /// # Errors
    /// `NotFound` if a part of a manifest is missing; `Corrupt` for a wrong size.
    pub(super) async fn of(
        store: &Store,
        roots: &[Descriptor],
        progress: &dyn Progress,
    ) -> Result<Self> {
        let planner = Planner {
            store,
            progress,
            plan: Mutex::default(),
        };
        dispatch::walk(&planner, roots).await?;
        Ok(planner
            .plan
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner))
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
    store: &'a Store,
    progress: &'a dyn Progress,
    plan: Mutex<Plan>,
}

#[async_trait]
impl Handler for Planner<'_> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
        if !self.is_present(descriptor).await? {
            if !descriptor.media_type.is_non_distributable() {
                return Err(missing(descriptor));
            }
            self.warn_left_out(descriptor, "is not distributed");
            return Ok(Next::Skip);
        }
        self.add(descriptor);
        let children = dispatch::children(&*self.store.content, descriptor).await?;
        let children = if descriptor.media_type.is_index() {
            self.stored(descriptor, children).await?
        } else if descriptor.media_type.is_manifest() {
            self.not_absent(descriptor, children).await?
        } else {
            children
        };
        Ok(Next::Children(children))
    }
}

impl Planner<'_> {
    /// Returns whether the bytes are in the store or in the descriptor.
    async fn is_present(&self, descriptor: &Descriptor) -> Result<bool> {
        Ok(descriptor.data.is_some() || self.store.present(descriptor).await?)
    }

    fn add(&self, descriptor: &Descriptor) {
        let mut plan = self.plan();
        if plan.digests.insert(descriptor.digest) {
            plan.blobs.push(Blob(descriptor.clone()));
        }
    }

    /// Returns the manifests of an index that are stored with everything that they need.
    async fn stored(&self, index: &Descriptor, listed: Vec<Descriptor>) -> Result<Vec<Descriptor>> {
        let found = completeness(self.store, index).await?;
        if let Some(missing) = found.missing {
            return Err(Error::not_found(format!(
                "none of the listed manifests is complete in the store, which lacks {missing}; \
                 pull or import the image again"
            ))
            .operation("read")
            .subject(index.digest));
        }
        let mut stored = Vec::with_capacity(listed.len());
        for child in listed {
            if !found.left_out.contains(&child.digest) {
                stored.push(child);
            } else if self.is_present(&child).await? {
                self.warn_left_out(&child, "is not complete in the store");
            } else {
                self.warn_left_out(&child, "was never stored");
            }
        }
        Ok(stored)
    }

    /// Returns the children of a manifest without the layers that were left out when it was stored.
    async fn not_absent(
        &self,
        manifest: &Descriptor,
        listed: Vec<Descriptor>,
    ) -> Result<Vec<Descriptor>> {
        let record = self.store.blobs().load(&manifest.digest).await?;
        let absent = record.map(|(record, _)| record.absent).unwrap_or_default();
        let mut kept = Vec::with_capacity(listed.len());
        for child in listed {
            let is_absent = child.media_type.is_layer() && absent.contains(&child.digest);
            if is_absent && !self.is_present(&child).await? {
                self.warn_left_out(&child, "was not stored with its image");
            } else {
                kept.push(child);
            }
        }
        Ok(kept)
    }

    fn warn_left_out(&self, descriptor: &Descriptor, why: &str) {
        let platform = descriptor.platform.as_ref();
        let of = platform.map(|platform| format!(" of {platform}"));
        self.progress.warn(&format!(
            "{}{} {why} and is left out",
            descriptor.digest,
            of.unwrap_or_default()
        ));
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        lock(&self.plan)
    }
}

fn missing(descriptor: &Descriptor) -> Error {
    Error::not_found(format!(
        "the image lists this {:.200} but the store does not have it; pull or import the image \
         again",
        descriptor.media_type
    ))
    .operation("read")
    .subject(descriptor.digest)
}

impl Blob {
    /// Writes the blob to `archive` and verifies it.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged. The archive is then useless.
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
                 of {found}; remove the image with `cas rmi`, run `cas gc`, and import it again",
                descriptor.size
            )));
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
