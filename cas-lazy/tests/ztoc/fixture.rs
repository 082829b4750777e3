//! Layers to make zTOCs of.

use std::io::{Read, Write};

use cas_lazy::Ztoc;
use flate2::{Compression, GzBuilder, bufread::MultiGzDecoder};
use testkit::archive::{Header, Tar, record};

/// Returns bytes that are between random and regular, so that gzip makes blocks of all types.
pub(crate) fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let run = 1 + (seed >> 56) as usize % 9;
        let byte = if seed & 0x10 == 0 { seed as u8 } else { b'a' };
        bytes.extend(std::iter::repeat_n(byte, run.min(length - bytes.len())));
    }
    bytes
}

/// Returns a tar with members of every type, and padding at its end.
pub(crate) fn tar() -> Vec<u8> {
    let records = [
        record("SCHILY.xattr.user.raw", b"\xff\x00"),
        record("mtime", "1700000000.5"),
        record("uname", "Ω"),
    ]
    .concat();
    let extended = Header::new(b'x', "pax").size(records.len() as u64);
    let mut owned = Header::new(b'0', "dir/owned").size(3).mode(0o4755);
    owned.put(265, b"user").put(297, b"group");
    Tar::new()
        .dir("dir/")
        .member(extended, records)
        .member(owned.owner(1000, 1001), "abc")
        .symlink("dir/link", "owned")
        .hardlink("dir/same", "dir/owned")
        .member(Header::new(b'3', "dir/null").device(1, 3), "")
        .member(Header::new(b'6', "dir/pipe"), "")
        .file("dir/empty", "")
        .file("large", noise(600_000, 7))
        .file("last", noise(5000, 8))
        .raw([0; 10_240])
        .0
}

pub(crate) fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
    let builder = GzBuilder::new().filename("layer.tar").comment("a comment");
    let mut encoder = builder.write(Vec::new(), Compression::new(level));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn gunzip(layer: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    MultiGzDecoder::new(layer).read_to_end(&mut bytes).unwrap();
    bytes
}

pub(crate) fn build(layer: &[u8], span_size: u64) -> Ztoc {
    Ztoc::build(layer, span_size, "a test").unwrap()
}
