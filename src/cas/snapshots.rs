//! Snapshots whose keys the caller chooses.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use cas_core::background::shield;
use cas_core::platform::Platforms;
use cas_core::progress::{Progress, Silent};
use cas_core::snapshot::{self, Info, Mount, Usage};
use cas_core::{Context, Error, ErrorKind, Result, Snapshotter};
use cas_host::DirLock;

use super::Cas;
use super::arguments::ImageRef;
use super::dir_lock::lock;
use super::mounted::{self, Mounted, NewSnapshot, State};

/// Options of [`Cas::create_snapshot_with`].
#[derive(Clone)]
#[non_exhaustive]
pub struct SnapshotOptions {
    /// Whether the snapshot is writable. Otherwise it is a read-only view. By default, true.
    pub writable: bool,
    /// The platform to use. `Platforms::All` is an error.
    pub platforms: Platforms,
    /// Receives the progress of an unpack. By default, nothing is reported.
    pub progress: Arc<dyn Progress>,
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        SnapshotOptions {
            writable: true,
            platforms: Platforms::default(),
            progress: Arc::new(Silent),
        }
    }
}

impl SnapshotOptions {
    /// Sets [`writable`](Self::writable).
    #[must_use]
    pub fn with_writable(mut self, writable: bool) -> Self {
        self.writable = writable;
        self
    }

    /// Sets [`platforms`](Self::platforms).
    #[must_use]
    pub fn with_platforms(mut self, platforms: impl Into<Platforms>) -> Self {
        self.platforms = platforms.into();
        self
    }

    /// Sets [`progress`](Self::progress).
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }
}

/// Options of [`Cas::snapshot_usage_with`].
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct UsageOptions {
    /// Whether to add the space of all parents. Snapshots with the same parents share that space.
    pub parents: bool,
}

impl UsageOptions {
    /// Sets [`parents`](Self::parents).
    #[must_use]
    pub fn with_parents(mut self, parents: bool) -> Self {
        self.parents = parents;
        self
    }
}

impl Cas {
    /// Makes the writable snapshot `key` on an image. If the image is not unpacked yet, it is
    /// unpacked first. A label protects the snapshot from garbage collections until
    /// [`Cas::remove_snapshot`] removes the snapshot.
    ///
    /// # Errors
    /// As [`Cas::snapshot`]; `AlreadyExists` if there is a snapshot with this key;
    /// `InvalidArgument` for a key that is empty, that has more than
    /// [`limit::KEY`](cas_core::limit::KEY) bytes, that contains control characters, or that begins
    /// with `mounted ` as the keys of mounts do; `FailedPrecondition` if the image has layers that
    /// are read on demand, and no process serves them.
    pub async fn create_snapshot(
        &self,
        key: impl AsRef<str>,
        image: impl Into<ImageRef>,
    ) -> Result<()> {
        self.create_snapshot_with(key, image, SnapshotOptions::default())
            .await
    }

    /// Makes a snapshot with options.
    ///
    /// # Errors
    /// As [`Cas::create_snapshot`]; `InvalidArgument` for `Platforms::All`.
    pub async fn create_snapshot_with(
        &self,
        key: impl AsRef<str>,
        image: impl Into<ImageRef>,
        options: SnapshotOptions,
    ) -> Result<()> {
        self.check_writable()?;
        let key = key.as_ref();
        let doing = "create snapshot";
        if mounted::directory(key).is_some() {
            let why = "keys that begin with `mounted ` belong to mounts; choose another key";
            return Err(Error::invalid(why).operation(doing).subject(key));
        }
        if self.snapshotter()?.stat(key).await?.is_some() {
            let why = "a snapshot with this key exists; remove it or choose another key";
            return Err(Error::already_exists(why).operation(doing).subject(key));
        }
        let platforms = self.to_unpack(&options.platforms);
        let manifest = self.manifest_of(image, &platforms).await?;
        let new = NewSnapshot {
            key,
            writable: options.writable,
            labels: State::Kept.label(),
        };
        let made = self.make(&manifest, &new, &options.progress).await;
        made.map(Mounted::keep)
    }

    /// Returns all snapshots, sorted by their keys. These are the snapshots of layers, whose keys
    /// are chain IDs, and the snapshots that were made for callers and for mounts.
    ///
    /// # Errors
    /// `FailedPrecondition` if the root was made without a snapshotter; errors of the snapshotter.
    pub async fn snapshots(&self) -> Result<Vec<Info>> {
        snapshot::all(&**self.snapshotter()?).await
    }

    /// Returns the space that a snapshot takes, without its parents.
    ///
    /// # Errors
    /// `NotFound` if the snapshot does not exist; errors of the file system.
    pub async fn snapshot_usage(&self, key: impl AsRef<str>) -> Result<Usage> {
        self.snapshot_usage_with(key, UsageOptions::default()).await
    }

