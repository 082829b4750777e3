//! The tables of contents of eStargz and zstd:chunked.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail anywhere"
)]

use std::collections::BTreeMap;
use std::io::Write;

use cas_core::{Digest, ErrorKind, limit};
use cas_lazy::{FileKind, LayerToc, estargz, zstd_chunked};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use testkit::archive::Tar;

/// Returns a table with a file of two chunks, a small file, an empty one, a link and a device.
fn table() -> Value {
    let digest = |text: &str| Digest::sha256(text.as_bytes()).to_string();
    json!({"version": 1, "entries": [
        {"name": "dir/", "type": "dir", "mode": 16877, "modtime": "2019-08-20T10:30:43Z",
         "xattrs": {"user.a": "/wA="}, "NumLink": 0},
        {"name": "dir/large", "type": "reg", "size": 10, "mode": 33261, "uid": 1, "gid": 2,
         "offset": 100, "chunkSize": 6, "chunkDigest": digest("abcdef"), "digest": digest("all")},
        {"name": "dir/large", "type": "chunk", "offset": 200, "chunkOffset": 6,
         "chunkDigest": digest("ghij"), "innerOffset": 3},
        {"name": "small", "type": "reg", "size": 3, "offset": 300, "digest": digest("abc")},
        {"name": "empty", "type": "reg"},
        {"name": "holes", "type": "reg", "size": 4, "chunkType": "zeros"},
        {"name": "link", "type": "symlink", "linkName": "small"},
        {"name": "null", "type": "char", "devMajor": 1, "devMinor": 3},
    ]})
}

/// Returns the compressed table of an eStargz layer, and the digest of its JSON.
fn estargz_table(table: &Value) -> (Vec<u8>, Digest) {
    let json = table.to_string();
    let tar = Tar::new().file("stargz.index.json", &json).end();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&tar).unwrap();
    (gzip.finish().unwrap(), Digest::sha256(json.as_bytes()))
}

fn read(table: &Value) -> cas_core::Result<LayerToc> {
    let (compressed, digest) = estargz_table(table);
    estargz::decode(&compressed, 1000, &digest)
}

#[test]
fn both_formats_have_the_same_table() {
    let toc = read(&table()).unwrap();
    let kinds: Vec<_> = toc.files.iter().map(|file| file.kind).collect();
    use FileKind::{Char, Directory, File, Symlink};
    assert_eq!(kinds, [Directory, File, File, File, File, Symlink, Char]);
    assert_eq!(toc.files[0].xattrs["user.a"], [0xff, 0]);
    assert_eq!(toc.files[0].modified.unwrap().seconds, 1_566_297_043);
    let large = &toc.files[1];
    assert_eq!(
        (large.size, large.mode, large.uid, large.gid),
        (10, 33261, 1, 2)
    );
    let places = large
        .chunks
        .iter()
        .map(|one| (one.compressed, one.inner, one.offset, one.size));
    let places: Vec<_> = places.collect();
    assert_eq!(places, [(Some(100), 0, 0, 6), (Some(200), 3, 6, 4)]);
    assert_eq!(large.chunks[1].digest, Some(Digest::sha256(b"ghij")));
    // A file of one chunk needs only one digest.
    assert_eq!(toc.files[2].chunks[0].digest, Some(Digest::sha256(b"abc")));
    assert!(toc.files[3].chunks.is_empty());
    assert_eq!(
        (
            toc.files[4].chunks[0].compressed,
            toc.files[4].chunks[0].digest
        ),
        (None, None)
    );
    assert_eq!(toc.files[5].link, "small");
    assert_eq!(toc.files[6].device, (1, 3));
    let json = table().to_string();
    let compressed = zstd::encode_all(json.as_bytes(), 3).unwrap();
    let text = format!("1000:{}:{}:1", compressed.len(), json.len());
    let position = zstd_chunked::Position::parse(&text, 2000).unwrap();
    let digest = Digest::sha256(&compressed);
    assert_eq!(
        zstd_chunked::decode(&compressed, position, &digest).unwrap(),
        toc
    );
    let other = zstd_chunked::decode(&compressed, position, &Digest::sha256(b"")).unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Corrupt, "{other}");
    for declared in [json.len() - 1, json.len() + 1] {
        let position = zstd_chunked::Position {
            decompressed: declared as u64,
            ..position
        };
        assert!(zstd_chunked::decode(&compressed, position, &digest).is_err());
    }
}

