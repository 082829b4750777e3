//! Every bound of a layer. A value of exactly the bound is accepted. A value that is larger by one
//! is refused, with an error that names the bound. Bounds on counters are tested next to their
//! code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fmt::Display;
use std::io::Read;

use cas_core::{Error, ErrorKind, Result, limit};
use cas_layer::codec::{Compression, Decoder};
use common::{Apply, Header, Tar, read_all};
use testkit::compress::{bzip2, xz, xz_with_dictionary};

#[track_caller]
fn refused<T>(bound: impl Display, outcome: Result<T>) {
    let error = outcome.err().expect("one more must be refused");
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{bound}: {error}");
    let said = error.to_string();
    assert!(said.contains(&bound.to_string()), "{bound}: {said}");
}

/// Reads an archive of the largest allowed size, and one that is larger by one.
#[track_caller]
fn edge(bound: impl Display, most: usize, archive: impl Fn(usize) -> Tar) {
    let read = |size| read_all(&archive(size).end());
    if let Err(error) = read(most) {
        panic!("{most} is allowed: {error}");
    }
    refused(bound, read(most + 1));
}

/// Returns the body of a pax header of `size` bytes that has only a comment.
fn comment(size: usize) -> Vec<u8> {
    let head = format!("{size} comment=");
    let value = "x".repeat(size - head.len() - 1);
    format!("{head}{value}\n").into_bytes()
}

fn path(path: &[u8]) -> Tar {
    Tar::new().pax(&[("path", path)]).file("x", "")
}

#[test]
fn paths_and_links() {
    // As deep as is allowed, with a last name of any length.
    let long = |length| {
        let mut path = "abcdefg/".repeat(limit::PATH_DEPTH - 1).into_bytes();
        path.resize(length, b'x');
        path
    };
    edge(limit::PATH, limit::PATH, |length| path(&long(length)));
    edge(limit::COMPONENT, limit::COMPONENT, |length| {
        path(&vec![b'x'; length])
    });
    edge(limit::COMPONENT, limit::COMPONENT, |length| {
        path(&[b"dir/".to_vec(), vec![b'x'; length], b"/file".to_vec()].concat())
    });
    edge(limit::PATH_DEPTH, limit::PATH_DEPTH, |depth| {
        path("a/".repeat(depth).trim_end_matches('/').as_bytes())
    });
    // A component `.` leads no deeper.
    edge(limit::PATH_DEPTH, limit::PATH_DEPTH, |depth| {
        path(format!("./{}", "a/.//".repeat(depth)).as_bytes())
    });
    let link = |length| {
        Tar::new()
            .pax(&[("linkpath", &vec![b'x'; length])])
            .symlink("x", "")
    };
    assert!(read_all(&link(limit::PATH - 1).end()).is_ok());
    let error = read_all(&link(limit::PATH).end()).unwrap_err();
    assert!(
        error.to_string().contains("1 to 4095 are allowed"),
        "{error}"
    );
}

#[test]
fn extension_headers() {
    let pax = limit::PAX as usize;
    edge(pax, pax, |size| {
        Tar::new().extension(b'x', comment(size)).file("f", "")
    });
    let long = limit::GNU_LONG as usize;
    for flag in [b'L', b'K'] {
        edge(long, long, |size| {
            let mut name = b"name".to_vec();
            name.resize(size, 0);
            Tar::new().extension(flag, name).symlink("f", "target")
        });
    }
    let global = limit::PAX_GLOBAL as usize;
    edge(global, global, |size| {
        Tar::new().extension(b'g', comment(size)).file("f", "")
    });
    // All global headers of a stream count together.
    edge(global, global, |size| {
        let parts = [size - 3000, 2000, 1000];
        let headers = parts.iter().fold(Tar::new(), |tar, size| {
            tar.extension(b'g', comment(*size)).file("f", "")
        });
        headers.file("last", "")
    });
}

#[test]
fn extended_attributes() {
    let xattrs = |all: &[(&str, usize)]| {
        let values: Vec<(String, Vec<u8>)> = all
            .iter()
            .map(|(name, size)| (format!("SCHILY.xattr.{name}"), vec![b'v'; *size]))
            .collect();
        let records: Vec<(&str, &[u8])> = values
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        Tar::new().pax(&records).file("f", "")
    };
    // An attribute that no file can have is left out, with a warning.
    let kept = |tar: Tar| {
        let (members, warnings) = read_all(&tar.end()).unwrap();
        assert_eq!(members[0].0.xattrs.is_empty(), !warnings.is_empty());
        warnings.is_empty()
    };
    for (size, expected) in [(limit::XATTR, true), (limit::XATTR + 1, false)] {
        assert_eq!(kept(xattrs(&[("user.a", size)])), expected, "{size}");
    }
    for (length, expected) in [(limit::COMPONENT, true), (limit::COMPONENT + 1, false)] {
        let name = format!("user.{}", "x".repeat(length - 5));
        assert_eq!(kept(xattrs(&[(&name, 1)])), expected, "{length}");
    }
    // The names of attributes count toward the bound as well.
    let quarter = limit::XATTRS / 4 - "user.a".len();
    edge(limit::XATTRS, quarter, |last| {
        let names = ["user.a", "user.b", "user.c"].map(|name| (name, quarter));
        xattrs(&[&names[..], &[("user.d", last)]].concat())
    });
}