    /// Returns the space that a snapshot takes, with options. Reads no records of snapshots
    /// other than this snapshot and its parents.
    ///
    /// # Errors
    /// As [`Cas::snapshot_usage`]; with [`UsageOptions::parents`], also `Corrupt` if a parent has
    /// no record, or if the parents form a cycle.
    pub async fn snapshot_usage_with(
        &self,
        key: impl AsRef<str>,
        options: UsageOptions,
    ) -> Result<Usage> {
        let (snapshotter, key) = (self.snapshotter()?, key.as_ref());
        let mut sum = snapshotter.usage(key).await?;
        if !options.parents {
            return Ok(sum);
        }
        let mut next = find(&**snapshotter, key).await?.parent;
        let mut met = BTreeSet::from([key.to_owned()]);
        while let Some(parent) = next {
            if met.contains(&parent) {
                let why = "the parents of the snapshot form a cycle; run `cas fsck --repair`";
                return Err(Error::corrupt(why)).during("measure snapshot", key);
            }
            let found = snapshotter.stat(&parent).await?.ok_or_else(|| {
                Error::corrupt(
                    "the snapshot is the parent of another snapshot, but has no record; run \
                     `cas fsck --repair`",
                )
                .operation("measure snapshot")
                .subject(&parent)
            })?;
            sum += snapshotter.usage(&parent).await?;
            met.insert(parent);
            next = found.parent;
        }
        Ok(sum)
    }

    /// Removes an active snapshot, a view or a committed snapshot. Returns false if the snapshot
    /// does not exist.
    ///
    /// # Errors
    /// `Busy` while the snapshot is mounted by any handle, while it is the parent of another
    /// snapshot, or while it may have the only copy of a layer that an image needs.
    pub async fn remove_snapshot(&self, key: impl AsRef<str>) -> Result<bool> {
        self.check_writable()?;
        let (snapshotter, key) = (Arc::clone(self.snapshotter()?), key.as_ref().to_owned());
        let cas = self.clone();
        shield(async move { remove(&*snapshotter, &key, None, Some(&cas)).await }).await
    }
}

/// Returns a snapshot that must exist.
///
/// # Errors
/// `NotFound`.
pub(super) async fn find(snapshotter: &dyn Snapshotter, key: &str) -> Result<Info> {
    snapshotter.stat(key).await?.ok_or_else(|| {
        Error::not_found("no such snapshot; `cas snapshot ls` lists all snapshots").subject(key)
    })
}

/// Removes a snapshot. Returns false if it does not exist. A mount at `except` does not prevent the
/// removal, because the caller has unmounted it in this mount namespace. `cas` is the handle of the
/// root; without it, the snapshot must not be a committed one.
///
/// # Errors
/// `Busy` while the snapshot is mounted or has children; as [`Cas::refuse_only_copy`].
pub(super) async fn remove(
    snapshotter: &dyn Snapshotter,
    key: &str,
    except: Option<&Path>,
    cas: Option<&Cas>,
) -> Result<bool> {
    let _lock = match mounted::mounts(snapshotter, key).await {
        Ok(mounts) => lock_files(&mounts).await?,
        // The snapshot is committed and cannot be mounted.
        Err(error) if error.kind() == ErrorKind::FailedPrecondition => None,
        Err(error) => return Err(error),
    };
    while let Some(info) = snapshotter.stat(key).await? {
        let there = mounted::mounted_at(&info).filter(|there| Some(&**there) != except);
        if let Some(directory) = there {
            let why = format!(
                "the snapshot is mounted at {}; unmount it first",
                directory.display()
            );
            return Err(Error::busy(why)).during("remove snapshot", key);
        }
        if let Some(cas) = cas {
            cas.refuse_only_copy(&info).await?;
        }
        match snapshotter.remove_seen(&info).await {
            Err(error) if error.kind() == ErrorKind::FailedPrecondition => {
                let why = "the snapshot is the parent of other snapshots; remove those first";
                return Err(Error::busy(why).source(error)).during("remove snapshot", key);
            }
            Ok(false) => {}
            removed => return removed,
        }
    }
    Ok(false)
}

/// Waits until no other job mounts or removes the snapshot with these mounts, and locks its
/// directory. Returns the lock, or `None` if the directory is missing or the mounts name none.
pub(super) async fn lock_files(mounts: &[Mount]) -> Result<Option<DirLock>> {
    match files(mounts) {
        Some(directory) => lock(directory).await,
        None => Ok(None),
    }
}

/// Returns the directory that the last of these mounts writes to, or if it is read-only, the
/// directory of the topmost layer that it shows.
fn files(mounts: &[Mount]) -> Option<&Path> {
    match mounts.last()? {
        Mount::Bind { source, .. } => Some(source),
        Mount::Overlay { lower, upper, .. } => {
            let shown = upper.as_ref().or(lower.first())?;
            // The directory at which an image is shared does not exist until it is mounted.
            let image = mounts.iter().find_map(|mount| match mount {
                Mount::Erofs { image, shared, .. } if shared == shown => image.parent(),
                _ => None,
            });
            Some(image.unwrap_or(shown))
        }
        Mount::Erofs { image, .. } => image.parent(),
        _ => None,
    }
}
