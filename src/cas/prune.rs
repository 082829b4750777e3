//! Last uses of images, and the removal of images that have not been used for a long time.

use std::fs::File;
use std::path::PathBuf;

use cas_core::gc::{self, PruneOptions, Pruned};
use cas_core::image::Reference;
use cas_core::{Context, Error, Result, pool};
use cas_host::calls::fstatvfs;

use super::Cas;
use super::each_snapshotter::collected;
use super::leftovers::remove_leftovers;

impl Cas {
    /// Removes the names of images that have not been used for a long time, until the bounds of the
    /// options are met. Then removes what no name, lease or label refers to. Images that are
    /// mounted, leased or used by a job stay. Other jobs may use the store meanwhile. A dry run
    /// removes nothing. Returns what was removed, or for a dry run what would be removed.
    ///
    /// Most verbs that use an image also record the time of this use. `tag`, and verbs that only
    /// show facts about an image, such as `image`, `check` and `manifest`, do not. A recorded time
    /// may be up to [`USE_PRECISION`](cas_core::image::USE_PRECISION), one minute, older than the
    /// last use. It may be older still if another handle has not written the last use yet.
    ///
    /// [`PruneOptions::free`] is the number of bytes that are free now. If the options set
    /// `keep_free`, but not `free`, this number is read from the file system of the store.
    ///
    /// # Errors
    /// `InvalidArgument` if the options set no bound; `Unsupported` for `keep_free` if the store is
    /// not in a file system of this machine; as [`gc::prune`].
    pub async fn prune(&self, mut options: PruneOptions) -> Result<Pruned> {
        let store = if options.dry_run {
            self.opened()?
        } else {
            self.writable()?
        };
        if options.keep_free.is_some() && options.free.is_none() {
            options.free = Some(self.free_space().await?);
        }
        let handles = self.with_each_snapshotter().await?;
        let uses = self.uses.all().await?;
        let left = remove_leftovers(&handles, options.now, options.dry_run).await?;
        let mut pruned = gc::prune(store, &collected(&handles), &uses, &options).await?;
        pruned.removed = pruned.removed.after(left);
        if !options.dry_run {
            self.forget_uses().await?;
        }
        Ok(pruned)
    }

    /// Records in memory that an image is used, unless the root is read-only. Reads and writes no
    /// files.
    pub(super) fn note_use(&self, name: &Reference) {
        if self.read_only.is_none() {
            self.uses.note(name);
        }
    }

    /// Returns the number of bytes that are free on the file system of the store.
    async fn free_space(&self) -> Result<u64> {
        let place = PathBuf::from(self.location.place());
        if !place.is_absolute() {
            return Err(Error::unsupported(
                "the store is not in a file system of this machine, so no space can be kept free; \
                 set a maximum size instead",
            )
            .operation("prune")
            .subject(&*self.location));
        }
        pool::run(move || {
            let status = File::open(&place).map_err(Error::from).and_then(|file| {
                fstatvfs(&file).map_err(|error| std::io::Error::from(error).into())
            });
            let status = status.during("read the free space of", place.display())?;
            Ok(status.f_bavail.saturating_mul(status.f_frsize))
        })
        .await
    }
}
