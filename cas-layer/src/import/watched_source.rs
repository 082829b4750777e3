//! Wraps the source of a blob. Reads fail once another blob of the import has failed.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::content::Writer;
use cas_core::transfer::{BlobSource, LayerSender};
use cas_core::{Error, Result};

/// A source that reports when its ingest is open, and checks before each piece whether to go on.
pub(super) struct WatchedSource<'a> {
    pub(super) source: &'a mut dyn BlobSource,
    /// Called when the ingest is open.
    pub(super) opened: &'a (dyn Fn() + Sync),
    /// Set if another blob has failed.
    pub(super) failed: &'a AtomicBool,
}

impl WatchedSource<'_> {
    fn check(&self) -> Result<()> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(Error::cancelled("another blob of the import failed"));
        }
        Ok(())
    }
}

#[async_trait]
impl BlobSource for WatchedSource<'_> {
    async fn open(&mut self, offset: u64) -> Result<()> {
        (self.opened)();
        self.source.open(offset).await
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        self.check()?;
        self.source.next().await
    }

    async fn write_next(
        &mut self,
        writer: &mut Writer,
        sender: Option<&LayerSender>,
    ) -> Result<u64> {
        self.check()?;
        self.source.write_next(writer, sender).await
    }
}
