//! What a pull stores, and what it leaves out.

use std::sync::{Arc, Mutex};

use cas_core::gc::{GcOptions, collect};
use cas_core::image::check;
use cas_core::lease::LeaseGuard;
use cas_core::platform::{Only, Platforms};
use cas_core::progress::{Event, Phase};
use cas_core::records::{BlobRecord, Expect, Notes};
use cas_core::transfer::{PullOptions, fetch};
use cas_core::{ContentExt, Descriptor, ErrorKind, MediaType, Platform, Store};
use serde_json::{Value, json};

use super::fake::{FakeRemote, of, pulled};
use crate::support::{self, image, index, named, parts, put, store, strict, unverifiable};

pub(crate) async fn is_whole(store: &Store, root: &Descriptor, platform: &str) -> bool {
    let only = Only::new(&platform.parse::<Platform>().unwrap());
    let found = check(&*store.content, root, &only).await.unwrap();
    found.is_complete()
}

/// Checks that the records below `root` list a child as absent exactly if the store does not have
/// the child. Call it only while no pulled blob is lost.
async fn assert_absent_is_what_was_never_pulled(store: &Store, root: &Descriptor) {
    let mut waiting = vec![root.digest];
    while let Some(digest) = waiting.pop() {
        let record = store.blobs().load(&digest).await.unwrap().unwrap().0;
        for child in record.children {
            let there = store.content.stat(&child).await.unwrap().is_some();
            assert_eq!(there, !record.absent.contains(&child), "{child}");
            waiting.extend(there.then_some(child));
        }
    }
}

/// Puts an index of three platforms, one of them in a nested index.
pub(crate) async fn made(store: &Store) -> Descriptor {
    let nested = index(store, &[named(store, "linux/s390x").await]).await;
    let amd64 = named(store, "linux/amd64").await;
    let arm64 = named(store, "linux/arm64").await;
    index(store, &[arm64, nested, amd64]).await
}

