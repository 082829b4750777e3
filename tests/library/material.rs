//! An image that takes a while to store and to unpack.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cas::{Descriptor, Digest, MediaType, Platform};
use serde_json::json;

/// Number of files in a layer.
const FILES: u32 = 150;
/// Size of a file in bytes.
const FILE: usize = 12_000;

/// A manifest with all that it reaches.
pub(super) struct Image {
    pub(super) root: Descriptor,
    pub(super) layers: Vec<Descriptor>,
    pub(super) blobs: BTreeMap<Digest, Vec<u8>>,
}

impl Image {
    /// Returns an image with `layers` layers. The content of the layers depends on `seed`.
    pub(super) fn new(layers: u32, seed: u32) -> Self {
        Self::of((0..layers).map(|number| layer(number, seed)))
    }

    /// Returns an image of these uncompressed layers.
    pub(super) fn of(layers: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let mut blobs = BTreeMap::new();
        let mut put = |media_type: MediaType, data: Vec<u8>| {
            let descriptor = Descriptor::of(media_type, &data);
            blobs.insert(descriptor.digest, data);
            descriptor
        };
        let layers = layers.into_iter();
        let layers: Vec<Descriptor> = layers
            .map(|layer| put(MediaType::OCI_LAYER, layer))
            .collect();
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
        let host = Platform::host();
        let config = json!({"os": host.os, "architecture": host.architecture,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = put(MediaType::OCI_CONFIG, config.to_string().into_bytes());
        let manifest = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
            "config": config, "layers": layers});
        let root = put(MediaType::OCI_MANIFEST, manifest.to_string().into_bytes());
        Image {
            root,
            layers,
            blobs,
        }
    }

    /// Writes the image as an OCI layout, under this name.
    pub(super) fn write(&self, layout: &Path, name: &str) {
        fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        fs::write(
            layout.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        for (digest, data) in &self.blobs {
            let path = digest.to_string().replace(':', "/");
            fs::write(layout.join("blobs").join(path), data).unwrap();
        }
        let mut root = serde_json::to_value(&self.root).unwrap();
        root["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        let index = json!({"schemaVersion": 2, "manifests": [root]});
        fs::write(layout.join("index.json"), index.to_string()).unwrap();
    }
}

fn layer(number: u32, seed: u32) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut state = seed * 100 + number + 1;
    for file in 0..FILES {
        let byte = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let data: Vec<u8> = (0..FILE).map(byte).collect();
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        let path = format!("layer-{number}/file-{file}");
        tar.append_data(&mut header, path, &data[..]).unwrap();
    }
    tar.into_inner().unwrap()
}
