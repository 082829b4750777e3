//! Exports that succeed.

use std::collections::BTreeSet;
use std::sync::Arc;

use cas_core::content::Durability;
use cas_core::lease::LeaseGuard;
use cas_core::{
    ContentExt, Descriptor, Digest, Document, ErrorKind, Image, MediaType, Platform, Store,
    dispatch,
};
use cas_layer::export::{ExportOptions, Target, export};
use serde_json::{Value, json};

use super::{
    Sink, Warned, bytes_of, docker, for_platform, images, members, memory, source, strict, take,
};
use crate::common::source::{Files, blob_path, noise, zstd};

/// Adds an image of one zstd layer. Returns the descriptor of its manifest.
pub(crate) fn zstd_image(files: &mut Files) -> Descriptor {
    let plain = noise(7, 300_000);
    let diff_id = Descriptor::of(MediaType::OCI_LAYER, &plain).digest;
    let layer = files.blob(MediaType::OCI_LAYER_ZSTD, &zstd(&plain));
    let config = json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    let config = files.blob(MediaType::OCI_CONFIG, config.to_string().as_bytes());
    files.manifest(config, vec![layer])
}

fn told(images: &[Image]) -> Vec<(String, Descriptor)> {
    let told = |image: &Image| (image.name.to_string(), image.target.clone());
    images.iter().map(told).collect()
}

#[tokio::test]
async fn the_same_images_are_the_same_bytes_from_any_store_in_any_order() {
    let (one, other) = (memory(), strict());
    take(&one, &source(), None).await;
    for options in [
        ExportOptions::default(),
        docker(),
        for_platform("linux/amd64"),
    ] {
        let first = bytes_of(&one, &options).await.unwrap();
        assert_eq!(bytes_of(&one, &options).await.unwrap(), first);
        let sink = Sink::default();
        let target = Target::Stream(Box::new(sink.clone()));
        let twice = [images(&one, true).await, images(&one, false).await].concat();
        export(&one, &twice, target, &options).await.unwrap();
        assert_eq!(*sink.0.lock().unwrap(), first, "order and repetition");
    }
    let first = bytes_of(&one, &ExportOptions::default()).await.unwrap();
    take(&other, &first, None).await;
    assert_eq!(
        bytes_of(&other, &ExportOptions::default()).await.unwrap(),
        first
    );
}

#[tokio::test]
async fn what_is_exported_is_imported_with_equal_names_and_digests() {
    let (one, other) = (memory(), memory());
    take(&one, &source(), None).await;
    let archive = bytes_of(&one, &ExportOptions::default()).await.unwrap();
    take(&other, &archive, None).await;
    let (before, after) = (images(&one, false).await, images(&other, false).await);
    assert_eq!(told(&before), told(&after));
    assert_eq!(before.len(), 4);
    let blobs = one.content.list(None, 100).await.unwrap();
    let digests = |stats: &[cas_core::content::Stat]| -> Vec<_> {
        stats.iter().map(|stat| (stat.digest, stat.size)).collect()
    };
    let back = other.content.list(None, 100).await.unwrap();
    assert_eq!(digests(&blobs), digests(&back));
}

#[tokio::test]
async fn every_blob_is_written_once_and_after_what_lists_it() {
    let store = memory();
    take(&store, &source(), None).await;
    let members = members(&bytes_of(&store, &ExportOptions::default()).await.unwrap());
    let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..2], ["oci-layout", "index.json"]);
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    let stored = store.content.list(None, 100).await.unwrap();
    assert_eq!(names.len(), 2 + stored.len());
    let index = Document::parse(&MediaType::OCI_INDEX, &members[1].1).unwrap();
    let mut listed: BTreeSet<String> = BTreeSet::new();
    listed.extend(index.children().map(|child| blob_path(&child.digest)));
    for (name, data) in &members[2..] {
        assert!(listed.contains(name), "{name} is not listed before it");
        for kind in [MediaType::OCI_INDEX, MediaType::OCI_MANIFEST] {
            if let Ok(document) = Document::parse(&kind, data) {
                listed.extend(document.children().map(|child| blob_path(&child.digest)));
            }
        }
    }
}

#[tokio::test]
async fn both_annotations_hold_the_whole_name() {
    let store = memory();
    take(&store, &source(), None).await;
    let members = members(&bytes_of(&store, &ExportOptions::default()).await.unwrap());
    let index: Value = serde_json::from_slice(&members[1].1).unwrap();
    let of = |entry: &Value, key: &str| entry["annotations"][key].as_str().unwrap().to_owned();
    for key in [
        "io.containerd.image.name",
        "org.opencontainers.image.ref.name",
    ] {
        let entries = index["manifests"].as_array().unwrap().iter();
        let names: Vec<_> = entries.map(|entry| of(entry, key)).collect();
        assert_eq!(
            names,
            ["other", "x.test/multi:1", "x.test/one:1", "x.test/zstd:1"]
        );
    }
}

