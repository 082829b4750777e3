//! A store as a remote from which blobs are fetched by digest, for example by a repair.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};

use super::remote::{Fetcher, Pieces};
use crate::content::ContentStore;
use crate::descriptor::Descriptor;
use crate::error::{Error, Result};

/// Maximum number of bytes in one read.
const PIECE: u64 = 1 << 20;

/// Fetches blobs from a store, by digest. It is not a fetcher of one image, so
/// [`resolve`](Fetcher::resolve) fails with `Unsupported`. To resolve the name of an image, use a
/// [`StoreRepository`](super::StoreRepository).
pub struct StoreFetcher(pub Arc<dyn ContentStore>);

#[async_trait]
impl Fetcher for StoreFetcher {
    async fn resolve(&self) -> Result<Descriptor> {
        Err(Error::unsupported(
            "this source has no names to resolve; fetch its blobs by digest",
        ))
    }

    async fn fetch(&self, descriptor: &Descriptor, range: Range<u64>) -> Result<Pieces> {
        let reader = self.0.open(&descriptor.digest).await?;
        let reader = reader.ok_or_else(|| {
            Error::not_found("no such blob in the source; name another source")
                .subject(descriptor.digest)
        })?;
        let pieces = stream::unfold((reader, range.start), move |(reader, at)| async move {
            let length = (range.end - at).min(PIECE);
            if length == 0 {
                return None;
            }
            match reader.read_at(at, length as usize).await {
                Ok(piece) if piece.is_empty() => None,
                Ok(piece) => {
                    let next = at + piece.len() as u64;
                    Some((Ok(piece), (reader, next)))
                }
                Err(error) => Some((Err(error), (reader, range.end))),
            }
        });
        Ok(pieces.boxed())
    }
}
