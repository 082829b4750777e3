//! What killed jobs have left in a root: files of the store and of the snapshotters, snapshots of
//! mounts, lock files of unpacks, and the directories of unpack jobs and of `cas run`.

use std::cell::LazyCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cas_core::gc::{self, Leftover, Removed};
use cas_core::lease::LEASE_TTL;
use cas_core::records::Resource;
use cas_core::snapshot::{self, Info, Usage};
use cas_core::{Context, Result, Snapshotter, pool};
use cas_host::MountedDirs;
use cas_layer::unpack;

use super::Cas;
use super::each_snapshotter::collected;
use super::mounted::{self, State};
use super::root_dir::RootDir;

/// Longer than anything is kept for a later job.
const ALWAYS: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

impl Cas {
    /// Returns everything that killed jobs have left in the root and that no running job uses. The
    /// result includes leftovers that a collection would keep because they are new. If the store is
    /// in a bucket, the result also includes the parts that other processes are uploading. Of the
    /// files of snapshots, the result includes only those of snapshots without a record. A snapshot
    /// that has a record does not count as a leftover, even if a killed mount has left it, and
    /// neither does an ingest. If the root cannot be written, only leftovers in the store and in
    /// the snapshotters are found.
    ///
    /// # Errors
    /// Errors of the store, of the snapshotters and of the file system.
    pub async fn leftovers(&self) -> Result<Vec<Leftover>> {
        let late = SystemTime::now() + ALWAYS;
        let handles = self.with_each_snapshotter().await?;
        let mut found = gc::leftovers(self.opened()?, &collected(&handles), late).await?;
        for cas in &handles {
            found.extend(cas.left_beside(late, false).await?);
            let runs = cas.ended_runs().await?.into_iter();
            found.extend(runs.map(|run| run.leftover()));
        }
        Ok(found)
    }

    /// Finds the lock files that killed unpacks have left, and the unpack jobs that have expired at
    /// the time `now`. Removes them if `remove` is set. Returns what was found. Finds nothing in a
    /// root that cannot be written, because whether something is in use is known by its lock.
    pub(super) async fn left_beside(&self, now: SystemTime, remove: bool) -> Result<Vec<Leftover>> {
        let mut found = Removed::default();
        let snapshotter = self.collected_snapshotter();
        if let Some(snapshotter) = snapshotter.filter(|_| self.root.is_writable()) {
            let (locks, jobs) = (self.locks.to_path_buf(), self.jobs());
            let files = pool::run(move || unpack::free_locks(&locks, remove)).await;
            let inodes = files.during("remove locks", self.locks.display())?;
            let place = Leftover::place_in(snapshotter);
            found.add_leftover(format!("{place}/locks"), Usage { bytes: 0, inodes });
            let usage = pool::run(move || jobs.collect(now, remove)).await?;
            found.add_leftover(format!("{place}/jobs"), usage);
        }
        Ok(found.leftovers)
    }
}

/// Removes what killed jobs have left next to the snapshotters of `handles`, and unpack jobs that
/// have expired. Does nothing if the store is opened for an owner. A dry run removes nothing.
/// Returns what was found.
pub(super) async fn remove_leftovers(
    handles: &[Cas],
    now: SystemTime,
    dry_run: bool,
) -> Result<Removed> {
    let mut left = Removed::default();
    for cas in handles.iter().filter(|one| one.store.owner().is_none()) {
        if let Some(snapshotter) = cas.collected_snapshotter() {
            let removed = remove_mounts(snapshotter, now, dry_run).await?;
            left.snapshots.extend(removed);
        }
        left.leftovers.extend(cas.left_beside(now, !dry_run).await?);
    }
    Ok(left)
}

/// Removes the snapshots of mounts that no job has completed. A snapshot that is still mounted
/// stays. A dry run removes nothing. Returns what was removed, or for a dry run what would be
/// removed.
///
/// # Errors
/// Errors of the snapshotter and of the file system.
async fn remove_mounts(
    snapshotter: &dyn Snapshotter,
    now: SystemTime,
    dry_run: bool,
) -> Result<Vec<(Resource, u64)>> {
    let (abandoned, mut removed) = (abandoned(snapshotter, now).await?, Vec::new());
    // The mounts are read after the snapshots, and only if there is an abandoned snapshot.
    let mounted = LazyCell::new(MountedDirs::read);
    for (info, directory) in abandoned {
        let found = with_size(snapshotter, info.key.clone()).await;
        if mounted.has(&directory) {
            // The job was killed after it had mounted the snapshot, or before it unmounted it.
            if !dry_run {
                State::Mounted.write(snapshotter, &info.key).await?;
            }
        } else if dry_run
            || (remove_root_dir(snapshotter, &info, &directory).await?
                && snapshotter.remove_seen(&info).await?)
        {
            removed.push(found);
        }
    }
    Ok(removed)
}

/// Returns the snapshot with this key as a resource, and its disk usage in bytes, or 0 if it cannot
/// be measured.
pub(super) async fn with_size(snapshotter: &dyn Snapshotter, key: String) -> (Resource, u64) {
    let usage = snapshotter.usage(&key).await;
    let snapshot = Resource::Snapshot {
        snapshotter: snapshotter.name().to_owned(),
        key,
    };
    (snapshot, usage.map_or(0, |usage| usage.bytes))
}

/// Returns the snapshots of mounts that no job has completed, and their directories. Skips a
/// snapshot that was updated within the last [`LEASE_TTL`], because its job may still run.
async fn abandoned(snapshotter: &dyn Snapshotter, now: SystemTime) -> Result<Vec<(Info, PathBuf)>> {
    let found = snapshot::all(snapshotter).await?.into_iter();
    let found = found.filter(|info| State::is_between(info) && info.updated_at + LEASE_TTL <= now);
    let place = |info: Info| mounted::last_directory(&info).map(|directory| (info, directory));
    Ok(found.filter_map(place).collect())
}

/// If a snapshot was made for a root directory, removes that directory. Returns false if another
/// job works on the directory now, or has worked on it since the snapshot was listed.
async fn remove_root_dir(
    snapshotter: &dyn Snapshotter,
    info: &Info,
    rootfs: &Path,
) -> Result<bool> {
    let is_by_path = mounted::directory(&info.key).is_some();
    match RootDir::with_rootfs(rootfs).filter(|_| !is_by_path) {
        Some(place) => place.remove_abandoned(snapshotter, info).await,
        None => Ok(true),
    }
}
