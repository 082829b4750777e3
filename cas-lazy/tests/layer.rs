//! Layers that are read on demand: members, headers and pieces of a zTOC.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

use std::io::Write;

use cas_core::{Descriptor, Digest, ErrorKind, Result};
use cas_lazy::zstd_chunked::Position;
use cas_lazy::{FileMetadata, LazyLayer, StoredTable, TableFormat, Ztoc};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use testkit::archive::{Header, Tar};

/// Returns a tar with every kind of member, its compressed bytes and its zTOC.
fn fixture() -> (Vec<u8>, Vec<u8>, Ztoc) {
    let content = |length: u32| {
        (0..length)
            .map(|at| (at.wrapping_mul(at) >> 9) as u8)
            .collect::<Vec<u8>>()
    };
    let tar = Tar::new()
        .dir("dir/")
        .file("dir/large", content(200_000))
        .pax(&[("SCHILY.xattr.user.name", b"value"), ("mtime", b"12.5")])
        .file("dir/described", content(1000))
        .symlink("link", "dir/large")
        .hardlink("same", "dir/large")
        .member(
            Header::new(b'4', "disk")
                .mode(0o640)
                .owner(1, 2)
                .device(8, 1),
            "",
        )
        .member(Header::new(b'6', "pipe").mode(0o4755), "")
        .file("last", content(700))
        .end();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&tar).unwrap();
    let layer = gzip.finish().unwrap();
    let ztoc = Ztoc::build(&layer[..], 32 << 10, "test").unwrap();
    (tar, layer, ztoc)
}

/// Returns the bytes of the compressed layer that a piece needs.
fn compressed<'a>(lazy: &LazyLayer, layer: &'a [u8], piece: usize) -> &'a [u8] {
    let range = &lazy.pieces()[piece].compressed;
    &layer[range.start as usize..range.end as usize]
}

/// Receives a part of a piece.
fn ignore(_: u64, _: &[u8]) -> Result<()> {
    Ok(())
}

