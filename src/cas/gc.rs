//! Leases and collection.

use std::time::SystemTime;

use cas_core::gc::{self, Explanation, GcOptions, Removed};
use cas_core::lease;
use cas_core::records::{Lease, Resource};
use cas_core::{Result, Snapshotter};

use super::Cas;

impl Cas {
    /// Removes what no name, lease or label holds; with `dry_run` only tells what would go. Others
    /// may work on the store meanwhile.
    ///
    /// # Errors
    /// As [`gc::collect`].
    pub async fn collect(&self, dry_run: bool) -> Result<Removed> {
        let options = GcOptions {
            dry_run,
            ..GcOptions::default()
        };
        gc::collect(&self.store, &self.collected_snapshotters(), &options).await
    }

    /// What holds a thing: every way to it from a name, a lease or a label.
    ///
    /// # Errors
    /// As [`gc::collect`].
    pub async fn why(&self, resource: &Resource) -> Result<Explanation> {
        let snapshotters = self.collected_snapshotters();
        gc::explain(&self.store, &snapshotters, resource, SystemTime::now()).await
    }

    /// Adds something to a lease, and makes sure that it and all below it is there.
    ///
    /// # Errors
    /// As [`lease::add_to_lease`].
    pub async fn keep(&self, lease: &str, resource: Resource) -> Result<Lease> {
        let snapshotters: Vec<&dyn Snapshotter> = self.snapshotter.as_deref().into_iter().collect();
        lease::add_to_lease(&self.store, &snapshotters, lease, resource).await
    }

    /// Snapshots belong to the store of the root: another one does not know what holds them.
    fn collected_snapshotters(&self) -> Vec<&dyn Snapshotter> {
        let own = self.snapshotter.as_deref().filter(|_| self.own_store);
        own.into_iter().collect()
    }
}
