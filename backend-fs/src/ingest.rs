//! Ingests whose bytes are in files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::content::{Durability, Verified};
use cas_core::records::Batch;
use cas_core::{Context, Error, Ingest, Result, pool};
use cas_host::calls::undisturbed;
use cas_host::{begin_write, copy_range};

use crate::pending::Pending;
use crate::reader::{self, INLINE};
use crate::shared::Shared;
use crate::staging::Staged;

/// Minimum size in bytes of an append after which the kernel is asked to write the bytes to the
/// device at once. The sync of the publish then has less to do.
const WRITE_BACK_FROM: usize = 256 << 10;

/// An ingest that this process has locked.
pub(crate) struct FsIngest {
    shared: Arc<Shared>,
    staged: Staged,
    key: String,
    offset: u64,
    poisoned: bool,
}

impl FsIngest {
    /// Begins the ingest or resumes it.
    pub(crate) fn begin(shared: Arc<Shared>, key: &str) -> Result<Self> {
        let staged = Staged::open(shared.ingest_dir()?, &shared.boot, key)?;
        let offset = undisturbed(|| staged.file.metadata())?.len();
        Ok(FsIngest {
            shared,
            staged,
            key: key.to_owned(),
            offset,
            poisoned: false,
        })
    }

    /// Appends what `write` writes at the current offset, at most `length` bytes. Returns the
    /// number of bytes.
    async fn grow<F>(&mut self, length: usize, write: F) -> Result<usize>
    where
        F: FnOnce(&File, u64) -> io::Result<usize> + Send + 'static,
    {
        self.check_usable()?;
        // The ingest stays poisoned if this future is dropped: the file's length is then unknown.
        self.poisoned = true;
        let (file, offset) = (Arc::clone(&self.staged.file), self.offset);
        let lock = Arc::clone(&self.staged.lock);
        let work = move || {
            let _held = lock;
            let written = write(&file, offset).map_err(|error| {
                // A partial write would only use up space.
                let _ = file.set_len(offset);
                Error::from(error)
            })?;
            if written >= WRITE_BACK_FROM {
                begin_write(&*file, offset, written as u64);
            }
            Ok(written)
        };
        let written = if length <= INLINE {
            work()
        } else {
            pool::run(work).await
        };
        let written = written.during("append to ingest", &self.key)?;
        self.offset += written as u64;
        self.poisoned = false;
        Ok(written)
    }

    fn check_usable(&self) -> Result<()> {
        if self.poisoned {
            let message = "an earlier write failed or was cancelled; start the ingest again";
            return Err(Error::precondition(message).subject(&self.key));
        }
        Ok(())
    }
}

#[async_trait]
impl Ingest for FsIngest {
    fn key(&self) -> &str {
        &self.key
    }

    fn offset(&self) -> u64 {
        self.offset
    }

    async fn append(&mut self, data: Bytes) -> Result<()> {
        let length = data.len();
        let write = move |file: &File, offset| {
            file.write_all_at(&data, offset)?;
            Ok(length)
        };
        self.grow(length, write).await.map(|_| ())
    }

    async fn adopt(&mut self, from: &Arc<File>, at: u64, length: usize) -> Result<usize> {
        let from = Arc::clone(from);
        let share = move |file: &File, offset| copy_range(&from, at, file, offset, length);
        self.grow(length, share).await
    }

    async fn read_back(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        let left = self.offset.saturating_sub(offset);
        let length = usize::try_from(left).map_or(length, |left| left.min(length));
        let file = Arc::clone(&self.staged.file);
        pool::run(move || reader::read(&file, offset, length))
            .await
            .during("read ingest", &self.key)
    }

    async fn rewind(&mut self) -> Result<()> {
        self.check_usable()?;
        self.staged.file.set_len(0).during("rewind", &self.key)?;
        self.offset = 0;
        Ok(())
    }

    async fn publish(
        self: Box<Self>,
        verified: &Verified,
        _batch: &Batch,
        durability: Durability,
    ) -> Result<bool> {
        self.check_usable()?;
        verified.check(&self.key, self.offset)?;
        let pending = Pending {
            staged: self.staged,
            digest: *verified.digest(),
            size: self.offset,
        };
        let shared = self.shared;
        let published = match durability {
            Durability::Batched => shared.publish_in_group(pending).await,
            Durability::Full => pool::run(move || shared.publish(&pending)).await,
            Durability::Relaxed => pool::run(move || shared.publish_unsynced(&pending)).await,
        };
        // The records are in another file, so cas-core commits the batch.
        published
            .during("publish", verified.digest())
            .map(|()| false)
    }
}
