//! Reads one blob by position.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::{BlobReader, Context, Digest, Error, Result, pool};

use crate::engine::Engine;
use crate::error::{corrupt, sort};
use crate::tables::Key;

/// Up to this many bytes a hop to another thread costs more than the read.
const INLINE: usize = 64 << 10;

/// A blob; it is read as long as its rows are there, and no others have their number.
pub(crate) struct Reader {
    pub(crate) engine: Arc<Engine>,
    pub(crate) digest: Digest,
    pub(crate) number: u64,
    pub(crate) size: u64,
    /// All bytes, where they are not in rows.
    pub(crate) beside: Option<Bytes>,
}

#[async_trait]
impl BlobReader for Reader {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        let left = self.size.saturating_sub(offset);
        let length = usize::try_from(left).map_or(length, |left| left.min(length));
        if length == 0 {
            return Ok(Bytes::new());
        }
        if let Some(bytes) = &self.beside {
            let start = usize::try_from(offset)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            return Ok(bytes.slice(start..(start + length).min(bytes.len())));
        }
        let (engine, digest, number) = (Arc::clone(&self.engine), self.digest, self.number);
        let read = move || read(&engine, &digest, number, offset, length);
        let data = match length <= INLINE {
            true => read(),
            false => pool::run(read).await,
        };
        data.during("read", self.digest)
    }
}

fn read(
    engine: &Engine,
    digest: &Digest,
    number: u64,
    offset: u64,
    length: usize,
) -> Result<Bytes> {
    let view = engine.view()?;
    let data = view.read_rows(number, offset, length)?;
    if data.len() == length {
        return Ok(data);
    }
    let found = view.blobs.get(Key::of(digest).bytes()).map_err(sort)?;
    match found.is_some_and(|found| found.value().1 == number) {
        true => Err(corrupt("bytes of a blob are missing")),
        false => Err(Error::not_found("the blob was removed")),
    }
}
