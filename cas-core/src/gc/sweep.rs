//! Removes the blobs and snapshots that nothing keeps, and drops claims of an owner. If the store
//! can remove the bytes and the record of a blob in one step, the sweep does so. Otherwise, the
//! sweep writes a tombstone into the record, then removes the bytes, and then the record.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::capability::Capability;
use crate::content::Stat;
use crate::digest::Digest;
use crate::error::{ErrorKind, Result};
use crate::owner::Owner;
use crate::records::blob::{decode, encode};
use crate::records::{Batch, Change, Expect, Records, Revision, Table, Tombstone};
use crate::snapshot::{Info, Snapshotter};
use crate::store::Store;
use crate::time::later;

/// Maximum number of blobs that are removed in one transaction. A writer waits for a few of these
/// transactions at most.
const CHUNK: usize = 64;
/// Maximum number of chunks that are processed concurrently.
const CHUNKS: usize = 8;
/// Number of removals after which a store that removes bytes and record in one step is flushed.
/// Until the flush, a crash may undo the removals, and the store cannot free their space.
const FLUSHED: usize = 32 * CHUNK;
/// Maximum number of blobs of one chunk that are examined concurrently. Also the maximum number of
/// changes that are made concurrently, if the changes of a chunk are not made in one batch.
const CONCURRENT: usize = 16;
/// Maximum number of times that a batch is tried. After each conflict, the changes that lost
/// against another writer are left out. After the last attempt, each remaining change is made
/// alone.
const ROUNDS: usize = 4;

/// One change of the record of a blob that is being removed or released.
struct Step {
    digest: Digest,
    /// The bytes that are removed in the same step, or before it.
    bytes: Option<Stat>,
    expect: Revision,
    /// The record, now with a tombstone or without a claim. `None` removes the record.
    value: Option<Bytes>,
}

impl Step {
    /// Returns the blob and its size, or `None` if the step removes no bytes.
    fn outcome(&self) -> Option<(Digest, u64)> {
        self.bytes.map(|stat| (stat.digest, stat.size))
    }

    fn change(&self) -> Change {
        Change {
            table: Table::Blobs,
            key: self.digest.to_string(),
            expect: Expect::Revision(self.expect.clone()),
            value: self.value.clone(),
        }
    }
}

/// Returns whether bytes and record are removed in one step, so that no tombstone is needed.
fn joint(store: &Store) -> bool {
    store.content.capabilities().has(Capability::Joint)
}

/// Removes the blobs whose records still have the given revision. Returns the blobs whose bytes it
/// removed, and their sizes.
pub(super) async fn blobs(
    store: &Store,
    candidates: &[(Digest, Revision)],
) -> Result<Vec<(Digest, u64)>> {
    let mut removed = Vec::with_capacity(candidates.len());
    for some in candidates.chunks(FLUSHED) {
        // While one chunk waits for its commit, the next ones are examined.
        let chunks = some.chunks(CHUNK).map(<[_]>::to_vec);
        let sweeps: Vec<_> = chunks.map(|chunk| sweep(store, chunk)).collect();
        let mut sweeps = stream::iter(sweeps).buffered(CHUNKS);
        while let Some(swept) = sweeps.try_next().await? {
            removed.extend(swept);
        }
        if joint(store) {
            store.content.flush().await?;
        }
    }
    Ok(removed)
}

async fn sweep(store: &Store, chunk: Vec<(Digest, Revision)>) -> Result<Vec<(Digest, u64)>> {
    if joint(store) {
        let removed = apply_each(store, removals(store, chunk).await?).await?;
        return Ok(removed.iter().filter_map(Step::outcome).collect());
    }
    let chunk = chunk.into_iter();
    let tombstoned = chunk.map(|(digest, revision)| tombstone_step(store, digest, revision));
    let tombstoned = apply_each(store, each(tombstoned).await?).await?;
    let digests: Vec<Digest> = tombstoned.iter().map(|step| step.digest).collect();
    reap(store, &digests).await
}

