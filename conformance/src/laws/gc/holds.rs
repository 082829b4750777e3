//! Laws of gc roots: what keeps a blob, and for how long.

use std::time::SystemTime;

use cas_core::content::{ContentExt, Durability};
use cas_core::gc::{GcOptions, Reason, collect, explain};
use cas_core::lease::{LeaseGuard, add_to_lease};
use cas_core::records::{Lease, Resource};
use cas_core::{Descriptor, ErrorKind, MediaType};

use super::Subject;
use super::{DAY, collect_in, collect_now, sorted, there};
use crate::material::{bytes, kind};
use crate::sample::{JOB_LEASE, Sample, tag};

/// Two images share a layer, and one of their names is deleted.
pub(super) async fn what_a_name_reaches_is_kept(subject: Subject) {
    let store = subject.open().await;
    let (one, other) = (Sample::of(1), Sample::of(2));
    one.import(&store, "one").await.unwrap();
    other.import(&store, "other").await.unwrap();
    assert!(collect_now(&store).await.is_empty());
    store
        .images
        .delete(&"one".parse().unwrap(), None)
        .await
        .unwrap();
    let collected = collect_now(&store).await;
    assert_eq!(there(&store).await, sorted(other.digests()));
    assert_eq!(collected.blobs.len(), 3, "{collected:?}");
    assert!(
        collect_now(&store).await.is_empty(),
        "a second collection must remove nothing"
    );
    one.import(&store, "one").await.unwrap();
    assert_eq!(
        there(&store).await.len(),
        7,
        "an image that was collected must be complete when it is imported again"
    );
}

/// A dry run must report what the next collection removes, and remove nothing.
pub(super) async fn a_dry_run_removes_nothing(subject: Subject) {
    let store = subject.open().await;
    Sample::of(1).import(&store, "one").await.unwrap();
    store
        .images
        .delete(&"one".parse().unwrap(), None)
        .await
        .unwrap();
    let before = there(&store).await;
    let options = GcOptions::default().with_dry_run(true);
    let mut told = collect(&store, &[], &options).await.unwrap();
    assert_eq!(there(&store).await, before);
    let mut done = collect_now(&store).await;
    told.blobs.sort();
    done.blobs.sort();
    assert_eq!(told, done);
    assert!(there(&store).await.is_empty());
}

/// A lease on a manifest keeps the image after its name is deleted.
pub(super) async fn a_lease_keeps_what_it_lists_and_all_below(subject: Subject) {
    let store = subject.open().await;
    let sample = Sample::of(1);
    sample.import(&store, "one").await.unwrap();
    let leases = store.leases();
    leases
        .create("mine", &Lease::new("me", None))
        .await
        .unwrap();
    let root = Resource::Content(sample.root().digest);
    add_to_lease(&store, &[], "mine", root).await.unwrap();
    store
        .images
        .delete(&"one".parse().unwrap(), None)
        .await
        .unwrap();
    assert!(collect_in(&store, DAY).await.is_empty());
    assert!(
        leases
            .delete("mine", "me", SystemTime::now())
            .await
            .unwrap()
    );
    collect_now(&store).await;
    assert!(there(&store).await.is_empty());
}

/// With `gc.flat`, a lease on a manifest keeps the manifest without its children.
pub(super) async fn a_flat_lease_keeps_only_what_it_lists(subject: Subject) {
    let store = subject.open().await;
    let sample = Sample::of(1);
    sample.import(&store, "one").await.unwrap();
    let mut lease = Lease::new("me", None);
    lease
        .labels
        .insert(cas_core::labels::GC_FLAT.to_owned(), String::new());
    store.leases().create("flat", &lease).await.unwrap();
    let image = Resource::Image("one".to_owned());
    add_to_lease(&store, &[], "flat", image).await.unwrap();
    assert!(
        collect_now(&store).await.is_empty(),
        "the name must keep everything below its image"
    );
    let root = sample.root().digest;
    add_to_lease(&store, &[], "flat", Resource::Content(root))
        .await
        .unwrap();
    store
        .images
        .delete(&"one".parse().unwrap(), None)
        .await
        .unwrap();
    collect_now(&store).await;
    assert_eq!(there(&store).await, [root]);
}

/// A killed job keeps its blobs until its lease expires.
pub(super) async fn an_expired_lease_keeps_nothing(subject: Subject) {
    let store = subject.open().await;
    let guard = LeaseGuard::begin_for(&store, "killed", JOB_LEASE)
        .await
        .unwrap();
    Sample::of(1).store(&store, &guard).await.unwrap();
    // Dropping the guard would end the lease.
    std::mem::forget(guard);
    assert!(collect_in(&store, JOB_LEASE / 2).await.is_empty());
    assert_eq!(store.leases().list().await.unwrap().len(), 1);
    collect_in(&store, JOB_LEASE * 2).await;
    assert!(there(&store).await.is_empty());
    assert_eq!(store.leases().list().await.unwrap(), []);
}

