//! A blob of a store as a stream for threads that may block.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use cas_core::{BlobReader, Context, Descriptor, Error, Result, Store, pool};
use tokio::runtime::Handle;

use crate::buffers::PIECE;
use crate::codec::{self, Compression};

/// Bytes that tell the compression.
const MAGIC: usize = 8;

pub(super) struct Blob {
    reader: Arc<dyn BlobReader>,
    /// Entered while the reader works: a remote one wants its reactor.
    reactor: Option<Handle>,
    at: u64,
    ahead: Bytes,
}

impl Blob {
    /// The blob of a descriptor, and how it is compressed.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) async fn open(
        store: &Store,
        descriptor: &Descriptor,
    ) -> Result<(Self, Compression)> {
        let reader = store.content.open(&descriptor.digest).await?;
        let reader = reader
            .ok_or_else(|| Error::not_found("the layer is not in the store; import or pull it"))
            .during("open layer", descriptor.digest)?;
        let magic = reader.read_at(0, MAGIC).await?;
        let blob = Blob {
            reader,
            reactor: Handle::try_current().ok(),
            at: 0,
            ahead: Bytes::new(),
        };
        Ok((blob, codec::detect(&magic)))
    }
}

impl Read for Blob {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Some(file) = self.reader.file() {
            let read = file.read_at(out, self.at)?;
            self.at += read as u64;
            return Ok(read);
        }
        if self.ahead.is_empty() {
            let _entered = self.reactor.as_ref().map(Handle::enter);
            self.ahead = pool::wait(self.reader.read_at(self.at, PIECE))?;
            self.at += self.ahead.len() as u64;
        }
        let read = self.ahead.len().min(out.len());
        self.ahead.copy_to_slice(&mut out[..read]);
        Ok(read)
    }
}
