//! Reads one blob by position.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::{BlobReader, Context, Digest, Error, Result, pool};

use crate::kv::Kv;

/// Up to this many bytes a hop to another thread costs more than the read.
const INLINE: usize = 64 << 10;

/// A blob; it is read as long as its rows are there, and no others have their number.
pub(crate) struct Reader {
    pub(crate) kv: Arc<Kv>,
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
        let (kv, digest, number) = (Arc::clone(&self.kv), self.digest, self.number);
        let read = move || read(&kv, &digest, number, offset, length);
        let data = match length <= INLINE {
            true => read(),
            false => pool::run(read).await,
        };
        data.during("read", self.digest)
    }
}

fn read(kv: &Kv, digest: &Digest, number: u64, offset: u64, length: usize) -> Result<Bytes> {
    let view = kv.engine.view()?;
    let data = view.read(number, offset, length)?;
    if data.len() == length {
        return Ok(data);
    }
    let found = view.find(digest)?;
    match found.is_some_and(|found| found.number == number) {
        true => Err(Error::corrupt(
            "bytes of the blob are missing; remove it and import it again",
        )),
        false => Err(Error::not_found("the blob was removed")),
    }
}