pub(super) async fn only_the_owner_ends_a_lease(subject: Subject) {
    let store = subject.open().await;
    let (leases, now) = (store.leases(), SystemTime::now());
    let lease = Lease::new("a pull", Some(now + JOB_LEASE));
    leases.create("pull", &lease).await.unwrap();
    assert_eq!(
        kind(leases.create("pull", &lease).await),
        Some(ErrorKind::AlreadyExists)
    );
    let refused = leases.delete("pull", "somebody", now).await;
    assert_eq!(kind(refused), Some(ErrorKind::FailedPrecondition));
    assert!(
        leases
            .delete("pull", "somebody", now + JOB_LEASE * 2)
            .await
            .unwrap()
    );
    assert!(!leases.delete("pull", "a pull", now).await.unwrap());
    for id in ["", "two words", "line\nfeed"] {
        assert_eq!(
            kind(leases.create(id, &lease).await),
            Some(ErrorKind::InvalidArgument)
        );
    }
}

/// A new blob that nothing refers to yet is kept for a day.
pub(super) async fn a_blob_without_a_lease_lives_a_day(subject: Subject) {
    let store = subject.open().await;
    let data = bytes(1, 1_000);
    let descriptor = Descriptor::of(MediaType::OCI_LAYER, &data);
    store
        .put(&descriptor, data, Durability::Full)
        .await
        .unwrap();
    assert!(collect_in(&store, DAY / 2).await.is_empty());
    let collected = collect_in(&store, DAY).await;
    assert_eq!(collected.blobs, [(descriptor.digest, 1_000)]);
    assert_eq!(collected.bytes(), 1_000);
}

/// An ingest is kept for a day after its last write, and for longer while a writer holds it.
pub(super) async fn an_ingest_lives_a_day(subject: Subject) {
    let store = subject.open().await;
    for key in ["left", "held"] {
        let mut ingest = store.content.begin(key).await.unwrap();
        ingest.append(bytes(1, 6_000_000)).await.unwrap();
    }
    let held = store.content.begin("held").await.unwrap();
    let listed = store.content.ingests().await.unwrap().len();
    collect_in(&store, DAY / 2).await;
    assert_eq!(store.content.ingests().await.unwrap().len(), listed);
    let collected = collect_in(&store, DAY).await;
    assert!(
        collected.ingests.iter().all(|(key, _)| key == "left"),
        "an ingest that is being written was collected: {collected:?}"
    );
    drop(held);
    collect_in(&store, DAY).await;
    assert_eq!(store.content.ingests().await.unwrap(), []);
    assert_eq!(store.content.begin("left").await.unwrap().offset(), 0);
}

/// A failed import ends its lease, and the next collection removes its blobs.
pub(super) async fn a_failed_import_is_collected(subject: Subject) {
    let store = subject.open().await;
    let kept = Sample::of(1);
    kept.import(&store, "kept").await.unwrap();
    let guard = LeaseGuard::begin_for(&store, "failing", JOB_LEASE)
        .await
        .unwrap();
    Sample::of(2).store(&store, &guard).await.unwrap();
    assert!(collect_now(&store).await.is_empty());
    guard.finish().await.unwrap();
    collect_now(&store).await;
    assert_eq!(there(&store).await, sorted(kept.digests()));
}

/// `explain` returns a path for each name and each lease that keeps a blob, and no path if nothing
/// keeps the blob.
pub(super) async fn each_root_that_keeps_a_blob_is_explained(subject: Subject) {
    let store = subject.open().await;
    let sample = Sample::of(1);
    sample.import(&store, "one").await.unwrap();
    tag(&store, "one", "two").await.unwrap();
    let until = SystemTime::now() + JOB_LEASE;
    store
        .leases()
        .create("mine", &Lease::new("me", Some(until)))
        .await
        .unwrap();
    let root = sample.root().digest;
    add_to_lease(&store, &[], "mine", Resource::Content(root))
        .await
        .unwrap();
    let layer = Resource::Content(sample.digests()[1]);
    let told = |now| explain(&store, &[], &layer, now);
    let found = told(SystemTime::now()).await.unwrap();
    let count = |reason: fn(&Reason) -> bool| {
        found
            .paths
            .iter()
            .filter(|path| reason(&path.reason))
            .count()
    };
    assert_eq!(
        count(|reason| matches!(reason, Reason::Name)),
        2,
        "{found:?}"
    );
    assert_eq!(
        count(|reason| matches!(reason, Reason::Lease { .. })),
        1,
        "{found:?}"
    );
    assert_eq!(
        found.until, None,
        "`explain` must report no expiry for a layer that an image name keeps"
    );
    for name in ["one", "two"] {
        store
            .images
            .delete(&name.parse().unwrap(), None)
            .await
            .unwrap();
    }
    let found = told(SystemTime::now()).await.unwrap();
    assert_eq!(
        (found.paths.len(), found.until.is_some()),
        (1, true),
        "{found:?}"
    );
    assert_eq!(
        found.paths[0].steps,
        [Resource::Content(root), layer.clone()]
    );
    let found = told(SystemTime::now() + JOB_LEASE * 2).await.unwrap();
    assert_eq!((found.paths.len(), found.until), (0, None));
    assert!(
        store.content.remove(&root).await.unwrap(),
        "`explain` must not remove blobs"
    );
    assert_eq!(store.leases().list().await.unwrap().len(), 1);
}
