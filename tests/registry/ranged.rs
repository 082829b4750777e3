//! Layers that are fetched in several ranges at once, in the ten situations that containerd tests.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use cas::ErrorKind;
use cas::transfer::{PullLimits, PullOptions, pull};
use cas_core::testing::memory::MemoryStore;

use super::fake::{Answer, Fake, InFlight, Request};
use super::sample::Sample;
use super::{client, quick};
use crate::common::disk::Disk;
use crate::common::shop::names;
use crate::common::{fails, ok, text};

/// Size in bytes of one range.
const RANGE: usize = PullLimits::RANGE as usize;

/// An image whose layer has two ranges and a little more.
static LARGE: LazyLock<Sample> = LazyLock::new(|| Sample::new(&[2 * RANGE + 5]));

/// Starts a registry of the large image whose answers for the layer are changed by `change`.
fn registry(change: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static) -> Fake {
    let layer = format!("/blobs/{}", LARGE.layers[0].digest);
    Fake::start(move |request| {
        let mut plain = request.clone();
        plain.path = request.path.split('?').next().unwrap().to_owned();
        let answer = LARGE.answer(&plain);
        match plain.path.ends_with(&layer) {
            true => change(request, answer),
            false => answer,
        }
    })
}

/// Returns the ranges that were asked for, in order.
fn ranges(registry: &Fake) -> Vec<usize> {
    let seen = registry.seen();
    let mut starts: Vec<usize> = seen
        .iter()
        .filter_map(Request::range)
        .map(|range| range.0)
        .collect();
    starts.sort();
    starts
}

fn cas(home: &Path, image: &str) -> Command {
    let mut pull = super::cas(&home.join("root"), home);
    pull.args(["pull", image, "--ranges", "3", "--retry-for", "2s"]);
    pull
}

/// Writes `hosts.toml` for a host: it is at `server`, and has a mirror.
fn hosts(home: &Path, host: &str, server: &Fake, mirror: Option<&Fake>) {
    let directory = home.join("hosts").join(host);
    fs::create_dir_all(&directory).unwrap();
    let mut text = format!("server = \"http://{}\"\n", server.host);
    if let Some(mirror) = mirror {
        text.push_str(&format!("[host.\"http://{}\"]\n", mirror.host));
    }
    fs::write(directory.join("hosts.toml"), text).unwrap();
}

fn is_intact(home: &Path) {
    ok(super::cas(&home.join("root"), home).args(["fsck", "--read-data"]));
    assert_eq!(names(&home.join("root")).len(), 1);
}

#[test]
fn works() {
    let registry = registry(|_, good| good);
    let scratch = tempfile::tempdir().unwrap();
    ok(&mut cas(scratch.path(), &registry.image()));
    is_intact(scratch.path());
    assert_eq!(ranges(&registry), [0, RANGE, 2 * RANGE]);
}

#[test]
fn goes_wrong() {
    // Only ranges are wrong at first, then the whole is, too.
    let is_wrong = Arc::new(AtomicBool::new(false));
    let lies = Arc::clone(&is_wrong);
    let registry = registry(move |request, good| match request.range() {
        Some((RANGE, _)) => good.edit(|body| body[0] ^= 1),
        None if request.path.contains("/blobs/") && lies.load(Ordering::SeqCst) => {
            good.edit(|body| body[0] ^= 1)
        }
        _ => good,
    });
    let scratch = tempfile::tempdir().unwrap();
    ok(&mut cas(scratch.path(), &registry.image()));
    is_intact(scratch.path());
    is_wrong.store(true, Ordering::SeqCst);
    let other = scratch.path().join("other");
    fails(&mut cas(&other, &registry.image()), 4);
    assert!(names(&other.join("root")).is_empty());
}

#[test]
fn mirror() {
    let (origin, mirror) = (registry(|_, good| good), registry(|_, good| good));
    let scratch = tempfile::tempdir().unwrap();
    hosts(scratch.path(), "x.test", &origin, Some(&mirror));
    let mut pull = cas(scratch.path(), "x.test/team/app:1");
    ok(pull.arg("--hosts-dir").arg(scratch.path().join("hosts")));
    is_intact(scratch.path());
    assert_eq!(ranges(&mirror), [0, RANGE, 2 * RANGE]);
    assert!(origin.seen().is_empty());
}

/// The mirror refuses a range, breaks off within a range, or sends other bytes.
#[test]
fn mirror_goes_wrong() {
    type Change = fn(&Request, Answer) -> Answer;
    let changes: [(&str, bool, Change); 3] = [
        // The whole then comes from the mirror.
        ("refuses", false, |request, good| match request.range() {
            Some((RANGE, _)) => Answer::new(403),
            _ => good,
        }),
        ("breaks off", true, |request, good| match request.range() {
            Some((RANGE, _)) => good.cut(1000),
            _ => good,
        }),
        ("lies", true, |request, good| match request.range() {
            Some((RANGE, _)) => good.edit(|body| body[0] ^= 1),
            _ => good,
        }),
    ];
    for (what, is_left, change) in changes {
        let (origin, mirror) = (registry(|_, good| good), registry(change));
        let scratch = tempfile::tempdir().unwrap();
        hosts(scratch.path(), "x.test", &origin, Some(&mirror));
        let mut pull = cas(scratch.path(), "x.test/team/app:1");
        pull.arg("--hosts-dir").arg(scratch.path().join("hosts"));
        let done = pull.output().unwrap();
        assert!(done.status.success(), "{what}: {}", text(&done.stderr));
        is_intact(scratch.path());
        assert_eq!(origin.count("GET", "/blobs/") > 0, is_left, "{what}");
    }
}

