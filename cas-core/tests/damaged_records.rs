//! Damaged records of blobs. A repair replaces each of them in one step, and keeps the labels that
//! can be read. Also damaged records of images, and records that were written for another key.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cas_core::check::{CheckOptions, Finding, Problem, RECOVERED, check};
use cas_core::gc::{GcOptions, collect};
use cas_core::image::{Image, Reference, UNCOMPRESSED};
use cas_core::records::{Batch, BlobRecord, Expect, Notes, Resource, Table};
use cas_core::testing::fault::Side;
use cas_core::{
    ContentExt, Descriptor, Digest, ErrorKind, ImageStoreExt, Labels, MediaType, Store, limit,
};

mod support;
use support::{image, killed_repair, parts, put, repaired, store, strict};

/// Returns a store with a named image, and the manifest of the image.
async fn with_image() -> (Store, Descriptor) {
    let store = store();
    let target = image(&store, "linux/amd64").await;
    let named = Image::new("app:1".parse().unwrap(), target.clone());
    store.images.create(named).await.unwrap();
    (store, target)
}

async fn value_of(store: &Store, blob: &Digest) -> Option<Bytes> {
    let record = store.records.load(Table::Blobs, &blob.to_string()).await;
    record.unwrap().map(|record| record.value)
}

async fn record_of(store: &Store, blob: &Digest) -> BlobRecord {
    store.blobs().load(blob).await.unwrap().unwrap().0
}

async fn write(store: &Store, blob: &Digest, value: Bytes) {
    let mut batch = Batch::new();
    batch.put(Table::Blobs, blob.to_string(), Expect::Any, value);
    store.records.commit(&batch).await.unwrap();
}

fn labels(pairs: &[(&str, String)]) -> Labels {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect()
}

