//! A collection keeps every gc root of an image store, with or without a name.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use cas_core::compose::{Counters, observe};
use cas_core::content::IngestStatus;
use cas_core::gc::{GcOptions, Reason, collect, explain};
use cas_core::image::{Reference, Root};
use cas_core::labels::gc_ref_referrer;
use cas_core::lease::LeaseGuard;
use cas_core::records::{BlobRecord, Resource};
use cas_core::testing::fault::{Plan, faulty};
use cas_core::{Descriptor, ErrorKind, Image, ImageStore, MediaType, Result, Store};
use serde_json::json;

mod support;
use support::wrapped::{Flaw, Wrapped};
use support::{config, image, index, parts, put, store};

/// An image store that also lists `entry`, which has no name.
struct WithEntry {
    images: Arc<dyn ImageStore>,
    entry: Descriptor,
}

#[async_trait]
impl ImageStore for WithEntry {
    async fn get(&self, name: &Reference) -> Result<Option<Image>> {
        self.images.get(name).await
    }
    async fn list(&self, filters: &[&str]) -> Result<Vec<Image>> {
        self.images.list(filters).await
    }
    async fn roots(&self) -> Result<Vec<Root>> {
        let mut roots = self.images.roots().await?;
        roots.push(Root::unnamed(self.entry.clone()));
        Ok(roots)
    }
    async fn create(&self, image: Image) -> Result<Image> {
        self.images.create(image).await
    }
    async fn update(&self, image: Image, fieldpaths: &[&str]) -> Result<Image> {
        self.images.update(image, fieldpaths).await
    }
    async fn compare_and_swap(&self, expected: &Descriptor, image: Image) -> Result<Image> {
        self.images.compare_and_swap(expected, image).await
    }
    async fn delete(&self, name: &Reference, target: Option<&Descriptor>) -> Result<()> {
        self.images.delete(name, target).await
    }
}

/// Collects two days from now, when nothing is kept because it is young. Returns the number of
/// blobs that were removed.
async fn try_collect_later(store: &Store) -> Result<usize> {
    let options = GcOptions::default().with_now(SystemTime::now() + Duration::from_hours(48));
    let removed = collect(store, &[], &options).await?;
    Ok(removed.blobs.len())
}

async fn collect_later(store: &Store) -> usize {
    try_collect_later(store).await.unwrap()
}

#[tokio::test]
async fn an_entry_without_a_name_is_kept_and_all_below_it() {
    let plain = store();
    let [entry, named, other] = ["linux/amd64", "linux/arm64", "linux/s390x"];
    let entry = image(&plain, entry).await;
    let named = Image::new("a".parse().unwrap(), image(&plain, named).await);
    image(&plain, other).await;
    plain.images.create(named).await.unwrap();
    let images = Arc::new(WithEntry {
        images: plain.images.clone(),
        entry: entry.clone(),
    });
    let listing = Store {
        images,
        ..plain.clone()
    };
    let wrapped = faulty(&observe(listing, Arc::new(Counters::new())), &Plan::new());

    assert_eq!(collect_later(&wrapped).await, 3, "the third image");
    let later = SystemTime::now() + Duration::from_hours(48);
    let resource = Resource::Content(entry.digest);
    let why = explain(&wrapped, &[], &resource, later).await.unwrap();
    assert_eq!(why.paths.len(), 1);
    assert_eq!(why.paths[0].reason, Reason::Unnamed);
    assert_eq!(why.until, None);

    assert_eq!(collect_later(&plain).await, 3, "nothing lists the entry");
    assert_eq!(plain.images.roots().await.unwrap().len(), 1);
}

/// What another program may have written into an entry.
const WRONG: [fn(&mut Descriptor); 5] = [
    |entry| entry.size += 1,
    |entry| entry.size = 1 << 40,
    |entry| entry.media_type = MediaType::OCI_INDEX,
    |entry| entry.data = Some("e30=".to_owned()),
    |entry| entry.data = Some("?".to_owned()),
];

/// The record of the content states neither its type nor its children, as after `cas blob add`.
#[tokio::test]
async fn a_wrong_entry_of_content_without_recorded_children_keeps_all_below_it() {
    for (case, wrong) in WRONG.into_iter().enumerate() {
        let plain = store();
        let layer = put(&plain, MediaType::OCI_LAYER, b"layer").await;
        let config = config(&plain, "linux/amd64", &[layer.digest]).await;
        let manifest = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
            "config": config, "layers": [layer]});
        let stored = put(&plain, MediaType::BYTES, manifest.to_string().as_bytes()).await;
        image(&plain, "linux/arm64").await;
        let mut entry = Descriptor {
            media_type: MediaType::OCI_MANIFEST,
            ..stored
        };
        wrong(&mut entry);
        let listing = Store {
            images: Arc::new(WithEntry {
                images: plain.images.clone(),
                entry,
            }),
            ..plain.clone()
        };
        assert_eq!(collect_later(&listing).await, 3, "the other image, {case}");
        assert_eq!(collect_later(&plain).await, 3, "{case}");
    }
}

