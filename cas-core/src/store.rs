//! A store as a program holds it: bytes, the one home of their records, and names.

use std::sync::Arc;

use bytes::Bytes;

use crate::content::{Committed, ContentStore, Durability, Expected, Stat, Writer};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::document::Document;
use crate::error::{Error, Result};
use crate::image::ImageStore;
use crate::records::{Batch, BlobRecord, Blobs, Expect, Records};

/// Bytes, records and names that belong together.
#[derive(Clone)]
pub struct Store {
    /// The bytes.
    pub content: Arc<dyn ContentStore>,
    /// The one home of records.
    pub records: Arc<dyn Records>,
    /// The names.
    pub images: Arc<dyn ImageStore>,
}

impl Store {
    /// The records of its blobs.
    pub fn blobs(&self) -> Blobs {
        Blobs::new(Arc::clone(&self.records))
    }

    /// Whether the content of `descriptor` is there.
    ///
    /// # Errors
    /// `Corrupt` when it is there in another size.
    pub async fn present(&self, descriptor: &Descriptor) -> Result<bool> {
        match self.content.stat(&descriptor.digest).await? {
            None => Ok(false),
            Some(Stat { size, .. }) if size == descriptor.size => Ok(true),
            Some(Stat { size, .. }) => Err(Error::corrupt(format!(
                "expected {} bytes, the store has {size}; remove the blob and import it again",
                descriptor.size
            ))
            .operation("stat")
            .subject(descriptor.digest)),
        }
    }

    /// Begins or resumes the ingest of a blob under its digest as key.
    ///
    /// # Errors
    /// `Busy` while another writer holds it.
    pub async fn writer(&self, descriptor: &Descriptor) -> Result<Writer> {
        let expected = Expected::exactly(descriptor.digest, descriptor.size);
        Writer::begin(&*self.content, &descriptor.digest.to_string(), expected).await
    }

    /// Publishes what `writer` holds together with its record; the record of a blob that is there
    /// already stays as it is, but a missing type or missing children are filled in.
    ///
    /// # Errors
    /// Those of [`Writer::commit`], `Corrupt` when the bytes are not what `descriptor` says
    /// whatever the writer was begun with; those of the home.
    pub async fn publish(
        &self,
        mut writer: Writer,
        descriptor: &Descriptor,
        children: Vec<Digest>,
        durability: Durability,
    ) -> Result<Committed> {
        let digest = &descriptor.digest;
        writer.expect(*digest, descriptor.size);
        let mut batch = Batch::new();
        if self.blobs().load(digest).await?.is_none() {
            let record = BlobRecord {
                children: children.clone(),
                ..BlobRecord::new(descriptor.size, Some(descriptor.media_type.clone()))
            };
            Blobs::put(&mut batch, digest, &record, Expect::Absent)?;
        }
        let committed = writer.commit(&batch, durability).await?;
        if !committed.batch || batch.is_empty() {
            self.describe(descriptor, children).await?;
        }
        Ok(committed)
    }

    /// Stores a small blob with its record, edges included where it is a document.
    ///
    /// # Errors
    /// As [`Store::publish`]; `Corrupt` when `data` is not what `descriptor` says.
    pub async fn put(
        &self,
        descriptor: &Descriptor,
        data: Bytes,
        durability: Durability,
    ) -> Result<()> {
        let lists = descriptor.media_type.is_index() || descriptor.media_type.is_manifest();
        let children: Vec<Digest> = match lists {
            false => Vec::new(),
            true => Document::parse(&descriptor.media_type, &data)
                .map_err(|error| error.operation("store").subject(descriptor.digest))?
                .children()
                .map(|child| child.digest)
                .collect(),
        };
        let found = self.content.stat(&descriptor.digest).await?;
        // A blob of another size is damaged: it is written again.
        if found.is_some_and(|stat| stat.size == descriptor.size) {
            if durability != Durability::Relaxed {
                // Whoever published it may not have synced it.
                self.content.flush().await?;
            }
            return self.describe(descriptor, children).await;
        }
        let mut writer = self.writer(descriptor).await?;
        if writer.offset() > 0 {
            writer.rewind().await?;
        }
        writer.write(data).await?;
        self.publish(writer, descriptor, children, durability)
            .await
            .map(|_| ())
    }

    /// Fills in the record of a blob that is there.
    ///
    /// # Errors
    /// Those of the home.
    pub async fn describe(&self, descriptor: &Descriptor, children: Vec<Digest>) -> Result<()> {
        let fill = |found: Option<BlobRecord>| {
            let mut record = found.unwrap_or_else(|| BlobRecord::new(descriptor.size, None));
            record
                .media_type
                .get_or_insert_with(|| descriptor.media_type.clone());
            if record.children.is_empty() {
                record.children.clone_from(&children);
            }
            Ok(record)
        };
        self.blobs()
            .update(&descriptor.digest, fill)
            .await
            .map(|_| ())
    }
}
