//! Images of which only snapshots have the layers, after the records of the store were lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::time::SystemTime;

use cas_core::check::{CheckOptions, Finding, NoSources, Problem, Repair, Report, check};
use cas_core::complete::completeness;
use cas_core::gc::{GcOptions, Removed, collect};
use cas_core::image::Image;
use cas_core::labels::{GC_BACK_REF, LEASE, VERIFIED_LAYER, gc_ref_snapshot};
use cas_core::lease::{LeaseGuard, UNLEASED_TTL, set_labels};
use cas_core::platform::Platforms;
use cas_core::records::{Batch, BlobRecord, Expect, Packing, Table};
use cas_core::snapshot::{Info, SnapshotKind};
use cas_core::testing::fault::Side;
use cas_core::transfer::{CopyOptions, copy};
use cas_core::{ContentExt, Descriptor, Digest, Labels, Result, Snapshotter, Store};
use testkit::tars::Tars;

mod support;
use support::{index, killed_repair, named, parts, repaired, store};

/// A store with an index of two platforms. The first one is stored, and only the snapshotter has
/// its layer.
struct Scene {
    store: Store,
    /// A store that has both platforms.
    from: Store,
    image: Image,
    own: Descriptor,
    snapshotter: Tars,
}

impl Scene {
    /// Makes the store. `is_kept` states whether the snapshot has a back reference to the
    /// configuration.
    async fn new(is_kept: bool) -> Self {
        let (store, from) = (store(), store());
        let own = named(&from, "linux/amd64").await;
        let other = named(&from, "linux/arm64").await;
        let root = index(&from, &[own.clone(), other]).await;
        let scene = Scene {
            store,
            from,
            image: Image::new("app:1".parse().unwrap(), root),
            own,
            snapshotter: Tars::default(),
        };
        scene.bring("linux/amd64").await;
        scene.keep_only_tar(is_kept).await;
        let options = CheckOptions::default();
        let report = check(&scene.store, &[&scene.snapshotter], &options).await;
        assert_eq!(report.unwrap().findings, []);
        scene
    }

    /// Copies a platform of the image into the store, and names the image.
    async fn bring(&self, platform: &str) {
        let platform = Platforms::One(platform.parse().unwrap());
        let options = CopyOptions::default().with_platforms(platform);
        let copied = copy(&self.from, &self.store, &self.image, &options).await;
        copied.unwrap();
    }

    async fn keep_only_tar(&self, is_kept: bool) {
        let listed = parts(&self.from, &self.own).await;
        let [config, layer] = &listed[..] else {
            panic!("expected a configuration and a layer");
        };
        // The chain ID of the only layer is its diff ID, which is its digest.
        let key = layer.digest.to_string();
        let mut labels = Labels::from([
            (LEASE.to_owned(), "unpack".to_owned()),
            (VERIFIED_LAYER.to_owned(), key.clone()),
        ]);
        if is_kept {
            let keeper = config.digest.to_string();
            labels.insert(format!("{GC_BACK_REF}content.config"), keeper);
        }
        let now = SystemTime::now();
        *self.snapshotter.snapshot.lock().unwrap() = Some(Info {
            key: key.clone(),
            kind: SnapshotKind::Committed,
            parent: None,
            labels,
            created_at: now,
            updated_at: now,
        });
        let reference = Labels::from([(gc_ref_snapshot(self.snapshotter.name()), key)]);
        set_labels(&self.store, config, &reference).await.unwrap();
        let change = |found: Option<BlobRecord>| {
            let mut record = found.expect("the manifest has a record");
            record.absent.insert(layer.digest);
            record.tars.insert(layer.digest, Packing::Plain);
            Ok(record)
        };
        let blobs = self.store.blobs();
        blobs.update(&self.own.digest, change).await.unwrap();
        assert!(self.store.content.remove(&layer.digest).await.unwrap());
        assert!(blobs.remove(&layer.digest).await.unwrap());
    }

    async fn lose_records(&self) {
        let records = &self.store.records;
        let mut batch = Batch::new();
        for record in records.scan(Table::Blobs, "", None, 100).await.unwrap() {
            batch.delete(Table::Blobs, record.key, Expect::Any);
        }
        records.commit(&batch).await.unwrap();
    }

    /// Returns the manifests that the record of the index states as absent.
    async fn absent(&self) -> BTreeSet<Digest> {
        let record = self.store.blobs().load(&self.image.target.digest).await;
        record.unwrap().unwrap().0.absent
    }

    /// Collects when nothing is young.
    async fn collect(&self) -> Removed {
        let later = SystemTime::now() + 2 * UNLEASED_TTL;
        let options = GcOptions::default().with_now(later);
        let removed = collect(&self.store, &[&self.snapshotter], &options).await;
        removed.unwrap()
    }