#[tokio::test]
async fn an_entry_with_a_wrong_descriptor_is_kept_and_all_below_it() {
    for (case, wrong) in WRONG.into_iter().enumerate() {
        let plain = store();
        let mut entry = image(&plain, "linux/amd64").await;
        image(&plain, "linux/arm64").await;
        wrong(&mut entry);
        let images = Arc::new(WithEntry {
            images: plain.images.clone(),
            entry: entry.clone(),
        });
        let listing = Store {
            images,
            ..plain.clone()
        };
        assert_eq!(collect_later(&listing).await, 3, "the other image, {case}");
        // Without the document, nothing tells what it lists.
        assert_eq!(collect_later(&plain).await, 3, "{case}");
        assert_eq!(collect_later(&listing).await, 0, "{case}");
    }
}

/// No repair can make such content valid, unless its bytes are damaged.
#[tokio::test]
async fn content_that_is_not_a_valid_document_stops_a_collection_only_if_it_is_damaged() {
    for text in ["{}", "text", r#"{"schemaVersion":1,"fsLayers":[]}"#] {
        let plain = store();
        let stored = put(&plain, MediaType::BYTES, text.as_bytes()).await;
        image(&plain, "linux/arm64").await;
        let entry = Descriptor {
            media_type: MediaType::OCI_MANIFEST,
            ..stored
        };
        let images = Arc::new(WithEntry {
            images: plain.images.clone(),
            entry: entry.clone(),
        });
        let listing = Store {
            images,
            ..plain.clone()
        };
        let mut content = Wrapped::new(&plain);
        content.damaged = Some((entry.digest, Flaw::First));
        let error = try_collect_later(&content.of(&listing)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{text}: {error}");
        assert_eq!(collect_later(&listing).await, 3, "the image, {text}");
        let kept = plain.content.stat(&entry.digest).await.unwrap();
        assert!(kept.is_some(), "{text}");
    }
}

/// A repair deletes a damaged record before it makes the record again. Until then, the record of
/// the index above still lists the document. A job that pins the image meanwhile makes a record
/// that lists nothing.
#[tokio::test]
async fn a_document_that_has_lost_its_record_keeps_all_below_it() {
    for is_pinned in [false, true] {
        let store = store();
        let below = image(&store, "linux/amd64").await;
        let nested = index(&store, std::slice::from_ref(&below)).await;
        let top = index(&store, std::slice::from_ref(&nested)).await;
        let referrer = image(&store, "linux/s390x").await;
        let keep = |record: Option<BlobRecord>| {
            let mut record = record.unwrap();
            let (key, value) = (gc_ref_referrer(&referrer.digest), referrer.digest);
            record.labels.insert(key, value.to_string());
            Ok(record)
        };
        store.blobs().update(&top.digest, keep).await.unwrap();
        let named = Image::new("a".parse().unwrap(), top.clone());
        store.images.create(named).await.unwrap();
        image(&store, "linux/arm64").await;
        for lost in [&below, &nested, &referrer] {
            assert!(store.blobs().remove(&lost.digest).await.unwrap());
        }
        if is_pinned {
            let guard = LeaseGuard::begin(&store, "export").await.unwrap();
            guard.pin_tree(&top).await.unwrap();
            guard.finish().await.unwrap();
        }
        assert_eq!(collect_later(&store).await, 3, "the other image");
        for manifest in [&below, &referrer] {
            for part in parts(&store, manifest).await {
                assert!(store.present(&part).await.unwrap(), "{is_pinned}");
            }
        }
    }
}

/// A program can set such a time on the file of an ingest.
#[tokio::test]
async fn an_ingest_of_the_last_second_is_kept() {
    let plain = store();
    let mut content = Wrapped::new(&plain);
    content.listed = Some(IngestStatus {
        key: "key".to_owned(),
        offset: 1,
        updated_at: SystemTime::UNIX_EPOCH + Duration::from_secs(i64::MAX as u64),
    });
    let removed = collect(&content.of(&plain), &[], &GcOptions::default()).await;
    assert_eq!(removed.unwrap().ingests, []);
}
