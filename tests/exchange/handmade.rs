//! Docker archives in the form of programs that have no package on this system.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use cas::Digest;
use serde_json::json;
use testkit::archive::{Header, Tar};

use super::kitchen::Kitchen;
use crate::common::ok;

/// Makes all archives. Returns each with its name.
pub(crate) fn all(kitchen: &Kitchen) -> Vec<(&'static str, PathBuf)> {
    let write = |id: &'static str, archive: Vec<u8>| {
        let path = kitchen.path(id);
        fs::write(&path, archive).unwrap();
        (id, path)
    };
    vec![
        write("hand-docker-20", docker_20()),
        write("hand-docker-25", docker_25()),
        write("hand-crane", crane()),
        write("hand-nix", nix()),
        dotted(kitchen),
    ]
}

/// Returns a layer with one file, and its digest in hexadecimal.
fn layer(name: &str) -> (Vec<u8>, String) {
    let layer = Tar::new().file(name, name).end();
    let hex = Digest::sha256(&layer).hex();
    (layer, hex)
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}

/// Returns a configuration and its digest in hexadecimal.
fn config(id: &str, layers: &[&str]) -> (String, String) {
    let diff_ids: Vec<String> = layers.iter().map(|hex| format!("sha256:{hex}")).collect();
    let history: Vec<_> = layers
        .iter()
        .map(|_| json!({"created_by": "hand"}))
        .collect();
    let config = json!({
        "history": history,
        "architecture": cas::Platform::host().architecture, "os": "linux",
        "config": {"Cmd": ["/one"], "Labels": {"id": id}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string();
    let hex = Digest::sha256(config.as_bytes()).hex();
    (config, hex)
}

/// `docker save` until version 24: a directory for each layer, a link for a layer that is there
/// twice, and `repositories`.
fn docker_20() -> Vec<u8> {
    let (layer, hex) = layer("one");
    let (config, config_hex) = config("docker-20", &[&hex, &hex]);
    let manifest = json!([{
        "Config": format!("{config_hex}.json"), "RepoTags": ["x.test/hand-docker-20:1", "short:2"],
        "Layers": ["aa/layer.tar", "bb/layer.tar"],
    }]);
    Tar::new()
        .member(Header::new(b'5', "aa/"), "")
        .file("aa/VERSION", "1.0")
        .file("aa/json", "{}")
        .file("aa/layer.tar", layer)
        .member(Header::new(b'5', "bb/"), "")
        .file("bb/VERSION", "1.0")
        .symlink("bb/layer.tar", "../aa/layer.tar")
        .file(format!("{config_hex}.json"), config)
        .file("manifest.json", manifest.to_string())
        .file(
            "repositories",
            json!({"x.test/hand-docker-20": {"1": "bb"}}).to_string(),
        )
        .end()
}

/// `docker save` since version 25: an OCI layout whose blobs `manifest.json` lists, too.
fn docker_25() -> Vec<u8> {
    let (layer, hex) = layer("twenty-five");
    let (config, config_hex) = config("docker-25", &[&hex]);
    let blob = |hex: &str| format!("blobs/sha256/{hex}");
    let described = |kind: &str, hex: &str, size: usize| {
        let media_type = format!("application/vnd.oci.image.{kind}");
        json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": size})
    };
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("config.v1+json", &config_hex, config.len()),
        "layers": [described("layer.v1.tar", &hex, layer.len())],
    })
    .to_string();
    let manifest_hex = Digest::sha256(manifest.as_bytes()).hex();
    let mut entry = described("manifest.v1+json", &manifest_hex, manifest.len());
    entry["annotations"] = json!({
        "io.containerd.image.name": "x.test/hand-docker-25:1",
        "org.opencontainers.image.ref.name": "1",
    });
    let listed = json!([{
        "Config": blob(&config_hex), "RepoTags": ["x.test/hand-docker-25:1"],
        "Layers": [blob(&hex)],
    }]);
    Tar::new()
        .member(Header::new(b'5', "blobs/"), "")
        .member(Header::new(b'5', "blobs/sha256/"), "")
        .file(blob(&hex), layer)
        .file(blob(&config_hex), config)
        .file(blob(&manifest_hex), manifest)
        .file(
            "index.json",
            json!({"schemaVersion": 2, "manifests": [entry]}).to_string(),
        )
        .file("manifest.json", listed.to_string())
        .file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)
        .end()
}

/// crane and ko: the configuration is named by its digest, the layers end with `.tar.gz`.
fn crane() -> Vec<u8> {
    let (layer, hex) = layer("crane");
    let (config, config_hex) = config("crane", &[&hex]);
    let config_name = format!("sha256:{config_hex}");
    let layer_name = format!("{hex}.tar.gz");
    let manifest = json!([{
        "Config": config_name, "RepoTags": ["x.test/hand-crane:1"], "Layers": [layer_name],
    }]);
    Tar::new()
        .file(config_name, config)
        .file(layer_name, gzip(&layer))
        .file("manifest.json", manifest.to_string())
        .end()
}

/// dockerTools of nixpkgs: the manifest comes first, and the directory of a layer is its digest.
fn nix() -> Vec<u8> {
    let (layer, hex) = layer("nix");
    let (config, config_hex) = config("nix", &[&hex]);
    let layer_name = format!("{hex}/layer.tar");
    let manifest = json!([{
        "Config": format!("{config_hex}.json"), "RepoTags": ["x.test/hand-nix:1"],
        "Layers": [layer_name],
    }]);
    Tar::new()
        .file("manifest.json", manifest.to_string())
        .file(format!("{config_hex}.json"), config)
        .file(layer_name, layer)
        .end()
}

/// A layout that somebody packed with `tar -C layout -czf x.tar.gz .`
fn dotted(kitchen: &Kitchen) -> (&'static str, PathBuf) {
    let id = "hand-dotted";
    let layout = kitchen.copy("dotted-from", &[], "oci", ":x.test/hand-dotted:1");
    let path = kitchen.path(id);
    let mut tar = Command::new("tar");
    ok(tar.arg("-C").arg(layout).arg("-czf").arg(&path).arg("."));
    (id, path)
}