/// A collection before every fetch removes nothing that the pull needs.
#[tokio::test]
async fn a_pull_is_complete_during_collections_and_fetches_nothing_twice() {
    for to in [store(), strict()] {
        let from = store();
        let root = made(&from).await;
        let mut remote = FakeRemote::new(&from, &root);
        remote.collected = Some(to.clone());
        for fetched in [11, 11] {
            assert_eq!(
                pulled(&to, &remote, &of(Platforms::All)).await.unwrap(),
                root
            );
            assert_eq!(remote.fetches(), fetched);
        }
        collect(&to, &[], &GcOptions::default()).await.unwrap();
        for platform in ["linux/amd64", "linux/arm64", "linux/s390x"] {
            assert!(is_whole(&to, &root, platform).await, "{platform}");
        }
        assert!(to.leases().list().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn the_chosen_platform_is_pulled_first_and_the_others_later() {
    let (from, to) = (store(), store());
    let root = made(&from).await;
    let remote = FakeRemote::new(&from, &root);
    for (platform, later) in [
        ("linux/s390x", "linux/arm64"),
        ("linux/arm64", "linux/amd64"),
    ] {
        let choice = Platforms::One(platform.parse().unwrap());
        pulled(&to, &remote, &of(choice)).await.unwrap();
        assert!(is_whole(&to, &root, platform).await);
        assert!(!is_whole(&to, &root, later).await);
        assert_absent_is_what_was_never_pulled(&to, &root).await;
    }
    let choice = Platforms::One("linux/riscv64".parse().unwrap());
    let error = pulled(&to, &remote, &of(choice)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().contains("linux/amd64, linux/arm64"),
        "{error}"
    );
}

/// Returns options for all platforms, and the warnings that a pull with these options sends.
fn warned() -> (PullOptions<'static>, Arc<Mutex<Vec<String>>>) {
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = Arc::clone(&said);
    let options = of(Platforms::All).with_progress(Arc::new(move |event: Event<'_>| {
        if event.phase == Phase::Warning {
            sink.lock().unwrap().push(event.item.to_owned());
        }
    }));
    (options, said)
}

#[tokio::test]
async fn manifests_with_digests_of_other_algorithms_are_left_out() {
    let (from, to) = (store(), store());
    let amd64 = named(&from, "linux/amd64").await;
    let other = json!({ "digest": "sha384:00", "size": 2 });
    let put = async |entries: Value| {
        let index = json!({ "schemaVersion": 2, "manifests": entries }).to_string();
        let descriptor = Descriptor::of(MediaType::OCI_INDEX, index.as_bytes());
        // A store does not accept the index as a document.
        from.content.put(index.into()).await.unwrap();
        descriptor
    };
    let useless = put(json!([other])).await;
    let root = put(json!([useless, other, amd64])).await;
    let (options, said) = warned();
    let remote = FakeRemote::new(&from, &root);
    assert_eq!(pulled(&to, &remote, &options).await.unwrap(), root);
    assert!(is_whole(&to, &root, "linux/amd64").await);
    assert_absent_is_what_was_never_pulled(&to, &root).await;
    let said = said.lock().unwrap().clone();
    assert_eq!(said.len(), 2, "{said:?}");
    for (text, index) in said.iter().zip([&root, &useless]) {
        assert!(text.contains(&index.digest.to_string()), "{text}");
        assert!(text.contains("sha384:00"), "{text}");
    }
    assert!(!to.present(&useless).await.unwrap());

    let alone = put(json!([useless])).await;
    let arm64 = of(Platforms::One("linux/arm64".parse().unwrap()));
    for (root, options) in [(&useless, &options), (&alone, &options), (&root, &arm64)] {
        let remote = FakeRemote::new(&from, root);
        let error = pulled(&store(), &remote, options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("sha384:00"), "{error}");
    }
}

#[tokio::test]
async fn manifests_that_list_digests_of_other_algorithms_are_left_out() {
    let (from, to) = (store(), store());
    let amd64 = named(&from, "linux/amd64").await;
    let unnamed = unverifiable(&from, "linux/arm64").await;
    let platform: Platform = "linux/arm64".parse().unwrap();
    let other = unnamed.clone().with_platform(platform.clone());
    let root = index(&from, &[other.clone(), amd64]).await;
    let (options, said) = warned();
    let remote = FakeRemote::new(&from, &root);
    assert_eq!(pulled(&to, &remote, &options).await.unwrap(), root);
    assert!(is_whole(&to, &root, "linux/amd64").await);
    assert_absent_is_what_was_never_pulled(&to, &root).await;
    assert!(!to.present(&unnamed).await.unwrap());
    let said = said.lock().unwrap().clone();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains(&other.digest.to_string()), "{said:?}");
    assert!(said[0].contains("blake3:00"), "{said:?}");

    // Another manifest for the same platform is enough.
    let both = index(&from, &[other.clone(), named(&from, "linux/arm64").await]).await;
    let arm64 = of(Platforms::One(platform));
    let remote = FakeRemote::new(&from, &both);
    pulled(&to, &remote, &arm64).await.unwrap();

    let alone = index(&from, std::slice::from_ref(&other)).await;
    let mixed = index(&from, &[unnamed.clone(), image(&from, "linux/s390x").await]).await;
    for (root, options) in [
        (&root, &arm64),
        (&mixed, &arm64),
        (&alone, &options),
        (&unnamed, &options),
    ] {
        let remote = FakeRemote::new(&from, root);
        let error = pulled(&store(), &remote, options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("blake3:00"), "{error}");
    }
}

/// An earlier release recorded manifests as stored, and then failed to pull them.
#[tokio::test]
async fn records_that_claim_too_much_are_corrected_once() {
    let (from, to) = (store(), store());
    let root = made(&from).await;
    let remote = FakeRemote::new(&from, &root);
    let platforms = of(Platforms::One("linux/amd64".parse().unwrap()));
    pulled(&to, &remote, &platforms).await.unwrap();
    let notes = Notes::new(to.records.clone(), "records").unwrap();
    let claim_all = async || {
        let claim = |found: Option<BlobRecord>| {
            let mut record = found.unwrap();
            record.absent.clear();
            Ok(record)
        };
        to.blobs().update(&root.digest, claim).await.unwrap();
    };
    let pin = async || {
        let guard = LeaseGuard::begin(&to, "tag").await.unwrap();
        let pinned = guard.pin_tree(&root).await;
        guard.finish().await.unwrap();
        pinned.map_err(|error| error.kind())
    };
    for by_a_pull in [false, true] {
        notes
            .delete("indexes-corrected", Expect::Any)
            .await
            .unwrap();
        claim_all().await;
        assert_eq!(pin().await, Err(ErrorKind::NotFound));
        if by_a_pull {
            pulled(&to, &remote, &platforms).await.unwrap();
            assert_eq!(pin().await, Ok(()));
        }
        collect(&to, &[], &GcOptions::default()).await.unwrap();
        assert_eq!(pin().await, Ok(()));
        assert_absent_is_what_was_never_pulled(&to, &root).await;
    }
    // A blob that is missing from now on was lost, and must not be recorded as absent.
    claim_all().await;
    collect(&to, &[], &GcOptions::default()).await.unwrap();
    assert_eq!(pin().await, Err(ErrorKind::NotFound));
}

#[tokio::test]
async fn content_is_fetched_into_the_store_and_read_from_there() {
    let (from, to) = (store(), store());
    let root = made(&from).await;
    let layer = put(&from, MediaType::OCI_LAYER, b"a layer").await;
    let remote = FakeRemote::new(&from, &root);
    let guard = LeaseGuard::begin(&to, "test").await.unwrap();
    for was_stored in [false, true] {
        let options = of(Platforms::Host);
        let fetched = fetch(&to, &guard, &remote, &layer, &options).await.unwrap();
        assert_eq!(fetched.was_stored, was_stored);
        assert_eq!(&*fetched.reader.read_at(0, 100).await.unwrap(), b"a layer");
        assert_eq!(remote.fetches(), 1);
    }
    guard.finish().await.unwrap();
}

#[tokio::test]
async fn a_blob_that_was_lost_is_fetched_again() {
    let (from, to) = (store(), store());
    let root = image(&from, &Platform::host().to_string()).await;
    let remote = FakeRemote::new(&from, &root);
    pulled(&to, &remote, &of(Platforms::Host)).await.unwrap();
    let layer = parts(&from, &root).await.remove(1);
    assert!(to.content.remove(&layer.digest).await.unwrap());
    pulled(&to, &remote, &of(Platforms::Host)).await.unwrap();
    assert_eq!(remote.fetches(), 4);
    assert!(to.present(&layer).await.unwrap());
}

#[tokio::test]
async fn an_incomplete_or_wrong_image_gets_no_name() {
    let from = store();
    let layer = Descriptor::of(MediaType::OCI_LAYER, b"nowhere");
    let config = support::config(&from, "linux/amd64", &[]).await;
    let holed = support::manifest(&from, config.clone(), std::slice::from_ref(&layer)).await;
    let lied = Descriptor {
        size: config.size + 1,
        ..config.clone()
    };
    let lying = support::manifest(&from, lied, &[]).await;
    let mut deep = image(&from, "linux/amd64").await;
    for _ in 0..=cas_core::limit::INDEX_DEPTH {
        deep = index(&from, &[deep]).await;
    }
    let both = br#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
    let mut confused = put(&from, "any/thing".into(), both).await;
    confused.media_type = MediaType::OCI_INDEX;
    for (root, kind) in [
        (holed, ErrorKind::NotFound),
        (lying, ErrorKind::Corrupt),
        (deep, ErrorKind::OutOfRange),
        (confused, ErrorKind::Corrupt),
    ] {
        let to = store();
        let error = pulled(&to, &FakeRemote::new(&from, &root), &of(Platforms::All)).await;
        assert_eq!(error.unwrap_err().kind(), kind);
        assert!(to.images.list(&[]).await.unwrap().is_empty());
        collect(&to, &[], &GcOptions::default()).await.unwrap();
        assert!(to.content.list(None, 1).await.unwrap().is_empty());
    }
}
