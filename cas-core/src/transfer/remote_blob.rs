//! A blob of a remote as a source of bytes.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;

use super::layer_feed::{LayerSender, write_and_send};
use super::pull_limits::PullLimits;
use super::quota::{ImageQuota, QuotaLease};
use super::read_ahead::RangeReader;
use super::remote::{Fetcher, Pieces};
use super::source::BlobSource;
use crate::content::Writer;
use crate::descriptor::Descriptor;
use crate::error::Result;

/// A blob that is fetched by one request, or in ranges if it is large and the limits and the remote
/// allow it.
pub(super) struct RemoteBlob<'a> {
    fetcher: &'a dyn Fetcher,
    descriptor: &'a Descriptor,
    limits: &'a PullLimits,
    /// The quota of concurrent requests. A request for all bytes that are left counts until its
    /// stream ends. A request for a range counts until all bytes before the range are read.
    requests: &'a ImageQuota,
    incoming: Incoming<'a>,
}

enum Incoming<'a> {
    /// Nothing was requested, or nothing is left to request.
    None,
    Stream {
        pieces: Pieces,
        _lease: QuotaLease,
    },
    Ranges(Box<RangeReader<'a>>),
}

impl<'a> RemoteBlob<'a> {
    pub(super) fn new(
        fetcher: &'a dyn Fetcher,
        descriptor: &'a Descriptor,
        limits: &'a PullLimits,
        requests: &'a ImageQuota,
    ) -> Self {
        RemoteBlob {
            fetcher,
            descriptor,
            limits,
            requests,
            incoming: Incoming::None,
        }
    }

    async fn request(&mut self, offset: u64) -> Result<Incoming<'a>> {
        let range = offset..self.descriptor.size;
        let is_large = range.end.saturating_sub(offset) > self.limits.range();
        if self.limits.per_layer() > 1 && is_large {
            let reader = RangeReader::new(
                self.fetcher,
                self.descriptor,
                range.clone(),
                self.limits,
                self.requests,
            );
            if let Some(reader) = reader.begin().await? {
                return Ok(Incoming::Ranges(Box::new(reader)));
            }
        }
        self.request_whole(range).await
    }

    /// Requests a range by one request.
    async fn request_whole(&mut self, range: Range<u64>) -> Result<Incoming<'a>> {
        if range.is_empty() {
            return Ok(Incoming::None);
        }
        let lease = self.requests.acquire().await?;
        let pieces = self.fetcher.fetch(self.descriptor, range).await?;
        Ok(Incoming::Stream {
            pieces,
            _lease: lease,
        })
    }
}

#[async_trait]
impl BlobSource for RemoteBlob<'_> {
    async fn open(&mut self, offset: u64) -> Result<()> {
        // An earlier request must not hold the lease that the next one waits for.
        self.incoming = Incoming::None;
        self.incoming = self.request(offset).await?;
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Incoming::Ranges(reader) = &mut self.incoming {
            if let Some(piece) = reader.next().await? {
                return Ok(Some(piece));
            }
            let rest = reader.rest();
            self.incoming = self.request_whole(rest).await?;
        }
        while let Incoming::Stream { pieces, .. } = &mut self.incoming {
            match pieces.next().await.transpose()? {
                Some(piece) if piece.is_empty() => {}
                None => self.incoming = Incoming::None,
                piece => return Ok(piece),
            }
        }
        Ok(None)
    }

    fn distrust(&mut self) -> bool {
        self.fetcher.distrust(self.descriptor)
    }

    async fn write_next(
        &mut self,
        writer: &mut Writer,
        sender: Option<&LayerSender>,
    ) -> Result<u64> {
        let Some(piece) = self.next().await? else {
            return Ok(0);
        };
        let length = piece.len() as u64;
        let write = write_and_send(writer, piece, sender);
        match &mut self.incoming {
            Incoming::Ranges(reader) => reader.during(write).await?,
            _ => write.await?,
        }
        Ok(length)
    }
}
