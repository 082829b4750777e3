//! Queries about an image: its manifest, its platforms, what it needs, its size.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cas_core::image::{
    ImageConfig, check, config, config_platform, image_config, layers, manifest, platforms, rootfs,
    size,
};
use cas_core::platform::{All, Only};
use cas_core::{
    ContentExt, Descriptor, Digest, Document, ErrorKind, Image, Manifest, MediaType, Platform,
    Store,
};

mod support;
use support::wrapped::{Flaw, Wrapped};
use support::{image, index, named, parts, put, store, unverifiable};

fn only(text: &str) -> Only {
    Only::new(&text.parse().unwrap())
}

async fn resolve(store: &Store, root: &Descriptor, platform: &str) -> Descriptor {
    let resolved = manifest(&*store.content, root, &only(platform)).await;
    resolved.unwrap().descriptor
}

async fn unresolved(store: &Store, root: &Descriptor, platform: &str) -> cas_core::Error {
    let resolved = manifest(&*store.content, root, &only(platform)).await;
    resolved.unwrap_err()
}

#[tokio::test]
async fn a_root_that_is_a_manifest_is_returned() {
    let store = store();
    let root = image(&store, "linux/amd64").await;
    let resolved = manifest(&*store.content, &root, &only("plan9/mips"))
        .await
        .unwrap();
    assert_eq!(resolved.descriptor, root);
    assert_eq!(resolved.manifest.layers.len(), 1);
    let layer = &resolved.manifest.layers[0];
    assert_eq!(
        unresolved(&store, layer, "linux/amd64").await.kind(),
        ErrorKind::Unsupported
    );
}

#[tokio::test]
async fn the_best_match_of_all_indexes_is_chosen() {
    let store = store();
    let (v5, v7) = (
        named(&store, "linux/arm/v5").await,
        named(&store, "linux/arm/v7").await,
    );
    let amd64 = named(&store, "linux/amd64").await;
    let nested = index(&store, std::slice::from_ref(&v7)).await;
    let root = index(&store, &[amd64.clone(), v5.clone(), nested]).await;
    assert_eq!(resolve(&store, &root, "linux/arm/v7").await, v7);
    assert_eq!(resolve(&store, &root, "linux/arm/v6").await, v5);
    let first = manifest(&*store.content, &root, &All).await.unwrap();
    assert_eq!(first.descriptor, amd64);
    let error = unresolved(&store, &root, "linux/s390x").await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let there = "the store has the image for: linux/amd64, linux/arm/v5, linux/arm/v7";
    assert!(error.to_string().ends_with(there), "{error}");
}

#[tokio::test]
async fn a_missing_nested_index_is_named() {
    let store = store();
    let amd64 = named(&store, "linux/amd64").await;
    let nested = index(&store, &[named(&store, "linux/arm64").await]).await;
    let root = index(&store, &[amd64, nested.clone()]).await;
    store.content.remove(&nested.digest).await.unwrap();
    let error = unresolved(&store, &root, "linux/arm64").await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().contains(&nested.digest.to_string()),
        "{error}"
    );
}

#[tokio::test]
async fn without_a_platform_the_configuration_states_it() {
    let store = store();
    let artifact = {
        let empty = put(&store, MediaType::OCI_EMPTY, b"{}").await;
        support::manifest(&store, empty, &[]).await
    };
    let (arm, v6) = (
        image(&store, "linux/arm64").await,
        image(&store, "linux/arm/v6").await,
    );
    let v7 = image(&store, "linux/arm/v7").await;
    let root = index(&store, &[artifact, arm.clone(), v6, v7.clone()]).await;
    assert_eq!(resolve(&store, &root, "linux/aarch64").await, arm);
    assert_eq!(resolve(&store, &root, "linux/arm/v7").await, v7);
    assert_eq!(
        unresolved(&store, &root, "linux/amd64").await.kind(),
        ErrorKind::NotFound
    );
    // A manifest that states its platform comes first, even if it is the worse match.
    let v5 = named(&store, "linux/arm/v5").await;
    let root = index(&store, &[v7, v5.clone()]).await;
    assert_eq!(resolve(&store, &root, "linux/arm/v7").await, v5);
}

