//! Images as mounted directories.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cas_core::error::ErrorKind;
use cas_core::labels::GC_ROOT;
use cas_core::snapshot::Mount;
use cas_core::{Context, Digest, Error, Labels, Manifest, Platform, Result, pool, unique};
use cas_host::{IdMap, mount};
use cas_layer::progress::Progress;
use cas_layer::unpack;

use super::Cas;

/// How an image is mounted.
#[derive(Debug, Default)]
pub struct MountOptions {
    /// Whether it can be written to.
    pub writable: bool,
    /// A user namespace that maps the owners on disk to those that are seen.
    pub owners: Option<OwnedFd>,
}

impl Cas {
    /// Shows the root file system of an image at `directory`, unpacked into snapshots first where
    /// it is not yet. What is written to it, where it is writable, is gone with
    /// [`Cas::unmount`].
    ///
    /// # Errors
    /// As [`Cas::snapshot`]; `NotFound` without the directory; `AlreadyExists` where this root
    /// has something mounted there; `Denied` without the right to mount; `Unsupported` where owners
    /// cannot be mapped.
    pub async fn mount(
        &self,
        name: &str,
        directory: &Path,
        platform: Option<&Platform>,
        options: MountOptions,
        progress: &Arc<dyn Progress>,
    ) -> Result<()> {
        let manifest = self.manifest(name, platform).await?.manifest;
        self.mount_manifest(&manifest, directory, options, progress)
            .await
    }

    /// As [`Cas::mount`], for an image whose manifest is known.
    pub(super) async fn mount_manifest(
        &self,
        manifest: &Manifest,
        directory: &Path,
        options: MountOptions,
        progress: &Arc<dyn Progress>,
    ) -> Result<()> {
        let directory = place(directory, "mount on")?;
        let key = key(&directory)?;
        if self.snapshotter()?.stat(&key).await?.is_some() {
            return Err(taken(&directory));
        }
        let shown = self.show(manifest, &key, options.writable, progress).await;
        let mounts = shown.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => taken(&directory),
            _ => error,
        })?;
        let target = directory.clone();
        let mounted = pool::run(move || {
            let idmap = options.owners.as_ref().map(|one| IdMap::of(one.as_fd()));
            mount::attach(&mounts, &target, idmap)
        })
        .await;
        if mounted.is_err() {
            self.snapshotter()?.remove(&key).await?;
        }
        mounted
    }

    /// Makes the snapshot that is mounted. One on a parent that is there holds it, so that nothing
    /// else needs to be.
    async fn show(
        &self,
        manifest: &Manifest,
        key: &str,
        writable: bool,
        progress: &Arc<dyn Progress>,
    ) -> Result<Vec<Mount>> {
        let snapshotter = self.snapshotter()?;
        let make = async |parent: Option<Digest>| {
            let parent = parent.map(|chain_id| chain_id.to_string());
            // A label keeps the snapshot while it is mounted.
            let labels = Labels::from([(GC_ROOT.to_owned(), unique::key("mounted"))]);
            if writable {
                snapshotter.prepare(key, parent.as_deref(), labels).await
            } else {
                snapshotter.view(key, parent.as_deref(), labels).await
            }
        };
        let parent = unpack::chain_id(&self.store, manifest).await?;
        match make(parent).await {
            // It is not unpacked yet, or was collected.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            made => return made,
        }
        let unpacked = unpack::to_snapshots(&self.store, self.target()?, manifest, progress);
        make(unpacked.await?).await
    }

    /// Takes away what [`Cas::mount`] has mounted at `directory`, and what was written to it.
    ///
    /// # Errors
    /// `NotFound` where this root has nothing mounted; `Busy` while it is used.
    pub async fn unmount(&self, directory: &Path) -> Result<()> {
        let directory = place(directory, "unmount")?;
        let key = key(&directory)?;
        if self.snapshotter()?.stat(&key).await?.is_none() {
            return Err(Error::not_found("this root has nothing mounted there")
                .operation("unmount")
                .subject(directory.display()));
        }
        let unmounted = pool::run(move || mount::unmount(&directory)).await;
        match unmounted {
            // The machine was started anew, or somebody else was faster.
            Err(error) if error.kind() == ErrorKind::FailedPrecondition => {}
            unmounted => unmounted?,
        }
        self.snapshotter()?.remove(&key).await
    }
}

/// The directory by the one path that it has without links.
fn place(directory: &Path, operation: &'static str) -> Result<PathBuf> {
    directory
        .canonicalize()
        .during(operation, directory.display())
}

/// The key of the snapshot that is mounted at a place.
fn key(directory: &Path) -> Result<String> {
    let path = directory.to_str().ok_or_else(|| {
        Error::invalid("the path is no text; choose another").subject(directory.display())
    })?;
    Ok(format!("mounted {path}"))
}

fn taken(directory: &Path) -> Error {
    Error::already_exists("this root has something mounted there; `cas umount` it first")
        .operation("mount")
        .subject(directory.display())
}
