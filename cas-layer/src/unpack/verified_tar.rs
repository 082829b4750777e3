//! The label of a snapshot that states which version of its tar was verified. If a snapshotter
//! keeps the only copy of a layer, a pull or an import compares the version, so that it finds
//! damage even if the length and the time of modification of the tar are those of the commit.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use cas_core::error::ErrorKind;
use cas_core::labels::VERIFIED_TAR;
use cas_core::snapshot::{Condition, Depth, chain_ids};
use cas_core::{Error, Labels, Manifest, Result, Snapshotter};
use cas_host::calls::undisturbed;

use super::{LayersFrom, layers_with_diff_ids};

/// Returns the version of a tar: its inode and the time of its last change (ctime), which no
/// program can set back.
pub(crate) fn tar_version(tar: &File) -> io::Result<String> {
    let found = undisturbed(|| tar.metadata())?;
    let (inode, seconds, nanoseconds) = (found.ino(), found.ctime(), found.ctime_nsec());
    Ok(format!("{inode} {seconds}.{nanoseconds:09}"))
}

/// Records that this version of the tar of the snapshot `key` was verified. An empty version
/// deletes the record, so that the next pull or import verifies the tar.
pub(crate) async fn note_verified(
    snapshotter: &dyn Snapshotter,
    key: &str,
    version: String,
) -> Result<()> {
    let path = format!("labels.{VERIFIED_TAR}");
    let label = Labels::from([(VERIFIED_TAR.to_owned(), version)]);
    snapshotter.update(key, label, &[&path]).await.map(drop)
}

/// Returns whether the tar of the snapshot `key` has the bytes of its layer. Reads the tar only if
/// this version of the tar was not verified before. Returns true if the snapshot has no tar.
///
/// # Errors
/// Errors of the snapshotter and of the file system.
pub(super) async fn has_verified_tar(snapshotter: &dyn Snapshotter, key: &str) -> Result<bool> {
    let Some(tar) = snapshotter.open_tar(key).await? else {
        return Ok(true);
    };
    let version = tar_version(&tar)?;
    let info = snapshotter.stat(key).await?;
    let verified = info.and_then(|mut info| info.labels.remove(VERIFIED_TAR));
    if verified.as_ref() == Some(&version) {
        return Ok(true);
    }
    let depth = Depth::Bytes { per_second: None };
    let is_sound = snapshotter.check(key, depth).await? == Condition::Sound;
    if is_sound {
        note_verified(snapshotter, key, version).await?;
    }
    Ok(is_sound)
}

/// Checks that the snapshot `key`, which has no tar, was not meant to have one. The caller reports a
/// layer without a snapshot.
///
/// # Errors
/// `Corrupt` if the tar was lost, or the ready layer in its place; errors of the snapshotter.
pub(crate) async fn check_without_tar(snapshotter: &dyn Snapshotter, key: &str) -> Result<()> {
    let why = match snapshotter.check(key, Depth::Files).await {
        Ok(Condition::Sound) => return Ok(()),
        Ok(Condition::Missing) => "the directory of the snapshot is missing".to_owned(),
        Ok(Condition::Damaged(why)) => why,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    Err(Error::corrupt(why)
        .advice("run `cas fsck --repair`, or pull or import the image again")
        .operation("read layer")
        .subject(key))
}

impl LayersFrom<'_> {
    /// If the error of a job that read the layers of an image shows that one of them may be
    /// damaged, deletes the records that the tars of the image were verified. If that fails, the
    /// tars count as verified until they change.
    pub(super) async fn distrust_after(&self, failed: Option<&Error>, manifest: &Manifest) {
        let is_damaged = failed.is_some_and(|error| error.kind() == ErrorKind::Corrupt);
        let Some(snapshotter) = self.tars.filter(|_| is_damaged) else {
            return;
        };
        let Ok(layers) = layers_with_diff_ids(self.store, manifest).await else {
            return;
        };
        let diff_ids: Vec<_> = layers.iter().map(|(_, diff_id)| *diff_id).collect();
        for chain_id in chain_ids(&diff_ids) {
            let key = chain_id.to_string();
            let found = snapshotter.stat(&key).await.ok().flatten();
            if found.is_some_and(|info| info.labels.contains_key(VERIFIED_TAR)) {
                let _ = note_verified(snapshotter, &key, String::new()).await;
            }
        }
    }
}
