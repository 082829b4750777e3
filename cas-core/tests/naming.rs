//! What a job that fails leaves of the names that it wrote, and what `put` accepts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cas_core::content::Durability;
use cas_core::image::{Image, Reference};
use cas_core::lease::LeaseGuard;
use cas_core::testing::fault::{Fault, Plan, Side, faulty};
use cas_core::{ContentExt, Descriptor, Digest, ErrorKind, ImageStore, MediaType, Result, Store};

mod support;
use support::{image, index, manifest, put, store};

/// A function to call before a name is created. If it fails, the name is not created.
type Hook = Box<dyn Fn(&Image) -> Result<()> + Send + Sync>;

/// Names, and the function to call before a name is created.
struct Hooked {
    inner: Arc<dyn ImageStore>,
    hook: Hook,
}

#[async_trait]
impl ImageStore for Hooked {
    async fn get(&self, name: &Reference) -> Result<Option<Image>> {
        self.inner.get(name).await
    }

    async fn list(&self, filters: &[&str]) -> Result<Vec<Image>> {
        self.inner.list(filters).await
    }

    async fn create(&self, image: Image) -> Result<Image> {
        (self.hook)(&image)?;
        self.inner.create(image).await
    }

    async fn update(&self, image: Image, fieldpaths: &[&str]) -> Result<Image> {
        self.inner.update(image, fieldpaths).await
    }

    async fn compare_and_swap(&self, expected: &Descriptor, image: Image) -> Result<Image> {
        self.inner.compare_and_swap(expected, image).await
    }

    async fn delete(&self, name: &Reference, target: Option<&Descriptor>) -> Result<()> {
        self.inner.delete(name, target).await
    }
}

fn of(name: &str, target: &Descriptor) -> Image {
    Image::new(name.parse().unwrap(), target.clone())
}

fn refused() -> Result<()> {
    Err(cas_core::Error::new(ErrorKind::Full, "refused"))
}

/// Names `new` as "old", which exists, and as "new", whose creation fails after `hook` was called.
async fn fail_to_name(store: &Store, new: &Descriptor, hook: impl Fn() + Send + Sync + 'static) {
    let hooked = Hooked {
        inner: store.images.clone(),
        hook: Box::new(move |_| {
            hook();
            refused()
        }),
    };
    let store = Store {
        images: Arc::new(hooked),
        ..store.clone()
    };
    let guard = LeaseGuard::begin(&store, "test").await.unwrap();
    guard.pin_tree(new).await.unwrap();
    let images = vec![of("old", new), of("new", new)];
    let error = guard.name(images, &["target"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
}

async fn target(store: &Store, name: &str) -> Option<Descriptor> {
    let found = store.images.get(&name.parse().unwrap()).await.unwrap();
    found.map(|image| image.target)
}

#[tokio::test]
async fn a_name_whose_old_content_cannot_be_pinned_is_restored() {
    use ErrorKind::{Busy, Conflict, Corrupt, Denied, Internal, Unavailable};
    for kind in [Busy, Conflict, Corrupt, Denied, Internal, Unavailable] {
        for side in [Side::Before, Side::After] {
            let plan = Plan::new();
            let store = faulty(&store(), &plan);
            let old = image(&store, "linux/amd64").await;
            let new = image(&store, "linux/arm64").await;
            store.images.create(of("old", &old)).await.unwrap();
            let planned = Arc::clone(&plan);
            let fail_next = move || planned.fail_nth(1, Fault { kind, side });
            fail_to_name(&store, &new, fail_next).await;
            assert_eq!(plan.end(), ["commit"], "the pin failed");
            assert_eq!(target(&store, "old").await, Some(old), "{kind:?}");
            assert_eq!(target(&store, "new").await, None);
        }
    }
}

#[tokio::test]
async fn a_name_whose_old_content_is_gone_is_deleted() {
    for lost in 0..4 {
        let store = store();
        let layer = put(&store, MediaType::OCI_LAYER, b"layer").await;
        let config = support::config(&store, "linux/amd64", &[layer.digest]).await;
        let below = manifest(&store, config.clone(), std::slice::from_ref(&layer)).await;
        let old = index(&store, std::slice::from_ref(&below)).await;
        let new = image(&store, "linux/arm64").await;
        store.images.create(of("old", &old)).await.unwrap();
        let lost = [&old, &below, &config, &layer][lost].digest;
        let content = store.content.clone();
        let lose = move || assert!(cas_core::pool::wait(content.remove(&lost)).unwrap());
        fail_to_name(&store, &new, lose).await;
        assert_eq!(target(&store, "old").await, None, "{lost}");
    }
}

/// Another job creates the name after it was looked up and before it is created here.
#[tokio::test]
async fn the_content_of_a_name_that_another_job_made_is_pinned_before_it_is_replaced() {
    let store = store();
    let old = image(&store, "linux/amd64").await;
    let new = image(&store, "linux/arm64").await;
    let leases = Arc::new(Mutex::new(None));
    let (plain, made, seen) = (store.clone(), of("name", &old), Arc::clone(&leases));
    let hook = move |image: &Image| {
        if image.name == made.name {
            cas_core::pool::wait(plain.images.create(made.clone())).unwrap();
            return Ok(());
        }
        let record = cas_core::pool::wait(plain.blobs().load(&made.target.digest));
        *seen.lock().unwrap() = Some(record.unwrap().unwrap().0.leases);
        refused()
    };
    let racing = Store {
        images: Arc::new(Hooked {
            inner: store.images.clone(),
            hook: Box::new(hook),
        }),
        ..store.clone()
    };
    let guard = LeaseGuard::begin(&racing, "test").await.unwrap();
    let id = guard.id().to_owned();
    let images = vec![of("name", &new), of("other", &new)];
    let error = guard.name(images, &["target"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    let leases = leases.lock().unwrap().take().unwrap();
    assert!(leases.contains(&id), "the old content was not pinned");
    assert_eq!(target(&store, "name").await, Some(old));
}

#[tokio::test]
async fn bytes_that_do_not_match_their_descriptor_are_refused_and_nothing_is_recorded_of_them() {
    let right = "the bytes";
    let descriptor = Descriptor::of(MediaType::OCI_LAYER, right.as_bytes());
    let sized = |size| Descriptor {
        size,
        ..descriptor.clone()
    };
    for is_stored in [false, true] {
        for (descriptor, data) in [
            (descriptor.clone(), "THE BYTES"),
            (descriptor.clone(), "the byte"),
            (descriptor.clone(), ""),
            (descriptor.clone(), "the bytes, and more"),
            (sized(8), right),
            (sized(10), right),
        ] {
            let store = store();
            if is_stored {
                store.content.put(right.into()).await.unwrap();
            }
            let guard = LeaseGuard::begin(&store, "test").await.unwrap();
            for under_lease in [false, true] {
                let (data, relaxed) = (data.into(), Durability::Relaxed);
                let outcome = match under_lease {
                    true => guard.put(&descriptor, data, relaxed).await,
                    false => store.put(&descriptor, data, relaxed).await,
                };
                let kind = outcome.map_err(|error| error.kind());
                assert_eq!(kind, Err(ErrorKind::Corrupt), "{is_stored} {under_lease}");
            }
            let record = store.blobs().load(&descriptor.digest).await.unwrap();
            assert!(record.is_none(), "{is_stored}: {record:?}");
            let stat = store.content.stat(&Digest::sha256(right.as_bytes())).await;
            assert_eq!(stat.unwrap().is_some(), is_stored);
        }
    }
}
