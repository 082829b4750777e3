//! xz and bzip2 around archives and layers, and what may follow a compressed stream.

use std::fs::File;
use std::io::Write;

use serde_json::{Value, json};
use testkit::compress::{bzip2, xz, xz_with_dictionary};

use crate::common::{fails, ok};
use crate::scene::{CONFIG, Files, MANIFEST, Place, config, hello, host};

type Encode = fn(&[u8]) -> Vec<u8>;

const FORMATS: [(&str, Encode); 4] = [("gzip", gzip), ("zstd", zstd), ("xz", xz), ("bzip2", bzip2)];

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}

/// A frame of blocks that are not compressed.
fn zstd(data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
    let mut pieces = data.chunks(64 << 10).peekable();
    while let Some(piece) = pieces.next() {
        let last = u32::from(pieces.peek().is_none());
        let header = (piece.len() as u32) << 3 | last;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(piece);
    }
    frame
}

/// Returns an archive of docker with one image whose layer is stored as it is given.
fn docker(layer: &[u8], plain: &[u8]) -> Files {
    let mut files = Files::default();
    files.add("config.json", config(&host(), &[plain]).to_string());
    files.add("layer", layer);
    let entry = json!({"Config": "config.json", "RepoTags": ["app:1"], "Layers": ["layer"]});
    files.add("manifest.json", json!([entry]).to_string());
    files
}

/// Returns a layout with one image whose layer has a type and is stored as it is given.
fn layout(media_type: &str, layer: &[u8], plain: &[u8]) -> Files {
    let mut files = Files::layout();
    let config = files.document(CONFIG, &config(&host(), &[plain]));
    let layer = files.blob(media_type, layer);
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    let manifest = files.document(MANIFEST, &manifest);
    files.lists(&manifest);
    files
}

fn manifest_of(place: &Place, image: &str) -> Value {
    let shown = ok(place.cas().args(["--json", "inspect", image]));
    serde_json::from_str::<Value>(&shown).unwrap()["manifest"].clone()
}

#[test]
fn compressed_archives_are_imported() {
    let place = Place::new();
    let docker = docker(&hello(), &hello()).tar();
    let layout = layout(crate::scene::LAYER, &hello(), &hello()).tar();
    for (format, encode) in FORMATS {
        for (kind, tar) in [("docker", &docker), ("layout", &layout)] {
            let (start, end) = tar.split_at(1000);
            for (case, bytes) in [
                ("whole", encode(tar)),
                ("members", [encode(start), encode(end)].concat()),
                ("zeros", [encode(tar), vec![0; 10_240]].concat()),
            ] {
                let archive = place.file("archive", bytes);
                place.import(&archive, "app:1");
                let mut import = place.cas();
                import.args(["import", "-", "--name", "app:2"]);
                ok(import.stdin(File::open(&archive).unwrap()));
                assert_eq!(place.unpack("app:1").0, ["hello"], "{format} {kind} {case}");
                assert_eq!(manifest_of(&place, "app:1"), manifest_of(&place, "app:2"));
            }
        }
    }
}

#[test]
fn damaged_archives_are_damage() {
    let place = Place::new();
    let tar = docker(&hello(), &hello()).tar();
    for (format, encode) in FORMATS {
        let good = encode(&tar);
        let archive = place.file("archive", &good[..good.len() / 2]);
        let said = place.import_fails(&archive, "app:1", 4);
        assert!(said.contains(format), "{said}");
    }
}

#[test]
fn layers_of_all_formats_are_unpacked_whatever_their_type() {
    let place = Place::new();
    let plain = hello();
    let oci = "application/vnd.oci.image.layer.v1.tar";
    for (format, encode) in FORMATS {
        for media_type in [
            oci,
            &format!("{oci}+{format}"),
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/octet-stream",
            "application/x-tar",
        ] {
            for zeros in [0, 4, 512] {
                let layer = [encode(&plain), vec![0; zeros]].concat();
                let files = layout(media_type, &layer, &plain);
                let scratch = tempfile::tempdir_in(place.scratch.path()).unwrap();
                let source = files.write(&scratch.path().join("source"));
                place.import(&source, "app:1");
                assert_eq!(
                    place.unpack("app:1").0,
                    ["hello"],
                    "{format} {media_type} {zeros}"
                );
            }
        }
        let fresh = Place::new();
        let source = layout(oci, &encode(&plain), &plain).write(&fresh.path("source"));
        let import = ["--name", "app:1", "--unpack"];
        ok(fresh.cas().arg("import").arg(&source).args(import));
    }
}

