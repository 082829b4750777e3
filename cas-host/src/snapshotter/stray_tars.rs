//! Tars of layers in directories that no record names, because the records of the snapshots were
//! lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use cas_core::error::{Context, ErrorKind, Result};
use cas_core::snapshot::LAYER_TAR;
use cas_core::sync::lock;
use cas_core::{Algorithm, Digest, pool};
use rustix::io::Errno;

use super::{DirSnapshotter, SnapshotLayout, THREAD};
use crate::calls::undisturbed;
use crate::regular_file::open_file;
use crate::{Pace, TREE, digest_of};

impl<L: SnapshotLayout> DirSnapshotter<L> {
    /// Returns the paths of the tars in directories that no sound record names and that have no
    /// `.kept` file, by the numbers of the directories.
    pub(super) async fn find_unnamed_tars(&self) -> Result<BTreeMap<u64, PathBuf>> {
        if !L::TARS {
            return Ok(BTreeMap::new());
        }
        let mut ids: BTreeSet<u64> = self.dirs.ids()?.into_iter().collect();
        let (kept, named) = (self.dirs.kept()?, self.snapshots.sound_ids().await?);
        ids.retain(|id| !kept.contains(id) && !named.contains(id));
        let tars = ids.into_iter().map(|id| {
            let path = self.dirs.path(id).join(TREE).join(LAYER_TAR);
            (id, path)
        });
        let is_there = |path: &Path| undisturbed(|| path.symlink_metadata()).is_ok();
        Ok(tars.filter(|(_, path)| is_there(path)).collect())
    }

    /// Keeps the directories that [`Self::find_unnamed_tars`] finds and whose tars have one of
    /// these digests, and no others. Returns the paths of these tars. A snapshot that is committed
    /// meanwhile may be among them, which does no harm.
    pub(super) async fn keep_needed_tars(
        &self,
        needed: &BTreeSet<Digest>,
    ) -> Result<BTreeMap<Digest, PathBuf>> {
        let (tars, needed) = (self.find_unnamed_tars().await?, needed.clone());
        let read = move || {
            let mut found = Vec::new();
            for (id, path) in tars {
                if let Some(digest) = find_digest(&path, &needed)? {
                    found.push((id, digest, path));
                }
            }
            Ok(found)
        };
        let found = pool::apart(THREAD, read).await?;
        *lock(&self.kept_tars) = found.iter().map(|(id, _, _)| *id).collect();
        let tars = found.into_iter().map(|(_, digest, path)| (digest, path));
        Ok(tars.collect())
    }
}

/// Returns the digest of a tar if it is one of `needed`. Returns `None` if the tar was removed or
/// is damaged.
fn find_digest(path: &Path, needed: &BTreeSet<Digest>) -> Result<Option<Digest>> {
    let tar = match open_file(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
            return Ok(None);
        }
        tar => tar.during("open", path.display())?,
    };
    for algorithm in Algorithm::ALL {
        if !needed.iter().any(|digest| digest.algorithm() == algorithm) {
            continue;
        }
        match digest_of(&tar, algorithm, &mut Pace::new(None)) {
            Err(error) if is_of_device(&error) => return Ok(None),
            found => {
                let found = found.during("read", path.display())?;
                if needed.contains(&found) {
                    return Ok(Some(found));
                }
            }
        }
    }
    Ok(None)
}

/// Returns whether the device cannot read a part of a file.
fn is_of_device(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::IO.raw_os_error())
}
