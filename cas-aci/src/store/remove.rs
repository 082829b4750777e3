//! Removing ACIs.

use std::collections::BTreeSet;
use std::fmt;

use cas_core::gc::{self, RemoveOptions};
use cas_core::records::{Batch, Expect, Table, retry};
use cas_core::{Context, Digest, Error, ErrorKind, Result};

use super::AciStore;
use crate::info::AciInfo;

impl AciStore {
    /// Removes an ACI: its information and the remotes that it came from in one batch, then its
    /// blobs. A blob that something else refers to stays. This needs no free space. Readers go on
    /// or fail.
    ///
    /// # Errors
    /// As [`AciStore::resolve_key`]. If the catalogue no longer has the ACI but a blob could not
    /// be removed, the [source](std::error::Error::source) of the error is a
    /// [`StoreRemovalError`]; the next collection removes the blob.
    pub async fn remove_aci(&self, key: &str) -> Result<()> {
        let removed = self.remove_info(key).await;
        let info = removed.during("remove ACI", key)?;
        self.reads.forget(&info.key);
        let mut left = Vec::new();
        let blobs = [info.blob.digest, info.manifest.digest];
        if self.remove_blobs(&blobs).await.is_err() {
            // Another ACI may have the same manifest, which keeps both.
            for digest in blobs {
                match self.remove_blobs(&[digest]).await {
                    Err(error) if error.kind() != ErrorKind::Busy => left.push((digest, error)),
                    _ => {}
                }
            }
        }
        self.flush_if_possible().await;
        match left.first() {
            None => Ok(()),
            Some((_, first)) => Err(Error::new(
                first.kind(),
                "the ACI is removed, but not all of its bytes; collect garbage later",
            )
            .operation("remove ACI")
            .subject(info.key)
            .source(StoreRemovalError { left })),
        }
    }

    /// Removes the information on an ACI, its remotes and, last, the lease that keeps its blobs.
    /// Returns the information.
    async fn remove_info(&self, key: &str) -> Result<AciInfo> {
        let key = &self.resolve(key).await?.key;
        retry(|| async move {
            let (info, revision) = self.load(key).await?;
            let mut batch = Batch::new();
            self.catalogue
                .delete(&mut batch, &info, Expect::Revision(revision))?;
            for remote in self.catalogue.get_all_remotes().await? {
                if remote.key == Some(*key) {
                    self.catalogue.remove_remote(&mut batch, &remote)?;
                }
            }
            batch.delete(Table::Leases, &info.lease, Expect::Any);
            self.catalogue.commit(&batch).await.map(|()| info)
        })
        .await
    }

    /// Removes blobs, none of them if one is in use. Those that are gone are skipped.
    async fn remove_blobs(&self, digests: &[Digest]) -> Result<()> {
        let blobs: BTreeSet<Digest> = digests.iter().copied().collect();
        let options = RemoveOptions::default().with_skip_absent(true);
        gc::remove(&self.store, &[], &blobs, &options)
            .await
            .map(drop)
    }
}

/// What the removal of an ACI left in the store.
#[derive(Debug)]
#[non_exhaustive]
pub struct StoreRemovalError {
    /// The blobs that are still there, each with the reason.
    pub left: Vec<(Digest, Error)>,
}

impl fmt::Display for StoreRemovalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "left in the store:")?;
        for (digest, error) in &self.left {
            write!(f, " {digest} ({error})")?;
        }
        Ok(())
    }
}

impl std::error::Error for StoreRemovalError {}
