//! Layers that are read on demand: their tables of contents, and the indexes, footers, annotations
//! and descriptions from which `cas` finds these tables.

use std::ffi::OsStr;
use std::fs::File;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cas_core::{Descriptor, Digest, Result, limit};
use cas_erofs::{Image, Layers};
use cas_lazy::soci::{Index, Prefetch};
use cas_lazy::zstd_chunked::Position;
use cas_lazy::{LazyLayer, PrefetchFile, StoredTable, TableFormat, Ztoc, estargz, zstd_chunked};
use testkit::archive::Tar;

use super::codec::{gzipped, zstd_of};
use super::tar::archives;
use super::{accepted, texts};
use crate::Target;

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "ztoc",
        run: ztoc,
        seeds: ztocs,
        longest: 40_000,
    },
    Target {
        name: "ztoc-build",
        run: build,
        seeds: || archives().iter().take(2).map(|tar| gzipped(tar)).collect(),
        longest: 4096,
    },
    Target {
        name: "soci-index",
        run: soci_index,
        seeds: || texts(&[V1, V2]),
        longest: 2000,
    },
    Target {
        name: "soci-prefetch",
        run: prefetch,
        seeds: || {
            texts(&[
                r#"{"version":"1.0","prefetch_spans":[{"start_span":0,"end_span":3,"priority":1},{"start_span":5,"end_span":5}]}"#,
            ])
        },
        longest: 600,
    },
    Target {
        name: "estargz-toc",
        run: estargz_toc,
        seeds: || texts(&[TOC]),
        longest: 3000,
    },
    Target {
        name: "estargz-footer",
        run: |input| {
            let footer = input.first_chunk();
            footer.is_some_and(|footer| accepted(estargz::footer(footer, 1 << 20)))
        },
        seeds: || vec![footer()],
        longest: estargz::FOOTER,
    },
    Target {
        name: "zstd-chunked-toc",
        run: zstd_chunked_toc,
        seeds: || texts(&[TOC]),
        longest: 3000,
    },
    Target {
        name: "zstd-chunked-position",
        run: position,
        seeds: || texts(&["1000:100:500:1"]),
        longest: 100,
    },
    Target {
        name: "lazy-description",
        run: description,
        seeds: || texts(&[DESCRIPTION]),
        longest: 1000,
    },
];

const V1: &str = include_str!("../../../cas-lazy/src/soci/index_v1.json");
const V2: &str = include_str!("../../../cas-lazy/src/soci/index_v2.json");
const TOC: &str = r#"{"version":1,"entries":[{"name":"dir/","type":"dir","modtime":"2020-01-01T00:00:00Z","mode":493},{"name":"dir/file","type":"reg","size":9,"offset":100,"chunkOffset":0,"chunkSize":5,"chunkDigest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","xattrs":{"user.a":"YQ=="}},{"name":"dir/file","type":"chunk","offset":200,"chunkOffset":5,"chunkDigest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},{"name":"link","type":"symlink","linkName":"dir"},{"name":"dev","type":"char","devMajor":1,"devMinor":3}]}"#;
const DESCRIPTION: &str = r#"{"reference":"host.test/app:1","layer":{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":5000},"diff_id":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","format":{"estargz":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","offset":1000}}}"#;
/// Offset of the table of contents in a layer, in bytes. In [`position`], the size of the layer.
const END: u64 = 5000;

/// Returns zTOCs of small layers. Most bytes of a zTOC are the window of its only checkpoint.
fn ztocs() -> Vec<Vec<u8>> {
    let build = |tar: &Vec<u8>| {
        Ztoc::build(&gzipped(tar)[..], 1 << 20, "fuzz")
            .ok()?
            .encode()
            .ok()
    };
    archives().iter().take(3).filter_map(build).collect()
}

/// Decodes a zTOC. Encoded and decoded again, it is the same. Looks up its files, and decodes
/// damaged spans. If the layer can be read on demand, passes it to [`use_layer`].
fn ztoc(input: &[u8]) -> bool {
    let decoded = Ztoc::decode(input);
    if let Ok(ztoc) = &decoded {
        let again = ztoc.encode().and_then(|bytes| Ztoc::decode(&bytes));
        assert!(again.as_ref().is_ok_and(|again| again == ztoc), "{again:?}");
        for file in &ztoc.files {
            let path = OsStr::from_bytes(&file.name);
            ztoc.spans_of(&PrefetchFile::new(path).with_parts(vec![1..2, 3..file.size]));
        }
        for span in ztoc.spans() {
            accepted(span.inflate(b"damaged"));
        }
        let layer = LazyLayer::try_from(ztoc.clone());
        if let Ok(layer) = &layer {
            use_layer(layer);
        }
        accepted(layer);
    }
    accepted(decoded)
}

/// Makes an image with the members of a layer.
fn image_of(layer: &LazyLayer) -> Result<Image> {
    let mut layers = Layers::new(Path::new("."));
    let members = layer.members().iter();
    let members = members.map(|member| (&member.entry, member.offset));
    // Only the length of the data file is needed.
    layers.add_members(File::open("/dev/null")?, layer.length(), members)?;
    let (tree, data) = layers.finish();
    Image::new(&tree, &data)
}

