//! Leases that users create to keep resources for longer than a job.

use super::guard::LeaseGuard;
use crate::blob::describe;
use crate::error::{Error, Result};
use crate::image::Reference;
use crate::records::{Lease, Resource};
use crate::snapshot::Snapshotter;
use crate::store::Store;

/// Adds a resource to the lease `id`, after checking that the resource exists. For a blob or an
/// image, everything below it must be in the store as well; [`LeaseGuard::pin_tree`] describes the
/// exceptions. An ingest need not exist yet. Returns the updated lease.
///
/// # Errors
/// `NotFound` if the lease, the resource, or content that must be in the store is missing;
/// `Unsupported` for a snapshot of a snapshotter that is not in `snapshotters`; `InvalidArgument`
/// for an image name that does not parse; `Corrupt` for a damaged document or record; `OutOfRange`
/// for a document that is too large to be read; `Conflict` if content was collected meanwhile, or
/// if every attempt lost against another writer; errors of the store and of the snapshotter.
pub async fn add_to_lease(
    store: &Store,
    snapshotters: &[&dyn Snapshotter],
    id: &str,
    resource: Resource,
) -> Result<Lease> {
    let guard = LeaseGuard::begin(store, "keep").await?;
    let added = match pin(store, snapshotters, &guard, &resource).await {
        Ok(()) => add(store, id, &resource).await,
        Err(error) => Err(error),
    };
    guard.finish_with(added).await
}

async fn pin(
    store: &Store,
    snapshotters: &[&dyn Snapshotter],
    guard: &LeaseGuard,
    resource: &Resource,
) -> Result<()> {
    match resource {
        Resource::Content(digest) => guard.pin_tree(&describe(store, digest).await?).await,
        Resource::Image(name) => {
            let name: Reference = name.parse()?;
            let found = store.images.get(&name).await?;
            let image = found.ok_or_else(|| missing(resource))?;
            guard.pin_tree(&image.target).await
        }
        Resource::Snapshot { snapshotter, key } => {
            let known = snapshotters
                .iter()
                .find(|known| known.name() == snapshotter);
            let known = known.ok_or_else(|| {
                Error::unsupported("the snapshotter is not open; name an open snapshotter")
                    .subject(snapshotter)
            })?;
            let keys = std::slice::from_ref(key);
            guard.pin_snapshots(snapshotter, keys).await?;
            if guard.bump_snapshot(*known, key).await? {
                Ok(())
            } else {
                Err(missing(resource))
            }
        }
        // An ingest that does not exist yet is kept once it is begun.
        Resource::Ingest(_) => Ok(()),
    }
}

async fn add(store: &Store, id: &str, resource: &Resource) -> Result<Lease> {
    let leases = store.leases();
    let added = leases.update(id, |lease| {
        lease.resources.insert(resource.clone());
        Ok(())
    });
    added.await
}

fn missing(resource: &Resource) -> Error {
    Error::not_found("not in the store; pull, import or create it first").subject(resource)
}
