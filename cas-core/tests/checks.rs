//! Checks and repairs of a store: odd keys of records, ingests of other jobs, interrupted readings,
//! and damage that leaves the times of a file as they were.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use cas_core::check::{CheckOptions, Finding, Problem, ReadData, Repair, Report, Sources, check};
use cas_core::content::{Expected, IngestStatus, Stat, Writer};
use cas_core::gc::{GcOptions, collect};
use cas_core::image::{Image, Reference};
use cas_core::labels::GC_FLAT;
use cas_core::lease::{BlobRef, LeaseGuard};
use cas_core::pool::wait;
use cas_core::records::{Batch, BlobRecord, Expect, Lease, Notes, Resource, Table};
use cas_core::transfer::{CopyOptions, Fetcher, copy};
use cas_core::{ContentExt, Descriptor, Digest, ErrorKind, MediaType, Result, Store, blob};

mod support;
use support::wrapped::{Flaw, Wrapped};
use support::{Source, config, image, index, manifest, named, parts, put, repaired, store};

#[tokio::test]
async fn damaged_records_are_set_aside_whatever_their_keys_are() {
    let long = "k".repeat(cas_core::limit::KEY);
    for key in ["a\nb", "\0", "name\u{7f}", "\u{85}", "\t", "plain", &long] {
        for table in [Table::Blobs, Table::Images, Table::Leases] {
            let store = store();
            let kept = image(&store, "linux/amd64").await;
            let named = Image::new("kept".parse().unwrap(), kept);
            store.images.create(named).await.unwrap();
            let mut batch = Batch::new();
            batch.put(table, key, Expect::Absent, "{".into());
            store.records.commit(&batch).await.unwrap();
            let report = repaired(&store).await.unwrap();
            let is_it = |problem| problem == Problem::RecordDamaged;
            let found = report.findings.iter();
            let found = found.filter(|one| is_it(one.problem) && one.repaired);
            assert_eq!(found.count(), 1, "{key:?}: {:?}", report.findings);
            let left = store.records.load(table, key).await.unwrap();
            assert!(left.is_none(), "{key:?}");
            // If the key can be a name, the name is reported as lost until it exists again.
            let report = repaired(&store).await.unwrap();
            let lost = usize::from(table == Table::Images && key == "plain");
            assert_eq!(report.findings.len(), lost, "{key:?}: {report:?}");
        }
    }
}

/// Such a record still parses.
#[tokio::test]
async fn a_record_that_does_not_have_its_checksum_is_set_aside() {
    for table in [Table::Blobs, Table::Images, Table::Leases] {
        let store = store();
        let target = image(&store, "linux/amd64").await;
        let named = Image::new("name".parse().unwrap(), target.clone());
        store.images.create(named).await.unwrap();
        let lease = Lease::new("job", None);
        store.leases().create("lease", &lease).await.unwrap();
        let key = match table {
            Table::Blobs => target.digest.to_string(),
            Table::Images => "name".to_owned(),
            _ => "lease".to_owned(),
        };
        let record = store.records.load(table, &key).await.unwrap().unwrap();
        let mut value = record.value.to_vec();
        // The last digit of the checksum.
        let last = value.len() - 3;
        value[last] ^= 1;
        let mut batch = Batch::new();
        batch.put(table, key, Expect::Any, value.into());
        store.records.commit(&batch).await.unwrap();
        let collected = collect(&store, &[], &GcOptions::default()).await;
        assert_eq!(collected.unwrap_err().kind(), ErrorKind::Corrupt);
        let report = repaired(&store).await.unwrap();
        let found = report.findings.iter();
        let found: Vec<_> = found
            .filter(|one| one.problem == Problem::RecordDamaged)
            .collect();
        assert_eq!(found.len(), 1, "{report:?}");
        assert!(found[0].repaired && found[0].detail.contains("checksum"));
        collect(&store, &[], &GcOptions::default()).await.unwrap();
    }
}

