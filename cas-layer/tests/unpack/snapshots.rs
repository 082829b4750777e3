//! Unpack into snapshots of the native snapshotter.

use std::path::Path;
use std::sync::Arc;

use cas_core::error::ErrorKind;
use cas_core::image::UNCOMPRESSED;
use cas_core::media_type::DiffCompression;
use cas_core::snapshot::{Mount, SnapshotKind};
use cas_core::testing::memory::MemoryStore;
use cas_core::{ContentExt, Digest, Labels, Manifest, MediaType, Snapshotter};
use cas_layer::unpack::{Entrance, Target, to_directory, to_snapshots, verified_chain_ids};
use snapshot_native::NativeSnapshotter;

use super::{LAYERS, expected, image, image_of, silent, store, tar_of, tree};
use crate::common::source::{Files, gzip, zstd};

pub(super) fn snapshotter(root: &Path) -> Arc<dyn Snapshotter> {
    Arc::new(NativeSnapshotter::open(root, Arc::new(MemoryStore::new())).unwrap())
}

pub(super) fn target<'a>(
    snapshotter: &'a Arc<dyn Snapshotter>,
    root: &'a tempfile::TempDir,
) -> Target<'a> {
    let locks = root.path();
    Target {
        snapshotter,
        locks,
        only_tars: false,
        tables: None,
        confine: true,
    }
}

/// Returns the keys of committed snapshots. Fails if there are others.
async fn committed(snapshotter: &dyn Snapshotter) -> Vec<String> {
    let all = snapshotter.walk(None, 1000).await.unwrap();
    assert!(
        all.iter().all(|info| info.kind == SnapshotKind::Committed),
        "{all:?}"
    );
    all.into_iter().map(|info| info.key).collect()
}

#[tokio::test]
async fn layers_become_a_chain_of_snapshots_only_once() {
    let (store, root) = (store(), tempfile::tempdir().unwrap());
    let snapshotter = snapshotter(root.path());
    let manifest = image(&store, &LAYERS, |_| {}).await;
    let top = to_snapshots(&store, target(&snapshotter, &root), &manifest, &silent())
        .await
        .unwrap();
    let top = top.unwrap().to_string();
    let made = committed(&*snapshotter).await;
    assert_eq!(made.len(), 3);
    let mounts = snapshotter
        .view("look", Some(&top), Labels::new())
        .await
        .unwrap();
    let [Mount::Bind { source, .. }] = mounts.as_slice() else {
        panic!("{mounts:?}");
    };
    assert_eq!(tree(source), expected());
    snapshotter.remove("look").await.unwrap();

    // The same image again, and another image on the same two lower layers.
    to_snapshots(&store, target(&snapshotter, &root), &manifest, &silent())
        .await
        .unwrap();
    assert_eq!(committed(&*snapshotter).await, made);
    let lower = image(&store, &LAYERS[..2], |_| {}).await;
    to_snapshots(&store, target(&snapshotter, &root), &lower, &silent())
        .await
        .unwrap();
    assert_eq!(committed(&*snapshotter).await, made);
}

#[tokio::test]
async fn the_diff_id_of_a_compressed_layer_is_recorded() {
    let (store, root) = (store(), tempfile::tempdir().unwrap());
    let manifest = image(&store, &LAYERS, |_| {}).await;
    to_snapshots(
        &store,
        target(&snapshotter(root.path()), &root),
        &manifest,
        &silent(),
    )
    .await
    .unwrap();
    for (place, noted) in [(0, false), (1, true), (2, true)] {
        let digest = manifest.layers[place].digest;
        let (record, _) = store.blobs().load(&digest).await.unwrap().unwrap();
        assert_eq!(record.labels.contains_key(UNCOMPRESSED), noted, "{place}");
    }
}

#[tokio::test]
async fn two_concurrent_unpacks_make_one_chain() {
    let (store, root) = (store(), tempfile::tempdir().unwrap());
    let snapshotter = snapshotter(root.path());
    let manifest = image(&store, &LAYERS, |_| {}).await;
    let silent = silent();
    let (one, two) = tokio::join!(
        to_snapshots(&store, target(&snapshotter, &root), &manifest, &silent),
        to_snapshots(&store, target(&snapshotter, &root), &manifest, &silent),
    );
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(committed(&*snapshotter).await.len(), 3);
}

#[tokio::test]
async fn a_bad_layer_leaves_only_the_layers_below_it() {
    let (store, root) = (store(), tempfile::tempdir().unwrap());
    let snapshotter = snapshotter(root.path());
    let spoil = |diff_ids: &mut Vec<Digest>| diff_ids[2] = Digest::sha256(b"other");
    let manifest = image(&store, &LAYERS, spoil).await;
    let outcome = to_snapshots(&store, target(&snapshotter, &root), &manifest, &silent()).await;
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(committed(&*snapshotter).await.len(), 2);
}

