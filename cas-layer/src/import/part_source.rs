//! Reads the bytes of a [`Part`] to store them as a blob.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::content::Writer;
use cas_core::transfer::{BlobSource, LayerSender};
use cas_core::{Error, Result, pool};

use super::contents::{Location, Part};
use crate::buffers::{At, Buffers, PIECE};

/// Maximum number of bytes in one copy from file to file.
const FILE_PIECE: u64 = 16 << 20;

/// A part that is not in the store yet.
pub(super) struct PartSource<'a> {
    part: Part,
    at: u64,
    buffers: &'a Buffers,
}

impl<'a> PartSource<'a> {
    pub(super) fn new(part: &Part, buffers: &'a Buffers) -> Self {
        PartSource {
            part: part.clone(),
            at: 0,
            buffers,
        }
    }

    fn advance(&mut self, length: u64) -> Result<()> {
        if length == 0 {
            let left = self.part.size - self.at;
            return Err(Error::corrupt(format!(
                "the file ends too early (missing bytes: {left}); import a complete file"
            )));
        }
        self.at += length;
        Ok(())
    }
}

#[async_trait]
impl BlobSource for PartSource<'_> {
    async fn open(&mut self, offset: u64) -> Result<()> {
        self.at = offset;
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        let left = self.part.size - self.at;
        if left == 0 {
            return Ok(None);
        }
        let piece = match &self.part.location {
            Location::Memory(data) => data.slice(self.at as usize..),
            Location::File(file, offset) => {
                let (buffers, file, from) =
                    (self.buffers.clone(), Arc::clone(file), offset + self.at);
                pool::run(move || Ok(buffers.read(&mut At { file, from }, left)?)).await?
            }
            Location::Spilled(spilled, offset) => {
                let length = left.min(PIECE as u64) as usize;
                spilled.read(offset + self.at, length).await?
            }
            Location::Stored(_) => {
                return Err(Error::internal(
                    "the blob to import is already in the store; please report it",
                ));
            }
        };
        self.advance(piece.len() as u64)?;
        Ok(Some(piece))
    }

    /// Copies from file to file if the bytes need not be sent to an unpacker.
    async fn write_next(
        &mut self,
        writer: &mut Writer,
        sender: Option<&LayerSender>,
    ) -> Result<u64> {
        let (Location::File(file, offset), None) = (&self.part.location, sender) else {
            return self.write_piece(writer, sender).await;
        };
        let length = (self.part.size - self.at).min(FILE_PIECE);
        let written = writer.write_file(file, offset + self.at, length).await?;
        if length > 0 {
            self.advance(written)?;
        }
        Ok(written)
    }
}
