//! Imports that succeed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cas_core::content::ContentExt;
use cas_core::error::ErrorKind;
use cas_core::image::Reference;
use cas_core::progress::{Event, Phase};
use cas_core::{Descriptor, Digest, Error, Image, ImageStore, MediaType, Result};
use cas_layer::import::{ImportOptions, Source};
use serde_json::{Value, json};

use super::{State, for_platform, import, named, state_of, store};
use crate::common::source::{Files, Member, OWN, blob_path, gzip, in_file, in_stream, noise, zstd};

pub(super) fn names(images: &[Image]) -> Vec<&str> {
    images.iter().map(|image| image.name.as_str()).collect()
}

fn two_tags() -> (Files, Descriptor) {
    let mut files = Files::layout();
    let image = files.image(1, "amd64");
    files.entries(&[(Some("latest"), &image), (Some("x.io/a:v1"), &image)]);
    (files, image)
}

/// Moves the content of a descriptor from the source into the descriptor.
fn embed(files: &mut Files, descriptor: &mut Descriptor) {
    let path = blob_path(&descriptor.digest);
    let at = files.0.iter().position(|(known, _)| *known == path);
    let Member::File(data) = files.0.remove(at.unwrap()).1 else {
        panic!("expected a file");
    };
    descriptor.data = Some(BASE64_STANDARD.encode(data));
}

/// The embedded content is stored like any other.
#[tokio::test]
async fn what_a_descriptor_embeds_need_not_be_in_the_source() {
    for embedded in ["configuration", "manifest", "nested index", "entry"] {
        let mut files = Files::layout();
        let layer = files.blob(MediaType::OCI_LAYER, &noise(0, 70_000));
        let config = serde_json::json!({
            "os": "linux", "architecture": "amd64",
            "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
        });
        let mut config = files.blob(MediaType::OCI_CONFIG, config.to_string().as_bytes());
        if embedded == "configuration" {
            embed(&mut files, &mut config);
        }
        let mut manifest = files.manifest(config.clone(), vec![layer]);
        let digests = [config.digest, manifest.digest];
        if embedded == "manifest" {
            embed(&mut files, &mut manifest);
        }
        let mut nested = files.index(vec![manifest]);
        if embedded == "nested index" {
            embed(&mut files, &mut nested);
        }
        let mut root = files.index(vec![nested.clone()]);
        if embedded == "entry" {
            embed(&mut files, &mut root);
        }
        files.entries(&[(Some("a:1"), &root)]);
        for options in [ImportOptions::default(), for_platform("linux/amd64")] {
            let store = store();
            let made = import(&store, in_stream(&files.tar()), &options).await;
            assert_eq!(names(&made.unwrap()), ["a:1"], "{embedded}");
            for digest in [&digests[0], &digests[1], &nested.digest, &root.digest] {
                let stored = store.content.hash(digest).await.unwrap();
                assert_eq!(stored, Some(*digest), "{embedded}");
            }
        }
    }
}

#[tokio::test]
async fn images_may_share_a_layer_under_several_types() {
    let mut files = Files::layout();
    let layer = files.blob(MediaType::OCI_LAYER_GZIP, &gzip(&noise(0, 70_000)));
    let mut entries = Vec::new();
    for (number, media_type) in [
        MediaType::OCI_LAYER_GZIP,
        MediaType::DOCKER_LAYER_GZIP,
        MediaType::DOCKER_LAYER,
        MediaType::from("application/octet-stream"),
    ]
    .into_iter()
    .enumerate()
    {
        let config = serde_json::json!({
            "os": "linux", "architecture": "amd64", "number": number,
            "rootfs": { "type": "layers", "diff_ids": [Digest::sha256(&noise(0, 70_000))] },
        });
        let config = files.blob(MediaType::OCI_CONFIG, config.to_string().as_bytes());
        let layer = Descriptor {
            media_type,
            ..layer.clone()
        };
        entries.push((format!("a:{number}"), files.manifest(config, vec![layer])));
    }
    let named = entries
        .iter()
        .map(|(name, image)| (Some(name.as_str()), image));
    files.entries(&named.collect::<Vec<_>>());
    let store = store();
    let made = import(&store, in_stream(&files.tar()), &ImportOptions::default()).await;
    assert_eq!(names(&made.unwrap()), ["a:0", "a:1", "a:2", "a:3"]);
}