/// An image with the diff IDs of another image, whose snapshots exist, but with other layers.
#[tokio::test]
async fn layers_are_verified_although_their_snapshots_exist() {
    let (store, root) = (store(), tempfile::tempdir().unwrap());
    let snapshotter = snapshotter(root.path());
    let unpack = async |manifest: &Manifest| {
        let target = target(&snapshotter, &root);
        to_snapshots(&store, target, manifest, &silent()).await
    };
    let good = image(&store, &LAYERS, |_| {}).await;
    let top = unpack(&good).await.unwrap();
    let made = committed(&*snapshotter).await;

    let mut other = Files::default();
    other.add("other", b"text");
    let other = other.tar();
    let tars: Vec<Vec<u8>> = LAYERS.iter().map(tar_of).collect();
    let diff_ids: Vec<Digest> = tars.iter().map(|tar| Digest::sha256(tar)).collect();
    let blob = |tar: &[u8], kind: &MediaType| match kind.diff_compression().unwrap() {
        DiffCompression::Gzip => (kind.clone(), gzip(tar)),
        DiffCompression::Zstd => (kind.clone(), zstd(tar)),
        _ => (kind.clone(), tar.to_vec()),
    };
    let kinds = [
        MediaType::OCI_LAYER,
        MediaType::OCI_LAYER_GZIP,
        MediaType::OCI_LAYER_ZSTD,
    ];
    for place in 0..LAYERS.len() {
        for kind in &kinds {
            let layers = tars.iter().enumerate().map(|(index, tar)| {
                let tar = if index == place { &other } else { tar };
                blob(tar, kind)
            });
            let wrong = image_of(&store, layers.collect(), &diff_ids).await;
            let error = unpack(&wrong).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{place} {kind}");
            let layer = wrong.layers[place].digest.to_string();
            assert!(error.to_string().contains(&layer), "{error}");
        }
    }
    // A layer that registries do not distribute may be absent, but then it is not verified.
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    for place in 0..LAYERS.len() {
        let layers = tars
            .iter()
            .enumerate()
            .map(|(index, tar)| match index == place {
                true => (MediaType::from(foreign), gzip(&other)),
                false => blob(tar, &MediaType::OCI_LAYER),
            });
        let wrong = image_of(&store, layers.collect(), &diff_ids).await;
        store
            .content
            .remove(&wrong.layers[place].digest)
            .await
            .unwrap();
        let error = unpack(&wrong).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{place}");
        let chain = verified_chain_ids(&store, &*snapshotter, &wrong).await;
        assert_eq!(chain.unwrap(), None, "{place}");
    }
    // The same layers in another compression are the same layers.
    for kind in &kinds {
        let layers = tars.iter().map(|tar| blob(tar, kind)).collect();
        let same = image_of(&store, layers, &diff_ids).await;
        assert_eq!(unpack(&same).await.unwrap(), top, "{kind}");
    }
    assert_eq!(committed(&*snapshotter).await, made);
}

/// Only the type counts: not the bytes, and not what another image has left in the root.
#[tokio::test]
async fn a_tar_with_the_type_of_an_erofs_image_is_refused_although_its_snapshot_exists() {
    let (store, root) = (store(), tempfile::tempdir().unwrap());
    let snapshotter = snapshotter(root.path());
    let tars: Vec<Vec<u8>> = LAYERS.iter().map(tar_of).collect();
    let diff_ids: Vec<Digest> = tars.iter().map(|tar| Digest::sha256(tar)).collect();
    let typed = async |kind: MediaType| {
        let layers = tars.iter().map(|tar| (kind.clone(), gzip(tar)));
        image_of(&store, layers.collect(), &diff_ids).await
    };
    let good = typed(MediaType::OCI_LAYER_GZIP).await;
    let top = to_snapshots(&store, target(&snapshotter, &root), &good, &silent()).await;
    let chain = verified_chain_ids(&store, &*snapshotter, &good).await;
    assert_eq!(chain.unwrap().unwrap().last().copied(), top.unwrap());
    let wrong = typed(MediaType::from("application/vnd.erofs.layer.v1+gzip")).await;
    let directory = root.path().join("plain");
    let unpacked = to_snapshots(&store, target(&snapshotter, &root), &wrong, &silent()).await;
    let chain = verified_chain_ids(&store, &*snapshotter, &wrong).await;
    for outcome in [
        unpacked.map(|_| ()),
        chain.map(|_| ()),
        to_directory(&store, &wrong, &directory, Entrance::AsImage, &silent()).await,
    ] {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(
            error.to_string().contains("found an EROFS image of type"),
            "{error}"
        );
    }
    assert!(!directory.exists());
}

#[tokio::test]
async fn fewer_or_more_diff_ids_than_layers_are_refused() {
    let (store, root) = (store(), tempfile::tempdir().unwrap());
    let snapshotter = snapshotter(root.path());
    let changes: [fn(&mut Vec<Digest>); 2] = [
        |diff_ids| diff_ids.truncate(2),
        |diff_ids| diff_ids.push(Digest::sha256(b"more")),
    ];
    for change in changes {
        let manifest = image(&store, &LAYERS, change).await;
        let outcome = to_snapshots(&store, target(&snapshotter, &root), &manifest, &silent()).await;
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(committed(&*snapshotter).await.len(), 0);
    }
}

#[tokio::test]
async fn a_missing_layer_is_not_found() {
    let (store, root) = (store(), tempfile::tempdir().unwrap());
    let snapshotter = snapshotter(root.path());
    let manifest = image(&store, &LAYERS, |_| {}).await;
    store
        .content
        .remove(&manifest.layers[1].digest)
        .await
        .unwrap();
    let outcome = to_snapshots(&store, target(&snapshotter, &root), &manifest, &silent()).await;
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(committed(&*snapshotter).await.len(), 1);
}
