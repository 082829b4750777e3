//! What a source states about its images, read without `cas`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cas::Digest;
use serde_json::Value;

use crate::common::ok;

/// The properties of an image that every reader finds the same.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Said {
    /// The manifest or the index, if the format carries it unchanged.
    pub(crate) manifest: Option<Digest>,
    /// The configuration, for this machine's platform.
    pub(crate) config: Digest,
    /// The diff ids in the configuration.
    pub(crate) diff_ids: Vec<Digest>,
}

/// Images by name. An image without a name is under the empty name.
pub(crate) type Images = BTreeMap<String, Said>;

/// Reads an archive, an OCI layout, a docker archive that was unpacked, or a directory of skopeo.
pub(crate) fn read(source: &Path) -> Images {
    let directory = unpacked(source);
    if directory.join("index.json").exists() {
        return layout(&directory);
    }
    match json(&directory.join("manifest.json")) {
        Value::Array(entries) => docker(&directory, &entries),
        manifest => [(
            String::new(),
            of_manifest(&manifest, |hex| directory.join(hex)),
        )]
        .into(),
    }
}

/// Returns the directory itself, or one with the files of the archive.
fn unpacked(source: &Path) -> PathBuf {
    if source.is_dir() {
        return source.to_owned();
    }
    let directory = source.with_extension("unpacked");
    fs::create_dir(&directory).unwrap();
    ok(Command::new("tar")
        .arg("-xf")
        .arg(source)
        .arg("-C")
        .arg(&directory));
    directory
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn digest(value: &Value) -> Digest {
    value.as_str().unwrap().parse().unwrap()
}

fn layout(directory: &Path) -> Images {
    let blob = |hex: &str| directory.join("blobs/sha256").join(hex);
    let index = json(&directory.join("index.json"));
    let image = |entry: &Value| {
        let root = digest(&entry["digest"]);
        let mut document = json(&blob(&root.hex()));
        if let Some(listed) = document["manifests"].as_array() {
            let host = cas::Platform::host().architecture;
            let is_host = |entry: &&Value| entry["platform"]["architecture"] == *host;
            let chosen = listed.iter().find(is_host).unwrap();
            document = json(&blob(&digest(&chosen["digest"]).hex()));
        }
        let said = Said {
            manifest: Some(root),
            ..of_manifest(&document, blob)
        };
        let annotations = &entry["annotations"];
        let full = annotations["io.containerd.image.name"].as_str();
        let short = annotations["org.opencontainers.image.ref.name"].as_str();
        (full.or(short).unwrap_or_default().to_owned(), said)
    };
    index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(image)
        .collect()
}

/// Reads a manifest whose blobs are where `blob` says.
fn of_manifest(manifest: &Value, blob: impl Fn(&str) -> PathBuf) -> Said {
    let config = digest(&manifest["config"]["digest"]);
    Said {
        manifest: None,
        diff_ids: diff_ids(&blob(&config.hex())),
        config,
    }
}

fn docker(directory: &Path, entries: &[Value]) -> Images {
    let mut images = Images::new();
    for entry in entries {
        let config = directory.join(entry["Config"].as_str().unwrap());
        let said = Said {
            manifest: None,
            config: Digest::sha256(&fs::read(&config).unwrap()),
            diff_ids: diff_ids(&config),
        };
        let tags = entry["RepoTags"].as_array().unwrap();
        let names = tags.iter().map(|tag| tag.as_str().unwrap().to_owned());
        images.extend(names.map(|name| (name, said.clone())));
    }
    images
}

fn diff_ids(config: &Path) -> Vec<Digest> {
    let config = json(config);
    let listed = config["rootfs"]["diff_ids"].as_array().unwrap();
    listed.iter().map(digest).collect()
}