#[tokio::test]
async fn a_missing_best_match_is_skipped() {
    let store = store();
    let (v7, v6) = (
        named(&store, "linux/arm/v7").await,
        named(&store, "linux/arm/v6").await,
    );
    let absent_index = Descriptor::of(MediaType::OCI_INDEX, b"absent");
    let root = index(&store, &[absent_index, v6.clone(), v7.clone()]).await;
    assert_eq!(resolve(&store, &root, "linux/arm/v7").await, v7);
    store.content.remove(&v7.digest).await.unwrap();
    assert_eq!(resolve(&store, &root, "linux/arm/v7").await, v6);
    store.content.remove(&v6.digest).await.unwrap();
    let error = unresolved(&store, &root, "linux/arm/v7").await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().contains(&v7.digest.to_string()),
        "{error}"
    );
    store.content.remove(&root.digest).await.unwrap();
    assert_eq!(
        unresolved(&store, &root, "linux/arm/v7").await.kind(),
        ErrorKind::NotFound
    );
}

/// Damaged content whose platform is not stated may be for any platform.
#[tokio::test]
async fn damaged_content_is_skipped_if_something_else_matches() {
    let store = store();
    let amd64 = image(&store, "linux/amd64").await;
    let arm64 = image(&store, "linux/arm64").await;
    let nested = index(&store, &[image(&store, "linux/s390x").await]).await;
    let configuration = parts(&store, &arm64).await.remove(0);
    let root = index(&store, &[nested.clone(), arm64.clone(), amd64.clone()]).await;
    for damaged in [nested.digest, arm64.digest, configuration.digest] {
        let mut content = Wrapped::new(&store);
        content.damaged = Some((damaged, Flaw::First));
        let store = content.of(&store);
        assert_eq!(resolve(&store, &root, "linux/amd64").await, amd64);
        let error = unresolved(&store, &root, "linux/riscv64").await;
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(&damaged.to_string()), "{error}");
    }
}

/// Another program has stored the index. Its digests have an algorithm that `cas` does not know.
#[tokio::test]
async fn a_nested_index_that_cannot_be_verified_is_skipped_if_something_else_matches() {
    let store = store();
    let amd64 = named(&store, "linux/amd64").await;
    let text = br#"{"schemaVersion":2,"manifests":[{"digest":"sha384:00","size":2}]}"#;
    let stored = put(&store, MediaType::BYTES, text).await;
    let nested = Descriptor::new(MediaType::OCI_INDEX, stored.digest, stored.size);
    let root = index(&store, &[nested.clone(), amd64.clone()]).await;
    assert_eq!(resolve(&store, &root, "linux/amd64").await, amd64);
    for root in [root, nested] {
        let error = unresolved(&store, &root, "linux/arm64").await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("sha384:00"), "{error}");
    }
}

#[tokio::test]
async fn an_entry_that_cannot_be_verified_may_be_for_a_platform_that_is_not_found() {
    let store = store();
    let amd64 = named(&store, "linux/amd64").await;
    let entries = serde_json::json!([{"digest": "sha384:00", "size": 2}, amd64]);
    let text = serde_json::json!({"schemaVersion": 2, "manifests": entries}).to_string();
    let root = put(&store, MediaType::OCI_INDEX, text.as_bytes()).await;
    assert_eq!(resolve(&store, &root, "linux/amd64").await, amd64);
    let error = unresolved(&store, &root, "linux/arm64").await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let said = error.to_string();
    assert!(
        said.contains("that can be verified: expected sha256"),
        "{said}"
    );
    assert!(said.contains("found \"sha384:00\""), "{said}");
    assert!(
        said.contains("the store has the image for: linux/amd64"),
        "{said}"
    );
}

/// Another program has stored the manifest. It lists a digest of an unknown algorithm.
#[tokio::test]
async fn a_manifest_that_cannot_be_verified_is_skipped_if_something_else_matches() {
    let store = store();
    let amd64 = image(&store, "linux/amd64").await;
    let other = unverifiable(&store, "linux/arm64").await;
    let root = index(&store, &[other.clone(), amd64.clone()]).await;
    assert_eq!(resolve(&store, &root, "linux/amd64").await, amd64);
    let arm64 = other.clone().with_platform("linux/arm64".parse().unwrap());
    let stated = index(&store, &[arm64, amd64]).await;
    for root in [root, stated, other] {
        let error = unresolved(&store, &root, "linux/arm64").await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("blake3:00"), "{error}");
    }
}