/// Each step of a repair fails once, before or after its effect, as if the repair was killed there.
#[tokio::test]
async fn an_interrupted_repair_keeps_the_labels_of_a_damaged_record() {
    for side in [Side::Before, Side::After] {
        for nth in 1.. {
            let (plain, target) = with_image().await;
            let kept = put(&plain, MediaType::BYTES, b"only a label keeps this").await;
            let expected = labels(&[
                ("team", "blue".to_owned()),
                (
                    "containerd.io/gc.ref.content.extra",
                    kept.digest.to_string(),
                ),
            ]);
            let wrong = labels(&[
                (
                    "containerd.io/gc.ref.content.lost",
                    Digest::sha256(b"lost").to_string(),
                ),
                (UNCOMPRESSED, Digest::sha256(b"wrong").to_string()),
            ]);
            let label = |record: Option<BlobRecord>| {
                let mut record = record.expect("every blob has a record");
                record.labels.extend(expected.clone());
                record.labels.extend(wrong.clone());
                Ok(record)
            };
            plain.blobs().update(&target.digest, label).await.unwrap();
            let mut damaged = value_of(&plain, &target.digest).await.unwrap().to_vec();
            // The last digit of the checksum.
            let last = damaged.len() - 3;
            damaged[last] ^= 1;
            write(&plain, &target.digest, damaged.clone().into()).await;

            let is_complete = killed_repair(&plain, (nth, side), repaired).await;
            let left = value_of(&plain, &target.digest).await;
            let left = left.expect("no step deletes the record");
            if left != damaged {
                let record = record_of(&plain, &target.digest).await;
                assert_eq!(record.labels, expected, "{side:?} {nth}");
            }
            let report = repaired(&plain).await.unwrap();
            assert!(report.is_sound(), "{side:?} {nth}: {report:?}");
            let record = record_of(&plain, &target.digest).await;
            assert_eq!(record.labels, expected, "{side:?} {nth}");
            let later = SystemTime::now() + Duration::from_hours(48);
            let options = GcOptions::default().with_now(later);
            collect(&plain, &[], &options).await.unwrap();
            for needed in [&kept, &target, &parts(&plain, &target).await[1]] {
                let found = plain.content.stat(&needed.digest).await.unwrap();
                assert!(found.is_some(), "{side:?} {nth}: {}", needed.media_type);
            }
            if is_complete {
                assert!(nth > 3, "the repair had too few steps");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_replaced_record_is_complete_and_has_the_labels_that_can_be_read() {
    let long = format!(r#"{{"labels":{{"k":"{}"}}}}"#, "v".repeat(limit::LABEL));
    for (value, label) in [
        ("{", None),
        ("[1,2]", None),
        (r#"{"labels":{"k":7}}"#, None),
        (long.as_str(), None),
        (r#"{"size":"?","labels":{"k":"v"},"children":7}"#, Some("v")),
    ] {
        let (store, target) = with_image().await;
        let parts = parts(&store, &target).await;
        let layer = &parts[1];
        for blob in [&target, layer] {
            let value = Bytes::copy_from_slice(value.as_bytes());
            write(&store, &blob.digest, value).await;
        }
        let report = repaired(&store).await.unwrap();
        let found = report.findings.iter();
        let found: Vec<_> = found.map(|one| (one.problem, one.repaired)).collect();
        assert_eq!(found, [(Problem::RecordDamaged, true); 2], "{report:?}");
        for blob in [&target, layer] {
            let record = record_of(&store, &blob.digest).await;
            let found = record.labels.get("k").map(String::as_str);
            assert_eq!(found, label, "{value:.50}");
            assert_eq!(record.size, blob.size);
            assert_eq!(record.media_type.as_ref(), Some(&blob.media_type));
        }
        let children: Vec<Digest> = parts.iter().map(|part| part.digest).collect();
        assert_eq!(record_of(&store, &target.digest).await.children, children);
        let report = check(&store, &[], &CheckOptions::default()).await;
        assert_eq!(report.unwrap().findings, []);
    }
}

/// Returns whether a lease keeps the blob after a repair, and ends the lease.
async fn was_recovered(store: &Store, blob: Digest) -> bool {
    let leases = store.leases();
    let lease = leases.load(RECOVERED).await.unwrap();
    let ended = leases.delete(RECOVERED, "fsck", SystemTime::now()).await;
    assert_eq!(ended.unwrap(), lease.is_some());
    lease.is_some_and(|(lease, _)| lease.resources.contains(&Resource::Content(blob)))
}

#[tokio::test]
async fn after_any_changed_bit_the_labels_are_there_or_a_lease_keeps_the_blob() {
    let store = store();
    let target = put(&store, MediaType::BYTES, b"only a label keeps this").await;
    let blob = put(&store, MediaType::BYTES, b"labelled").await.digest;
    let reference = ("containerd.io/gc.ref.content.x", target.digest.to_string());
    let expected = labels(&[reference, ("containerd.io/gc.root", "yes".to_owned())]);
    let label = |record: Option<BlobRecord>| {
        let mut record = record.expect("every blob has a record");
        record.labels.clone_from(&expected);
        Ok(record)
    };
    store.blobs().update(&blob, label).await.unwrap();
    let sound = value_of(&store, &blob).await.unwrap();
    let text = std::str::from_utf8(&sound).unwrap();
    let (start, end) = (text.find("\"containerd.io"), text.find("},"));
    let of_labels = start.unwrap()..end.unwrap();
    for bit in 0..sound.len() * 8 {
        let mut damaged = sound.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        write(&store, &blob, damaged.into()).await;
        let report = repaired(&store).await.unwrap();
        assert!(report.is_sound(), "{bit}: {report:?}");
        let is_kept = was_recovered(&store, blob).await;
        let says_so = |one: &Finding| one.detail.contains("the lease `recovered` keeps the blob");
        assert_eq!(report.findings.iter().any(says_so), is_kept, "{bit}");
        let found = record_of(&store, &blob).await.labels;
        assert!(found == expected || is_kept, "{bit}: {found:?}");
        // Damage outside the labels costs no label.
        assert!(
            found == expected || of_labels.contains(&(bit / 8)),
            "{bit}: {found:?}"
        );
    }
}

#[tokio::test]
async fn no_lease_keeps_a_blob_whose_damaged_record_states_that_it_has_no_labels() {
    let store = store();
    let blob = put(&store, MediaType::BYTES, b"plain").await.digest;
    let sound = value_of(&store, &blob).await.unwrap();
    let changed = |at: usize| {
        let mut damaged = sound.to_vec();
        damaged[at] ^= 1;
        damaged
    };
    let text = std::str::from_utf8(&sound).unwrap();
    let (members, _) = text.split_once(",\"place\":").unwrap();
    for (damaged, is_doubtful) in [
        // The last digit of the last checksum.
        (changed(sound.len() - 3), false),
        // A letter of the key `media_type`.
        (changed(15), true),
        // A wrong checksum in a record of an earlier release.
        (
            format!("{members},\"sum\":\"0123456789abcdef\"}}").into_bytes(),
            false,
        ),
    ] {
        write(&store, &blob, damaged.into()).await;
        let report = repaired(&store).await.unwrap();
        assert_eq!(report.findings.len(), 1, "{report:?}");
        assert_eq!(was_recovered(&store, blob).await, is_doubtful);
    }
}

#[tokio::test]
async fn a_name_stays_if_its_damaged_record_still_states_it_and_its_target() {
    // What is changed, and whether the name stays.
    for (text, stays) in [
        ("{\"name\"", true),
        ("\"created_at\"", true),
        ("\"sum\":\"", true),
        ("app:1", false),
        ("sha256:", false),
    ] {
        let (store, target) = with_image().await;
        let record = store.records.load(Table::Images, "app:1").await.unwrap();
        let mut damaged = record.unwrap().value.to_vec();
        let mut places = damaged.windows(text.len());
        let at = places.position(|place| place == text.as_bytes()).unwrap();
        // A digit of the checksum, or the first letter of the text.
        let at = match text.ends_with(":\"") {
            true => at + text.len(),
            false => at,
        };
        damaged[at] ^= 1;
        let mut batch = Batch::new();
        batch.put(Table::Images, "app:1", Expect::Any, damaged.into());
        store.records.commit(&batch).await.unwrap();
        let report = repaired(&store).await.unwrap();
        assert_eq!(report.is_sound(), stays, "{text}: {report:?}");
        let found = store.images.get(&"app:1".parse().unwrap()).await.unwrap();
        let found = found.map(|image| image.target);
        assert_eq!(found, stays.then_some(target), "{text}");
    }
}

/// The other record states nothing about the blob, not even that it has no labels.
#[tokio::test]
async fn a_record_that_was_written_for_another_blob_is_replaced_and_a_lease_keeps_the_blob() {
    for others in [
        labels(&[]),
        labels(&[("containerd.io/gc.root", "yes".to_owned())]),
    ] {
        let (store, target) = with_image().await;
        let parts = parts(&store, &target).await;
        let other = parts[1].digest;
        let label = |record: Option<BlobRecord>| {
            let mut record = record.expect("every blob has a record");
            record.labels.clone_from(&others);
            Ok(record)
        };
        store.blobs().update(&other, label).await.unwrap();
        let copied = value_of(&store, &other).await.unwrap();
        write(&store, &target.digest, copied.clone()).await;
        let error = store.blobs().load(&target.digest).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("for another key"), "{error}");

        let subject = format!("blobs/{}", target.digest);
        let checked = check(&store, &[], &CheckOptions::default()).await.unwrap();
        let repaired = repaired(&store).await.unwrap();
        for (report, is_repaired) in [(checked, false), (repaired, true)] {
            let found = report.findings.iter();
            let found: Vec<_> = found
                .map(|one| (one.problem, one.subject.as_str(), one.repaired))
                .collect();
            let expected = [(Problem::RecordDamaged, subject.as_str(), is_repaired)];
            assert_eq!(found, expected, "{report:?}");
        }
        let record = record_of(&store, &target.digest).await;
        let children: Vec<Digest> = parts.iter().map(|part| part.digest).collect();
        assert_eq!(record.size, target.size);
        assert_eq!(record.labels, Labels::new());
        assert_eq!(record.children, children);
        assert_eq!(value_of(&store, &other).await, Some(copied));
        assert!(was_recovered(&store, target.digest).await);
        let report = check(&store, &[], &CheckOptions::default()).await;
        assert_eq!(report.unwrap().findings, []);
    }
}

#[tokio::test]
async fn a_record_that_was_written_for_another_name_is_set_aside() {
    let (store, target) = with_image().await;
    let other = image(&store, "linux/arm64").await;
    let name: Reference = "app:2".parse().unwrap();
    let create = || store.images.create(Image::new(name.clone(), other.clone()));
    create().await.unwrap();
    let record = store.records.load(Table::Images, "app:1").await.unwrap();
    let mut batch = Batch::new();
    batch.put(Table::Images, "app:2", Expect::Any, record.unwrap().value);
    store.records.commit(&batch).await.unwrap();
    let error = store.images.get(&name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("for another key"), "{error}");
    let report = check(&store, &[], &CheckOptions::default()).await.unwrap();
    assert_eq!(report.findings[0].problem, Problem::RecordDamaged);
    assert_eq!(report.findings[0].subject, "images/app:2");

    let report = repaired(&store).await.unwrap();
    let found = report.findings.iter();
    let found: Vec<_> = found.map(|one| (one.problem, one.repaired)).collect();
    let expected = [
        (Problem::RecordDamaged, true),
        (Problem::NameLost, false),
        (Problem::NameMissing, true),
    ];
    assert_eq!(found, expected, "{report:?}");
    assert_eq!(store.images.get(&name).await.unwrap(), None);
    let first = store.images.get(&"app:1".parse().unwrap()).await.unwrap();
    assert_eq!(first.unwrap().target, target);
    create().await.unwrap();
    assert_eq!(repaired(&store).await.unwrap().findings, []);
    let report = check(&store, &[], &CheckOptions::default()).await;
    assert_eq!(report.unwrap().findings, []);
}

/// A repair can make a record while the stored bytes of the blob are truncated.
#[tokio::test]
async fn a_blob_that_is_stored_again_has_its_own_size_in_its_record() {
    for store in [store(), strict()] {
        let blob = Descriptor::of(MediaType::BYTES, b"all bytes");
        let label = |_: Option<BlobRecord>| {
            let mut record = BlobRecord::new(3, None);
            record.labels = labels(&[("team", "blue".to_owned())]);
            Ok(record)
        };
        store.blobs().update(&blob.digest, label).await.unwrap();
        put(&store, MediaType::BYTES, b"all bytes").await;
        let record = record_of(&store, &blob.digest).await;
        assert_eq!(record.size, blob.size);
        assert_eq!(record.labels["team"], "blue");
    }
}

/// The size of a blob that is not stored is not known.
#[tokio::test]
async fn the_damaged_record_of_a_missing_blob_is_removed() {
    let (store, target) = with_image().await;
    let layer = parts(&store, &target).await[1].digest;
    assert!(store.content.remove(&layer).await.unwrap());
    write(&store, &layer, Bytes::from_static(b"{")).await;
    let report = repaired(&store).await.unwrap();
    let found = report.findings.iter();
    let found: Vec<_> = found.map(|one| (one.problem, one.repaired)).collect();
    let expected = [
        (Problem::RecordDamaged, true),
        (Problem::BlobMissing, false),
    ];
    assert_eq!(found, expected, "{report:?}");
    assert_eq!(value_of(&store, &layer).await, None);
}

/// Returns the values of the notes on damaged records whose keys begin with `prefix`.
async fn noted(store: &Store, prefix: &str) -> Vec<Bytes> {
    let notes = Notes::new(store.records.clone(), "damaged-records").unwrap();
    let found = notes.list(prefix).await.unwrap().into_iter();
    found.map(|note| note.value).collect()
}

#[tokio::test]
async fn a_note_on_a_damaged_record_stays_if_the_record_is_damaged_again() {
    let (store, target) = with_image().await;
    let layer = parts(&store, &target).await[1].digest;
    for value in [&b"{"[..], b"[", b"{"] {
        write(&store, &layer, Bytes::from_static(value)).await;
        assert!(repaired(&store).await.unwrap().is_sound());
    }
    let expected = [&b"{"[..], b"["].map(Bytes::from_static);
    assert_eq!(noted(&store, &format!("blobs/{layer}")).await, expected);

    let name: Reference = "app:1".parse().unwrap();
    let damage = async |value: &'static [u8]| {
        let mut batch = Batch::new();
        let value = Bytes::from_static(value);
        batch.put(Table::Images, "app:1", Expect::Any, value);
        store.records.commit(&batch).await.unwrap();
        repaired(&store).await.unwrap()
    };
    let put = async || {
        let image = Image::new(name.clone(), target.clone());
        store.images.put(image).await.unwrap();
    };
    damage(b"{").await;
    put().await;
    let report = damage(b"[").await;
    let is_lost = |one: &&Finding| one.problem == Problem::NameLost;
    let lost = report.findings.iter().filter(is_lost);
    assert_eq!(lost.count(), 1, "{report:?}");
    assert_eq!(noted(&store, "images/").await, expected);
    put().await;
    repaired(&store).await.unwrap();
    assert!(noted(&store, "images/").await.is_empty());
}
