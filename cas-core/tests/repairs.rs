//! What a repair keeps and restores after records of blobs were lost, and how long it keeps damaged
//! bytes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::time::SystemTime;

use bytes::Bytes;
use cas_core::check::{
    CheckOptions, NoSources, Problem, QUARANTINE, RECOVERED, ReadData, Repair, Report, check,
};
use cas_core::gc::{GcOptions, collect};
use cas_core::image::Image;
use cas_core::lease::{LeaseGuard, UNLEASED_TTL, set_labels};
use cas_core::records::{Batch, BlobRecord, Expect, Resource, Table};
use cas_core::testing::fault::Side;
use cas_core::transfer::{CopyOptions, copy};
use cas_core::{ContentExt, Descriptor, Digest, Labels, MediaType, Owner, Store};

mod support;
use support::wrapped::{Flaw, Wrapped};
use support::{image, index, killed_repair, named, parts, put, repaired, repaired_from, store};

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

            let is_complete = killed_repair(&plain, (nth, side), repaired).await;
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

#[tokio::test]
async fn bytes_that_were_damaged_twice_are_both_kept_and_both_given_up() {
    let (store, layer, first) = with_quarantine().await;
    put(&store, layer.media_type.clone(), b"linux/amd64").await;
    let mut content = Wrapped::new(&store);
    content.damaged = Some((layer.digest, Flaw::Last));
    read_and_repaired(&content.of(&store)).await;
    let mut bytes = b"linux/amd64".to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let both = [first, Digest::sha256(&bytes)];
    let subject = layer.digest.to_string();
    let kept = (Problem::Quarantined, subject.clone());
    let expected = [(Problem::BlobMissing, subject), kept.clone(), kept];
    assert_eq!(problems(&store).await, expected);
    collected(&store).await;
    for aside in &both {
        assert!(is_there(&store, aside).await);
    }
    put(&store, layer.media_type, b"linux/amd64").await;
    assert_eq!(repaired(&store).await.unwrap().findings, []);
    assert_eq!(end(&store, QUARANTINE).await, []);
    collected(&store).await;
    for aside in &both {
        assert!(!is_there(&store, aside).await);
    }
}

/// Deletes the bytes and the record of a blob.
async fn lose(store: &Store, digest: &Digest) {
    assert!(store.content.remove(digest).await.unwrap());
    store.blobs().remove(digest).await.unwrap();
}

/// The fetch makes the record of the manifest again, without its labels and its claims.
#[tokio::test]
async fn a_blob_that_lost_its_record_and_its_bytes_has_its_claims_and_keeps_what_its_labels_kept() {
    let owner: Owner = "alice".parse().unwrap();
    let (store, target, kept) = with_labelled().await;
    let (other, _, _) = with_labelled().await;
    let own = store.for_owner(&owner).unwrap();
    let guard = LeaseGuard::begin(&own, "test").await.unwrap();
    guard.pin_tree(&target).await.unwrap();
    let image = Image::new("alice:1".parse().unwrap(), target.clone());
    guard.name_one(image, &[]).await.unwrap();
    // A claim would keep the labelled blob.
    let unclaimed = |record: Option<BlobRecord>| {
        let mut record = record.expect("every blob has a record");
        record.owners.clear();
        Ok(record)
    };
    store.blobs().update(&kept, unclaimed).await.unwrap();
    let before = claimed(&store, &owner).await;
    assert_eq!(before.len(), 3);
    lose(&store, &target.digest).await;
    let report = repaired_from(&store, &other).await;
    let found = report.findings.iter();
    let found: Vec<_> = found
        .map(|one| (one.problem, one.subject.clone(), one.repaired))
        .collect();
    let expected = [
        (Problem::BlobMissing, target.digest.to_string(), true),
        (Problem::RecordMissing, kept.to_string(), true),
    ];
    assert_eq!(found, expected, "{report:?}");
    let detail = &report.findings[0].detail;
    assert!(detail.contains("its labels may be lost"), "{detail}");
    assert_eq!(claimed(&store, &owner).await, before);
    collected(&store).await;
    assert!(is_there(&store, &kept).await);
    assert_eq!(problems(&store).await, []);
    assert_eq!(end(&store, RECOVERED).await, [Resource::Content(kept)]);
}

/// Puts an index of two platforms. Returns the index and the manifests.
async fn with_index(store: &Store) -> (Descriptor, [Descriptor; 2]) {
    let manifests = [
        named(store, "linux/amd64").await,
        named(store, "linux/arm64").await,
    ];
    (index(store, &manifests).await, manifests)
}

/// What a store still has of an image whose index it lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// The record of the index, which states that the second platform was left out.
    Record,
    /// The first manifest.
    Manifest,
    Nothing,
}

