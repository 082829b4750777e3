//! Blobs joined with their records, and what a store finds out about a blob from its digest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::sync::Arc;

use bytes::Bytes;
use cas_core::blob::{BlobList, BlobProblem, children, describe, document, info, list};
use cas_core::compose::observe::Operation;
use cas_core::compose::{Counters, observe};
use cas_core::content::{Durability, Expected, Writer};
use cas_core::gc::{RemoveOptions, remove};
use cas_core::lease::{LeaseGuard, UNLEASED_TTL, update_labels};
use cas_core::records::{Batch, Blobs, Expect, Table, Tombstone};
use cas_core::{
    ContentExt, Descriptor, Digest, ErrorKind, Image, Labels, MediaType, Owner, Result, Store,
    limit,
};

mod support;
use support::wrapped::Wrapped;
use support::{image, index, named, parts, put, store};

/// Number of blobs that fill more than two pages of a listing.
const MANY: u32 = 2_345;

async fn plain(store: &Store, text: &str) -> Digest {
    let media_type = MediaType::from("text/plain");
    put(store, media_type, text.as_bytes()).await.digest
}

async fn bare(store: &Store, text: &str) -> Digest {
    let data = Bytes::copy_from_slice(text.as_bytes());
    store.content.put(data).await.unwrap()
}

async fn break_record(store: &Store, digest: &Digest) {
    let mut batch = Batch::new();
    let value = Bytes::from_static(b"{\"size\":");
    batch.put(Table::Blobs, digest.to_string(), Expect::Any, value);
    store.records.commit(&batch).await.unwrap();
}

fn owner(name: &str) -> Owner {
    name.parse().unwrap()
}

fn pairs(pairs: &[(&str, &str)]) -> Labels {
    let owned = pairs
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()));
    owned.collect()
}

#[tokio::test]
async fn one_pass_joins_all_blobs_with_their_records() {
    let plain_store = store();
    let mut batch = Batch::new();
    for number in 0..MANY {
        let digest = bare(&plain_store, &number.to_string()).await;
        let mut record = cas_core::records::BlobRecord::new(1, Some("text/plain".into()));
        record.labels = pairs(&[("number", &number.to_string())]);
        Blobs::put(&mut batch, &digest, &record, Expect::Any).unwrap();
        // A listing skips records of absent blobs, whether their keys sort before or after a blob.
        for absent in [format!("sha256:{number:064}"), format!("x{number}")] {
            batch.put(Table::Blobs, absent, Expect::Any, Bytes::from_static(b"{}"));
        }
    }
    plain_store.records.commit(&batch).await.unwrap();
    let counters = Arc::new(Counters::new());
    let store = observe(plain_store, counters.clone());
    let found = list(&store).await.unwrap();
    assert!(counters.of(Operation::List).calls <= u64::from(MANY / 1000 + 1));
    for none in [Operation::Load, Operation::Stat, Operation::Open] {
        assert_eq!(counters.of(none).calls, 0, "{none:?}");
    }
    assert_eq!(
        (found.blobs.len(), found.problems.len()),
        (MANY as usize, 0)
    );
    assert!(found.blobs.is_sorted_by_key(|blob| blob.digest));
    assert_eq!(found.media_types().len(), MANY as usize);
    let sizes: u64 = (0..MANY)
        .map(|number| number.to_string().len() as u64)
        .sum();
    assert_eq!(found.bytes(), sizes);
    for blob in found.blobs.iter().step_by(97) {
        assert_eq!(
            info(&store, &blob.digest).await.unwrap().as_ref(),
            Some(blob)
        );
        let number = &blob.labels["number"];
        assert_eq!(blob.digest, Digest::sha256(number.as_bytes()));
        assert!(blob.created_at.is_some() && blob.updated_at.is_some());
    }
}

