//! Laws about the end of an ingest (proofs, durability, records, cancellation), about removals, and
//! about copies between stores.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::content::{Durability, Expected, IngestStatus, Stat, Verified, Version, Writer};
use cas_core::records::{Batch, Expect, Revision, Table};
use cas_core::{
    BlobReader, Capabilities, ContentExt, ContentStore, Digest, ErrorKind, Ingest, Result,
};

use super::Subject;
use crate::material::{assert_absent, assert_has, bytes, digests, ingest, kind, put, read};

/// A store that publishes an ingest with the [`Verified`] of another ingest.
struct Thief(Arc<dyn ContentStore>);

struct Stolen {
    proven: Box<dyn Ingest>,
    unproven: Box<dyn Ingest>,
}

#[async_trait]
impl ContentStore for Thief {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    async fn stat(&self, digest: &Digest) -> Result<Option<Stat>> {
        self.0.stat(digest).await
    }
    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn BlobReader>>> {
        self.0.open(digest).await
    }
    async fn begin(&self, key: &str) -> Result<Box<dyn Ingest>> {
        let proven = self.0.begin(key).await?;
        let mut unproven = self.0.begin("unproven").await?;
        unproven.append(bytes(2, 1_000)).await?;
        Ok(Box::new(Stolen { proven, unproven }))
    }
    async fn ingests(&self) -> Result<Vec<IngestStatus>> {
        self.0.ingests().await
    }
    async fn discard(&self, key: &str) -> Result<bool> {
        self.0.discard(key).await
    }
    async fn remove_version(&self, digest: &Digest, version: Version) -> Result<bool> {
        self.0.remove_version(digest, version).await
    }
    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stat>> {
        self.0.list(after, limit).await
    }
    async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }
}

#[async_trait]
impl Ingest for Stolen {
    fn key(&self) -> &str {
        self.proven.key()
    }
    fn offset(&self) -> u64 {
        self.proven.offset()
    }
    async fn append(&mut self, data: Bytes) -> Result<()> {
        self.proven.append(data).await
    }
    async fn read_back(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        self.proven.read_back(offset, length).await
    }
    async fn rewind(&mut self) -> Result<()> {
        self.proven.rewind().await
    }
    async fn publish(
        self: Box<Self>,
        verified: &Verified,
        batch: &Batch,
        durability: Durability,
    ) -> Result<bool> {
        self.unproven.publish(verified, batch, durability).await
    }
}

/// The proof of one ingest must not publish another ingest of equal length.
pub(super) async fn a_foreign_proof_is_refused(subject: Subject) {
    let store = subject.open().await;
    let thief = Thief(Arc::clone(&store));
    let data = bytes(1, 1_000);
    let outcome = ingest(&thief, "proven", &data, Expected::ANY).await;
    assert_eq!(kind(outcome), Some(ErrorKind::Internal));
    assert_absent(&*store, &Digest::sha256(&data)).await;
    assert_absent(&*store, &Digest::sha256(&bytes(2, 1_000))).await;
}

pub(super) async fn every_durability_publishes(subject: Subject) {
    let store = subject.open().await;
    let levels = [Durability::Full, Durability::Batched, Durability::Relaxed];
    for (seed, level) in (0..).zip(levels) {
        let data = bytes(seed, 20_000);
        let mut writer = Writer::begin(&*store, "layer", Expected::ANY)
            .await
            .unwrap();
        writer.write(data.clone()).await.unwrap();
        writer.commit(&Batch::new(), level).await.unwrap();
        assert_has(&*store, &Digest::sha256(&data), &data).await;
    }
    store.flush().await.unwrap();
}

/// Removes a blob while it is written again.
pub(super) async fn a_removed_blob_can_be_stored_again(subject: Subject) {
    let store = subject.open().await;
    let data = bytes(1, 50_000);
    let digest = put(&*store, &data).await;
    let mut writer = Writer::begin(&*store, "again", Expected::ANY)
        .await
        .unwrap();
    writer.write(data.clone()).await.unwrap();
    assert!(store.remove(&digest).await.unwrap());
    assert_absent(&*store, &digest).await;
    writer
        .commit(&Batch::new(), Durability::Full)
        .await
        .unwrap();
    assert_has(&*store, &digest, &data).await;
}