#[tokio::test]
async fn platforms_are_listed_without_attestations() {
    let store = store();
    let amd64 = named(&store, "linux/x86_64").await;
    let attestation = amd64
        .clone()
        .with_platform(Platform::new("unknown", "unknown"));
    let nested = index(
        &store,
        &[image(&store, "linux/arm64/v8").await, amd64.clone()],
    )
    .await;
    let root = index(&store, &[amd64, attestation, nested]).await;
    let found = platforms(&*store.content, &root).await.unwrap();
    let expected: [Platform; 2] = ["linux/amd64", "linux/arm64"].map(|text| text.parse().unwrap());
    assert_eq!(found, expected);
    let absent = Descriptor::of(MediaType::OCI_INDEX, b"elsewhere");
    let sparse = index(&store, &[root, absent]).await;
    let found = platforms(&*store.content, &sparse).await.unwrap();
    assert_eq!(found, expected);
    let alone = image(&store, "linux/arm").await;
    let found = platforms(&*store.content, &alone).await.unwrap();
    assert_eq!(found, ["linux/arm/v7".parse().unwrap()]);
}

#[tokio::test]
async fn an_image_without_a_readable_platform_is_not_an_image_for_none() {
    let store = store();
    let alone = image(&store, "linux/amd64").await;
    let configuration = parts(&store, &alone).await.remove(0);
    let inside = index(&store, std::slice::from_ref(&alone)).await;
    store.content.remove(&configuration.digest).await.unwrap();
    for root in [
        &alone,
        &inside,
        &index(&store, std::slice::from_ref(&inside)).await,
    ] {
        let error = platforms(&*store.content, root).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let lost = configuration.digest.to_string();
        assert!(error.to_string().contains(&lost), "{error}");
    }
    // If the image has another platform, a missing configuration causes no error. An empty index
    // has no platforms.
    let arm = named(&store, "linux/arm64").await;
    let root = index(&store, &[alone, arm]).await;
    let found = platforms(&*store.content, &root).await.unwrap();
    assert_eq!(found, ["linux/arm64".parse().unwrap()]);
    let empty = index(&store, &[]).await;
    assert_eq!(platforms(&*store.content, &empty).await.unwrap(), []);
}

#[tokio::test]
async fn a_damaged_platform_does_not_hide_the_others() {
    let store = store();
    let amd64 = image(&store, "linux/amd64").await;
    let arm64 = image(&store, "linux/arm64").await;
    let configuration = parts(&store, &arm64).await.remove(0);
    let nested = index(&store, std::slice::from_ref(&arm64)).await;
    let root = index(&store, &[nested.clone(), amd64]).await;
    for damaged in [nested.digest, arm64.digest, configuration.digest] {
        let mut content = Wrapped::new(&store);
        content.damaged = Some((damaged, Flaw::First));
        let store = content.of(&store);
        let found = platforms(&*store.content, &root).await.unwrap();
        assert_eq!(found, ["linux/amd64".parse().unwrap()]);
        let error = platforms(&*store.content, &nested).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(&damaged.to_string()), "{error}");
    }
}

#[tokio::test]
async fn what_is_not_an_image_is_not_available() {
    let store = store();
    let layer = put(&store, MediaType::OCI_LAYER, b"layer").await;
    let absent = Descriptor::of(MediaType::OCI_CONFIG, b"absent");
    let odd = put(&store, MediaType::from("x/y"), b"odd").await;
    for target in [layer, absent, odd] {
        let found = check(&*store.content, &target, &All).await.unwrap();
        let targets = vec![target];
        assert!(!found.available && found.present.is_empty());
        assert_eq!((&found.required, &found.missing), (&targets, &targets));
    }
}

/// containerd walks from the root to the manifest, and adds up what it visits.
#[tokio::test]
async fn indexes_on_the_way_to_the_manifest_count() {
    let store = store();
    let arm = named(&store, "linux/arm64").await;
    let other = index(&store, &[named(&store, "linux/s390x").await]).await;
    let inner = index(&store, std::slice::from_ref(&arm)).await;
    let middle = index(&store, &[other, inner.clone()]).await;
    let root = index(&store, std::slice::from_ref(&middle)).await;
    let (content, matcher) = (&*store.content, only("linux/arm64"));
    let below: u64 = parts(&store, &arm).await.iter().map(|part| part.size).sum();
    let path = [&root, &middle, &inner, &arm];
    for from in 0..path.len() {
        let documents: u64 = path[from..].iter().map(|document| document.size).sum();
        let found = size(content, path[from], &matcher).await.unwrap();
        assert_eq!(found, documents + below);
    }
    let resolved = manifest(content, &root, &matcher).await.unwrap();
    assert_eq!(resolved.indexes, [root, middle, inner]);
}