/// The listing has the types of all blobs, also of those that no image reaches or that are in
/// nested indexes. A blob without a sound record does not hide the others.
#[tokio::test]
async fn media_types_of_all_blobs_are_listed_with_problems_beside_them() {
    let store = store();
    let inner = image(&store, "linux/amd64").await;
    let nested = index(&store, std::slice::from_ref(&inner)).await;
    let outer = index(&store, std::slice::from_ref(&nested)).await;
    let loose = plain(&store, "loose").await;
    let (foreign, broken) = (bare(&store, "foreign").await, plain(&store, "broken").await);
    break_record(&store, &broken).await;
    let found = list(&store).await.unwrap();
    let types = found.media_types();
    assert_eq!(types[&outer.digest], MediaType::OCI_INDEX);
    assert_eq!(types[&nested.digest], MediaType::OCI_INDEX);
    assert_eq!(types[&inner.digest], MediaType::OCI_MANIFEST);
    assert_eq!(types[&loose], MediaType::from("text/plain"));
    for part in parts(&store, &inner).await {
        assert_eq!(types[&part.digest], part.media_type);
    }
    assert!(!types.contains_key(&foreign) && !types.contains_key(&broken));
    let sizes = found.blobs.iter().map(|blob| (blob.digest, blob.size));
    assert!(sizes.clone().any(|blob| blob == (foreign, 7)));
    assert!(sizes.clone().any(|blob| blob == (broken, 6)));
    let problems = found.problems.iter().map(|problem| match problem {
        BlobProblem::Unrecorded(digest) => (*digest, false),
        BlobProblem::Unreadable(digest, error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            (*digest, true)
        }
        other => panic!("{other}"),
    });
    let problems: BTreeSet<_> = problems.collect();
    assert_eq!(problems, BTreeSet::from([(foreign, false), (broken, true)]));
    assert!(found.problems.is_sorted_by_key(|problem| *problem.digest()));
    assert!(
        found
            .problems
            .iter()
            .all(|one| one.to_string().contains(&one.digest().to_string()))
    );
}

/// Marks a blob as one that a collection removes, in its version or in an earlier one.
async fn bury(store: &Store, digest: &Digest, is_current: bool) {
    let stat = store.content.stat(digest).await.unwrap().unwrap();
    let (mut record, revision) = store.blobs().load(digest).await.unwrap().unwrap();
    let version = is_current.then_some(stat.version);
    record.tombstone = Some(Tombstone { version });
    let mut batch = Batch::new();
    Blobs::put(&mut batch, digest, &record, Expect::Revision(revision)).unwrap();
    store.records.commit(&batch).await.unwrap();
}

/// An `fs` store lists digests without sizes. The sizes come from the records. The store is
/// queried only for the sizes of blobs without a sound record.
#[tokio::test]
async fn a_list_of_names_looks_only_for_what_no_record_tells() {
    let store = store();
    for number in 0..20 {
        plain(&store, &format!("plain {number}")).await;
    }
    let foreign = bare(&store, "foreign").await;
    let broken = plain(&store, "broken").await;
    break_record(&store, &broken).await;
    let (going, back) = (plain(&store, "going").await, plain(&store, "back").await);
    bury(&store, &going, true).await;
    bury(&store, &back, false).await;
    let mut names = Wrapped::new(&store);
    names.only_digests = true;
    let counters = Arc::new(Counters::new());
    let names = observe(names.of(&store), counters.clone());
    for owned in [false, true] {
        let open = |store: &Store| match owned {
            true => store.for_owner(&owner("one")).unwrap(),
            false => store.clone(),
        };
        plain(&open(&store), "claimed").await;
        let (found, expected) = (list(&open(&names)).await, list(&open(&store)).await);
        let (found, expected) = (found.unwrap(), expected.unwrap());
        assert_eq!(found.blobs, expected.blobs);
        assert_eq!(found.blobs.len(), if owned { 1 } else { 24 });
        let problems = |list: &BlobList| -> Vec<String> {
            list.problems.iter().map(ToString::to_string).collect()
        };
        assert_eq!(problems(&found), problems(&expected));
        assert_eq!(found.problems.len(), if owned { 0 } else { 2 });
    }
    let looks = counters.of(Operation::Stat).calls;
    assert_eq!(looks, 2 * 4, "{foreign}, {broken}, {going}, {back}");
}

#[tokio::test]
async fn a_blob_that_a_collection_removes_is_absent() {
    let store = store();
    let (going, back) = (plain(&store, "going").await, plain(&store, "back").await);
    bury(&store, &going, true).await;
    bury(&store, &back, false).await;
    assert_eq!(info(&store, &going).await.unwrap(), None);
    let left = info(&store, &back).await.unwrap().unwrap();
    assert_eq!((left.size, &left.media_type), (4, &None));
    let found = list(&store).await.unwrap();
    assert_eq!(found.blobs, [left]);
    assert_eq!(
        info(&store, &Digest::sha256(b"absent")).await.unwrap(),
        None
    );
}

