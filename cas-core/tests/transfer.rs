//! Diff ids with a codec of the caller, and copies from store to store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Read;
use std::sync::Arc;

use cas_core::compose::observe::Operation;
use cas_core::compose::{Counters, observe};
use cas_core::content::{Durability, Expected, Writer};
use cas_core::image::{RecordImages, UNCOMPRESSED, diff_id};
use cas_core::lease::{LeaseGuard, set_labels};
use cas_core::media_type::DiffCompression;
use cas_core::records::BlobRecord;
use cas_core::testing::fault::{Fault, Plan, Side, faulty};
use cas_core::testing::memory::MemoryStore;
use cas_core::testing::strict::StrictStore;
use cas_core::transfer::{CopyOptions, copy};
use cas_core::{ContentExt, Descriptor, Digest, Error, ErrorKind, Image, MediaType, Result, Store};
use serde_json::json;

mod support;
use support::wrapped::{Flaw, Wrapped};
use support::{image, index, put, store};

type Stream = Box<dyn Read + Send>;

/// A toy codec that inverts the first four bytes and ignores the rest.
fn flip(_: DiffCompression, mut stream: Stream) -> Result<Stream> {
    let mut first = [0; 4];
    stream.read_exact(&mut first)?;
    Ok(Box::new(std::io::Cursor::new(first.map(|byte| !byte))))
}

fn never(_: DiffCompression, _: Stream) -> Result<Stream> {
    Err(Error::internal("the codec was called"))
}

async fn label(store: &Store, layer: &Descriptor) -> Option<String> {
    let record = store.blobs().load(&layer.digest).await.unwrap()?;
    record.0.labels.get(UNCOMPRESSED).cloned()
}