#[tokio::test]
async fn an_index_that_is_fetched_again_has_the_platforms_that_it_had_or_is_reported() {
    for left in [Left::Record, Left::Manifest, Left::Nothing] {
        let (plain, other) = (store(), store());
        let (target, [first, second]) = with_index(&plain).await;
        with_index(&other).await;
        let image = Image::new("app:1".parse().unwrap(), target.clone());
        for store in [&plain, &other] {
            store.images.create(image.clone()).await.unwrap();
        }
        lose(&plain, &second.digest).await;
        match left {
            Left::Record => {
                let leave_out = |record: Option<BlobRecord>| {
                    let mut record = record.expect("every blob has a record");
                    record.absent.insert(second.digest);
                    Ok(record)
                };
                let blobs = plain.blobs();
                blobs.update(&target.digest, leave_out).await.unwrap();
                assert_eq!(problems(&plain).await, []);
                assert!(plain.content.remove(&target.digest).await.unwrap());
                lose(&plain, &first.digest).await;
            }
            Left::Manifest => {
                lose(&plain, &target.digest).await;
                let layer = parts(&plain, &first).await.remove(1);
                assert!(plain.content.remove(&layer.digest).await.unwrap());
            }
            Left::Nothing => {
                lose(&plain, &target.digest).await;
                lose(&plain, &first.digest).await;
            }
        }
        let report = repaired_from(&plain, &other).await;
        let is_whole = left != Left::Nothing;
        assert_eq!(report.is_sound(), is_whole, "{left:?}: {report:?}");
        assert_eq!(is_there(&plain, &first.digest).await, is_whole, "{left:?}");
        assert!(!is_there(&plain, &second.digest).await, "{left:?}");
        if !is_whole {
            let missing = (Problem::BlobMissing, target.digest.to_string());
            assert_eq!(problems(&plain).await, [missing]);
            let options = CopyOptions::default();
            copy(&other, &plain, &image, &options).await.unwrap();
            assert!(is_there(&plain, &first.digest).await);
        }
        assert_eq!(problems(&plain).await, [], "{left:?}");
    }
}

async fn write_lease(store: &Store, id: &str, value: Bytes) {
    let mut batch = Batch::new();
    batch.put(Table::Leases, id, Expect::Any, value);
    store.records.commit(&batch).await.unwrap();
}

#[tokio::test]
async fn the_list_of_the_lease_recovered_survives_any_changed_bit_of_its_record() {
    let (store, _, kept) = with_labelled().await;
    // A repair keeps an image that has lost its name, and what a lost label may have kept.
    let unnamed = image(&store, "linux/arm64").await.digest;
    for lost in [&unnamed, &kept] {
        store.blobs().remove(lost).await.unwrap();
    }
    let unlabelled = |record: Option<BlobRecord>| {
        let mut record = record.expect("every blob has a record");
        record.labels.clear();
        Ok(record)
    };
    let named = store.images.get(&"app:1".parse().unwrap()).await;
    let named = named.unwrap().unwrap().target.digest;
    store.blobs().update(&named, unlabelled).await.unwrap();
    repaired(&store).await.unwrap();
    let list = async || {
        let (lease, _) = store.leases().load(RECOVERED).await.unwrap().unwrap();
        lease.resources
    };
    let expected = BTreeSet::from([unnamed, kept].map(Resource::Content));
    assert_eq!(list().await, expected);
    assert_eq!(problems(&store).await, []);

    let record = store.records.load(Table::Leases, RECOVERED).await;
    let sound = record.unwrap().unwrap().value;
    // Each place of a bit in a byte occurs.
    for bit in (0..sound.len() * 8).step_by(7) {
        let mut damaged = sound.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        write_lease(&store, RECOVERED, damaged.into()).await;
        let report = repaired(&store).await.unwrap();
        assert!(report.is_sound(), "{bit}: {report:?}");
        assert_eq!(list().await, expected, "{bit}: {report:?}");
        assert_eq!(problems(&store).await, [], "{bit}");
    }
    // The last digit of the checksum, and a record of which nothing can be read.
    let mut changed = sound.to_vec();
    changed[sound.len() - 3] ^= 1;
    for (damaged, detail, count) in [
        (changed, "with the 2 resources that it lists", 1),
        (b"{".to_vec(), "it was set aside", 3),
    ] {
        write_lease(&store, RECOVERED, damaged.into()).await;
        let report = repaired(&store).await.unwrap();
        let found = &report.findings[0];
        assert_eq!(found.problem, Problem::RecordDamaged);
        assert_eq!(found.subject, "leases/recovered");
        assert!(found.detail.contains(detail), "{found:?}");
        assert_eq!(report.findings.len(), count, "{report:?}");
        assert_eq!(list().await, expected);
    }
}

/// Each step of a repair fails once, before or after its effect, as if the repair was killed there.
#[tokio::test]
async fn a_repair_after_a_killed_one_makes_the_list_of_the_lease_recovered_again() {
    for side in [Side::Before, Side::After] {
        for nth in 1.. {
            let plain = store();
            let unnamed = image(&plain, "linux/arm64").await.digest;
            write_lease(&plain, RECOVERED, Bytes::from_static(b"{")).await;
            let is_complete = killed_repair(&plain, (nth, side), repaired).await;
            repaired(&plain).await.unwrap();
            let listed = end(&plain, RECOVERED).await;
            assert_eq!(listed, [Resource::Content(unnamed)], "{side:?} {nth}");
            assert_eq!(repaired(&plain).await.unwrap().findings, []);
            if is_complete {
                assert!(nth > 3, "the repair had too few steps");
                break;
            }
        }
    }
}

#[tokio::test]
async fn the_list_of_the_lease_quarantine_is_made_again_from_the_notes() {
    let (store, layer, aside) = with_quarantine().await;
    write_lease(&store, QUARANTINE, Bytes::from_static(b"{")).await;
    let report = repaired(&store).await.unwrap();
    let found = report.findings.iter();
    let found: Vec<_> = found.map(|one| (one.problem, one.repaired)).collect();
    let expected = [
        (Problem::RecordDamaged, true),
        (Problem::BlobMissing, false),
        (Problem::Quarantined, false),
    ];
    assert_eq!(found, expected, "{report:?}");
    let detail = &report.findings[0].detail;
    assert!(detail.contains("from the notes"), "{detail}");
    collected(&store).await;
    assert!(is_there(&store, &aside).await);
    let subject = layer.digest.to_string();
    let both = [Problem::BlobMissing, Problem::Quarantined].map(|one| (one, subject.clone()));
    assert_eq!(problems(&store).await, both);
    assert_eq!(end(&store, QUARANTINE).await, [Resource::Content(aside)]);
}
