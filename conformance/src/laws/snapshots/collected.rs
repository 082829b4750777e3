//! Laws of the collection of snapshots.

use std::time::{Duration, SystemTime};

use cas_core::content::Durability;
use cas_core::gc::{GcOptions, Removed, collect};
use cas_core::labels::LEASE;
use cas_core::lease::{self, LeaseGuard};
use cas_core::snapshot::Commit;
use cas_core::testing::memory::MemoryStore;
use cas_core::{Descriptor, ErrorKind, Image, Labels, MediaType, Snapshotter, Store};

use super::Subject;
use super::scene::{bare_layer, commit, keys, prepare, stat};
use crate::material::kind;
use crate::sample::JOB_LEASE;

async fn collect_in(content: &Store, store: &dyn Snapshotter, hours: u64) -> Removed {
    let options =
        GcOptions::default().with_now(SystemTime::now() + Duration::from_secs(hours * 3600));
    let collected = collect(content, &[store], &options).await;
    collected.expect("the collection must succeed")
}

/// Creates a committed snapshot with the label of an ended lease.
async fn leased_layer(store: &dyn Snapshotter, name: &str, parent: Option<&str>) {
    let labels = Labels::from([(LEASE.to_owned(), "id-of-an-ended-lease".to_owned())]);
    let prepared = store.prepare("making", parent, labels.clone()).await;
    prepared.expect("prepare must succeed");
    let options = Commit {
        labels,
        ..Commit::default()
    };
    store
        .commit(name, "making", options)
        .await
        .expect("commit must succeed");
}

/// `remove_seen` must not remove a snapshot that was updated after the caller read it.
pub(super) async fn a_snapshot_updated_since_the_scan_stays(subject: Subject) {
    let store = subject.open().await;
    bare_layer(&*store, "layer", None).await;
    let seen = stat(&*store, "layer").await.unwrap();
    let touch = &["labels.touch"];
    let updated = store.update("layer", Labels::new(), touch).await.unwrap();
    assert_ne!(
        updated.updated_at, seen.updated_at,
        "an update must change `updated_at`"
    );
    assert!(!store.remove_seen(&seen).await.unwrap());
    prepare(&*store, "child", Some("layer")).await.unwrap();
    let refused = store.remove_seen(&updated).await;
    assert_eq!(kind(refused), Some(ErrorKind::FailedPrecondition));
    store.remove("child").await.unwrap();
    assert!(store.remove_seen(&updated).await.unwrap());
    assert!(
        !store.remove_seen(&updated).await.unwrap(),
        "a snapshot was removed twice"
    );
    bare_layer(&*store, "layer", None).await;
    assert!(
        !store.remove_seen(&seen).await.unwrap(),
        "a new snapshot with the key of a removed one must stay"
    );
}

/// A chain without a gc root is removed as a whole, each snapshot before its parent. The parents of
/// a young snapshot stay as long as that snapshot.
pub(super) async fn a_collection_takes_chains_leaves_first(subject: Subject) {
    let (store, content) = (subject.open().await, MemoryStore::new().with_images());
    leased_layer(&*store, "a", None).await;
    leased_layer(&*store, "b", Some("a")).await;
    leased_layer(&*store, "c", Some("b")).await;
    leased_layer(&*store, "side", Some("a")).await;
    prepare(&*store, "young", Some("side")).await.unwrap();
    let collected = collect_in(&content, &*store, 0).await;
    let names: Vec<String> = collected
        .snapshots
        .iter()
        .map(|(snapshot, _)| snapshot.to_string())
        .collect();
    let wanted = ["c", "b"].map(|key| format!("snapshots/{}/{key}", store.name()));
    assert_eq!(names, wanted);
    assert_eq!(keys(&*store).await, ["a", "side", "young"]);
    assert_eq!(collect_in(&content, &*store, 25).await.snapshots.len(), 3);
}

/// A label of an unpacked image's configuration refers to the top snapshot of the image. Another
/// label makes a snapshot a gc root.
pub(super) async fn what_refers_to_a_snapshot_keeps_its_chain(subject: Subject) {
    let (store, content) = (subject.open().await, MemoryStore::new().with_images());
    for (name, parent) in [("a", None), ("b", Some("a")), ("lost", Some("a"))] {
        leased_layer(&*store, name, parent).await;
    }
    leased_layer(&*store, "rooted", None).await;
    let root = Labels::from([("containerd.io/gc.root".to_owned(), "x".to_owned())]);
    store
        .update("rooted", root, &["labels.containerd.io/gc.root"])
        .await
        .unwrap();
    let guard = LeaseGuard::begin_for(&content, "law", JOB_LEASE)
        .await
        .unwrap();
    let config = Descriptor::of(MediaType::OCI_CONFIG, b"{}");
    guard
        .put(&config, "{}".into(), Durability::Full)
        .await
        .unwrap();
    let label = format!("containerd.io/gc.ref.snapshot.{}", store.name());
    let labels = Labels::from([(label, "b".to_owned())]);
    lease::set_labels(&content, &config, &labels).await.unwrap();
    let image = Image::new("image".parse().unwrap(), config);
    guard.name(vec![image], &[]).await.unwrap();
    collect_in(&content, &*store, 25).await;
    assert_eq!(keys(&*store).await, ["a", "b", "rooted"]);
    content
        .images
        .delete(&"image".parse().unwrap(), None)
        .await
        .unwrap();
    collect_in(&content, &*store, 25).await;
    assert_eq!(keys(&*store).await, ["rooted"]);
}

pub(super) async fn a_snapshot_without_a_lease_lives_a_day(subject: Subject) {
    let (store, content) = (subject.open().await, MemoryStore::new().with_images());
    prepare(&*store, "active", None).await.unwrap();
    prepare(&*store, "making", None).await.unwrap();
    commit(&*store, "mine", "making").await.unwrap();
    assert!(collect_in(&content, &*store, 23).await.is_empty());
    collect_in(&content, &*store, 25).await;
    assert!(keys(&*store).await.is_empty());
}
