//! An image with a chain of artifacts: an SBOM of the image, and a signature of the SBOM.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cas::{Descriptor, MediaType};
use serde_json::{Value, json};
use testkit::archive::Tar;

use super::cas;
use crate::common::layout::layout as layout_with;
use crate::common::ok;

pub(crate) const SBOM: &str = "application/spdx+json";
pub(crate) const SIGNATURE: &str = "application/x.signature";

/// Returns the bytes and the descriptor of an artifact that refers to `subject`. Its only blob is
/// OCI's empty document.
pub(crate) fn artifact(kind: &str, subject: &Descriptor) -> (Descriptor, Vec<u8>) {
    let empty = Descriptor::of(MediaType::OCI_EMPTY, b"{}");
    // The annotations of the artifact are not taken for the name of an image.
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "artifactType": kind,
        "config": empty, "layers": [empty], "subject": subject,
        "annotations": {"org.opencontainers.image.ref.name": "other:1", "made": "now"},
    });
    let data = manifest.to_string().into_bytes();
    (Descriptor::of(MediaType::OCI_MANIFEST, &data), data)
}

/// A directory for roots. The root `own` has the image and its artifacts as `app:1`.
pub(crate) struct Artifacts {
    scratch: tempfile::TempDir,
    pub(crate) image: Descriptor,
    pub(crate) sbom: Descriptor,
    pub(crate) signature: Descriptor,
}

impl Artifacts {
    pub(crate) fn new() -> Self {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let layout = scratch.path().join("layout");
        layout_with(&layout, vec![Tar::new().file("etc/motd", "hello")]);
        let index = fs::read(layout.join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let mut image = index["manifests"][0].clone();
        let target: Descriptor = serde_json::from_value(image.clone()).unwrap();
        let (sbom, data) = artifact(SBOM, &target);
        let (signature, signed) = artifact(SIGNATURE, &sbom);
        for data in [data, signed, b"{}".to_vec()] {
            let digest = cas::Digest::sha256(&data);
            fs::write(layout.join("blobs/sha256").join(digest.hex()), data).unwrap();
        }
        image["annotations"] = json!({"org.opencontainers.image.ref.name": "app:1"});
        // An import must not depend on the order of the entries.
        let index = json!({"schemaVersion": 2, "manifests": [signature, image, sbom]});
        fs::write(layout.join("index.json"), index.to_string()).unwrap();
        let artifacts = Artifacts {
            scratch,
            image: target,
            sbom,
            signature,
        };
        let imported = ok(artifacts.cas("own", &["import"]).arg(layout));
        assert_eq!(imported, "app:1\n");
        artifacts
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Returns a command on a root.
    pub(crate) fn cas(&self, root: &str, arguments: &[&str]) -> Command {
        let home: &Path = self.scratch.path();
        let mut command = cas(&home.join(root), home);
        command.args(arguments);
        command
    }

    /// Returns the lines of JSON that a command prints.
    pub(crate) fn json(&self, root: &str, arguments: &[&str]) -> Vec<Value> {
        let printed = ok(self.cas(root, arguments).arg("--json"));
        let lines = printed.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Asserts that a root has the image with all artifacts, and keeps them as long as the image.
    pub(crate) fn are_in(&self, root: &str, name: &str) {
        ok(&mut self.cas(root, &["gc"]));
        let tree = self.json(root, &["tree", name]).remove(0);
        let digest = |node: &Value| node["descriptor"]["digest"].as_str().unwrap().to_owned();
        assert_eq!(digest(&tree), self.image.digest.to_string());
        let sbom = &tree["referrers"][0];
        assert_eq!(digest(sbom), self.sbom.digest.to_string());
        assert_eq!(sbom["descriptor"]["artifactType"], SBOM);
        assert_eq!(sbom["descriptor"]["annotations"]["made"], "now");
        let signature = &sbom["referrers"][0];
        assert_eq!(digest(signature), self.signature.digest.to_string());
        assert!(!tree.to_string().contains("\"present\":false"), "{tree}");
        let shown = ok(&mut self.cas(root, &["tree", name]));
        assert!(
            shown.contains(&format!("└─ referrer {}", self.sbom.digest.short())),
            "{shown}"
        );
        let shown = self.json(root, &["inspect", name]).remove(0);
        assert_eq!(shown["referrers"].as_array().unwrap().len(), 1);
        assert_eq!(shown["referrers"][0]["digest"], json!(self.sbom.digest));
        ok(&mut self.cas(root, &["fsck", "--read-data"]));
        // The root does not have another image.
        assert_eq!(self.json(root, &["images"]).len(), 1);
    }

    /// Asserts that nothing of the image or its artifacts is left after its name is removed.
    pub(crate) fn end_with(&self, root: &str, name: &str) {
        ok(&mut self.cas(root, &["rmi", name]));
        ok(&mut self.cas(root, &["gc"]));
        assert!(self.json(root, &["blob", "ls"]).is_empty());
    }
}
