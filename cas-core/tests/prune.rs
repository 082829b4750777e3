//! A bounded cache: which images a pruning removes, how much that frees, and what it never touches.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use cas_core::gc::{GcOptions, PruneOptions, Pruned, collect, prune};
use cas_core::image::Reference;
use cas_core::lease::{LeaseGuard, UNLEASED_TTL, add_to_lease};
use cas_core::records::{Lease, Resource};
use cas_core::testing::fault::{Fault, Plan, Side, faulty};
use cas_core::{
    ContentExt, Descriptor, ErrorKind, Image, ImageStore, MediaType, Owner, Result, Store,
};

mod support;
use support::{config, manifest, parts, put, store};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Size of a layer in bytes.
const LAYER: u64 = 1000;

/// Images that were used on different days, with layers of [`LAYER`] bytes.
struct Cache {
    store: Store,
    uses: BTreeMap<String, SystemTime>,
    /// A time at which no stored content is young.
    now: SystemTime,
}

impl Cache {
    fn new() -> Self {
        Cache {
            store: store(),
            uses: BTreeMap::new(),
            now: SystemTime::now() + 100 * DAY,
        }
    }

    /// Adds an image with these layers, which was last used so many days before `now`. Returns its
    /// target.
    async fn add(&mut self, name: &str, layers: &[&str], days: u32) -> Descriptor {
        let target = content(&self.store, name, layers).await;
        let image = Image::new(name.parse().unwrap(), target.clone());
        self.store.images.create(image).await.unwrap();
        self.uses.insert(name.to_owned(), self.now - days * DAY);
        target
    }

    fn options(&self) -> PruneOptions {
        PruneOptions::default().with_now(self.now)
    }

    async fn prune(&self, options: PruneOptions) -> Pruned {
        prune(&self.store, &[], &self.uses, &options).await.unwrap()
    }

    async fn names(&self) -> Vec<String> {
        let images = self.store.images.list(&[]).await.unwrap();
        images.iter().map(|image| image.name.to_string()).collect()
    }

    /// Returns the bytes of all blobs.
    async fn bytes(&self) -> u64 {
        let blobs = self.store.content.list(None, 1000).await.unwrap();
        blobs.iter().map(|blob| blob.size).sum()
    }
}

async fn content(store: &Store, name: &str, layers: &[&str]) -> Descriptor {
    let mut stored = Vec::new();
    for layer in layers {
        let data = format!("{layer:width$}", width = LAYER as usize);
        stored.push(put(store, MediaType::OCI_LAYER, data.as_bytes()).await);
    }
    let config = config(store, &format!("linux/{name}"), &[]).await;
    manifest(store, config, &stored).await
}

fn names(pruned: &Pruned) -> Vec<&str> {
    let images = pruned.images.iter();
    images.map(|image| image.name.as_str()).collect()
}

#[tokio::test]
async fn least_recently_used_images_go_until_the_size_fits_and_shared_layers_count_once() {
    let mut cache = Cache::new();
    for (name, own, days) in [("a", "1", 1), ("b", "2", 4), ("c", "3", 3), ("d", "4", 2)] {
        cache.add(name, &["base", own], days).await;
    }
    let before = cache.bytes().await;
    // Removing one image is not enough. The shared layer `base` stays.
    let most = before - 2 * LAYER;
    let pruned = cache.prune(cache.options().with_max_size(most)).await;
    assert_eq!(names(&pruned), ["b", "c"]);
    assert_eq!(cache.names().await, ["a", "d"]);
    let after = cache.bytes().await;
    assert_eq!(pruned.freed, before - after);
    assert_eq!(pruned.removed.bytes(), before - after);
    assert!(after <= most && after + LAYER + 1000 > most, "{after}");
    assert_eq!((pruned.later, pruned.missing), (0, 0));
    assert_eq!(pruned.images[0].used_at, cache.now - 4 * DAY);
    assert!(pruned.images[0].bytes > LAYER);
    // The size fits now, so another pruning removes nothing.
    let again = cache.prune(cache.options().with_max_size(most)).await;
    assert_eq!(again, Pruned::default());
}

