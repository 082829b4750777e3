//! Blobs that a user removes and labels. A blob to which something refers is only removed by force.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use cas_core::gc::{GcOptions, RemoveOptions, collect, remove};
use cas_core::lease::{BlobRef, LEASE_TTL, LeaseGuard, UNLEASED_TTL, add_to_lease, change_labels};
use cas_core::records::{Lease, Resource};
use cas_core::{Descriptor, Digest, ErrorKind, Image, MediaType, Result, Store};

mod support;
use support::{named, parts, put, store, strict};

async fn plain(store: &Store, text: &str) -> Digest {
    let media_type = MediaType::from("text/plain");
    put(store, media_type, text.as_bytes()).await.digest
}

async fn removed(store: &Store, blobs: &[Digest], force: bool) -> Result<usize> {
    let options = RemoveOptions::default().with_force(force);
    let blobs: BTreeSet<Digest> = blobs.iter().copied().collect();
    let removed = remove(store, &[], &blobs, &options).await?;
    Ok(removed.blobs.len())
}

async fn label(store: &Store, blob: &Digest, key: &str, value: &str) -> Result<()> {
    let value = (!value.is_empty()).then(|| value.to_owned());
    let changes = BTreeMap::from([(key.to_owned(), value)]);
    change_labels(store, blob, &changes).await.map(|_| ())
}

async fn is_there(store: &Store, blob: &Digest) -> bool {
    let record = store.blobs().load(blob).await.unwrap();
    let bytes = store.content.stat(blob).await.unwrap();
    assert_eq!(record.is_some(), bytes.is_some());
    bytes.is_some()
}

async fn lease(store: &Store, id: &str, blob: &Digest) {
    let lease = Lease::new("test", None);
    store.leases().create(id, &lease).await.unwrap();
    let kept = Resource::Content(*blob);
    add_to_lease(store, &[], id, kept).await.unwrap();
}

async fn named_image(store: &Store, name: &str) -> Descriptor {
    let target = named(store, "linux/amd64").await;
    let image = Image::new(name.parse().unwrap(), target.clone());
    store.images.create(image).await.unwrap();
    target
}

