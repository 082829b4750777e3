//! Stores blobs whose digests are known. If the caller gives a name, also creates an image.
//!
//! The record of each blob is written before its bytes. The records of all blobs whose sizes are
//! given are written first, in one batch if possible. The bytes are made durable together. At the
//! end, the record of each manifest and index gets the list of its children, even if the store had
//! the manifest or index before.

mod blob;
mod loader;

use cas_core::image::Reference;
use cas_core::progress::Silent;
use cas_core::{Error, Image, Result, Store, background};

pub use self::blob::{
    IngestBlob, IngestSource, IngestState, Ingested, IngestedBlob, IngestedImage,
};

use self::blob::with_states;
use self::loader::Loader;
use super::importer::BlobImporter;

/// Stores blobs in order, until one fails. A blob with wrong bytes is not stored. When this
/// function has returned, the store keeps the stored blobs for a day, and then for as long as an
/// image, a lease or a label refers to them. Returns the state of each blob, and the error if there
/// was one. If the future is dropped before that, the next garbage collection removes what was
/// stored.
///
/// The error is `Corrupt` if the bytes of a blob have another digest or size, are a manifest or an
/// index that does not parse, or are not in a regular file; `NotFound` if the file with the bytes
/// does not exist, and the store does not have the blob; `OutOfRange` if a blob that is not in the
/// store yet is given with the media type of a manifest or an index, and has more than
/// [`limit::DOCUMENT_WRITE`](cas_core::limit::DOCUMENT_WRITE) bytes; or an error of the file system
/// or of the store.
pub async fn ingest_blobs(store: &Store, blobs: &[IngestBlob]) -> Ingested {
    let mut states = vec![IngestState::NotReached; blobs.len()];
    let loaded = load_and_keep(store, blobs, &mut states).await;
    Ingested::new(blobs, states, loaded.err())
}

async fn load_and_keep(
    store: &Store,
    blobs: &[IngestBlob],
    states: &mut [IngestState],
) -> Result<()> {
    let importer = BlobImporter::begin(store, &Silent).await?;
    let mut loader = Loader::new(store, &importer);
    let loaded = loader.load(blobs, states).await;
    let recorded = loader.record_children().await;
    let kept = match recorded {
        Ok(()) => importer.finish_kept().await,
        Err(error) => Err(error),
    };
    if kept.is_err() {
        // The stored blobs may not be durable, and the next collection may remove them.
        let stored = |state: &&mut IngestState| **state == IngestState::Stored;
        states
            .iter_mut()
            .filter(stored)
            .for_each(|state| *state = IngestState::Failed);
    }
    loaded.and(kept)
}

/// Stores the blobs of an image, and creates the image `name`. `root` is the topmost index or
/// manifest of the image. If an index or a manifest lists a blob that is neither given nor in the
/// store, the blob is recorded as absent.
///
/// After a failure, no image is created, and the blobs that were stored are removed again, except
/// blobs to which something else refers by then. If the future is dropped, the blobs are removed in
/// the background. If the name is already being written by then, the creation of the image
/// continues in the background instead. If the process is killed, a garbage collection removes the
/// blobs once the lease of the ingest has expired.
///
/// # Errors
/// The errors that [`ingest_blobs`] lists; `AlreadyExists` if an image with this name exists;
/// `InvalidArgument` if `root` is neither an index nor a manifest.
pub async fn ingest_image(
    store: &Store,
    name: Reference,
    root: &IngestBlob,
    blobs: &[IngestBlob],
) -> Result<IngestedImage> {
    let all = [std::slice::from_ref(root), blobs].concat();
    let mut states = vec![IngestState::NotReached; all.len()];
    let mut attempt = Attempt(Some(BlobImporter::begin(store, &Silent).await?));
    let loaded = attempt.load(store, name, &all, &mut states).await;
    let image = attempt.end(loaded).await?;
    Ok(IngestedImage {
        image,
        blobs: with_states(&all, states),
    })
}

/// The ingest of an image. If it is dropped before [`Self::end`], it is undone in the background.
struct Attempt<'a>(Option<BlobImporter<'a>>);

impl Attempt<'_> {
    /// Stores the blobs of an image, the topmost one first. Returns the image to name.
    async fn load(
        &self,
        store: &Store,
        name: Reference,
        blobs: &[IngestBlob],
        states: &mut [IngestState],
    ) -> Result<Image> {
        let ended = || {
            Error::internal(
                "an image cannot be added to an ingest that has ended; please report this",
            )
        };
        let importer = self.0.as_ref().ok_or_else(ended)?;
        // This is checked before anything is stored, and again when the name is written.
        if store.images.get(&name).await?.is_some() {
            return Err(
                Error::already_exists("an image with this name exists; delete it first")
                    .operation("ingest")
                    .subject(&name),
            );
        }
        let mut loader = Loader::new(store, importer);
        loader.load(blobs, states).await?;
        let root = cas_core::blob::document(store, &blobs[0].digest).await?;
        loader.record_children().await?;
        importer.pin_tree(&root).await?;
        Ok(Image::new(name, root))
    }

    /// Names the image that was stored, or undoes the ingest. This continues if the caller drops
    /// the future.
    async fn end(&mut self, loaded: Result<Image>) -> Result<Image> {
        let Some(undo) = self.0.take().map(BlobImporter::into_undo) else {
            return loaded;
        };
        background::shield(async move {
            match loaded {
                Ok(image) => undo.or_name(image).await,
                Err(error) => {
                    undo.run().await;
                    Err(error)
                }
            }
        })
        .await
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(undo) = self.0.take().map(BlobImporter::into_undo) {
            background::run(async move {
                undo.run().await;
            });
        }
    }
}
