//! The opener of the snapshotter.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use cas_core::{Location, Result, Snapshotter, SnapshotterOpener, SnapshotterParts};

use crate::{NAME, OverlaySnapshotter, probe};

/// Opens an [`OverlaySnapshotter`], which has no options.
#[derive(Clone, Copy, Debug, Default)]
pub struct OverlayOpener;

#[async_trait]
impl SnapshotterOpener for OverlayOpener {
    fn scheme(&self) -> &'static str {
        NAME
    }

    fn abilities(&self) -> &'static [&'static str] {
        &["shares layers between images", "unpacks layers in parallel"]
    }

    /// Mounts an overlay below the directory: see [`probe`].
    fn probe(&self, directory: &Path) -> Result<()> {
        probe(directory)
    }

    fn check(&self, chosen: &Location) -> Result<()> {
        chosen.check_options(&[])
    }

    async fn open(&self, parts: SnapshotterParts) -> Result<Arc<dyn Snapshotter>> {
        parts.check_options(&[])?;
        let opened = OverlaySnapshotter::open(parts.directory, parts.records)?;
        Ok(Arc::new(opened))
    }
}
