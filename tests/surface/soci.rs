//! `cas soci`: indexes are made, listed, kept, and removed with their image.

use cas::lazy::soci::{Index, Version};
use cas::lazy::{FileKind, Ztoc};
use cas::{Digest, Document, ErrorKind, MediaType, SociOptions, blocking};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;
use testkit::archive::Tar;

use super::Shelf;
use crate::common::layout::layout_typed;

/// Returns a blob of the store, and compares its digest.
fn blob(shelf: &Shelf, digest: &Digest) -> Vec<u8> {
    let path = shelf.path("root/store/blobs/sha256").join(digest.hex());
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(Digest::sha256(&bytes), *digest);
    bytes
}

fn digest(value: &serde_json::Value) -> Digest {
    value.as_str().unwrap().parse().unwrap()
}

#[test]
fn an_index_lists_ztocs_from_which_the_layers_are_inflated() {
    let shelf = Shelf::new();
    let create = ["soci", "create", "app:1", "--min-layer-size", "0"];
    let made = shelf.json(&create);
    let bytes = blob(&shelf, &digest(&made[0]["digest"]));
    let index = Index::decode(&bytes).unwrap();
    let Version::V1 { subject } = &index.version else {
        panic!("{index:?} has no subject");
    };
    let manifest = blob(&shelf, &subject.digest);
    let Document::Manifest(manifest) =
        Document::parse(&MediaType::OCI_MANIFEST, &manifest).unwrap()
    else {
        panic!("the subject is not a manifest");
    };
    assert_eq!(index.ztocs.len(), manifest.layers.len());
    for (listed, layer) in index.ztocs.iter().zip(&manifest.layers) {
        assert_eq!(listed.layer, layer.digest);
        assert_eq!(listed.layer_media_type, layer.media_type.as_str());
        let ztoc = Ztoc::decode(&blob(&shelf, &listed.digest)).unwrap();
        assert!(ztoc.files.iter().any(|file| file.kind == FileKind::File));
        let layer = blob(&shelf, &layer.digest);
        let mut whole = Vec::new();
        MultiGzDecoder::new(&layer[..])
            .read_to_end(&mut whole)
            .unwrap();
        let inflated = ztoc.spans().map(|span| {
            let range = span.compressed.start as usize..span.compressed.end as usize;
            span.inflate(&layer[range]).unwrap()
        });
        assert!(inflated.collect::<Vec<_>>().concat() == whole);
    }
    // The same image gives the same index, which is listed once.
    assert_eq!(shelf.json(&create)[0]["digest"], made[0]["digest"]);
    let listed = shelf.json(&["soci", "ls"]);
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["image"], "app:1");
    assert_eq!(listed[0]["digest"], made[0]["digest"]);
    assert_eq!(listed[0]["layers"], made[0]["layers"]);
    assert_eq!(shelf.json(&["soci", "ls", "app:1"]), listed);
    assert!(shelf.ok(&["soci", "ls", "app:1"]).contains("app:1"));
}

#[test]
fn a_list_of_files_is_read_from_a_file_or_from_standard_input() {
    let shelf = Shelf::new();
    let tar = Tar::new().file(b"caf\xe9", "x").file("plain", "y").end();
    let mut layer = GzEncoder::new(Vec::new(), Compression::fast());
    layer.write_all(&tar).unwrap();
    let layer = layer.finish().unwrap();
    let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    let diff_ids = [Digest::sha256(&tar)];
    layout_typed(&shelf.path("layout"), &[layer], &diff_ids, media_type);
    shelf.ok(&["import", "layout", "--name", "odd:1"]);
    let create = ["--json", "soci", "create", "odd:1", "--min-layer-size", "0"];
    let create = |list: &str| shelf.cas(&[&create[..], &["--prefetch-list", list]].concat());
    let found = |made: std::process::Output| {
        let said = String::from_utf8(made.stderr).unwrap();
        assert!(made.status.success(), "{said}");
        let index: Value = serde_json::from_slice(&made.stdout).unwrap();
        let is_listed = index["layers"][0]["prefetches"].is_array();
        assert_ne!(is_listed, said.contains("is not fetched first"), "{said}");
        is_listed
    };
    for (list, expected) in [
        (&b"plain\n"[..], true),
        (b"caf\xe9\n", true),
        (b"\n\r\nplain\r\n", true),
        (b"caf\xe9", true),
        (b"caf\xc3\xa9\n", false),
    ] {
        let text = list.escape_ascii();
        fs::write(shelf.path("list"), list).unwrap();
        assert_eq!(found(create("list").output().unwrap()), expected, "{text}");
        let mut piped = create("-");
        let piped = piped.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut piped = piped.stderr(Stdio::piped()).spawn().unwrap();
        piped.stdin.take().unwrap().write_all(list).unwrap();
        let piped = found(piped.wait_with_output().unwrap());
        assert_eq!(piped, expected, "{text} on standard input");
    }
    fs::create_dir(shelf.path("directory")).unwrap();
    fs::write(shelf.path("wrong"), "plain\n\nplain bytes=1-0\n").unwrap();
    for (list, code, words) in [
        ("directory", 2, "is a directory; name a file"),
        ("directory/", 2, "is a directory; name a file"),
        ("absent", 3, "absent"),
        ("wrong", 2, "line 3 of wrong"),
    ] {
        let said = crate::common::fails(&mut create(list), code);
        assert!(said.contains(words), "{list}: {said}");
    }
}

#[test]
fn a_collection_keeps_an_index_for_as_long_as_its_image() {
    let shelf = Shelf::new();
    shelf.ok(&["soci", "create", "app:1", "--min-layer-size", "0"]);
    let before = shelf.json(&["soci", "ls"]);
    shelf.ok(&["gc"]);
    assert_eq!(shelf.json(&["soci", "ls"]), before);
    shelf.ok(&["fsck", "--read-data"]);
    let index = digest(&before[0]["digest"]);
    let ztoc = digest(&before[0]["layers"][0]["ztoc"]);
    assert!(!blob(&shelf, &index).is_empty() && !blob(&shelf, &ztoc).is_empty());
    shelf.ok(&["rmi", "app:1"]);
    shelf.ok(&["gc"]);
    assert!(shelf.json(&["soci", "ls"]).is_empty());
    let blobs = shelf.path("root/store/blobs/sha256");
    for digest in [index, ztoc] {
        assert!(!blobs.join(digest.hex()).exists(), "{digest}");
    }
}

#[test]
fn images_without_large_layers_have_no_index() {
    let shelf = Shelf::new();
    let said = shelf.fails(&["soci", "create", "app:1"], 1);
    assert!(said.contains("10485760"), "{said}");
    assert!(shelf.json(&["soci", "ls", "app:1"]).is_empty());
    shelf.fails(&["soci", "create", "absent:1"], 3);
    shelf.fails(&["soci", "ls", "absent:1"], 3);
    let cas = blocking::Cas::open(shelf.path("root")).unwrap();
    let options = SociOptions::default()
        .with_min_layer_size(0)
        .with_span_size(0);
    let error = cas.create_soci_with("app:1", options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
}
