//! Making layers again that only a snapshotter keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

use cas_core::gc::{GcOptions, collect};
use cas_core::progress::Silent;
use cas_core::records::{Batch, BlobRecord, Expect, Packing, Table};
use cas_core::snapshot::chain_ids;
use cas_core::testing::memory::MemoryStore;
use cas_core::{
    ContentExt, Descriptor, Digest, Document, ErrorKind, MediaType, Platform, Platforms, Store,
    dispatch,
};
use cas_layer::import::{ImportOptions, import};
use cas_layer::only_tars::Restorer;
use serde_json::json;
use testkit::tars::Tars;

use super::store;
use crate::common::source::{Files, gzip, in_stream};
use crate::export::flawed::{Flaw, Flawed};

/// Records that only tars are kept of these layers of a manifest.
async fn keep_tars(store: &Store, manifest: &Descriptor, layers: &[(&Descriptor, Packing)]) {
    let change = |record: Option<BlobRecord>| {
        let mut record = record.unwrap();
        for (layer, packing) in layers {
            record.absent.insert(layer.digest);
            record.tars.insert(layer.digest, *packing);
        }
        Ok(record)
    };
    let changed = store.blobs().update(&manifest.digest, change).await;
    changed.unwrap();
}

/// The second manifest of an index has the lower layer of the first.
#[tokio::test]
async fn a_layer_that_was_made_for_two_manifests_is_removed_in_the_end() {
    let mut files = Files::layout();
    let tars = ["lower", "upper"].map(|name| {
        let mut members = Files::default();
        members.add(name, name.as_bytes());
        members.tar()
    });
    let lower = files.blob(MediaType::OCI_LAYER, &tars[0]);
    let upper = files.blob(MediaType::OCI_LAYER_GZIP, &gzip(&tars[1]));
    let diff_ids = tars.each_ref().map(|tar| Digest::sha256(tar));
    let mut image = |architecture: &str, layers: &[&Descriptor]| {
        let ids: Vec<String> = diff_ids.iter().map(ToString::to_string).collect();
        let rootfs = json!({ "type": "layers", "diff_ids": ids[..layers.len()] });
        let config = json!({ "os": "linux", "architecture": architecture, "rootfs": rootfs });
        let config = files.blob(MediaType::OCI_CONFIG, config.to_string().as_bytes());
        files.manifest(config, layers.iter().map(|&layer| layer.clone()).collect())
    };
    let first = image("amd64", &[&lower, &upper]);
    let second = image("arm64", &[&lower]);
    let index = files.index(vec![first.clone(), second.clone()]);
    files.entries(&[(Some("image"), &index)]);
    let store = store();
    let source = in_stream(&files.tar());
    import(&store, source, &ImportOptions::default())
        .await
        .unwrap();

    let (plain, unknown) = (Packing::Plain, Packing::Unknown);
    keep_tars(&store, &first, &[(&lower, plain), (&upper, unknown)]).await;
    keep_tars(&store, &second, &[(&lower, plain)]).await;
    let layers = BTreeSet::from([lower.digest, upper.digest]);
    let options = GcOptions::default().with_only(Some(layers));
    collect(&store, &[], &options).await.unwrap();
    let before = store.content.list(None, 100).await.unwrap();
    assert_eq!(
        before.len(),
        5,
        "an index, two manifests, two configurations"
    );

    let temp = tempfile::tempdir().unwrap();
    let keys = chain_ids(&diff_ids).into_iter().map(|id| id.to_string());
    let kept = keys.zip(&tars).map(|(key, tar)| {
        let path = temp.path().join(&key);
        fs::write(&path, tar).unwrap();
        (key, path)
    });
    let snapshotter = Tars::of(kept.collect());
    let mut restorer = Restorer::new(&store, &snapshotter, &Silent);
    let restored = restorer.restore(&index, &Platforms::All).await.unwrap();
    assert_ne!(
        restored.digest, index.digest,
        "the upper layer has other bytes"
    );
    assert!(store.present(&lower).await.unwrap());
    restorer.finish_with(Ok(())).await.unwrap();
    assert_eq!(store.content.list(None, 100).await.unwrap(), before);
}