/// A listed ingest has ended. Another job opens its key just before the check discards it.
#[tokio::test]
async fn an_ingest_that_another_job_opens_meanwhile_is_left_alone() {
    for (held, listed) in [(0, 0), (0, 10), (3, 3), (3, 10)] {
        let plain = store();
        let begin = |store: &Store| wait(Writer::begin(&*store.content, "key", Expected::ANY));
        let mut writer = begin(&plain).unwrap();
        writer.write(vec![7; held].into()).await.unwrap();
        drop(writer);
        let opened: Arc<Mutex<Option<Writer>>> = Arc::default();
        let mut content = Wrapped::new(&plain);
        content.listed = Some(IngestStatus {
            key: "key".to_owned(),
            offset: listed,
            updated_at: SystemTime::now(),
        });
        let (other, keeps) = (plain.clone(), Arc::clone(&opened));
        content.discarding = Some(Box::new(move |key| {
            assert_eq!(key, "key");
            let mut opened = keeps.lock().unwrap();
            opened.get_or_insert_with(|| begin(&other).unwrap());
        }));
        let report = repaired(&content.of(&plain)).await.unwrap();
        assert!(report.findings.is_empty(), "{report:?}");
        let mut writer = opened.lock().unwrap().take().expect("it was opened");
        writer.write("more".into()).await.unwrap();
    }
}

/// A fetch of a repair that fails leaves such an ingest.
#[tokio::test]
async fn a_new_ingest_without_bytes_is_discarded_and_not_reported() {
    let store = store();
    let key = Digest::sha256(b"blob").to_string();
    let begun = Writer::begin(&*store.content, &key, Expected::ANY).await;
    drop(begun.unwrap());
    assert_eq!(store.content.ingests().await.unwrap().len(), 1);
    let report = repaired(&store).await.unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
    assert!(store.content.ingests().await.unwrap().is_empty());
}

/// A pull that was interrupted leaves an ingest whose key is the digest of the blob.
#[tokio::test]
async fn an_ingest_that_a_pull_continues_is_not_damage() {
    let store = store();
    let digest = Digest::sha256(b"the whole blob").to_string();
    for key in [&*digest, "blob-add-1"] {
        let begun = Writer::begin(&*store.content, key, Expected::ANY).await;
        begun.unwrap().write("the".into()).await.unwrap();
    }
    let checked = check(&store, &[], &CheckOptions::default()).await.unwrap();
    assert_eq!(checked.resumable, [(digest.clone(), 3)]);
    let found: Vec<&str> = checked.findings.iter().map(|one| &*one.subject).collect();
    assert_eq!(found, ["blob-add-1"], "{checked:?}");
    let report = repaired(&store).await.unwrap();
    assert!(
        report.is_sound() && report.findings.len() == 1,
        "{report:?}"
    );
    assert_eq!(report.resumable, [(digest.clone(), 3)]);
    let kept = store.content.ingests().await.unwrap();
    let keys: Vec<&str> = kept.iter().map(|one| &*one.key).collect();
    assert_eq!(keys, [&*digest]);
    // A collection would remove an old one.
    let mut content = Wrapped::new(&store);
    content.listed = Some(IngestStatus {
        key: digest.clone(),
        offset: 3,
        updated_at: SystemTime::now() - Duration::from_secs(2 * 24 * 60 * 60),
    });
    let old = check(&content.of(&store), &[], &CheckOptions::default()).await;
    let old = old.unwrap();
    assert_eq!((old.findings.len(), old.resumable.len()), (1, 0), "{old:?}");
    assert_eq!(old.findings[0].problem, Problem::IngestLeft);
}

