//! Checks and repairs of blobs that only labels and flat leases keep.
#![allow(clippy::unwrap_used)]

use cas_core::check::{CheckOptions, Problem, check};
use cas_core::image::Image;
use cas_core::labels::{GC_FLAT, GC_REF_CHECKPOINTS};
use cas_core::lease::set_labels;
use cas_core::records::{Lease, Resource};
use cas_core::{ContentExt, Descriptor, Digest, Labels, MediaType, Store};

mod support;
use support::{image, parts, put, repaired_from, store};

fn label(key: &str, value: impl ToString) -> Labels {
    Labels::from([(format!("containerd.io/gc.{key}"), value.to_string())])
}

async fn remove(store: &Store, blob: &Descriptor) {
    assert!(store.content.remove(&blob.digest).await.unwrap());
}

/// Returns the problems that a check finds, and the digests of their blobs.
async fn problems(store: &Store) -> Vec<(Problem, String)> {
    let report = check(store, &[], &CheckOptions::default()).await.unwrap();
    let found = report.findings.into_iter();
    found.map(|one| (one.problem, one.subject)).collect()
}

/// Checks that the blob is reported as missing until a repair has fetched it from `source`.
async fn is_fetched(store: &Store, source: &Store, missing: &Descriptor, way: &str) {
    let expected = [(Problem::BlobMissing, missing.digest.to_string())];
    assert_eq!(problems(store).await, expected, "{way}");
    let report = repaired_from(store, source).await;
    let found = report.findings.iter();
    let found: Vec<_> = found.map(|one| (one.problem, one.repaired)).collect();
    assert_eq!(found, [(Problem::BlobMissing, true)], "{way}: {report:?}");
    let is_intact = store.content.is_intact(&missing.digest).await;
    assert!(is_intact.unwrap(), "{way}");
    assert_eq!(problems(store).await, [], "{way}");
}

#[tokio::test]
async fn a_missing_blob_that_only_a_label_keeps_is_reported_and_fetched_again() {
    for way in [
        "manifest",
        "layer",
        "back",
        "image",
        "back to image",
        "root",
    ] {
        let (plain, other) = (store(), store());
        let target = image(&plain, "linux/amd64").await;
        let layer = parts(&plain, &target).await.remove(1);
        let kept = put(&plain, MediaType::BYTES, b"only a label keeps this").await;
        put(&other, MediaType::BYTES, b"only a label keeps this").await;
        let mut named = Image::new("app:1".parse().unwrap(), target.clone());
        let reference = label("ref.content.x", kept.digest);
        let (blob, labels) = match way {
            "manifest" => (&target, reference),
            "layer" => (&layer, reference),
            "back" => (&kept, label("bref.content/x", target.digest)),
            "back to image" => (&kept, label("bref.image", "app:1")),
            "root" => (&kept, label("root", "yes")),
            _ => {
                named.labels = reference;
                (&kept, Labels::new())
            }
        };
        set_labels(&plain, blob, &labels).await.unwrap();
        plain.images.create(named).await.unwrap();
        assert_eq!(problems(&plain).await, [], "{way}");
        remove(&plain, &kept).await;
        is_fetched(&plain, &other, &kept, way).await;
    }
}

/// A label keeps a manifest, and the manifest needs the layer.
#[tokio::test]
async fn what_a_labelled_image_needs_is_fetched_again() {
    let (plain, other) = (store(), store());
    let target = image(&plain, "linux/amd64").await;
    image(&other, "linux/amd64").await;
    let labels = label("root", "yes");
    set_labels(&plain, &target, &labels).await.unwrap();
    let layer = parts(&plain, &target).await.remove(1);
    remove(&plain, &layer).await;
    is_fetched(&plain, &other, &layer, "a layer").await;
}

#[tokio::test]
async fn a_missing_blob_that_only_a_flat_lease_lists_is_reported_and_fetched_again() {
    let (plain, other) = (store(), store());
    let kept = put(&plain, MediaType::BYTES, b"only a lease keeps this").await;
    put(&other, MediaType::BYTES, b"only a lease keeps this").await;
    for id in ["one", "two"] {
        let mut lease = Lease::new("user", None);
        lease.labels.insert(GC_FLAT.to_owned(), "1".to_owned());
        lease.resources.insert(Resource::Content(kept.digest));
        plain.leases().create(id, &lease).await.unwrap();
    }
    remove(&plain, &kept).await;
    is_fetched(&plain, &other, &kept, "a flat lease").await;
}

/// A label may refer to a blob that will be stored later. Nothing keeps a blob whose keeper is not
/// kept. Missing checkpoints are recorded again.
#[tokio::test]
async fn a_blob_that_no_label_keeps_or_that_was_never_stored_is_not_missing() {
    let store = store();
    let target = image(&store, "linux/amd64").await;
    let layer = parts(&store, &target).await.remove(1);
    let named = Image::new("app:1".parse().unwrap(), target.clone());
    store.images.create(named).await.unwrap();
    let never = label("ref.content", Digest::sha256(b"never stored"));
    set_labels(&store, &target, &never).await.unwrap();
    let checkpoints = put(&store, MediaType::LAYER_CHECKPOINTS, b"checkpoints").await;
    let value = checkpoints.digest.to_string();
    let labels = Labels::from([(GC_REF_CHECKPOINTS.to_owned(), value)]);
    set_labels(&store, &layer, &labels).await.unwrap();
    let keeper = put(&store, MediaType::BYTES, b"nothing keeps the keeper").await;
    let unkept = put(&store, MediaType::BYTES, b"and nothing keeps this").await;
    let mut labels = label("bref.content", keeper.digest);
    labels.extend(label("bref.image.x", "app:2"));
    labels.extend(label("bref.snapshot.native", "work"));
    set_labels(&store, &unkept, &labels).await.unwrap();
    let labels = label("ref.content", unkept.digest);
    set_labels(&store, &keeper, &labels).await.unwrap();
    for removed in [&checkpoints, &unkept] {
        remove(&store, removed).await;
    }
    assert_eq!(problems(&store).await, []);
}