/// Of the layer of the other manifest, only a tar is kept, too.
#[tokio::test]
async fn the_manifests_of_other_platforms_are_not_read() {
    let mut members = Files::default();
    members.add("file", b"text");
    let tar = members.tar();
    let diff_id = Digest::sha256(&tar);
    let mut files = Files::layout();
    let layer = files.blob(MediaType::OCI_LAYER_GZIP, &gzip(&tar));
    let [first, second] = ["amd64", "arm64"].map(|architecture| {
        let rootfs = json!({ "type": "layers", "diff_ids": [diff_id] });
        let config = json!({ "os": "linux", "architecture": architecture, "rootfs": rootfs });
        let config = files.blob(MediaType::OCI_CONFIG, config.to_string().as_bytes());
        let manifest = files.manifest(config, vec![layer.clone()]);
        manifest.with_platform(Platform::new("linux", architecture))
    });
    let index = files.index(vec![first.clone(), second.clone()]);
    files.entries(&[(Some("image"), &index)]);
    let memory = MemoryStore::new();
    let store = memory.clone().with_images();
    let source = in_stream(&files.tar());
    import(&store, source, &ImportOptions::default())
        .await
        .unwrap();
    for manifest in [&first, &second] {
        keep_tars(&store, manifest, &[(&layer, Packing::Unknown)]).await;
    }
    let options = GcOptions::default().with_only(Some(BTreeSet::from([layer.digest])));
    collect(&store, &[], &options).await.unwrap();
    let before = store.content.list(None, 100).await.unwrap();

    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("tar");
    fs::write(&path, &tar).unwrap();
    let snapshotter = Tars::of(BTreeMap::from([(diff_id.to_string(), path)]));
    let flawed = Flawed(Arc::new(memory), second.digest, Flaw::Flipped);
    let damaged = Store {
        content: Arc::new(flawed),
        ..store.clone()
    };
    let mut restorer = Restorer::new(&damaged, &snapshotter, &Silent);
    let amd64 = Platforms::One("linux/amd64".parse().unwrap());
    let restored = restorer.restore(&index, &amd64).await.unwrap();
    let listed = dispatch::children(&*damaged.content, &restored).await;
    let listed = listed.unwrap();
    assert_ne!(listed[0].digest, first.digest, "the layer has other bytes");
    assert_eq!(listed[1], second);
    let error = restorer.restore(&index, &Platforms::All).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    // The verb that needs the image for this platform reports that there is none.
    let s390x = Platforms::One("linux/s390x".parse().unwrap());
    assert_eq!(restorer.restore(&index, &s390x).await.unwrap(), index);
    restorer.finish_with(Ok(())).await.unwrap();
    assert_eq!(store.content.list(None, 100).await.unwrap(), before);
}

/// Returns a store with an image, and the manifest of the image.
async fn imported() -> (Store, Descriptor) {
    let mut files = Files::layout();
    let image = files.image(1, "amd64");
    files.entries(&[(Some("image"), &image)]);
    let store = store();
    let source = in_stream(&files.tar());
    import(&store, source, &ImportOptions::default())
        .await
        .unwrap();
    (store, image)
}

/// An image that was imported in part may lack its configuration and its layers.
#[tokio::test]
async fn a_manifest_whose_configuration_is_missing_stays_as_it_is() {
    let (store, image) = imported().await;
    let found = dispatch::document(&*store.content, &image).await;
    let Document::Manifest(manifest) = found.unwrap() else {
        panic!("expected a manifest");
    };
    let layers = manifest.layers.iter();
    let layers: Vec<_> = layers.map(|layer| (layer, Packing::Plain)).collect();
    keep_tars(&store, &image, &layers).await;
    for missing in [&manifest.config, &manifest.layers[0], &manifest.layers[1]] {
        assert!(store.content.remove(&missing.digest).await.unwrap());
    }
    let snapshotter = Tars::default();
    let mut restorer = Restorer::new(&store, &snapshotter, &Silent);
    assert_eq!(
        restorer.restore(&image, &Platforms::All).await.unwrap(),
        image
    );
    restorer.finish_with(Ok(())).await.unwrap();
}

#[tokio::test]
async fn a_tar_whose_snapshot_has_lost_its_directory_is_lost() {
    let (store, image) = imported().await;
    let layer = dispatch::children(&*store.content, &image).await.unwrap();
    let layer = &layer[1];
    keep_tars(&store, &image, &[(layer, Packing::Plain)]).await;
    assert!(store.content.remove(&layer.digest).await.unwrap());
    let snapshotter = Tars::default();
    let mut restorer = Restorer::new(&store, &snapshotter, &Silent);
    let error = restorer.restore(&image, &Platforms::All).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("directory of the snapshot"));
    restorer.finish_with(Ok(())).await.unwrap();
}

/// The verb that needs the lost blob names it.
#[tokio::test]
async fn an_artifact_that_lacks_a_blob_stays_as_it_is() {
    let mut files = Files::layout();
    let config = files.blob(MediaType::OCI_EMPTY, b"{}");
    let chart = files.blob("application/vnd.example.chart".into(), b"chart");
    let artifact = files.manifest(config, vec![chart.clone()]);
    files.entries(&[(Some("chart"), &artifact)]);
    let store = store();
    let source = in_stream(&files.tar());
    import(&store, source, &ImportOptions::default())
        .await
        .unwrap();
    keep_tars(&store, &artifact, &[(&chart, Packing::Plain)]).await;
    assert!(store.content.remove(&chart.digest).await.unwrap());
    let snapshotter = Tars::default();
    let mut restorer = Restorer::new(&store, &snapshotter, &Silent);
    assert_eq!(
        restorer.restore(&artifact, &Platforms::All).await.unwrap(),
        artifact
    );
    restorer.finish_with(Ok(())).await.unwrap();
}

#[tokio::test]
async fn the_record_of_any_manifest_states_how_a_layer_is_made() {
    let (store, image) = imported().await;
    let children = dispatch::children(&*store.content, &image).await.unwrap();
    let [config, known, unknown] = &children[..] else {
        panic!("expected a configuration and two layers");
    };
    let packings = [(known, Packing::Gzip(6)), (unknown, Packing::Unknown)];
    keep_tars(&store, &image, &packings).await;
    // A damaged record does not hide the others.
    let mut batch = Batch::new();
    let (key, damaged) = (config.digest.to_string(), b"{".to_vec());
    batch.put(Table::Blobs, key, Expect::Any, damaged.into());
    store.records.commit(&batch).await.unwrap();
    for (layers, expected) in [
        (
            BTreeSet::from([known.digest, unknown.digest]),
            vec![(known.digest, Packing::Gzip(6))],
        ),
        (BTreeSet::from([unknown.digest, config.digest]), Vec::new()),
    ] {
        let found = store.blobs().packings(&layers).await.unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
    }
}