#[tokio::test]
async fn every_kind_of_source_gives_the_same_store() {
    let (files, image) = two_tags();
    let directory = tempfile::tempdir().unwrap();
    files.write(directory.path());
    let tar = files.tar();
    let scratch = tempfile::tempdir().unwrap();
    let sources = [
        Source::Path(directory.path().to_owned()),
        in_file(scratch.path(), &tar),
        in_stream(&tar),
        in_stream(&gzip(&tar)),
        in_stream(&zstd(&tar)),
    ];
    let mut expected: Option<State> = None;
    for source in sources {
        let store = store();
        let images = import(&store, source, &ImportOptions::default())
            .await
            .unwrap();
        assert_eq!(names(&images), ["latest", "x.io/a:v1"]);
        assert!(images.iter().all(|made| made.target == image));
        let (record, _) = store.blobs().load(&image.digest).await.unwrap().unwrap();
        assert_eq!(
            (record.children.len(), record.media_type),
            (3, Some(MediaType::OCI_MANIFEST))
        );
        let seen = state_of(&store).await;
        assert_eq!(
            (seen.blobs.len(), seen.records.len(), seen.ingests.len()),
            (4, 4, 0)
        );
        assert_eq!(*expected.get_or_insert(seen), state_of(&store).await);
    }
    let compressed = in_file(scratch.path(), &gzip(&tar));
    let store = store();
    import(&store, compressed, &ImportOptions::default())
        .await
        .unwrap();
    assert_eq!(expected.unwrap(), state_of(&store).await);
}

#[tokio::test]
async fn importing_again_changes_nothing_and_a_name_can_be_re_pointed() {
    let (files, first) = two_tags();
    let store = store();
    import(&store, in_stream(&files.tar()), &ImportOptions::default())
        .await
        .unwrap();
    let before = state_of(&store).await;
    import(&store, in_stream(&files.tar()), &ImportOptions::default())
        .await
        .unwrap();
    assert_eq!(before, state_of(&store).await);

    let mut files = Files::layout();
    let second = files.image(2, "amd64");
    files.entries(&[(Some("latest"), &second)]);
    import(&store, in_stream(&files.tar()), &ImportOptions::default())
        .await
        .unwrap();
    let target = |name: &str| {
        let (images, name) = (store.images.clone(), name.parse::<Reference>().unwrap());
        async move { images.get(&name).await.unwrap().unwrap().target.digest }
    };
    assert_eq!(target("latest").await, second.digest);
    assert_eq!(target("x.io/a:v1").await, first.digest);
}

#[tokio::test]
async fn the_full_name_of_containerd_is_preferred_over_the_short_one() {
    let (mut files, _) = two_tags();
    let index = String::from_utf8(files.file("index.json").clone()).unwrap();
    let both =
        r#""io.containerd.image.name":"x.io/full:1","org.opencontainers.image.ref.name":"latest""#;
    let short = r#""org.opencontainers.image.ref.name":"latest""#;
    assert!(index.contains(short), "{index}");
    *files.file("index.json") = index.replace(short, both).into_bytes();
    let images = import(&store(), in_stream(&files.tar()), &ImportOptions::default())
        .await
        .unwrap();
    assert_eq!(names(&images), ["x.io/a:v1", "x.io/full:1"]);
}

#[tokio::test]
async fn a_given_name_replaces_the_name_or_becomes_a_prefix_of_the_tags() {
    let (files, image) = two_tags();
    let images = import(&store(), in_stream(&files.tar()), &named("x.io/n"))
        .await
        .unwrap();
    assert_eq!(names(&images), ["x.io/n:latest", "x.io/n:v1"]);

    let mut files = files;
    files.remove("index.json");
    files.entries(&[(None, &image)]);
    let images = import(&store(), in_stream(&files.tar()), &named("x.io/n:1"))
        .await
        .unwrap();
    assert_eq!(names(&images), ["x.io/n:1"]);
}

