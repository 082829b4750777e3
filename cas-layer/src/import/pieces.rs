//! The bytes of a blob on their way into the store, piece by piece.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use cas_core::content::Writer;
use cas_core::transfer::{self, Feed};
use cas_core::{Error, Result, pool};

use super::contents::{Location, Part};
use crate::buffers::{At, Buffers};

/// Bytes of a file that are copied at once if they need not pass through memory.
const FILE_PIECE: u64 = 16 << 20;

/// Where the bytes of a blob come from.
pub(super) trait Pieces: Send {
    /// Returns the next piece, or `None` at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>>> + Send;

    /// Writes the next bytes and sends them to `feed`. Returns how many; zero at the end.
    fn copy_next(
        &mut self,
        writer: &mut Writer,
        feed: Option<&Feed>,
    ) -> impl Future<Output = Result<u64>> + Send {
        write_next(self, writer, feed)
    }
}

async fn write_next(
    pieces: &mut (impl Pieces + ?Sized),
    writer: &mut Writer,
    feed: Option<&Feed>,
) -> Result<u64> {
    let Some(piece) = pieces.next().await? else {
        return Ok(0);
    };
    let length = piece.len() as u64;
    transfer::write_through(writer, piece, feed).await?;
    Ok(length)
}

/// The pieces of a part that is in a file or in memory.
pub(super) struct FromPart<'a> {
    part: Part,
    at: u64,
    buffers: &'a Buffers,
}

impl<'a> FromPart<'a> {
    pub(super) fn new(part: &Part, buffers: &'a Buffers) -> Self {
        FromPart {
            part: part.clone(),
            at: 0,
            buffers,
        }
    }

    fn advance(&mut self, length: u64) -> Result<()> {
        if length == 0 {
            let left = self.part.size - self.at;
            return Err(Error::corrupt(format!(
                "the file ends {left} bytes too early"
            )));
        }
        self.at += length;
        Ok(())
    }
}

impl Pieces for FromPart<'_> {
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
                pool::run(move || Ok(buffers.read(&mut At { file: &file, from }, left)?)).await?
            }
            Location::Stored(_) => return Err(Error::internal("a stored blob is not copied")),
        };
        self.advance(piece.len() as u64)?;
        Ok(Some(piece))
    }

    /// Copies from file to file if the bytes need not be sent to a feed.
    async fn copy_next(&mut self, writer: &mut Writer, feed: Option<&Feed>) -> Result<u64> {
        let (Location::File(file, offset), None) = (&self.part.location, feed) else {
            return write_next(self, writer, feed).await;
        };
        let length = (self.part.size - self.at).min(FILE_PIECE);
        let written = writer.write_file(file, offset + self.at, length).await?;
        if length > 0 {
            self.advance(written)?;
        }
        Ok(written)
    }
}
