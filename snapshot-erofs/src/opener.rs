//! The opener of the snapshotter.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use cas_core::{Result, Snapshotter, SnapshotterOpener, SnapshotterParts};

use crate::{ErofsSnapshotter, NAME, probe};

/// Opens an [`ErofsSnapshotter`], which has no options.
#[derive(Clone, Copy, Debug, Default)]
pub struct ErofsOpener;

#[async_trait]
impl SnapshotterOpener for ErofsOpener {
    fn scheme(&self) -> &'static str {
        NAME
    }

    fn abilities(&self) -> &'static [&'static str] {
        &[
            "keeps layers as tars",
            "shares layers between images",
            "unpacks layers in parallel",
        ]
    }

    /// Mounts an image below the directory: see [`probe`].
    fn probe(&self, directory: &Path) -> Result<()> {
        probe(directory)
    }

    async fn open(&self, parts: SnapshotterParts) -> Result<Arc<dyn Snapshotter>> {
        parts.check_options(&[])?;
        let opened = ErofsSnapshotter::open(parts.directory, parts.records)?;
        Ok(Arc::new(opened))
    }
}
