//! Laws of owners, the tenants that share one store.

use std::time::Duration;

use cas_core::gc::{GcOptions, Reason, collect, explain};
use cas_core::lease::LeaseGuard;
use cas_core::records::Resource;
use cas_core::{Digest, ErrorKind, Image, ImageStoreExt, Owner, Store};

use super::Subject;
use super::races::condemn;
use super::{DAY, collect_in, collect_now, sorted, there};
use crate::material::{image, kind, target};
use crate::sample::{JOB_LEASE, Sample, tag, verify};

fn owner(name: &str) -> Owner {
    name.parse().expect("the name must be valid for an owner")
}

/// Returns a view of the store for each of two owners.
fn views(store: &Store) -> (Store, Store) {
    let view = |name| {
        store
            .for_owner(&owner(name))
            .expect("the store must support owners")
    };
    (view("red"), view("blue"))
}

async fn names(store: &Store) -> Vec<String> {
    let images = store.images.list(&[]).await.expect("list must succeed");
    images.iter().map(|image| image.name.to_string()).collect()
}

async fn delete(store: &Store, name: &str) {
    assert!(store.images.remove(&name.parse().unwrap()).await.unwrap());
}

/// Returns the blobs that the owner of the view claims.
async fn claimed(view: &Store) -> Vec<Digest> {
    let owner = view.owner().expect("the store must be opened for an owner");
    let claimed = view.blobs().claimed_by(owner).await.unwrap();
    claimed.into_iter().map(|(digest, _)| digest).collect()
}

pub(super) async fn an_owner_sees_only_their_names(subject: Subject) {
    let store = subject.open().await;
    let (red, blue) = views(&store);
    assert_eq!(red.owner(), Some(&owner("red")));
    let switched = red.for_owner(&owner("blue"));
    assert_eq!(kind(switched), Some(ErrorKind::Denied));
    red.images.create(image("a", "one")).await.unwrap();
    blue.images.create(image("b", "one")).await.unwrap();
    store.images.create(image("c", "one")).await.unwrap();
    assert_eq!(names(&red).await, ["a"]);
    assert_eq!(names(&blue).await, ["b"]);
    assert_eq!(names(&store).await, ["a", "b", "c"]);
    let name = "a".parse().unwrap();
    assert_eq!(blue.images.get(&name).await.unwrap(), None);
    let found = store
        .images
        .get(&name)
        .await
        .unwrap()
        .expect("the image must exist");
    assert_eq!(found.owner, Some(owner("red")));
    assert_eq!(red.images.get(&name).await.unwrap(), Some(found));
    assert_eq!(blue.images.roots().await.unwrap().len(), 3);
}

pub(super) async fn a_name_of_another_owner_is_denied(subject: Subject) {
    let store = subject.open().await;
    let (red, blue) = views(&store);
    red.images.create(image("a", "one")).await.unwrap();
    store.images.create(image("c", "one")).await.unwrap();
    for name in ["a", "c"] {
        let parsed = name.parse().unwrap();
        let before = store.images.get(&parsed).await.unwrap();
        let (images, new) = (&blue.images, image(name, "two"));
        let denied = Some(ErrorKind::Denied);
        assert_eq!(kind(images.create(new.clone()).await), denied);
        assert_eq!(kind(images.update(new.clone(), &[]).await), denied);
        assert_eq!(
            kind(images.update(new.clone(), &["labels.k"]).await),
            denied
        );
        assert_eq!(kind(images.put(new.clone()).await), denied);
        assert_eq!(kind(images.replace(&target("one"), new).await), denied);
        assert_eq!(kind(images.delete(&parsed, None).await), denied);
        assert_eq!(kind(images.remove(&parsed).await), denied);
        assert_eq!(store.images.get(&parsed).await.unwrap(), before);
    }
    let updated = red.images.update(image("a", "two"), &[]).await.unwrap();
    assert_eq!(updated.owner, Some(owner("red")));
    let updated = store.images.update(image("a", "three"), &[]).await.unwrap();
    assert_eq!(
        updated.owner,
        Some(owner("red")),
        "an update must keep the owner"
    );
    delete(&red, "a").await;
    let theirs = blue.images.create(image("a", "one")).await.unwrap();
    // The image in `updated` was deleted, and its name now has another image. So this call deletes
    // nothing.
    let deleted = red.images.delete_unchanged(&[updated]).await;
    assert_eq!(deleted.unwrap(), []);
    let denied = red
        .images
        .delete_unchanged(std::slice::from_ref(&theirs))
        .await;
    assert_eq!(kind(denied), Some(ErrorKind::Denied));
    assert_eq!(store.images.get(&theirs.name).await.unwrap(), Some(theirs));
}

/// Two images of two owners share a layer.
pub(super) async fn an_owner_collects_only_their_content(subject: Subject) {
    let store = subject.open().await;
    let (red, blue) = views(&store);
    let (one, two) = (Sample::of(1), Sample::of(2));
    one.import(&red, "one").await.unwrap();
    two.import(&blue, "two").await.unwrap();
    assert_eq!(claimed(&red).await, sorted(one.digests()));
    assert_eq!(claimed(&blue).await, sorted(two.digests()));
    assert!(collect_now(&red).await.is_empty());
    delete(&blue, "two").await;
    assert!(
        collect_in(&red, DAY).await.is_empty(),
        "a collection for red must not remove content of blue"
    );
    assert!(
        collect_in(&store, DAY).await.is_empty(),
        "a collection must keep blobs that blue claims"
    );
    let options = GcOptions::default()
        .with_dry_run(true)
        .with_owner(owner("blue"));
    let mut told = collect(&store, &[], &options).await.unwrap();
    let mut done = collect_now(&blue).await;
    told.blobs.sort();
    done.blobs.sort();
    assert_eq!(told, done);
    assert_eq!(done.blobs.len(), 3, "{done:?}");
    assert_eq!(
        done.released.len(),
        1,
        "expected only the claim on the shared layer to be released, found {done:?}"
    );
    assert_eq!(there(&store).await, sorted(one.digests()));
    assert!(claimed(&blue).await.is_empty());
    assert!(collect_now(&blue).await.is_empty());
    delete(&red, "one").await;
    assert_eq!(collect_now(&red).await.blobs.len(), 4);
    assert!(there(&store).await.is_empty());
}