#[tokio::test]
async fn a_young_blob_is_removed_if_nothing_refers_to_it() {
    let store = store();
    let (one, two) = (plain(&store, "one").await, plain(&store, "two").await);
    assert_eq!(removed(&store, &[one], false).await.unwrap(), 1);
    assert!(!is_there(&store, &one).await && is_there(&store, &two).await);
    let error = removed(&store, &[one, two], false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(is_there(&store, &two).await);
    // Bytes that another program stored have no record.
    let bare = cas_core::ContentExt::put(&*store.content, "bare".into()).await;
    let bare = bare.unwrap();
    assert_eq!(removed(&store, &[bare], false).await.unwrap(), 1);
    assert!(!is_there(&store, &bare).await);
}

#[tokio::test]
async fn what_refers_to_a_blob_is_named_and_nothing_is_removed() {
    let store = store();
    let target = named_image(&store, "docker.io/library/app:1").await;
    let layer = parts(&store, &target).await.remove(1).digest;
    let free = plain(&store, "free").await;
    let leased = plain(&store, "leased").await;
    lease(&store, "audit", &leased).await;
    let rooted = plain(&store, "rooted").await;
    label(&store, &rooted, "containerd.io/gc.root", "x")
        .await
        .unwrap();
    let referred = plain(&store, "referred").await;
    let reference = "containerd.io/gc.ref.content.1";
    label(&store, &rooted, reference, &referred.to_string())
        .await
        .unwrap();
    let back = plain(&store, "back").await;
    let key = "containerd.io/gc.bref.content";
    label(&store, &back, key, &rooted.to_string())
        .await
        .unwrap();
    let begun = plain(&store, "begun").await;
    let mut ingest = store.content.begin(&begun.to_string()).await.unwrap();
    ingest.append("be".into()).await.unwrap();
    let through = format!("the image app:1 through content/{}", target.digest);
    let rooted_by = format!("a label of content/{rooted}");
    for (blob, user) in [
        (target.digest, "the image app:1;"),
        (layer, &*through),
        (leased, "the lease audit;"),
        (rooted, &*rooted_by),
        (referred, &*rooted_by),
        (back, &*rooted_by),
        (begun, "ingests/sha256:"),
    ] {
        let error = removed(&store, &[free, blob], false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        let said = error.to_string();
        assert!(
            said.contains(user) && said.contains(&blob.to_string()),
            "{said}"
        );
        assert!(is_there(&store, &blob).await && is_there(&store, &free).await);
    }
    drop(ingest);
    assert_eq!(removed(&store, &[layer, leased], true).await.unwrap(), 2);
    assert!(!is_there(&store, &layer).await && is_there(&store, &target.digest).await);
}

#[tokio::test]
async fn blobs_that_refer_to_each_other_are_removed_together() {
    let store = store();
    let target = named(&store, "linux/amd64").await;
    let mut all = vec![target.digest];
    all.extend(parts(&store, &target).await.iter().map(|part| part.digest));
    let error = removed(&store, &all[1..], false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains(&target.digest.to_string()));
    assert_eq!(removed(&store, &all, false).await.unwrap(), 3);
    for blob in &all {
        assert!(!is_there(&store, blob).await);
    }
}

#[tokio::test]
async fn many_users_are_counted() {
    let store = store();
    let blob = plain(&store, "shared").await;
    for id in ["a", "b", "c", "d", "e"] {
        lease(&store, id, &blob).await;
    }
    let said = removed(&store, &[blob], false)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("the lease") && said.contains(", 2 more; "),
        "{said}"
    );
}

/// 148 blobs that are removed in the same call refer to the blob, and two other blobs do.
#[tokio::test]
async fn a_user_is_named_among_any_number_of_removed_blobs() {
    let store = store();
    let target = plain(&store, "target").await;
    let mut referrers = BTreeSet::new();
    for number in 0..150 {
        let referrer = plain(&store, &number.to_string()).await;
        let key = "containerd.io/gc.ref.content";
        label(&store, &referrer, key, &target.to_string())
            .await
            .unwrap();
        referrers.insert(referrer);
    }
    let users = [referrers.pop_first(), referrers.pop_last()].map(Option::unwrap);
    let mut all = vec![target];
    all.extend(referrers);
    let error = removed(&store, &all, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    let said = error.to_string();
    for user in users {
        assert!(said.contains(&format!("content/{user}")), "{said}");
    }
    all.extend(users);
    assert_eq!(removed(&store, &all, false).await.unwrap(), 151);
}

#[tokio::test]
async fn labels_decide_what_a_collection_keeps() {
    let store = store();
    let (kept, below) = (plain(&store, "kept").await, plain(&store, "below").await);
    let reference = "containerd.io/gc.ref.content.x";
    label(&store, &kept, "containerd.io/gc.root", "x")
        .await
        .unwrap();
    label(&store, &kept, reference, &below.to_string())
        .await
        .unwrap();
    label(&store, &kept, "note", "mine").await.unwrap();
    let later = SystemTime::now() + 2 * UNLEASED_TTL;
    let options = GcOptions::default().with_now(later);
    collect(&store, &[], &options).await.unwrap();
    assert!(is_there(&store, &kept).await && is_there(&store, &below).await);
    label(&store, &kept, reference, "").await.unwrap();
    collect(&store, &[], &options).await.unwrap();
    assert!(is_there(&store, &kept).await && !is_there(&store, &below).await);
    let record = store.blobs().load(&kept).await.unwrap().unwrap().0;
    assert_eq!(record.labels.len(), 2, "{:?}", record.labels);
    label(&store, &kept, "containerd.io/gc.root", "")
        .await
        .unwrap();
    collect(&store, &[], &options).await.unwrap();
    assert!(!is_there(&store, &kept).await);
}

#[tokio::test]
async fn a_label_without_a_meaning_is_refused() {
    let store = store();
    let blob = plain(&store, "blob").await;
    let digest = blob.to_string();
    for (key, value) in [
        ("containerd.io/gc.ref.content", "sha256:abc"),
        ("containerd.io/gc.ref.contents", &*digest),
        ("containerd.io/gc.bref.container", "x"),
        ("containerd.io/gc.expire", "2030-01-01T00:00:00Z"),
        ("containerd.io/gc.flat", "x"),
        ("containerd.io/gc.cond.value-usedat", "2030-01-01T00:00:00Z"),
        ("containerd.io/gc.roo", "x"),
        ("", "x"),
        ("a b", "x"),
        ("a\nb", "x"),
    ] {
        let error = label(&store, &blob, key, value).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{key}");
    }
    let absent = Digest::sha256(b"absent");
    let error = label(&store, &absent, "a", "b").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // A label may refer to content that is not in the store yet.
    let key = "containerd.io/gc.ref.content";
    label(&store, &blob, key, &absent.to_string())
        .await
        .unwrap();
    // A label that users cannot set can be removed, because another program may have left it.
    label(&store, &blob, "containerd.io/gc.flat", "")
        .await
        .unwrap();
}

/// A pull that leaves a layer out has pinned the layer. So the layer has a record without bytes.
#[tokio::test]
async fn a_record_without_bytes_does_not_count_as_a_removed_blob() {
    for store in [store(), strict()] {
        let mut stored = [
            (plain(&store, "").await, 0),
            (plain(&store, "blob").await, 4),
        ];
        stored.sort();
        let left_out = Descriptor::of(MediaType::OCI_LAYER, b"left out");
        let guard = LeaseGuard::begin(&store, "pull").await.unwrap();
        let pin = BlobRef::of(&left_out, Vec::new());
        assert!(!guard.pin(pin).await.unwrap());
        guard.finish().await.unwrap();
        let record = store.blobs().load(&left_out.digest).await.unwrap();
        assert!(record.is_some());

        let later = SystemTime::now() + 2 * UNLEASED_TTL;
        for dry_run in [true, false] {
            let options = GcOptions::default().with_now(later).with_dry_run(dry_run);
            let mut removed = collect(&store, &[], &options).await.unwrap();
            removed.blobs.sort();
            assert_eq!(removed.blobs, stored);
        }
        let record = store.blobs().load(&left_out.digest).await.unwrap();
        assert_eq!(record, None);
    }
}

/// A job pins an image and names it while a user removes the image's blobs. Either the name finds
/// everything, even if it was removed and revived, or the job fails.
#[tokio::test]
async fn a_job_that_needs_a_blob_keeps_it_or_fails() {
    let (mut named_first, mut removed_first) = (0, 0);
    for delay in 0..120 {
        let store = strict();
        let target = named(&store, "linux/amd64").await;
        let parts = parts(&store, &target).await;
        let all = [target.digest, parts[0].digest, parts[1].digest];
        let job = async {
            for _ in 0..delay {
                tokio::task::yield_now().await;
            }
            let guard = LeaseGuard::begin_for(&store, "tag", LEASE_TTL).await?;
            guard.pin_tree(&target).await?;
            let image = Image::new("app".parse().unwrap(), target.clone());
            guard.name_one(image, &["target"]).await
        };
        let removal = removed(&store, &all, false);
        let (named, removed) = tokio::join!(job, removal);
        if named.is_ok() {
            for blob in &all {
                assert!(is_there(&store, blob).await, "{delay}: {removed:?}");
            }
            named_first += 1;
        } else {
            removed_first += 1;
        }
    }
    assert!(
        named_first > 5 && removed_first > 5,
        "{named_first} {removed_first}"
    );
}

#[tokio::test]
async fn an_owner_removes_what_nobody_else_uses_and_forces_nothing() {
    let store = store();
    let owner = |name: &str| store.for_owner(&name.parse().unwrap()).unwrap();
    let (one, two) = (owner("one"), owner("two"));
    let (own, shared) = (plain(&one, "own").await, plain(&one, "shared").await);
    plain(&two, "shared").await;
    assert_eq!(removed(&one, &[own], false).await.unwrap(), 1);
    let error = removed(&one, &[shared], false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(!error.to_string().contains("force"), "{error}");
    assert!(error.to_string().contains("the owner two"), "{error}");
    let error = removed(&one, &[shared], true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(is_there(&store, &shared).await);
}
