//! Removes what nothing holds: bytes and record in one step where the store can; elsewhere
//! tombstones first, then the bytes, then the tombstones.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::capability::Capability;
use crate::content::Version;
use crate::digest::Digest;
use crate::error::{ErrorKind, Result};
use crate::records::blob::{decode, encode};
use crate::records::{Batch, Change, Expect, Records, Revision, Table, Tombstone};
use crate::snapshot::{Info, Snapshotter};
use crate::store::Store;

/// Removals in one transaction: a writer waits for no longer than a few of these take.
const CHUNK: usize = 64;
/// Chunks under way at once.
const CHUNKS: usize = 8;
/// Removals after which they are made durable, where a crash would undo them: a store that has
/// to be able to undo them frees nothing.
const FLUSHED: usize = 32 * CHUNK;
/// Blobs that are looked at at once, and changes made at once where the home has no transactions.
const CONCURRENT: usize = 16;
/// How often a batch is tried without those of its changes that have lost, before each is alone.
const ROUNDS: usize = 4;

/// One change of a record on the way of a blob out of the store.
struct Step {
    digest: Digest,
    /// Length of the bytes, where there are any.
    size: u64,
    /// The bytes that go in the same step, or before it.
    bytes: Option<Version>,
    expect: Revision,
    /// The tombstone; nothing removes the record.
    value: Option<Bytes>,
}

impl Step {
    fn outcome(&self) -> (Digest, u64) {
        (self.digest, self.size)
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

/// Whether bytes and record go in one step, so that no tombstone is needed.
fn joint(store: &Store) -> bool {
    store.content.capabilities().has(Capability::Joint)
}

/// Removes the blobs whose records are still as they were noted; which, and their sizes.
pub(super) async fn blobs(
    store: &Store,
    candidates: &[(Digest, Revision)],
) -> Result<Vec<(Digest, u64)>> {
    let mut removed = Vec::with_capacity(candidates.len());
    for some in candidates.chunks(FLUSHED) {
        // While one waits for its commit, the next is looked at.
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
        return Ok(removed.iter().map(Step::outcome).collect());
    }
    let noted = chunk.into_iter();
    let tombstoned = noted.map(|(digest, noted)| tombstone_step(store, digest, noted));
    let tombstoned = apply_each(store, each(tombstoned).await?).await?;
    let digests: Vec<Digest> = tombstoned.iter().map(|step| step.digest).collect();
    reap(store, &digests).await
}

/// Finds out about several blobs at once.
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

/// The steps that remove blobs whole, where their records are as noted.
async fn removals(store: &Store, noted: Vec<(Digest, Revision)>) -> Result<Vec<Step>> {
    // Where most is garbage a page of the list tells of all, for less than a look at each.
    let listed = match noted.first() {
        Some((first, _)) => store.content.list(Some(first), 2 * noted.len()).await?,
        None => Vec::new(),
    };
    let mut steps = Vec::with_capacity(noted.len());
    for (digest, noted) in noted {
        let stat = match listed.binary_search_by(|stat| stat.digest.cmp(&digest)) {
            Ok(at) => Some(listed[at]),
            Err(_) => store.content.stat(&digest).await?,
        };
        steps.push(Step {
            digest,
            size: stat.map_or(0, |stat| stat.size),
            bytes: stat.map(|stat| stat.version),
            expect: noted,
            value: None,
        });
    }
    Ok(steps)
}

/// The step that makes a tombstone of a record, where it is as noted.
async fn tombstone_step(store: &Store, digest: Digest, noted: Revision) -> Result<Option<Step>> {
    let found = store
        .records
        .load(Table::Blobs, &digest.to_string())
        .await?;
    let Some(found) = found.filter(|found| found.revision == noted) else {
        return Ok(None);
    };
    let mut record = decode(&found)?;
    let stat = store.content.stat(&digest).await?;
    record.tombstone = Some(Tombstone {
        version: stat.map(|stat| stat.version),
    });
    Ok(Some(Step {
        digest,
        size: record.size,
        bytes: None,
        expect: found.revision,
        value: Some(encode(&record)?),
    }))
}

/// Removes the bytes of blobs that are tombstoned, and then their records; those that were
/// revived meanwhile are passed over. Which, and their sizes.
pub(super) async fn reap(store: &Store, tombstoned: &[Digest]) -> Result<Vec<(Digest, u64)>> {
    let mut removed = Vec::with_capacity(tombstoned.len());
    for chunk in tombstoned.chunks(CHUNK) {
        let steps = chunk.iter().copied().map(|digest| reap_step(store, digest));
        let reaped = apply_each(store, each(steps).await?).await?;
        removed.extend(reaped.iter().map(Step::outcome));
    }
    Ok(removed)
}

/// The step that removes what a tombstone names.
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
        size: version.map_or(0, |_| record.size),
        bytes: version,
        expect: found.revision,
        value: None,
    }))
}

/// Takes those of the steps that find what they expect.
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
    let bytes = steps
        .iter()
        .filter_map(|step| Some((step.digest, step.bytes?)));
    let bytes: Vec<_> = bytes.collect();
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

/// Removes snapshots, each after those that stand on it; one that was touched since it was noted
/// stays, and so does what it stands on. Which.
pub(super) async fn snapshots(
    snapshotters: &[&dyn Snapshotter],
    dead: &[(usize, Info)],
) -> Result<Vec<(usize, String)>> {
    // What stands on a dead one is dead, or it would be reached from there.
    let mut standing: HashMap<(usize, &str), usize> = HashMap::new();
    let mut known: HashMap<(usize, &str), &Info> = HashMap::new();
    for (number, info) in dead {
        known.insert((*number, &info.key), info);
        if let Some(parent) = &info.parent {
            *standing.entry((*number, parent)).or_default() += 1;
        }
    }
    let mut leaves: Vec<(usize, &Info)> = dead
        .iter()
        .map(|(number, info)| (*number, info))
        .filter(|(number, info)| !standing.contains_key(&(*number, info.key.as_str())))
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
        let left = standing.get_mut(&below).map(|left| {
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
        // Somebody stands on it by now.
        Err(error) if error.kind() == ErrorKind::FailedPrecondition => Ok(false),
        outcome => outcome,
    }
}