/// Checks that pieces are in order, that the ranges of pieces and headers are within the layer,
/// that damaged pieces are refused, and that an image can store the values of all members.
fn use_layer(layer: &LazyLayer) {
    let mut end = 0;
    for (number, piece) in layer.pieces().iter().enumerate() {
        let Range { start, end: next } = piece.data;
        assert!(start >= end && next >= start && next <= layer.length());
        end = next;
        assert!(layer.decode(number, b"damaged", |_, _| Ok(())).is_err());
    }
    let all = layer.pieces_in(0..layer.length());
    assert!(all.end <= layer.pieces().len());
    layer.before_landmark();
    for member in layer.members() {
        let checked = member.entry.check();
        assert!(checked.is_ok(), "{checked:?}");
    }
    accepted(image_of(layer));
    for (member, range) in layer.headers_before(0..layer.length()) {
        assert!(range.start <= range.end && range.end <= layer.length());
        accepted(layer.check_header(member, &[0; 512]));
    }
}

/// Makes the zTOC of a layer. Encoded and decoded again, it is the same. Reads each span of the
/// layer with it.
fn build(input: &[u8]) -> bool {
    let built = Ztoc::build(input, 64, "fuzz");
    if let Ok(ztoc) = &built {
        let again = ztoc.encode().and_then(|bytes| Ztoc::decode(&bytes));
        assert!(again.as_ref().is_ok_and(|again| again == ztoc), "{again:?}");
        for span in ztoc.spans() {
            let Range { start, end } = span.compressed;
            let bytes = span.inflate(&input[start as usize..end as usize]);
            let bytes = bytes.unwrap_or_else(|error| panic!("cannot read a span: {error}"));
            if let (begin, Some(end)) = span.decompressed {
                assert_eq!(bytes.len() as u64, end - begin);
            }
        }
    }
    accepted(built)
}

/// Decodes an index of SOCI. Encoded and decoded again, it is the same.
fn soci_index(input: &[u8]) -> bool {
    let decoded = Index::decode(input);
    if let Ok(index) = &decoded {
        let again = index.encode().and_then(|bytes| Index::decode(&bytes));
        assert!(
            again.as_ref().is_ok_and(|again| again == index),
            "{again:?}"
        );
    }
    accepted(decoded)
}

fn prefetch(input: &[u8]) -> bool {
    let decoded = Prefetch::decode(input);
    if let Ok(prefetch) = &decoded {
        let again = prefetch.encode().and_then(|bytes| Prefetch::decode(&bytes));
        assert!(again.is_ok());
    }
    accepted(decoded)
}

/// Reads the compressed table of contents of a layer with a description that states its format.
fn read_table(format: TableFormat, compressed: &[u8]) -> bool {
    let mut layer = Descriptor::of("application/x".into(), b"");
    layer.size = END + compressed.len() as u64 + 100;
    let stored = StoredTable {
        reference: "host.test/app:1".to_owned(),
        layer,
        diff_id: Digest::sha256(b""),
        format,
    };
    accepted(stored.place());
    let read = stored.read(compressed);
    if let Ok(layer) = &read {
        use_layer(layer);
    }
    accepted(read)
}

/// Reads the input as the table of an eStargz layer.
fn estargz_toc(input: &[u8]) -> bool {
    let compressed = gzipped(&Tar::new().file("stargz.index.json", input).end());
    let digest = Digest::sha256(input);
    let decoded = accepted(estargz::decode(&compressed, END, &digest));
    read_table(
        TableFormat::Estargz {
            digest,
            offset: END,
        },
        &compressed,
    );
    decoded
}

/// Reads the input as the table of a zstd:chunked layer.
fn zstd_chunked_toc(input: &[u8]) -> bool {
    let compressed = zstd_of(input);
    let position = Position {
        offset: END,
        length: compressed.len() as u64,
        decompressed: input.len() as u64,
    };
    let digest = Digest::sha256(&compressed);
    let decoded = accepted(zstd_chunked::decode(&compressed, position, &digest));
    read_table(TableFormat::ZstdChunked { digest, position }, &compressed);
    decoded
}

fn position(input: &[u8]) -> bool {
    if let Some(footer) = input.first_chunk() {
        accepted(Position::of_footer(footer, END));
    }
    let parsed = str::from_utf8(input).map(|text| Position::parse(text, END));
    parsed.is_ok_and(|position| {
        if let Ok(position) = &position {
            assert!(position.offset + position.length <= END);
            assert!(position.decompressed <= limit::LAYER_TOC);
        }
        accepted(position)
    })
}

fn description(input: &[u8]) -> bool {
    let parsed = StoredTable::from_bytes(input);
    if let Ok(stored) = &parsed {
        let again = stored
            .to_bytes()
            .and_then(|bytes| StoredTable::from_bytes(&bytes));
        assert!(
            again.as_ref().is_ok_and(|again| again == stored),
            "{again:?}"
        );
        accepted(stored.read(b"damaged"));
        if let Ok((blob, range)) = stored.place() {
            assert!(range.end <= blob.size.max(limit::ZTOC));
        }
    }
    accepted(parsed)
}

/// Returns the footer of an eStargz layer.
fn footer() -> Vec<u8> {
    let head = [
        0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0,
    ];
    let tail = [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
    [&head[..], b"0000000000001000STARGZ", &tail].concat()
}
