//! Real images in all formats of layers that are read on demand, and a tar as some real builders
//! write it.

use std::io::Read;
use std::path::Path;
use std::process::Command;

use super::scene::{Scene, convert, import, import_tars, is_usable};
use crate::common::chunked::{self, Chunked};
use crate::common::{can, cas, ok, real_image};

/// The images: directories in `target/images`, and tags in them.
const IMAGES: [(&str, &str); 8] = [
    ("small", "latest"),
    ("debian-platforms", "amd64"),
    ("debian-platforms", "arm64"),
    ("debian-platforms", "armhf"),
    ("debian-platforms", "s390x"),
    ("debian-multi", "latest"),
    ("debian-multi", "strict"),
    ("debian-multi-zstd", "latest"),
];

/// Writes a tar as a layer in a format.
type Format = fn(&[u8]) -> Chunked;

/// The formats, with their names. The first gets a zTOC.
const FORMATS: [(&str, Format); 3] = [
    ("gzip with a zTOC", chunked::plain),
    ("eStargz", chunked::estargz),
    ("zstd:chunked", chunked::zstd_chunked),
];

/// Returns the decompressed layers of an image in a layout.
fn tars(layout: &Path, tag: &str) -> Vec<Vec<u8>> {
    let root = tempfile::tempdir().unwrap();
    ok(cas(root.path())
        .args(["-q", "import", "--name", "app"])
        .arg(layout));
    let cas = cas::blocking::Cas::open(root.path()).unwrap();
    let manifest = cas.manifest(format!("app:{tag}")).unwrap().manifest;
    let tars = manifest.layers.iter().map(|layer| {
        let digest = layer.digest.to_string();
        let blob = root
            .path()
            .join("store/blobs")
            .join(digest.replace(':', "/"));
        let compressed = std::fs::File::open(blob).unwrap();
        let mut tar = Vec::new();
        let read = match layer.media_type.as_str().ends_with("zstd") {
            true => zstd::Decoder::new(compressed)
                .unwrap()
                .read_to_end(&mut tar),
            false => flate2::read::MultiGzDecoder::new(compressed).read_to_end(&mut tar),
        };
        read.unwrap();
        tar
    });
    tars.collect()
}

/// Each image is read whole while its layers arrive, and again after they are complete.
#[test]
#[ignore = "takes minutes; `cargo xtask long` runs it"]
fn real_images_are_the_plain_trees_in_all_formats() {
    if !is_usable() {
        return;
    }
    for (layout, tag) in IMAGES {
        let Some(layout) = real_image(layout) else {
            continue;
        };
        let tars = tars(&layout, tag);
        for (number, (format, write)) in FORMATS.into_iter().enumerate() {
            let scene = Scene::with(false, |whole, reference| match number {
                0 => {
                    import_tars(whole, "plain", &tars, write);
                    convert(whole, "plain", reference, "256KiB");
                }
                _ => import_tars(whole, reference, &tars, write),
            });
            scene.assert_shows_before_and_after_completion(tars.len());
            eprintln!(
                "{}:{tag}: {} layers, {format}",
                layout.display(),
                tars.len()
            );
        }
    }
}

/// skopeo of Debian 12 annotates the layers as stargz-snapshotter does.
#[test]
fn layers_that_skopeo_has_written_are_the_plain_tree_before_and_after_completion() {
    if !is_usable() || !can(&["skopeo"]) {
        return;
    }
    let written = tempfile::tempdir().unwrap();
    let scene = Scene::with(false, |whole, reference| {
        import(whole, "plain", chunked::plain);
        let from = whole.join("store:docker.io/library/plain:latest");
        let [from, to] = [&*from, &written.path().join("layout:plain")]
            .map(|place| format!("oci:{}", place.display()));
        ok(Command::new("skopeo")
            .args(["--insecure-policy", "copy", "-q"])
            .args(["--dest-compress-format", "zstd:chunked", &from, &to]));
        ok(cas(whole)
            .args(["-q", "import", "--name", reference])
            .arg(written.path().join("layout")));
    });
    let layers = scene.on_demand();
    assert!(layers.iter().all(|layer| layer.total > 0), "{layers:?}");
    scene.assert_shows_before_and_after_completion(layers.len());
}

/// Some builders leave out the padding after the last file, and the blocks at the end.
#[test]
fn a_tar_that_ends_with_the_last_byte_of_a_file_is_the_plain_tree_before_and_after_completion() {
    if !is_usable() {
        return;
    }
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode, content) in [("./", 0o755, ""), ("short", 0o644, "short")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        }
        tar.append_data(&mut header, path, content.as_bytes())
            .unwrap();
    }
    let mut tar = tar.into_inner().unwrap();
    tar.truncate(2 * 512 + "short".len());
    let scene = Scene::with(false, |whole, reference| {
        import_tars(whole, "plain", &[tar], chunked::plain);
        convert(whole, "plain", reference, "256KiB");
    });
    scene.assert_shows_before_and_after_completion(1);
}
