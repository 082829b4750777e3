//! Unfinished ingests.

use std::time::SystemTime;

use cas_core::records::{Lease, Resource, Revision};
use cas_core::{Digest, Error, Result, Store};

use super::Cas;

/// An unfinished ingest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IngestInfo {
    /// The key of the ingest. If the digest of the blob was known when the writing began, the key
    /// is this digest.
    pub key: String,
    /// The number of bytes written so far.
    pub offset: u64,
    /// The size of the blob, if it is known.
    pub total: Option<u64>,
    /// When bytes were last written, as the store reports it.
    pub updated_at: SystemTime,
    /// The owners of the leases that keep the ingest or its blob. The owner of a lease is a job, or
    /// `the tool` for a lease that a user made. A killed job is listed until a collection removes
    /// its expired lease. A job is not listed before it knows the digest of its blob.
    pub owners: Vec<String>,
}

impl Cas {
    /// Returns the unfinished ingests, in the order of their keys. If the record of a lease is
    /// damaged, logs a warning, and does not list the owner of this lease.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn ingests(&self) -> Result<Vec<IngestInfo>> {
        let store = self.opened()?;
        let found = store.content.ingests().await?;
        let listed = store.leases().list_sound().await?;
        for problem in &listed.problems {
            tracing::warn!("an owner may be missing from the list of ingests: {problem}");
        }
        let mut described = Vec::with_capacity(found.len());
        for status in found {
            let (total, owners) = keepers(store, &status.key, &listed.leases).await?;
            described.push(IngestInfo {
                key: status.key,
                offset: status.offset,
                total,
                updated_at: status.updated_at,
                owners,
            });
        }
        Ok(described)
    }

    /// Removes an unfinished ingest with its bytes.
    ///
    /// # Errors
    /// `NotFound` if no ingest has this key; `Busy` while a job writes the ingest.
    pub async fn discard_ingest(&self, key: impl AsRef<str>) -> Result<()> {
        let key = key.as_ref();
        let discarded = self.writable()?.content.discard(key).await;
        let discarded = discarded.and_then(|was_there| {
            was_there
                .then_some(())
                .ok_or_else(|| Error::not_found("no such ingest; check the key"))
        });
        discarded.map_err(|error| error.operation("remove ingest").subject(key))
    }
}

/// Returns the size of the blob that is written under `key`, and the owners of the leases that keep
/// the blob or the ingest.
async fn keepers(
    store: &Store,
    key: &str,
    leases: &[(String, Lease, Revision)],
) -> Result<(Option<u64>, Vec<String>)> {
    let record = match key.parse::<Digest>() {
        Ok(digest) => store.blobs().load(&digest).await?,
        Err(_) => None,
    };
    let record = record.map(|(record, _)| record);
    let ingest = Resource::Ingest(key.to_owned());
    let pins = |id: &String| record.as_ref().is_some_and(|one| one.leases.contains(id));
    let owners = leases
        .iter()
        .filter(|(id, lease, _)| pins(id) || lease.resources.contains(&ingest))
        .map(|(_, lease, _)| lease.owner.clone())
        .collect();
    Ok((record.map(|record| record.size), owners))
}