/// Plans the steps of several blobs concurrently.
async fn each<F>(found: impl Iterator<Item = F>) -> Result<Vec<Step>>
where
    F: Future<Output = Result<Option<Step>>>,
{
    let found: Vec<Option<Step>> = stream::iter(found)
        .buffered(CONCURRENT)
        .try_collect()
        .await?;
    Ok(found.into_iter().flatten().collect())
}

/// Plans the steps that remove bytes and record together, if the record still has the given
/// revision.
async fn removals(store: &Store, chunk: Vec<(Digest, Revision)>) -> Result<Vec<Step>> {
    // If most blobs are garbage, one page of the list contains the rest of the chunk, and costs
    // less than a `stat` of each blob.
    let listed = match chunk.first() {
        Some((first, _)) => store.content.list(Some(first), 2 * chunk.len()).await?,
        None => Vec::new(),
    };
    let mut steps = Vec::with_capacity(chunk.len());
    for (digest, revision) in chunk {
        let stat = match listed.binary_search_by(|stat| stat.digest.cmp(&digest)) {
            Ok(at) => Some(listed[at]),
            Err(_) => store.content.stat(&digest).await?,
        };
        steps.push(Step {
            digest,
            bytes: stat,
            expect: revision,
            value: None,
        });
    }
    Ok(steps)
}

/// Plans the step that tombstones a blob, if its record still has the given revision.
async fn tombstone_step(store: &Store, digest: Digest, revision: Revision) -> Result<Option<Step>> {
    let found = store
        .records
        .load(Table::Blobs, &digest.to_string())
        .await?;
    let Some(found) = found.filter(|found| found.revision == revision) else {
        return Ok(None);
    };
    let mut record = decode(&found)?;
    let stat = store.content.stat(&digest).await?;
    record.tombstone = Some(Tombstone {
        version: stat.map(|stat| stat.version),
    });
    Ok(Some(Step {
        digest,
        bytes: None,
        expect: found.revision,
        value: Some(encode(&found.key, &record)?),
    }))
}

/// Drops the claims of `owner` on blobs whose records still have the given revision. Returns the
/// blobs whose claims were dropped.
pub(super) async fn release(
    store: &Store,
    candidates: &[(Digest, Revision)],
    owner: &Owner,
) -> Result<Vec<Digest>> {
    let mut released = Vec::with_capacity(candidates.len());
    for chunk in candidates.chunks(CHUNK) {
        let steps = chunk.iter().cloned();
        let steps = steps.map(|(digest, revision)| release_step(store, digest, revision, owner));
        let applied = apply_each(store, each(steps).await?).await?;
        released.extend(applied.iter().map(|step| step.digest));
    }
    Ok(released)
}

/// Plans the step that drops a claim, if the record still has the given revision.
async fn release_step(
    store: &Store,
    digest: Digest,
    revision: Revision,
    owner: &Owner,
) -> Result<Option<Step>> {
    let found = store
        .records
        .load(Table::Blobs, &digest.to_string())
        .await?;
    let Some(found) = found.filter(|found| found.revision == revision) else {
        return Ok(None);
    };
    let mut record = decode(&found)?;
    record.owners.remove(owner);
    record.updated_at = later(record.updated_at);
    Ok(Some(Step {
        digest,
        bytes: None,
        expect: found.revision,
        value: Some(encode(&found.key, &record)?),
    }))
}

/// Removes the bytes of tombstoned blobs and then their records. Blobs that were revived meanwhile
/// are skipped. Returns the blobs whose bytes it removed, and their sizes.
pub(super) async fn reap(store: &Store, tombstoned: &[Digest]) -> Result<Vec<(Digest, u64)>> {
    let mut removed = Vec::with_capacity(tombstoned.len());
    for chunk in tombstoned.chunks(CHUNK) {
        let steps = chunk.iter().copied().map(|digest| reap_step(store, digest));
        let reaped = apply_each(store, each(steps).await?).await?;
        removed.extend(reaped.iter().filter_map(Step::outcome));
    }
    Ok(removed)
}

