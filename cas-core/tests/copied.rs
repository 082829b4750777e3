//! What a copy from store to store takes along, and what it leaves out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{Arc, Mutex};

use cas_core::content::Durability;
use cas_core::lease::LeaseGuard;
use cas_core::progress::{Event, Phase};
use cas_core::records::BlobRecord;
use cas_core::transfer::{CopyOptions, copy};
use cas_core::{Descriptor, ErrorKind, Image, Manifest, MediaType, Platforms, Result, Store};

mod support;
use support::wrapped::{Flaw, Wrapped};
use support::{config, image, index, named, parts, put, store};

/// What a copy reports: the phase, the item or the text of a warning, and the bytes.
type Events = Arc<Mutex<Vec<(Phase, String, u64)>>>;

fn options() -> (CopyOptions, Events) {
    let events = Events::default();
    let sink = Arc::clone(&events);
    let progress = Arc::new(move |event: Event<'_>| {
        let event = (event.phase, event.item.to_owned(), event.bytes);
        sink.lock().unwrap().push(event);
    });
    (CopyOptions::default().with_progress(progress), events)
}

fn warnings(events: &Events) -> Vec<String> {
    let events = events.lock().unwrap();
    let warnings = events.iter().filter(|event| event.0 == Phase::Warning);
    warnings.map(|event| event.1.clone()).collect()
}

fn called(target: &Descriptor) -> Image {
    Image::new("app".parse().unwrap(), target.clone())
}

async fn has(store: &Store, descriptor: &Descriptor) -> bool {
    store.present(descriptor).await.unwrap()
}

/// Stores a manifest whose layers need not be there, as a pull does.
async fn manifest_of(store: &Store, layers: &[Descriptor]) -> Descriptor {
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST),
        artifact_type: None,
        config: config(store, "linux/amd64", &[]).await,
        layers: layers.to_vec(),
        subject: None,
        annotations: None,
    };
    let data = serde_json::to_vec(&manifest).unwrap();
    let descriptor = Descriptor::of(MediaType::OCI_MANIFEST, &data);
    let guard = LeaseGuard::begin(store, "test").await.unwrap();
    let mut pins = layers.to_vec();
    pins.push(manifest.config);
    for pin in pins {
        let blob = cas_core::lease::BlobRef::existing(pin.digest);
        guard.pin(blob).await.unwrap();
    }
    let stored = guard.put(&descriptor, data.into(), Durability::Full).await;
    stored.unwrap();
    guard.finish().await.unwrap();
    descriptor
}

#[tokio::test]
async fn layers_that_are_not_distributed_may_be_absent() {
    for media_type in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    ] {
        let (from, to) = (store(), store());
        let foreign: MediaType = media_type.into();
        let absent = Descriptor::of(foreign.clone(), b"absent");
        let there = put(&from, foreign, b"there").await;
        let own = put(&from, MediaType::OCI_LAYER, b"own").await;
        let layers = [absent.clone(), there.clone(), own.clone()];
        let target = manifest_of(&from, &layers).await;
        let (options, events) = options();
        for _ in 0..2 {
            copy(&from, &to, &called(&target), &options).await.unwrap();
        }
        assert!(has(&to, &there).await && has(&to, &own).await && has(&to, &target).await);
        assert!(!has(&to, &absent).await);
        let said = warnings(&events);
        assert!(said[0].contains("is not distributed"), "{said:?}");
        let record = to.blobs().load(&target.digest).await.unwrap().unwrap().0;
        assert_eq!(record.absent, [absent.digest].into(), "{media_type}");
        // A copy of the copy is the same.
        copy(&to, &store(), &called(&target), &options)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_layer_that_was_lost_is_not_left_out() {
    let (from, to) = (store(), store());
    let target = named(&from, "linux/amd64").await;
    let layer = parts(&from, &target).await.remove(1);
    cas_core::ContentExt::remove(&*from.content, &layer.digest)
        .await
        .unwrap();
    let error = copy(&from, &to, &called(&target), &CopyOptions::default()).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!has(&to, &target).await);
}

async fn copy_for(from: &Store, to: &Store, target: &Descriptor, platform: &str) -> Result<Image> {
    let platform: Platforms = match platform {
        "all" => Platforms::All,
        one => Platforms::One(one.parse().unwrap()),
    };
    let options = CopyOptions::default().with_platforms(platform);
    copy(from, to, &called(target), &options).await
}

#[tokio::test]
async fn one_platform_is_copied_and_the_others_later() {
    let (from, to) = (store(), store());
    let platforms = ["linux/amd64", "linux/arm64", "linux/s390x"];
    let mut entries = Vec::new();
    for platform in platforms {
        entries.push(named(&from, platform).await);
    }
    let target = index(&from, &entries).await;
    let image = copy_for(&from, &to, &target, "linux/arm64").await.unwrap();
    assert_eq!(image.target, target);
    assert!(has(&to, &entries[1]).await);
    assert!(!has(&to, &entries[0]).await && !has(&to, &entries[2]).await);
    let record = to.blobs().load(&target.digest).await.unwrap().unwrap().0;
    let absent = [entries[0].digest, entries[2].digest].into();
    assert_eq!(record.absent, absent);

    for (missing, expected) in [
        ("linux/riscv64", "linux/amd64, linux/arm64, linux/s390x"),
        ("windows/amd64", "linux/amd64, linux/arm64, linux/s390x"),
    ] {
        let error = copy_for(&from, &store(), &target, missing).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().ends_with(expected), "{error}");
    }
    // `to` has one platform only, so the error lists that platform only.
    let error = copy_for(&to, &store(), &target, "linux/amd64").await;
    let said = error.unwrap_err().to_string();
    assert!(said.ends_with("it has: linux/arm64"), "{said}");
    let third = store();
    copy_for(&to, &third, &target, "all").await.unwrap();
    assert!(has(&third, &entries[1]).await && !has(&third, &entries[0]).await);

    copy_for(&from, &to, &target, "all").await.unwrap();
    for entry in &entries {
        assert!(has(&to, entry).await);
    }
    let record = to.blobs().load(&target.digest).await.unwrap().unwrap().0;
    assert!(record.absent.is_empty());
}