/// Removes a version that is no longer current.
pub(super) async fn a_late_removal_spares_what_came_after(subject: Subject) {
    let store = subject.open().await;
    let data = bytes(1, 10_000);
    let digest = put(&*store, &data).await;
    let seen = store.stat(&digest).await.unwrap().unwrap();
    assert_eq!(put(&*store, &data).await, digest);
    let again = store.stat(&digest).await.unwrap();
    assert_eq!(
        again,
        Some(seen),
        "storing a blob twice must not change its version"
    );
    assert_eq!(store.list(None, 9).await.unwrap(), [seen]);
    assert!(store.remove_version(&digest, seen.version).await.unwrap());
    assert!(!store.remove_version(&digest, seen.version).await.unwrap());
    put(&*store, &data).await;
    assert!(!store.remove_version(&digest, seen.version).await.unwrap());
    assert_has(&*store, &digest, &data).await;
    // The same holds for a removal of many blobs in one call.
    let late = [(digest, seen.version)];
    store.remove_versions(&late, &Batch::new()).await.unwrap();
    assert_has(&*store, &digest, &data).await;
}

/// Copies a blob to a store that already has its first bytes from an interrupted copy.
pub(super) async fn blobs_are_copied_between_stores(subject: Subject) {
    let (from, to) = (subject.open().await, subject.open_other("other").await);
    let data = bytes(1, 3_000_000);
    let digest = put(&*from, &data).await;
    assert_absent(&*to, &digest).await;
    let mut begun = to.begin(&digest.to_string()).await.unwrap();
    begun.append(data.slice(..1_000_000)).await.unwrap();
    drop(begun);
    assert_eq!(to.copy_from(&*from, &digest).await.unwrap(), 3_000_000);
    assert_has(&*to, &digest, &data).await;
    let absent = Digest::sha256(b"absent");
    assert_eq!(
        kind(to.copy_from(&*from, &absent).await),
        Some(ErrorKind::NotFound)
    );
}

/// Drops the future of a commit at different moments. The blob must then be whole or absent, and
/// the key must become free.
pub(super) async fn a_cancelled_publish_is_whole_or_absent(subject: Subject) {
    let store = subject.open().await;
    for polls in 0..4 {
        let data = bytes(polls, 400_000);
        let digest = Digest::sha256(&data);
        let mut writer = Writer::begin(&*store, "layer", Expected::ANY)
            .await
            .unwrap();
        writer.write(data.clone()).await.unwrap();
        {
            let batch = Batch::new();
            let mut commit = pin!(writer.commit(&batch, Durability::Full));
            let mut context = Context::from_waker(Waker::noop());
            for _ in 0..polls {
                if commit.as_mut().poll(&mut context).is_ready() {
                    break;
                }
            }
        }
        if let Some(found) = read(&*store, &digest).await {
            assert!(found == data, "a part of the blob is visible");
        }
        let expected = Expected::exactly(digest, 400_000);
        let patience = Duration::from_secs(60);
        let writer = store.begin_or_wait("layer", expected, patience).await;
        let mut writer = writer.expect("a writer must get the ingest key of a cancelled commit");
        if writer.offset() == 0 {
            writer.write(data.clone()).await.unwrap();
        }
        writer
            .commit(&Batch::new(), Durability::Full)
            .await
            .unwrap();
        assert_has(&*store, &digest, &data).await;
    }
}

pub(super) async fn waiting_ends_with_the_other_writer(subject: Subject) {
    let store = subject.open().await;
    let first = store.begin("layer").await.unwrap();
    let patience = Duration::from_millis(20);
    let late = store.begin_or_wait("layer", Expected::ANY, patience).await;
    assert_eq!(kind(late), Some(ErrorKind::Busy));
    let waiting = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            let patience = Duration::from_secs(60);
            store.begin_or_wait("layer", Expected::ANY, patience).await
        }
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    drop(first);
    waiting
        .await
        .unwrap()
        .expect("a writer must get the ingest key of a writer that ended");
}

