//! A cache of images: last uses, and the removal of images that were not used for long.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use cas::backend::pool::{wait, wait_until_idle};
use cas::blocking::Cas;
use cas::image::{USE_PRECISION, Uses};
use cas::records::{Lease, Resource};
use cas::{CopyOptions, Engines, ErrorKind, Image, Listed, PruneOptions};
use testkit::archive::Tar;

use crate::common::stores;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Size in bytes of the layer that only one image has. A shared layer is four times larger.
const LAYER: usize = 4096;

/// Writes the layout of an image. It has a layer that it shares with every fourth image, and one of
/// its own.
fn layout(scratch: &Path, number: usize) -> PathBuf {
    let place = scratch.join(format!("layout-{number}"));
    let layers = [tar(number % 4, 4 * LAYER), tar(number + 4, LAYER)];
    super::material::Image::of(layers).write(&place, &format!("app:{number}"));
    place
}

fn tar(number: usize, size: usize) -> Vec<u8> {
    let data = format!("{number:size$}");
    Tar::new().file(format!("file-{number}"), data).end()
}

/// Runs a test with a root of each kind of store.
fn on_every_store(test: impl Fn(&Path, &dyn Fn() -> Cas)) {
    on_stores(stores("cache"), test);
}

fn on_every_local_store(test: impl Fn(&Path, &dyn Fn() -> Cas)) {
    on_stores(["fs", "redb"].map(str::to_owned), test);
}

fn on_stores(stores: impl IntoIterator<Item = String>, test: impl Fn(&Path, &dyn Fn() -> Cas)) {
    for store in stores {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = scratch.path().join("root");
        let registry = cas::registry();
        let mut engines = Engines::default();
        engines.store = store;
        "native".clone_into(&mut engines.snapshotter);
        Cas::init_with(&root, engines, &registry).unwrap();
        test(scratch.path(), &|| Cas::open(&root).unwrap());
        wait_until_idle(Duration::from_secs(60));
    }
}

fn names(cas: &Cas) -> Vec<String> {
    let images = cas.images().unwrap().into_iter();
    images.map(|image| image.name.to_string()).collect()
}

fn used(cas: &Cas) -> BTreeMap<String, Option<SystemTime>> {
    let listed = cas.listing(&[]).unwrap().images.into_iter();
    listed
        .map(|Listed { image, used_at, .. }| (image.name.to_string(), used_at))
        .collect()
}

/// Returns the bytes of all blobs.
fn size(cas: &Cas) -> u64 {
    let blobs = wait(cas.store().content.list(None, 1000)).unwrap();
    blobs.iter().map(|blob| blob.size).sum()
}

/// Writes last uses, a day apart, the first one the oldest.
fn age(cas: &Cas, names: &[&str]) {
    let store = cas.store();
    let uses = Uses::new(store.records.clone(), store.images.clone()).unwrap();
    let begin = SystemTime::now() + USE_PRECISION;
    for (days, name) in (1..).zip(names) {
        uses.note_at(&name.parse().unwrap(), begin + days * DAY);
    }
    wait(uses.flush()).unwrap();
}

/// Returns options for a time at which nothing is young.
fn options() -> PruneOptions {
    PruneOptions::default().with_now(SystemTime::now() + 100 * DAY)
}

#[test]
fn every_use_is_noted_and_stored_when_the_handle_ends() {
    on_every_store(|scratch, open| {
        let begun = Instant::now();
        let cas = open();
        for number in 0..3 {
            cas.import(layout(scratch, number)).unwrap();
        }
        cas.close().unwrap();
        let cas = open();
        let first = used(&cas);
        assert!(first.values().all(Option::is_some), "{first:?}");
        cas.unpack("app:0", scratch.join("tree")).unwrap();
        cas.export(["app:1"], scratch.join("archive")).unwrap();
        let name = CopyOptions::default().with_name("copy");
        cas.copy_with("app:2", cas.inner(), name).unwrap();
        cas.image("app:1").unwrap();
        let second = used(&cas);
        assert!(second.iter().all(|(name, at)| first.get(name) < Some(at)));
        // This is less than a minute later, so only the new name is stored.
        drop(cas);
        wait_until_idle(Duration::from_secs(60));
        let mut stored = used(&open());
        assert_eq!(stored.remove("copy"), second.get("copy").copied());
        // On a machine that needs a minute for this, the other times are stored, too.
        assert!(stored == first || begun.elapsed() >= USE_PRECISION);
    });
}

#[test]
fn the_least_recently_used_images_go_and_what_stays_is_whole() {
    on_every_store(|scratch, open| {
        let cas = open();
        for number in 0..8 {
            cas.import(layout(scratch, number)).unwrap();
        }
        let order = [3, 0, 7, 1, 2, 4, 5, 6].map(|number| format!("app:{number}"));
        age(&cas, &order.each_ref().map(String::as_str));
        let before = size(&cas);
        // Images 3 and 7 share a layer, so it is free when both are gone. Image 0 was used before
        // image 7, but its removal is not necessary then.
        let most = before - 3 * LAYER as u64 - 16 * 1024;
        let options = options().with_max_size(most);
        let dry = cas.prune(options.clone().with_dry_run(true)).unwrap();
        assert_eq!(names(&cas).len(), 8);
        let pruned = cas.prune(options).unwrap();
        let gone: Vec<_> = pruned.images.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(gone, ["app:3", "app:7"]);
        assert_eq!((dry.images, dry.freed), (pruned.images, pruned.freed));
        assert_eq!(pruned.freed, before - size(&cas));
        for name in names(&cas) {
            assert!(cas.check(&name).unwrap().is_complete(), "{name}");
        }
        // The notes about the last uses of the names are removed with the names.
        cas.import(layout(scratch, 3)).unwrap();
        let now = SystemTime::now();
        assert!(used(&cas)["app:3"].is_some_and(|used| used <= now));
    });
}

