//! Writers of OCI image layouts. A test provides the layers.

use std::fs;
use std::path::Path;

use crate::archive::Tar;
use cas_core::Digest;
use serde_json::{Value, json};

/// The media type of a layer that is not compressed.
const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// Writes a layout with an image of these layers.
pub fn layout(path: &Path, layers: Vec<Tar>) {
    let layers: Vec<Vec<u8>> = layers.into_iter().map(Tar::end).collect();
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::sha256(layer)).collect();
    layout_of(path, &layers, &diff_ids);
}

/// Writes a layout with an image of these layers. The configuration of the image states these diff
/// IDs.
pub fn layout_of(path: &Path, layers: &[Vec<u8>], diff_ids: &[Digest]) {
    layout_typed(path, layers, diff_ids, PLAIN);
}

/// Writes a layout with an image of these layers, which have this media type. The configuration of
/// the image states these diff IDs.
pub fn layout_typed(path: &Path, layers: &[Vec<u8>], diff_ids: &[Digest], media_type: &str) {
    let manifest = image(path, "amd64", layers, diff_ids, media_type);
    finish(path, &manifest);
}

/// Writes a layout with an index. Each image of the index is for a processor, and has one layer.
pub fn layout_of_platforms(path: &Path, images: &[(&str, Vec<u8>)]) {
    let entry = |(architecture, layer): &(&str, Vec<u8>)| {
        let (layers, diff_ids) = (std::slice::from_ref(layer), [Digest::sha256(layer)]);
        let mut entry = image(path, architecture, layers, &diff_ids, PLAIN);
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    };
    let entries: Vec<Value> = images.iter().map(entry).collect();
    let index = json!({"schemaVersion": 2, "manifests": entries});
    finish(path, &document(path, "index.v1", &index));
}

/// Writes the blobs of an image for a processor. Returns the descriptor of its manifest.
fn image(
    path: &Path,
    architecture: &str,
    layers: &[Vec<u8>],
    diff_ids: &[Digest],
    media_type: &str,
) -> Value {
    let layers = layers.iter().map(|layer| blob(path, media_type, layer));
    let layers: Vec<Value> = layers.collect();
    let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
    let config = json!({"os": "linux", "architecture": architecture, "rootfs": rootfs});
    let config = document(path, "config.v1", &config);
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
    document(path, "manifest.v1", &manifest)
}

/// Writes a blob. Returns its descriptor.
fn blob(path: &Path, media_type: &str, data: &[u8]) -> Value {
    let digest = Digest::sha256(data).to_string();
    fs::create_dir_all(path.join("blobs/sha256")).unwrap();
    fs::write(path.join("blobs").join(digest.replace(':', "/")), data).unwrap();
    json!({"mediaType": media_type, "digest": digest, "size": data.len()})
}

/// Writes a document of this kind. Returns its descriptor.
fn document(path: &Path, kind: &str, value: &Value) -> Value {
    let media_type = format!("application/vnd.oci.image.{kind}+json");
    blob(path, &media_type, value.to_string().as_bytes())
}

/// Completes a layout that lists one document.
fn finish(path: &Path, listed: &Value) {
    let index = json!({"schemaVersion": 2, "manifests": [listed]});
    fs::write(path.join("index.json"), index.to_string()).unwrap();
    fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}
