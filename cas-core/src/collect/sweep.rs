//! Removes what nothing holds: tombstones first, then the bytes, then the tombstones.

use std::collections::HashMap;

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::capability::Capability;
use crate::content::Version;
use crate::digest::Digest;
use crate::error::{Kind, Result};
use crate::records::blob::{decode, encode};
use crate::records::{Batch, Change, Expect, Records, Revision, Table, Tombstone};
use crate::snapshot::{Info, Snapshotter};
use crate::store::Store;

/// Changes in one transaction: a writer waits for no longer than a few of these take.
const CHUNK: usize = 256;
/// Chunks under way at once.
const CHUNKS: usize = 4;
/// Changes under way at once, where the home has no transactions.
const CONCURRENT: usize = 16;
/// How often a batch is tried without those of its changes that have lost, before each is alone.
const ROUNDS: usize = 4;

/// Condemns the blobs whose records are still as they were noted, and removes them; which, and
/// their sizes.
pub(super) async fn blobs(
    store: &Store,
    candidates: &[(Digest, Revision)],
) -> Result<Vec<(Digest, u64)>> {
    // While one waits for its commit, the next is read.
    let chunks = candidates.chunks(CHUNK);
    let sweeps: Vec<_> = chunks.map(|chunk| sweep(store, chunk)).collect();
    let removed: Vec<_> = stream::iter(sweeps).buffered(CHUNKS).try_collect().await?;
    Ok(removed.concat())
}

async fn sweep(store: &Store, chunk: &[(Digest, Revision)]) -> Result<Vec<(Digest, u64)>> {
    let mut changes = Vec::with_capacity(chunk.len());
    for (digest, noted) in chunk {
        changes.extend(condemn(store, digest, noted).await?);
    }
    let condemned = commit_each(&*store.records, changes).await?;
    let digests = condemned
        .iter()
        .filter_map(|change| change.key.parse().ok());
    bury(store, &digests.collect::<Vec<_>>()).await
}

/// The change that makes a tombstone of a record, where it is as noted.
async fn condemn(store: &Store, digest: &Digest, noted: &Revision) -> Result<Option<Change>> {
    let key = digest.to_string();
    let found = store.records.load(Table::Blobs, &key).await?;
    let Some(found) = found.filter(|found| found.revision == *noted) else {
        return Ok(None);
    };
    let mut record = decode(&found)?;
    let stat = store.content.stat(digest).await?;
    record.tombstone = Some(Tombstone {
        version: stat.map(|stat| stat.version),
    });
    Ok(Some(Change {
        table: Table::Blobs,
        key,
        expect: Expect::Revision(found.revision),
        value: Some(encode(&record)?),
    }))
}

/// Removes the bytes of blobs that are condemned, and then their records; those that were
/// revived meanwhile are passed over. Which, and their sizes.
pub(super) async fn bury(store: &Store, condemned: &[Digest]) -> Result<Vec<(Digest, u64)>> {
    let mut removed = Vec::with_capacity(condemned.len());
    for chunk in condemned.chunks(CHUNK) {
        let (mut bytes, mut deletions, mut sizes) = (Vec::new(), Vec::new(), HashMap::new());
        for digest in chunk {
            let key = digest.to_string();
            let Some(found) = store.records.load(Table::Blobs, &key).await? else {
                continue;
            };
            let record = decode(&found)?;
            let Some(tombstone) = record.tombstone else {
                continue;
            };
            bytes.extend(tombstone.version.map(|version: Version| (*digest, version)));
            sizes.insert(
                key.clone(),
                (*digest, tombstone.version.map_or(0, |_| record.size)),
            );
            deletions.push(Change {
                table: Table::Blobs,
                key,
                expect: Expect::Revision(found.revision),
                value: None,
            });
        }
        store.content.remove_versions(&bytes).await?;
        for deleted in commit_each(&*store.records, deletions).await? {
            removed.extend(sizes.remove(&deleted.key));
        }
    }
    Ok(removed)
}

/// Commits those of the changes that find what they expect.
async fn commit_each(records: &dyn Records, mut changes: Vec<Change>) -> Result<Vec<Change>> {
    if records.capabilities().has(Capability::Atomic) {
        for _ in 0..ROUNDS {
            match commit(records, &changes).await {
                Err(error) if error.kind() == Kind::Conflict => {
                    changes = still_expected(records, changes).await?;
                }
                outcome => return outcome.map(|()| changes),
            }
        }
    }
    let singles = changes.into_iter().map(|change| async move {
        match commit(records, std::slice::from_ref(&change)).await {
            Err(error) if error.kind() == Kind::Conflict => Ok(None),
            outcome => outcome.map(|()| Some(change)),
        }
    });
    let outcomes: Vec<Result<Option<Change>>> =
        stream::iter(singles).buffered(CONCURRENT).collect().await;
    outcomes.into_iter().filter_map(Result::transpose).collect()
}

async fn commit(records: &dyn Records, changes: &[Change]) -> Result<()> {
    let mut batch = Batch::new();
    batch.extend(changes.iter().cloned());
    records.commit(&batch).await
}

async fn still_expected(records: &dyn Records, changes: Vec<Change>) -> Result<Vec<Change>> {
    let mut kept = Vec::with_capacity(changes.len());
    for change in changes {
        let found = records.load(change.table, &change.key).await?;
        let found = found.map(|found| Expect::Revision(found.revision));
        if found.as_ref() == Some(&change.expect) {
            kept.push(change);
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
        Err(error) if error.kind() == Kind::FailedPrecondition => Ok(false),
        outcome => outcome,
    }
}