#[tokio::test]
async fn the_digest_of_an_uncompressed_layer_is_its_diff_id() {
    let store = store();
    let absent = Descriptor::of(MediaType::OCI_LAYER, b"absent");
    assert_eq!(
        diff_id(&store, &absent, never).await.unwrap(),
        absent.digest
    );
    let config = Descriptor::of(MediaType::OCI_CONFIG, b"absent");
    let error = diff_id(&store, &config, never).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let absent = Descriptor::of(MediaType::OCI_LAYER_GZIP, b"absent");
    let error = diff_id(&store, &absent, never).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// Docker's type without a suffix states no compression, so the codec looks at the bytes.
#[tokio::test]
async fn a_compressed_layer_is_hashed_once_and_labelled() {
    for media_type in [MediaType::OCI_LAYER_GZIP, MediaType::DOCKER_LAYER] {
        let store = store();
        let layer = put(&store, media_type, b"abcd, and what a codec leaves").await;
        let expected = Digest::sha256(&b"abcd".map(|byte| !byte));
        assert_eq!(diff_id(&store, &layer, flip).await.unwrap(), expected);
        assert_eq!(label(&store, &layer).await, Some(expected.to_string()));
        assert_eq!(diff_id(&store, &layer, never).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_wrapped_layer_needs_its_label() {
    let store = store();
    let wrapped = MediaType::from("application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
    let squashed = MediaType::from("application/vnd.oci.image.layer.v1.squashfs");
    let encrypted = MediaType::from("application/vnd.docker.image.rootfs.diff.tar+encrypted");
    let odd = MediaType::from("application/octet-stream");
    for media_type in [wrapped, squashed, encrypted, odd] {
        let data = media_type.to_string();
        let layer = put(&store, media_type, data.as_bytes()).await;
        let error = diff_id(&store, &layer, never).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{data}");
        let plain = Digest::sha256(b"plain");
        let label = [(UNCOMPRESSED.to_owned(), plain.to_string())];
        set_labels(&store, &layer, &label.into()).await.unwrap();
        assert_eq!(diff_id(&store, &layer, never).await.unwrap(), plain);
    }
}

#[tokio::test]
async fn a_label_that_cannot_be_stored_is_not_needed() {
    let plan = Plan::new();
    let store = faulty(&store(), &plan);
    let layer = put(&store, MediaType::OCI_LAYER_GZIP, b"abcd").await;
    let expected = Digest::sha256(&b"abcd".map(|byte| !byte));
    let fault = Fault {
        kind: ErrorKind::Denied,
        side: Side::Before,
    };
    plan.fail_some(1, 1, fault);
    assert_eq!(diff_id(&store, &layer, flip).await.unwrap(), expected);
    assert!(!plan.end().is_empty());
    assert_eq!(label(&store, &layer).await, None);
}

#[tokio::test]
async fn damaged_bytes_get_no_label() {
    let store = store();
    let layer = put(&store, MediaType::OCI_LAYER_GZIP, b"abcd").await;
    let claimed = Descriptor {
        size: 5,
        ..layer.clone()
    };
    let error = diff_id(&store, &claimed, flip).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let broken = |_, _| -> Result<Stream> { Err(Error::corrupt("no gzip")) };
    assert_eq!(
        diff_id(&store, &layer, broken).await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    assert_eq!(label(&store, &layer).await, None);
}

/// Returns the children that the record of a blob lists, if the store has the blob.
async fn edges(store: &Store, blob: &Descriptor) -> Option<Vec<Digest>> {
    store.content.stat(&blob.digest).await.unwrap()?;
    let record = store.blobs().load(&blob.digest).await.unwrap();
    Some(record.unwrap().0.children)
}

async fn made(store: &Store) -> (Image, [Descriptor; 3]) {
    let (amd64, arm64) = (
        image(store, "linux/amd64").await,
        image(store, "linux/arm64").await,
    );
    let nested = index(store, std::slice::from_ref(&arm64)).await;
    let root = index(store, &[arm64.clone(), nested.clone(), amd64.clone()]).await;
    let image = store
        .images
        .create(Image::new("a".parse().unwrap(), root))
        .await
        .unwrap();
    (image, [nested, arm64, amd64])
}

#[tokio::test]
async fn a_copy_is_complete_and_can_be_repeated() {
    let (from, to) = (store(), store());
    let (image, documents) = made(&from).await;
    for _ in 0..2 {
        copy(&from, &to, &image, &CopyOptions::default())
            .await
            .unwrap();
        let copied = to.images.get(&image.name).await.unwrap().unwrap();
        assert_eq!(copied.target, image.target);
    }
    let mut all = vec![image.target.clone()];
    for document in &documents {
        all.push(document.clone());
        all.extend(
            cas_core::dispatch::children(&*from.content, document)
                .await
                .unwrap(),
        );
    }
    for blob in &all {
        let expected = edges(&from, blob).await;
        assert!(expected.is_some());
        assert_eq!(edges(&to, blob).await, expected, "{blob:?}");
    }
}

/// The rest of a damaged record may still parse.
#[tokio::test]
async fn a_copy_corrects_a_record_that_lists_other_children_than_the_document() {
    let (from, to) = (store(), store());
    let (image, documents) = made(&from).await;
    let again = async || {
        copy(&from, &to, &image, &CopyOptions::default())
            .await
            .unwrap();
    };
    again().await;
    for document in documents.iter().chain([&image.target]) {
        let listed = async || {
            let (record, _) = to.blobs().load(&document.digest).await.unwrap().unwrap();
            (record.children, record.absent)
        };
        let expected = listed().await;
        for other in [Digest::sha256(b"other"), expected.0[expected.0.len() - 1]] {
            let damage = |found: Option<BlobRecord>| {
                let mut record = found.unwrap();
                record.children[0] = other;
                Ok(record)
            };
            to.blobs().update(&document.digest, damage).await.unwrap();
            again().await;
            assert_eq!(listed().await, expected, "{}", document.media_type);
        }
    }
}

#[tokio::test]
async fn a_failed_copy_leaves_no_document_and_no_name() {
    let (from, to) = (store(), store());
    let (image, documents) = made(&from).await;
    let parts = support::parts(&from, &documents[2]).await;
    from.content.remove(&parts[1].digest).await.unwrap();
    let error = copy(&from, &to, &image, &CopyOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(to.images.get(&image.name).await.unwrap(), None);
    for document in documents.iter().chain([&image.target]) {
        assert_eq!(edges(&to, document).await, None);
    }
}

/// Wrong bytes that another program left under the key of a blob make one copy fail, but not the
/// next.
#[tokio::test]
async fn a_wrong_prefix_is_not_resumed_twice() {
    let (from, to) = (store(), store());
    let (image, documents) = made(&from).await;
    let layer = support::parts(&from, &documents[2]).await.remove(1);
    let mut writer = to.writer(&layer).await.unwrap();
    writer.write(b"wrong"[..].into()).await.unwrap();
    drop(writer);
    let error = copy(&from, &to, &image, &CopyOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    copy(&from, &to, &image, &CopyOptions::default())
        .await
        .unwrap();
    assert!(to.content.ingests().await.unwrap().is_empty());
}

/// Shared indexes in a long chain, each of which is within the bound of nesting by its shortest
/// path. Copying them in order must not recurse along the chain.
#[test]
fn a_long_chain_of_shared_indexes_copies_on_a_small_stack() {
    let work = || {
        cas_core::pool::wait(async {
            let (from, to) = (store(), store());
            let mut chain = vec![image(&from, "linux/amd64").await];
            for _ in 0..2000 {
                let below = chain.last().unwrap().clone();
                chain.push(index(&from, &[below]).await);
            }
            chain.reverse();
            let root = index(&from, &chain).await;
            let image = Image::new("a".parse().unwrap(), root);
            copy(&from, &to, &image, &CopyOptions::default())
                .await
                .map(|_| ())
        })
    };
    let thread = std::thread::Builder::new().stack_size(512 << 10);
    thread.spawn(work).unwrap().join().unwrap().unwrap();
}

/// Bytes that a copy from a damaged store left under the key make one copy fail, but not the next.
#[tokio::test]
async fn a_copy_after_a_damaged_one_starts_again() {
    let to = store();
    let digest = Digest::sha256(b"good");
    let mut left = to.content.begin(&digest.to_string()).await.unwrap();
    left.append("goo?".into()).await.unwrap();
    drop(left);
    let from = store();
    from.content.put("good".into()).await.unwrap();
    let copy = async || to.content.copy_from(&*from.content, &digest).await;
    assert_eq!(copy().await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(copy().await.unwrap(), 4);
}

#[tokio::test]
async fn a_copy_keeps_intact_bytes_and_replaces_damaged_ones() {
    let (from, to) = (store(), store());
    let digest = from.content.put("good".into()).await.unwrap();
    to.content.put("good".into()).await.unwrap();
    let version = async || to.content.stat(&digest).await.unwrap().unwrap().version;
    let before = version().await;
    let mut wrapped = Wrapped::new(&to);
    let copied = wrapped.copy_from(&*from.content, &digest).await;
    assert_eq!((copied.unwrap(), version().await), (4, before));
    wrapped.damaged = Some((digest, Flaw::First));
    let copied = wrapped.copy_from(&*from.content, &digest).await;
    assert_eq!(copied.unwrap(), 4);
    assert_ne!(version().await, before, "the damaged bytes are still there");
}

/// Puts an index of `manifests` that refers to `subject`. Its digest is less than those of the
/// manifests, so it is copied before them if they refer to the same subject.
async fn bundle(store: &Store, subject: &Descriptor, manifests: &[Descriptor]) -> Descriptor {
    let mut number = 0;
    loop {
        let index = json!({
            "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": manifests,
            "subject": subject, "annotations": {"number": format!("{number}")},
        });
        let data = index.to_string().into_bytes();
        let digest = Digest::sha256(&data);
        if manifests.iter().all(|manifest| digest < manifest.digest) {
            return put(store, MediaType::OCI_INDEX, &data).await;
        }
        number += 1;
    }
}

/// A batch that changes a record twice fails, and each record is then changed on its own.
#[tokio::test]
async fn the_records_of_all_documents_are_changed_in_one_batch() {
    let from = store();
    let subject = image(&from, "linux/amd64").await;
    let layer = put(&from, MediaType::from("text/plain"), b"signature").await;
    let empty = put(&from, MediaType::OCI_EMPTY, b"{}").await;
    let signature = json!({
        "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "artifactType": "a/b",
        "config": empty, "layers": [layer], "subject": subject,
    });
    let data = signature.to_string().into_bytes();
    let signature = put(&from, MediaType::OCI_MANIFEST, &data).await;
    let bundle = bundle(&from, &subject, std::slice::from_ref(&signature)).await;
    let guard = LeaseGuard::begin(&from, "test").await.unwrap();
    for referrer in [&signature, &bundle] {
        guard.pin_tree(referrer).await.unwrap();
    }
    let referrers = [signature.digest, bundle.digest];
    let recorded = guard.record_referrers(&subject, &referrers);
    recorded.await.unwrap();
    guard.finish().await.unwrap();

    // Content and records are not one store, so the verified versions are recorded, too.
    let records = Arc::new(MemoryStore::new());
    let to = Store {
        content: Arc::new(StrictStore::new()),
        records: records.clone(),
        images: Arc::new(RecordImages::new(records)),
    };
    let counters = Arc::new(Counters::new());
    let observed = observe(to.clone(), counters.clone());
    let named = Image::new("app:1".parse().unwrap(), subject.clone());
    let options = CopyOptions::default();
    let copied = copy(&from, &observed, &named, &options);
    copied.await.unwrap();
    assert_eq!(counters.of(Operation::Commit).errors, 0);
    for document in [&subject, &signature, &bundle] {
        let record = to.blobs().load(&document.digest).await.unwrap().unwrap().0;
        let listed = support::parts(&from, document).await;
        let listed: Vec<Digest> = listed.iter().map(|child| child.digest).collect();
        assert_eq!((record.children, record.absent.len()), (listed, 0));
        let stat = to.content.stat(&document.digest).await.unwrap();
        assert_eq!(record.verified, stat.map(|stat| stat.version));
    }
}

#[tokio::test]
async fn a_copy_that_fails_leaves_damaged_bytes_as_they_were() {
    for flaw in [
        Flaw::First,
        Flaw::Cut,
        Flaw::Opens(ErrorKind::Unavailable),
        Flaw::Reads(ErrorKind::Unavailable),
    ] {
        let (from, to) = (store(), store());
        let digest = from.content.put("good".into()).await.unwrap();
        to.content.put("good".into()).await.unwrap();
        let before = to.content.stat(&digest).await.unwrap().unwrap();
        let (mut source, mut damaged) = (Wrapped::new(&from), Wrapped::new(&to));
        source.damaged = Some((digest, flaw));
        damaged.damaged = Some((digest, Flaw::First));
        damaged.copy_from(&source, &digest).await.unwrap_err();
        let after = to.content.stat(&digest).await.unwrap();
        assert_eq!(after, Some(before), "{flaw:?}");
    }
}

/// The record of a digest is only published with bytes of that digest.
#[tokio::test]
async fn bytes_are_not_published_under_another_digest() {
    let store = store();
    let target = Descriptor::of(MediaType::OCI_LAYER, b"said");
    let mut writer = Writer::begin(&*store.content, "key", Expected::ANY)
        .await
        .unwrap();
    writer.write("done".into()).await.unwrap();
    let published = store.publish(writer, &target, Vec::new(), Durability::Full);
    assert_eq!(published.await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(store.blobs().load(&target.digest).await.unwrap().is_none());
}