#[tokio::test]
async fn check_reports_what_is_present_and_what_is_missing() {
    let store = store();
    let arm = named(&store, "linux/arm64").await;
    let root = index(&store, &[arm.clone(), named(&store, "linux/amd64").await]).await;
    let parts = parts(&store, &arm).await;
    let matcher = only("linux/arm64");
    let ask = async || check(&*store.content, &root, &matcher).await;
    let whole = ask().await.unwrap();
    assert!(whole.available && whole.is_complete());
    assert_eq!((&whole.required, &whole.present), (&parts, &parts));
    store.content.remove(&parts[1].digest).await.unwrap();
    let partial = ask().await.unwrap();
    assert!(partial.available && !partial.is_complete());
    assert_eq!(
        (&partial.required, &partial.missing[..]),
        (&parts, &parts[1..])
    );
    store.content.remove(&arm.digest).await.unwrap();
    let none = ask().await.unwrap();
    assert!(!none.available && none.present.is_empty());
    assert_eq!(
        (&none.required, &none.missing),
        (&vec![root.clone()], &vec![root.clone()])
    );

    let lying = Descriptor {
        size: 1,
        ..parts[0].clone()
    };
    let liar = support::manifest(&store, lying, &[]).await;
    let error = check(&*store.content, &liar, &matcher).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn an_image_answers_for_its_config_its_diff_ids_and_its_size() {
    let store = store();
    let layer = put(&store, MediaType::OCI_LAYER, b"twice").await;
    let diff_ids = [layer.digest, Digest::sha256(b"2")];
    let settings = support::config(&store, "linux/arm64/v8", &diff_ids).await;
    let arm = support::manifest(&store, settings.clone(), &[layer.clone(), layer.clone()]).await;
    let arm = arm.with_platform("linux/arm64".parse().unwrap());
    let root = index(&store, &[named(&store, "linux/amd64").await, arm.clone()]).await;
    let named = Image::new("a".parse().unwrap(), root.clone());
    let (content, matcher) = (&*store.content, only("linux/arm64"));
    assert_eq!(named.config(content, &matcher).await.unwrap(), settings);
    assert_eq!(config(content, &root, &matcher).await.unwrap(), settings);
    assert_eq!(named.rootfs(content, &matcher).await.unwrap(), diff_ids);
    assert_eq!(rootfs(content, &settings).await.unwrap(), diff_ids);
    let platform = config_platform(content, &settings).await.unwrap();
    assert_eq!(platform, "linux/arm64".parse().unwrap());
    let total = root.size + arm.size + settings.size + layer.size;
    assert_eq!(named.size(content, &matcher).await.unwrap(), total);

    let huge = Descriptor {
        size: u64::MAX,
        ..layer
    };
    let root = support::manifest(&store, settings.clone(), &[huge]).await;
    let error = size(content, &root, &matcher).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
    let error = image_config(content, &root).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn layers_and_diff_ids_must_pair() {
    let store = store();
    let root = image(&store, "linux/amd64").await;
    let document = cas_core::dispatch::document(&*store.content, &root).await;
    let Ok(Document::Manifest(manifest)) = document else {
        panic!("expected a manifest");
    };
    let config = image_config(&*store.content, &manifest.config)
        .await
        .unwrap();
    let pairs = layers(&manifest, &config).unwrap();
    assert_eq!(
        pairs,
        [(manifest.layers[0].clone(), manifest.layers[0].digest)]
    );
    let mut more = config.clone();
    more.diff_ids.push(Digest::sha256(b""));
    let fewer = ImageConfig {
        diff_ids: Vec::new(),
        ..config.clone()
    };
    let other = ImageConfig {
        rootfs_type: "overlay".into(),
        ..config.clone()
    };
    let empty = Manifest {
        layers: Vec::new(),
        ..*manifest.clone()
    };
    assert_eq!(layers(&empty, &fewer).unwrap(), []);
    for (manifest, wrong) in [
        (&empty, &config),
        (&manifest, &more),
        (&manifest, &fewer),
        (&manifest, &other),
    ] {
        let error = layers(manifest, wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn configurations_are_read_within_bounds() {
    let scratch = br#"{"os":"linux","architecture":"x86_64","rootfs":{"type":"layers","diff_ids":null},"x":1}"#;
    let config = ImageConfig::parse(scratch).unwrap();
    assert!(config.diff_ids.is_empty() && config.platform.architecture == "amd64");
    let many = vec![Digest::sha256(b""); cas_core::limit::LAYERS + 1];
    let many = serde_json::json!({ "rootfs": { "type": "layers", "diff_ids": many } });
    for bad in [
        b"[]".to_vec(),
        b"{".to_vec(),
        br#"{"rootfs":{"diff_ids":["sha256:../x"]}}"#.to_vec(),
        "[".repeat(1000).into_bytes(),
        many.to_string().into_bytes(),
    ] {
        assert_eq!(
            ImageConfig::parse(&bad).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
    }
}
