//! Every span becomes the bytes that the whole layer has there.

use std::path::Path;

use cas_core::{Digest, Document, ErrorKind, MediaType};
use cas_lazy::{FileKind, LazyLayer, PrefetchFile, SPAN_SIZE, Ztoc};
use testkit::archive::Tar;

use super::fixture::{build, gunzip, gzip, noise, tar};

/// Inflates all spans, each alone, and compares them with the whole layer. Returns their number.
fn compare(ztoc: &Ztoc, layer: &[u8]) -> usize {
    let whole = gunzip(layer);
    let mut end = 0;
    let spans: Vec<_> = ztoc.spans().collect();
    for span in &spans {
        let bytes = &layer[span.compressed.start as usize..span.compressed.end as usize];
        let (begin, stated) = span.decompressed;
        assert_eq!(begin, end);
        let inflated = span.inflate(bytes).unwrap();
        end += inflated.len() as u64;
        assert!(stated.is_none_or(|stated| stated == end));
        assert!(
            inflated == whole[begin as usize..end as usize],
            "span at {begin}"
        );
    }
    assert_eq!(end, whole.len() as u64);
    assert_eq!(spans.len(), ztoc.span_digests.len());
    assert_eq!(ztoc.compressed_size, layer.len() as u64);
    spans.len()
}

#[test]
fn spans_of_all_types_of_blocks_are_inflated_alone() {
    let tar = tar();
    for level in [0, 1, 6, 9] {
        let layer = gzip(&tar, level);
        for span_size in [1, 60_000, SPAN_SIZE] {
            let ztoc = build(&layer, span_size);
            let spans = compare(&ztoc, &layer);
            assert!(spans == 1 || span_size < SPAN_SIZE);
            assert!(spans > 1 || span_size > 1, "level {level}");
            if level == 6 && span_size == 1 {
                assert!(ztoc.checkpoints.iter().any(|one| one.bits != 0));
                assert!(spans > 3, "{spans}");
            }
        }
    }
}