#[tokio::test]
async fn unreferenced_blobs_are_removed_unless_they_existed_before() {
    let (mut files, _) = two_tags();
    files.blob(MediaType::OCI_LAYER, b"nobody wants this");
    files.blob(MediaType::OCI_LAYER, b"somebody had this before");
    let store = store();
    let theirs = store
        .content
        .put("somebody had this before".into())
        .await
        .unwrap();
    import(&store, in_stream(&files.tar()), &ImportOptions::default())
        .await
        .unwrap();
    let blobs: BTreeSet<Digest> = state_of(&store)
        .await
        .blobs
        .iter()
        .map(|(digest, _)| *digest)
        .collect();
    assert_eq!(blobs.len(), 5);
    assert!(blobs.contains(&theirs));
}

#[tokio::test]
async fn existing_blobs_are_not_read_from_the_source() {
    let (mut files, _) = two_tags();
    let layer = noise(1, OWN);
    let store = store();
    let digest = store.content.put(layer.clone().into()).await.unwrap();
    // The blob in the source is damaged, so reading it would fail.
    files.file(&blob_path(&digest))[5] ^= 1;
    let directory = tempfile::tempdir().unwrap();
    files.write(directory.path());
    let source = Source::Path(directory.path().to_owned());
    import(&store, source, &ImportOptions::default())
        .await
        .unwrap();
    let descriptor = Descriptor::new(MediaType::OCI_LAYER, digest, layer.len() as u64);
    assert_eq!(store.content.fetch(&descriptor).await.unwrap(), layer);
}

#[tokio::test]
async fn names_outside_the_archive_are_ignored() {
    let (mut files, _) = two_tags();
    files.add("../../outside", b"x");
    files.add("/absolute", b"x");
    let store = store();
    let directory = tempfile::tempdir().unwrap();
    for source in [
        in_stream(&files.tar()),
        in_file(directory.path(), &files.tar()),
    ] {
        import(&store, source, &ImportOptions::default())
            .await
            .unwrap();
        assert_eq!(state_of(&store).await.blobs.len(), 4);
    }
}

#[tokio::test]
async fn a_directory_without_layout_file_is_imported() {
    let (mut files, _) = two_tags();
    files.remove("oci-layout");
    let directory = tempfile::tempdir().unwrap();
    files.write(directory.path());
    let source = Source::Path(directory.path().to_owned());
    assert_eq!(
        import(&store(), source, &ImportOptions::default())
            .await
            .unwrap()
            .len(),
        2
    );
}

/// Refuses to create the name `x.io/a:v1`.
struct Refusing(Arc<dyn ImageStore>);

#[async_trait]
impl ImageStore for Refusing {
    async fn get(&self, name: &Reference) -> Result<Option<Image>> {
        self.0.get(name).await
    }
    async fn list(&self, filters: &[&str]) -> Result<Vec<Image>> {
        self.0.list(filters).await
    }
    async fn create(&self, image: Image) -> Result<Image> {
        match image.name.as_str() {
            "x.io/a:v1" => Err(Error::new(ErrorKind::Full, "planted")),
            _ => self.0.create(image).await,
        }
    }
    async fn update(&self, image: Image, fieldpaths: &[&str]) -> Result<Image> {
        self.0.update(image, fieldpaths).await
    }
    async fn compare_and_swap(&self, expected: &Descriptor, image: Image) -> Result<Image> {
        self.0.compare_and_swap(expected, image).await
    }
    async fn delete(&self, name: &Reference, target: Option<&Descriptor>) -> Result<()> {
        self.0.delete(name, target).await
    }
}

