//! Small images under any names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cas::{Digest, Platform};
use serde_json::{Value, json};
use testkit::archive::Tar;

use crate::common::{cas, fails, ok};

/// The names of a docker archive's image, if it has any.
pub(crate) type Tags<'a> = Option<&'a [&'a str]>;

/// A root, and a directory for what is imported into it.
pub(crate) struct Scene {
    pub(crate) scratch: tempfile::TempDir,
    pub(crate) root: PathBuf,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Scene::on("fs")
    }

    /// Returns a root with this store.
    pub(crate) fn on(store: &str) -> Self {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = scratch.path().join("root");
        ok(cas(&root).args(["--store", store, "--snapshotter", "native", "init"]));
        Scene { scratch, root }
    }

    pub(crate) fn cas(&self, arguments: &[&str]) -> Command {
        let mut command = cas(&self.root);
        command.args(arguments);
        command
    }

    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        ok(&mut self.cas(arguments))
    }

    pub(crate) fn fails(&self, arguments: &[&str], code: i32) -> String {
        fails(&mut self.cas(arguments), code)
    }

    /// Runs a command that prints JSON. Returns the documents.
    pub(crate) fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let said = ok(self.cas(arguments).arg("--json"));
        let lines = said.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().unwrap()
    }

    /// Returns the stored names that are listed, with the digests of their targets.
    pub(crate) fn names(&self) -> BTreeMap<String, Digest> {
        let listed = self.json(&["images"]).into_iter();
        let image = |image: Value| {
            let digest = image["target"]["digest"].as_str().unwrap();
            let name = image["name"].as_str().unwrap().to_owned();
            (name, digest.parse().unwrap())
        };
        listed.map(image).collect()
    }

    /// Returns the stored names that are listed.
    pub(crate) fn listed(&self) -> Vec<String> {
        self.names().into_keys().collect()
    }

    /// Returns the digest of what a name or a digest finds.
    pub(crate) fn target(&self, image: &str) -> String {
        let shown = self.json(&["inspect", image]).remove(0);
        shown["target"]["digest"].as_str().unwrap().to_owned()
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.scratch.path().join(name).display().to_string()
    }

    /// Writes what `docker save` writes: for each image its names, its text and its architecture.
    pub(crate) fn saved_for(&self, images: &[(Tags<'_>, &str, &str)]) -> String {
        let mut tar = Tar::new();
        let mut listed = Vec::new();
        for (at, (tags, text, architecture)) in images.iter().enumerate() {
            let layer = Tar::new().file("hello", text).end();
            let rootfs = json!({"type": "layers", "diff_ids": [Digest::sha256(&layer)]});
            let config = json!({"os": "linux", "architecture": architecture, "rootfs": rootfs});
            let (config_path, layer_path) = (format!("{at}.json"), format!("{at}.tar"));
            tar = tar.file(&config_path, config.to_string());
            tar = tar.file(&layer_path, layer);
            listed.push(json!({"Config": config_path, "RepoTags": tags, "Layers": [layer_path]}));
        }
        let tar = tar.file("manifest.json", Value::from(listed).to_string());
        let file = self.path("saved.tar");
        fs::write(&file, tar.end()).unwrap();
        file
    }

    /// Writes an archive as [`Scene::saved_for`], for the architecture of this machine.
    pub(crate) fn saved(&self, images: &[(Tags<'_>, &str)]) -> String {
        let own = Platform::host().architecture;
        let images = images.iter();
        let images: Vec<_> = images
            .map(|(tags, text)| (*tags, *text, own.as_str()))
            .collect();
        self.saved_for(&images)
    }

    /// Imports images, each under one name.
    pub(crate) fn import(&self, names: &[&str]) {
        for name in names {
            let file = self.saved(&[(Some(&[*name]), name)]);
            self.ok(&["import", &file]);
        }
    }

    /// Writes an image layout whose entries have these annotations.
    pub(crate) fn layout(&self, entries: &[(Value, &str)]) -> String {
        self.layout_at("layout", entries)
    }

    /// Writes an image layout as [`Scene::layout`], in a directory with this name.
    pub(crate) fn layout_at(&self, name: &str, entries: &[(Value, &str)]) -> String {
        let path = self.path(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(Path::new(&path).join("blobs/sha256")).unwrap();
        let manifests: Vec<Value> = entries
            .iter()
            .map(|(annotations, text)| {
                let mut entry = manifest(Path::new(&path), text);
                entry["annotations"] = annotations.clone();
                entry
            })
            .collect();
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(format!("{path}/index.json"), index.to_string()).unwrap();
        let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
        fs::write(format!("{path}/oci-layout"), version).unwrap();
        path
    }
}

/// Adds an image to a layout. Returns its descriptor.
fn manifest(layout: &Path, text: &str) -> Value {
    let blob = |kind: &str, data: &[u8]| {
        let digest = Digest::sha256(data);
        fs::write(layout.join("blobs/sha256").join(digest.hex()), data).unwrap();
        let media_type = format!("application/vnd.oci.image.{kind}");
        json!({"mediaType": media_type, "digest": digest, "size": data.len()})
    };
    let layer = blob("layer.v1.tar", &Tar::new().file("hello", text).end());
    let platform = Platform::host();
    let rootfs = json!({"type": "layers", "diff_ids": [layer["digest"]]});
    let config = json!({"os": "linux", "architecture": platform.architecture, "rootfs": rootfs});
    let config = blob("config.v1+json", config.to_string().as_bytes());
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    blob("manifest.v1+json", manifest.to_string().as_bytes())
}

/// Returns the annotation that the specification of layouts gives to a name.
pub(crate) fn ref_name(name: &str) -> Value {
    json!({"org.opencontainers.image.ref.name": name})
}

/// Returns the entries of the `index.json` in an archive.
pub(crate) fn entries(archive: &str) -> Vec<Value> {
    let index = ok(Command::new("tar").args(["-xOf", archive, "index.json"]));
    let mut index: Value = serde_json::from_str(&index).unwrap();
    serde_json::from_value(index["manifests"].take()).unwrap()
}

/// Returns the name that an entry has for containerd.
pub(crate) fn image_name(entry: &Value) -> Option<&str> {
    entry["annotations"]["io.containerd.image.name"].as_str()
}
