//! Stores blobs one after the other.

use bytes::Bytes;
use cas_core::lease::BlobRef;
use cas_core::{
    Descriptor, Document, Error, MediaType, Result, Store, blob, dispatch, document_type, limit,
};

use super::super::contents::{self, Part};
use super::super::importer::BlobImporter;
use super::super::item::Item;
use super::blob::{IngestBlob, IngestSource, IngestState};

/// Stores blobs, and keeps a list of the documents among them, with their children.
pub(super) struct Loader<'a> {
    store: &'a Store,
    importer: &'a BlobImporter<'a>,
    documents: Vec<BlobRef>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(store: &'a Store, importer: &'a BlobImporter<'a>) -> Self {
        Loader {
            store,
            importer,
            documents: Vec::new(),
        }
    }

    /// Stores the blobs in order, until one fails. Sets the state of each blob that it reaches.
    pub(super) async fn load(
        &mut self,
        blobs: &[IngestBlob],
        states: &mut [IngestState],
    ) -> Result<()> {
        // The records of blobs whose sizes are given are written in one batch if possible.
        let pins: Vec<BlobRef> = blobs.iter().map(pin).collect();
        let present = self.importer.pin_all(&pins).await?;
        let blobs = blobs.iter().zip(present);
        for ((blob, is_present), state) in blobs.zip(states) {
            *state = IngestState::Failed;
            let loaded = if is_present {
                self.add_present(blob).await.map(|()| IngestState::Present)
            } else {
                self.store(blob).await
            };
            *state = loaded.map_err(|error| error.operation("ingest").within(blob.digest))?;
        }
        Ok(())
    }

    /// Makes everything durable, and records the children of the documents.
    pub(super) async fn record_children(&mut self) -> Result<()> {
        let documents = std::mem::take(&mut self.documents);
        let mut children: Vec<_> = documents.iter().flat_map(|one| &one.children).collect();
        children.sort();
        children.dedup();
        let children = children.into_iter().map(|child| BlobRef::existing(*child));
        self.importer
            .pin_listed(&children.collect::<Vec<_>>())
            .await?;
        self.importer.record_children(documents).await
    }

    /// The store already has `blob`. If `blob` is a document, adds it to `documents`, because its
    /// record may lack its children.
    async fn add_present(&mut self, blob: &IngestBlob) -> Result<()> {
        let described = match &blob.media_type {
            Some(media_type) if !media_type.is_document() => return Ok(()),
            _ => blob::describe(self.store, &blob.digest).await?,
        };
        if described.media_type.is_document() {
            let children = dispatch::children(&*self.store.content, &described).await?;
            let children = children.iter().map(|child| child.digest).collect();
            self.documents.push(BlobRef::of(&described, children));
        }
        Ok(())
    }

    async fn store(&mut self, blob: &IngestBlob) -> Result<IngestState> {
        let part = open(&blob.source)?;
        let size = blob.size.unwrap_or(part.size);
        // The same blob may be given twice, and a blob without a size is not pinned yet.
        let known = BlobRef {
            size: Some(size),
            ..pin(blob)
        };
        if self.importer.pin_all(&[known]).await? == [true] {
            self.add_present(blob).await?;
            return Ok(IngestState::Present);
        }
        let document = self.document(blob, &part).await?;
        let (media_type, children, part) = match document {
            Some((media_type, data)) => {
                let document = Document::parse(&media_type, &data)?;
                let children = document.children().map(|child| child.digest).collect();
                (media_type, children, Part::in_memory(data))
            }
            None => {
                let media_type = blob.media_type.clone().unwrap_or(MediaType::BYTES);
                (media_type, Vec::new(), part)
            }
        };
        let item = Item {
            descriptor: Descriptor::new(media_type, blob.digest, size),
            children,
            part,
        };
        self.importer.store(&item, None).await?;
        if item.descriptor.media_type.is_document() {
            let document = BlobRef::of(&item.descriptor, item.children);
            self.documents.push(document);
        }
        Ok(IngestState::Stored)
    }

    /// Returns the type and the bytes of a manifest or an index, or `None` for any other blob. Also
    /// returns `None` for a blob without a media type that has more than [`limit::DOCUMENT_WRITE`]
    /// bytes.
    async fn document(&self, blob: &IngestBlob, part: &Part) -> Result<Option<(MediaType, Bytes)>> {
        match &blob.media_type {
            Some(media_type) if media_type.is_document() => {
                let (found, allowed) = (part.size, limit::DOCUMENT_WRITE);
                if found > allowed {
                    return Err(Error::out_of_range(format!(
                        "the document has {found} bytes; at most {allowed} are allowed; build the \
                         image with a smaller document"
                    )));
                }
                let data = part.document(self.store).await?;
                Ok(Some((media_type.clone(), data)))
            }
            Some(_) => Ok(None),
            None => {
                if part.size > limit::DOCUMENT_WRITE {
                    return Ok(None);
                }
                let head = part.head(self.store, blob::HEAD).await?;
                if !blob::may_be_document(part.size, &head) {
                    return Ok(None);
                }
                let data = part.document(self.store).await?;
                Ok(document_type(&data).map(|media_type| (media_type, data)))
            }
        }
    }
}

/// Returns the reference with which a blob is pinned before its bytes are opened.
fn pin(blob: &IngestBlob) -> BlobRef {
    BlobRef {
        size: blob.size,
        media_type: blob.media_type.clone(),
        ..BlobRef::existing(blob.digest)
    }
}

fn open(source: &IngestSource) -> Result<Part> {
    match source {
        IngestSource::Bytes(bytes) => Ok(Part::in_memory(bytes.clone())),
        IngestSource::Path(path) => contents::open(path.clone())?.ok_or_else(|| {
            Error::not_found(format!(
                "the store does not have this blob, and the file {} does not exist; restore the \
                 file",
                path.display()
            ))
        }),
    }
}