#[tokio::test]
async fn if_one_name_cannot_be_created_none_is() {
    let mut store = store();
    let mut files = Files::layout();
    let first = files.image(7, "amd64");
    files.entries(&[(Some("latest"), &first)]);
    import(&store, in_stream(&files.tar()), &ImportOptions::default())
        .await
        .unwrap();
    let before = state_of(&store).await;
    store.images = Arc::new(Refusing(store.images));
    let (files, _) = two_tags();
    let error = import(&store, in_stream(&files.tar()), &ImportOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert_eq!(before, state_of(&store).await);
}

/// A layout from before `index.json` has a file per name in `refs/`.
#[tokio::test]
async fn the_names_of_an_old_layout_are_read() {
    let mut files = Files::layout();
    let image = files.image(1, "amd64");
    for name in ["v1", "latest"] {
        let descriptor = serde_json::to_vec(&image).unwrap();
        files.add(&format!("refs/{name}"), &descriptor);
    }
    let directory = tempfile::tempdir().unwrap();
    files.write(directory.path());
    let tar = files.tar();
    let scratch = tempfile::tempdir().unwrap();
    for source in [
        Source::Path(directory.path().to_owned()),
        in_file(scratch.path(), &tar),
        in_stream(&gzip(&tar)),
    ] {
        let store = store();
        let made = import(&store, source, &ImportOptions::default()).await;
        let made = made.unwrap();
        assert_eq!(names(&made), ["latest", "v1"]);
        assert!(made.iter().all(|made| made.target == image));
    }
    for (text, kind) in [("{", ErrorKind::Corrupt), ("null", ErrorKind::Corrupt)] {
        let mut bad = files.clone();
        bad.add("refs/bad", text.as_bytes());
        let store = store();
        let refused = import(&store, in_stream(&bad.tar()), &ImportOptions::default()).await;
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains("refs/bad"), "{error}");
        assert!(state_of(&store).await.blobs.is_empty());
    }
}

/// Returns options, and the warnings that an import with these options sends.
pub(super) fn warned() -> (ImportOptions, Arc<Mutex<Vec<String>>>) {
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = Arc::clone(&said);
    let options = ImportOptions::default().with_progress(Arc::new(move |event: Event<'_>| {
        if event.phase == Phase::Warning {
            sink.lock().unwrap().push(event.item.to_owned());
        }
    }));
    (options, said)
}

/// Other programs know more algorithms.
#[tokio::test]
async fn entries_with_digests_of_other_algorithms_are_left_out() {
    let (mut files, image) = two_tags();
    let index: Value = serde_json::from_slice(files.file("index.json")).unwrap();
    let other = json!({
        "mediaType": MediaType::OCI_MANIFEST, "size": 2,
        "digest": format!("sha384:{}", "0".repeat(96)),
    });
    let with = |mut entries: Vec<Value>| {
        entries.push(other.clone());
        let mut index = index.clone();
        index["manifests"] = entries.into();
        index.to_string().into_bytes()
    };
    let (options, said) = warned();
    *files.file("index.json") = with(index["manifests"].as_array().unwrap().clone());
    let images = import(&store(), in_stream(&files.tar()), &options).await;
    let images = images.unwrap();
    assert_eq!(names(&images), ["latest", "x.io/a:v1"]);
    assert!(images.iter().all(|made| made.target == image));
    let said = said.lock().unwrap().clone();
    assert!(said.len() == 1 && said[0].contains("sha384:0"), "{said:?}");

    *files.file("index.json") = with(Vec::new());
    let error = import(&store(), in_stream(&files.tar()), &options).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("sha384:0"), "{error}");
    // A damaged digest does not have another algorithm.
    let damaged = String::from_utf8(files.file("index.json").clone()).unwrap();
    *files.file("index.json") = damaged.replace("sha384", "sha256").into_bytes();
    let error = import(&store(), in_stream(&files.tar()), &options).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Corrupt);
}

