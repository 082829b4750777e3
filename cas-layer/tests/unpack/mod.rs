//! Unpack from the memory store into snapshots and directories.

mod checkpoints;
mod diff_id;
mod directory;
mod only_tars;
mod snapshots;

use std::path::Path;
use std::sync::Arc;

use cas_core::image;
use cas_core::media_type::DiffCompression;
use cas_core::platform::All;
use cas_core::progress::{Progress, Silent};
use cas_core::testing::memory::MemoryStore;
use cas_core::{Descriptor, Digest, Manifest, MediaType, Store};
use cas_layer::import::{ImportOptions, import};
use serde_json::json;

use crate::common::source::{Files, gzip, in_stream, zstd};

fn silent() -> Arc<dyn Progress> {
    Arc::new(Silent)
}

fn store() -> Store {
    MemoryStore::new().with_images()
}

/// A layer: its members, and how it is compressed.
struct Layer {
    members: &'static [(&'static str, &'static str)],
    kind: MediaType,
}

/// Three layers with different compressions. The last two layers change the layers below them.
const LAYERS: [Layer; 3] = [
    Layer {
        members: &[("etc/one", "1"), ("etc/two", "2"), ("usr/three", "3")],
        kind: MediaType::OCI_LAYER,
    },
    Layer {
        members: &[("etc/.wh.two", ""), ("etc/four", "4")],
        kind: MediaType::OCI_LAYER_GZIP,
    },
    Layer {
        members: &[("usr/three", "three"), ("top", "5")],
        kind: MediaType::OCI_LAYER_ZSTD,
    },
];

/// Stores an image of `layers`. Returns its manifest. `change` may spoil its diff IDs.
async fn image(store: &Store, layers: &[Layer], change: fn(&mut Vec<Digest>)) -> Manifest {
    let (mut blobs, mut diff_ids) = (Vec::new(), Vec::new());
    for layer in layers {
        let tar = tar_of(layer);
        diff_ids.push(Digest::sha256(&tar));
        let blob = match layer.kind.diff_compression().unwrap() {
            DiffCompression::Gzip => gzip(&tar),
            DiffCompression::Zstd => zstd(&tar),
            _ => tar,
        };
        blobs.push((layer.kind.clone(), blob));
    }
    change(&mut diff_ids);
    image_of(store, blobs, &diff_ids).await
}

fn tar_of(layer: &Layer) -> Vec<u8> {
    let mut members = Files::default();
    for (path, text) in layer.members {
        members.add(path, text.as_bytes());
    }
    members.tar()
}

/// Stores an image whose layers are these blobs.
async fn image_of(
    store: &Store,
    layers: Vec<(MediaType, Vec<u8>)>,
    diff_ids: &[Digest],
) -> Manifest {
    let mut files = Files::layout();
    let mut descriptors = Vec::new();
    for (kind, blob) in layers {
        descriptors.push(files.blob(kind, &blob));
    }
    let diff_ids: Vec<String> = diff_ids.iter().map(Digest::to_string).collect();
    let rootfs = json!({ "type": "layers", "diff_ids": diff_ids });
    let config = json!({ "os": "linux", "architecture": "amd64", "rootfs": rootfs });
    let config = files.blob(MediaType::OCI_CONFIG, config.to_string().as_bytes());
    let target = files.manifest(config, descriptors);
    files.entries(&[(Some("image"), &target)]);
    let source = in_stream(&files.tar());
    let images = import(store, source, &ImportOptions::default())
        .await
        .unwrap();
    manifest(store, &images[0].target).await
}

async fn manifest(store: &Store, target: &Descriptor) -> Manifest {
    let resolved = image::manifest(store.content.as_ref(), target, &All).await;
    resolved.unwrap().manifest
}

/// Returns the files below a directory, with their content.
fn tree(root: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                files.push((name.to_owned(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

/// Returns the files of the tree that [`LAYERS`] give when they are applied.
fn expected() -> Vec<(String, String)> {
    [
        ("etc/four", "4"),
        ("etc/one", "1"),
        ("top", "5"),
        ("usr/three", "three"),
    ]
    .map(|(path, text)| (path.to_owned(), text.to_owned()))
    .to_vec()
}