#[test]
fn the_base_of_a_mounted_snapshot_stays() {
    on_every_store(|scratch, open| {
        let cas = open();
        for number in [0, 4] {
            cas.import(layout(scratch, number)).unwrap();
        }
        let top = cas.snapshot("app:0").unwrap().unwrap().to_string();
        cas.snapshot("app:4").unwrap();
        let labels = BTreeMap::from([("containerd.io/gc.root".to_owned(), "x".to_owned())]);
        let snapshotter = cas.snapshotter().unwrap().clone();
        let container = snapshotter.prepare("container", Some(&top), labels);
        wait(container).unwrap();
        let pruned = cas.prune(options().with_max_size(0)).unwrap();
        assert_eq!(names(&cas), ["app:0"]);
        assert_eq!(pruned.in_use.len(), 1);
        assert!(pruned.missing > 0);
        wait(snapshotter.remove("container")).unwrap();
        cas.prune(options().with_max_size(0)).unwrap();
        assert_eq!(names(&cas), [] as [&str; 0]);
        let left = wait(cas::snapshot::all(&*snapshotter)).unwrap();
        assert_eq!(left, []);
    });
}

#[test]
fn space_is_kept_free_where_the_store_has_a_file_system() {
    on_every_store(|scratch, open| {
        let cas = open();
        cas.import(layout(scratch, 0)).unwrap();
        let in_bucket = cas
            .prune(options().with_keep_free(1).with_dry_run(true))
            .err();
        if let Some(error) = in_bucket {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("s3://"), "{error}");
            return;
        }
        assert_eq!(cas.prune(options().with_keep_free(1)).unwrap().images, []);
        let pruned = cas.prune(options().with_keep_free(u64::MAX)).unwrap();
        assert_eq!(pruned.images.len(), 1);
        assert!(pruned.missing > 0);
    });
}

/// Imports images from several threads, while another one keeps the store at half the size of all
/// of them. An image that a thread has leased must stay whole.
fn crowd(pulls: usize) {
    const THREADS: usize = 4;
    const IMAGES: usize = 24;
    on_every_local_store(|scratch, open| {
        let cas = open();
        let layouts: Vec<PathBuf> = (0..IMAGES).map(|number| layout(scratch, number)).collect();
        for layout in &layouts {
            cas.import(layout).unwrap();
        }
        let most = size(&cas) / 2;
        let bound = || PruneOptions::default().with_max_size(most);
        let (left, leased) = (AtomicUsize::new(pulls), AtomicUsize::new(0));
        let removed = AtomicUsize::new(0);
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (cas, layouts, left, leased) = (cas.clone(), &layouts, &left, &leased);
                scope.spawn(move || {
                    let mut state = thread;
                    while left
                        .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1))
                        .is_ok()
                    {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        let layout = &layouts[(state >> 16) % IMAGES];
                        let image = cas.import(layout).unwrap().remove(0);
                        let id = format!("thread-{thread}");
                        leased.fetch_add(usize::from(use_one(&cas, &id, &image)), SeqCst);
                    }
                });
            }
            while left.load(SeqCst) > 0 {
                let pruned = cas.prune(bound()).unwrap();
                removed.fetch_add(pruned.images.len(), SeqCst);
            }
        });
        let pruned = cas.prune(bound()).unwrap();
        assert_eq!((pruned.missing, pruned.later), (0, 0));
        assert!(size(&cas) <= most, "{} of {most}", size(&cas));
        let left = names(&cas);
        assert!(left.len() > 4, "{left:?}");
        for name in &left {
            assert!(cas.check(name).unwrap().is_complete(), "{name}");
        }
        let (leased, removed) = (leased.into_inner(), removed.into_inner());
        assert!(leased > pulls / 4 && removed > 0, "{leased}, {removed}");
    });
}

/// Leases an image, checks that it is whole, and ends the lease. Returns false if the image was
/// removed before it was leased.
fn use_one(cas: &Cas, id: &str, image: &Image) -> bool {
    let leases = cas.store().leases();
    let lease = Lease::new("test", None);
    wait(leases.create(id, &lease)).unwrap();
    let added = cas.add_to_lease(id, Resource::Content(image.target.digest));
    let is_there = match added {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => panic!("{error}"),
    };
    if is_there {
        let check = cas.check(image).unwrap();
        assert!(check.is_complete(), "{}: {check:?}", image.name);
    }
    wait(leases.delete(id, "test", SystemTime::now())).unwrap();
    is_there
}

#[test]
fn no_pull_fails_and_nothing_in_use_is_lost_while_a_cache_is_kept_small() {
    crowd(100);
}

#[test]
#[ignore = "takes minutes; `cargo xtask long` runs it"]
fn ten_thousand_pulls_lose_nothing() {
    crowd(10_000);
}