#[test]
fn sizes_and_sparse_maps() {
    edge(limit::SPARSE_REGIONS, limit::SPARSE_REGIONS, |count| {
        let map = "0,0,".repeat(count);
        let map = map.trim_end_matches(',').as_bytes();
        Tar::new()
            .pax(&[("GNU.sparse.size", b"0"), ("GNU.sparse.map", map)])
            .file("GNUSparseFile.0/x", "")
    });
    // The bytes of the largest file are missing. That is found only after its size is accepted.
    let whole = |size: u64| {
        let records: &[(&str, &[u8])] = &[("size", &size.to_string().into_bytes())];
        read_all(
            &Tar::new()
                .pax(records)
                .raw(Header::new(b'0', "f").sealed(false))
                .0,
        )
    };
    assert_eq!(whole(limit::LAYER).unwrap_err().kind(), ErrorKind::Corrupt);
    refused(limit::LAYER, whole(limit::LAYER + 1));
    let sparse = |size: u64| {
        let size = size.to_string().into_bytes();
        let records: &[(&str, &[u8])] = &[("GNU.sparse.size", &size), ("GNU.sparse.map", b"0,0")];
        read_all(&Tar::new().pax(records).file("GNUSparseFile.0/x", "").end())
    };
    sparse(limit::LAYER).unwrap();
    refused(limit::LAYER, sparse(limit::LAYER + 1));
}

fn decode(stream: &[u8], compression: Compression, budget: u64) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut decoder = Decoder::with_budget(stream, compression, budget)?;
    decoder.read_to_end(&mut out).map_err(Error::from)?;
    Ok(out)
}

#[test]
fn decompressed_bytes() {
    let bytes = vec![7; 100_000];
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, &bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::encode_all(&bytes[..], 1).unwrap();
    for (stream, compression) in [
        (&bytes, Compression::None),
        (&gzip, Compression::Gzip),
        (&zstd, Compression::Zstd),
        (&xz(&bytes), Compression::Xz),
        (&bzip2(&bytes), Compression::Bzip2),
    ] {
        assert_eq!(decode(stream, compression, 100_000).unwrap(), bytes);
        refused(99_999, decode(stream, compression, 99_999));
    }
}

/// A frame without a size, with one uncompressed block of one byte. The window is a power of two
/// and some eighths of it.
#[test]
fn zstd_windows() {
    let frame = |log: u32, eighths: u8| {
        let window = ((log - 10) as u8) << 3 | eighths;
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, window];
        frame.extend([0b1001, 0, 0, b'x']);
        decode(&frame, Compression::Zstd, 10)
    };
    assert_eq!(frame(limit::ZSTD_WINDOW_LOG, 0).unwrap(), b"x");
    let bound = 1u64 << limit::ZSTD_WINDOW_LOG;
    refused(bound, frame(limit::ZSTD_WINDOW_LOG, 1));
    refused(bound, frame(limit::ZSTD_WINDOW_LOG + 1, 0));
}

/// xz can state dictionaries of 2^n and 3 * 2^n bytes.
#[test]
fn xz_dictionaries() {
    let stream = |dictionary: u64| {
        let stream = xz_with_dictionary(b"x", u32::try_from(dictionary).unwrap());
        decode(&stream, Compression::Xz, 10)
    };
    assert_eq!(stream(limit::XZ_DICTIONARY).unwrap(), b"x");
    refused(limit::XZ_DICTIONARY, stream(limit::XZ_DICTIONARY / 2 * 3));
    refused(limit::XZ_DICTIONARY, stream(limit::XZ_DICTIONARY * 2));
}

/// Members that each cause a warning of their own: attributes that are too large are left out when
/// they are read, and others when they are applied.
#[test]
fn warnings() {
    let archive = |read: usize, applied: usize| {
        let large = vec![b'v'; limit::XATTR + 1];
        let member = |tar: Tar, n: usize| {
            let (name, value) = match n < read {
                true => (format!("SCHILY.xattr.user.x{n}"), &large[..]),
                false => (format!("SCHILY.xattr.trusted.overlay.x{n}"), &b"v"[..]),
            };
            tar.pax(&[(&*name, value)]).file(format!("f{n}"), "")
        };
        (0..read + applied).fold(Tar::new(), member)
    };
    let most = limit::WARNINGS;
    for (read, applied, expected) in [
        (1, 1, 2),
        (most, 0, most),
        (most + 1, 0, most + 1),
        (0, most, most),
        (0, most + 2, most + 1),
        (most, most, 2 * most),
        (most - 1, 1, most),
    ] {
        let temp = tempfile::tempdir().unwrap();
        let found = archive(read, applied).apply(temp.path()).unwrap().warnings;
        assert_eq!(found.len(), expected, "{read} {applied}: {found:#?}");
        let left_out = (read.max(applied)).saturating_sub(most);
        let says = format!("further warnings left out: {left_out}");
        assert_eq!(found.contains(&says), left_out > 0, "{found:#?}");
    }
}
