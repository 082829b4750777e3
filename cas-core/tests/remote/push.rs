//! What a push sends, and in which order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cas_core::image::check;
use cas_core::lease::LeaseGuard;
use cas_core::platform::{All, Platforms};
use cas_core::progress::{Event, Phase};
use cas_core::transfer::{PushOptions, push, pushed_platforms};
use cas_core::{ContentExt, Descriptor, ErrorKind, MediaType, Platform, Store, limit};
use serde_json::json;

use super::fake::{FakeRemote, of, pulled};
use super::pull::made;
use crate::support::{config, index, manifest, named, parts, put, store, unverifiable};

fn choosing(platforms: Platforms) -> PushOptions {
    PushOptions::default().with_platforms(platforms)
}

#[tokio::test]
async fn a_push_sends_children_first_and_skips_what_the_remote_has() {
    let (from, there) = (store(), store());
    let root = made(&from).await;
    let remote = FakeRemote::new(&there, &layer_of(&from, &root).await);
    push(&from, &remote, &root, &choosing(Platforms::All))
        .await
        .unwrap();
    let pushed = remote.pushed.lock().unwrap().clone();
    assert_eq!(pushed.len(), 11);
    assert_eq!(pushed.last(), Some(&root.digest));
    assert_eq!(*remote.root.lock().unwrap(), root);
    for (at, digest) in pushed.iter().enumerate() {
        let record = from.blobs().load(digest).await.unwrap().unwrap().0;
        let earlier = &pushed[..at];
        assert!(record.children.iter().all(|child| earlier.contains(child)));
    }
    push(&from, &remote, &root, &choosing(Platforms::Host))
        .await
        .unwrap();
    assert_eq!(
        remote.pushed.lock().unwrap().len(),
        12,
        "only the root is pushed again"
    );
    let only = check(&*there.content, &root, &All).await.unwrap();
    assert!(only.is_complete());
}

async fn layer_of(store: &Store, root: &Descriptor) -> Descriptor {
    let manifest = cas_core::image::manifest(&*store.content, root, &All).await;
    manifest.unwrap().manifest.layers.remove(0)
}

