//! A blob of a remote as a source of bytes.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;

use super::layer_feed::{LayerSender, write_and_send};
use super::pull_limits::PullLimits;
use super::read_ahead::RangeReader;
use super::remote::{Fetcher, Pieces};
use super::source::BlobSource;
use crate::content::Writer;
use crate::descriptor::Descriptor;
use crate::error::Result;

/// A blob that is fetched by one request or, if the limits allow more, by ranges.
pub(super) struct RemoteBlob<'a> {
    fetcher: &'a dyn Fetcher,
    descriptor: &'a Descriptor,
    /// Maximum number of ranges that are fetched concurrently.
    ranges: usize,
    incoming: Incoming<'a>,
}

enum Incoming<'a> {
    /// Nothing was requested, or nothing is left to request.
    None,
    Stream(Pieces),
    Ranges(Box<RangeReader<'a>>),
}

impl<'a> RemoteBlob<'a> {
    pub(super) fn new(
        fetcher: &'a dyn Fetcher,
        descriptor: &'a Descriptor,
        limits: &PullLimits,
    ) -> Self {
        RemoteBlob {
            fetcher,
            descriptor,
            ranges: limits.per_layer(),
            incoming: Incoming::None,
        }
    }

    async fn request(&mut self, offset: u64) -> Result<Incoming<'a>> {
        let (fetcher, descriptor) = (self.fetcher, self.descriptor);
        let range = offset..descriptor.size;
        if range.is_empty() {
            return Ok(Incoming::None);
        }
        if self.ranges > 1 && range.end - range.start > PullLimits::RANGE {
            let opened = RangeReader::open(fetcher, descriptor, range.clone(), self.ranges);
            if let Some(reader) = opened.await? {
                return Ok(Incoming::Ranges(Box::new(reader)));
            }
        }
        fetcher.fetch(descriptor, range).await.map(Incoming::Stream)
    }
}

#[async_trait]
impl BlobSource for RemoteBlob<'_> {
    async fn open(&mut self, offset: u64) -> Result<()> {
        self.incoming = self.request(offset).await?;
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        match &mut self.incoming {
            Incoming::None => Ok(None),
            Incoming::Ranges(reader) => reader.next().await,
            Incoming::Stream(pieces) => loop {
                match pieces.next().await.transpose()? {
                    Some(piece) if piece.is_empty() => {}
                    piece => return Ok(piece),
                }
            },
        }
    }

    async fn write_next(
        &mut self,
        writer: &mut Writer,
        sender: Option<&LayerSender>,
    ) -> Result<u64> {
        let Incoming::Ranges(reader) = &mut self.incoming else {
            return self.write_piece(writer, sender).await;
        };
        let Some(piece) = reader.next().await? else {
            return Ok(0);
        };
        let length = piece.len() as u64;
        reader.during(write_and_send(writer, piece, sender)).await?;
        Ok(length)
    }
}