#[test]
fn hub() {
    let registry = registry(|_, good| good);
    let scratch = tempfile::tempdir().unwrap();
    hosts(scratch.path(), "docker.io", &registry, None);
    let mut pull = cas(scratch.path(), "busybox:1");
    ok(pull.arg("--hosts-dir").arg(scratch.path().join("hosts")));
    is_intact(scratch.path());
    assert_eq!(ranges(&registry), [0, RANGE, 2 * RANGE]);
    let layer = format!("/v2/library/busybox/blobs/{}", LARGE.layers[0].digest);
    assert_eq!(registry.count("GET", &layer), 3);
}

/// A layer of at most one range is asked for as a whole.
#[tokio::test]
async fn small() {
    for size in [1, 1000, RANGE] {
        let sample = Sample::new(&[size]);
        let served = sample.clone();
        let registry = Fake::start(move |request| served.answer(request));
        let store = MemoryStore::new().with_images();
        let options = PullOptions::default().with_limits(PullLimits::default().with_per_layer(3));
        let (client, name) = (client(&registry, quick()).await, "app:1".parse().unwrap());
        pull(&store, &client, name, &options).await.unwrap();
        assert!(store.present(&sample.layers[0]).await.unwrap());
        assert!(ranges(&registry).is_empty(), "{size}");
    }
}

/// At most as many ranges are on their way at once as the limit allows, and all are asked for once.
#[tokio::test]
async fn large() {
    let sample = Sample::new(&[3 * RANGE + 1]);
    let in_flight = Arc::new(InFlight::default());
    let (served, counted) = (sample.clone(), Arc::clone(&in_flight));
    let registry = Fake::start(move |request| match request.range() {
        Some(_) => counted.hold(2, || served.answer(request)),
        None => served.answer(request),
    });
    let store = MemoryStore::new().with_images();
    let options = PullOptions::default().with_limits(PullLimits::default().with_per_layer(2));
    let (client, name) = (client(&registry, quick()).await, "app:1".parse().unwrap());
    pull(&store, &client, name, &options).await.unwrap();
    assert!(store.present(&sample.layers[0]).await.unwrap());
    assert_eq!(ranges(&registry), [0, RANGE, 2 * RANGE, 3 * RANGE]);
    assert_eq!(in_flight.most(), 2);
}

/// The future of the pull is dropped while a range does not arrive. The next pull succeeds.
#[tokio::test]
async fn cancel() {
    let stalls = Arc::new(AtomicBool::new(true));
    let waits = Arc::clone(&stalls);
    let registry = registry(move |request, good| match request.range() {
        Some((RANGE, _)) if waits.load(Ordering::SeqCst) => good.cut(1000).stall(),
        _ => good,
    });
    let store = MemoryStore::new().with_images();
    let options = PullOptions::default().with_limits(PullLimits::default().with_per_layer(3));
    let timeouts = quick().with_idle(Duration::from_secs(60));
    let client = client(&registry, timeouts).await;
    let name: cas::image::Reference = "app:1".parse().unwrap();
    {
        let pulling = pull(&store, &client, name.clone(), &options);
        let mut pulling = std::pin::pin!(pulling);
        while ranges(&registry).len() < 3 {
            let step = tokio::time::timeout(Duration::from_millis(10), &mut pulling);
            assert!(step.await.is_err(), "the pull ends early");
        }
    }
    stalls.store(false, Ordering::SeqCst);
    pull(&store, &client, name, &options).await.unwrap();
    assert!(store.present(&LARGE.layers[0]).await.unwrap());
}

#[tokio::test]
async fn rate_limit() {
    let left = AtomicUsize::new(4);
    let registry = registry(move |_, good| {
        let is_refused =
            left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        match is_refused {
            Ok(_) => Answer::error(429, "TOOMANYREQUESTS", "slow down").with("Retry-After", "0"),
            Err(_) => good,
        }
    });
    let options = PullOptions::default().with_limits(PullLimits::default().with_per_layer(3));
    let store = MemoryStore::new().with_images();
    let client = client(&registry, quick()).await;
    let name: cas::image::Reference = "app:1".parse().unwrap();
    pull(&store, &client, name.clone(), &options).await.unwrap();
    assert!(store.present(&LARGE.layers[0]).await.unwrap());
    let refused = self::registry(|_, _| Answer::error(429, "TOOMANYREQUESTS", "slow down"));
    let client = super::client(&refused, quick().with_repeat(Duration::from_millis(300))).await;
    let empty = MemoryStore::new().with_images();
    let error = pull(&empty, &client, name, &options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("429"), "{error}");
}

#[test]
fn disk_full() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only the superuser can mount a small file system");
        return;
    }
    let registry = registry(|_, good| good);
    let scratch = tempfile::tempdir().unwrap();
    let disk = Disk::mount(scratch.path().join("disk"), "size=6m");
    let said = fails(&mut cas(&disk.0, &registry.image()), 6);
    assert!(said.contains("No space left"), "{said}");
    assert!(names(&disk.0.join("root")).is_empty());
    disk.remount("size=64m");
    ok(&mut cas(&disk.0, &registry.image()));
    is_intact(&disk.0);
}
