//! The pipeline: everything is verified to the last byte, and nothing gets stuck.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cas_core::content::Durability;
use cas_core::{Descriptor, Digest, Error, ErrorKind, MediaType};
use cas_layer::apply::Tree;
use cas_layer::codec::Compression;
use cas_layer::flow::{Accept, Confine, LayerSource, stream, unpack, unpack_one};
use common::{Cage, Tar};

/// A valid layer, compressed.
struct Blob {
    bytes: Vec<u8>,
    diff_id: Digest,
}

impl Blob {
    fn new(tar: &[u8]) -> Self {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(tar).unwrap();
        Blob {
            bytes: encoder.finish().unwrap(),
            diff_id: Digest::sha256(tar),
        }
    }

    fn source(&self) -> LayerSource<'_> {
        LayerSource {
            blob: Box::new(&self.bytes[..]),
            descriptor: Descriptor::of(MediaType::OCI_LAYER_GZIP, &self.bytes),
            diff_id: Some(self.diff_id),
            compression: Compression::Gzip,
            checkpoints: None,
        }
    }
}

fn big(name: &str, megabytes: usize) -> Vec<u8> {
    Tar::new()
        .file(name, vec![name.as_bytes()[0]; megabytes << 20])
        .end()
}

#[test]
fn many_layers_run_through_few_buffers() {
    let cage = Cage::new();
    let mut blobs: Vec<Blob> = (0..40)
        .map(|n| {
            Blob::new(
                &Tar::new()
                    .file(format!("f{n}"), "x")
                    .file("top", n.to_string())
                    .end(),
            )
        })
        .collect();
    // A layer that fills whole buffers, one that is larger than all buffers, and an empty one.
    blobs.push(Blob::new(&big("a", 1)));
    blobs.push(Blob::new(&vec![0; 1 << 20]));
    blobs.push(Blob::new(&big("b", 30)));
    blobs.push(Blob::new(&[]));
    let junk = [Tar::new().file("last", "l").end(), b"trailing".to_vec()].concat();
    blobs.push(Blob::new(&junk));
    let total: usize = blobs.iter().map(|blob| blob.bytes.len()).sum();
    let seen = AtomicU64::new(0);
    let count = |bytes| {
        seen.fetch_add(bytes, Ordering::Relaxed);
    };
    let layers = blobs.iter().map(Blob::source).collect();
    let tree = Tree::open(&cage.root()).unwrap();
    let applied = unpack(layers, &tree, true, Durability::Full, &count).unwrap();
    assert_eq!(applied.len(), blobs.len());
    assert_eq!(
        applied[44].warnings,
        ["bytes follow the end of the archive"]
    );
    assert_eq!(seen.into_inner(), total as u64);
    assert_eq!(fs::read_to_string(cage.root().join("top")).unwrap(), "39");
    assert_eq!(fs::metadata(cage.root().join("b")).unwrap().len(), 30 << 20);
}

#[test]
fn a_blob_that_does_not_match_its_descriptor_is_corrupt() {
    // The diff ID also covers the bytes that follow the archive.
    let good = Blob::new(&Tar::new().file("f", "x").end());
    let tail = Blob::new(&[Tar::new().file("f", "x").end(), vec![0; 512]].concat());
    let other = Digest::sha256(b"other");
    let cage = Cage::new();
    let tree = Tree::open(&cage.root()).unwrap();
    let check = |layer: LayerSource<'_>, named: String| {
        let error = unpack_one(layer, &tree, true, Durability::Relaxed, &|_| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(
            error.to_string().contains(&named),
            "{error} does not name {named}"
        );
    };
    let size = good.bytes.len() as u64;
    for size in [size + 1, size - 1] {
        let mut source = good.source();
        source.descriptor.size = size;
        check(source, size.to_string());
    }
    check(
        LayerSource {
            diff_id: Some(other),
            ..good.source()
        },
        good.diff_id.to_string(),
    );
    check(
        LayerSource {
            diff_id: Some(good.diff_id),
            ..tail.source()
        },
        tail.diff_id.to_string(),
    );
    let plain = LayerSource {
        compression: Compression::None,
        ..good.source()
    };
    assert_eq!(
        unpack_one(plain, &tree, true, Durability::Relaxed, &|_| {})
            .unwrap_err()
            .kind(),
        ErrorKind::Corrupt
    );
}

