//! Removing ACIs.

use std::collections::BTreeSet;
use std::fmt;
use std::time::SystemTime;

use cas_core::gc::{self, RemoveOptions};
use cas_core::records::{Batch, Expect, Table, retry};
use cas_core::{Context, Digest, Error, ErrorKind, Result};

use super::AciStore;
use super::find::not_found;
use crate::info::{AciInfo, SortField};
use crate::key::Key;

impl AciStore {
    /// Removes an ACI. First, one batch of changes removes its information, its lease and the
    /// remotes that it was fetched from. Then its blobs are removed, except blobs that are still in
    /// use, for example because another ACI has the same manifest. The removal needs no free space.
    /// If an [`AciReader`](crate::AciReader) of the ACI is open, its later reads may fail.
    ///
    /// # Errors
    /// As [`AciStore::get_aci_info`] and [`AciStore::get_all_remotes`]. If the catalogue no longer
    /// has the ACI but a blob could not be removed, the [source](std::error::Error::source) of the
    /// error is a [`StoreRemovalError`]. The next collection removes the blob.
    pub async fn remove_aci(&self, key: &str) -> Result<()> {
        let found = self.resolve(key).await.during("remove ACI", key)?.key;
        let removed = self.remove_info(&found, |_| true).await;
        let info = removed.and_then(|info| info.ok_or_else(not_found));
        let info = info.during("remove ACI", key)?;
        let mut left = Vec::new();
        let blobs = [info.blob.digest, info.manifest.digest];
        if self.remove_blobs(&blobs).await.is_err() {
            // Another ACI may have the same manifest. The call above has then removed neither blob,
            // so each is tried alone.
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
                "the ACI was removed from the catalogue, but not all of its blobs were removed; \
                 run a garbage collection later",
            )
            .operation("remove ACI")
            .subject(info.key)
            .source(StoreRemovalError { left })),
        }
    }

    /// Returns the ACIs whose last use, [`AciInfo::last_used`], is before `time`, least recently
    /// used first.
    ///
    /// # Errors
    /// As [`AciStore::get_all_aci_infos`].
    pub async fn unused(&self, time: SystemTime) -> Result<Vec<AciInfo>> {
        let fields = [SortField::LastUsed];
        let mut infos = self.get_all_aci_infos(&fields, true).await?;
        infos.retain(|info| info.last_used < time);
        Ok(infos)
    }

    /// Removes the ACIs that [`AciStore::unused`] returns, in this order. An ACI that was used
    /// again before its removal stays. Returns the removed ACIs. Their blobs stay until a
    /// collection.
    ///
    /// # Errors
    /// As [`AciStore::unused`] and [`AciStore::get_all_remotes`]. ACIs that were removed before the
    /// error stay removed.
    pub async fn remove_unused(&self, time: SystemTime) -> Result<Vec<AciInfo>> {
        let mut removed = Vec::new();
        for info in self.unused(time).await? {
            let is_unused = |info: &AciInfo| self.reads.merged(info.clone()).last_used < time;
            removed.extend(self.remove_info(&info.key, is_unused).await?);
        }
        self.flush_if_possible().await;
        Ok(removed)
    }

    /// Removes the information on an ACI, its remotes and, last, the lease that keeps its blobs.
    /// Returns the information, or `None` if the catalogue does not have the ACI or `may_go`
    /// returns false.
    async fn remove_info(
        &self,
        key: &Key,
        may_go: impl Fn(&AciInfo) -> bool + Send + Sync,
    ) -> Result<Option<AciInfo>> {
        let may_go = &may_go;
        let removed = retry(|| async move {
            let found = self.catalogue.load(key).await?;
            let Some((info, revision)) = found.filter(|(info, _)| may_go(info)) else {
                return Ok(None);
            };
            let mut batch = Batch::new();
            self.catalogue
                .delete(&mut batch, &info, Expect::Revision(revision))?;
            for remote in self.catalogue.get_all_remotes().await? {
                if remote.key == Some(*key) {
                    self.catalogue.remove_remote(&mut batch, &remote)?;
                }
            }
            batch.delete(Table::Leases, &info.lease, Expect::Any);
            self.catalogue.commit(&batch).await.map(|()| Some(info))
        })
        .await?;
        removed.iter().for_each(|info| self.reads.forget(&info.key));
        Ok(removed)
    }

    /// Removes blobs. If one of them is in use, removes none. Skips blobs that are absent.
    async fn remove_blobs(&self, digests: &[Digest]) -> Result<()> {
        let blobs: BTreeSet<Digest> = digests.iter().copied().collect();
        let options = RemoveOptions::default().with_skip_absent(true);
        gc::remove(&self.store, &[], &blobs, &options)
            .await
            .map(drop)
    }
}

/// The error if an ACI was removed, but not all of its blobs could be removed. Blobs that are still
/// in use do not cause this error.
#[derive(Debug)]
#[non_exhaustive]
pub struct StoreRemovalError {
    /// The blobs that could not be removed, each with the reason.
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
