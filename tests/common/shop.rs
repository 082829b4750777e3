//! A root with an image in gzip, the same image in zstd, and an image for two platforms.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cas::{Descriptor, Digest, MediaType};
use serde_json::{Value, json};

use super::{cas, ok, small_archive};

pub(crate) const GZIP: &str = "x.test/gzip:1";
pub(crate) const ZSTD: &str = "x.test/zstd:1";
pub(crate) const MULTI: &str = "x.test/multi:1";
pub(crate) const ALL: [&str; 3] = [GZIP, ZSTD, MULTI];

/// The root and its directory. [`Shop::open`] makes the images.
pub(crate) struct Shop {
    pub(crate) scratch: tempfile::TempDir,
    pub(crate) root: PathBuf,
}

/// The targets of names.
pub(crate) type Names = BTreeMap<String, Digest>;

impl Shop {
    pub(crate) fn open() -> Self {
        // In memory, because podman and containerd sync everything that they write.
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let shop = Shop {
            root: scratch.path().join("root"),
            scratch,
        };
        let demo = format!(
            "oci-archive:{}",
            small_archive(shop.scratch.path()).display()
        );
        let gzip = format!("oci:{}:{GZIP}", shop.path("gzip").display());
        let zstd = format!("oci:{}:{ZSTD}", shop.path("zstd").display());
        skopeo(&["copy", "-q", &demo, &gzip]);
        skopeo(&["copy", "-q", "--dest-compress-format", "zstd", &demo, &zstd]);
        ok(cas(&shop.root).arg("import").arg(shop.path("gzip")));
        ok(cas(&shop.root).arg("import").arg(shop.path("zstd")));
        add_platform(&shop.path("gzip"));
        ok(cas(&shop.root).arg("import").arg(shop.path("gzip")));
        shop
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub(crate) fn own(&self, wanted: &[&str]) -> Names {
        let mut names = names(&self.root);
        names.retain(|name, _| wanted.contains(&name.as_str()));
        assert_eq!(names.len(), wanted.len());
        names
    }
}

/// Adds a second platform with the same layers to the image of a layout.
fn add_platform(layout: &Path) {
    let blob = |digest: &Value| {
        let path = digest.as_str().unwrap().replace(':', "/");
        fs::read(layout.join("blobs").join(path)).unwrap()
    };
    let put = |kind: MediaType, value: &Value| {
        let data = serde_json::to_vec(value).unwrap();
        let descriptor = Descriptor::of(kind, &data);
        let path = descriptor.digest.to_string().replace(':', "/");
        fs::write(layout.join("blobs").join(path), data).unwrap();
        serde_json::to_value(descriptor).unwrap()
    };
    let index: Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let mut first = index["manifests"][0].clone();
    first["annotations"].take();
    let mut manifest: Value = serde_json::from_slice(&blob(&first["digest"])).unwrap();
    let config = blob(&manifest["config"]["digest"]);
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    first["platform"] = json!({"os": "linux", "architecture": config["architecture"]});
    config["architecture"] = json!("s390x");
    manifest["config"] = put(MediaType::OCI_CONFIG, &config);
    let mut second = put(MediaType::OCI_MANIFEST, &manifest);
    second["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let listed = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX,
        "manifests": [first, second]});
    let mut root = put(MediaType::OCI_INDEX, &listed);
    root["annotations"] = json!({"org.opencontainers.image.ref.name": MULTI});
    let index = json!({"schemaVersion": 2, "manifests": [root]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
}

pub(crate) fn skopeo(arguments: &[&str]) -> String {
    ok(Command::new("skopeo").args(arguments))
}

pub(crate) fn names(root: &Path) -> Names {
    let listed = ok(cas(root).args(["images", "--json"]));
    let image = |line: &str| {
        let image: Value = serde_json::from_str(line).unwrap();
        let digest = image["target"]["digest"].as_str().unwrap();
        let name = image["name"].as_str().unwrap().to_owned();
        (name, digest.parse().unwrap())
    };
    listed.lines().map(image).collect()
}