    async fn repair(&self) -> Report {
        self.repair_in(&self.store).await.unwrap()
    }

    /// Repairs the store of the scene, to which `store` passes calls.
    async fn repair_in(&self, store: &Store) -> Result<Report> {
        let options = CheckOptions {
            repair: Some(Repair {
                sources: &NoSources,
                rebuilder: None,
            }),
            ..CheckOptions::default()
        };
        check(store, &[&self.snapshotter], &options).await
    }
}

/// The job that brings another platform cannot tell that the first one was stored. Another job may
/// have pinned the manifest since the loss, and so have made a record without children.
#[tokio::test]
async fn a_platform_that_only_a_snapshot_has_stays_when_another_platform_is_brought() {
    for is_pinned in [false, true] {
        let scene = Scene::new(true).await;
        scene.lose_records().await;
        if is_pinned {
            let guard = LeaseGuard::begin(&scene.store, "export").await.unwrap();
            guard.pin_tree(&scene.own).await.unwrap();
            guard.finish().await.unwrap();
        }
        scene.bring("linux/arm64").await;
        assert!(scene.absent().await.contains(&scene.own.digest));
        let removed = scene.collect().await;
        assert_eq!(removed.snapshots, [], "{is_pinned}");
        assert_eq!(removed.blobs, [], "{is_pinned}");

        let report = scene.repair().await;
        assert!(report.is_sound(), "{is_pinned}: {report:?}");
        let wrong = scene.image.target.digest.to_string();
        let is_it = |one: &Finding| one.problem == Problem::ChildrenWrong && one.subject == wrong;
        let is_found = report.findings.iter().any(is_it);
        assert!(is_found, "{is_pinned}: {report:?}");
        assert_eq!(scene.absent().await, BTreeSet::new(), "{is_pinned}");
        let whole = completeness(&scene.store, &scene.image.target).await;
        assert_eq!(whole.unwrap().left_out, BTreeSet::new(), "{is_pinned}");
        let removed = scene.collect().await;
        assert_eq!(removed.snapshots, [], "{is_pinned}");
        assert_eq!(removed.blobs, [], "{is_pinned}");
        assert_eq!(scene.repair().await.findings, [], "{is_pinned}");

        // Everything goes with the name.
        let name = &scene.image.name;
        scene.store.images.delete(name, None).await.unwrap();
        assert_eq!(scene.collect().await.snapshots.len(), 1, "{is_pinned}");
        let left = scene.store.content.list(None, 10).await.unwrap();
        assert_eq!(left, [], "{is_pinned}");
    }
}

/// Each step of a repair fails once, before or after its effect, as if the repair was killed there.
#[tokio::test]
async fn a_killed_repair_loses_no_platform_that_only_a_snapshot_has() {
    for side in [Side::Before, Side::After] {
        for nth in 1.. {
            let scene = Scene::new(true).await;
            scene.lose_records().await;
            scene.bring("linux/arm64").await;
            let repair = async |store: &Store| scene.repair_in(store).await;
            let is_complete = killed_repair(&scene.store, (nth, side), repair).await;
            let removed = scene.collect().await;
            assert_eq!(removed.snapshots, [], "{side:?} {nth}");
            assert_eq!(removed.blobs, [], "{side:?} {nth}");
            let report = scene.repair().await;
            assert!(report.is_sound(), "{side:?} {nth}: {report:?}");
            assert_eq!(scene.absent().await, BTreeSet::new(), "{side:?} {nth}");
            if is_complete {
                assert!(nth > 4, "the repair had too few steps");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_snapshot_without_a_back_reference_goes_with_its_lost_records() {
    let scene = Scene::new(false).await;
    scene.lose_records().await;
    scene.bring("linux/arm64").await;
    assert_eq!(scene.collect().await.snapshots.len(), 1);
}

/// The platform is complete in the store.
#[tokio::test]
async fn a_repair_counts_a_platform_whose_records_were_lost_as_stored() {
    let scene = Scene::new(true).await;
    let layer = parts(&scene.from, &scene.own).await.remove(1);
    let data = scene.from.content.fetch(&layer).await.unwrap();
    scene.store.content.put(data).await.unwrap();
    scene.lose_records().await;
    scene.bring("linux/arm64").await;
    assert!(scene.absent().await.contains(&scene.own.digest));
    let report = repaired(&scene.store).await.unwrap();
    assert!(report.is_sound(), "{report:?}");
    let found = report.findings.iter();
    let named = found.filter(|one| one.problem == Problem::NameMissing);
    assert_eq!(named.count(), 0, "{report:?}");
    assert_eq!(scene.absent().await, BTreeSet::new());
    let later = SystemTime::now() + 2 * UNLEASED_TTL;
    let options = GcOptions::default().with_now(later);
    let removed = collect(&scene.store, &[], &options).await.unwrap();
    assert_eq!(removed.blobs, []);
}
