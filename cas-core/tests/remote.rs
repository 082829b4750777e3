//! Pulls and pushes between stores, without a registry.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::content::Durability;
use cas_core::gc::{GcOptions, collect};
use cas_core::image::RecordImages;
use cas_core::image::check;
use cas_core::lease::LEASE_TTL;
use cas_core::platform::{All, Choice, Only};
use cas_core::progress::{Progress, Silent};
use cas_core::testing::strict::StrictStore;
use cas_core::transfer::{Fetcher, Pieces, Pusher};
use cas_core::transfer::{pull, push};
use cas_core::{
    ContentExt, Descriptor, Digest, Error, ErrorKind, MediaType, Platform, Result, Store,
};
use futures_util::{StreamExt, stream};

mod support;
use support::{image, index, named, parts, put, store};

/// A store as a remote with one image.
struct Remote {
    store: Store,
    root: Mutex<Descriptor>,
    /// A store that is collected before every fetch.
    collected: Option<Store>,
    fetched: AtomicUsize,
    pushed: Mutex<Vec<Digest>>,
}

impl Remote {
    fn new(store: &Store, root: &Descriptor) -> Self {
        Remote {
            store: store.clone(),
            root: Mutex::new(root.clone()),
            collected: None,
            fetched: AtomicUsize::new(0),
            pushed: Mutex::default(),
        }
    }
}

#[async_trait]
impl Fetcher for Remote {
    async fn resolve(&self) -> Result<Descriptor> {
        Ok(self.root.lock().unwrap().clone())
    }

    async fn fetch(&self, descriptor: &Descriptor, start: u64) -> Result<Pieces> {
        self.fetched.fetch_add(1, Ordering::SeqCst);
        if let Some(store) = &self.collected {
            // Late enough that a lease which is not extended would expire during the pull.
            let options = GcOptions {
                now: SystemTime::now() + LEASE_TTL / 2,
                ..GcOptions::default()
            };
            collect(store, &[], &options).await?;
        }
        let reader = self.store.content.open(&descriptor.digest).await?;
        let reader = reader.ok_or_else(|| Error::not_found("not in the remote"))?;
        let data = reader.read_at(start, usize::MAX >> 1).await?;
        let pieces: Vec<_> = data.chunks(3).map(Bytes::copy_from_slice).collect();
        Ok(stream::iter(pieces.into_iter().map(Ok)).boxed())
    }
}

#[async_trait]
impl Pusher for Remote {
    async fn exists(&self, descriptor: &Descriptor) -> Result<bool> {
        self.store.present(descriptor).await
    }

    async fn push(&self, descriptor: &Descriptor, mut content: Pieces) -> Result<()> {
        let mut data = Vec::new();
        while let Some(piece) = content.next().await.transpose()? {
            data.extend_from_slice(&piece);
        }
        self.pushed.lock().unwrap().push(descriptor.digest);
        let data = Bytes::from(data);
        self.store.put(descriptor, data, Durability::Full).await
    }

    async fn push_document(&self, descriptor: &Descriptor, data: Bytes, root: bool) -> Result<()> {
        self.push(descriptor, stream::iter([Ok(data)]).boxed())
            .await?;
        if root {
            *self.root.lock().unwrap() = descriptor.clone();
        }
        Ok(())
    }
}

fn silent() -> Arc<dyn Progress> {
    Arc::new(Silent)
}

fn strict() -> Store {
    let store = Arc::new(StrictStore::new());
    Store {
        content: store.clone(),
        records: store.clone(),
        images: Arc::new(RecordImages::new(store)),
    }
}

async fn pulled(to: &Store, remote: &Remote, choice: &Choice) -> Result<Descriptor> {
    let name = "remote.test/app:1".parse().unwrap();
    let image = pull(to, remote, name, choice, None, &silent()).await?;
    Ok(image.target)
}

async fn is_whole(store: &Store, root: &Descriptor, platform: &str) -> bool {
    let only = Only::new(&platform.parse::<Platform>().unwrap());
    let found = check(&*store.content, root, &only).await.unwrap();
    found.is_complete()
}

/// Checks that the children that are recorded as absent were never pulled: a blob that was pulled
/// and then lost is not recorded as absent.
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
async fn made(store: &Store) -> Descriptor {
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
        let mut remote = Remote::new(&from, &root);
        remote.collected = Some(to.clone());
        for fetched in [11, 11] {
            assert_eq!(pulled(&to, &remote, &Choice::All).await.unwrap(), root);
            assert_eq!(remote.fetched.load(Ordering::SeqCst), fetched);
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
    let remote = Remote::new(&from, &root);
    for (platform, later) in [
        ("linux/s390x", "linux/arm64"),
        ("linux/arm64", "linux/amd64"),
    ] {
        let choice = Choice::One(platform.parse().unwrap());
        pulled(&to, &remote, &choice).await.unwrap();
        assert!(is_whole(&to, &root, platform).await);
        assert!(!is_whole(&to, &root, later).await);
        assert_absent_is_what_was_never_pulled(&to, &root).await;
    }
    let choice = Choice::One("linux/riscv64".parse().unwrap());
    let error = pulled(&to, &remote, &choice).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().contains("linux/amd64, linux/arm64"),
        "{error}"
    );
}

#[tokio::test]
async fn a_blob_that_was_lost_is_fetched_again() {
    let (from, to) = (store(), store());
    let root = image(&from, &Platform::host().to_string()).await;
    let remote = Remote::new(&from, &root);
    pulled(&to, &remote, &Choice::Own).await.unwrap();
    let layer = parts(&from, &root).await.remove(1);
    assert!(to.content.remove(&layer.digest).await.unwrap());
    pulled(&to, &remote, &Choice::Own).await.unwrap();
    assert_eq!(remote.fetched.load(Ordering::SeqCst), 4);
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
        let error = pulled(&to, &Remote::new(&from, &root), &Choice::All).await;
        assert_eq!(error.unwrap_err().kind(), kind);
        assert!(to.images.list(&[]).await.unwrap().is_empty());
        collect(&to, &[], &GcOptions::default()).await.unwrap();
        assert!(to.content.list(None, 1).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_push_sends_children_first_and_skips_what_the_remote_has() {
    let (from, there) = (store(), store());
    let root = made(&from).await;
    let remote = Remote::new(&there, &layer_of(&from, &root).await);
    push(&from, &remote, &root, &Choice::All, &silent())
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
    push(&from, &remote, &root, &Choice::Own, &silent())
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
    pulled(&sparse, &Remote::new(&from, &root), &Choice::Own)
        .await
        .unwrap();
    let remote = Remote::new(&there, &root);
    let pushed = push(&sparse, &remote, &root, &Choice::Own, &silent())
        .await
        .unwrap();
    assert_eq!(pushed.digest, own.digest);
    assert_eq!(remote.pushed.lock().unwrap().len(), 3);
    let error = push(&sparse, &remote, &root, &Choice::All, &silent())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let other = Choice::One("linux/riscv64".parse().unwrap());
    let error = push(&sparse, &remote, &root, &other, &silent())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(remote.pushed.lock().unwrap().len(), 3);
}
