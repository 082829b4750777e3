//! Writers of OCI image layouts. A test provides the layers.

use std::fs;
use std::path::Path;

use crate::archive::Tar;
use cas_core::Digest;
use serde_json::{Value, json};

/// Writes a layout with an image of these layers.
pub fn layout(path: &Path, layers: Vec<Tar>) {
    let layers: Vec<Vec<u8>> = layers.into_iter().map(Tar::end).collect();
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::sha256(layer)).collect();
    layout_of(path, &layers, &diff_ids);
}

/// Writes a layout with an image of these layers. The configuration of the image states these diff
/// IDs.
pub fn layout_of(path: &Path, layers: &[Vec<u8>], diff_ids: &[Digest]) {
    layout_typed(
        path,
        layers,
        diff_ids,
        "application/vnd.oci.image.layer.v1.tar",
    );
}

/// Writes a layout with an image of these layers, which have this media type. The configuration of
/// the image states these diff IDs.
pub fn layout_typed(path: &Path, layers: &[Vec<u8>], diff_ids: &[Digest], media_type: &str) {
    fs::create_dir_all(path.join("blobs/sha256")).unwrap();
    let blob = |data: &[u8]| {
        let digest = Digest::sha256(data).to_string();
        fs::write(path.join("blobs").join(digest.replace(':', "/")), data).unwrap();
        json!({"digest": digest, "size": data.len()})
    };
    let document = |kind: &str, value: Value| {
        let mut descriptor = blob(value.to_string().as_bytes());
        descriptor["mediaType"] = format!("application/vnd.oci.image.{kind}+json").into();
        descriptor
    };
    let layers: Vec<Value> = layers
        .iter()
        .map(|layer| {
            let mut descriptor = blob(layer);
            descriptor["mediaType"] = media_type.into();
            descriptor
        })
        .collect();
    let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": rootfs});
    let config = document("config.v1", config);
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
    let manifest = document("manifest.v1", manifest);
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(path.join("index.json"), index.to_string()).unwrap();
    fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}
