//! What killed jobs leave: the snapshots of incomplete mounts, and lock files.

use std::cell::LazyCell;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cas_core::gc::Removed;
use cas_core::lease::LEASE_TTL;
use cas_core::records::Resource;
use cas_core::snapshot::{self, Info, Usage};
use cas_core::{Context, Result, Snapshotter, pool};
use cas_host::MountedDirs;
use cas_layer::unpack;

use super::mounted::{self, State};
use super::root_dir::RootDir;

/// Removes what killed jobs have left, and adds it to `removed`. A snapshot that is still mounted
/// stays. A dry run removes nothing, and adds to `removed` what would be removed.
///
/// # Errors
/// Errors of the snapshotter and of the file system.
pub(super) async fn remove(
    snapshotter: &dyn Snapshotter,
    locks: &Path,
    now: SystemTime,
    dry_run: bool,
    removed: &mut Removed,
) -> Result<()> {
    let abandoned = abandoned(snapshotter, now).await?;
    // The mounts are read after the snapshots, and only if there is an abandoned snapshot.
    let mounted = LazyCell::new(MountedDirs::read);
    for (info, directory) in abandoned {
        if mounted.has(&directory) {
            // The job was killed after it had mounted the snapshot, or before it unmounted it.
            if !dry_run {
                State::Mounted.write(snapshotter, &info.key).await?;
            }
        } else if dry_run
            || (remove_root_dir(snapshotter, &info, &directory).await?
                && snapshotter.remove_seen(&info).await?)
        {
            removed.snapshots.push(Resource::Snapshot {
                snapshotter: snapshotter.name().to_owned(),
                key: info.key,
            });
        }
    }
    let (place, remove) = (locks.to_owned(), !dry_run);
    let files = pool::run(move || unpack::free_locks(&place, remove)).await;
    removed.leftovers += Usage {
        inodes: files.during("remove locks", locks.display())?,
        bytes: 0,
    };
    Ok(())
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
