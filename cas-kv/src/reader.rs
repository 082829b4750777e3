//! Reads one blob by position.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::error::REPAIR_BYTES;
use cas_core::{BlobReader, Context, Digest, Error, Result, pool};

use crate::kv::Kv;

/// Maximum size in bytes of a read on the caller's thread. The pool would cost more than the read.
const DIRECT_READ_MAX: usize = 64 << 10;

/// A blob. After its rows are removed, reads fail. They never return other bytes, because no other
/// rows get the number of the blob.
pub(crate) struct Reader {
    pub(crate) kv: Arc<Kv>,
    pub(crate) digest: Digest,
    pub(crate) number: u64,
    pub(crate) size: u64,
    /// All bytes, if they are not in rows.
    pub(crate) inline: Option<Bytes>,
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
        if let Some(bytes) = &self.inline {
            let start = usize::try_from(offset)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            return Ok(bytes.slice(start..(start + length).min(bytes.len())));
        }
        let (kv, digest, number) = (Arc::clone(&self.kv), self.digest, self.number);
        let read = move || read(&kv, &digest, number, offset, length);
        let data = if length <= DIRECT_READ_MAX {
            read()
        } else {
            pool::run(read).await
        };
        data.during("read", self.digest)
    }
}

fn read(kv: &Kv, digest: &Digest, number: u64, offset: u64, length: usize) -> Result<Bytes> {
    let data = kv.read(|view| view.read_rows(number, offset, length))?;
    if data.len() == length {
        return Ok(data);
    }
    let found = kv.read(|view| view.find_blob(digest))?;
    if found.is_some_and(|found| found.number == number) {
        let why = "the stored blob is damaged: bytes are missing";
        return Err(Error::corrupt(why).advice(REPAIR_BYTES));
    }
    Err(Error::not_found(
        "the blob was removed while it was read; pull or import the image again",
    ))
}