/// Returns a store with an index, the index, the manifests for two platforms that it lists, and a
/// nested index that states no platform.
async fn nested() -> (Store, Descriptor, [Descriptor; 3]) {
    let from = store();
    let own = named(&from, "linux/amd64").await;
    let other = named(&from, "linux/arm64").await;
    let inner = index(&from, &[named(&from, "linux/s390x").await]).await;
    let target = index(&from, &[own.clone(), other.clone(), inner.clone()]).await;
    let guard = LeaseGuard::begin(&from, "test").await.unwrap();
    guard.pin_tree(&target).await.unwrap();
    guard.finish().await.unwrap();
    (from, target, [own, other, inner])
}

#[tokio::test]
async fn a_copy_for_one_platform_needs_no_other_platform() {
    for lost in [true, false] {
        for at in 0..3 {
            let (from, target, [own, other, inner]) = nested().await;
            let bad = match at {
                0 => other.clone(),
                1 => parts(&from, &other).await.remove(0),
                _ => inner.clone(),
            };
            let from = match lost {
                true => {
                    cas_core::ContentExt::remove(&*from.content, &bad.digest)
                        .await
                        .unwrap();
                    from
                }
                false => {
                    let mut wrapped = Wrapped::new(&from);
                    wrapped.damaged = Some((bad.digest, Flaw::First));
                    wrapped.of(&from)
                }
            };
            let to = store();
            let image = copy_for(&from, &to, &target, "linux/amd64").await.unwrap();
            assert_eq!(image.target, target);
            assert!(has(&to, &own).await && !has(&to, &other).await);
            let record = to.blobs().load(&target.digest).await.unwrap().unwrap().0;
            assert!(record.absent.contains(&other.digest));
            assert_eq!(has(&to, &inner).await, at != 2);
            // What is damaged or lost is not copied.
            let expected = match lost {
                true => ErrorKind::NotFound,
                false => ErrorKind::Corrupt,
            };
            let to = store();
            let platform = if at == 2 {
                "linux/s390x"
            } else {
                "linux/arm64"
            };
            let error = copy_for(&from, &to, &target, platform).await.unwrap_err();
            assert_eq!(error.kind(), expected, "{lost} {at}: {error}");
            assert!(!has(&to, &target).await);
        }
    }
}

/// A stored blob may have another size than its descriptor states.
#[tokio::test]
async fn a_copy_for_one_platform_needs_no_right_size_of_another() {
    let from = store();
    let own = named(&from, "linux/amd64").await;
    let mut other = named(&from, "linux/arm64").await;
    other.size += 1;
    let mut unnamed = image(&from, "linux/s390x").await;
    unnamed.size += 1;
    let target = index(&from, &[own.clone(), other, unnamed]).await;
    let to = store();
    copy_for(&from, &to, &target, "linux/amd64").await.unwrap();
    assert!(has(&to, &own).await && has(&to, &target).await);
    let error = copy_for(&from, &store(), &target, "linux/arm64").await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Corrupt);
}

/// The layer was unpacked, and its blob was discarded.
#[tokio::test]
async fn a_copy_for_one_platform_needs_no_layers_of_a_manifest_without_a_platform() {
    let from = store();
    let own = image(&from, "linux/amd64").await;
    let other = image(&from, "linux/arm64").await;
    let target = index(&from, &[own.clone(), other.clone()]).await;
    let layer = parts(&from, &other).await.remove(1);
    let discard = |record: Option<BlobRecord>| {
        let mut record = record.unwrap();
        record.absent.insert(layer.digest);
        Ok(record)
    };
    from.blobs().update(&other.digest, discard).await.unwrap();
    cas_core::ContentExt::remove(&*from.content, &layer.digest)
        .await
        .unwrap();
    let to = store();
    copy_for(&from, &to, &target, "linux/amd64").await.unwrap();
    assert!(has(&to, &own).await && !has(&to, &other).await);
    let error = copy_for(&from, &store(), &target, "linux/arm64").await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_image_without_an_index_must_be_for_the_platform() {
    let from = store();
    let target = named(&from, "linux/s390x").await;
    copy_for(&from, &store(), &target, "linux/s390x")
        .await
        .unwrap();
    let error = copy_for(&from, &store(), &target, "linux/amd64").await;
    let said = error.unwrap_err().to_string();
    assert!(said.contains("linux/s390x only"), "{said}");
}

#[tokio::test]
async fn a_copy_that_was_interrupted_is_resumed() {
    let (from, to) = (store(), store());
    let layer = put(&from, MediaType::OCI_LAYER, &[7; 5000]).await;
    let target = manifest_of(&from, std::slice::from_ref(&layer)).await;
    let key = layer.digest.to_string();
    let mut begun = to.content.begin(&key).await.unwrap();
    begun.append(vec![7; 3000].into()).await.unwrap();
    drop(begun);
    let (options, events) = options();
    copy(&from, &to, &called(&target), &options).await.unwrap();
    let events = std::mem::take(&mut *events.lock().unwrap());
    let steps = events.iter().filter(|event| event.1 == key);
    let steps: Vec<u64> = steps.map(|event| event.2).collect();
    assert_eq!(steps, [0, 3000, 2000, 0]);
    assert!(to.content.ingests().await.unwrap().is_empty());
}