#[test]
fn the_pieces_are_the_tar_and_its_headers_are_those_of_the_table() {
    let (tar, layer, ztoc) = fixture();
    let lazy = LazyLayer::try_from(ztoc).unwrap();
    let mut data = vec![0; lazy.length() as usize];
    assert!(lazy.pieces().len() > 3 && lazy.is_tar());
    for piece in 0..lazy.pieces().len() {
        let copy = |offset, part: &[u8]| {
            let begin = offset as usize;
            let end = data.len().min(begin + part.len());
            data[begin..end].copy_from_slice(&part[..end - begin]);
            Ok(())
        };
        let bytes = compressed(&lazy, &layer, piece);
        lazy.decode(piece, bytes, copy).unwrap();
    }
    assert!(data == tar[..data.len()]);
    let headers = lazy.headers_before(0..lazy.length());
    assert_eq!(headers.len(), 8);
    for (member, range) in headers {
        let header = &data[range.start as usize..range.end as usize];
        lazy.check_header(member, header).unwrap();
        let mut other = header.to_vec();
        // The mode and the checksum of the last header of the member.
        let last = other.len() - 512;
        other[last + 106] ^= 1;
        let error = lazy.check_header(member, &other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

#[test]
fn pieces_are_found_by_the_bytes_of_the_data_file() {
    let lazy = LazyLayer::try_from(fixture().2).unwrap();
    let pieces = lazy.pieces();
    assert_eq!(lazy.pieces_in(0..lazy.length()), 0..pieces.len());
    for (number, piece) in pieces.iter().enumerate() {
        let (begin, end) = (piece.data.start, piece.data.end);
        assert_eq!(lazy.pieces_in(begin..begin + 1), number..number + 1);
        assert_eq!(lazy.pieces_in(end - 1..end), number..number + 1);
        assert!(lazy.pieces_in(end..end).is_empty());
    }
    assert!(lazy.pieces_in(lazy.length()..lazy.length() + 9).is_empty());
    let beyond = lazy.decode(pieces.len(), b"", ignore).unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::Internal, "{beyond}");
}

#[test]
fn a_table_that_lies_gives_errors_and_never_zeros() {
    let (_, layer, ztoc) = fixture();
    let kind = |result: Result<LazyLayer>| result.unwrap_err().kind();
    let mut longer = ztoc.clone();
    longer.decompressed_size += 1024;
    let lazy = LazyLayer::try_from(longer).unwrap();
    let last = lazy.pieces().len() - 1;
    let error = lazy
        .decode(last, compressed(&lazy, &layer, last), ignore)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let mut gap = ztoc.clone();
    gap.files.last_mut().unwrap().offset += 8 << 20;
    assert_eq!(kind(gap.try_into()), ErrorKind::Unsupported);
    let mut owner = ztoc.clone();
    owner.files[0].uid = u32::MAX;
    assert_eq!(kind(owner.try_into()), ErrorKind::Unsupported);
    let mut time = ztoc.clone();
    time.files[0].modified = None;
    assert_eq!(kind(time.try_into()), ErrorKind::Unsupported);
    let lazy = LazyLayer::try_from(ztoc).unwrap();
    let mut other = compressed(&lazy, &layer, 1).to_vec();
    other[9] ^= 1;
    let error = lazy.decode(1, &other, ignore).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[test]
fn a_stored_table_is_verified_against_its_digest_and_its_layer() {
    let (tar, layer, ztoc) = fixture();
    let table = ztoc.encode().unwrap();
    let stored = |size: u64| StoredTable {
        reference: "registry.example/app:1".to_owned(),
        layer: Descriptor::new("application/gzip".into(), Digest::sha256(&layer), size),
        diff_id: Digest::sha256(&tar),
        format: TableFormat::Ztoc {
            digest: Digest::sha256(&table),
        },
    };
    let good = stored(layer.len() as u64);
    let read = StoredTable::from_bytes(&good.to_bytes().unwrap()).unwrap();
    assert_eq!(read, good);
    assert_eq!(read.read(&table).unwrap().members().len(), 8);
    let kind = |result: Result<LazyLayer>| result.unwrap_err().kind();
    assert_eq!(
        kind(good.read(&table[..table.len() - 4])),
        ErrorKind::Corrupt
    );
    assert_eq!(
        kind(stored(layer.len() as u64 + 1).read(&table)),
        ErrorKind::Corrupt
    );
    for bytes in [&b""[..], b"{}", b"[]", b"null", b"{\"reference\": 1}"] {
        let error = StoredTable::from_bytes(bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

/// No digest covers the header of the file with the table, so only the header that the writers of
/// eStargz layers write is used.
#[test]
fn an_unusual_header_of_the_table_is_refused() {
    let json = r#"{"version": 1, "entries": [{"name": "empty", "type": "reg"}]}"#;
    let usual = || {
        let mut header = Header::new(b'0', "stargz.index.json").mode(0);
        header.octal(136..148, 0);
        header.size(json.len() as u64)
    };
    let read = |tar: Tar| {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&tar.end()).unwrap();
        let table = gzip.finish().unwrap();
        let size = 10 + table.len() as u64 + cas_lazy::estargz::FOOTER as u64;
        let stored = StoredTable {
            reference: "registry.example/app:1".to_owned(),
            layer: Descriptor::new("application/gzip".into(), Digest::sha256(b"layer"), size),
            diff_id: Digest::sha256(b"tar"),
            format: TableFormat::Estargz {
                digest: Digest::sha256(json.as_bytes()),
                offset: 10,
            },
        };
        let (_, range) = stored.place().unwrap();
        assert_eq!(range, 10..10 + table.len() as u64);
        stored.read(&table)
    };
    let layer = read(Tar::new().member(usual(), json)).unwrap();
    assert_eq!(layer.members()[1].entry.mode, 0);
    let beyond = layer.decode(layer.pieces().len(), b"", ignore).unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::Internal, "{beyond}");
    let xattr = [("SCHILY.xattr.user.name", &b"value"[..])];
    for other in [
        Tar::new().member(usual().mode(0o4755), json),
        Tar::new().member(usual().owner(0, 1), json),
        Tar::new().pax(&[("mtime", b"12")]).member(usual(), json),
        Tar::new().pax(&xattr).member(usual(), json),
    ] {
        assert_eq!(read(other).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}

/// Returns the layer of a zstd:chunked table with a directory and `entry`.
fn with_entry(entry: &Value) -> Result<LazyLayer> {
    let entries = json!([{"name": "dir/", "type": "dir"}, entry]);
    let json = json!({"version": 1, "entries": entries}).to_string();
    let table = zstd::encode_all(json.as_bytes(), 1).unwrap();
    let text = format!("100:{}:{}:1", table.len(), json.len());
    let stored = StoredTable {
        reference: "registry.example/app:1".to_owned(),
        layer: Descriptor::new("application/zstd".into(), Digest::sha256(b"layer"), 1 << 20),
        diff_id: Digest::sha256(b"tar"),
        format: TableFormat::ZstdChunked {
            digest: Digest::sha256(&table),
            position: Position::parse(&text, 1 << 20).unwrap(),
        },
    };
    stored.read(&table)
}

#[test]
fn a_table_with_values_that_no_tar_has_is_refused() {
    let named = |length: usize| json!({"name": "n".repeat(length), "type": "reg"});
    let link =
        |length: usize| json!({"name": "l", "type": "symlink", "linkName": "t".repeat(length)});
    let device = |major: u32, minor: u32| {
        let mut entry = json!({"name": "d", "type": "char", "devMajor": major});
        entry["devMinor"] = json!(minor);
        entry
    };
    let xattr = |name: &str, length: usize| {
        let value = "AAAA".repeat(length / 3);
        json!({"name": "x", "type": "reg", "xattrs": {name: value}})
    };
    for largest in [
        named(255),
        link(4095),
        device(4095, 1_048_575),
        xattr("user.a", 65_535),
        json!({"name": "/", "type": "dir"}),
        json!({"name": "dir/.wh.a", "type": "reg"}),
    ] {
        let layer = with_entry(&largest).unwrap();
        assert_eq!(layer.members().len(), 2, "{:.80}", largest.to_string());
    }
    use ErrorKind::{Corrupt, OutOfRange, Unsupported};
    for (kind, entry) in [
        (OutOfRange, named(256)),
        (OutOfRange, named(600)),
        (OutOfRange, named(4000)),
        (Corrupt, named(4097)),
        (OutOfRange, json!({"name": "d/".repeat(513), "type": "dir"})),
        (Corrupt, json!({"name": ".", "type": "reg"})),
        (Corrupt, json!({"name": "dir/..", "type": "fifo"})),
        (Corrupt, json!({"name": "dir/.wh.", "type": "reg"})),
        (Corrupt, link(0)),
        (Corrupt, link(4096)),
        (Corrupt, json!({"name": "l", "type": "hardlink"})),
        (OutOfRange, device(4096, 0)),
        (OutOfRange, device(0, 1_048_576)),
        (
            Unsupported,
            json!({"name": "u", "type": "reg", "uid": u32::MAX}),
        ),
        (OutOfRange, xattr("user.a", 65_538)),
        (OutOfRange, xattr(&"n".repeat(256), 3)),
        (OutOfRange, xattr("user.", 3)),
        (Corrupt, xattr("user.a\0b", 3)),
        (Corrupt, xattr("security.capability", 3)),
    ] {
        let error = with_entry(&entry).unwrap_err();
        assert_eq!(error.kind(), kind, "{:.80}: {error}", entry.to_string());
    }
}

#[test]
fn a_ztoc_with_values_that_no_tar_has_is_refused() {
    let (_, _, ztoc) = fixture();
    let kind = |change: &dyn Fn(&mut Vec<FileMetadata>)| {
        let mut ztoc = ztoc.clone();
        change(&mut ztoc.files);
        LazyLayer::try_from(ztoc).unwrap_err().kind()
    };
    let named = |name: Vec<u8>| kind(&|files| files[0].name.clone_from(&name));
    assert_eq!(named(vec![b'n'; 256]), ErrorKind::OutOfRange);
    assert_eq!(named(b"d/".repeat(513)), ErrorKind::OutOfRange);
    assert_eq!(named(b"dir/.wh...".to_vec()), ErrorKind::Corrupt);
    let link = |link: Vec<u8>| kind(&|files| files[3].link.clone_from(&link));
    assert_eq!(link(Vec::new()), ErrorKind::Corrupt);
    assert_eq!(link(vec![b't'; 4096]), ErrorKind::Corrupt);
    assert_eq!(
        kind(&|files| files[5].device.0 = 4096),
        ErrorKind::OutOfRange
    );
    let xattr =
        |key: &[u8]| kind(&|files| _ = files[2].records.insert(key.to_vec(), b"v".to_vec()));
    assert_eq!(xattr(b"SCHILY.xattr.user."), ErrorKind::OutOfRange);
    let long = [b"SCHILY.xattr.", &[b'n'; 256][..]].concat();
    assert_eq!(xattr(&long), ErrorKind::OutOfRange);
}