/// A source that fails after some bytes.
struct Failing(Box<dyn Read + Send>);

impl Read for Failing {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.0.read(out)? {
            0 => Err(Error::unavailable("the line is down").into()),
            read => Ok(read),
        }
    }
}

#[test]
fn a_failure_anywhere_stops_the_pipeline_with_its_cause() {
    let threads = || fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    let fat = Blob::new(&big("fat", 16));
    let bad = Blob::new(
        &Tar::new()
            .file("f", "")
            .raw([1; 512])
            .raw(vec![2; 16 << 20])
            .end(),
    );
    for round in 0..8 {
        let cage = Cage::new();
        let tree = Tree::open(&cage.root()).unwrap();
        let run = |layers| unpack(layers, &tree, true, Durability::Relaxed, &|_| {}).unwrap_err();
        // The blob fails in the middle of a layer, and in the layer after a large one.
        let cut = fat.bytes[..round * fat.bytes.len() / 8].to_vec();
        let broken = || LayerSource {
            blob: Box::new(Failing(Box::new(io::Cursor::new(cut.clone())))),
            ..fat.source()
        };
        assert_eq!(
            run(vec![broken(), fat.source()]).kind(),
            ErrorKind::Unavailable
        );
        assert_eq!(
            run(vec![fat.source(), broken()]).kind(),
            ErrorKind::Unavailable
        );
        // The archive is refused while far more bytes are on their way.
        let error = run(vec![bad.source(), fat.source(), fat.source()]);
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("checksum"), "{error}");
    }
    let mut calls = 0;
    let layers = vec![fat.source(), fat.source()];
    let error = stream(
        layers,
        Accept::Tars,
        Confine::Decoding,
        &|_| {},
        |layer, _| {
            calls += 1;
            match layer {
                0 => Ok(()),
                _ => Err(Error::cancelled("enough")),
            }
        },
    );
    assert_eq!(
        (error.unwrap_err().kind(), calls),
        (ErrorKind::Cancelled, 2)
    );
    // Other tests have threads that end.
    let begun = Instant::now();
    while threads() > before + 4 {
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "threads leaked: {before} became {}",
            threads()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_erofs_image_is_a_layer_only_if_its_type_says_so_and_images_are_accepted() {
    let mut image = vec![0; 8192];
    image[1024..1028].copy_from_slice(b"\xe2\xe1\xf5\xe0");
    let image = Blob::new(&image);
    let native = "application/vnd.erofs.layer.v1+gzip";
    for (media_type, accept, expected) in [
        (native, Accept::TarsAndImages, true),
        (native, Accept::Tars, false),
        (
            MediaType::OCI_LAYER_GZIP.as_str(),
            Accept::TarsAndImages,
            false,
        ),
    ] {
        let mut source = image.source();
        source.descriptor.media_type = media_type.into();
        let streamed = stream(vec![source], accept, Confine::Decoding, &|_| {}, |_, _| {
            Ok(())
        });
        let refused = streamed.err().map(|error| error.kind());
        let expected = (!expected).then_some(ErrorKind::Unsupported);
        assert_eq!(refused, expected, "{media_type} {accept:?}");
    }
    // Bytes that are a tar are one, whatever their type says.
    let tar = Blob::new(&Tar::new().file("file", "x").end());
    let mut source = tar.source();
    source.descriptor.media_type = native.into();
    stream(
        vec![source],
        Accept::Tars,
        Confine::Decoding,
        &|_| {},
        |_, _| Ok(()),
    )
    .unwrap();
}
