//! What other programs find in archives that `cas` writes.

use std::fs;
use std::path::Path;
use std::process::Command;

use cas::Digest;
use serde_json::Value;

use super::kitchen::Kitchen;
use super::podman::{buildah, podman};
use super::said::{self, Images, Said};
use crate::common::ok;
use crate::common::shop::skopeo;

/// Reads an image of an archive with skopeo, which verifies every blob that it copies.
pub(crate) fn by_skopeo(kitchen: &Kitchen, transport: &str, archive: &Path, name: &str) -> Said {
    let from = format!("{transport}:{}:{name}", archive.display());
    let copy = kitchen.path("skopeo-copy");
    skopeo(&["copy", "-q", &from, &format!("dir:{}", copy.display())]);
    let mut said = said::read(&copy).remove("").unwrap();
    fs::remove_dir_all(copy).unwrap();
    if transport == "oci-archive" {
        let raw = skopeo(&["inspect", "--raw", &from]);
        said.manifest = Some(Digest::sha256(raw.as_bytes()));
    }
    said
}

/// Loads a docker archive with podman. Returns its images of these names.
pub(crate) fn loaded_by_podman(kitchen: &Kitchen, archive: &Path, names: &Images) -> Images {
    let storage = kitchen.path("loads");
    fs::create_dir(&storage).unwrap();
    ok(podman(&storage).args(["load", "-q", "-i"]).arg(archive));
    let said = |name: &String| (name.clone(), inspected(&mut podman(&storage), name, false));
    names.keys().map(said).collect()
}

/// Pulls an image of an OCI archive with podman.
pub(crate) fn pulled_by_podman(kitchen: &Kitchen, archive: &Path, name: &str) -> Said {
    let storage = kitchen.path("pulls");
    fs::create_dir_all(&storage).unwrap();
    let from = format!("oci-archive:{}:{name}", archive.display());
    ok(podman(&storage).args(["pull", "-q", &from]));
    inspected(&mut podman(&storage), name, true)
}

fn inspected(podman: &mut Command, name: &str, with_digest: bool) -> Said {
    let found = ok(podman.args(["image", "inspect", name]));
    let found = &serde_json::from_str::<Value>(&found).unwrap()[0];
    let digest = |value: &Value| -> Digest { value.as_str().unwrap().parse().unwrap() };
    let layers = found["RootFS"]["Layers"].as_array().unwrap();
    Said {
        manifest: with_digest.then(|| digest(&found["Digest"])),
        config: format!("sha256:{}", found["Id"].as_str().unwrap())
            .parse()
            .unwrap(),
        diff_ids: layers.iter().map(digest).collect(),
    }
}

/// Pulls an image of an OCI archive with buildah. Returns the digest of its configuration.
pub(crate) fn pulled_by_buildah(kitchen: &Kitchen, archive: &Path, name: &str) -> Digest {
    let storage = kitchen.path("pulls");
    fs::create_dir_all(&storage).unwrap();
    let from = format!("oci-archive:{}:{name}", archive.display());
    let id = ok(buildah(&storage).args(["pull", "-q", &from]));
    format!("sha256:{}", id.trim()).parse().unwrap()
}

/// Reads an image of a layout with umoci, and unpacks it, which verifies its layers. Returns the
/// diff ids.
pub(crate) fn by_umoci(kitchen: &Kitchen, layout: &Path, name: &str) -> Vec<Digest> {
    let image = format!("{}:{name}", layout.display());
    let stat = kitchen.umoci(&["stat", "--json", "--image", &image]);
    let stat: Value = serde_json::from_str(&stat).unwrap();
    let bundle = kitchen.text("umoci-bundle");
    kitchen.umoci(&["unpack", "--image", &image, &bundle]);
    fs::remove_dir_all(bundle).unwrap();
    let history = stat["history"].as_array().unwrap().iter();
    let diff_ids = history.filter_map(|entry| entry["diff_id"].as_str());
    let diff_ids = diff_ids.filter(|text| !text.is_empty());
    diff_ids.map(|text| text.parse().unwrap()).collect()
}
