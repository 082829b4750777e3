//! Little input that causes much work, or takes much memory or space.

use std::io::Write;

use cas::{Digest, ErrorKind, MediaType};
use flate2::{Compression, write::GzEncoder};

use super::{CORRUPT, Case, Layer, Make, harmless, refused};
use testkit::archive::{Header, Tar};
use testkit::compress::xz;

/// Returns a case with one compressed layer. Its diff ID is wrong, so the layer is refused even if
/// its content is not.
fn packed(name: &'static str, kind: ErrorKind, blob: Vec<u8>, media_type: MediaType) -> Case {
    let mut case = refused(name, kind, Vec::new());
    case.layers = vec![Layer {
        blob,
        diff_id: Digest::sha256(b"another"),
    }];
    case.media_type = media_type;
    case
}

/// Writes an archive of one file of zeros, without the blocks that end an archive.
fn zeros(mebibytes: u64, write: &mut impl Write) {
    let header = Header::new(b'0', "zeros").size(mebibytes << 20);
    write.write_all(&header.sealed(false)).unwrap();
    for _ in 0..mebibytes {
        write.write_all(&[0; 1 << 20]).unwrap();
    }
}

/// An empty zstd frame that states a window of two gibibytes.
const LARGE_WINDOW: [u8; 9] = [0x28, 0xb5, 0x2f, 0xfd, 0, (31 - 10) << 3, 1, 0, 0];

/// Returns an xz stream that states a dictionary of one gibibyte.
fn large_dictionary() -> Vec<u8> {
    /// Where the header of the first block begins.
    const BLOCK: usize = 12;
    let mut stream = xz(&Tar::new().dir("./").end());
    let length = (usize::from(stream[BLOCK]) + 1) * 4 - 4;
    stream[BLOCK + 4] = 36;
    let mut sum = flate2::Crc::new();
    sum.update(&stream[BLOCK..BLOCK + length]);
    let sum = sum.sum().to_le_bytes();
    stream[BLOCK + length..][..4].copy_from_slice(&sum);
    stream
}

pub(super) const ALL: &[Make] = &[
    |_| {
        let below = Tar::new().dir("d").file("d/x", "");
        let hidden = (0..2000).fold(Tar::new(), |tar, n| tar.file(format!("d/.wh.{n}"), ""));
        harmless("many whiteouts in one directory", vec![below, hidden])
    },
    |_| {
        let files = (0..1000).fold(Tar::new().dir("d"), |tar, n| tar.file(format!("d/{n}"), ""));
        let opaque = Tar::new().file("d/.wh..wh..opq", "").file("d/new", "");
        harmless("an opaque directory over many files", vec![files, opaque])
    },
    |_| {
        let files = (0..1500).fold(Tar::new(), |tar, n| tar.file(format!("{n}"), ""));
        harmless("many files", vec![files])
    },
    |_| {
        let deep = "d/".repeat(100);
        let files = (0..200).fold(Tar::new(), |tar, n| {
            let path = format!("{deep}{n}/f");
            tar.pax(&[("path", path.as_bytes())]).file("x", "")
        });
        harmless("many deep files", vec![files])
    },
    |_| {
        let names = (0..500).fold(Tar::new().file("0", "x"), |tar, n| {
            tar.hardlink(format!("{}", n + 1), format!("{n}"))
        });
        harmless("many links to one file", vec![names])
    },
    |_| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder
            .write_all(&Tar::new().dir("./").file("f", "").end())
            .unwrap();
        let mut blob = encoder.finish().unwrap();
        // The name in the header of a member, which a decoder skips.
        let mut named = vec![0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 255];
        named.resize(2 << 20, b'n');
        blob.extend(named);
        packed(
            "a long name in a header of gzip",
            CORRUPT,
            blob,
            MediaType::OCI_LAYER_GZIP,
        )
    },
    |_| {
        let blob = LARGE_WINDOW.to_vec();
        packed(
            "a window of zstd over the bound",
            ErrorKind::OutOfRange,
            blob,
            MediaType::OCI_LAYER_ZSTD,
        )
    },
    |_| {
        let mut blob = 0x184d_2a50_u32.to_le_bytes().to_vec();
        blob.extend(u32::MAX.to_le_bytes());
        packed(
            "a frame of zstd of 4 GiB that is skipped",
            CORRUPT,
            blob,
            MediaType::OCI_LAYER_ZSTD,
        )
    },
    |_| {
        let blob = large_dictionary();
        packed(
            "a dictionary of xz over the bound",
            ErrorKind::OutOfRange,
            blob,
            MediaType::OCI_LAYER,
        )
    },
    |_| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        zeros(100, &mut encoder);
        let blob = encoder.finish().unwrap();
        packed(
            "more zeros than the disk has room for",
            ErrorKind::Full,
            blob,
            MediaType::OCI_LAYER_GZIP,
        )
    },
];
