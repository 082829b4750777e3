//! Messages name the kind of blobs that are not layers, and of sources that are not images. They
//! report damage only for damaged content.

use std::fs;

use serde_json::{Value, json};
use testkit::archive::Tar;

use crate::common::{fails, ok};
use crate::scene::{CONFIG, Files, LAYER, MANIFEST, Place, config, host};

/// Returns a layout with an image's configuration and these blobs as its layers.
fn image(layers: &[(&str, &[u8])]) -> Files {
    let mut files = Files::layout();
    let contents: Vec<&[u8]> = layers.iter().map(|(_, content)| *content).collect();
    let config = files.document(CONFIG, &config(&host(), &contents));
    manifest(files, &config, layers)
}

fn manifest(mut files: Files, config: &Value, layers: &[(&str, &[u8])]) -> Files {
    let layers: Vec<Value> = layers
        .iter()
        .map(|(media_type, content)| files.blob(media_type, content))
        .collect();
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
    let manifest = files.document(MANIFEST, &manifest);
    files.lists(&manifest);
    files
}

const SIGNATURE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ATTESTATION: &str = "application/vnd.in-toto+json";

const BLOBS: [(&str, &[u8]); 9] = [
    (
        SIGNATURE,
        br#"{"critical":{"identity":{}},"optional":null}"#,
    ),
    (
        ATTESTATION,
        br#"{"_type":"https://in-toto.io/Statement/v0.1"}"#,
    ),
    (
        "application/vnd.example.certificate",
        b"-----BEGIN CERTIFICATE-----",
    ),
    (
        "application/vnd.wasm.content.layer.v1+wasm",
        b"\0asm\x01\0\0\0",
    ),
    ("text/spdx", b"SPDXVersion: SPDX-2.3"),
    ("application/octet-stream", b"just some bytes of any kind"),
    ("", b"{}"),
    (LAYER, b"PK\x03\x04 and so on"),
    (
        "application/vnd.oci.image.layer.v1.tar+lz4",
        b"\x04\x22\x4d\x18 and so on",
    ),
];

#[test]
fn a_blob_that_is_not_a_layer_is_reported_with_its_type() {
    let place = Place::new();
    for (media_type, content) in BLOBS {
        let scratch = tempfile::tempdir_in(place.scratch.path()).unwrap();
        let long = [content, &[b'x'; 2000]].concat();
        for content in [content, &long] {
            let source = scratch.path().join(content.len().to_string());
            image(&[(media_type, content)]).write(&source);
            place.import(&source, "art:1");
            let said = place.unpack_fails("art:1", 2);
            assert!(said.contains(media_type), "{said}");
            assert!(
                !said.contains("damaged") && said.contains("expected a layer"),
                "{said}"
            );
            let unpack = ["--name", "art:2", "--unpack"];
            let said = fails(place.cas().arg("import").arg(&source).args(unpack), 2);
            assert!(said.contains(media_type), "{said}");
            // It remains an artifact that can be looked at and moved.
            ok(place.cas().args(["tree", "art:1"]));
            ok(place
                .cas()
                .args(["export", "art:1", "-o"])
                .arg(scratch.path().join("art.tar")));
        }
    }
}

/// Only the second layer is of another kind.
#[test]
fn one_such_blob_among_layers_is_enough() {
    let place = Place::new();
    let layer = crate::scene::hello();
    let source = image(&[(LAYER, &layer), (SIGNATURE, b"{}")]).write(&place.path("source"));
    place.import(&source, "art:1");
    let said = place.unpack_fails("art:1", 2);
    assert!(said.contains(SIGNATURE), "{said}");
    let archive = place.path("docker.tar");
    let mut export = place.cas();
    export
        .args(["export", "art:1", "--format", "docker", "-o"])
        .arg(archive);
    let said = fails(&mut export, 2);
    assert!(said.contains(SIGNATURE), "{said}");
}

/// Tools write a configuration that does not count the blobs of an artifact.
#[test]
fn artifacts_with_the_configuration_of_an_image_are_reported_too() {
    let place = Place::new();
    for (case, content) in [
        ("none", json!({})),
        (
            "empty",
            json!({"rootfs": {"type": "layers", "diff_ids": []}}),
        ),
        (
            "unknown",
            json!({"os": "unknown", "architecture": "unknown", "rootfs": {"type": "x"}}),
        ),
    ] {
        let mut files = Files::layout();
        let config = files.document(CONFIG, &content);
        let files = manifest(files, &config, &[(ATTESTATION, b"[]"), (SIGNATURE, b"[1]")]);
        place.import(&files.write(&place.path(case)), "art:1");
        let said = place.unpack_fails("art:1", 2);
        assert!(said.contains(ATTESTATION), "{said}");
    }
    // In an image whose blob is a layer, a configuration without diff IDs is wrong.
    let mut files = Files::layout();
    let config = files.document(CONFIG, &json!({}));
    let files = manifest(files, &config, &[(LAYER, &Tar::new().end())]);
    place.import(&files.write(&place.path("layer")), "app:1");
    place.unpack_fails("app:1", 4);
}

#[test]
fn a_tar_is_a_layer_whatever_its_type() {
    let place = Place::new();
    let layer = crate::scene::hello();
    for (case, media_type) in [
        "application/octet-stream",
        "application/vnd.docker.image.rootfs.diff+x-gtar",
        "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+lz4",
        "",
    ]
    .into_iter()
    .enumerate()
    {
        place.import(
            &image(&[(media_type, &layer)]).write(&place.path(&case.to_string())),
            "a:1",
        );
        assert_eq!(place.unpack("a:1").0, ["hello"], "{media_type}");
    }
}

#[test]
fn a_damaged_blob_is_damage_whatever_it_looks_like() {
    let place = Place::new();
    let layer = crate::scene::hello();
    place.import(
        &image(&[(LAYER, &layer)]).write(&place.path("source")),
        "app:1",
    );
    let digest = cas::Digest::sha256(&layer);
    let blob = place.path("root/store/blobs/sha256").join(digest.hex());
    for (at, byte) in [
        (0, 0x01),
        (130, 0x7f),
        (150, 0x39),
        (156, 0xff),
        (520, 0x00),
    ] {
        let mut bad = layer.clone();
        bad[at] ^= byte;
        // If the magic of the tar header is damaged as well, only the digest shows that the blob is
        // damaged.
        bad[257..262].copy_from_slice(b"xxxxx");
        fs::remove_file(&blob).unwrap();
        fs::write(&blob, &bad).unwrap();
        place.unpack_fails("app:1", 4);
    }
}

#[test]
fn what_is_not_an_image_is_named() {
    let place = Place::new();
    for (content, expected) in [
        (&b"PK\x03\x04"[..], "a zip archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (br#"{"schemaVersion": 2}"#, "a JSON document"),
        (b"\x04\x22\x4d\x18", "an lz4 stream"),
        (b"LZIP\x01", "an lzip stream"),
        (b"\x1f\x9d\x90", "a stream of `compress`"),
        (b"QFI\xfb\0\0\0\x03", "a qcow2 disk"),
        (b"\x7fELF\x02", "an ELF program"),
        (b"hello, world", "unrecognized image format"),
    ] {
        let content = [content, &[7; 3000]].concat();
        let compressed = testkit::compress::xz(&content);
        for bytes in [&content, &compressed] {
            let said = place.import_fails(&place.file("source", bytes), "app:1", 2);
            assert!(said.contains(expected), "{said}");
        }
    }
    fs::create_dir(place.path("empty")).unwrap();
    place.import_fails(&place.path("empty"), "app:1", 2);
}