#[tokio::test]
async fn a_descriptor_without_a_name_is_exported_and_comes_back() {
    let (one, other) = (memory(), memory());
    for image in take(&one, &source(), None).await {
        let sink = Sink::default();
        let target = Target::Stream(Box::new(sink.clone()));
        let unnamed = Image::unnamed(image.target.clone());
        let options = ExportOptions::default();
        export(&one, &[unnamed], target, &options).await.unwrap();
        let archive = sink.0.lock().unwrap().clone();
        let index: Value = serde_json::from_slice(&members(&archive)[1].1).unwrap();
        assert!(index["manifests"][0]["annotations"].is_null(), "{index}");
        let back = take(&other, &archive, None).await;
        let digest = image.target.digest;
        assert_eq!(told(&back), [(digest.to_string(), image.target)]);
    }
}

#[tokio::test]
async fn a_filter_selects_configurations_and_layers() {
    let store = memory();
    take(&store, &source(), None).await;
    let whole = members(&bytes_of(&store, &ExportOptions::default()).await.unwrap());
    let documents: BTreeSet<_> = {
        let none = ExportOptions::default().with_filter(Arc::new(|_| false));
        let found = members(&bytes_of(&store, &none).await.unwrap());
        found.into_iter().map(|(name, _)| name).collect()
    };
    assert!(documents.len() > 5 && documents.len() < whole.len());
    let distributed = Arc::new(|blob: &Descriptor| !blob.media_type.is_non_distributable());
    let options = ExportOptions::default().with_filter(distributed);
    assert_eq!(members(&bytes_of(&store, &options).await.unwrap()), whole);
    let layers = Arc::new(|blob: &Descriptor| blob.media_type.is_layer());
    let options = ExportOptions::default().with_filter(layers);
    let found = members(&bytes_of(&store, &options).await.unwrap());
    assert!(found.len() > documents.len() && found.len() < whole.len());
    assert!(
        documents
            .iter()
            .all(|name| found.iter().any(|(one, _)| one == name))
    );
    // Docker needs the configuration and all layers.
    let selections: [fn(&Descriptor) -> bool; 2] = [
        |blob| !blob.media_type.is_layer(),
        |blob| blob.media_type.is_layer(),
    ];
    for selects in selections {
        let options = docker().with_filter(Arc::new(selects));
        let error = bytes_of(&store, &options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}

#[tokio::test]
async fn one_platform_exports_its_manifest() {
    let (one, other) = (memory(), memory());
    let imported = take(&one, &source(), None).await;
    let multi: Vec<Image> = imported
        .into_iter()
        .filter(|image| image.name.as_str() == "x.test/multi:1")
        .collect();
    let sink = Sink::default();
    let target = Target::Stream(Box::new(sink.clone()));
    let options = for_platform("linux/arm64/v8");
    let exported = export(&one, &multi, target, &options).await.unwrap();
    let archive = sink.0.lock().unwrap().clone();
    let back = take(&other, &archive, None).await;
    assert_eq!(told(&exported), told(&back));
    assert!(back[0].target.media_type.is_manifest());
    let platform = back[0].target.platform.as_ref().unwrap();
    assert_eq!(platform.architecture, "arm64");
    // A manifest, a configuration, two layers.
    assert_eq!(other.content.list(None, 100).await.unwrap().len(), 4);
}

/// The manifest for one platform has another digest than the index.
#[tokio::test]
async fn a_name_with_the_digest_of_an_index_is_not_written_for_its_manifest() {
    let (one, other) = (memory(), memory());
    let mut imported = take(&one, &source(), None).await.into_iter();
    let multi = imported.find(|image| image.name.as_str() == "x.test/multi:1");
    let target = multi.unwrap().target;
    let pinned = format!("x.test/multi@{}", target.digest);
    let image = Image::new(pinned.parse().unwrap(), target);
    let (sink, warned) = (Sink::default(), Arc::new(Warned::default()));
    let target = Target::Stream(Box::new(sink.clone()));
    let options = for_platform("linux/arm64/v8").with_progress(warned.clone());
    let exported = export(&one, &[image], target, &options).await.unwrap();
    let warnings = warned.0.lock().unwrap().join("\n");
    assert!(warnings.contains(&pinned), "{warnings}");
    let archive = sink.0.lock().unwrap().clone();
    let back = take(&other, &archive, None).await;
    let manifest = exported[0].target.clone();
    assert_eq!(told(&back), [(manifest.digest.to_string(), manifest)]);
}

#[tokio::test]
async fn platforms_that_were_never_stored_are_left_out_with_a_warning() {
    let (one, other) = (memory(), memory());
    take(&one, &source(), Some("linux/amd64".parse().unwrap())).await;
    let sink = Sink::default();
    let target = Target::Stream(Box::new(sink.clone()));
    let (all, warned) = (images(&one, false).await, Arc::new(Warned::default()));
    let options = ExportOptions::default().with_progress(warned.clone());
    export(&one, &all, target, &options).await.unwrap();
    let warnings = warned.0.lock().unwrap().join("\n");
    assert_eq!(warnings.lines().count(), 1, "{warnings}");
    assert!(warnings.contains("linux/arm64"), "{warnings}");
    let archive = sink.0.lock().unwrap().clone();
    let back = take(&other, &archive, None).await;
    assert_eq!(told(&all), told(&back));
}

/// Copies an image without its layers. Returns their digests.
async fn copy_without_layers(from: &Store, to: &Store, image: &Image) -> Vec<Digest> {
    let guard = LeaseGuard::begin(to, "test").await.unwrap();
    let parts = dispatch::children(&*from.content, &image.target)
        .await
        .unwrap();
    for part in [&parts[0], &image.target] {
        let data = from.content.fetch(part).await.unwrap();
        guard.put(part, data, Durability::Full).await.unwrap();
    }
    guard.name_one(image.clone(), &[]).await.unwrap();
    parts[1..].iter().map(|layer| layer.digest).collect()
}

#[tokio::test]
async fn an_image_whose_layers_were_not_stored_is_not_exported() {
    let (one, sparse) = (memory(), memory());
    take(&one, &source(), None).await;
    let all = images(&one, false).await;
    let image = all.iter().find(|image| image.name.as_str() == "other");
    let layers = copy_without_layers(&one, &sparse, image.unwrap()).await;
    let oci = ExportOptions::default();
    for options in [oci, docker()] {
        let error = bytes_of(&sparse, &options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(
            error.to_string().contains(&layers[0].to_string()),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_docker_archive_lists_each_image_once_and_keeps_the_layout() {
    let (one, other) = (memory(), memory());
    take(&one, &source(), None).await;
    let options = docker().with_platforms("linux/amd64".parse::<Platform>().unwrap());
    let archive = bytes_of(&one, &options).await.unwrap();
    let listed = members(&archive);
    assert_eq!(listed[2].0, "manifest.json");
    let entries: Value = serde_json::from_slice(&listed[2].1).unwrap();
    let tags: Vec<&Value> = entries.as_array().unwrap().iter().collect();
    let tags: Vec<&Value> = tags.iter().map(|entry| &entry["RepoTags"]).collect();
    assert_eq!(
        tags,
        [
            &json!([
                "docker.io/library/other:latest",
                "x.test/multi:1",
                "x.test/one:1"
            ]),
            &json!(["x.test/zstd:1"])
        ]
    );
    let there: BTreeSet<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
    for entry in entries.as_array().unwrap() {
        assert!(there.contains(entry["Config"].as_str().unwrap()));
        for layer in entry["Layers"].as_array().unwrap() {
            assert!(there.contains(layer.as_str().unwrap()));
        }
    }
    let back = take(&other, &archive, None).await;
    assert!(
        back.iter()
            .all(|image| image.target.media_type.is_manifest())
    );
    // A reader that does not know layouts reads `manifest.json` alone, and finds the same layers.
    let mut without = Files::default();
    for (name, data) in listed.iter().filter(|(name, _)| name != "index.json") {
        without.add(name, data);
    }
    let third = memory();
    let names: Vec<String> = take(&third, &without.tar(), None)
        .await
        .iter()
        .map(|image| image.name.to_string())
        .collect();
    assert_eq!(
        names,
        [
            "docker.io/library/other:latest",
            "x.test/multi:1",
            "x.test/one:1",
            "x.test/zstd:1"
        ]
    );
}

#[tokio::test]
async fn an_existing_file_is_replaced_and_links_are_followed() {
    let store = memory();
    take(&store, &source(), None).await;
    let directory = tempfile::tempdir().unwrap();
    let real = directory.path().join("real.tar");
    std::fs::write(&real, "before").unwrap();
    let link = directory.path().join("link.tar");
    std::os::unix::fs::symlink("real.tar", &link).unwrap();
    let all = images(&store, false).await;
    let options = ExportOptions::default();
    export(&store, &all, Target::Path(link.clone()), &options)
        .await
        .unwrap();
    assert!(link.is_symlink());
    assert_eq!(
        std::fs::read(&real).unwrap(),
        bytes_of(&store, &options).await.unwrap()
    );
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    let null = Target::Path("/dev/null".into());
    export(&store, &all, null, &options).await.unwrap();
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
}