#[test]
fn a_layer_of_several_members_has_spans_in_each() {
    let tar = tar();
    let (first, second) = tar.split_at(300_001);
    for level in [0, 6] {
        let mut layer = [gzip(first, level), gzip(second, 9), gzip(&[], 6)].concat();
        compare(&build(&layer, 50_000), &layer);
        compare(&build(&layer, SPAN_SIZE), &layer);
        let ztoc = build(&layer, 50_000);
        layer.extend([0; 1000]);
        let padded = build(&layer, 50_000);
        assert_eq!(padded.checkpoints, ztoc.checkpoints);
        assert_ne!(padded.span_digests.last(), ztoc.span_digests.last());
        let last = padded.spans().last().unwrap();
        let bytes = &layer[last.compressed.start as usize..];
        assert_eq!(
            last.inflate(bytes).unwrap(),
            tar[last.decompressed.0 as usize..]
        );
        layer.push(1);
        let error = Ztoc::build(&layer[..], SPAN_SIZE, "").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
}

#[test]
fn the_table_of_contents_has_what_the_headers_state() {
    let tar = tar();
    let ztoc = build(&gzip(&tar, 6), SPAN_SIZE);
    let kinds: Vec<_> = ztoc.files.iter().map(|file| file.kind).collect();
    use FileKind::{Char, Directory, Fifo, File, Hardlink, Symlink};
    let expected = [
        Directory, File, Symlink, Hardlink, Char, Fifo, File, File, File,
    ];
    assert_eq!(kinds, expected);
    let owned = &ztoc.files[1];
    assert_eq!((owned.offset, owned.size, owned.mode), (2048, 3, 0o4755));
    assert_eq!(tar[2048..2051], *b"abc");
    assert_eq!((owned.uid, owned.gid), (1000, 1001));
    assert_eq!(
        (&owned.user[..], &owned.group[..]),
        ("Ω".as_bytes(), &b"group"[..])
    );
    let time = owned.modified.unwrap();
    assert_eq!(
        (time.seconds, time.nanoseconds),
        (1_700_000_000, 500_000_000)
    );
    assert_eq!(owned.records[&b"SCHILY.xattr.user.raw"[..]], b"\xff\x00");
    assert_eq!(owned.records.len(), 3);
    assert_eq!(ztoc.files[2].link, b"owned");
    assert_eq!(ztoc.files[3].link, b"dir/owned");
    assert_eq!(ztoc.files[4].device, (1, 3));
    let large = &ztoc.files[7];
    let body = large.offset as usize..(large.offset + large.size) as usize;
    assert!(tar[body] == noise(600_000, 7));
    // The padding of ten KiB is not counted, except for the two end blocks.
    assert_eq!(ztoc.decompressed_size, tar.len() as u64 - 10_240 + 1024);
    let short = build(&gzip(&tar[..tar.len() - 10_240], 6), SPAN_SIZE);
    assert_eq!(short.decompressed_size, tar.len() as u64 - 10_240);
    assert_eq!(short.files, ztoc.files);
}

#[test]
fn other_bytes_than_those_of_the_span_are_refused() {
    let layer = gzip(&tar(), 6);
    let mut ztoc = build(&layer, 60_000);
    let kind = |ztoc: &Ztoc, bytes: &[u8]| {
        let span = ztoc.spans().nth(1).unwrap();
        span.inflate(bytes).unwrap_err().kind()
    };
    let range = ztoc.spans().nth(1).unwrap().compressed;
    let bytes = &layer[range.start as usize..range.end as usize];
    let mut flipped = bytes.to_vec();
    flipped[40] ^= 1;
    assert_eq!(kind(&ztoc, &flipped), ErrorKind::Corrupt);
    assert_eq!(kind(&ztoc, &bytes[1..]), ErrorKind::Corrupt);
    assert_eq!(kind(&ztoc, b""), ErrorKind::Corrupt);
    // Bytes that do not decompress are an error, even if they have the expected digest.
    for short in [
        &b""[..],
        &bytes[..1],
        &bytes[..bytes.len() / 2],
        &flipped[..7],
    ] {
        ztoc.span_digests[1] = Digest::sha256(short);
        assert_eq!(kind(&ztoc, short), ErrorKind::Corrupt);
    }
    ztoc.span_digests[1] = Digest::sha256(bytes);
    ztoc.checkpoints[2].decompressed += 1 << 20;
    assert_eq!(kind(&ztoc, bytes), ErrorKind::Corrupt);
    ztoc.checkpoints[2].decompressed += 1 << 30;
    assert_eq!(kind(&ztoc, bytes), ErrorKind::OutOfRange);
}

#[test]
fn layers_of_a_real_image_are_inflated_span_by_span() {
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/images/small");
    let blob = |digest: &Digest| std::fs::read(image.join("blobs/sha256").join(digest.hex()));
    let Ok(index) = std::fs::read(image.join("index.json")) else {
        eprintln!("SKIPPED: target/images/small is absent; `cargo xtask setup` makes it");
        return;
    };
    let mut left = vec![(MediaType::OCI_INDEX, index)];
    let mut layers = 0;
    while let Some((kind, bytes)) = left.pop() {
        for child in Document::parse(&kind, &bytes).unwrap().children() {
            if child.media_type.is_document() {
                left.push((child.media_type.clone(), blob(&child.digest).unwrap()));
            } else if child.media_type == MediaType::OCI_LAYER_GZIP {
                let layer = blob(&child.digest).unwrap();
                let ztoc = build(&layer, 1 << 20);
                compare(&ztoc, &layer);
                assert_eq!(Ztoc::decode(&ztoc.encode().unwrap()).unwrap(), ztoc);
                layers += 1;
            }
        }
    }
    assert!(
        layers > 0,
        "the image has no layers that are compressed with gzip"
    );
}

#[test]
fn the_spans_of_a_file_have_its_content_and_its_headers() {
    let mut tar = Tar::new().dir("./dir/").symlink("dir/link", "0");
    for number in 1..9 {
        tar = tar.file(format!("./dir/{number}"), noise(300_000, number));
    }
    let tar = tar
        .file(".prefetch.landmark", b"\x0f")
        .file("dir/last", noise(300_000, 99))
        .file("dir/empty", b"")
        .end();
    let layer = gzip(&tar, 6);
    let ztoc = Ztoc::build(&layer[..], 32 << 10, "test").unwrap();
    let spans: Vec<_> = ztoc.spans().map(|span| span.decompressed).collect();
    assert!(spans.len() > 10);
    let whole = ztoc.spans_of(&"dir/7".into());
    assert_eq!(whole.len(), 1);
    let file = ztoc
        .files
        .iter()
        .find(|file| file.name == b"./dir/7")
        .unwrap();
    let (begin, end) = (file.offset - 512, file.offset + file.size);
    let [first, last] = [*whole[0].start(), *whole[0].end()].map(|span| spans[span as usize]);
    assert!(first.0 <= begin && begin < first.1.unwrap(), "{first:?}");
    assert!(
        last.0 < end && last.1.is_none_or(|last| end <= last),
        "{last:?}"
    );
    for path in ["dir", "dir/link", "dir/empty", "dir/absent", ""] {
        assert_eq!(ztoc.spans_of(&path.into()), [], "{path}");
    }
    // The headers and the last bytes of the file, and nothing between them.
    let parts = PrefetchFile::new("dir/7").with_parts(vec![299_000..400_000, 500_000..600_000]);
    let [headers, end] = ztoc.ranges_of(&parts).try_into().unwrap();
    assert_eq!(
        headers,
        begin / 4096 * 4096..file.offset.next_multiple_of(4096)
    );
    let from = (file.offset + 299_000) / 4096 * 4096;
    assert_eq!(end, from..(file.offset + file.size).next_multiple_of(4096));
    let spans_of_parts = ztoc.spans_of(&parts);
    assert_eq!(spans_of_parts[0].start(), whole[0].start());
    assert_eq!(spans_of_parts[1].end(), whole[0].end());
    assert!(*spans_of_parts[0].end() + 1 < *spans_of_parts[1].start());

    let landmark = ztoc
        .files
        .iter()
        .find(|file| file.name == b".prefetch.landmark");
    let landmark = landmark.unwrap().offset;
    let layer = LazyLayer::try_from(ztoc).unwrap();
    let first = layer.before_landmark();
    assert_eq!(first.start, 0);
    assert!(layer.pieces()[first.end - 1].data.contains(&(landmark - 1)));
    assert!(first.end < layer.pieces().len());
}

#[test]
fn files_that_are_fetched_first_have_spans_of_their_own() {
    let tar = Tar::new()
        .file("before", noise(2_000_000, 1))
        .file("first", noise(600_000, 2))
        .file("after", noise(2_000_000, 3))
        .end();
    let layer = gzip(&tar, 6);
    let usual = build(&layer, SPAN_SIZE);
    let [range] = usual.ranges_of(&"first".into()).try_into().unwrap();
    let (headers, end) = (512 + 2_000_384, 1024 + 2_000_384 + 600_000);
    assert_eq!(
        range,
        headers / 4096 * 4096..(end as u64).next_multiple_of(4096)
    );
    let ztoc = Ztoc::build_around(&layer[..], vec![range.clone()], SPAN_SIZE, "a test").unwrap();
    assert_eq!(ztoc.files, usual.files);
    compare(&ztoc, &layer);
    let decoded = Ztoc::decode(&ztoc.encode().unwrap()).unwrap();
    assert_eq!(decoded, ztoc);
    let spans = &ztoc.spans_of(&"first".into())[0];
    assert_eq!(spans.start(), spans.end());
    let (begin, end) = ztoc
        .spans()
        .nth(*spans.start() as usize)
        .unwrap()
        .decompressed;
    let (before, after) = (range.start - begin, end.unwrap() - range.end);
    assert!(before < 128 << 10 && after < 128 << 10, "{before}, {after}");
}
