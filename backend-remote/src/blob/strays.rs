//! Parts that no cell points to, because a process was killed before it wrote the cell or after it
//! removed the cell, or because a deletion of parts failed.

use std::collections::BTreeMap;
use std::time::SystemTime;

use cas_core::{Error, Result};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Blobs, PARALLEL_DELETES, PARTS};
use crate::cell::CONCURRENCY;
use crate::ingest::OpenIngests;

/// Maximum number of blobs in one page of a list.
const PAGE: usize = 1000;

impl Blobs {
    /// Returns the paths and lengths of parts that belong neither to a blob nor to an open ingest
    /// of this process. If other processes may use the store, leaves out a version if one of its
    /// parts was written since `before`, because another process may still be sending its parts.
    /// Then also leaves out a version if the service does not report when its parts were written.
    pub(crate) async fn strays(
        &self,
        before: SystemTime,
        ingests: &OpenIngests,
    ) -> Result<BTreeMap<String, u64>> {
        // The order matters. A publish writes the cell after the parts, and ends the ingest after
        // the cell. The version of a blob is therefore found among the ingests or, later, among the
        // blobs.
        let mut found = self.versions().await?;
        for version in ingests.versions() {
            found.remove(&version);
        }
        self.leave_out_blobs(&mut found).await?;
        let mut strays = BTreeMap::new();
        for parts in found.into_values() {
            strays.extend(self.lengths(parts, before).await?);
        }
        Ok(strays)
    }

    /// Deletes the parts that [`Blobs::strays`] has returned.
    pub(crate) async fn remove_strays(&self, strays: &BTreeMap<String, u64>) -> Result<()> {
        stream::iter(strays.keys().map(Ok))
            .try_for_each_concurrent(PARALLEL_DELETES, |path| self.cells.prefix().delete(path))
            .await
    }

    /// Returns the paths of all parts by version. Leaves out objects with other names.
    async fn versions(&self) -> Result<BTreeMap<u64, Vec<String>>> {
        let names = self.cells.prefix().list(PARTS, "", None, usize::MAX);
        let mut versions: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for name in names.await? {
            let version = name
                .split_once('.')
                .and_then(|(version, _)| version.parse().ok());
            if let Some(version) = version {
                versions
                    .entry(version)
                    .or_default()
                    .push(format!("{PARTS}{name}"));
            }
        }
        Ok(versions)
    }

    async fn leave_out_blobs(&self, versions: &mut BTreeMap<u64, Vec<String>>) -> Result<()> {
        let mut after = None;
        while !versions.is_empty() {
            let page = self.list(after, PAGE).await?;
            for stat in &page {
                versions.remove(&stat.version.0);
            }
            after = match page.get(PAGE - 1) {
                Some(last) => Some(last.digest),
                None => break,
            };
        }
        Ok(())
    }

    /// Returns the parts with their lengths in bytes. If other processes may use the store, returns
    /// an empty map if one of the parts was written since `before`, or if the service does not
    /// report the time of a write.
    async fn lengths(
        &self,
        parts: Vec<String>,
        before: SystemTime,
    ) -> Result<BTreeMap<String, u64>> {
        let found: Vec<_> = stream::iter(parts)
            .map(|path| async move {
                let status = self.cells.prefix().stat(&path).await?;
                Ok::<_, Error>(status.map(|status| (path, status)))
            })
            .buffered(CONCURRENCY)
            .try_collect()
            .await?;
        let found: Vec<_> = found.into_iter().flatten().collect();
        let is_old = |time: SystemTime| time < before;
        let are_old = || {
            let mut times = found.iter().map(|(_, status)| status.modified);
            times.all(|time| time.is_some_and(is_old))
        };
        if self.cells.is_shared() && !are_old() {
            return Ok(BTreeMap::new());
        }
        Ok(found
            .into_iter()
            .map(|(path, status)| (path, status.length))
            .collect())
    }
}
