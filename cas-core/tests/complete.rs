//! Which manifests of an index are complete, and what the records of incomplete manifests state.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use cas_core::complete::completeness;
use cas_core::gc::{GcOptions, collect};
use cas_core::lease::{BlobRef, LeaseGuard, UNLEASED_TTL, set_labels};
use cas_core::records::{Batch, BlobRecord, Expect, Packing, Table};
use cas_core::{ContentExt, Descriptor, Digest, ErrorKind, Image, Labels, MediaType, Store};

mod support;
use support::wrapped::{Flaw, Wrapped};
use support::{image, index, parts, put, store};

/// The parts of a manifest with one layer.
const CONFIG: usize = 0;
const LAYER: usize = 1;

/// A store with an index of two manifests.
struct Scene {
    store: Store,
    root: Descriptor,
    /// The second manifest. The store lacks some of its parts.
    part: Descriptor,
}

impl Scene {
    /// Returns what a failed pull of the second manifest leaves: its record lists no children, and
    /// the record of the index states it as absent.
    async fn after_a_failed_pull(lost: &[usize]) -> Self {
        let (from, to) = (store(), store());
        let whole = image(&from, "linux/amd64").await;
        let part = image(&from, "linux/arm64").await;
        let root = index(&from, &[whole.clone(), part.clone()]).await;
        let mut blobs = parts(&from, &whole).await;
        for (number, blob) in parts(&from, &part).await.into_iter().enumerate() {
            blobs.extend((!lost.contains(&number)).then_some(blob));
        }
        let children = vec![whole.digest, part.digest];
        blobs.extend([root.clone(), whole, part.clone()]);
        for blob in &blobs {
            let data = from.content.fetch(blob).await.unwrap();
            to.content.put(data).await.unwrap();
        }
        let scene = Scene {
            store: to,
            root,
            part,
        };
        let guard = LeaseGuard::begin(&scene.store, "name").await.unwrap();
        let listed = BlobRef {
            absent: scene.only_part(),
            ..BlobRef::of(&scene.root, children)
        };
        assert!(guard.pin(listed).await.unwrap());
        guard.pin_tree_found(&scene.root).await.unwrap();
        let part = BlobRef::of(&scene.part, Vec::new());
        assert!(guard.pin(part).await.unwrap());
        guard.finish().await.unwrap();
        assert_eq!(scene.record(&scene.root).await.absent, scene.only_part());
        scene
    }

    /// Returns a store in which both manifests are recorded as stored, with all of their parts.
    async fn whole() -> Self {
        let store = store();
        let whole = image(&store, "linux/amd64").await;
        let part = image(&store, "linux/arm64").await;
        let root = index(&store, &[whole, part.clone()]).await;
        Scene { store, root, part }
    }

    async fn record(&self, blob: &Descriptor) -> BlobRecord {
        let found = self.store.blobs().load(&blob.digest).await.unwrap();
        found.unwrap().0
    }

    /// Records these parts of the second manifest as absent, and all of them as its children.
    async fn state_absent(&self, absent: &[usize]) {
        let listed = parts(&self.store, &self.part).await;
        let children: Vec<Digest> = listed.iter().map(|child| child.digest).collect();
        let changed = |found: Option<BlobRecord>| {
            let mut record = found.unwrap();
            record.children.clone_from(&children);
            record.absent = absent.iter().map(|number| children[*number]).collect();
            Ok(record)
        };
        let blobs = self.store.blobs();
        blobs.update(&self.part.digest, changed).await.unwrap();
    }