#[tokio::test]
async fn an_image_is_not_removed_if_the_bound_is_met_without_it() {
    let mut cache = Cache::new();
    // `old` frees nothing: `new` has the same content. Once `large` is removed, `small` need not
    // go.
    let target = cache.add("new", &["1"], 1).await;
    let image = Image::new("old".parse().unwrap(), target);
    cache.store.images.create(image).await.unwrap();
    cache.uses.insert("old".into(), cache.now - 9 * DAY);
    cache.add("small", &["2"], 8).await;
    cache.add("large", &["3", "4", "5"], 7).await;
    let most = cache.bytes().await - 2 * LAYER;
    let pruned = cache.prune(cache.options().with_max_size(most)).await;
    assert_eq!(names(&pruned), ["large"]);
    assert_eq!(cache.names().await, ["new", "old", "small"]);
}

/// `large` frees less when it turns out that `small`, which shares a layer with it, can stay.
#[tokio::test]
async fn the_bytes_of_an_image_do_not_include_what_an_image_that_stays_refers_to() {
    let mut cache = Cache::new();
    cache.add("small", &["1", "shared"], 9).await;
    cache.add("large", &["2", "3", "4", "shared"], 8).await;
    let most = cache.bytes().await - 3 * LAYER;
    let pruned = cache.prune(cache.options().with_max_size(most)).await;
    assert_eq!(names(&pruned), ["large"]);
    assert_eq!(pruned.images[0].bytes, pruned.freed);
}

#[tokio::test]
async fn old_images_go_and_the_most_recently_used_stay_in_any_case() {
    let mut cache = Cache::new();
    for (name, days) in [("a", 10), ("b", 20), ("c", 30), ("d", 40)] {
        cache.add(name, &[name], days).await;
    }
    let age = cache.options().with_older_than(30 * DAY);
    let pruned = cache.prune(age.clone()).await;
    // An image of exactly thirty days is not older than thirty days.
    assert_eq!(names(&pruned), ["d"]);
    let age = age.with_older_than(5 * DAY).with_keep_last(2);
    assert_eq!(names(&cache.prune(age).await), ["c"]);
    let size = cache.options().with_max_size(0).with_keep_last(1);
    let pruned = cache.prune(size).await;
    assert_eq!(names(&pruned), ["b"]);
    assert_eq!(pruned.missing, cache.bytes().await);
    assert_eq!(cache.names().await, ["a"]);
    cache.add("e", &["e"], 1).await;
    let last = cache.options().with_keep_last(1);
    assert_eq!(names(&cache.prune(last).await), ["a"]);
}

#[tokio::test]
async fn an_image_that_was_not_used_counts_from_its_last_change() {
    let mut cache = Cache::new();
    cache.add("a", &["1"], 200).await;
    cache.add("b", &["2"], 1).await;
    // `a` was used 200 days before `now`, but pulled again 100 days before.
    let pruned = cache
        .prune(cache.options().with_older_than(101 * DAY))
        .await;
    assert_eq!(names(&pruned), [] as [&str; 0]);
    cache.uses.clear();
    let pruned = cache.prune(cache.options().with_older_than(99 * DAY)).await;
    assert_eq!(names(&pruned), ["a", "b"]);
}

