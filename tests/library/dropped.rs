//! A future that is dropped ends its job, and leaves nothing behind.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use cas::gc::GcOptions;
use cas::layer::import::Source;
use cas::snapshot::SnapshotKind;
use cas::{Cas, ImportOptions, OpenOptions, Result};

use super::material::Image;
use crate::common::gate::{Gate, polled};

const NAME: &str = "app:1";
/// The file that is exported.
const ARCHIVE: &str = "app.tar";
/// How often a verb is dropped in each of two ways.
const TRIES: usize = 10;
/// Maximum time that work in the background may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A root, and a directory that verbs write to.
struct Place {
    scratch: tempfile::TempDir,
    cas: Cas,
}

impl Place {
    async fn new(snapshotter: &str) -> Self {
        // In memory, because the disk is not tested.
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let options = OpenOptions::default().with_snapshotter(snapshotter);
        let cas = Cas::open_with(scratch.path().join("root"), options)
            .await
            .unwrap();
        let place = Place { scratch, cas };
        fs::create_dir(place.out()).unwrap();
        Image::new(3, 1).write(&place.layout(), NAME);
        place
    }

    fn layout(&self) -> PathBuf {
        self.scratch.path().join("layout")
    }

    fn out(&self) -> PathBuf {
        self.scratch.path().join("out")
    }

    /// Returns what incomplete jobs left behind.
    async fn left(&self) -> Vec<String> {
        let leases = self.cas.store().leases().list().await.unwrap();
        let leases = leases.into_iter().map(|(id, ..)| format!("lease {id}"));
        let snapshots = self.cas.snapshotter().unwrap().walk(None, 1000).await;
        let snapshots = snapshots.unwrap().into_iter();
        let unfinished = snapshots.filter(|info| info.kind != SnapshotKind::Committed);
        let unfinished = unfinished.map(|info| format!("snapshot {}", info.key));
        let files = fs::read_dir(self.out()).unwrap();
        let files = files.map(|entry| entry.unwrap().file_name().display().to_string());
        // An export that was dropped while it gave the file its name is complete.
        let files = files.filter(|name| name != ARCHIVE);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.scratch.path().display().to_string();
        let mounts = mounts.lines().filter(|line| line.contains(&here));
        let mounts = mounts.map(|line| format!("mount {line}"));
        leases
            .chain(unfinished)
            .chain(files)
            .chain(mounts)
            .collect()
    }

    /// Waits until nothing is left.
    async fn assert_nothing_left(&self, what: &str) {
        let begun = Instant::now();
        loop {
            let left = self.left().await;
            if left.is_empty() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: {left:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Removes everything from the store, as if no verb had ever been called.
    async fn forget(&self) {
        for image in self.cas.images().await.unwrap() {
            self.cas.remove(&image).await.unwrap();
        }
        let later = SystemTime::now() + Duration::from_secs(3 * 86_400);
        let options = GcOptions::default().with_now(later);
        self.cas.gc_with(options).await.unwrap();
    }

    /// Drops a verb between each two pieces of its work, from the first piece on, and then after
    /// random parts of the time that it takes. `undo` undoes a verb that was complete.
    async fn check<T, F: Future<Output = Result<T>>>(
        &self,
        what: &str,
        verb: impl Fn() -> F,
        undo: impl AsyncFn(),
    ) {
        let begun = Instant::now();
        verb().await.unwrap();
        let whole = begun.elapsed();
        undo().await;
        self.assert_nothing_left(what).await;
        for times in 1..=TRIES {
            let outcome = polled(times, verb());
            // What the verb has passed to the pool ends first.
            drop(Gate::close());
            let complete = outcome.map(Result::unwrap).is_some();
            assert!(!complete || times > 1, "{what} was complete at once");
            if complete {
                undo().await;
            }
            self.assert_nothing_left(what).await;
            undo().await;
        }
        let mut state = 1u32;
        for _ in 0..TRIES {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let part = whole.mul_f64(f64::from(state >> 8) / f64::from(1 << 24));
            if let Ok(outcome) = tokio::time::timeout(part, verb()).await {
                outcome.unwrap();
                undo().await;
            }
            self.assert_nothing_left(what).await;
            undo().await;
        }
        verb().await.unwrap();
        undo().await;
    }
}

fn remove(path: &Path) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else if path.exists() {
        fs::remove_file(path).unwrap();
    }
}

/// Returns the snapshotters that work here.
fn snapshotters() -> Vec<&'static str> {
    if crate::common::can(&[]) {
        vec!["native", "overlay"]
    } else {
        vec!["native"]
    }
}

#[tokio::test]
async fn an_import_that_unpacks() {
    for snapshotter in snapshotters() {
        let place = Place::new(snapshotter).await;
        let import = || {
            let options = ImportOptions::default().with_unpack(true);
            place.cas.import_with(Source::Path(place.layout()), options)
        };
        place
            .check(snapshotter, import, async || place.forget().await)
            .await;
    }
}

#[cfg(feature = "registry")]
#[tokio::test]
async fn a_pull_that_unpacks() {
    use cas::PullOptions;

    use crate::registry::fake::Fake;
    use crate::registry::sample::Sample;

    let image = Image::new(3, 1);
    let content = image.blobs.iter();
    let sample = Sample {
        root: image.root.clone(),
        layers: image.layers.clone(),
        content: content
            .map(|(digest, data)| (digest.to_string(), data.clone()))
            .collect(),
    };
    let registry = Fake::start(move |request| sample.answer(request));
    for snapshotter in snapshotters() {
        let place = Place::new(snapshotter).await;
        let pull = || {
            let options = PullOptions::default().with_unpack(true);
            place.cas.pull_with(registry.image(), options)
        };
        place
            .check(snapshotter, pull, async || place.forget().await)
            .await;
    }
}

#[tokio::test]
async fn an_unpack_and_an_export() {
    let place = Place::new("native").await;
    place.cas.import(place.layout()).await.unwrap();
    let rootfs = place.out().join("rootfs");
    let unpack = || place.cas.unpack(NAME, &rootfs);
    place
        .check("unpack", unpack, async || remove(&rootfs))
        .await;
    let file = place.out().join(ARCHIVE);
    let export = || place.cas.export([NAME], &file);
    place.check("export", export, async || remove(&file)).await;
    let bundle = place.out().join("bundle");
    let make = || place.cas.bundle(NAME, &bundle);
    place.check("bundle", make, async || remove(&bundle)).await;
}

#[tokio::test]
async fn a_mount() {
    if !crate::common::can(&[]) {
        return;
    }
    for snapshotter in snapshotters() {
        let place = Place::new(snapshotter).await;
        let target = place.scratch.path().join("mnt");
        fs::create_dir(&target).unwrap();
        place.cas.import(place.layout()).await.unwrap();
        let image = place.cas.image(NAME).await.unwrap();
        let unmount = async || {
            // If the mount was dropped in time, nothing is mounted and this fails.
            let _ = place.cas.unmount(&target).await;
            place.forget().await;
            place.cas.import(place.layout()).await.unwrap();
        };
        let mount = || place.cas.mount(&image, &target);
        place.check(snapshotter, mount, unmount).await;
    }
}