/// The claim of an owner is removed, and the bytes stay for the names of others.
pub(super) async fn bytes_stay_while_a_root_is_left(subject: Subject) {
    let store = subject.open().await;
    let (red, blue) = views(&store);
    let sample = Sample::of(1);
    sample.import(&red, "red").await.unwrap();
    sample.import(&blue, "blue").await.unwrap();
    sample.import(&store, "all").await.unwrap();
    for (view, name) in [(&red, "red"), (&blue, "blue")] {
        delete(view, name).await;
        let collected = collect_now(view).await;
        assert!(
            collected.blobs.is_empty(),
            "the collection removed blobs that other names keep: {collected:?}"
        );
        assert_eq!(sorted(collected.released), sorted(sample.digests()));
    }
    assert!(collect_now(&store).await.is_empty());
    verify(&store, &sample.root()).await.unwrap();
    delete(&store, "all").await;
    assert_eq!(collect_now(&store).await.blobs.len(), 4);
}

/// Creates a name for an image that is in the store already.
async fn adopt(view: &Store, sample: &Sample, name: &str) {
    let guard = LeaseGuard::begin_for(view, "law", JOB_LEASE).await.unwrap();
    guard.pin_tree(&sample.root()).await.unwrap();
    let named = Image::new(name.parse().unwrap(), sample.root());
    guard.name(vec![named], &[]).await.unwrap();
}

/// A killed collection has left tombstones in the records of blobs that one owner claims. Another
/// owner pins these blobs.
pub(super) async fn a_revived_blob_keeps_no_old_claim(subject: Subject) {
    let store = subject.open().await;
    let (red, blue) = views(&store);
    let sample = Sample::of(1);
    sample.import(&red, "red").await.unwrap();
    for digest in sample.digests() {
        condemn(&store, &digest).await;
    }
    adopt(&blue, &sample, "blue").await;
    assert!(claimed(&red).await.is_empty());
    assert_eq!(claimed(&blue).await, sorted(sample.digests()));
    verify(&store, &sample.root()).await.unwrap();
}

/// An owner that creates a name for content of another owner claims all of that content.
pub(super) async fn a_name_claims_what_it_reaches(subject: Subject) {
    let store = subject.open().await;
    let (red, blue) = views(&store);
    let sample = Sample::of(1);
    sample.import(&red, "red").await.unwrap();
    adopt(&blue, &sample, "blue").await;
    assert_eq!(claimed(&blue).await, sorted(sample.digests()));
    tag(&blue, "blue", "other").await.unwrap();
    delete(&blue, "blue").await;
    delete(&red, "red").await;
    collect_now(&red).await;
    assert!(claimed(&red).await.is_empty());
    collect_now(&blue).await;
    verify(&store, &sample.root()).await.unwrap();
    let resource = Resource::Content(sample.root().digest);
    let now = std::time::SystemTime::now();
    let why = explain(&store, &[], &resource, now).await.unwrap();
    let claim = Reason::Claim {
        owner: owner("blue"),
    };
    assert!(
        why.paths.iter().any(|path| path.reason == claim),
        "expected the reason {claim:?}, found {why:?}"
    );
}

pub(super) async fn a_lease_keeps_a_claim(subject: Subject) {
    let store = subject.open().await;
    let (red, _) = views(&store);
    let sample = Sample::of(1);
    let guard = LeaseGuard::begin_for(&red, "law", JOB_LEASE).await.unwrap();
    sample.store(&red, &guard).await.unwrap();
    assert!(collect_now(&red).await.is_empty());
    assert_eq!(there(&store).await, sorted(sample.digests()));
    guard.finish().await.unwrap();
    assert!(
        collect_now(&store).await.is_empty(),
        "a collection must keep blobs that red claims"
    );
    assert_eq!(collect_now(&red).await.blobs.len(), 4);
}

/// Two owners store, name, delete and collect the same content at the same time.
pub(super) async fn owners_collect_at_once(subject: Subject) {
    let store = subject.open().await;
    let (red, blue) = views(&store);
    let tasks = [red.clone(), blue.clone()].map(|view| tokio::spawn(live(view)));
    for task in tasks {
        task.await.expect("the task of an owner must not panic");
    }
    // A failed import ends its lease in the background, perhaps after the collections above. A day
    // later, the lease has ended or expired.
    for view in [&red, &blue] {
        collect_in(view, DAY).await;
    }
    collect_in(&store, DAY).await;
    assert_eq!(
        there(&store).await,
        [],
        "no blobs may be left after the collections"
    );
}

async fn live(view: Store) {
    let sample = Sample::of(1);
    let name = view
        .owner()
        .expect("the store must be opened for an owner")
        .to_string();
    for _ in 0..10 {
        // The other owner may be storing or removing the same blob.
        while let Err(error) = sample.import(&view, &name).await {
            let lost = matches!(error.kind(), ErrorKind::Busy | ErrorKind::Conflict);
            assert!(lost, "an import failed without losing a race: {error}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        collect_now(&view).await;
        verify(&view, &sample.root())
            .await
            .expect("a named image must be complete");
        delete(&view, &name).await;
        collect_now(&view).await;
    }
}