#[tokio::test]
async fn space_is_kept_free_but_content_that_a_label_keeps_is_not_counted_as_freed() {
    let mut cache = Cache::new();
    for (name, days) in [("a", 1), ("b", 2), ("c", 3)] {
        cache.add(name, &[name], days).await;
    }
    let free = |keep| {
        let options = cache.options().with_free(500);
        options.with_keep_free(keep).with_dry_run(true)
    };
    assert_eq!(names(&cache.prune(free(500)).await), [] as [&str; 0]);
    assert_eq!(names(&cache.prune(free(1500)).await), ["c"]);
    let layer = format!("{:width$}", "c", width = LAYER as usize);
    let layer = Descriptor::of(MediaType::OCI_LAYER, layer.as_bytes());
    let root = BTreeMap::from([("containerd.io/gc.root".to_owned(), Some("x".to_owned()))]);
    cas_core::lease::change_labels(&cache.store, &layer.digest, &root)
        .await
        .unwrap();
    let pruned = cache.prune(free(1500)).await;
    // `c` frees less than a layer, so `b` goes, and then `c` may stay.
    assert_eq!(names(&pruned), ["b"]);
    assert_eq!(cache.names().await, ["a", "b", "c"]);
}

#[tokio::test]
async fn bytes_that_the_store_has_lost_do_not_count() {
    let mut cache = Cache::new();
    let target = cache.add("lost", &["1"], 9).await;
    cache.add("whole", &["2"], 8).await;
    let layer = parts(&cache.store, &target).await.remove(1);
    assert!(cache.store.content.remove(&layer.digest).await.unwrap());
    let before = cache.bytes().await;
    let fits = cache.options().with_max_size(before);
    assert_eq!(cache.prune(fits).await, Pruned::default());
    // The removal of `lost` does not free a layer.
    let free = cache.options().with_free(0).with_keep_free(LAYER);
    let pruned = cache.prune(free.with_dry_run(true)).await;
    assert_eq!(names(&pruned), ["whole"]);
    let last = cache.options().with_keep_last(1);
    let pruned = cache.prune(last).await;
    assert_eq!(names(&pruned), ["lost"]);
    let freed = before - cache.bytes().await;
    assert!(freed < LAYER, "{freed}");
    assert_eq!((pruned.freed, pruned.images[0].bytes), (freed, freed));
    assert_eq!(pruned.removed.bytes(), freed);
}

#[tokio::test]
async fn what_a_lease_or_a_job_uses_stays_and_is_reported() {
    let mut cache = Cache::new();
    let pinned = cache.add("pinned", &["base", "1"], 9).await;
    cache.add("named", &["base", "2"], 8).await;
    let unpacked = cache.add("unpacked", &["base", "3"], 7).await;
    cache.add("shares", &["base", "4"], 6).await;
    let Cache { store, .. } = &cache;
    let keep = async |id: &str, resource: Resource| {
        let lease = Lease::new("test", None);
        store.leases().create(id, &lease).await.unwrap();
        add_to_lease(store, &[], id, resource).await.unwrap();
    };
    keep("one", Resource::Content(pinned.digest)).await;
    keep("two", Resource::Image("named".into())).await;
    // An unpack pins the configuration and the layers.
    let unpacked = parts(store, &unpacked).await;
    keep("three", Resource::Content(unpacked[0].digest)).await;
    keep("four", Resource::Content(unpacked[1].digest)).await;
    let pruned = cache.prune(cache.options().with_older_than(DAY)).await;
    assert_eq!(names(&pruned), ["shares"]);
    let kept: Vec<&str> = pruned.in_use.iter().map(|name| name.as_str()).collect();
    assert_eq!(kept, ["pinned", "named", "unpacked"]);
    let pruned = cache.prune(cache.options().with_max_size(0)).await;
    assert_eq!(pruned.missing, cache.bytes().await);

    let leases = store.leases();
    assert!(leases.delete("one", "test", cache.now).await.unwrap());
    let pruned = cache.prune(cache.options().with_older_than(DAY)).await;
    assert_eq!(names(&pruned), ["pinned"]);
}

#[tokio::test]
async fn an_image_that_is_being_pulled_again_stays() {
    let mut cache = Cache::new();
    cache.now = SystemTime::now();
    let target = cache.add("a", &["1"], 9).await;
    cache.add("b", &["2"], 8).await;
    // Both names were written a moment ago.
    let options = cache.options().with_max_size(0).with_dry_run(true);
    let guard = LeaseGuard::begin(&cache.store, "pull").await.unwrap();
    guard.pin_tree(&target).await.unwrap();
    assert_eq!(names(&cache.prune(options.clone()).await), ["b"]);
    guard.finish().await.unwrap();
    assert_eq!(names(&cache.prune(options).await), ["a", "b"]);
}

