//! Leases and garbage collection.

use std::time::SystemTime;

use cas_core::gc::{self, Explanation, GcOptions, Removed};
use cas_core::records::{Lease, Resource};
use cas_core::{ErrorKind, Result, Snapshotter, lease};

use super::Cas;
use super::each_snapshotter::collected;
use super::leftovers::remove_leftovers;

impl Cas {
    /// Runs a garbage collection: removes what no name, lease or label refers to. Content that was
    /// stored without a lease stays for a day. Other jobs may use the store meanwhile. Returns what
    /// was removed.
    ///
    /// # Errors
    /// As [`gc::collect`].
    pub async fn gc(&self) -> Result<Removed> {
        self.gc_with(GcOptions::default()).await
    }

    /// Runs a collection with options. Returns what was removed, or for a dry run what would be
    /// removed.
    ///
    /// # Errors
    /// As [`gc::collect`].
    pub async fn gc_with(&self, options: GcOptions) -> Result<Removed> {
        let store = if options.dry_run {
            self.opened()?
        } else {
            self.writable()?
        };
        let is_whole = options.only.is_none() && options.owner.is_none();
        let handles = self.with_each_snapshotter().await?;
        let mut left = Removed::default();
        if is_whole {
            left = remove_leftovers(&handles, options.now, options.dry_run).await?;
        }
        let removed = gc::collect(store, &collected(&handles), &options).await?;
        if is_whole && !options.dry_run {
            self.forget_uses().await?;
        }
        Ok(removed.after(left))
    }

    /// Forgets when removed images were last used. If this fails because the disk is full or
    /// another process makes changes, the next collection does it.
    ///
    /// # Errors
    /// `Unavailable` if the device or the service fails.
    pub(super) async fn forget_uses(&self) -> Result<()> {
        match self.uses.forget_removed().await {
            Err(error) if error.kind() == ErrorKind::Unavailable => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns why a resource is kept: at most a hundred paths of references that lead to it.
    ///
    /// # Errors
    /// As [`gc::explain`].
    pub async fn explain(&self, resource: &Resource) -> Result<Explanation> {
        let handles = self.with_each_snapshotter().await?;
        let snapshotters = collected(&handles);
        gc::explain(self.opened()?, &snapshotters, resource, SystemTime::now()).await
    }

    /// Adds a resource to a lease. The resource must exist, unless it is an ingest. A snapshot may
    /// be of any snapshotter that [`Cas::with_each_snapshotter`] finds. If the resource is a blob
    /// or an image, everything below it must be in the store, except for content that
    /// [`LeaseGuard::pin_tree`](lease::LeaseGuard::pin_tree) skips or allows to be missing. Returns
    /// the updated lease.
    ///
    /// # Errors
    /// As [`lease::add_to_lease`].
    pub async fn add_to_lease(&self, lease: impl AsRef<str>, resource: Resource) -> Result<Lease> {
        let store = self.writable()?;
        let handles = match resource {
            Resource::Snapshot { .. } => self.with_each_snapshotter().await?,
            _ => Vec::new(),
        };
        let snapshotters = handles.iter().filter_map(|cas| cas.snapshotter.as_deref());
        let snapshotters: Vec<&dyn Snapshotter> = snapshotters.collect();
        lease::add_to_lease(store, &snapshotters, lease.as_ref(), resource).await
    }
}
