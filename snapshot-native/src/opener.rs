//! The opener of the snapshotter.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use cas_core::{Location, Result, Snapshotter, SnapshotterOpener, SnapshotterParts};

use crate::{NAME, NativeSnapshotter};

/// Opens a [`NativeSnapshotter`], which has no options.
#[derive(Clone, Copy, Debug, Default)]
pub struct NativeOpener;

#[async_trait]
impl SnapshotterOpener for NativeOpener {
    fn scheme(&self) -> &'static str {
        NAME
    }

    fn abilities(&self) -> &'static [&'static str] {
        &["copies layers", "needs no overlayfs"]
    }

    /// Always succeeds, because copying works everywhere.
    fn probe(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn check(&self, chosen: &Location) -> Result<()> {
        chosen.check_options(&[])
    }

    async fn open(&self, parts: SnapshotterParts) -> Result<Arc<dyn Snapshotter>> {
        parts.check_options(&[])?;
        let opened = NativeSnapshotter::open(parts.directory, parts.records)?;
        Ok(Arc::new(opened))
    }
}