#[tokio::test]
async fn young_content_is_freed_by_a_later_collection_and_the_report_says_so() {
    let mut cache = Cache::new();
    cache.now = SystemTime::now();
    cache.add("a", &["1"], 9).await;
    let bytes = cache.bytes().await;
    let pruned = cache.prune(cache.options().with_max_size(0)).await;
    assert_eq!(names(&pruned), ["a"]);
    assert_eq!((pruned.freed, pruned.later), (0, bytes));
    assert_eq!(cache.bytes().await, bytes);
    let later = GcOptions::default().with_now(cache.now + UNLEASED_TTL + DAY);
    let removed = collect(&cache.store, &[], &later).await.unwrap();
    assert_eq!(removed.bytes(), bytes);
}

#[tokio::test]
async fn names_of_other_owners_stay() {
    let mut cache = Cache::new();
    cache.add("free", &["1"], 1).await;
    let all = cache.store.clone();
    for owner in ["one", "two"] {
        let owner: Owner = owner.parse().unwrap();
        cache.store = all.for_owner(&owner).unwrap();
        cache
            .add(owner.as_str(), &[owner.as_str(), "shared"], 9)
            .await;
    }
    // `two` has opened the store.
    let none = cache.options().with_max_size(0);
    assert_eq!(names(&cache.prune(none.clone()).await), ["two"]);
    cache.store = all;
    assert_eq!(cache.names().await, ["free", "one"]);
    assert_eq!(names(&cache.prune(none).await), ["free"]);
    assert_eq!(cache.names().await, ["one"]);
    let one = cache.store.images.get(&"one".parse().unwrap()).await;
    let one = one.unwrap().unwrap();
    assert_eq!(parts(&cache.store, &one.target).await.len(), 3);
}

#[tokio::test]
async fn a_dry_run_says_the_same_and_removes_nothing() {
    let mut cache = Cache::new();
    for (name, days) in [("a", 1), ("b", 2), ("c", 3)] {
        cache.add(name, &["base", name], days).await;
    }
    let bytes = cache.bytes().await;
    let options = cache.options().with_keep_last(1);
    let mut dry = cache.prune(options.clone().with_dry_run(true)).await;
    assert_eq!((cache.names().await.len(), cache.bytes().await), (3, bytes));
    let done = cache.prune(options).await;
    assert_eq!(dry.freed, bytes - cache.bytes().await);
    dry.removed = done.removed.clone();
    assert_eq!(dry, done);
}

#[tokio::test]
async fn bounds_are_required() {
    let cache = Cache::new();
    for (options, said) in [
        (cache.options(), "bound"),
        (cache.options().with_keep_free(1), "free bytes is not known"),
    ] {
        let error = prune(&cache.store, &[], &cache.uses, &options).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(said), "{error}");
    }
}

/// A pruning may fail at any call. The remaining images are complete, and the next pruning removes
/// what is left to remove.
#[tokio::test]
async fn a_pruning_that_stops_at_any_call_loses_nothing_and_is_completed_by_the_next() {
    for side in [Side::Before, Side::After] {
        for nth in 1.. {
            let mut cache = Cache::new();
            for (name, days) in [("a", 1), ("b", 2), ("c", 3)] {
                cache.add(name, &["base", name], days).await;
            }
            let options = cache.options().with_keep_last(1);
            let plan = Plan::new();
            let fault = Fault {
                kind: ErrorKind::Unavailable,
                side,
            };
            plan.fail_nth(nth, fault);
            let failing = faulty(&cache.store, &plan);
            let outcome = prune(&failing, &[], &cache.uses, &options).await;
            let failed = plan.end();
            for name in cache.names().await {
                let image = cache.store.images.get(&name.parse().unwrap()).await;
                let target = image.unwrap().unwrap().target;
                for part in parts(&cache.store, &target).await {
                    assert!(cache.store.present(&part).await.unwrap(), "{nth}: {name}");
                }
            }
            cache.prune(options).await;
            assert_eq!(cache.names().await, ["a"], "{nth}");
            let left = cache.store.content.list(None, 1000).await.unwrap();
            assert_eq!(left.len(), 4, "{nth}");
            if failed.is_empty() {
                assert!(nth > 2);
                outcome.unwrap();
                break;
            }
        }
    }
}

