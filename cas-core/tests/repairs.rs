//! What a repair keeps and restores after records of blobs were lost, and how long it keeps damaged
//! bytes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::SystemTime;

use bytes::Bytes;
use cas_core::check::{
    CheckOptions, NoSources, Problem, QUARANTINE, RECOVERED, ReadData, Repair, Report, check,
};
use cas_core::gc::{GcOptions, collect};
use cas_core::image::Image;
use cas_core::lease::{LeaseGuard, UNLEASED_TTL, set_labels};
use cas_core::records::{Batch, BlobRecord, Expect, Resource, Table};
use cas_core::testing::fault::{Fault, Plan, Side, faulty};
use cas_core::{ContentExt, Descriptor, Digest, ErrorKind, Labels, MediaType, Owner, Store};

mod support;
use support::wrapped::{Flaw, Wrapped};
use support::{image, parts, put, repaired, store};

/// Collects when nothing is young.
async fn collected(store: &Store) {
    let later = SystemTime::now() + 2 * UNLEASED_TTL;
    let options = GcOptions::default().with_now(later);
    collect(store, &[], &options).await.unwrap();
}

async fn is_there(store: &Store, digest: &Digest) -> bool {
    store.content.stat(digest).await.unwrap().is_some()
}

async fn problems(store: &Store) -> Vec<(Problem, String)> {
    let report = check(store, &[], &CheckOptions::default()).await.unwrap();
    let found = report.findings.into_iter();
    found.map(|one| (one.problem, one.subject)).collect()
}

/// Ends a lease of repairs. Returns what it listed.
async fn end(store: &Store, lease: &str) -> Vec<Resource> {
    let leases = store.leases();
    let found = leases.load(lease).await.unwrap();
    let ended = leases.delete(lease, "fsck", SystemTime::now()).await;
    assert_eq!(ended.unwrap(), found.is_some());
    let listed = found.into_iter().flat_map(|(lease, _)| lease.resources);
    listed.collect()
}

/// Returns a store with a named image, the manifest of the image, and a blob that only a label of
/// the manifest keeps.
async fn with_labelled() -> (Store, Descriptor, Digest) {
    let store = store();
    let target = image(&store, "linux/amd64").await;
    let named = Image::new("app:1".parse().unwrap(), target.clone());
    store.images.create(named).await.unwrap();
    let kept = put(&store, MediaType::BYTES, b"only a label keeps this").await;
    let label = (
        "containerd.io/gc.ref.content.extra".to_owned(),
        kept.digest.to_string(),
    );
    set_labels(&store, &target, &Labels::from([label]))
        .await
        .unwrap();
    (store, target, kept.digest)
}

#[tokio::test]
async fn a_repair_keeps_what_a_label_in_a_lost_record_may_have_kept() {
    let (store, target, kept) = with_labelled().await;
    // An image that a user has removed: the record of its manifest lists its other blobs.
    let removed = image(&store, "linux/arm64").await;
    assert!(store.blobs().remove(&target.digest).await.unwrap());
    let report = repaired(&store).await.unwrap();
    let found = report.findings.iter();
    let found: Vec<_> = found
        .map(|one| (one.problem, one.subject.clone(), one.repaired))
        .collect();
    let expected = [&target.digest, &kept].map(|digest| digest.to_string());
    let expected = expected.map(|subject| (Problem::RecordMissing, subject, true));
    assert_eq!(found, expected, "{report:?}");
    assert!(report.findings[1].detail.contains("the lease `recovered`"));
    assert_eq!(repaired(&store).await.unwrap().findings, []);
    collected(&store).await;
    assert!(is_there(&store, &kept).await);
    assert!(!is_there(&store, &removed.digest).await);
    assert_eq!(end(&store, RECOVERED).await, [Resource::Content(kept)]);
    collected(&store).await;
    assert!(!is_there(&store, &kept).await);
    assert!(is_there(&store, &target.digest).await);
}

/// A user has removed the label.
#[tokio::test]
async fn a_repair_that_finds_no_lost_record_keeps_nothing_more() {
    let (store, target, kept) = with_labelled().await;
    let remove = |record: Option<BlobRecord>| {
        let mut record = record.expect("every blob has a record");
        record.labels.clear();
        Ok(record)
    };
    store.blobs().update(&target.digest, remove).await.unwrap();
    assert_eq!(repaired(&store).await.unwrap().findings, []);
    assert_eq!(end(&store, RECOVERED).await, []);
    collected(&store).await;
    assert!(!is_there(&store, &kept).await);
}

async fn claimed(store: &Store, owner: &Owner) -> Vec<Digest> {
    let claimed = store.blobs().claimed_by(owner).await.unwrap();
    claimed.into_iter().map(|(digest, _)| digest).collect()
}

