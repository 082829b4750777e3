//! The bytes of a zTOC.

use std::collections::BTreeMap;

use cas_core::{Digest, ErrorKind, limit};
use cas_layer::tar::Time;
use cas_lazy::{Checkpoint, FileKind, FileMetadata, SPAN_SIZE, WINDOW, Ztoc};

use super::fixture::{build, gzip, tar};

fn file(name: &str, kind: FileKind, offset: u64, size: u64) -> FileMetadata {
    FileMetadata {
        name: name.into(),
        kind,
        offset,
        size,
        link: Vec::new(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        user: b"root".to_vec(),
        group: Vec::new(),
        modified: Some(Time {
            seconds: 1_700_000_000,
            nanoseconds: 0,
        }),
        device: (0, 0),
        records: BTreeMap::new(),
    }
}

/// Returns a zTOC with two checkpoints and three members, each with different fields.
pub(crate) fn example() -> Ztoc {
    let mut first = file("a", FileKind::File, 512, 1000);
    first.uid = 1000;
    let mut second = file("dir/b", FileKind::Symlink, 2048, 0);
    second.link = b"../a".to_vec();
    let record = |key: &str, value: &str| (key.into(), value.into());
    second.records = BTreeMap::from([
        record("SCHILY.xattr.user.a", "1"),
        record("mtime", "1700000000.25"),
    ]);
    let mut third = file("null", FileKind::Char, 2560, 0);
    third.device = (1, 3);
    third.modified = None;
    let checkpoint = |compressed, decompressed, bits| Checkpoint {
        compressed,
        decompressed,
        bits,
        window: vec![decompressed as u8; WINDOW].into(),
    };
    Ztoc {
        build_tool: "a test".to_owned(),
        compressed_size: 900,
        decompressed_size: 3584,
        files: vec![first, second, third],
        span_size: 1024,
        checkpoints: vec![checkpoint(10, 0, 0), checkpoint(300, 1025, 5)],
        span_digests: vec![Digest::sha256(b"a"), Digest::sha256(b"b")],
    }
}

/// `make_example.py` writes the same zTOC with the library of FlatBuffers for Python, which is a
/// port of the library for Go.
#[test]
fn a_ztoc_has_the_bytes_that_the_library_of_flatbuffers_writes() {
    let bytes = example().encode().unwrap();
    let library = include_bytes!("example.head");
    // The windows, which are at the front of the rest, do not need to be in the tree.
    assert_eq!(
        bytes[..library.len()].escape_ascii().to_string(),
        library.escape_ascii().to_string()
    );
    let digest = include_str!("example.sha256").trim_end();
    assert_eq!(Digest::sha256(&bytes).hex(), digest);
    assert_eq!(Ztoc::decode(&bytes).unwrap(), example());
}

#[test]
fn what_is_written_is_read_back() {
    for ztoc in [
        build(&gzip(&tar(), 6), SPAN_SIZE),
        build(&gzip(&tar(), 1), 50_000),
    ] {
        let bytes = ztoc.encode().unwrap();
        assert_eq!(Ztoc::decode(&bytes).unwrap(), ztoc);
        // What another tool adds after the buffer does no harm.
        assert_eq!(Ztoc::decode(&[&bytes[..], b"more"].concat()).unwrap(), ztoc);
    }
}

#[test]
fn ztocs_that_lie_are_refused() {
    let refused = |why: &str, lie: &dyn Fn(&mut Ztoc)| {
        let mut ztoc = example();
        lie(&mut ztoc);
        let error = Ztoc::decode(&ztoc.encode().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{why}: {error}");
    };
    refused("a body before its header", &|ztoc| ztoc.files[0].offset = 0);
    refused("a body within a block", &|ztoc| ztoc.files[0].offset = 513);
    refused("two bodies at one place", &|ztoc| {
        ztoc.files[1].offset = 512
    });
    refused("no place for a header", &|ztoc| ztoc.files[0].size = 1025);
    refused("a body after the end", &|ztoc| ztoc.files[2].offset = 4096);
    refused("a large size", &|ztoc| {
        ztoc.files[0].size = limit::LAYER + 1
    });
    refused("a negative size", &|ztoc| ztoc.files[0].size = u64::MAX);
    refused("no name", &|ztoc| ztoc.files[0].name.clear());
    refused("a long name", &|ztoc| {
        ztoc.files[0].name = vec![b'a'; limit::PATH + 1]
    });
    refused("a NUL", &|ztoc| ztoc.files[0].name = b"a\0b".to_vec());
    refused("a long target", &|ztoc| {
        ztoc.files[1].link = vec![b'a'; limit::PATH + 1]
    });
    refused("a digest too few", &|ztoc| ztoc.span_digests.truncate(1));
    refused("a checkpoint too few", &|ztoc| ztoc.checkpoints.truncate(1));
    refused("no spans", &|ztoc| {
        ztoc.checkpoints.clear();
        ztoc.span_digests.clear();
    });
    refused("a span after the end", &|ztoc| ztoc.compressed_size = 300);
    refused("a span of another hash", &|ztoc| {
        ztoc.span_digests[0] = Digest::of(cas_core::Algorithm::Sha512, b"a");
    });
    let mut longest = example();
    longest.files[0].name = vec![b'a'; limit::PATH];
    assert_eq!(Ztoc::decode(&longest.encode().unwrap()).unwrap(), longest);
}

#[test]
fn members_are_sorted_by_their_places() {
    let mut shuffled = example();
    shuffled.files.reverse();
    assert_eq!(
        Ztoc::decode(&shuffled.encode().unwrap()).unwrap(),
        example()
    );
}

#[test]
fn other_versions_and_algorithms_are_not_supported() {
    let bytes = example().encode().unwrap();
    let at = bytes.windows(4).position(|four| four == b"0.9\0").unwrap();
    let mut newer = bytes;
    newer[at] = b'1';
    let error = Ztoc::decode(&newer).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("1.9"), "{error}");
}

#[test]
fn a_ztoc_larger_than_allowed_is_neither_written_nor_read() {
    let error = Ztoc::decode(&vec![0; limit::ZTOC as usize + 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    let error = Ztoc::decode(&vec![0; limit::ZTOC as usize]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let mut large = example();
    let value = vec![0; limit::ZTOC as usize];
    large.files[0].records.insert(b"key".to_vec(), value);
    let error = large.encode().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
}
