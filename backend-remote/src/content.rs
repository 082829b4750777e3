//! The content store: blobs and ingests.

use std::future::ready;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use cas_core::content::{IngestStatus, Stat, Version, check_key};
use cas_core::records::Batch;
use cas_core::{BlobReader, Capabilities, ContentStore, Digest, ErrorKind, Ingest, Result};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::cell::CONCURRENCY;
use crate::ingest::RemoteIngest;
use crate::reader::RemoteReader;
use crate::runtime;
use crate::store::RemoteStore;

#[async_trait]
impl ContentStore for RemoteStore {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities
    }

    async fn stat(&self, digest: &Digest) -> Result<Option<Stat>> {
        let (blobs, digest) = (self.0.blobs.clone(), *digest);
        runtime::run(async move { blobs.stat(&digest).await }).await
    }

    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn BlobReader>>> {
        let (blobs, digest) = (self.0.blobs.clone(), *digest);
        runtime::run(async move {
            let Some((pointer, _)) = blobs.pointer(&digest).await? else {
                return Ok(None);
            };
            let reader: Arc<dyn BlobReader> = Arc::new(RemoteReader {
                blobs,
                digest,
                pointer,
            });
            Ok(Some(reader))
        })
        .await
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Ingest>> {
        check_key(key)?;
        let (blobs, ingests) = (self.0.blobs.clone(), Arc::clone(&self.0.ingests));
        Ok(Box::new(RemoteIngest::begin(blobs, ingests, key)?))
    }

    async fn ingests(&self) -> Result<Vec<IngestStatus>> {
        Ok(self.0.ingests.list())
    }

    async fn discard(&self, key: &str) -> Result<bool> {
        RemoteIngest::discard(self.0.blobs.clone(), &self.0.ingests, key).await
    }

    async fn remove_version(&self, digest: &Digest, version: Version) -> Result<bool> {
        let (blobs, digest) = (self.0.blobs.clone(), *digest);
        runtime::run(async move { blobs.remove(&digest, version.0).await }).await
    }

    async fn remove_versions(&self, versions: &[(Digest, Version)], _: &Batch) -> Result<bool> {
        let (blobs, versions) = (self.0.blobs.clone(), versions.to_vec());
        runtime::run(async move {
            let removals = versions.into_iter().map(|(digest, version)| {
                let blobs = blobs.clone();
                async move { blobs.remove(&digest, version.0).await }
            });
            let removals = stream::iter(removals).buffer_unordered(CONCURRENCY);
            removals.try_for_each(|_| ready(Ok(()))).await?;
            Ok(false)
        })
        .await
    }

    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stat>> {
        let (blobs, after) = (self.0.blobs.clone(), after.copied());
        runtime::run(async move { blobs.list(after, limit).await }).await
    }

    async fn is_unchanged(&self, stat: &Stat) -> Result<bool> {
        let (blobs, stat) = (self.0.blobs.clone(), *stat);
        runtime::run(async move { blobs.is_unchanged(&stat.digest, stat.version.0).await }).await
    }

    async fn leftovers(&self, before: SystemTime, remove: bool) -> Result<Vec<u64>> {
        let remote = Arc::clone(&self.0);
        runtime::run(async move {
            let mut left = Vec::new();
            #[cfg(feature = "s3")]
            for folder in [crate::blob::FOLDER, crate::examine::RECORDS] {
                left.extend(remote.cells.leftovers(folder, before, remove).await?);
            }
            let strays = match remote.blobs.strays(before, &remote.ingests).await {
                // A damaged cell does not show which parts belong to its blob, so these parts would
                // be taken for leftovers. A check reports the damaged cell.
                Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(left),
                found => found?,
            };
            if remove {
                remote.blobs.remove_strays(&strays).await?;
            }
            left.extend(strays.into_values());
            Ok(left)
        })
        .await
    }

    /// Does nothing: a service acknowledges a write after it has stored the bytes, and a `dir:`
    /// store syncs every write.
    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}