    /// Changes a bit of the record of a blob.
    async fn damage_record(&self, blob: &Descriptor) {
        let (records, key) = (&self.store.records, blob.digest.to_string());
        let record = records.load(Table::Blobs, &key).await.unwrap().unwrap();
        let mut value = record.value.to_vec();
        value[1] ^= 1;
        let mut batch = Batch::new();
        batch.put(Table::Blobs, key, Expect::Any, value.into());
        records.commit(&batch).await.unwrap();
        let error = self.store.blobs().load(&blob.digest).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    async fn lose(&self, part: usize) {
        let lost = parts(&self.store, &self.part).await.remove(part);
        assert!(self.store.content.remove(&lost.digest).await.unwrap());
    }

    /// Returns the incomplete manifests.
    async fn left_out(&self) -> BTreeSet<Digest> {
        let found = completeness(&self.store, &self.root).await.unwrap();
        assert_eq!(found.missing, None);
        found.left_out
    }

    fn only_part(&self) -> BTreeSet<Digest> {
        BTreeSet::from([self.part.digest])
    }
}

#[tokio::test]
async fn a_job_that_pins_an_incomplete_manifest_leaves_it_incomplete() {
    for lost in [&[CONFIG][..], &[LAYER], &[CONFIG, LAYER]] {
        let scene = Scene::after_a_failed_pull(lost).await;
        let before = scene.record(&scene.root).await;
        for found in [false, true] {
            let guard = LeaseGuard::begin(&scene.store, "export").await.unwrap();
            match found {
                true => guard.pin_tree_found(&scene.part).await.unwrap(),
                false => guard.pin_tree(&scene.part).await.unwrap(),
            }
            guard.finish().await.unwrap();
            let record = scene.record(&scene.part).await;
            assert_eq!(record.children, [], "{lost:?}");
            assert!(record.absent.is_empty(), "{lost:?}");
        }
        assert_eq!(scene.left_out().await, scene.only_part(), "{lost:?}");
        assert_eq!(scene.record(&scene.root).await, before, "{lost:?}");
        // Both jobs have pinned the part that is there.
        let there = [CONFIG, LAYER].into_iter().find(|one| !lost.contains(one));
        if let Some(there) = there {
            let kept = parts(&scene.store, &scene.part).await.remove(there);
            assert_eq!(scene.record(&kept).await.leases.len(), 2, "{lost:?}");
        }
    }
}

/// The record of the manifest is lost. It may have stated that a snapshotter keeps the layer. A
/// label refers back to the manifest, as the label of such a snapshot does.
#[tokio::test]
async fn an_index_keeps_an_incomplete_manifest_whose_record_may_be_lost() {
    for (lost, is_pinned) in [(CONFIG, false), (LAYER, false), (LAYER, true)] {
        let scene = Scene::after_a_failed_pull(&[lost]).await;
        let (store, blobs) = (&scene.store, scene.store.blobs());
        let kept = put(store, MediaType::from("text/plain"), b"kept").await;
        let part = scene.part.digest.to_string();
        let label = Labels::from([("containerd.io/gc.bref.content".to_owned(), part)]);
        set_labels(store, &kept, &label).await.unwrap();
        for document in [&scene.root, &scene.part] {
            assert!(blobs.remove(&document.digest).await.unwrap());
        }
        if is_pinned {
            let guard = LeaseGuard::begin(store, "export").await.unwrap();
            guard.pin_tree(&scene.part).await.unwrap();
            guard.finish().await.unwrap();
        }
        let guard = LeaseGuard::begin(store, "name").await.unwrap();
        guard.pin_tree(&scene.root).await.unwrap();
        let name = "app".parse().unwrap();
        let image = Image::new(name, scene.root.clone());
        guard.name_new(image).await.unwrap();
        assert_eq!(scene.record(&scene.root).await.children, [], "{lost}");
        assert_eq!(scene.left_out().await, scene.only_part(), "{lost}");
        let later = std::time::SystemTime::now() + 2 * UNLEASED_TTL;
        let options = GcOptions::default().with_now(later);
        let removed = collect(store, &[], &options).await.unwrap();
        assert_eq!(removed.blobs, [], "{lost}");
    }
}

/// Earlier releases recorded all missing parts as absent when a job pinned an incomplete manifest.
#[tokio::test]
async fn a_manifest_that_was_recorded_without_its_missing_parts_is_incomplete() {
    for lost in [&[CONFIG][..], &[LAYER], &[CONFIG, LAYER]] {
        let scene = Scene::after_a_failed_pull(lost).await;
        scene.state_absent(lost).await;
        assert_eq!(scene.left_out().await, scene.only_part(), "{lost:?}");
        // A job that names the image does not count the manifest as stored.
        let guard = LeaseGuard::begin(&scene.store, "name").await.unwrap();
        guard.pin_tree_found(&scene.root).await.unwrap();
        guard.finish().await.unwrap();
        let record = scene.record(&scene.root).await;
        assert_eq!(record.absent, scene.only_part(), "{lost:?}");
    }
}

#[tokio::test]
async fn only_layers_can_be_left_out_on_purpose() {
    let scene = Scene::whole().await;
    scene.lose(LAYER).await;
    assert_eq!(scene.left_out().await, scene.only_part(), "it was lost");
    scene.state_absent(&[LAYER]).await;
    assert!(scene.left_out().await.is_empty(), "a pull discarded it");
    scene.state_absent(&[CONFIG, LAYER]).await;
    assert!(scene.left_out().await.is_empty(), "the blob is there");
    scene.lose(CONFIG).await;
    assert_eq!(scene.left_out().await, scene.only_part());
}

#[tokio::test]
async fn a_layer_whose_tar_is_kept_is_not_missing() {
    let scene = Scene::after_a_failed_pull(&[LAYER]).await;
    scene.state_absent(&[LAYER]).await;
    let layer = parts(&scene.store, &scene.part).await.remove(LAYER).digest;
    let kept = |found: Option<BlobRecord>| {
        let mut record = found.unwrap();
        record.tars.insert(layer, Packing::Plain);
        Ok(record)
    };
    let blobs = scene.store.blobs();
    blobs.update(&scene.part.digest, kept).await.unwrap();
    assert!(scene.left_out().await.is_empty());
}

/// Only the record states that a layer was left out on purpose.
#[tokio::test]
async fn a_document_whose_record_is_damaged_is_judged_by_its_bytes() {
    for lost in [None, Some(CONFIG), Some(LAYER)] {
        let scene = Scene::whole().await;
        scene.state_absent(&[LAYER]).await;
        if let Some(lost) = lost {
            scene.lose(lost).await;
        }
        for damaged in [&scene.part, &scene.root] {
            scene.damage_record(damaged).await;
            let expected = match lost {
                Some(_) => scene.only_part(),
                None => BTreeSet::new(),
            };
            assert_eq!(scene.left_out().await, expected, "{lost:?}");
        }
    }
}

/// The record of the damaged manifest may list its children or not.
#[tokio::test]
async fn an_index_with_a_damaged_manifest_can_be_named_if_another_manifest_is_complete() {
    for (is_recorded, finds) in [(false, false), (false, true), (true, false), (true, true)] {
        let Scene { store, root, part } = Scene::whole().await;
        let alone = index(&store, std::slice::from_ref(&part)).await;
        let whole = parts(&store, &root).await.remove(0);
        let layer = parts(&store, &whole).await.remove(LAYER);
        if is_recorded {
            let guard = LeaseGuard::begin(&store, "name").await.unwrap();
            guard.pin_tree(&root).await.unwrap();
            guard.finish().await.unwrap();
        }
        let mut content = Wrapped::new(&store);
        content.damaged = Some((part.digest, Flaw::First));
        let store = content.of(&store);
        let guard = LeaseGuard::begin(&store, "name").await.unwrap();
        let pin = async |image: &Descriptor| match finds {
            true => guard.pin_found_to_name(image).await,
            false => guard.pin_to_name(image).await,
        };
        pin(&root).await.unwrap();
        let record = store.blobs().load(&layer.digest).await.unwrap().unwrap().0;
        assert!(record.leases.contains(guard.id()), "{is_recorded} {finds}");
        for damaged in [&part, &alone] {
            let error = pin(damaged).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            let digest = part.digest.to_string();
            assert!(error.to_string().contains(&digest), "{error}");
        }
        // Lost content is still an error.
        assert!(store.content.remove(&layer.digest).await.unwrap());
        let error = pin(&root).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}

/// A blob whose record is damaged cannot be pinned.
#[tokio::test]
async fn an_image_is_not_named_if_a_record_is_damaged() {
    let scene = Scene::whole().await;
    let layer = parts(&scene.store, &scene.part).await.remove(LAYER);
    scene.damage_record(&layer).await;
    let guard = LeaseGuard::begin(&scene.store, "name").await.unwrap();
    let error = guard.pin_to_name(&scene.root).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(
        error.to_string().contains(&layer.digest.to_string()),
        "{error}"
    );
}