#[test]
fn the_footer_of_estargz_says_where_the_table_is() {
    let mut footer = [0; estargz::FOOTER];
    footer[..16].copy_from_slice(b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0");
    footer[16..38].copy_from_slice(b"00000000000003e8STARGZ");
    footer[38..43].copy_from_slice(b"\x01\0\0\xff\xff");
    assert_eq!(estargz::footer(&footer, 5000).unwrap(), Some(1000));
    let error = estargz::footer(&footer, 1051).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(estargz::footer(&footer, 1052).unwrap(), Some(1000));
    for at in [0, 3, 10, 12, 14, 32, 38, 45, 50] {
        let mut other = footer;
        other[at] ^= 0x10;
        assert_eq!(estargz::footer(&other, 5000).unwrap(), None, "{at}");
    }
    footer[16] = b'+';
    assert_eq!(estargz::footer(&footer, 5000).unwrap(), None);
    footer[16..32].fill(b'f');
    assert!(estargz::footer(&footer, u64::MAX).is_err());
}

#[test]
fn the_annotations_of_zstd_chunked_have_two_forms() {
    let annotations = |keys: &[&str]| -> BTreeMap<String, String> {
        let annotation = |key: &&str| (key.to_string(), format!("value of {key}"));
        keys.iter().map(annotation).collect()
    };
    for prefix in ["io.github.containers", "io.containers"] {
        let [digest, position] =
            ["checksum", "position"].map(|value| format!("{prefix}.zstd-chunked.manifest-{value}"));
        let both = annotations(&[&digest, &position]);
        let [digest_value, position_value] = [&both[&digest], &both[&position]].map(|text| &**text);
        assert_eq!(
            zstd_chunked::annotations(&both),
            Some((digest_value, position_value))
        );
        let found = annotations(&[&digest]);
        assert_eq!(zstd_chunked::annotations(&found), Some((digest_value, "")));
        assert_eq!(zstd_chunked::annotations(&annotations(&[&position])), None);
    }
}

#[test]
fn the_footer_and_the_annotation_of_zstd_chunked_say_where_the_table_is() {
    let mut footer = [0; zstd_chunked::FOOTER];
    for (at, number) in [1000u64, 50, 300, 1].into_iter().enumerate() {
        footer[at * 8..at * 8 + 8].copy_from_slice(&number.to_le_bytes());
    }
    assert_eq!(
        zstd_chunked::Position::of_footer(&footer, 5000).unwrap(),
        None
    );
    footer[56..].copy_from_slice(b"GNUlInUx");
    let found = zstd_chunked::Position::of_footer(&footer, 5000).unwrap();
    let parse = |text: &str| zstd_chunked::Position::parse(text, 5000);
    assert_eq!(found, Some(parse("1000:50:300:1").unwrap()));
    let kind = |text: &str| parse(text).unwrap_err().kind();
    for text in [
        "",
        "1:2:3",
        "1:2:3:1:5",
        "a:2:3:1",
        "-1:2:3:1",
        "4990:11:3:1",
        "1:0:3:1",
    ] {
        assert_eq!(kind(text), ErrorKind::Corrupt, "{text}");
    }
    assert_eq!(kind(&format!("{}:2:3:1", u64::MAX)), ErrorKind::Corrupt);
    assert_eq!(kind("1:2:3:2"), ErrorKind::Unsupported);
    let most = limit::LAYER_TOC;
    assert!(parse(&format!("1:2:{most}:1")).is_ok());
    assert_eq!(kind(&format!("1:2:{}:1", most + 1)), ErrorKind::OutOfRange);
}

#[test]
fn tables_that_lie_are_refused() {
    let refused = |entry: usize, member: &str, value: Value| {
        let mut table = table();
        table["entries"][entry][member] = value;
        let error = read(&table).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::Corrupt,
            "{entry} {member}: {error}"
        );
    };
    refused(0, "name", json!(""));
    refused(0, "name", json!("a\0b"));
    refused(0, "name", json!("a".repeat(limit::PATH + 1)));
    refused(0, "type", json!("other"));
    refused(0, "modtime", json!("yesterday"));
    refused(0, "xattrs", json!({"a": "*"}));
    refused(0, "uid", json!(-1));
    refused(1, "size", json!(5));
    refused(1, "size", json!(limit::LAYER + 1));
    refused(1, "chunkSize", json!(u64::MAX));
    refused(1, "chunkSize", json!(5));
    refused(1, "chunkOffset", json!(1));
    refused(1, "chunkDigest", json!(""));
    refused(1, "offset", json!(1000));
    refused(1, "digest", json!("sha256:1"));
    refused(2, "name", json!("other"));
    refused(2, "chunkOffset", json!(7));
    refused(2, "chunkSize", json!(3));
    refused(2, "innerOffset", json!(limit::LAYER + 1));
    refused(3, "chunkType", json!("other"));
    let mut newer = table();
    newer["version"] = json!(2);
    assert_eq!(read(&newer).unwrap_err().kind(), ErrorKind::Unsupported);
    let (compressed, digest) = estargz_table(&table());
    let other = estargz::decode(&compressed, 1000, &Digest::sha256(b"")).unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Corrupt, "{other}");
    let toc = read(&table()).unwrap();
    for length in 0..compressed.len() {
        match estargz::decode(&compressed[..length], 1000, &digest) {
            // Only what follows the table in the archive may be cut off.
            Ok(read) => assert_eq!(read, toc, "{length}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{length}: {error}"),
        }
    }
}

#[test]
fn flipped_bits_of_a_table_end_without_a_panic() {
    let json = table().to_string().into_bytes();
    for at in 0..json.len() {
        for bit in 0..8 {
            let mut damaged = json.clone();
            damaged[at] ^= 1 << bit;
            let compressed = zstd::encode_all(&damaged[..], 1).unwrap();
            let text = format!("1000:{}:{}:1", compressed.len(), damaged.len());
            let position = zstd_chunked::Position::parse(&text, 1 << 20).unwrap();
            let digest = Digest::sha256(&compressed);
            drop(zstd_chunked::decode(&compressed, position, &digest));
        }
    }
}