#[tokio::test]
async fn an_owner_lists_what_they_claim() {
    let store = store();
    let one = store.for_owner(&owner("one")).unwrap();
    let two = store.for_owner(&owner("two")).unwrap();
    let (own, shared) = (plain(&one, "own").await, plain(&one, "shared").await);
    plain(&two, "shared").await;
    let foreign = bare(&store, "foreign").await;
    let listed = async |store: &Store| {
        let found = list(store).await.unwrap();
        let digests: BTreeSet<Digest> = found.blobs.iter().map(|blob| blob.digest).collect();
        (digests, found.problems.len())
    };
    assert_eq!(listed(&one).await, (BTreeSet::from([own, shared]), 0));
    assert_eq!(listed(&two).await, (BTreeSet::from([shared]), 0));
    assert_eq!(
        listed(&store).await,
        (BTreeSet::from([own, shared, foreign]), 1)
    );
}

#[tokio::test]
async fn children_are_found_by_the_digest_alone() {
    let full = store();
    let target = named(&full, "linux/amd64").await;
    let listed = parts(&full, &target).await;
    let listed: Vec<Digest> = listed.iter().map(|part| part.digest).collect();
    let counters = Arc::new(Counters::new());
    let observed = observe(full.clone(), counters.clone());
    assert_eq!(children(&observed, &target.digest).await.unwrap(), listed);
    assert_eq!(children(&observed, &listed[1]).await.unwrap(), []);
    assert_eq!(counters.of(Operation::Open).calls, 0, "the records say it");

    // A store with the same bytes, but without records.
    let copy = store();
    for blob in list(&full).await.unwrap().blobs {
        copy.content
            .copy_from(&*full.content, &blob.digest)
            .await
            .unwrap();
    }
    assert_eq!(children(&copy, &target.digest).await.unwrap(), listed);
    assert_eq!(
        document(&copy, &target.digest).await.unwrap().media_type,
        target.media_type
    );
    for leaf in &listed {
        assert_eq!(children(&copy, leaf).await.unwrap(), []);
        let error = document(&copy, leaf).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    let absent = Digest::sha256(b"absent");
    for error in [
        children(&copy, &absent).await.unwrap_err(),
        describe(&copy, &absent).await.unwrap_err(),
        document(&copy, &absent).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}

/// Of a blob of unknown type, only a bounded number of bytes is read, and the blob counts as a
/// document only if it parses as one.
#[tokio::test]
async fn a_blob_without_a_record_is_recognised_within_bounds() {
    let plain_store = store();
    let counters = Arc::new(Counters::new());
    let store = observe(plain_store, counters.clone());
    let large = format!("{{{}", " ".repeat(limit::DOCUMENT_READ as usize));
    for text in [
        "",
        "{",
        "{}",
        "[1]",
        r#"{"manifests":null}"#,
        "\u{1f8b} layer",
        &large,
    ] {
        let digest = bare(&store, text).await;
        assert_eq!(children(&store, &digest).await.unwrap(), [], "{text:.20}");
        let described = describe(&store, &digest).await.unwrap();
        assert_eq!(described.media_type.as_str(), "application/octet-stream");
    }
    assert!(counters.of(Operation::ReadAt).bytes < 2000);
    let spaced = bare(&store, " \n\t{\"schemaVersion\":2,\"manifests\":[]}").await;
    let described = document(&store, &spaced).await.unwrap();
    assert_eq!(described.media_type, MediaType::OCI_INDEX);
    assert_eq!(children(&store, &spaced).await.unwrap(), []);
}

async fn updated(
    store: &Store,
    digest: &Digest,
    update: &Labels,
    paths: &[&str],
) -> Result<Labels> {
    update_labels(store, digest, update, paths).await
}

#[tokio::test]
async fn labels_are_replaced_by_field_path() {
    let store = store();
    let blob = plain(&store, "labelled").await;
    let set = pairs(&[("a", "1"), ("b.c/d", "2"), ("empty", "")]);
    let all = updated(&store, &blob, &set, &[]).await.unwrap();
    assert_eq!(all, pairs(&[("a", "1"), ("b.c/d", "2")]));
    let update = pairs(&[("b.c/d", "3"), ("e", "4")]);
    let one = updated(&store, &blob, &update, &["labels.b.c/d"])
        .await
        .unwrap();
    assert_eq!(one, pairs(&[("a", "1"), ("b.c/d", "3")]));
    let removed = updated(&store, &blob, &update, &["labels.a"])
        .await
        .unwrap();
    assert_eq!(removed, pairs(&[("b.c/d", "3")]));
    let replaced = updated(&store, &blob, &update, &["labels"]).await.unwrap();
    assert_eq!(replaced, update);
    for paths in [
        &["size"][..],
        &["digest"],
        &["labels."],
        &["labels.e", "media_type"],
    ] {
        let error = updated(&store, &blob, &pairs(&[]), paths)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    for bad in ["containerd.io/gc.flat", "a b", ""] {
        let error = updated(&store, &blob, &pairs(&[(bad, "1")]), &[])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}");
    }
    let info = info(&store, &blob).await.unwrap().unwrap();
    assert_eq!((info.labels, info.size), (update, 8));
    let absent = Digest::sha256(b"absent");
    let error = updated(&store, &absent, &set, &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_owner_does_not_label_what_only_others_claim() {
    let store = store();
    let one = store.for_owner(&owner("one")).unwrap();
    let two = store.for_owner(&owner("two")).unwrap();
    let blob = plain(&one, "of one").await;
    let set = pairs(&[("a", "1")]);
    let error = updated(&two, &blob, &set, &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    updated(&one, &blob, &set, &[]).await.unwrap();
    plain(&two, "of one").await;
    updated(&two, &blob, &set, &["labels.b"]).await.unwrap();
    updated(&store, &blob, &pairs(&[]), &[]).await.unwrap();
}

/// A removal that skips absent blobs can be repeated, but it still refuses a blob in use.
#[tokio::test]
async fn a_removal_skips_what_is_absent_and_respects_what_is_used() {
    let store = store();
    let target = named(&store, "linux/amd64").await;
    let name = "app".parse().unwrap();
    store
        .images
        .create(Image::new(name, target.clone()))
        .await
        .unwrap();
    let (free, absent) = (plain(&store, "free").await, Digest::sha256(b"absent"));
    let options = RemoveOptions::default().with_skip_absent(true);
    let removed = async |blobs: &[Digest]| {
        let blobs = blobs.iter().copied().collect();
        remove(&store, &[], &blobs, &options)
            .await
            .map(|removed| removed.blobs)
    };
    assert_eq!(removed(&[free, absent]).await.unwrap(), [(free, 4)]);
    assert_eq!(removed(&[free, absent]).await.unwrap(), []);
    // A job that is about to store a blob has its record already.
    let guard = LeaseGuard::begin(&store, "store").await.unwrap();
    let coming = Descriptor::of(MediaType::OCI_LAYER, b"coming");
    guard
        .pin(cas_core::lease::BlobRef::of(&coming, vec![]))
        .await
        .unwrap();
    assert_eq!(removed(&[coming.digest]).await.unwrap(), []);
    guard.finish().await.unwrap();
    let error = removed(&[target.digest, absent]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
}

#[tokio::test]
async fn a_name_is_new_or_exists_as_the_job_demands() {
    let store = store();
    let (old, new) = (
        named(&store, "linux/amd64").await,
        named(&store, "linux/arm64").await,
    );
    let named = |target: &Descriptor| Image::new("app".parse().unwrap(), target.clone());
    let guard = async || LeaseGuard::begin(&store, "name").await.unwrap();
    let error = guard().await.name_again(named(&old)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let mut first = named(&old);
    first.labels = pairs(&[("kept", "1")]);
    guard().await.name_new(first).await.unwrap();
    let error = guard().await.name_new(named(&new)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let found = store.images.get(&named(&old).name).await.unwrap().unwrap();
    assert_eq!(found.target, old);
    let replaced = guard().await.name_again(named(&new)).await.unwrap();
    assert_eq!(
        (&replaced.target, &replaced.labels),
        (&new, &pairs(&[("kept", "1")]))
    );
    assert_eq!(store.leases().list().await.unwrap().len(), 0);
}

/// Two jobs pull one image: neither fails, and neither stores a blob that the other has stored.
#[tokio::test]
async fn a_blob_that_another_job_is_storing_is_waited_for() {
    let store = store();
    for is_published in [true, false] {
        let data = Bytes::from(format!("published: {is_published}"));
        let blob = Descriptor::of("text/plain".into(), &data);
        let (key, expected) = (
            blob.digest.to_string(),
            Expected::exactly(blob.digest, blob.size),
        );
        let mut other = Writer::begin(&*store.content, &key, expected)
            .await
            .unwrap();
        let other = async {
            other.write(data.clone()).await.unwrap();
            if !is_published {
                return None;
            }
            let published = store.publish(other, &blob, vec![], Durability::Full);
            published.await.unwrap();
            store.content.stat(&blob.digest).await.unwrap()
        };
        let waiting = store.put(&blob, data.clone(), Durability::Full);
        let (waited, published) = tokio::join!(waiting, other);
        waited.unwrap();
        let found = store.content.stat(&blob.digest).await.unwrap().unwrap();
        assert_eq!(published.is_some(), is_published);
        assert_eq!(found.version, published.unwrap_or(found).version);
        assert!(info(&store, &blob.digest).await.unwrap().is_some());
    }
}

/// An index that was stored before its manifests keeps them once it is named.
#[tokio::test]
async fn what_was_absent_and_came_since_is_kept_by_the_name() {
    let (from, to) = (store(), store());
    let inner = image(&from, "linux/amd64").await;
    let outer = index(&from, std::slice::from_ref(&inner)).await;
    let mut blobs = parts(&from, &inner).await;
    blobs.splice(0..0, [outer.clone(), inner.clone()]);
    for blob in &blobs {
        let data = from.content.fetch(blob).await.unwrap();
        let guard = LeaseGuard::begin(&to, "store").await.unwrap();
        guard.put(blob, data, Durability::Full).await.unwrap();
        guard.finish_kept().await.unwrap();
    }
    let record = to.blobs().load(&outer.digest).await.unwrap().unwrap().0;
    assert_eq!(record.absent, BTreeSet::from([inner.digest]));
    let guard = LeaseGuard::begin(&to, "name").await.unwrap();
    guard.pin_tree_found(&outer).await.unwrap();
    guard
        .name_new(Image::new("app".parse().unwrap(), outer.clone()))
        .await
        .unwrap();
    let later = std::time::SystemTime::now() + 2 * UNLEASED_TTL;
    let options = cas_core::gc::GcOptions::default().with_now(later);
    let removed = cas_core::gc::collect(&to, &[], &options).await.unwrap();
    assert_eq!(removed.blobs, []);
    assert_eq!(list(&to).await.unwrap().blobs.len(), 4);

    // A part that was stored and then lost does not count as left out.
    to.content.remove(&inner.digest).await.unwrap();
    let guard = LeaseGuard::begin(&to, "name").await.unwrap();
    let error = guard.pin_tree_found(&outer).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn what_was_pinned_is_kept_for_a_day_after_the_lease() {
    let store = store();
    let descriptor = Descriptor::of(MediaType::OCI_LAYER, b"layer");
    let guard = LeaseGuard::begin(&store, "store").await.unwrap();
    guard
        .put(&descriptor, "layer".into(), Durability::Full)
        .await
        .unwrap();
    guard.finish_kept().await.unwrap();
    let collected = async |after| {
        let now = std::time::SystemTime::now() + after;
        let options = cas_core::gc::GcOptions::default().with_now(now);
        cas_core::gc::collect(&store, &[], &options)
            .await
            .unwrap()
            .blobs
    };
    assert_eq!(collected(UNLEASED_TTL / 2).await, []);
    assert_eq!(collected(UNLEASED_TTL * 2).await, [(descriptor.digest, 5)]);
}

/// A store may return adopted bytes in several pieces.
#[tokio::test]
async fn adopted_bytes_are_hashed_whole() {
    let plain = store();
    let mut content = Wrapped::new(&plain);
    content.pieces = Some(1000);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/blobs.rs");
    let (data, file) = (fs::read(path).unwrap(), File::open(path).unwrap());
    let mut writer = Writer::begin(&content, "key", Expected::ANY).await.unwrap();
    let length = data.len() as u64;
    let written = writer.write_file(&Arc::new(file), 0, length).await;
    assert_eq!((written.unwrap(), writer.offset()), (length, length));
    let done = writer
        .commit(&Batch::new(), Durability::Full)
        .await
        .unwrap();
    assert_eq!((done.digest, done.size), (Digest::sha256(&data), length));
}