/// Each step of a repair fails once, before or after its effect, as if the repair was killed there.
#[tokio::test]
async fn a_repair_after_a_killed_one_restores_claims_and_keeps_what_labels_kept() {
    let owner: Owner = "alice".parse().unwrap();
    for side in [Side::Before, Side::After] {
        for nth in 1.. {
            let (plain, target, kept) = with_labelled().await;
            let own = plain.for_owner(&owner).unwrap();
            let guard = LeaseGuard::begin(&own, "test").await.unwrap();
            guard.pin_tree(&target).await.unwrap();
            let named = Image::new("alice:1".parse().unwrap(), target.clone());
            guard.name_one(named, &[]).await.unwrap();
            // A claim would keep the labelled blob.
            let unclaimed = |record: Option<BlobRecord>| {
                let mut record = record.expect("every blob has a record");
                record.owners.clear();
                Ok(record)
            };
            plain.blobs().update(&kept, unclaimed).await.unwrap();
            let before = claimed(&plain, &owner).await;
            assert_eq!(before.len(), 3);
            let listed = parts(&plain, &target).await;
            // One record is damaged, and two are lost.
            let mut batch = Batch::new();
            let damaged = listed[1].digest.to_string();
            batch.put(Table::Blobs, damaged, Expect::Any, Bytes::from_static(b"{"));
            for lost in [&target, &listed[0]] {
                batch.delete(Table::Blobs, lost.digest.to_string(), Expect::Any);
            }
            plain.records.commit(&batch).await.unwrap();

            let plan = Plan::new();
            let kind = ErrorKind::Unavailable;
            plan.fail_nth(nth, Fault { kind, side });
            let outcome = repaired(&faulty(&plain, &plan)).await;
            let is_complete = plan.end().is_empty();
            assert!(outcome.is_ok() || !is_complete, "{outcome:?}");
            let report = repaired(&plain).await.unwrap();
            assert!(report.is_sound(), "{side:?} {nth}: {report:?}");
            assert_eq!(claimed(&plain, &owner).await, before, "{side:?} {nth}");
            collected(&plain).await;
            assert!(is_there(&plain, &kept).await, "{side:?} {nth}");
            assert_eq!(problems(&plain).await, [], "{side:?} {nth}");
            assert_eq!(repaired(&plain).await.unwrap().findings, []);
            if is_complete {
                assert!(nth > 6, "the repair had too few steps");
                break;
            }
        }
    }
}

/// Damages a layer, and repairs the store without a source. Returns the store, the layer, and the
/// digest of the damaged bytes.
async fn with_quarantine() -> (Store, Descriptor, Digest) {
    let plain = store();
    let target = image(&plain, "linux/amd64").await;
    let named = Image::new("app:1".parse().unwrap(), target.clone());
    plain.images.create(named).await.unwrap();
    let layer = parts(&plain, &target).await.remove(1);
    let mut bytes = plain.content.fetch(&layer).await.unwrap().to_vec();
    bytes[0] ^= 1;
    let mut content = Wrapped::new(&plain);
    content.damaged = Some((layer.digest, Flaw::First));
    let report = read_and_repaired(&content.of(&plain)).await;
    let last = report.findings.last().unwrap();
    assert_eq!(last.problem, Problem::Quarantined, "{report:?}");
    let way = "`cas lease rm --force quarantine`";
    assert!(last.detail.contains(way), "{report:?}");
    (plain, layer, Digest::sha256(&bytes))
}

async fn read_and_repaired(store: &Store) -> Report {
    let options = CheckOptions {
        read_data: ReadData::All,
        repair: Some(Repair {
            sources: &NoSources,
            rebuilder: None,
        }),
        ..CheckOptions::default()
    };
    check(store, &[], &options).await.unwrap()
}

#[tokio::test]
async fn damaged_bytes_go_when_a_user_ends_their_lease() {
    let (store, layer, aside) = with_quarantine().await;
    let subject = layer.digest.to_string();
    let missing = (Problem::BlobMissing, subject.clone());
    let both = [missing.clone(), (Problem::Quarantined, subject)];
    collected(&store).await;
    assert!(is_there(&store, &aside).await);
    assert_eq!(problems(&store).await, both);
    assert_eq!(end(&store, QUARANTINE).await, [Resource::Content(aside)]);
    assert_eq!(problems(&store).await, [missing]);
    repaired(&store).await.unwrap();
    collected(&store).await;
    assert!(!is_there(&store, &aside).await);
}

#[tokio::test]
async fn a_repair_gives_up_damaged_bytes_when_the_right_bytes_are_back() {
    let (store, layer, aside) = with_quarantine().await;
    put(&store, layer.media_type, b"linux/amd64").await;
    assert!(is_there(&store, &layer.digest).await);
    assert_eq!(problems(&store).await, []);
    assert_eq!(repaired(&store).await.unwrap().findings, []);
    let lease = store.leases().load(QUARANTINE).await.unwrap();
    assert!(lease.is_none(), "{lease:?}");
    collected(&store).await;
    assert!(!is_there(&store, &aside).await);
}
