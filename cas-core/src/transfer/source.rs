//! Sources of the bytes of a blob.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::layer_feed::{LayerSender, write_and_send};
use crate::content::{BlobReader, Writer};
use crate::error::Result;

/// Maximum number of bytes in one read from a store.
const PIECE: usize = 1 << 20;
/// Maximum number of bytes of a file that one call shares or copies within the kernel. Progress is
/// reported after each call.
const SHARED: u64 = 64 << 20;

/// A source of the bytes of a blob.
#[async_trait]
pub trait BlobSource: Send {
    /// Moves to the byte `offset`. This method is called after the ingest was opened, and again
    /// before each further attempt to write the blob.
    ///
    /// # Errors
    /// Errors of the source.
    async fn open(&mut self, offset: u64) -> Result<()>;

    /// Returns the next bytes, at least one, or `None` at the end.
    ///
    /// # Errors
    /// Errors of the source.
    async fn next(&mut self) -> Result<Option<Bytes>>;

    /// Writes the next bytes to `writer`. If `sender` is given, also sends the bytes to it at the
    /// same time. Returns the number of bytes, which is 0 only at the end.
    ///
    /// By default, the bytes are read into memory. A source that reads files can override this
    /// method: if `sender` is `None`, [`Writer::write_file`] can share the bytes of a file or copy
    /// them within the kernel.
    ///
    /// # Errors
    /// Errors of the source and of [`Writer::write`].
    async fn write_next(
        &mut self,
        writer: &mut Writer,
        sender: Option<&LayerSender>,
    ) -> Result<u64> {
        self.write_piece(writer, sender).await
    }

    /// Reports to the source that its bytes since the last [`open`](BlobSource::open) are wrong.
    /// Returns whether the source may have other bytes after another `open`. Returns false by
    /// default.
    fn distrust(&mut self) -> bool {
        false
    }

    /// Writes the next bytes as [`BlobSource::write_next`] does, but always reads them into memory.
    /// Returns their number, which is 0 only at the end.
    ///
    /// # Errors
    /// As [`BlobSource::write_next`].
    async fn write_piece(
        &mut self,
        writer: &mut Writer,
        sender: Option<&LayerSender>,
    ) -> Result<u64> {
        let Some(piece) = self.next().await? else {
            return Ok(0);
        };
        let length = piece.len() as u64;
        write_and_send(writer, piece, sender).await?;
        Ok(length)
    }
}

/// A source that reads a blob of a store.
pub(super) struct StoredBlob {
    reader: Arc<dyn BlobReader>,
    offset: u64,
}

impl StoredBlob {
    pub(super) fn new(reader: Arc<dyn BlobReader>) -> Self {
        StoredBlob { reader, offset: 0 }
    }
}

#[async_trait]
impl BlobSource for StoredBlob {
    async fn open(&mut self, offset: u64) -> Result<()> {
        self.offset = offset;
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        let piece = self.reader.read_at(self.offset, PIECE).await?;
        self.offset += piece.len() as u64;
        Ok((!piece.is_empty()).then_some(piece))
    }

    async fn write_next(
        &mut self,
        writer: &mut Writer,
        sender: Option<&LayerSender>,
    ) -> Result<u64> {
        if sender.is_some() {
            return self.write_piece(writer, sender).await;
        }
        let Some(file) = self.reader.file() else {
            return self.write_piece(writer, sender).await;
        };
        let left = self.reader.size().saturating_sub(self.offset);
        let written = writer.write_file(file, self.offset, left.min(SHARED));
        let written = written.await?;
        self.offset += written;
        Ok(written)
    }
}
