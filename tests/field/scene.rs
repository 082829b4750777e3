//! Sources that a test writes, with documents of any shape, and a root to import them into.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cas::{Algorithm, Digest};
use serde_json::{Value, json};
use testkit::archive::{Header, Tar};

use crate::common::{cas, fails, ok};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The files of a source, with their paths.
#[derive(Default)]
pub(crate) struct Files(pub(crate) Vec<(String, Vec<u8>)>);

impl Files {
    /// Begins a layout.
    pub(crate) fn layout() -> Self {
        let mut files = Files::default();
        files.add("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
        files
    }

    pub(crate) fn add(&mut self, path: &str, data: impl AsRef<[u8]>) {
        self.0.push((path.to_owned(), data.as_ref().to_vec()));
    }

    /// Adds a blob. Returns its descriptor.
    pub(crate) fn blob(&mut self, media_type: &str, data: impl AsRef<[u8]>) -> Value {
        self.blob_of(Algorithm::Sha256, media_type, data.as_ref())
    }

    pub(crate) fn blob_of(&mut self, algorithm: Algorithm, media_type: &str, data: &[u8]) -> Value {
        let digest = Digest::of(algorithm, data).to_string();
        let path = format!("blobs/{}", digest.replace(':', "/"));
        if self.0.iter().all(|(known, _)| *known != path) {
            self.add(&path, data);
        }
        json!({"mediaType": media_type, "digest": digest, "size": data.len()})
    }

    /// Adds a document. Returns its descriptor.
    pub(crate) fn document(&mut self, media_type: &str, document: &Value) -> Value {
        self.blob(media_type, document.to_string())
    }

    /// Adds an image of one layer. Returns the descriptor of its manifest.
    pub(crate) fn image(&mut self, architecture: &str, tar: &[u8]) -> Value {
        let config = self.document(CONFIG, &config(architecture, &[tar]));
        let layer = self.blob(LAYER, tar);
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        self.document(MANIFEST, &manifest)
    }

    /// Completes a layout that lists one image.
    pub(crate) fn lists(&mut self, target: &Value) {
        let index = json!({"schemaVersion": 2, "manifests": [target]});
        self.add("index.json", index.to_string());
    }

    /// Writes the files into a directory.
    pub(crate) fn write(&self, directory: &Path) -> PathBuf {
        for (path, data) in &self.0 {
            let path = directory.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, data).unwrap();
        }
        directory.to_owned()
    }

    /// Returns the files as an archive.
    pub(crate) fn tar(&self) -> Vec<u8> {
        let files = self.0.iter();
        files
            .fold(Tar::new(), |tar, (path, data)| tar.file(path, data))
            .end()
    }
}

/// Returns an archive of a layout whose layer is the member `path`. The blob of the layer is a link
/// to it, which `link` makes from the name of the blob.
pub(crate) fn with_linked_layer(path: &str, link: impl FnOnce(&str) -> Header) -> Vec<u8> {
    let layer = hello();
    let mut files = Files::layout();
    let config = files.document(CONFIG, &config(&host(), &[&layer]));
    let described = files.blob(LAYER, &layer);
    let blob = files.0.pop().unwrap().0;
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [described]});
    let manifest = files.document(MANIFEST, &manifest);
    files.lists(&manifest);
    files.add(path, &layer);
    Tar::new().member(link(&blob), "").raw(files.tar()).0
}

/// Returns the configuration of an image with these layers, which are not compressed.
pub(crate) fn config(architecture: &str, layers: &[&[u8]]) -> Value {
    let diff_ids = layers.iter().map(|layer| Digest::sha256(layer).to_string());
    let diff_ids: Vec<String> = diff_ids.collect();
    json!({
        "os": "linux", "architecture": architecture, "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
}

/// Returns the processor of this machine, as images name it.
pub(crate) fn host() -> String {
    cas::Platform::host().architecture
}

/// Returns a layer with a file `hello`.
pub(crate) fn hello() -> Vec<u8> {
    Tar::new().file("hello", "hello\n").end()
}

/// A root of its own, and a directory for sources.
pub(crate) struct Place {
    pub(crate) scratch: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        // In memory, because these tests sync much and are not about disks.
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let scratch = tempfile::tempdir_in(parent).unwrap();
        let place = Place { scratch };
        ok(place.cas().args(["init", "--snapshotter", "native"]));
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub(crate) fn cas(&self) -> Command {
        cas(&self.path("root"))
    }

    /// Writes a file. Returns its path.
    pub(crate) fn file(&self, name: &str, data: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, data).unwrap();
        path
    }

    /// Imports a source under a name.
    pub(crate) fn import(&self, source: &Path, name: &str) {
        ok(self.cas().arg("import").arg(source).args(["--name", name]));
    }

    /// Imports a source under a name, which must fail with `code`. Returns the messages.
    pub(crate) fn import_fails(&self, source: &Path, name: &str, code: i32) -> String {
        let mut import = self.cas();
        fails(
            import.arg("import").arg(source).args(["--name", name]),
            code,
        )
    }

    /// Unpacks an image. Returns the names in its root directory, and the messages.
    pub(crate) fn unpack(&self, image: &str) -> (Vec<String>, String) {
        let directory = tempfile::tempdir_in(self.scratch.path()).unwrap();
        let tree = directory.path().join("tree");
        let out = self
            .cas()
            .args(["unpack", image])
            .arg(&tree)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{image}: {said}");
        let entries = fs::read_dir(tree).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        (names, said)
    }

    /// Unpacks an image, which must fail with `code`. Returns the messages.
    pub(crate) fn unpack_fails(&self, image: &str, code: i32) -> String {
        let tree = self.path("never");
        fails(self.cas().args(["unpack", image]).arg(tree), code)
    }
}
