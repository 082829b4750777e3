//! The images of the tests.

use std::fs;
use std::path::Path;

use cas::{Descriptor, MediaType};
use serde_json::{Value, json};
use testkit::archive::{Header, Tar};
use testkit::program::program_that_ends;

#[cfg(feature = "on-demand")]
use crate::common::chunked;
use crate::common::layout::layout;

/// The size of the large file of each layer.
const LARGE: usize = 700_000;

/// Writes layouts with images of two and three layers, `base` and `other`. They share the lowest
/// layer, which has a program. `signed` is `other` under the name `signed:1`, with an artifact that
/// refers to it. `zipped` has the layers of `other` in compressed formats: gzip, zstd:chunked and
/// gzip.
pub(crate) fn write(place: &Path) {
    layout(&place.join("base"), vec![lowest(), layer("base", 20)]);
    #[cfg(feature = "on-demand")]
    chunked::layout(
        &place.join("zipped"),
        vec![
            chunked::plain(&lowest().end()),
            chunked::zstd_chunked(&layer("other", 60).end()),
            chunked::plain(&top().end()),
        ],
    );
    for name in ["other", "signed"] {
        let layers = vec![lowest(), layer("other", 60), top()];
        layout(&place.join(name), layers);
    }
    sign(&place.join("signed"));
}

/// Names the image of a layout, and adds an artifact that refers to it.
fn sign(layout: &Path) {
    let index = fs::read(layout.join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let mut image = index["manifests"][0].clone();
    let subject: Descriptor = serde_json::from_value(image.clone()).unwrap();
    let empty = Descriptor::of(MediaType::OCI_EMPTY, b"{}");
    let artifact = json!({
        "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
        "artifactType": "application/x.signature",
        "config": empty, "layers": [empty], "subject": subject,
    });
    let artifact = artifact.to_string();
    let signature = Descriptor::of(MediaType::OCI_MANIFEST, artifact.as_bytes());
    for (descriptor, data) in [(&empty, "{}"), (&signature, &artifact)] {
        let blobs = layout.join("blobs/sha256");
        fs::write(blobs.join(descriptor.digest.hex()), data).unwrap();
    }
    image["annotations"] = json!({"org.opencontainers.image.ref.name": "signed:1"});
    let index = json!({"schemaVersion": 2, "manifests": [image, signature]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
}

fn lowest() -> Tar {
    let (program, mode) = (program_that_ends(), 0o755);
    let header = Header::new(b'0', "bin/true").mode(mode);
    let header = header.size(program.len() as u64);
    let layer = layer("lowest", 30)
        .dir("./")
        .dir("bin")
        .member(header, program);
    ["dev", "proc", "sys", "tmp", "etc"]
        .into_iter()
        .fold(layer, |layer, name| layer.dir(name))
}

/// Returns a layer with a large file, and small files in several directories.
fn layer(name: &str, files: usize) -> Tar {
    let mut layer = Tar::new()
        .dir(name)
        .file(format!("{name}/large"), large(name));
    for number in 0..files {
        if number % 10 == 0 {
            layer = layer.dir(format!("{name}/{}", number / 10));
        }
        let path = format!("{name}/{}/{number}", number / 10);
        layer = layer.file(&path, format!("{name} {number}"));
        layer = layer
            .hardlink(format!("{path}-hard"), &path)
            .symlink(format!("{path}-soft"), "x");
    }
    layer
}

/// Returns a layer that removes files of the layers below.
fn top() -> Tar {
    let layer = Tar::new()
        .file("other/.wh.large", "")
        .file("lowest/0/.wh..wh..opq", "");
    layer.file("other/1/10", "changed")
}

/// Returns bytes that do not repeat.
fn large(name: &str) -> Vec<u8> {
    let mut state = name.len() as u32;
    let byte = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..LARGE).map(byte).collect()
}