/// The check hashes the documents of images before it reads all blobs. In the note of an
/// interrupted reading, they count as read, like other blobs.
#[tokio::test]
async fn an_interrupted_reading_is_noted_whichever_blobs_come_last() {
    let plain = store();
    for number in 0..40 {
        let target = image(&plain, &format!("linux/{number}")).await;
        let named = Image::new(format!("image:{number}").parse().unwrap(), target);
        plain.images.create(named).await.unwrap();
        put(
            &plain,
            MediaType::OCI_LAYER,
            format!("free {number}").as_bytes(),
        )
        .await;
    }
    let stats = plain.content.list(None, 1000).await.unwrap();
    let mut documents = 0;
    for noted in (15..stats.len()).step_by(16) {
        let is_document = |stat: &Stat| {
            let record = wait(plain.blobs().load(&stat.digest)).unwrap().unwrap().0;
            record.media_type.is_some_and(|one| one.is_document())
        };
        documents += usize::from(is_document(&stats[noted]));
        let rest = &stats[noted + 1..];
        let Some(next) = rest
            .iter()
            .find(|stat| !is_document(stat) && stat.size < 20)
        else {
            continue;
        };
        let mut content = Wrapped::new(&plain);
        content.damaged = Some((next.digest, Flaw::Opens(ErrorKind::Unavailable)));
        let options = CheckOptions {
            read_data: ReadData::All,
            ..CheckOptions::default()
        };
        let error = check(&content.of(&plain), &[], &options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let notes = Notes::new(plain.records.clone(), "fsck").unwrap();
        let (note, _) = notes.load("all").await.unwrap().unwrap();
        let at = stats.iter().position(|stat| stat.digest == next.digest);
        let expected = &stats[at.unwrap() / 16 * 16 - 1].digest;
        assert_eq!(note, expected.to_string());
    }
    assert!(documents > 1, "the case did not occur");
}

/// The damage changed no timestamp, so the store reports that the verified blob is unchanged.
#[tokio::test]
async fn a_damaged_blob_is_fetched_although_it_seems_to_be_unchanged() {
    let corrupt = ErrorKind::Corrupt;
    let flaws = [
        Flaw::First,
        Flaw::Last,
        Flaw::Cut,
        Flaw::Opens(corrupt),
        Flaw::Reads(corrupt),
    ];
    for (at, flaw) in flaws.into_iter().enumerate() {
        let (plain, other) = (store(), store());
        let target = image(&plain, "linux/amd64").await;
        image(&other, "linux/amd64").await;
        let named = Image::new("app:1".parse().unwrap(), target.clone());
        plain.images.create(named).await.unwrap();
        let parts = parts(&plain, &target).await;
        let damaged = [&target, &parts[0], &parts[1]][at % 3].digest;
        let before = plain.content.stat(&damaged).await.unwrap().unwrap();
        let verified = |record: Option<BlobRecord>| {
            let mut record = record.expect("every blob has a record");
            record.verified = Some(before.version);
            Ok(record)
        };
        plain.blobs().update(&damaged, verified).await.unwrap();
        let mut content = Wrapped::new(&plain);
        content.damaged = Some((damaged, flaw));
        content.unchanged = true;
        let options = CheckOptions {
            read_data: ReadData::All,
            repair: Some(Repair {
                sources: &Source(other),
                rebuilder: None,
            }),
            ..CheckOptions::default()
        };
        let report = check(&content.of(&plain), &[], &options).await.unwrap();
        let is_repaired = |found: &Finding| found.problem == Problem::BlobDamaged && found.repaired;
        assert!(report.findings.iter().any(is_repaired), "{report:?}");
        let after = plain.content.stat(&damaged).await.unwrap().unwrap();
        assert_ne!(
            after.version, before.version,
            "{flaw:?}: it was not replaced"
        );
    }
}

/// Puts an image with a layer that is so large that it is not always hashed, and names the image.
/// Returns the image and the layer.
async fn large(store: &Store) -> (Image, Descriptor) {
    let layer = put(store, MediaType::OCI_LAYER, &vec![7; 2 << 20]).await;
    let config = config(store, "linux/amd64", &[layer.digest]).await;
    let target = manifest(store, config, std::slice::from_ref(&layer)).await;
    let image = Image::new("app:1".parse().unwrap(), target);
    (store.images.create(image).await.unwrap(), layer)
}

/// Finds the damage of a layer in one of several ways.
async fn find_damage(way: &str, damaged: &Store, image: &Image, layer: &Descriptor) {
    match way {
        "a check" => {
            let options = CheckOptions {
                read_data: ReadData::All,
                ..CheckOptions::default()
            };
            let report = check(damaged, &[], &options).await.unwrap();
            let is_it = |found: &Finding| found.problem == Problem::BlobDamaged;
            assert!(report.findings.iter().any(is_it), "{report:?}");
        }
        "a reader" => {
            let reader = blob::read_verified(damaged, &layer.digest).await;
            let mut reader = reader.unwrap().unwrap();
            let error = loop {
                match reader.next().await {
                    Ok(piece) => assert!(piece.is_some(), "the damage was not found"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
        "a copy" => {
            let copied = copy(damaged, &store(), image, &CopyOptions::default()).await;
            assert_eq!(copied.unwrap_err().kind(), ErrorKind::Corrupt);
        }
        _ => {}
    }
}

/// The damage changed no timestamp. Until it is found, the record of the blob is relied on.
#[tokio::test]
async fn damage_that_was_found_is_replaced_although_the_blob_seems_to_be_unchanged() {
    for way in ["nothing", "a check", "a reader", "a copy"] {
        let (plain, other) = (store(), store());
        let (image, layer) = large(&plain).await;
        large(&other).await;
        let stat = async || plain.content.stat(&layer.digest).await.unwrap().unwrap();
        let before = stat().await;
        let verified = |record: Option<BlobRecord>| {
            let mut record = record.expect("every blob has a record");
            record.verified = Some(before.version);
            Ok(record)
        };
        plain.blobs().update(&layer.digest, verified).await.unwrap();
        let mut content = Wrapped::new(&plain);
        content.damaged = Some((layer.digest, Flaw::First));
        content.unchanged = true;
        let damaged = content.of(&plain);
        find_damage(way, &damaged, &image, &layer).await;
        copy(&other, &damaged, &image, &CopyOptions::default())
            .await
            .unwrap();
        let is_replaced = stat().await.version != before.version;
        assert_eq!(is_replaced, way != "nothing", "found by {way}");
    }
}

/// The damage changed no timestamp.
#[tokio::test]
async fn a_small_blob_is_hashed_although_it_seems_to_be_unchanged() {
    let plain = store();
    let (image, _) = large(&plain).await;
    for blob in [&image.target, &parts(&plain, &image.target).await[0]] {
        let before = plain.content.stat(&blob.digest).await.unwrap().unwrap();
        let verified = |record: Option<BlobRecord>| {
            let mut record = record.expect("every blob has a record");
            record.verified = Some(before.version);
            Ok(record)
        };
        plain.blobs().update(&blob.digest, verified).await.unwrap();
        let mut content = Wrapped::new(&plain);
        content.damaged = Some((blob.digest, Flaw::Last));
        content.unchanged = true;
        let damaged = content.of(&plain);
        let guard = LeaseGuard::begin(&damaged, "test").await.unwrap();
        let intact = guard.pin_intact(BlobRef::existing(blob.digest)).await;
        assert!(!intact.unwrap(), "{}", blob.media_type);
        guard.finish().await.unwrap();
    }
}

/// A job that brings the right bytes while a repair looks for them. The repair finds no source.
struct Meanwhile(Arc<AtomicBool>);

#[async_trait]
impl Sources for Meanwhile {
    async fn of(&self, _: Option<&Reference>) -> Result<Vec<Arc<dyn Fetcher>>> {
        self.0.store(true, Ordering::Relaxed);
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn bytes_that_are_right_by_now_are_not_set_aside() {
    let plain = store();
    let target = image(&plain, "linux/amd64").await;
    let named = Image::new("app:1".parse().unwrap(), target.clone());
    plain.images.create(named).await.unwrap();
    let layer = parts(&plain, &target).await[1].digest;
    let mut content = Wrapped::new(&plain);
    content.damaged = Some((layer, Flaw::First));
    let options = CheckOptions {
        read_data: ReadData::All,
        repair: Some(Repair {
            sources: &Meanwhile(Arc::clone(&content.mended)),
            rebuilder: None,
        }),
        ..CheckOptions::default()
    };
    let report = check(&content.of(&plain), &[], &options).await.unwrap();
    let is_damage = |found: &Finding| found.problem == Problem::BlobDamaged;
    assert!(report.findings.iter().any(is_damage), "{report:?}");
    assert!(plain.content.stat(&layer).await.unwrap().is_some());
}

/// An image without a name that a lease keeps needs its blobs as much as an image with a name.
#[tokio::test]
async fn what_a_lease_keeps_is_checked_and_fetched_again() {
    for (flat, expired, part) in [
        (false, false, Some(0)),
        (false, false, Some(1)),
        (false, false, None),
        (true, false, Some(1)),
        (false, true, Some(1)),
    ] {
        let (plain, other) = (store(), store());
        let target = image(&plain, "linux/amd64").await;
        image(&other, "linux/amd64").await;
        let until = expired.then(|| SystemTime::now() - Duration::from_hours(1));
        let mut lease = Lease::new("user", until);
        lease.resources.insert(Resource::Content(target.digest));
        if flat {
            lease.labels.insert(GC_FLAT.to_owned(), "1".to_owned());
        }
        plain.leases().create("kept", &lease).await.unwrap();
        let lost = match part {
            Some(part) => parts(&plain, &target).await[part].digest,
            None => target.digest,
        };
        assert!(plain.content.remove(&lost).await.unwrap());
        let source = Source(other);
        let mut options = CheckOptions::default();
        let report = check(&plain, &[], &options).await.unwrap();
        let found: Vec<_> = report
            .findings
            .iter()
            .map(|one| (one.problem, &one.subject))
            .collect();
        if flat || expired {
            assert_eq!(found, []);
            continue;
        }
        assert_eq!(found, [(Problem::BlobMissing, &lost.to_string())]);
        options.repair = Some(Repair {
            sources: &source,
            rebuilder: None,
        });
        let report = check(&plain, &[], &options).await.unwrap();
        assert!(report.is_sound(), "{report:?}");
        assert!(plain.content.is_intact(&lost).await.unwrap());
        // Without the record of the manifest, only its digest is known.
        plain.content.remove(&target.digest).await.unwrap();
        plain.blobs().remove(&target.digest).await.unwrap();
        let report = check(&plain, &[], &CheckOptions::default()).await.unwrap();
        let found = &report.findings[0];
        assert_eq!(
            (found.problem, &found.subject),
            (Problem::BlobMissing, &target.digest.to_string())
        );
        assert!(found.detail.contains("lease kept"), "{found:?}");
    }
}

/// Replaces the children in the record of a document.
async fn record_children(store: &Store, document: &Digest, children: &[Digest]) {
    let changed = |record: Option<BlobRecord>| {
        let mut record = record.expect("every blob has a record");
        record.children = children.to_vec();
        record.absent.clear();
        Ok(record)
    };
    store.blobs().update(document, changed).await.unwrap();
}

/// A repair that corrects the children of a document goes on to fetch the missing ones. Those that
/// it could not fetch are reported again by the next check, and a collection keeps the others.
#[tokio::test]
async fn a_child_that_is_missing_while_children_are_corrected_does_not_count_as_left_out() {
    for part in 0..2 {
        for with_source in [true, false] {
            let (plain, other) = (store(), store());
            let target = image(&plain, "linux/amd64").await;
            image(&other, "linux/amd64").await;
            let named = Image::new("app:1".parse().unwrap(), target.clone());
            plain.images.create(named).await.unwrap();
            let lost = parts(&plain, &target).await[part].digest;
            assert!(plain.content.remove(&lost).await.unwrap());
            record_children(&plain, &target.digest, &[Digest::sha256(b"another")]).await;
            let source = Source(if with_source { other } else { store() });
            let mut options = CheckOptions {
                repair: Some(Repair {
                    sources: &source,
                    rebuilder: None,
                }),
                ..CheckOptions::default()
            };
            let report = check(&plain, &[], &options).await.unwrap();
            // What a failed fetch leaves is discarded, and reported, too.
            let found = report.findings.iter().take(2);
            let found = found.map(|one| (one.problem, one.repaired));
            let expected = [
                (Problem::ChildrenWrong, true),
                (Problem::BlobMissing, with_source),
            ];
            assert_eq!(found.collect::<Vec<_>>(), expected, "{report:?}");
            options.repair = None;
            let report = check(&plain, &[], &options).await.unwrap();
            let found: Vec<_> = report.findings.iter().map(|one| &one.subject).collect();
            if !with_source {
                assert_eq!(found, [&lost.to_string()], "it is still missing");
                continue;
            }
            assert!(report.is_sound(), "{report:?}");
            let later = SystemTime::now() + Duration::from_hours(48);
            let options = GcOptions::default().with_now(later);
            collect(&plain, &[], &options).await.unwrap();
            assert!(plain.content.is_intact(&lost).await.unwrap(), "part {part}");
        }
    }
}

/// A platform that the record of an index does not list was never stored, as far as is known.
#[tokio::test]
async fn only_platforms_that_a_wrong_record_lists_were_lost() {
    for is_listed in [true, false] {
        let plain = store();
        let kept = named(&plain, "linux/amd64").await;
        let lost = named(&plain, "linux/arm64").await;
        let target = index(&plain, &[kept.clone(), lost.clone()]).await;
        let image = Image::new("app:1".parse().unwrap(), target.clone());
        plain.images.create(image).await.unwrap();
        assert!(plain.content.remove(&lost.digest).await.unwrap());
        let mut children = vec![kept.digest, Digest::sha256(b"another")];
        if is_listed {
            children[0] = lost.digest;
        }
        record_children(&plain, &target.digest, &children).await;
        let found = |report: &Report| -> Vec<(Problem, String)> {
            let findings = report.findings.iter();
            findings
                .map(|one| (one.problem, one.subject.clone()))
                .collect()
        };
        let wrong = (Problem::ChildrenWrong, target.digest.to_string());
        let missing = (Problem::BlobMissing, lost.digest.to_string());
        let mut expected = vec![wrong];
        expected.extend(is_listed.then_some(missing));
        let report = check(&plain, &[], &CheckOptions::default()).await;
        assert_eq!(found(&report.unwrap()), expected);
        assert_eq!(found(&repaired(&plain).await.unwrap()), expected);
        expected.remove(0);
        assert_eq!(found(&repaired(&plain).await.unwrap()), expected);
    }
}

/// The finding names the digest of the bytes that were found.
#[tokio::test]
async fn a_damaged_document_is_reported_with_the_digest_of_its_bytes() {
    for (flaw, read) in [(Flaw::First, false), (Flaw::Last, true)] {
        let plain = store();
        let target = image(&plain, "linux/amd64").await;
        let named = Image::new("app:1".parse().unwrap(), target.clone());
        plain.images.create(named).await.unwrap();
        let mut bytes = plain.content.fetch(&target).await.unwrap().to_vec();
        let at = if flaw == Flaw::First {
            0
        } else {
            bytes.len() - 1
        };
        bytes[at] ^= 1;
        let mut content = Wrapped::new(&plain);
        content.damaged = Some((target.digest, flaw));
        let options = CheckOptions {
            read_data: if read {
                ReadData::All
            } else {
                ReadData::Nothing
            },
            ..CheckOptions::default()
        };
        let report = check(&content.of(&plain), &[], &options).await.unwrap();
        let [found] = &report.findings[..] else {
            panic!("{report:?}");
        };
        let digest = Digest::sha256(&bytes).to_string();
        assert!(found.detail.contains(&digest), "{found:?}");
    }
}
