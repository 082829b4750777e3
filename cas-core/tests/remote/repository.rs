//! A store as the remote of another store.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cas_core::blob::list;
use cas_core::gc::{GcOptions, collect};
use cas_core::lease::UNLEASED_TTL;
use cas_core::platform::Platforms;
use cas_core::pool;
use cas_core::records::BlobRecord;
use cas_core::transfer::{
    Content, DocumentName, Fetcher, PullOptions, PushOptions, Pusher, StoreRepository, pull, push,
};
use cas_core::{Descriptor, Digest, ErrorKind, Image, ImageStoreExt, MediaType, Owner, Store};
use futures_util::stream;

use super::pull::is_whole;
use crate::support::{index, named, parts, store, strict};

const PLATFORM: &str = "linux/amd64";

async fn named_index(store: &Store, name: &str) -> Descriptor {
    let manifest = named(store, PLATFORM).await;
    let root = index(store, &[manifest]).await;
    let image = Image::new(name.parse().unwrap(), root.clone());
    store.images.put(image).await.unwrap();
    root
}

fn repository(store: &Store, name: &str) -> StoreRepository {
    StoreRepository::new(store, &name.parse().unwrap())
}

async fn collect_later(store: &Store) -> usize {
    let later = SystemTime::now() + 2 * UNLEASED_TTL;
    let options = GcOptions::default().with_now(later);
    collect(store, &[], &options).await.unwrap().blobs.len()
}

#[tokio::test]
async fn one_store_pulls_from_another_by_name_and_by_digest() {
    let from = store();
    let root = named_index(&from, "app:1").await;
    for name in [
        "app:1".to_owned(),
        format!("app:1@{}", root.digest),
        format!("other@{}", root.digest),
    ] {
        let to = strict();
        let options = PullOptions::default().with_platforms(Platforms::All);
        let served = repository(&from, &name);
        let pulled = pull(&to, &served, "copy".parse().unwrap(), &options);
        assert_eq!(pulled.await.unwrap().target.digest, root.digest, "{name}");
        assert!(is_whole(&to, &root, PLATFORM).await, "{name}");
    }
    let layer = parts(&from, &named(&from, PLATFORM).await).await.remove(1);
    for (name, kind) in [
        ("absent".to_owned(), ErrorKind::NotFound),
        (
            format!("app:1@{}", Digest::sha256(b"absent")),
            ErrorKind::NotFound,
        ),
        ("app:1@sha256:0123".to_owned(), ErrorKind::NotFound),
        (
            format!("app:1@{}", layer.digest),
            ErrorKind::InvalidArgument,
        ),
    ] {
        let error = repository(&from, &name).resolve().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(
            error.to_string().contains(&name[name.len() - 6..]),
            "{error}"
        );
    }
}

#[tokio::test]
async fn what_is_served_stays_for_as_long_as_the_repository() {
    let from = store();
    let root = named_index(&from, "app").await;
    let blobs = list(&from).await.unwrap().blobs;
    for blob in &blobs {
        // As if a pull had stored the blob under a lease: a collection does not spare it as young.
        let age = |found: Option<BlobRecord>| {
            let mut record = found.unwrap();
            record.expires_at = None;
            Ok(record)
        };
        from.blobs().update(&blob.digest, age).await.unwrap();
    }
    let repository = repository(&from, "app");
    assert_eq!(repository.resolve().await.unwrap(), root);
    from.images.remove(&"app".parse().unwrap()).await.unwrap();
    let collected = async || {
        let removed = collect(&from, &[], &GcOptions::default()).await.unwrap();
        removed.blobs.len()
    };
    assert_eq!(collected().await, 0);
    drop(repository);
    assert!(pool::wait_until_idle(Duration::from_secs(60)));
    assert_eq!(collected().await, blobs.len());
}

#[tokio::test]
async fn one_store_pushes_to_another_and_the_name_keeps_all_of_it() {
    let from = store();
    let root = named_index(&from, "app").await;
    for to in [strict(), store()] {
        let options = PushOptions::default().with_platforms(Platforms::All);
        let pushed = push(&from, &repository(&to, "pushed"), &root, &options)
            .await
            .unwrap();
        assert_eq!(pushed, root);
        assert_eq!(
            to.images
                .get(&"pushed".parse().unwrap())
                .await
                .unwrap()
                .unwrap()
                .target,
            root
        );
        assert_eq!(collect_later(&to).await, 0);
        assert!(is_whole(&to, &root, PLATFORM).await);
        // Pushes again, when all blobs are there, and then under another name.
        for name in ["pushed", "second"] {
            push(&from, &repository(&to, name), &root, &options)
                .await
                .unwrap();
        }
        assert_eq!(to.images.list(&[]).await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn a_push_of_wrong_bytes_or_under_a_wrong_digest_leaves_no_name() {
    let (from, to) = (store(), store());
    let root = named_index(&from, "app").await;
    let wrong = format!("app@{}", Digest::sha256(b"another"));
    let pushed = push(
        &from,
        &repository(&to, &wrong),
        &root,
        &PushOptions::default(),
    )
    .await;
    assert_eq!(pushed.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let right = format!("app@{}", root.digest);
    push(
        &from,
        &repository(&to, &right),
        &root,
        &PushOptions::default(),
    )
    .await
    .unwrap();
    let names: Vec<_> = to.images.list(&[]).await.unwrap();
    assert_eq!(names.len(), 1);
    assert_eq!(names[0].name.as_str(), right);

    let pusher = repository(&to, "new");
    let blob = Descriptor::of(MediaType::OCI_LAYER, b"right");
    let content: Content = Arc::new(|_| Box::pin(stream::iter([Ok("wrong".into())])));
    let error = pusher.push(&blob, content).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(to.content.stat(&blob.digest).await.unwrap(), None);
    assert_eq!(to.content.ingests().await.unwrap(), []);
    let garbage = Descriptor::of(MediaType::OCI_MANIFEST, b"{}");
    let error = pusher
        .push_document(&garbage, "{}".into(), DocumentName::Root)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(to.images.list(&[]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_owner_serves_and_receives_their_own_names() {
    let all = store();
    let owner = |name: &str| name.parse::<Owner>().unwrap();
    let one = all.for_owner(&owner("one")).unwrap();
    let two = all.for_owner(&owner("two")).unwrap();
    let root = named_index(&one, "app").await;
    let error = repository(&two, "app").resolve().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let there = store();
    let name = format!("app@{}", root.digest);
    let options = PullOptions::default().with_platforms(Platforms::All);
    let served = repository(&one, &name);
    let pulled = pull(&there, &served, "app".parse().unwrap(), &options);
    pulled.await.unwrap();
    let options = PushOptions::default();
    push(&there, &repository(&two, "own"), &root, &options)
        .await
        .unwrap();
    let own = two.images.list(&[]).await.unwrap();
    assert_eq!(own.len(), 1);
    assert_eq!(own[0].owner, Some(owner("two")));
    let taken = push(&there, &repository(&two, "app"), &root, &options).await;
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::Denied);
}