/// The image can be used for its other platforms.
#[tokio::test]
async fn manifests_with_digests_of_other_algorithms_are_left_out_of_an_index() {
    let mut files = Files::layout();
    let amd64 = files.image(1, "amd64");
    let amd64 = amd64.with_platform("linux/amd64".parse().unwrap());
    let other = json!({
        "mediaType": MediaType::OCI_MANIFEST, "size": 2, "digest": "sha384:00",
        "platform": { "os": "linux", "architecture": "arm64" },
    });
    let mut index = |entries: Value| {
        let index = json!({ "schemaVersion": 2, "manifests": entries }).to_string();
        files.blob(MediaType::OCI_INDEX, index.as_bytes())
    };
    let useless = index(json!([other]));
    let usable = index(json!([other, amd64, useless]));
    let mut alone = files.clone();
    files.entries(&[(Some("useless"), &useless), (Some("usable"), &usable)]);
    let (to, (options, said)) = (store(), warned());
    let images = import(&to, in_stream(&files.tar()), &options).await;
    let images = images.unwrap();
    assert_eq!(names(&images), ["usable"]);
    assert_eq!(images[0].target, usable);
    let said = said.lock().unwrap().clone();
    assert_eq!(said.len(), 2, "{said:?}");
    for (text, index) in said.iter().zip([&useless, &usable]) {
        assert!(text.contains(&index.digest.to_string()), "{text}");
        assert!(text.contains("sha384:00"), "{text}");
    }
    let stored = to.content.fetch(&usable).await.unwrap();
    assert_eq!(stored, files.file(&blob_path(&usable.digest))[..]);
    let (record, _) = to.blobs().load(&usable.digest).await.unwrap().unwrap();
    assert_eq!(record.children, [amd64.digest, useless.digest]);
    assert_eq!(record.absent, BTreeSet::from([useless.digest]));

    alone.entries(&[(Some("useless"), &useless)]);
    for (files, options) in [(&alone, options), (&files, for_platform("linux/arm64"))] {
        let to = store();
        let error = import(&to, in_stream(&files.tar()), &options).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("sha384:00"), "{error}");
        assert!(state_of(&to).await.blobs.is_empty());
    }
}

/// The image can be used for its other platforms.
#[tokio::test]
async fn manifests_that_list_digests_of_other_algorithms_are_left_out_of_an_index() {
    let mut files = Files::layout();
    let amd64 = files.image(1, "amd64");
    let amd64 = amd64.with_platform("linux/amd64".parse().unwrap());
    let rootfs = json!({ "type": "layers", "diff_ids": [] });
    let config = json!({ "os": "linux", "architecture": "arm64", "rootfs": rootfs });
    let config = files.blob(MediaType::OCI_CONFIG, config.to_string().as_bytes());
    let layer = json!({ "mediaType": MediaType::OCI_LAYER, "digest": "blake3:00", "size": 2 });
    let other = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    let other = files.blob(MediaType::OCI_MANIFEST, other.to_string().as_bytes());
    let arm64 = other.clone().with_platform("linux/arm64".parse().unwrap());
    let empty = files.blob(MediaType::OCI_EMPTY, b"{}");
    let artifact = files.manifest(empty, Vec::new());
    let usable = files.index(vec![arm64.clone(), amd64.clone(), artifact]);
    let alone = files.index(vec![arm64]);
    let listing = |entries: &[(Option<&str>, &Descriptor)]| {
        let mut files = files.clone();
        files.entries(entries);
        files.tar()
    };
    let (to, (options, said)) = (store(), warned());
    let both = listing(&[(Some("usable"), &usable), (Some("other"), &other)]);
    let images = import(&to, in_stream(&both), &options).await.unwrap();
    assert_eq!(names(&images), ["usable"]);
    assert_eq!(images[0].target, usable);
    let said = said.lock().unwrap().clone();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains(&other.digest.to_string()), "{said:?}");
    assert!(said[0].contains("blake3:00"), "{said:?}");
    let (record, _) = to.blobs().load(&usable.digest).await.unwrap().unwrap();
    assert_eq!(record.absent, BTreeSet::from([other.digest]));
    assert!(!to.present(&other).await.unwrap());

    for (target, options) in [
        (&usable, for_platform("linux/arm64")),
        (&alone, ImportOptions::default()),
        (&other, ImportOptions::default()),
    ] {
        let to = store();
        let source = listing(&[(Some("image"), target)]);
        let error = import(&to, in_stream(&source), &options).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("blake3:00"), "{error}");
        assert!(state_of(&to).await.blobs.is_empty());
    }
}
