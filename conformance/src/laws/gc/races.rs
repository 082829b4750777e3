//! Laws of races between a collection and a job that use the same blob.

use cas_core::content::{ContentExt, Durability};
use cas_core::gc::{GcOptions, collect};
use cas_core::lease::{BlobRef, LeaseGuard};
use cas_core::records::{Batch, Blobs, Expect, Tombstone};
use cas_core::{Descriptor, Digest, ErrorKind, Image, MediaType, Store};

use super::Subject;
use super::{collect_in, collect_now, there};
use crate::material::{bytes, kind};
use crate::sample::{JOB_LEASE, Sample, tag, verify};

/// Writes a tombstone into the record of a blob, like a collection that is killed after this write.
/// Returns the tombstone.
pub(super) async fn condemn(store: &Store, digest: &Digest) -> Tombstone {
    let stat = store.content.stat(digest).await.unwrap();
    let tombstone = Tombstone {
        version: stat.map(|stat| stat.version),
    };
    let (mut record, revision) = store.blobs().load(digest).await.unwrap().unwrap();
    record.tombstone = Some(tombstone);
    let mut batch = Batch::new();
    Blobs::put(&mut batch, digest, &record, Expect::Revision(revision)).unwrap();
    store.records.commit(&batch).await.unwrap();
    tombstone
}

/// A job that pins a tombstoned blob revives it, and a late collector must not remove it.
pub(super) async fn a_tombstoned_blob_can_be_pinned_again(subject: Subject) {
    let store = subject.open().await;
    let sample = Sample::of(1);
    sample.import(&store, "one").await.unwrap();
    let mut tombstones = Vec::new();
    for digest in sample.digests() {
        tombstones.push((digest, condemn(&store, &digest).await));
    }
    tag(&store, "one", "two").await.unwrap();
    for (digest, tombstone) in tombstones {
        let late = store
            .content
            .remove_version(&digest, tombstone.version.unwrap());
        assert!(
            !late.await.unwrap(),
            "a late collector removed {digest}, which a job had pinned again"
        );
    }
    assert!(collect_now(&store).await.is_empty());
    verify(&store, &sample.root()).await.unwrap();
}

/// Stores a tombstoned blob again, first after its bytes were removed, then while they still exist.
/// Each time, the record of the blob must then have no tombstone.
pub(super) async fn a_blob_stored_over_a_tombstone_is_live(subject: Subject) {
    let store = subject.open().await;
    let data = bytes(1, 1_000);
    let descriptor = Descriptor::of(MediaType::OCI_LAYER, &data);
    let digest = &descriptor.digest;
    for gone in [true, false] {
        store
            .put(&descriptor, data.clone(), Durability::Full)
            .await
            .unwrap();
        condemn(&store, digest).await;
        if gone {
            assert!(store.content.remove(digest).await.unwrap());
        }
        store
            .put(&descriptor, data.clone(), Durability::Full)
            .await
            .unwrap();
        let (record, _) = store.blobs().load(digest).await.unwrap().unwrap();
        assert_eq!(record.tombstone, None);
        assert!(collect_now(&store).await.is_empty());
        assert_eq!(there(&store).await, [*digest]);
    }
}

/// A collection writes two tombstones, removes the bytes of one of the two blobs, and is killed
/// before it removes a record. The next collection must finish the work.
pub(super) async fn a_collection_finishes_what_another_began(subject: Subject) {
    let store = subject.open().await;
    let (kept, gone) = (Sample::of(1), Sample::of(2));
    kept.import(&store, "kept").await.unwrap();
    gone.import(&store, "gone").await.unwrap();
    store
        .images
        .delete(&"gone".parse().unwrap(), None)
        .await
        .unwrap();
    let (condemned, bare) = (gone.digests()[1], gone.digests()[2]);
    condemn(&store, &condemned).await;
    condemn(&store, &bare).await;
    assert!(store.content.remove(&bare).await.unwrap());
    collect_now(&store).await;
    assert_eq!(there(&store).await, super::sorted(kept.digests()));
    assert_eq!(store.blobs().load(&condemned).await.unwrap(), None);
    assert_eq!(store.blobs().load(&bare).await.unwrap(), None);
}

/// If the lease of a job expires and a collection removes the blobs, the job must not create a name
/// for the image. If only the lease is removed and the blobs still exist, the job must succeed.
pub(super) async fn a_lease_that_expires_during_a_job_is_noticed(subject: Subject) {
    let store = subject.open().await;
    let sample = Sample::of(1);
    let image = Image::new("one".parse().unwrap(), sample.root());
    let guard = LeaseGuard::begin_for(&store, "slow", JOB_LEASE)
        .await
        .unwrap();
    sample.store(&store, &guard).await.unwrap();
    collect_in(&store, JOB_LEASE * 2).await;
    assert!(there(&store).await.is_empty());
    let named = guard.name(vec![image.clone()], &["target"]).await;
    assert_eq!(kind(named), Some(ErrorKind::Conflict));
    assert_eq!(store.images.list(&[]).await.unwrap(), []);

    let guard = LeaseGuard::begin_for(&store, "slow", JOB_LEASE)
        .await
        .unwrap();
    sample.store(&store, &guard).await.unwrap();
    assert!(
        store
            .leases()
            .delete(guard.id(), "", after_expiry())
            .await
            .unwrap()
    );
    guard.name(vec![image], &["target"]).await.unwrap();
    collect_now(&store).await;
    verify(&store, &sample.root()).await.unwrap();
    assert_eq!(
        store.leases().list().await.unwrap(),
        [],
        "no lease may be left after a job whose lease expired"
    );
}

fn after_expiry() -> std::time::SystemTime {
    std::time::SystemTime::now() + JOB_LEASE * 2
}

/// A collection must skip a record that changed since its scan.
pub(super) async fn a_blob_pinned_since_the_scan_stays(subject: Subject) {
    let store = subject.open().await;
    // The first collection of a store corrects the records of image indexes before its scan. The
    // next collection scans at once, so the pin below can fall between its scan and its removal.
    collect_now(&store).await;
    let sample = Sample::of(1);
    sample.import(&store, "one").await.unwrap();
    store
        .images
        .delete(&"one".parse().unwrap(), None)
        .await
        .unwrap();
    let touched = sample.digests()[0];
    let options = GcOptions::default();
    let guard = LeaseGuard::begin_for(&store, "law", JOB_LEASE)
        .await
        .unwrap();
    let collection = collect(&store, &[], &options);
    let touch = guard.pin(BlobRef::existing(touched));
    let (collected, held) = tokio::join!(collection, touch);
    let (_, held) = (collected.unwrap(), held.unwrap());
    let left = store.content.stat(&touched).await.unwrap();
    assert_eq!(
        held,
        left.is_some(),
        "a pin must succeed exactly if the blob still exists"
    );
}
