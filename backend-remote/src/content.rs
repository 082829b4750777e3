//! Blobs: what there is of them, and their removal.

use std::future::ready;
use std::sync::Arc;

use async_trait::async_trait;
use cas_core::content::{IngestStatus, Stat, Version, check_key};
use cas_core::records::Batch;
use cas_core::{BlobReader, Capabilities, ContentStore, Digest, Ingest, Result};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::cell::{AT_ONCE, Cell, not_ours};
use crate::ingest::RemoteIngest;
use crate::reader::RemoteReader;
use crate::runtime;
use crate::store::{Remote, RemoteStore};
use crate::upload::{Pointer, cell_path};

const BLOBS: &str = "blobs/";

impl Remote {
    async fn blobs(&self, after: Option<Digest>, limit: usize) -> Result<Vec<Stat>> {
        let after = after.map(|digest| cell_path(&digest).split_off(BLOBS.len()));
        let page = self.cells.page(BLOBS, "", after, limit).await?;
        let stat = |(name, cell): (String, Cell)| {
            let digest = name.replace('/', ":").parse();
            let digest: Digest = digest.map_err(|_| not_ours(BLOBS, &name))?;
            Ok(Pointer::parse(&cell.value, &name)?.stat(&digest))
        };
        page.into_iter().map(stat).collect()
    }

    async fn stat(&self, digest: &Digest) -> Result<Option<Stat>> {
        let found = self.pointer(digest).await?;
        Ok(found.map(|(pointer, _)| pointer.stat(digest)))
    }
}

#[async_trait]
impl ContentStore for RemoteStore {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities
    }

    async fn stat(&self, digest: &Digest) -> Result<Option<Stat>> {
        let (remote, digest) = (self.0.clone(), *digest);
        runtime::run(async move { remote.stat(&digest).await }).await
    }

    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn BlobReader>>> {
        let (remote, digest) = (self.0.clone(), *digest);
        runtime::run(async move {
            let Some((pointer, _)) = remote.pointer(&digest).await? else {
                return Ok(None);
            };
            let reader: Arc<dyn BlobReader> = Arc::new(RemoteReader {
                remote,
                digest,
                pointer,
            });
            Ok(Some(reader))
        })
        .await
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Ingest>> {
        check_key(key)?;
        Ok(Box::new(RemoteIngest::begin(self.0.clone(), key)?))
    }

    async fn ingests(&self) -> Result<Vec<IngestStatus>> {
        Ok(self.0.desk.list())
    }

    async fn discard(&self, key: &str) -> Result<bool> {
        RemoteIngest::discard(self.0.clone(), key).await
    }

    async fn remove_version(&self, digest: &Digest, version: Version) -> Result<bool> {
        let (remote, digest) = (self.0.clone(), *digest);
        runtime::run(async move { remote.remove(&digest, version.0).await }).await
    }

    async fn remove_versions(&self, blobs: &[(Digest, Version)], _batch: &Batch) -> Result<bool> {
        let (remote, blobs) = (self.0.clone(), blobs.to_vec());
        runtime::run(async move {
            let removals = blobs.into_iter().map(|(digest, version)| {
                let remote = remote.clone();
                async move { remote.remove(&digest, version.0).await }
            });
            let removals = stream::iter(removals).buffer_unordered(AT_ONCE);
            removals.try_for_each(|_| ready(Ok(()))).await?;
            Ok(false)
        })
        .await
    }

    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stat>> {
        let (remote, after) = (self.0.clone(), after.copied());
        runtime::run(async move { remote.blobs(after, limit).await }).await
    }

    /// Nothing waits: a service answers when it has the bytes, and a directory is synced.
    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}
