//! Decodes streams. Every valid stream is read to its end, and everything else is a typed error.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{self, Read, Write};

use cas_core::{Error, ErrorKind, limit};
use cas_layer::codec::{Compression, Decoder, detect};
use flate2::write::GzEncoder;
use testkit::compress::{bzip2, xz};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn decode(stream: &[u8], compression: Compression) -> cas_core::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut decoder = Decoder::new(stream, compression)?;
    decoder.read_to_end(&mut out)?;
    assert_eq!(decoder.consumed(), stream.len() as u64);
    assert_eq!(decoder.produced(), out.len() as u64);
    Ok(out)
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut step = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(|_| step()).collect()
}

#[test]
fn magic_tells() {
    assert_eq!(detect(&gzip(b"x")), Compression::Gzip);
    assert_eq!(detect(&zstd(b"x")), Compression::Zstd);
    for bytes in [&b""[..], b"x"] {
        assert_eq!(detect(&xz(bytes)), Compression::Xz);
        assert_eq!(detect(&bzip2(bytes)), Compression::Bzip2);
    }
    for low in 0x50..0x60 {
        assert_eq!(
            detect(&[low, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]),
            Compression::Zstd
        );
    }
    for other in [
        &b""[..],
        b"\x1f\x8b",
        b"\x1f\x8b\x07",
        b"BZh9",
        b"\x60\x2a\x4d\x18",
    ] {
        assert_eq!(detect(other), Compression::None);
    }
}

#[test]
fn members_and_frames_are_one_stream() {
    let (a, b) = (noise(700_000), noise(3));
    let whole = [&a[..], &b].concat();
    let skip = b"\x5a\x2a\x4d\x18\x04\0\0\0meta";
    let gz = [gzip(&a), gzip(b""), gzip(&b)].concat();
    let zst = [&skip[..], &zstd(&a), skip, &zstd(&b), skip].concat();
    assert_eq!(decode(&gz, Compression::Gzip).unwrap(), whole);
    assert_eq!(decode(&zst, Compression::Zstd).unwrap(), whole);
    assert_eq!(decode(&whole, Compression::None).unwrap(), whole);
    assert_eq!(decode(b"", Compression::None).unwrap(), b"");
}

#[test]
fn damage_is_corrupt() {
    let bytes = noise(50_000);
    for (compression, good) in [
        (Compression::Gzip, gzip(&bytes)),
        (Compression::Zstd, zstd(&bytes)),
        (Compression::Xz, xz(&bytes)),
        (Compression::Bzip2, bzip2(&bytes)),
    ] {
        let kind = |stream: &[u8]| decode(stream, compression).expect_err("damaged").kind();
        for cut in [0, 1, 5, 20, good.len() / 2, good.len() - 1] {
            assert_eq!(
                kind(&good[..cut]),
                ErrorKind::Corrupt,
                "{compression:?} cut at {cut}"
            );
        }
        // A second member that is cut off.
        assert_eq!(kind(&[&good, &good[..10]].concat()), ErrorKind::Corrupt);
        assert_eq!(kind(b"no such stream at all"), ErrorKind::Corrupt);
    }
    let mut flipped = gzip(&bytes);
    let last = flipped.len() - 6;
    flipped[last] ^= 1;
    assert_eq!(
        decode(&flipped, Compression::Gzip).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
}

/// To begin a stream of bzip2 costs as much as to decompress many bytes.
#[test]
fn many_small_streams_of_bzip2_are_refused() {
    let most = limit::BZIP2_STREAMS as usize;
    for stream in [bzip2(b""), bzip2(b"x")] {
        decode(&stream.repeat(most), Compression::Bzip2).unwrap();
        let error = decode(&stream.repeat(most + 1), Compression::Bzip2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
        assert!(error.to_string().contains(&most.to_string()), "{error}");
    }
    let large = bzip2(&vec![7; limit::BZIP2_STREAM as usize]);
    let streams = most + 100;
    let decoded = decode(&large.repeat(streams), Compression::Bzip2).unwrap();
    assert_eq!(decoded.len(), streams << 16);
}

#[test]
fn limits_stop_a_bomb() {
    for (compression, stream) in [
        (Compression::None, vec![0; 20_000]),
        (Compression::Gzip, gzip(&[0; 20_000])),
        (Compression::Zstd, zstd(&[0; 20_000])),
        (Compression::Xz, xz(&[0; 20_000])),
        (Compression::Bzip2, bzip2(&[0; 20_000])),
    ] {
        let decoded = |budget| {
            let mut decoder = Decoder::with_budget(&stream[..], compression, budget).unwrap();
            io::copy(&mut decoder, &mut io::sink()).map_err(Error::from)
        };
        assert_eq!(decoded(20_000).unwrap(), 20_000);
        assert_eq!(decoded(19_999).unwrap_err().kind(), ErrorKind::OutOfRange);
    }
    // 16 GiB of zeros in half a MiB: the ratio stops it after the first GiB.
    let block = zstd(&vec![0; 64 << 20]);
    let source = Repeated {
        block,
        left: 256,
        at: 0,
    };
    let mut decoder = Decoder::new(source, Compression::Zstd).unwrap();
    let error = io::copy(&mut decoder, &mut io::sink()).unwrap_err();
    assert_eq!(Error::from(error).kind(), ErrorKind::OutOfRange);
    assert!(
        decoder.produced() < (1 << 30) + (64 << 20),
        "{}",
        decoder.produced()
    );
}

struct Repeated {
    block: Vec<u8>,
    left: usize,
    at: usize,
}

impl Read for Repeated {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() && self.left > 0 {
            (self.left, self.at) = (self.left - 1, 0);
        }
        let read = (&self.block[self.at..]).read(out)?;
        self.at += read;
        Ok(read)
    }
}

#[test]
fn a_window_of_two_gigabytes_is_refused() {
    // A frame header with window descriptor 0xa8: 2^31 bytes; then an empty last raw block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
    let error = decode(&frame, Compression::Zstd).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
}

#[test]
fn errors_of_the_source_are_unchanged() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(Error::unavailable("the line is down").into())
        }
    }
    use Compression::{Bzip2, Gzip, None, Xz, Zstd};
    for compression in [None, Gzip, Zstd, Xz, Bzip2] {
        let mut decoder = Decoder::new(Failing, compression).unwrap();
        let error = Error::from(decoder.read(&mut [0; 10]).unwrap_err());
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::Unavailable, "the line is down")
        );
    }
}

/// The header of a gzip member may be long.
#[test]
fn long_headers_are_read_in_large_pieces() {
    struct Counted<'a>(&'a [u8], usize);
    impl Read for Counted<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            self.0.read(out)
        }
    }
    for name in [1, 100, 65_000] {
        let mut member = flate2::GzBuilder::new()
            .filename(vec![b'n'; name])
            .comment(vec![b'c'; name])
            .extra(vec![0; name])
            .write(Vec::new(), flate2::Compression::fast());
        member.write_all(b"text").unwrap();
        let member = member.finish().unwrap();
        let stream = member.repeat(20);
        let mut source = Counted(&stream, 0);
        let mut plain = Vec::new();
        let mut decoder = Decoder::new(&mut source, Compression::Gzip).unwrap();
        decoder.read_to_end(&mut plain).unwrap();
        drop(decoder);
        assert_eq!(plain, b"text".repeat(20));
        let expected = 2 + stream.len() / (200 << 10);
        assert!(source.1 <= expected, "{name}: {} reads", source.1);
    }
}