/// An image store in which a job pins an image, and finds its name, right before a deletion, or in
/// which another collection removes the image right after the deletion.
struct Raced {
    store: Store,
    /// The image that the job pins; `None` for another collection.
    target: Option<Descriptor>,
    guard: Mutex<Option<LeaseGuard>>,
}

#[async_trait]
impl ImageStore for Raced {
    async fn get(&self, name: &Reference) -> Result<Option<Image>> {
        self.store.images.get(name).await
    }

    async fn list(&self, filters: &[&str]) -> Result<Vec<Image>> {
        self.store.images.list(filters).await
    }

    async fn create(&self, image: Image) -> Result<Image> {
        self.store.images.create(image).await
    }

    async fn update(&self, image: Image, fieldpaths: &[&str]) -> Result<Image> {
        self.store.images.update(image, fieldpaths).await
    }

    async fn compare_and_swap(&self, expected: &Descriptor, image: Image) -> Result<Image> {
        self.store.images.compare_and_swap(expected, image).await
    }

    async fn delete(&self, name: &Reference, target: Option<&Descriptor>) -> Result<()> {
        self.store.images.delete(name, target).await
    }

    async fn delete_unchanged(&self, seen: &[Image]) -> Result<Vec<Reference>> {
        if let Some(target) = &self.target {
            let guard = LeaseGuard::begin(&self.store, "pull").await?;
            guard.pin_tree(target).await?;
            *self.guard.lock().unwrap() = Some(guard);
        }
        let deleted = self.store.images.delete_unchanged(seen).await?;
        if self.target.is_none() {
            let later = GcOptions::default().with_now(SystemTime::now() + 100 * DAY);
            collect(&self.store, &[], &later).await?;
        }
        Ok(deleted)
    }
}

#[tokio::test]
async fn a_name_that_a_pull_has_found_meanwhile_stays() {
    let mut cache = Cache::new();
    let target = cache.add("a", &["1"], 9).await;
    cache.add("b", &["2"], 8).await;
    let raced = Arc::new(Raced {
        store: cache.store.clone(),
        target: Some(target.clone()),
        guard: Mutex::new(None),
    });
    let store = Store {
        images: raced.clone(),
        ..cache.store.clone()
    };
    // At the present time, the lease of the pull has not expired.
    let options = PruneOptions::default().with_max_size(0);
    let pruned = prune(&store, &[], &cache.uses, &options).await.unwrap();
    assert_eq!(names(&pruned), ["b"]);
    assert_eq!(cache.names().await, ["a"]);
    let guard = raced.guard.lock().unwrap().take().unwrap();
    guard.finish().await.unwrap();
    assert_eq!(parts(&cache.store, &target).await.len(), 2);
}

/// Only a job that uses an image needs its name again.
#[tokio::test]
async fn a_name_whose_image_another_collection_has_removed_is_not_created_again() {
    let mut cache = Cache::new();
    cache.add("a", &["1"], 9).await;
    let store = Store {
        images: Arc::new(Raced {
            store: cache.store.clone(),
            target: None,
            guard: Mutex::new(None),
        }),
        ..cache.store.clone()
    };
    let options = cache.options().with_max_size(0);
    let pruned = prune(&store, &[], &cache.uses, &options).await.unwrap();
    assert_eq!(names(&pruned), ["a"]);
    assert!(cache.names().await.is_empty());
}