#[tokio::test]
async fn a_push_of_an_incomplete_image_is_one_platform_or_an_error() {
    let (from, sparse, there) = (store(), store(), store());
    let host = Platform::host().to_string();
    let own = named(&from, &host).await;
    let root = index(&from, &[own.clone(), named(&from, "linux/riscv64").await]).await;
    pulled(
        &sparse,
        &FakeRemote::new(&from, &root),
        &of(Platforms::Host),
    )
    .await
    .unwrap();
    let remote = FakeRemote::new(&there, &root);
    let pushed = push(&sparse, &remote, &root, &choosing(Platforms::Host))
        .await
        .unwrap();
    assert_eq!(pushed.digest, own.digest);
    assert_eq!(remote.pushed.lock().unwrap().len(), 3);
    let error = push(&sparse, &remote, &root, &choosing(Platforms::All))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let other = Platforms::One("linux/riscv64".parse().unwrap());
    let error = push(&sparse, &remote, &root, &choosing(other))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(remote.pushed.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_push_of_one_platform_needs_no_other_platform() {
    for lost_part in [0, 1] {
        let (from, there) = (store(), store());
        let own = named(&from, "linux/amd64").await;
        let other = named(&from, "linux/riscv64").await;
        let root = index(&from, &[own.clone(), other.clone()]).await;
        let guard = LeaseGuard::begin(&from, "test").await.unwrap();
        guard.pin_tree(&root).await.unwrap();
        guard.finish().await.unwrap();
        let config = parts(&from, &other).await.remove(0);
        let lost = [&other, &config][lost_part];
        from.content.remove(&lost.digest).await.unwrap();
        let remote = FakeRemote::new(&there, &root);
        let one = choosing(Platforms::One("linux/amd64".parse().unwrap()));
        let pushed = push(&from, &remote, &root, &one).await.unwrap();
        assert_eq!(pushed.digest, own.digest);
        assert_eq!(remote.pushed.lock().unwrap().len(), 3);
        let one = choosing(Platforms::One("linux/riscv64".parse().unwrap()));
        let error = push(&from, &remote, &root, &one).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let all = push(&from, &remote, &root, &choosing(Platforms::All)).await;
        assert_eq!(all.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(remote.pushed.lock().unwrap().len(), 3);
    }
}

/// Nothing is sent if a document is missing. The advice fits the reason.
#[tokio::test]
async fn a_push_of_all_platforms_names_the_first_part_that_is_missing() {
    let amd64 = of(Platforms::One("linux/amd64".parse().unwrap()));
    for (is_nested, lost) in [
        (false, None),
        (true, None),
        (false, Some(1)),
        (false, Some(0)),
    ] {
        let (from, sparse) = (store(), store());
        let own = named(&from, "linux/amd64").await;
        let other = named(&from, "linux/riscv64").await;
        let root = match is_nested {
            false => index(&from, &[own.clone(), other.clone()]).await,
            true => {
                let inner = index(&from, std::slice::from_ref(&other)).await;
                index(&from, &[own.clone(), inner]).await
            }
        };
        let source = FakeRemote::new(&from, &root);
        pulled(&sparse, &source, &amd64).await.unwrap();
        let (missing, advice) = match lost {
            None => (
                other.digest,
                "pull all platforms of the image, or push a single",
            ),
            Some(part) => {
                let part = parts(&sparse, &own).await.remove(part).digest;
                sparse.content.remove(&part).await.unwrap();
                (part, "run `cas fsck --repair`")
            }
        };
        let remote = FakeRemote::new(&store(), &root);
        let error = push(&sparse, &remote, &root, &choosing(Platforms::All)).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let said = error.to_string();
        assert!(said.contains(&missing.to_string()), "{said}");
        assert!(said.contains(advice), "{said}");
        assert_eq!(said.contains("fsck"), lost.is_some(), "{said}");
        assert!(remote.pushed.lock().unwrap().is_empty());
        // The platform that the store has can be pushed, unless it has lost a part of it.
        let one = choosing(Platforms::One("linux/amd64".parse().unwrap()));
        let pushed = push(&sparse, &remote, &root, &one).await;
        match lost {
            None => assert_eq!(pushed.unwrap().digest, own.digest),
            Some(_) => assert!(pushed.unwrap_err().to_string().contains(advice)),
        }
    }
}

#[tokio::test]
async fn a_push_of_one_platform_of_an_index_names_the_platform() {
    let (from, sparse, there) = (store(), store(), store());
    let other = named(&from, "linux/riscv64").await;
    let root = index(&from, &[other, named(&from, "linux/s390x").await]).await;
    let riscv: Platform = "linux/riscv64".parse().unwrap();
    let one = of(Platforms::One(riscv.clone()));
    let source = FakeRemote::new(&from, &root);
    pulled(&sparse, &source, &one).await.unwrap();
    let (options, said) = warned(Platforms::Like(riscv));
    let remote = FakeRemote::new(&there, &root);
    push(&sparse, &remote, &root, &options).await.unwrap();
    let said = said.lock().unwrap();
    assert!(
        said[0].contains("only the manifest for linux/riscv64"),
        "{said:?}"
    );
    assert!(said[0].contains("pull all platforms"), "{said:?}");
    assert!(said[0].contains("unless pulls leave some of them out"));
}

/// Returns options, and the warnings that a push with these options sends.
fn warned(platforms: Platforms) -> (PushOptions, Arc<Mutex<Vec<String>>>) {
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = Arc::clone(&said);
    let note = move |event: Event<'_>| {
        if event.phase == Phase::Warning {
            sink.lock().unwrap().push(event.item.to_owned());
        }
    };
    (choosing(platforms).with_progress(Arc::new(note)), said)
}

/// Registries refuse such an index.
#[tokio::test]
async fn an_index_with_digests_of_other_algorithms_is_not_pushed() {
    let from = store();
    let host = Platform::host();
    let own = named(&from, &host.to_string()).await;
    let entry = json!({ "digest": "blake3:00", "size": 2 });
    let entries = json!({ "schemaVersion": 2, "manifests": [entry, own] });
    let flat = put(&from, MediaType::OCI_INDEX, entries.to_string().as_bytes()).await;
    let nested = index(&from, std::slice::from_ref(&flat)).await;
    let other = unverifiable(&from, "linux/riscv64").await;
    // Another program has stored this index, so it has no record.
    let listing = json!({ "schemaVersion": 2, "manifests": [own, other] }).to_string();
    let unrecorded = Descriptor::of(MediaType::OCI_INDEX, listing.as_bytes());
    from.content.put(listing.into()).await.unwrap();
    let (options, said) = warned(Platforms::Host);
    for root in [&flat, &nested, &unrecorded] {
        let pushed = pushed_platforms(&from, root, &Platforms::Host).await;
        assert_eq!(pushed.unwrap(), Platforms::Host);
        let remote = FakeRemote::new(&store(), root);
        let pushed = push(&from, &remote, root, &options).await.unwrap();
        assert_eq!(pushed.digest, own.digest);
        let said = said.lock().unwrap().pop().unwrap();
        assert!(said.contains("only the manifest"), "{said}");
        assert!(said.contains("blake3:00"), "{said}");
    }
    let one = Platforms::One(host);
    for root in [&flat, &nested, &unrecorded] {
        let remote = FakeRemote::new(&store(), root);
        let error = push(&from, &remote, root, &choosing(Platforms::All)).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("blake3:00"), "{error}");
        assert!(remote.pushed.lock().unwrap().is_empty());
        let pushed = pushed_platforms(&from, root, &one).await.unwrap();
        assert_eq!(pushed, one);
        let pushed = push(&from, &remote, root, &choosing(one.clone())).await;
        assert_eq!(pushed.unwrap().digest, own.digest);
    }
    let whole = index(&from, std::slice::from_ref(&own)).await;
    let pushed = pushed_platforms(&from, &whole, &Platforms::Host).await;
    assert_eq!(pushed.unwrap(), Platforms::All);
}

/// A descriptor may embed the content of a blob.
#[tokio::test]
async fn all_bytes_of_embedded_and_stored_blobs_are_reported() {
    let (from, there) = (store(), store());
    let layer = put(&from, MediaType::OCI_LAYER, &[7; 3000]).await;
    let mut config = config(&from, "linux/amd64", &[layer.digest]).await;
    let data = from.content.fetch(&config).await.unwrap();
    config.data = Some(BASE64_STANDARD.encode(data));
    let root = manifest(&from, config.clone(), std::slice::from_ref(&layer)).await;
    let remote = FakeRemote::new(&there, &root);
    let done: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
    let counted = Arc::clone(&done);
    let count = move |event: Event<'_>| {
        let mut done = counted.lock().unwrap();
        *done.entry(event.item.to_owned()).or_default() += event.bytes;
    };
    let options = choosing(Platforms::All).with_progress(Arc::new(count));
    push(&from, &remote, &root, &options).await.unwrap();
    let done = done.lock().unwrap();
    for blob in [config, layer] {
        assert_eq!(done.get(&blob.digest.to_string()), Some(&blob.size));
    }
}

