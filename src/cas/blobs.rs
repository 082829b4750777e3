//! Verbs that list, read, label, store and remove single blobs.

use std::collections::BTreeMap;

use cas_core::blob::{self, BlobInfo, BlobList};
use cas_core::content::VerifiedReader;
use cas_core::gc::{self, RemoveOptions, Removed};
use cas_core::{Digest, Error, Labels, Result, lease};
use cas_layer::import::{self, IngestBlob, Ingested, IngestedImage};

use super::Cas;
use super::arguments::NewName;
use super::each_snapshotter::collected;
use super::images::check_unused;

impl Cas {
    /// Returns all blobs of the store with the data of their records, and a list of problems: the
    /// blobs whose records are missing or damaged. Reads the blobs and the records in one pass. If
    /// the handle is opened for an owner, returns only the blobs that belong to this owner, and an
    /// empty list of problems.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn blobs(&self) -> Result<BlobList> {
        blob::list(self.opened()?).await
    }

    /// Returns the digest and the size of a blob, and the media type, labels and times from its
    /// record.
    ///
    /// # Errors
    /// `NotFound` if the store does not have the blob; `Corrupt` if the record of the blob does not
    /// parse; errors of the store.
    pub async fn blob_info(&self, blob: &Digest) -> Result<BlobInfo> {
        let found = blob::info(self.opened()?, blob).await?;
        found.ok_or_else(|| absent("find blob", blob))
    }

    /// Returns whether a blob is in the store.
    ///
    /// # Errors
    /// `Corrupt` if the record of the blob does not parse; errors of the store. An absent blob is
    /// not an error.
    pub async fn blob_exists(&self, blob: &Digest) -> Result<bool> {
        Ok(blob::info(self.opened()?, blob).await?.is_some())
    }

    /// Returns the digests that a manifest or an index lists, in order. Returns an empty list for
    /// any other blob.
    ///
    /// # Errors
    /// As [`blob::children`].
    pub async fn blob_children(&self, blob: &Digest) -> Result<Vec<Digest>> {
        blob::children(self.opened()?, blob).await
    }

    /// Returns a reader that streams a blob and verifies it. If the bytes are damaged, the reader
    /// returns an error instead of the end of the blob. The reader implements `AsyncRead` of tokio
    /// and `Read` of the standard library. To read only a range of a blob, use `content.open` of
    /// the store.
    ///
    /// # Errors
    /// `NotFound` if the store does not have the blob; errors of the store.
    pub async fn read_blob(&self, blob: &Digest) -> Result<VerifiedReader> {
        let reader = blob::read_verified(self.opened()?, blob).await?;
        reader.ok_or_else(|| absent("read blob", blob))
    }

    /// Replaces labels of the blob `update.digest` with the labels of `update`. The field paths
    /// `labels` and `labels.<key>` select the labels to replace. Without field paths, all labels
    /// are replaced. A selected label that `update` does not have, or has with an empty value, is
    /// removed. Returns the updated blob.
    ///
    /// # Errors
    /// As [`lease::update_labels`]; `NotFound` if the store does not have the blob;
    /// `InvalidArgument` if the size in `update` is not the size of the blob, because the size of a
    /// blob never changes.
    pub async fn update_blob(&self, update: &BlobInfo, fieldpaths: &[&str]) -> Result<BlobInfo> {
        let store = self.writable()?;
        let (blob, size) = (&update.digest, update.size);
        let found = self.blob_info(blob).await?;
        if size != found.size {
            return Err(Error::invalid(format!(
                "the size of a blob never changes: the blob has {} bytes, but the update states \
                 {size}; pass the size that the blob has",
                found.size
            ))
            .operation("update blob")
            .subject(blob));
        }
        lease::update_labels(store, blob, &update.labels, fieldpaths).await?;
        self.blob_info(blob).await
    }

    /// Stores blobs in order, and stops at the first failure. The blobs that were stored stay for a
    /// day, and longer if something refers to them. Returns the outcome of each blob, and the error
    /// if a blob failed.
    ///
    /// # Errors
    /// `Denied` for a read-only root. If a blob fails, its error is a part of the result.
    /// [`import::ingest_blobs`] lists these errors.
    pub async fn ingest_blobs(&self, blobs: &[IngestBlob]) -> Result<Ingested> {
        Ok(import::ingest_blobs(self.writable()?, blobs).await)
    }

    /// Stores the blobs of an image, whose topmost index or manifest is `root`, and gives the image
    /// a new name. If anything fails, the image gets no name, and the new blobs are removed, except
    /// those that something else refers to by then. Returns the image, and the outcome of each
    /// blob.
    ///
    /// # Errors
    /// As [`import::ingest_image`]; `AlreadyExists` if `name` is a
    /// [`FullName`](cas_core::image::FullName) and the store has this name in any spelling;
    /// `InvalidArgument` for text that is not a name, or for a name with a digest that is not the
    /// digest of `root`.
    pub async fn ingest_image(
        &self,
        name: impl Into<NewName>,
        root: &IngestBlob,
        blobs: &[IngestBlob],
    ) -> Result<IngestedImage> {
        let store = self.writable()?;
        let (name, full) = name.into().0?;
        name.check_digest(&root.digest)?;
        if let Some(full) = &full {
            check_unused(store, full).await?;
        }
        import::ingest_image(store, name, root, blobs).await
    }

    /// Removes the given blobs, if nothing refers to them except other blobs of this call. Other
    /// jobs may use the store meanwhile. Returns what was removed. A blob that comes into use
    /// during the call stays, and is not in the result.
    ///
    /// # Errors
    /// As [`gc::remove`]: `NotFound` for a blob that is not in the store; `Busy` for a blob that is
    /// in use. In both cases nothing is removed.
    pub async fn remove_blobs(&self, blobs: impl IntoIterator<Item = Digest>) -> Result<Removed> {
        let options = RemoveOptions::default();
        self.remove_blobs_with(blobs, options).await
    }

    /// Removes blobs with options. Returns what was removed.
    ///
    /// # Errors
    /// As [`Cas::remove_blobs`]; `Denied` if [`RemoveOptions::force`] is set and the handle is
    /// opened for an owner. With `force`, a blob that is in use is removed like the others, and is
    /// not an error. With [`RemoveOptions::skip_absent`], a blob that is not in the store is
    /// skipped, and is not an error.
    pub async fn remove_blobs_with(
        &self,
        blobs: impl IntoIterator<Item = Digest>,
        options: RemoveOptions,
    ) -> Result<Removed> {
        let store = self.writable()?;
        let blobs = blobs.into_iter().collect();
        let handles = self.with_each_snapshotter().await?;
        gc::remove(store, &collected(&handles), &blobs, &options).await
    }

    /// Changes labels of a blob: sets each label that has a value in `changes`, and removes each
    /// label that is `None` there. Labels that begin with `containerd.io/gc.` decide what a
    /// garbage collection keeps, as in containerd. Returns all labels that the blob has afterwards.
    ///
    /// # Errors
    /// As [`lease::change_labels`].
    pub async fn label_blob(
        &self,
        blob: &Digest,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<Labels> {
        lease::change_labels(self.writable()?, blob, changes).await
    }
}

fn absent(operation: &'static str, blob: &Digest) -> Error {
    Error::not_found("no such blob; check the digest")
        .operation(operation)
        .subject(blob)
}