/// If the batch is in conflict, the bytes must not become a blob. Their ingest must stay, so that a
/// later commit can publish it.
pub(super) async fn bytes_and_batch_are_one_step(subject: Subject) {
    let store = subject.open().await;
    let data = bytes(1, 10_000);
    let digest = Digest::sha256(&data);
    let mut batch = Batch::new();
    let expect = Expect::Revision(Revision::new("never made"));
    batch.put(Table::Blobs, digest.to_string(), expect, Bytes::new());
    let mut writer = Writer::begin(&*store, "layer", Expected::ANY)
        .await
        .unwrap();
    writer.write(data.clone()).await.unwrap();
    let outcome = writer.commit(&batch, Durability::Full).await;
    assert_eq!(kind(outcome), Some(ErrorKind::Conflict));
    assert_absent(&*store, &digest).await;
    let mut batch = Batch::new();
    batch.put(
        Table::Blobs,
        digest.to_string(),
        Expect::Absent,
        Bytes::new(),
    );
    let writer = Writer::begin(&*store, "layer", Expected::ANY)
        .await
        .unwrap();
    assert_eq!(
        writer.offset(),
        10_000,
        "a refused commit must keep the bytes of its ingest"
    );
    let committed = writer.commit(&batch, Durability::Full).await.unwrap();
    assert!(
        committed.batch,
        "a store with `Capability::Joint` must report that it committed the batch of records \
         together with the blob"
    );
    assert_has(&*store, &digest, &data).await;
    let mut writer = Writer::begin(&*store, "layer", Expected::ANY)
        .await
        .unwrap();
    writer.write(data).await.unwrap();
    let again = writer.commit(&batch, Durability::Full).await;
    assert_eq!(
        kind(again),
        Some(ErrorKind::Conflict),
        "a batch that creates an existing record must be refused"
    );
}

/// If the batch is in conflict, no blob may be removed. A blob that does not exist must not prevent
/// the removal of the other blobs.
pub(super) async fn a_removal_and_its_batch_are_one_step(subject: Subject) {
    let store = subject.open().await;
    let data = bytes(1, 10_000);
    let digest = Digest::sha256(&data);
    let mut record = Batch::new();
    record.put(Table::Blobs, "record", Expect::Absent, Bytes::new());
    ingest_with(&*store, &data, &record).await.unwrap();
    let stat = store.stat(&digest).await.unwrap().unwrap();
    let absent = (Digest::sha256(b"absent"), stat.version);
    let blobs = [absent, (digest, stat.version)];

    let mut conflict = Batch::new();
    let expect = Expect::Revision(Revision::new("never made"));
    conflict.delete(Table::Blobs, "record", expect);
    let outcome = store.remove_versions(&blobs, &conflict).await;
    assert_eq!(kind(outcome), Some(ErrorKind::Conflict));
    assert_has(&*store, &digest, &data).await;

    let mut deletion = Batch::new();
    deletion.delete(Table::Blobs, "record", Expect::Any);
    assert!(
        store.remove_versions(&blobs, &deletion).await.unwrap(),
        "a store with `Capability::Joint` must report that it committed the batch of records \
         together with the removal"
    );
    assert_absent(&*store, &digest).await;
    store.flush().await.unwrap();
    // This commit would be refused if the record still existed.
    ingest_with(&*store, &data, &record).await.unwrap();
    assert_has(&*store, &digest, &data).await;
}

/// Removes blobs that are next to each other or far apart in the list, in the order of the list or
/// backwards.
pub(super) async fn a_removal_of_many_removes_only_those(subject: Subject) {
    let store = subject.open().await;
    let mut there = Vec::new();
    for number in 0..48 {
        there.push(put(&*store, &bytes(number, 100)).await);
    }
    there.sort();
    let far: Vec<Digest> = there.iter().step_by(6).copied().collect();
    remove_all(&*store, &mut there, &far).await;
    let first = there[..12].to_vec();
    remove_all(&*store, &mut there, &first).await;
    let backwards: Vec<Digest> = there.iter().step_by(2).rev().copied().collect();
    remove_all(&*store, &mut there, &backwards).await;
    let rest = there.clone();
    remove_all(&*store, &mut there, &rest).await;
}

/// Removes the blobs `gone` in one call, and checks that only the others are left.
async fn remove_all(store: &dyn ContentStore, there: &mut Vec<Digest>, gone: &[Digest]) {
    let mut blobs = Vec::new();
    for digest in gone {
        let stat = store.stat(digest).await.unwrap();
        blobs.push((
            *digest,
            stat.expect("a blob must exist until it is removed").version,
        ));
    }
    let removed = store.remove_versions(&blobs, &Batch::new()).await;
    removed.expect("the removal must succeed");
    there.retain(|digest| !gone.contains(digest));
    assert_eq!(
        digests(store).await,
        *there,
        "a removal must remove exactly the given blobs"
    );
    for digest in gone {
        assert_absent(store, digest).await;
    }
}

async fn ingest_with(store: &dyn ContentStore, data: &Bytes, batch: &Batch) -> Result<()> {
    let mut writer = Writer::begin(store, "layer", Expected::ANY).await?;
    writer.write(data.clone()).await?;
    writer.commit(batch, Durability::Full).await.map(|_| ())
}
