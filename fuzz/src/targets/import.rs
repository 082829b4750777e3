//! Archives of images, and directories of skopeo.

use std::fs;
use std::io::Cursor;

use cas_core::Digest;
use cas_core::testing::memory::MemoryStore;
use cas_layer::import::{ImportOptions, Source, import};
use serde_json::json;
use testkit::archive::Tar;

use super::tar::sealed;
use super::{accepted, block_on, scratch};
use crate::Target;

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "import-docker",
        run: |input| imported(sealed(input)),
        seeds: || vec![docker(&layer()), docker(&super::codec::gzipped(&layer()))],
        longest: 16_384,
    },
    Target {
        name: "import-docker-list",
        run: |input| imported(docker_with(input, &config(&layer()), &layer())),
        seeds: || vec![docker_list()],
        longest: 1000,
    },
    Target {
        name: "import-docker-config",
        run: |input| imported(docker_with(&docker_list(), input, &layer())),
        seeds: || vec![config(&layer())],
        longest: 1000,
    },
    Target {
        name: "import-oci",
        run: |input| imported(oci(input)),
        seeds: || vec![oci_index()],
        longest: 2000,
    },
    Target {
        name: "import-skopeo-dir",
        run: skopeo_dir,
        seeds: || vec![manifest()],
        longest: 2000,
    },
];

fn layer() -> Vec<u8> {
    Tar::new().file("hello", "hello\n").end()
}

fn config(layer: &[u8]) -> Vec<u8> {
    let rootfs = json!({"type": "layers", "diff_ids": [Digest::sha256(layer)]});
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": rootfs});
    config.to_string().into_bytes()
}

/// Returns the list of images in an archive of docker: its `manifest.json`.
fn docker_list() -> Vec<u8> {
    let image = json!({"Config": "config.json", "RepoTags": ["app:1"], "Layers": ["layer.tar"]});
    json!([image]).to_string().into_bytes()
}

fn docker(stored: &[u8]) -> Vec<u8> {
    docker_with(&docker_list(), &config(&layer()), stored)
}

fn docker_with(list: &[u8], config: &[u8], layer: &[u8]) -> Vec<u8> {
    Tar::new()
        .file("config.json", config)
        .file("layer.tar", layer)
        .symlink("link/layer.tar", "../layer.tar")
        .file("manifest.json", list)
        .end()
}

/// Returns the manifest of an image.
fn manifest() -> Vec<u8> {
    let (config, layer) = (config(&layer()), layer());
    let blob = |media_type: &str, data: &[u8]| json!({"mediaType": media_type, "digest": Digest::sha256(data), "size": data.len()});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("application/vnd.oci.image.config.v1+json", &config),
        "layers": [blob("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    manifest.to_string().into_bytes()
}

/// Returns the list of images in a layout: its `index.json`.
fn oci_index() -> Vec<u8> {
    let manifest = manifest();
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": Digest::sha256(&manifest),
        "size": manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": "app:1"},
    }]});
    index.to_string().into_bytes()
}

/// Returns an archive of a layout with this list of images.
fn oci(index: &[u8]) -> Vec<u8> {
    let mut tar = Tar::new().file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    for blob in [layer(), config(&layer()), manifest()] {
        let name = format!("blobs/sha256/{}", Digest::sha256(&blob).hex());
        tar = tar.file(name, blob);
    }
    tar.file("index.json", index).end()
}

/// Imports an archive as [`stored`] does.
fn imported(archive: Vec<u8>) -> bool {
    stored(Source::Stream(Box::new(Cursor::new(archive))))
}

/// Imports a source into an empty store. An import that succeeds returns at least one image, and
/// writes at most as many names. An import that fails writes no names.
fn stored(source: Source) -> bool {
    block_on(async {
        let store = MemoryStore::new().with_images();
        let images = import(&store, source, &ImportOptions::default()).await;
        let listed = store
            .images
            .list(&[])
            .await
            .map_or(0, |listed| listed.len());
        if let Ok(images) = &images {
            assert!(!images.is_empty() && listed <= images.len(), "{images:?}");
        } else {
            assert_eq!(listed, 0, "a failed import wrote a name");
        }
        accepted(images)
    })
}

/// Imports a directory of skopeo with this manifest.
fn skopeo_dir(input: &[u8]) -> bool {
    let directory = scratch();
    let directory = directory.unwrap_or_else(|error| panic!("cannot make a directory: {error}"));
    let write = || {
        for blob in [layer(), config(&layer())] {
            fs::write(directory.path().join(Digest::sha256(&blob).hex()), blob)?;
        }
        fs::write(
            directory.path().join("version"),
            "Directory Transport Version: 1.1\n",
        )?;
        fs::write(directory.path().join("manifest.json"), input)
    };
    write().unwrap_or_else(|error| panic!("cannot write: {error}"));
    stored(Source::Path(directory.path().to_owned()))
}