/// Plans the step that removes what a tombstone names.
async fn reap_step(store: &Store, digest: Digest) -> Result<Option<Step>> {
    let found = store
        .records
        .load(Table::Blobs, &digest.to_string())
        .await?;
    let Some(found) = found else {
        return Ok(None);
    };
    let record = decode(&found)?;
    Ok(record.tombstone.map(|Tombstone { version }| Step {
        digest,
        bytes: version.map(|version| Stat {
            digest,
            size: record.size,
            version,
        }),
        expect: found.revision,
        value: None,
    }))
}

/// Applies the steps whose records are as expected. Returns these steps.
async fn apply_each(store: &Store, mut steps: Vec<Step>) -> Result<Vec<Step>> {
    if store.records.capabilities().has(Capability::Atomic) {
        for _ in 0..ROUNDS {
            match apply(store, &steps).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    steps = still_expected(&*store.records, steps).await?;
                }
                outcome => return outcome.map(|()| steps),
            }
        }
    }
    let singles = steps.into_iter().map(|step| async move {
        match apply(store, std::slice::from_ref(&step)).await {
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(None),
            outcome => outcome.map(|()| Some(step)),
        }
    });
    let outcomes: Vec<Result<Option<Step>>> =
        stream::iter(singles).buffered(CONCURRENT).collect().await;
    outcomes.into_iter().filter_map(Result::transpose).collect()
}

async fn apply(store: &Store, steps: &[Step]) -> Result<()> {
    let mut batch = Batch::new();
    batch.extend(steps.iter().map(Step::change));
    batch.set_reclaims();
    let bytes = steps.iter().filter_map(|step| step.bytes);
    let bytes: Vec<_> = bytes.map(|stat| (stat.digest, stat.version)).collect();
    if bytes.is_empty() || !store.content.remove_versions(&bytes, &batch).await? {
        store.records.commit(&batch).await?;
    }
    Ok(())
}

async fn still_expected(records: &dyn Records, steps: Vec<Step>) -> Result<Vec<Step>> {
    let mut kept = Vec::with_capacity(steps.len());
    for step in steps {
        let found = records.load(Table::Blobs, &step.digest.to_string()).await?;
        if found.is_some_and(|found| found.revision == step.expect) {
            kept.push(step);
        }
    }
    Ok(kept)
}

/// Removes snapshots, children before parents. A snapshot that was changed since the scan stays,
/// and so do its ancestors. Returns the removed keys with the numbers of their snapshotters.
pub(super) async fn snapshots(
    snapshotters: &[&dyn Snapshotter],
    unreachable: &[(usize, Info)],
) -> Result<Vec<(usize, String)>> {
    // The children of an unreachable snapshot are unreachable, or they would keep it.
    let mut children: HashMap<(usize, &str), usize> = HashMap::new();
    let mut known: HashMap<(usize, &str), &Info> = HashMap::new();
    for (number, info) in unreachable {
        known.insert((*number, &info.key), info);
        if let Some(parent) = &info.parent {
            *children.entry((*number, parent)).or_default() += 1;
        }
    }
    let mut leaves: Vec<(usize, &Info)> = unreachable
        .iter()
        .map(|(number, info)| (*number, info))
        .filter(|(number, info)| !children.contains_key(&(*number, info.key.as_str())))
        .collect();
    let mut removed = Vec::new();
    while let Some((number, info)) = leaves.pop() {
        if !remove(snapshotters[number], info).await? {
            continue;
        }
        removed.push((number, info.key.clone()));
        let Some(parent) = info.parent.as_deref() else {
            continue;
        };
        let below = (number, parent);
        let left = children.get_mut(&below).map(|left| {
            *left -= 1;
            *left
        });
        leaves.extend(
            known
                .get(&below)
                .filter(|_| left == Some(0))
                .map(|info| (number, *info)),
        );
    }
    Ok(removed)
}

async fn remove(snapshotter: &dyn Snapshotter, seen: &Info) -> Result<bool> {
    match snapshotter.remove_seen(seen).await {
        // The snapshot has got a child meanwhile.
        Err(error) if error.kind() == ErrorKind::FailedPrecondition => Ok(false),
        outcome => outcome,
    }
}
