//! A small image in memory, and the answers of a correct registry for it.

use std::collections::BTreeMap;

use cas::{Descriptor, Digest, MediaType};
use serde_json::{Value, json};

use super::fake::{Answer, Request};

/// A manifest with its configuration and layers.
#[derive(Clone)]
pub(crate) struct Sample {
    pub(crate) root: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    /// Blobs by digest.
    pub(crate) content: BTreeMap<String, Vec<u8>>,
}

impl Sample {
    /// Returns an image with layers of these sizes, of bytes that do not repeat.
    pub(crate) fn new(layers: &[usize]) -> Self {
        Self::with(layers, |_| {})
    }

    /// Returns the image with a changed manifest.
    pub(crate) fn with(layers: &[usize], change: impl Fn(&mut Value)) -> Self {
        let layer = |(number, size): (usize, &usize)| {
            let mut state = number as u32 + 1;
            let byte = |_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            (0..*size).map(byte).collect()
        };
        let layers = layers.iter().enumerate().map(layer).collect();
        Self::of(layers, &[], change)
    }

    /// Returns an image of these archives, which can be unpacked.
    pub(crate) fn of_archives(archives: Vec<Vec<u8>>) -> Self {
        let diff_ids: Vec<Digest> = archives.iter().map(|tar| Digest::sha256(tar)).collect();
        Self::of(archives, &diff_ids, |_| {})
    }

    /// Returns an image of these layers with these diff ids, and a changed manifest.
    pub(crate) fn of(
        layers: Vec<Vec<u8>>,
        diff_ids: &[Digest],
        change: impl Fn(&mut Value),
    ) -> Self {
        let mut content = BTreeMap::new();
        let mut put = |media_type: MediaType, data: Vec<u8>| {
            let descriptor = Descriptor::of(media_type, &data);
            content.insert(descriptor.digest.to_string(), data);
            descriptor
        };
        let layers = layers.into_iter();
        let layers: Vec<Descriptor> = layers
            .map(|layer| put(MediaType::OCI_LAYER, layer))
            .collect();
        let diff_ids: Vec<String> = diff_ids.iter().map(Digest::to_string).collect();
        let host = cas::Platform::host();
        let config = json!({"os": host.os, "architecture": host.architecture,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = put(MediaType::OCI_CONFIG, config.to_string().into_bytes());
        let mut manifest = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
            "config": config, "layers": layers});
        change(&mut manifest);
        let root = put(MediaType::OCI_MANIFEST, manifest.to_string().into_bytes());
        Sample {
            root,
            layers,
            content,
        }
    }

    pub(crate) fn data(&self, descriptor: &Descriptor) -> &[u8] {
        &self.content[&descriptor.digest.to_string()]
    }

    /// Returns the answer of a correct registry.
    pub(crate) fn answer(&self, request: &Request) -> Answer {
        let last = request.path.rsplit('/').next().unwrap_or_default();
        let root = self.root.digest.to_string();
        let digest = if request.path.contains("/manifests/") {
            root.as_str()
        } else {
            last
        };
        let Some(data) = self.content.get(digest) else {
            return Answer::error(404, "MANIFEST_UNKNOWN", "unknown here");
        };
        let (answer, data) = match request.range() {
            None => (Answer::new(200), &data[..]),
            Some((start, last)) => {
                let range = format!("bytes {start}-{last}/{}", data.len());
                let answer = Answer::new(206).with("Content-Range", &range);
                (answer, &data[start..=last])
            }
        };
        answer
            .with("Content-Type", self.root.media_type.as_str())
            .with("Docker-Content-Digest", digest)
            .body(data)
    }
}