/// A larger document can be stored and read, but registries refuse it.
#[tokio::test]
async fn a_document_is_pushed_up_to_its_bound() {
    let most = limit::DOCUMENT_WRITE as usize;
    for (size, is_taken) in [(most, true), (most + 1, false)] {
        let (from, there) = (store(), store());
        let mut document = br#"{"schemaVersion":2,"manifests":[]}"#.to_vec();
        document.resize(size, b' ');
        let root = put(&from, MediaType::OCI_INDEX, &document).await;
        let remote = FakeRemote::new(&there, &root);
        let pushed = push(&from, &remote, &root, &choosing(Platforms::All)).await;
        let refused = pushed.err().map(|error| (error.kind(), error.to_string()));
        match refused {
            None => assert!(is_taken),
            Some((kind, said)) => {
                assert_eq!((kind, is_taken), (ErrorKind::OutOfRange, false), "{said}");
                assert!(said.contains(&most.to_string()), "{said}");
            }
        }
    }
}

/// The remote must not receive such a blob, and a pull of the image would not replace it.
#[tokio::test]
async fn a_stored_blob_of_another_size_is_damage() {
    let (from, there) = (store(), store());
    let mut layer = put(&from, MediaType::OCI_LAYER, b"1234").await;
    layer.size = 5;
    let config = config(&from, "linux/amd64", &[]).await;
    let root = manifest(&from, config, &[layer]).await;
    let remote = FakeRemote::new(&there, &root);
    let error = push(&from, &remote, &root, &choosing(Platforms::All)).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let said = error.to_string();
    assert!(said.contains("expected 5 bytes, found 4"), "{said}");
}
