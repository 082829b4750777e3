//! What every content store can do, built on what it must.

use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::{BlobReader, ContentStore, Durability, Expected, Writer};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::limit;
use crate::records::Batch;

const PIECE: usize = 1 << 20;

/// Comfort over [`ContentStore`]; in scope wherever the trait is.
#[async_trait]
pub trait ContentExt: ContentStore {
    /// Stores `data` under its SHA-256 and returns that; no records are written.
    ///
    /// # Errors
    /// Those of the store.
    async fn put(&self, data: Bytes) -> Result<Digest> {
        let digest = Digest::sha256(&data);
        let size = data.len() as u64;
        if self
            .stat(&digest)
            .await?
            .is_some_and(|stat| stat.size == size)
        {
            // Whoever published it may not have synced it.
            self.flush().await?;
            return Ok(digest);
        }
        let expected = Expected::exactly(digest, size);
        let mut writer = Writer::begin(self, &digest.to_string(), expected).await?;
        writer.rewind().await?;
        writer.write(data).await?;
        writer
            .commit(&Batch::new(), Durability::Full)
            .await
            .map(|committed| committed.digest)
    }

    /// Removes the blob, whichever version is there; false when none is.
    ///
    /// # Errors
    /// Those of the store.
    async fn remove(&self, digest: &Digest) -> Result<bool> {
        while let Some(stat) = self.stat(digest).await? {
            if self.remove_version(digest, stat.version).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The whole of a document of at most [`limit::DOCUMENT_READ`] bytes, checked against the
    /// descriptor.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` when size or digest differ; `OutOfRange` when it is too large.
    async fn fetch(&self, descriptor: &Descriptor) -> Result<Bytes> {
        fetch(self, descriptor)
            .await
            .map_err(|error| error.operation("read").subject(descriptor.digest))
    }

    /// Copies a blob from another store, checking it on the way; its size.
    ///
    /// # Errors
    /// `NotFound` when `from` has it not; `Corrupt` when it is damaged there.
    async fn copy_from(&self, from: &dyn ContentStore, digest: &Digest) -> Result<u64> {
        let reader = from.open(digest).await?.ok_or_else(|| {
            Error::not_found("no such blob in the store")
                .operation("copy")
                .subject(digest)
        })?;
        let expected = Expected::exactly(*digest, reader.size());
        let mut writer = Writer::begin(self, &digest.to_string(), expected).await?;
        writer.write_blob(&*reader).await?;
        let committed = writer.commit(&Batch::new(), Durability::Full).await;
        if committed
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::Corrupt)
        {
            // What the ingest holds is no beginning of the blob, so it must not be resumed.
            self.discard(&digest.to_string()).await?;
        }
        committed.map(|committed| committed.size)
    }

    /// A [`Writer`], waited for while another writer holds the key.
    ///
    /// # Errors
    /// Those of [`ContentStore::begin`], but `Busy` only after `patience`.
    async fn begin_or_wait(
        &self,
        key: &str,
        expected: Expected,
        patience: Duration,
    ) -> Result<Writer> {
        let mut patience = Patience::new(patience);
        loop {
            match Writer::begin(self, key, expected).await {
                Err(error) if error.kind() == ErrorKind::Busy && patience.wait().await => {}
                outcome => return outcome,
            }
        }
    }
}

impl<S: ContentStore + ?Sized> ContentExt for S {}

/// Waits for what somebody else holds, longer from time to time.
pub(crate) struct Patience {
    deadline: Instant,
    pause: Duration,
}

impl Patience {
    pub(crate) fn new(patience: Duration) -> Self {
        Patience {
            deadline: Instant::now() + patience,
            pause: Duration::from_millis(2),
        }
    }

    /// Waits for the next attempt; false when there should be none.
    pub(crate) async fn wait(&mut self) -> bool {
        if Instant::now() + self.pause > self.deadline {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_millis(250));
        true
    }
}

async fn fetch<S: ContentStore + ?Sized>(store: &S, descriptor: &Descriptor) -> Result<Bytes> {
    let expected = descriptor.size;
    if expected > limit::DOCUMENT_READ {
        let allowed = limit::DOCUMENT_READ;
        return Err(Error::out_of_range(format!(
            "a document of {expected} bytes, at most {allowed} are read"
        )));
    }
    let reader = store.open(&descriptor.digest).await?;
    let reader = reader.ok_or_else(|| Error::not_found("no such blob in the store"))?;
    if reader.size() != expected {
        let found = reader.size();
        return Err(Error::corrupt(format!(
            "expected {expected} bytes, found {found}"
        )));
    }
    let data = read_whole(reader.as_ref()).await?;
    let found = Digest::of(descriptor.digest.algorithm(), &data);
    if found != descriptor.digest {
        return Err(Error::corrupt(format!(
            "the stored bytes are damaged, they hash to {found}; remove the blob and import it \
             again"
        )));
    }
    Ok(data)
}

/// Reads all of a blob that its caller knows to be small.
async fn read_whole(reader: &dyn BlobReader) -> Result<Bytes> {
    let first = reader.read_at(0, PIECE).await?;
    if first.len() as u64 == reader.size() {
        return Ok(first);
    }
    let mut data = BytesMut::from(first);
    while (data.len() as u64) < reader.size() {
        let piece = reader.read_at(data.len() as u64, PIECE).await?;
        if piece.is_empty() {
            break;
        }
        data.extend_from_slice(&piece);
    }
    Ok(data.freeze())
}
