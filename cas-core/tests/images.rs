//! Image names in records.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cas_core::check::{CheckOptions, NoSources, Problem, Repair, Report, check};
use cas_core::compose::observe::Operation;
use cas_core::compose::{Counters, observe};
use cas_core::gc::{GcOptions, collect};
use cas_core::image::{RecordImages, Reference, encode_image, fieldpath};
use cas_core::records::{Batch, Expect, Table};
use cas_core::testing::memory::MemoryStore;
use cas_core::transfer::{Fetcher, StoreRepository};
use cas_core::{ContentExt, Descriptor, Digest, ErrorKind, Image, ImageStore, MediaType};

mod support;
use support::store;

fn image(name: &str, data: &[u8]) -> Image {
    let target = Descriptor::of(MediaType::OCI_MANIFEST, data);
    Image::new(name.parse().unwrap(), target)
}

fn images() -> Arc<dyn ImageStore> {
    store().images
}

fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

#[tokio::test]
async fn created_once_with_times_of_the_store() {
    let images = images();
    let mut given = image("a", b"1");
    given.created_at = UNIX_EPOCH;
    given.labels.insert("empty".into(), String::new());
    let made = images.create(given.clone()).await.unwrap();
    assert!(made.created_at > UNIX_EPOCH && made.labels.is_empty());
    assert_eq!(images.get(&made.name).await.unwrap(), Some(made));
    let error = images.create(given).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

#[tokio::test]
async fn an_image_with_a_bad_target_or_too_long_labels_is_refused() {
    let mut untyped = image("a", b"1");
    untyped.target.media_type = MediaType::default();
    let mut labelled = image("a", b"1");
    labelled.labels.insert("k".into(), "v".repeat(4096));
    for bad in [image("a", b""), untyped, labelled] {
        let error = images().create(bad.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(fieldpath::check_image(&bad).is_err());
    }
}

#[tokio::test]
async fn an_update_replaces_the_named_fields_and_keeps_the_others() {
    let images = images();
    let made = images.create(image("a", b"1")).await.unwrap();
    let mut update = image("a", b"2");
    update.labels.insert("k".into(), "v".into());
    let updated = images.update(update.clone(), &["labels.k"]).await.unwrap();
    assert_eq!(
        (&updated.target, &updated.labels),
        (&made.target, &update.labels)
    );
    let updated = images.update(update.clone(), &[]).await.unwrap();
    assert_eq!(
        (&updated.target, updated.created_at),
        (&update.target, made.created_at)
    );
    assert_eq!(images.get(&made.name).await.unwrap(), Some(updated));
    let wrong = images.update(update, &["name"]).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::InvalidArgument);
    let absent = images.update(image("b", b"1"), &[]).await.unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn deleted_only_while_it_refers_to_the_target() {
    let images = images();
    let made = images.create(image("a", b"1")).await.unwrap();
    let other = image("a", b"2").target;
    let error = images.delete(&made.name, Some(&other)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    images.delete(&made.name, Some(&made.target)).await.unwrap();
    assert_eq!(images.get(&made.name).await.unwrap(), None);
    let error = images.delete(&made.name, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn listed_in_order_over_many_pages_and_filtered() {
    let images = images();
    for number in (0..600).rev() {
        let text = format!("docker.io/library/i:{number:04}");
        images.create(image(&text, b"1")).await.unwrap();
    }
    let all = images.list(&[]).await.unwrap();
    assert_eq!(all.len(), 600);
    assert!(all.is_sorted_by_key(|image| image.name.clone()));
    let some = ["name==docker.io/library/i:0007", "name~=/:059[0-9]$/"];
    assert_eq!(images.list(&some).await.unwrap().len(), 11);
    let error = images.list(&["name="]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

/// Each writer adds its own label. A store without compare-and-swap would lose some of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn forty_writers_of_one_name_lose_nothing() {
    let images = images();
    images.create(image("a", b"1")).await.unwrap();
    let writers: Vec<_> = (0..40)
        .map(|number| {
            let images = Arc::clone(&images);
            tokio::spawn(async move {
                let (key, path) = (format!("k{number}"), format!("labels.k{number}"));
                let mut update = image("a", b"1");
                update.labels.insert(key, "v".into());
                images.update(update, &[&path]).await.unwrap();
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let image = images.get(&name("a")).await.unwrap().unwrap();
    assert_eq!(image.labels.len(), 40);
}

/// A search by digits reads only the notes of digests that begin with these digits, and the names
/// that those notes list.
#[tokio::test]
async fn a_digest_leads_to_its_names_and_others_are_not_read() {
    let counters = Arc::new(Counters::new());
    let store = observe(MemoryStore::new().with_images(), counters.clone());
    let images = RecordImages::with_targets(store.records.clone()).unwrap();
    for number in 0..300_u32 {
        let data = (number / 2).to_be_bytes();
        let image = image(&format!("app:{number}"), &data);
        images.create(image).await.unwrap();
    }
    let before = counters.of(Operation::Load).calls;
    let digest = Descriptor::of(MediaType::OCI_MANIFEST, &7_u32.to_be_bytes()).digest;
    let found = images.find(&digest.hex()[..12].parse().unwrap()).await;
    let names: Vec<String> = found
        .unwrap()
        .iter()
        .map(|one| one.name.to_string())
        .collect();
    assert_eq!(names, ["app:14", "app:15"]);
    assert_eq!(counters.of(Operation::Load).calls, before + 2);
    // There is one scan for each algorithm.
    assert_eq!(counters.of(Operation::Scan).calls, 2);
    for name in names {
        images.delete(&name.parse().unwrap(), None).await.unwrap();
    }
    let notes = store.records.scan(Table::Notes, "", None, 1000).await;
    assert_eq!(
        notes.unwrap().len(),
        298,
        "notes of the deleted names are left"
    );
}

/// Earlier releases have stored such names.
#[tokio::test]
async fn a_stored_name_that_states_another_digest_is_found_and_replaced() {
    let store = store();
    let target = support::image(&store, "linux/amd64").await;
    let wrong = name(&format!("app@{}", Digest::sha256(b"other")));
    let mut image = Image::new(wrong.clone(), target.clone());
    image.labels.insert("k".into(), "v".into());
    let value = encode_image(wrong.as_str(), &image).unwrap();
    let mut batch = Batch::new();
    batch.put(Table::Images, wrong.as_str(), Expect::Absent, value);
    store.records.commit(&batch).await.unwrap();
    let resolved = StoreRepository::new(&store, &wrong).resolve().await;
    assert_eq!(resolved.unwrap_err().kind(), ErrorKind::NotFound);
    let repair = CheckOptions {
        repair: Some(Repair {
            sources: &NoSources,
            rebuilder: None,
        }),
        ..CheckOptions::default()
    };
    for (options, repaired) in [(&CheckOptions::default(), false), (&repair, true)] {
        let report = check(&store, &[], options).await.unwrap();
        let found = report.findings.iter();
        let found: Vec<_> = found
            .map(|one| (one.problem, one.subject.as_str(), one.repaired))
            .collect();
        assert_eq!(found, [(Problem::NameWrong, wrong.as_str(), repaired)]);
    }
    let images = store.images.list(&[]).await.unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].name, Reference::from(target.digest));
    assert_eq!(
        (&images[0].target, &images[0].labels),
        (&target, &image.labels)
    );
    let report = check(&store, &[], &CheckOptions::default()).await.unwrap();
    assert_eq!(report.findings, []);
}

/// In a record of an earlier release, no checksum covers the key, so the record can be read.
#[tokio::test]
async fn a_record_with_a_changed_key_is_set_aside_and_the_content_kept() {
    use Problem::{NameLost, NameMissing, RecordDamaged, StoreDamaged};
    for is_old in [false, true] {
        let store = store();
        let target = support::image(&store, "linux/amd64").await;
        let image = Image::new(name("app"), target);
        let image = store.images.create(image).await.unwrap();
        let record = store.records.load(Table::Images, "app").await.unwrap();
        let value = match is_old {
            false => record.unwrap().value,
            true => serde_json::to_vec(&image).unwrap().into(),
        };
        let mut batch = Batch::new();
        batch.delete(Table::Images, "app", Expect::Any);
        batch.put(Table::Images, "apq", Expect::Absent, value);
        store.records.commit(&batch).await.unwrap();
        let read = store.images.get(&name("apq")).await;
        match is_old {
            true => assert_eq!(read.unwrap(), Some(image)),
            false => assert_eq!(read.unwrap_err().kind(), ErrorKind::Corrupt),
        }
        let found: &[Problem] = match is_old {
            true => &[RecordDamaged],
            // The images cannot be listed.
            false => &[RecordDamaged, StoreDamaged],
        };
        let report = check(&store, &[], &CheckOptions::default()).await;
        assert_problems(&report.unwrap(), found);
        let report = support::repaired(&store).await.unwrap();
        assert_problems(&report, &[RecordDamaged, NameLost, NameMissing]);
        let later = SystemTime::now() + Duration::from_hours(72);
        let options = GcOptions::default().with_now(later);
        let removed = collect(&store, &[], &options).await.unwrap();
        assert_eq!(removed.blobs, []);
    }
}

/// Checks which problems a report lists, and that the first one is that of the record `apq`.
fn assert_problems(report: &Report, expected: &[Problem]) {
    let found = report.findings.iter().map(|one| one.problem);
    assert_eq!(found.collect::<Vec<_>>(), expected, "{report:?}");
    assert_eq!(report.findings[0].subject, "images/apq");
}

/// Neither a name nor a record of the image is left.
#[tokio::test]
async fn a_repair_checks_an_image_without_a_name_in_the_run_that_keeps_it() {
    let store = store();
    let target = support::image(&store, "linux/amd64").await;
    let lost = support::parts(&store, &target).await.pop().unwrap().digest;
    assert!(store.content.remove(&lost).await.unwrap());
    assert!(store.blobs().remove(&target.digest).await.unwrap());
    let repair = CheckOptions {
        repair: Some(Repair {
            sources: &NoSources,
            rebuilder: None,
        }),
        ..CheckOptions::default()
    };
    let report = check(&store, &[], &repair).await.unwrap();
    let found = report.findings.iter().map(|one| one.problem);
    let expected = [
        Problem::RecordMissing,
        Problem::NameMissing,
        Problem::BlobMissing,
    ];
    assert_eq!(found.collect::<Vec<_>>(), expected, "{report:?}");
    let missing = report.findings.last().unwrap();
    assert_eq!(missing.subject, lost.to_string());
    assert!(!missing.repaired);
}
