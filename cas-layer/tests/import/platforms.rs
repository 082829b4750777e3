//! Imports of one platform, and of images for other machines.

use std::sync::{Arc, Mutex};

use cas_core::error::ErrorKind;
use cas_core::platform::Only;
use cas_core::progress::{Event, Phase};
use cas_core::{Descriptor, MediaType, Platform, Platforms, Store, image, limit};
use cas_layer::import::ImportOptions;
use serde_json::json;

use super::good::{names, warned};
use super::{for_platform, import, state_of, store};
use crate::common::source::{Files, blob_path, in_file, in_stream};

/// Returns a layout with amd64 and arm v6 in a nested index, and arm v7 in the outer index.
fn platforms() -> (Files, Vec<Descriptor>) {
    let mut files = Files::layout();
    let of = |files: &mut Files, seed, platform: &str| {
        let platform: Platform = platform.parse().unwrap();
        files
            .image(seed, &platform.architecture)
            .with_platform(platform)
    };
    let amd64 = of(&mut files, 1, "linux/amd64");
    let v6 = of(&mut files, 2, "linux/arm/v6");
    let v7 = of(&mut files, 3, "linux/arm/v7");
    let v5 = of(&mut files, 4, "linux/arm/v5");
    let inner = files.index(vec![amd64.clone(), v5.clone(), v6.clone()]);
    let outer = files.index(vec![inner, v7.clone()]);
    files.entries(&[(Some("multi"), &outer)]);
    (files, vec![amd64, v5, v6, v7])
}

#[tokio::test]
async fn one_platform_is_imported_and_the_index_is_unchanged() {
    let (files, all) = platforms();
    let directory = tempfile::tempdir().unwrap();
    for source in [
        in_file(directory.path(), &files.tar()),
        in_stream(&files.tar()),
    ] {
        let store = store();
        let options = for_platform("linux/amd64");
        let images = import(&store, source, &options).await.unwrap();
        assert!(images[0].target.media_type.is_index());
        let there: Vec<bool> = present(&store, &all).await;
        assert_eq!(there, [true, false, false, false]);
        // Two indexes, a manifest, a configuration, two layers.
        assert_eq!(state_of(&store).await.blobs.len(), 6);
    }
    let store = store();
    import(&store, in_stream(&files.tar()), &ImportOptions::default())
        .await
        .unwrap();
    assert_eq!(present(&store, &all).await, [true; 4]);
}

async fn present(store: &Store, all: &[Descriptor]) -> Vec<bool> {
    let mut there = Vec::new();
    for descriptor in all {
        there.push(store.present(descriptor).await.unwrap());
    }
    there
}

#[tokio::test]
async fn of_several_tagged_images_only_those_for_the_platform_are_imported() {
    let mut files = Files::layout();
    let (one, two) = (files.image(1, "amd64"), files.image(2, "arm64"));
    files.entries(&[(Some("one"), &one), (Some("two"), &two)]);
    let store = store();
    let options = for_platform("linux/arm64/v8");
    let images = import(&store, in_stream(&files.tar()), &options)
        .await
        .unwrap();
    assert_eq!(names(&images), ["two"]);
    assert_eq!(state_of(&store).await.blobs.len(), 4);
}

/// Like a pull. A platform that is named is required.
#[tokio::test]
async fn an_image_without_an_index_is_imported_for_this_machine_whatever_its_platform_is() {
    let host = || ImportOptions::default().with_platforms(Platforms::Host);
    let mut alone = Files::layout();
    let image = alone.image(1, "s390x");
    alone.entries(&[(Some("other"), &image)]);
    let images = import(&store(), in_stream(&alone.tar()), &host()).await;
    assert_eq!(names(&images.unwrap()), ["other"]);

    let required = host().with_platforms(Platform::host());
    let error = import(&store(), in_stream(&alone.tar()), &required).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);

    let listed = image.with_platform("linux/s390x".parse().unwrap());
    for depth in 0..2 {
        let target = match depth {
            0 => listed.clone(),
            _ => alone.index(vec![listed.clone()]),
        };
        let mut files = alone.clone();
        files.remove("index.json");
        files.entries(&[(Some("other"), &target)]);
        let error = import(&store(), in_stream(&files.tar()), &host()).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{depth}");
        assert!(error.to_string().contains("linux/s390x"), "{error}");
    }
}