/// OCI has media types only for gzip and zstd, so a layer with another compression is stored
/// without it. An archive of docker does not state how its layers are compressed.
#[test]
fn layers_in_archives_of_docker_get_a_type_of_their_format() {
    let oci = "application/vnd.oci.image.layer.v1.tar";
    let plain = hello();
    for (format, encode) in FORMATS {
        let place = Place::new();
        let archive = place.file("archive", docker(&encode(&plain), &plain).tar());
        place.import(&archive, "app:1");
        let layer = manifest_of(&place, "app:1")["layers"][0].clone();
        let expected = match format {
            "xz" | "bzip2" => oci.to_owned(),
            kept => format!("{oci}+{kept}"),
        };
        assert_eq!(layer["mediaType"], expected, "{format}");
        assert_eq!(place.unpack("app:1").0, ["hello"], "{format}");
        // Through a pipe, and through a compressed archive, the same manifest comes out.
        for (name, bytes) in [
            ("app:2", docker(&encode(&plain), &plain).tar()),
            ("app:3", encode(&docker(&encode(&plain), &plain).tar())),
        ] {
            let piped = File::open(place.file("piped", bytes)).unwrap();
            ok(place
                .cas()
                .args(["import", "-", "--name", name])
                .stdin(piped));
            assert_eq!(
                manifest_of(&place, name),
                manifest_of(&place, "app:1"),
                "{format}"
            );
        }
        ok(place.cas().arg("fsck").arg("--read-data"));
        let other = place.file("other", docker(&encode(b"other"), &plain).tar());
        if expected == oci {
            let said = place.import_fails(&other, "app:4", 4);
            assert!(said.contains("expected a layer with the diff ID"), "{said}");
        }
    }
}

#[test]
fn a_large_layer_without_a_type_of_its_format_is_imported() {
    let place = Place::new();
    let body: Vec<u8> = (0..3u32 << 20)
        .map(|n| (n.wrapping_mul(n) >> 7) as u8)
        .collect();
    let plain = testkit::archive::Tar::new().file("large", &body).end();
    let files = docker(&xz(&plain), &plain).tar();
    for (name, bytes) in [("app:1", files.clone()), ("app:2", gzip(&files))] {
        place.import(&place.file("archive", bytes), name);
        assert_eq!(place.unpack(name).0, ["large"]);
    }
}

#[test]
fn bytes_behind_a_layer_are_reported_as_what_they_are() {
    let place = Place::new();
    let plain = hello();
    for (format, encode) in FORMATS {
        for (tail, expected) in [
            (&b"garbage"[..], "other bytes"),
            (b"PK\x03\x04", "zip"),
            (b"\0\0\0{\"a\":1}", "JSON"),
            (b"\n", "other bytes"),
            (b"7z\xbc\xaf\x27\x1c", "7z"),
        ] {
            let layer = [encode(&plain), tail.to_vec()].concat();
            let files = layout(crate::scene::LAYER, &layer, &plain);
            let scratch = tempfile::tempdir_in(place.scratch.path()).unwrap();
            place.import(&files.write(&scratch.path().join("source")), "app:1");
            let said = place.unpack_fails("app:1", 2);
            assert!(said.contains(expected) && said.contains(format), "{said}");
        }
    }
}

#[test]
fn damaged_layers_are_damage() {
    let place = Place::new();
    let plain = hello();
    for (_, encode) in &FORMATS[2..] {
        let mut layer = encode(&plain);
        let middle = layer.len() / 2;
        layer[middle] ^= 0xff;
        let files = layout(crate::scene::LAYER, &layer, &plain);
        let scratch = tempfile::tempdir_in(place.scratch.path()).unwrap();
        place.import(&files.write(&scratch.path().join("source")), "app:1");
        place.unpack_fails("app:1", 4);
    }
}

#[test]
fn a_dictionary_beyond_the_limit_is_refused_before_it_is_allocated() {
    let place = Place::new();
    let plain = hello();
    let layer = xz_with_dictionary(&plain, 256 << 20);
    let files = layout(crate::scene::LAYER, &layer, &plain);
    place.import(&files.write(&place.path("source")), "app:1");
    let said = place.unpack_fails("app:1", 6);
    assert!(said.contains("dictionary"), "{said}");
    let mut import = place.cas();
    let archive = place.file("archive", xz_with_dictionary(&files.tar(), 256 << 20));
    fails(import.arg("import").arg(archive), 6);
}
