//! Laws of labels on stored records. Tests in `cas-core` check the meaning of each label.

use cas_core::content::Durability;
use cas_core::lease::{self, BlobRef, LeaseGuard};
use cas_core::{Descriptor, Digest, Image, Labels, MediaType, Store};

use super::Subject;
use super::{DAY, collect_in, collect_now, there};
use crate::material::bytes;
use crate::sample::{JOB_LEASE, Sample};

/// Stores new blobs, and ends the lease that kept them. Returns the blobs.
async fn blobs(store: &Store, count: u64) -> Vec<Descriptor> {
    let guard = LeaseGuard::begin_for(store, "law", JOB_LEASE)
        .await
        .unwrap();
    let mut made = Vec::new();
    for seed in 0..count {
        let data = bytes(seed + 1, 500);
        let descriptor = Descriptor::of(MediaType::OCI_LAYER, &data);
        guard
            .put(&descriptor, data, Durability::Full)
            .await
            .unwrap();
        made.push(descriptor);
    }
    guard.finish().await.unwrap();
    made
}

async fn label(store: &Store, on: &Descriptor, key: &str, value: &str) {
    let labels = Labels::from([(format!("containerd.io/gc.{key}"), value.to_owned())]);
    lease::set_labels(store, on, &labels).await.unwrap();
}

fn digests(blobs: &[&Descriptor]) -> Vec<Digest> {
    super::sorted(blobs.iter().map(|blob| blob.digest).collect())
}

/// `gc.root` keeps a blob, with any value.
pub(super) async fn a_root_label_keeps_a_blob(subject: Subject) {
    let store = subject.open().await;
    let made = blobs(&store, 2).await;
    label(&store, &made[0], "root", "").await;
    collect_in(&store, DAY).await;
    assert_eq!(there(&store).await, digests(&[&made[0]]));
}

/// `gc.ref.content` is a reference, alone or followed by `.` or `/`. A label that continues in
/// another way is not a reference.
pub(super) async fn a_reference_has_the_exact_suffix(subject: Subject) {
    let store = subject.open().await;
    let made = blobs(&store, 5).await;
    let keys = [
        "ref.content",
        "ref.content.l.0",
        "ref.content/x",
        "ref.contentx",
    ];
    for (key, target) in keys.iter().zip(&made[1..]) {
        label(&store, &made[0], key, &target.digest.to_string()).await;
    }
    label(&store, &made[0], "root", "2026-11-21T08:00:00Z").await;
    collect_in(&store, DAY).await;
    let kept = digests(&[&made[0], &made[1], &made[2], &made[3]]);
    assert_eq!(there(&store).await, kept);
}

/// With `gc.bref.content` and `gc.bref.image`, a child names the blob or the image that keeps it.
pub(super) async fn a_back_reference_keeps_the_child(subject: Subject) {
    let store = subject.open().await;
    let sample = Sample::of(9);
    sample.import(&store, "nine").await.unwrap();
    let made = blobs(&store, 4).await;
    label(
        &store,
        &made[0],
        "bref.content",
        &sample.digests()[1].to_string(),
    )
    .await;
    label(&store, &made[1], "bref.image/of", "nine").await;
    label(&store, &made[2], "bref.image", "ten").await;
    collect_in(&store, DAY).await;
    let left = there(&store).await;
    let has = |blob: &Descriptor| left.contains(&blob.digest);
    assert_eq!(
        made.iter().map(has).collect::<Vec<_>>(),
        [true, true, false, false]
    );
    store
        .images
        .delete(&"nine".parse().unwrap(), None)
        .await
        .unwrap();
    collect_now(&store).await;
    assert!(there(&store).await.is_empty());
}

/// A referrer is kept exactly as long as its subject, even if another job pins the subject again.
pub(super) async fn a_referrer_lives_as_long_as_its_subject(subject: Subject) {
    let store = subject.open().await;
    let (image, referrer) = (Sample::of(7), Sample::of(8));
    let guard = LeaseGuard::begin_for(&store, "law", JOB_LEASE)
        .await
        .unwrap();
    image.store(&store, &guard).await.unwrap();
    referrer.store(&store, &guard).await.unwrap();
    guard
        .record_referrers(&image.root(), &[referrer.root().digest])
        .await
        .unwrap();
    let seven = Image::new("seven".parse().unwrap(), image.root());
    guard.name_one(seven, &[]).await.unwrap();
    image.import(&store, "again").await.unwrap();
    collect_in(&store, DAY).await;
    let all = [image.digests(), referrer.digests()].concat();
    assert_eq!(there(&store).await, super::sorted(all));
    for name in ["seven", "again"] {
        let name = name.parse().unwrap();
        store.images.delete(&name, None).await.unwrap();
    }
    collect_now(&store).await;
    assert!(there(&store).await.is_empty());
}

/// After the time in `gc.expire`, a name is removed, together with the blobs that only this name
/// kept.
pub(super) async fn an_expired_image_is_removed(subject: Subject) {
    let store = subject.open().await;
    let guard = LeaseGuard::begin_for(&store, "law", JOB_LEASE)
        .await
        .unwrap();
    for number in [1, 2, 3] {
        Sample::of(number).store(&store, &guard).await.unwrap();
    }
    let times = [
        "2020-01-01T00:00:00Z",
        "2999-01-01T00:00:00+01:00",
        "no time",
    ];
    let images = (1..).zip(times).map(|(number, time)| {
        let name = format!("image:{number}").parse().unwrap();
        let mut image = Image::new(name, Sample::of(number).root());
        image.labels = [("containerd.io/gc.expire".to_owned(), time.to_owned())].into();
        image
    });
    guard.name(images.collect(), &[]).await.unwrap();
    let collected = collect_now(&store).await;
    assert_eq!(collected.images, ["image:1"]);
    assert_eq!(store.images.list(&[]).await.unwrap().len(), 2);
    assert_eq!(there(&store).await.len(), 7);
}

/// A condition on a snapshot that does not exist has no effect. References to a missing snapshot or
/// an invalid digest have no effect either. Of two blobs with the condition, only the blob with the
/// root label stays.
pub(super) async fn a_condition_needs_its_snapshot(subject: Subject) {
    let store = subject.open().await;
    let made = blobs(&store, 2).await;
    label(&store, &made[0], "root", "x").await;
    for blob in &made {
        label(&store, blob, "cond.snapshot.native", "usedat<2h|key").await;
    }
    label(&store, &made[0], "ref.content", "no digest").await;
    label(&store, &made[0], "ref.snapshot.native", "absent").await;
    collect_in(&store, DAY).await;
    assert_eq!(there(&store).await, digests(&[&made[0]]));
    let guard = LeaseGuard::begin_for(&store, "law", JOB_LEASE)
        .await
        .unwrap();
    assert!(guard.pin(BlobRef::existing(made[0].digest)).await.unwrap());
    assert!(!guard.pin(BlobRef::existing(made[1].digest)).await.unwrap());
}