#[tokio::test]
async fn a_sparse_index_is_imported_unchanged() {
    let (mut files, all) = platforms();
    files.remove(&blob_path(&all[1].digest));
    let store = store();
    import(&store, in_stream(&files.tar()), &ImportOptions::default())
        .await
        .unwrap();
    assert_eq!(present(&store, &all).await, [true, false, true, true]);
}

/// The other manifest may be for another variant of the platform, or only its configuration may
/// state the platform.
#[tokio::test]
async fn another_manifest_for_the_platform_replaces_one_that_cannot_be_verified() {
    let mut files = Files::layout();
    let wanted: Platform = "linux/arm/v7".parse().unwrap();
    let sound = files.image(1, "arm");
    let v7 = sound.clone().with_platform(wanted.clone());
    let v6 = sound.clone().with_platform("linux/arm/v6".parse().unwrap());
    let layer = json!({ "mediaType": MediaType::OCI_LAYER, "digest": "blake3:00", "size": 2 });
    let config = files.blob(MediaType::OCI_CONFIG, b"{}");
    let other = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    let other = files.blob(MediaType::OCI_MANIFEST, other.to_string().as_bytes());
    let other = other.with_platform(wanted.clone());
    let (inner, unverifiable) = (
        files.index(vec![v6.clone()]),
        files.index(vec![other.clone()]),
    );
    for (case, entries) in [
        ("same platform", vec![other.clone(), v7]),
        ("other variant", vec![other.clone(), v6.clone()]),
        (
            "stated by the configuration",
            vec![other.clone(), sound.clone()],
        ),
        ("in a nested index", vec![other.clone(), inner]),
        ("beside a nested index", vec![unverifiable, v6]),
    ] {
        let mut files = files.clone();
        let index = files.index(entries);
        files.entries(&[(Some("app"), &index)]);
        let (options, said) = warned();
        let options = options.with_platforms(wanted.clone());
        let store = store();
        let images = import(&store, in_stream(&files.tar()), &options).await;
        assert_eq!(images.unwrap()[0].target, index, "{case}");
        let found = image::manifest(&*store.content, &index, &Only::new(&wanted)).await;
        assert_eq!(found.unwrap().descriptor.digest, sound.digest, "{case}");
        assert!(!store.present(&other).await.unwrap(), "{case}");
        let said = said.lock().unwrap();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(&other.digest.to_string()), "{said:?}");
    }
    let amd64 = files.image(2, "amd64");
    let index = files.index(vec![other, amd64]);
    files.entries(&[(Some("app"), &index)]);
    let error = import(
        &store(),
        in_stream(&files.tar()),
        &for_platform("linux/arm/v7"),
    )
    .await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
}

/// Without a manifest, an index is not an image.
#[tokio::test]
async fn an_index_without_any_of_its_manifests_is_not_imported() {
    let all = ImportOptions::default;
    let mut files = Files::layout();
    let (lost, kept) = (files.image(1, "amd64"), files.image(2, "amd64"));
    let (sparse, whole) = (files.index(vec![lost.clone()]), files.index(vec![kept]));
    files.remove(&blob_path(&lost.digest));
    let mut alone = files.clone();
    alone.entries(&[(Some("sparse"), &sparse)]);
    let error = import(&store(), in_stream(&alone.tar()), &all()).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");

    files.entries(&[(Some("sparse"), &sparse), (Some("whole"), &whole)]);
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = Arc::clone(&said);
    let options = all().with_progress(Arc::new(move |event: Event<'_>| {
        if event.phase == Phase::Warning {
            sink.lock().unwrap().push(event.item.to_owned());
        }
    }));
    let images = import(&store(), in_stream(&files.tar()), &options).await;
    assert_eq!(names(&images.unwrap()), ["whole"]);
    let said = said.lock().unwrap();
    let is_named = |text: &String| text.contains(&sparse.digest.to_string());
    assert!(said.iter().any(is_named), "{said:?}");
}

#[tokio::test]
async fn as_many_indexes_as_allowed_are_nested_and_no_more() {
    for (levels, is_taken) in [(limit::INDEX_DEPTH, true), (limit::INDEX_DEPTH + 1, false)] {
        let mut files = Files::layout();
        let mut root = files.image(1, "amd64");
        for _ in 0..levels {
            root = files.index(vec![root]);
        }
        files.entries(&[(Some("deep"), &root)]);
        let taken = import(&store(), in_stream(&files.tar()), &ImportOptions::default()).await;
        let kind = taken.err().map(|error| error.kind());
        assert_eq!(
            kind,
            (!is_taken).then_some(ErrorKind::OutOfRange),
            "{levels}"
        );
    }
}
