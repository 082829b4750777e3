//! Unpacks an image from tars that a snapshotter still has, although the records of their snapshots
//! were lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use cas_core::error::{Context, ErrorKind};
use cas_core::progress::Progress;
use cas_core::{Digest, Manifest, Result, Store, pool};
use cas_host::erofs::open_file;

use super::standalone::State;
use super::stored_tar;
use super::unpacking::{How, Target, Unpacking};
use crate::apply::DeferredEffects;

/// As [`to_snapshots`](super::to_snapshots), but copies `tars` in place of layers that have no
/// snapshot yet. `tars` has the paths of tars, by the digests of their layers. A tar that does not
/// have the diff ID of its layer is not used. The caller must know that the blob of each of these
/// layers was verified against the diff ID.
///
/// # Errors
/// As [`to_snapshots`](super::to_snapshots).
pub async fn restore_snapshots(
    store: &Store,
    target: Target<'_>,
    manifest: &Manifest,
    tars: BTreeMap<Digest, PathBuf>,
    progress: &Arc<dyn Progress>,
) -> Result<()> {
    let how = How {
        tars,
        ..How::default()
    };
    let unpacking = Unpacking::begin(store, target, manifest, progress, &how).await?;
    unpacking.finish().await.map(|_| ())
}

impl Unpacking<'_> {
    /// Copies `tars` to the snapshots of missing layers. These layers then need not be unpacked.
    pub(super) async fn copy_tars(&mut self, tars: &BTreeMap<Digest, PathBuf>) -> Result<()> {
        let mut copied = BTreeSet::new();
        for index in self.existing..self.chain.len() {
            if self.ready.contains(&index) || self.table(index).is_some() {
                continue;
            }
            let (layer, diff_id) = &self.layers[index];
            let Some(path) = tars.get(&layer.digest).cloned() else {
                continue;
            };
            let standalone = self.standalone_layer(index)?;
            if !standalone.is_tar {
                continue;
            }
            let (diff_id, directory) = (*diff_id, standalone.tree.clone());
            let copy = move || match open_file(&path) {
                // A collection has removed the tar, because no image needs it any more.
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
                tar => {
                    let tar = tar.during("open", path.display())?;
                    stored_tar::copy(&tar, &diff_id, &directory)
                }
            };
            if pool::run(copy).await? {
                *standalone.state() = State::Applied(Some(DeferredEffects::default()));
                copied.insert(index);
            }
        }
        self.copied = copied;
        Ok(())
    }
}
