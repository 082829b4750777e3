//! The blobs to ingest, and the outcomes.

use std::path::PathBuf;

use bytes::Bytes;
use cas_core::{Digest, Error, Image, MediaType, Result};

/// A blob to store, whose digest is known.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct IngestBlob {
    /// The digest of the blob. Bytes with another digest are refused.
    pub digest: Digest,
    /// Its size in bytes, if it is known. Bytes of another size are refused.
    pub size: Option<u64>,
    /// Its media type, if it is known. A manifest or an index without a media type is recognized by
    /// its bytes, unless it is new to the store and has more than
    /// [`limit::DOCUMENT_WRITE`](cas_core::limit::DOCUMENT_WRITE) bytes.
    pub media_type: Option<MediaType>,
    /// Where its bytes are.
    pub source: IngestSource,
}

/// Where the bytes of a blob are.
#[derive(Clone, Debug)]
pub enum IngestSource {
    /// In a regular file. If the store has the blob already, the file need not exist.
    Path(PathBuf),
    /// In memory.
    Bytes(Bytes),
}

impl IngestBlob {
    /// Returns a blob whose bytes are in the file `path`.
    pub fn from_path(digest: Digest, path: impl Into<PathBuf>) -> Self {
        Self::new(digest, IngestSource::Path(path.into()))
    }

    /// Returns a blob whose bytes are in memory.
    pub fn from_bytes(digest: Digest, bytes: impl Into<Bytes>) -> Self {
        Self::new(digest, IngestSource::Bytes(bytes.into()))
    }

    fn new(digest: Digest, source: IngestSource) -> Self {
        IngestBlob {
            digest,
            size: None,
            media_type: None,
            source,
        }
    }

    /// Sets [`size`](Self::size). A size of 0 counts as unknown, so an empty blob is verified by
    /// its digest alone.
    #[must_use]
    pub fn with_size(mut self, size: u64) -> Self {
        self.size = Some(size).filter(|size| *size > 0);
        self
    }

    /// Sets [`media_type`](Self::media_type).
    #[must_use]
    pub fn with_media_type(mut self, media_type: impl Into<MediaType>) -> Self {
        self.media_type = Some(media_type.into());
        self
    }
}

/// What [`ingest_blobs`](super::ingest_blobs) or [`ingest_image`](super::ingest_image) did with one
/// blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IngestState {
    /// The store had the blob already.
    Present,
    /// The blob was stored.
    Stored,
    /// The blob could not be stored, or it was stored but the next garbage collection may remove
    /// it.
    Failed,
    /// An error occurred before this blob was reached.
    NotReached,
}

impl IngestState {
    /// Returns whether the state is `Present` or `Stored`.
    pub fn is_loaded(self) -> bool {
        matches!(self, IngestState::Present | IngestState::Stored)
    }
}

/// A blob and its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IngestedBlob {
    /// The digest of the blob.
    pub digest: Digest,
    /// The outcome.
    pub state: IngestState,
}

/// The outcome of [`ingest_blobs`](super::ingest_blobs). If one blob failed, the other blobs may be
/// in the store.
#[derive(Debug)]
#[must_use = "the ingest may have failed"]
pub struct Ingested {
    /// The blobs, in the order in which they were given.
    pub blobs: Vec<IngestedBlob>,
    /// The first error, if there was one.
    pub error: Option<Error>,
}

impl Ingested {
    /// Returns the blobs if the store has all of them.
    ///
    /// # Errors
    /// [`error`](Self::error), if it is set.
    pub fn complete(self) -> Result<Vec<IngestedBlob>> {
        match self.error {
            None => Ok(self.blobs),
            Some(error) => Err(error),
        }
    }

    pub(super) fn new(
        blobs: &[IngestBlob],
        states: Vec<IngestState>,
        error: Option<Error>,
    ) -> Self {
        Ingested {
            blobs: with_states(blobs, states),
            error,
        }
    }
}

/// An image that was stored blob by blob, and named.
#[derive(Clone, Debug)]
pub struct IngestedImage {
    /// The image.
    pub image: Image,
    /// The blobs: first the topmost index or manifest, then the other blobs in the order in which
    /// they were given.
    pub blobs: Vec<IngestedBlob>,
}

pub(super) fn with_states(blobs: &[IngestBlob], states: Vec<IngestState>) -> Vec<IngestedBlob> {
    let digests = blobs.iter().map(|blob| blob.digest);
    let pairs = digests.zip(states);
    pairs
        .map(|(digest, state)| IngestedBlob { digest, state })
        .collect()
}
