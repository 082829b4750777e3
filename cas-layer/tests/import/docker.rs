//! Archives of `docker save`.

use cas_core::content::ContentExt;
use cas_core::error::ErrorKind;
use cas_core::{Descriptor, Digest, Document, MediaType, Platform, Platforms, Store};
use cas_layer::import::ImportOptions;
use serde_json::json;

use super::{for_platform, import, named, state_of, store};
use crate::common::source::{Files, gzip, in_file, in_stream, noise};

/// Makes a valid archive invalid.
type Change = fn(&mut Files);

fn config(diff_ids: &[Digest]) -> Vec<u8> {
    let diff_ids: Vec<String> = diff_ids.iter().map(Digest::to_string).collect();
    let config = json!({
        "os": "linux", "architecture": "amd64", "container_config": { "Hostname": "kept" },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    config.to_string().into_bytes()
}

/// Returns an archive of two layers, the second behind a link, as Docker wrote it, and its
/// configuration.
pub(super) fn saved(tags: serde_json::Value) -> (Files, Vec<u8>) {
    let layers = [noise(1, 2 << 20), noise(2, 5_000)];
    let config = config(&layers.each_ref().map(|layer| Digest::sha256(layer)));
    let mut files = Files::default();
    files.add("aa/layer.tar", &layers[0]);
    files.add("aa/VERSION", b"1.0");
    files.add("bb.tar", &layers[1]);
    files.link("bb/layer.tar", "../bb.tar");
    files.add("config.json", &config);
    let listed = json!([{
        "Config": "config.json", "RepoTags": tags, "Layers": ["aa/layer.tar", "bb/layer.tar"],
    }]);
    files.add("manifest.json", listed.to_string().as_bytes());
    files.add("repositories", b"{}");
    (files, config)
}

async fn children(store: &Store, target: &Descriptor) -> Vec<Descriptor> {
    let data = store.content.fetch(target).await.unwrap();
    let document = Document::parse(&target.media_type, &data).unwrap();
    document.children().cloned().collect()
}

#[tokio::test]
async fn becomes_an_oci_image_with_the_same_configuration() {
    let (files, config) = saved(json!(["x.io/a:1", "x.io/a:2"]));
    let directory = tempfile::tempdir().unwrap();
    let mut targets = Vec::new();
    for source in [
        in_stream(&files.tar()),
        in_file(directory.path(), &files.tar()),
    ] {
        let store = store();
        let images = import(&store, source, &ImportOptions::default())
            .await
            .unwrap();
        assert_eq!(images.len(), 2);
        let children = children(&store, &images[0].target).await;
        assert_eq!(store.content.fetch(&children[0]).await.unwrap(), config);
        let kinds: Vec<&MediaType> = children.iter().map(|child| &child.media_type).collect();
        assert_eq!(
            kinds,
            [
                &MediaType::OCI_CONFIG,
                &MediaType::OCI_LAYER,
                &MediaType::OCI_LAYER
            ]
        );
        let seen = state_of(&store).await;
        assert_eq!((seen.blobs.len(), seen.ingests.len()), (4, 0));
        targets.push(images[0].target.clone());
    }
    assert_eq!(targets[0], targets[1]);
}

#[tokio::test]
async fn compressed_layers_stay_compressed() {
    let plain = noise(3, 40_000);
    let mut files = Files::default();
    files.add("layer.tar.gz", &gzip(&plain));
    files.add("config", &config(&[Digest::sha256(&plain)]));
    let entry = json!({ "Config": "config", "RepoTags": ["a"], "Layers": ["layer.tar.gz"] });
    files.add("manifest.json", json!([entry]).to_string().as_bytes());
    let directory = tempfile::tempdir().unwrap();
    for source in [
        in_stream(&files.tar()),
        in_file(directory.path(), &files.tar()),
    ] {
        let store = store();
        let images = import(&store, source, &ImportOptions::default())
            .await
            .unwrap();
        let layer = &children(&store, &images[0].target).await[1];
        assert_eq!(
            *layer,
            Descriptor::of(MediaType::OCI_LAYER_GZIP, &gzip(&plain))
        );
        assert!(store.present(layer).await.unwrap());
    }
}

#[tokio::test]
async fn without_tags_an_image_gets_the_given_name_or_its_digest() {
    let (files, _) = saved(json!(null));
    let tar = files.tar();
    let (one, other, options) = (store(), store(), ImportOptions::default());
    let images = import(&one, in_stream(&tar), &options).await.unwrap();
    assert_eq!(images[0].name.as_str(), images[0].target.digest.to_string());
    let given = import(&other, in_stream(&tar), &named("a")).await.unwrap();
    assert_eq!(given[0].name.as_str(), "a");
    assert_eq!((given.len(), &given[0].target), (1, &images[0].target));
}

#[tokio::test]
async fn another_platform_is_not_found() {
    let (files, _) = saved(json!(["a"]));
    let options = for_platform("linux/s390x");
    let error = import(&store(), in_stream(&files.tar()), &options)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("linux/amd64"), "{error}");
}

/// Like a pull of an image without an index.
#[tokio::test]
async fn an_archive_for_another_machine_is_imported_unless_a_platform_is_named() {
    let (mut files, _) = saved(json!(["a"]));
    let config = files.file("config.json");
    let text = String::from_utf8(config.clone()).unwrap();
    *config = text.replace("amd64", "s390x").into_bytes();
    let host = ImportOptions::default().with_platforms(Platforms::Host);
    import(&store(), in_stream(&files.tar()), &host)
        .await
        .unwrap();
    let named = host.with_platforms(Platform::host());
    let error = import(&store(), in_stream(&files.tar()), &named).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn inconsistent_archives_are_refused() {
    let changes: [(&str, ErrorKind, Change); 5] = [
        ("layer is not its diff id", ErrorKind::Corrupt, |files| {
            files.file("bb.tar")[0] ^= 1
        }),
        ("layer missing", ErrorKind::NotFound, |files| {
            files.remove("bb.tar")
        }),
        ("config missing", ErrorKind::NotFound, |files| {
            files.remove("config.json")
        }),
        ("link in a circle", ErrorKind::Corrupt, |files| {
            files.remove("bb.tar");
            files.link("bb.tar", "bb/layer.tar");
        }),
        ("a layer too many", ErrorKind::Corrupt, |files| {
            let listed = String::from_utf8(files.file("manifest.json").clone()).unwrap();
            let listed = listed.replace("[\"aa", "[\"bb.tar\",\"aa");
            *files.file("manifest.json") = listed.into_bytes();
        }),
    ];
    let directory = tempfile::tempdir().unwrap();
    for (what, kind, change) in changes {
        let (mut files, _) = saved(json!(["a"]));
        change(&mut files);
        for source in [
            in_stream(&files.tar()),
            in_file(directory.path(), &files.tar()),
        ] {
            let store = store();
            let before = state_of(&store).await;
            let error = import(&store, source, &ImportOptions::default())
                .await
                .unwrap_err();
            assert_eq!(error.kind(), kind, "{what}: {error}");
            assert_eq!(before, state_of(&store).await, "{what}");
        }
    }
}
