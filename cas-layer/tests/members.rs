//! The bytes that may be between and after the members of a compressed stream, in each format:
//! further members, and zeros. An error names the kind of other bytes, and reports damage only if a
//! member is damaged.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::io::{self, Read, Write};

use cas_core::{Error, ErrorKind, Result};
use cas_layer::codec::{Compression, Decoder};
use testkit::compress::{bzip2, xz};

type Encode = fn(&[u8]) -> Vec<u8>;

const FORMATS: [(Compression, Encode); 4] = [
    (Compression::Gzip, gzip),
    (Compression::Zstd, zstd),
    (Compression::Xz, xz),
    (Compression::Bzip2, bzip2),
];

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}

fn zstd(data: &[u8]) -> Vec<u8> {
    let mut writer = zstd::Encoder::new(Vec::new(), 1).unwrap();
    writer.include_checksum(true).unwrap();
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}

/// Returns at most some bytes for each call.
struct Slow<'a>(&'a [u8], usize);

impl Read for Slow<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = out.len().min(self.1);
        self.0.read(&mut out[..length])
    }
}

/// Decompresses a stream that comes in pieces of several sizes. All results must be equal.
fn decode(stream: &[u8], compression: Compression) -> Result<Vec<u8>> {
    let mut whole = None;
    for piece in [usize::MAX, 1, 7] {
        let mut out = Vec::new();
        let mut decoder = Decoder::new(Slow(stream, piece), compression).unwrap();
        let read = decoder.read_to_end(&mut out).map_err(Error::from);
        let read = read
            .map(|_| out)
            .map_err(|error| (error.kind(), error.to_string(), error));
        let shown = read
            .as_ref()
            .map_err(|(kind, text, _)| (*kind, text.clone()));
        let shown = shown.cloned();
        match &whole {
            None => whole = Some((shown, read)),
            Some((first, _)) => assert_eq!(*first, shown, "{compression} in pieces of {piece}"),
        }
    }
    whole.unwrap().1.map_err(|(_, _, error)| error)
}

#[test]
fn members_are_one_stream() {
    for (compression, encode) in FORMATS {
        let (a, empty, b) = (encode(b"first"), encode(b""), encode(b"second"));
        for (parts, expected) in [
            (vec![&a], "first"),
            (vec![&empty], ""),
            (vec![&a, &b], "firstsecond"),
            (vec![&empty, &a, &empty, &b, &empty], "firstsecond"),
        ] {
            let stream: Vec<u8> = parts.into_iter().flatten().copied().collect();
            let plain = decode(&stream, compression).unwrap();
            assert_eq!(plain, expected.as_bytes(), "{compression}");
        }
    }
}

/// Found by fuzzing: libzstd does not compare the sizes if the last block is empty and the frame
/// arrives in parts.
#[test]
fn a_zstd_frame_with_fewer_bytes_than_its_header_states_is_damaged() {
    // The magic number, a header with the size 32, and an empty last block.
    let empty = b"\x28\xb5\x2f\xfd\x20\x20\x01\0\0";
    for stream in [empty.to_vec(), [&zstd(b"first")[..], empty].concat()] {
        for piece in [usize::MAX, 1, 7] {
            let mut decoder = Decoder::new(Slow(&stream, piece), Compression::Zstd).unwrap();
            let error = decoder.read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(Error::from(error).kind(), ErrorKind::Corrupt, "{piece}");
        }
    }
}

#[test]
fn zeros_behind_and_between_members_are_skipped() {
    for (compression, encode) in FORMATS {
        let (a, b) = (encode(b"first"), encode(b"second"));
        for zeros in [1, 3, 4, 511, 512, 10_240, 700_000] {
            // A large number of pieces of one byte would take long.
            if zeros == 700_000 {
                let stream = [&a[..], &vec![0; zeros]].concat();
                let mut plain = Vec::new();
                let mut decoder = Decoder::new(&stream[..], compression).unwrap();
                decoder.read_to_end(&mut plain).unwrap();
                assert_eq!(plain, b"first");
                continue;
            }
            let zeros = vec![0; zeros];
            let behind = decode(&[&a[..], &zeros].concat(), compression).unwrap();
            assert_eq!(behind, b"first", "{compression} {}", zeros.len());
            let between = decode(&[&a[..], &zeros, &b, &zeros].concat(), compression).unwrap();
            assert_eq!(between, b"firstsecond", "{compression} {}", zeros.len());
        }
    }
}

#[test]
fn other_bytes_are_reported_as_what_they_are() {
    for (compression, encode) in FORMATS {
        let good = encode(b"first");
        let other = if compression == Compression::Zstd {
            gzip(b"x")
        } else {
            zstd(b"x")
        };
        for (tail, expected) in [
            (&b"junk"[..], "other bytes (\"junk\")"),
            (b"\x1f", "other bytes (\"\\x1f\")"),
            (b"\n", "other bytes"),
            (&[0, 0, 0, b'x'], "other bytes (\"x\")"),
            (b"PK\x03\x04zip", "the bytes of a zip archive"),
            (b"{\"key\": 1}", "the bytes of a JSON document"),
            (&other, " format follow the "),
        ] {
            let error = decode(&[&good[..], tail].concat(), compression).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            let zeros = tail.iter().take_while(|byte| **byte == 0).count();
            let at = format!("from byte {} on", good.len() + zeros);
            let said = error.to_string();
            assert!(said.contains(expected) && said.contains(&at), "{said}");
            assert!(said.contains(&compression.to_string()), "{said}");
        }
    }
}

#[test]
fn a_second_member_that_is_damaged_is_damage() {
    for (compression, encode) in FORMATS {
        let (a, b) = (encode(b"first"), encode(b"second"));
        for cut in [8, b.len() / 2, b.len() - 1] {
            let error = decode(&[&a[..], &b[..cut]].concat(), compression).unwrap_err();
            assert_eq!(
                error.kind(),
                ErrorKind::Corrupt,
                "{compression} {cut}: {error}"
            );
        }
        let mut flipped = [&a[..], &b].concat();
        let at = a.len() + b.len() / 2;
        flipped[at] ^= 0x10;
        let error = decode(&flipped, compression).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{compression}: {error}");
    }
}

/// If any byte is changed, there is an error or the same text, but never a panic.
#[test]
fn every_damaged_byte_is_noticed() {
    let text: Vec<u8> = (0..600u32).flat_map(|n| (n * n).to_le_bytes()).collect();
    for (compression, encode) in FORMATS {
        let good = encode(&text);
        for at in 0..good.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                let mut plain = Vec::new();
                let mut decoder = Decoder::new(&bad[..], compression).unwrap();
                match decoder.read_to_end(&mut plain).map_err(Error::from) {
                    // For example, the time in the header of gzip does not affect the text.
                    Ok(_) => assert!(plain == text, "{compression} byte {at}"),
                    Err(error) => {
                        let kind = error.kind();
                        let known = matches!(
                            kind,
                            ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::OutOfRange
                        );
                        assert!(known, "{compression} byte {at}: {kind:?} {error}");
                    }
                }
            }
        }
    }
}

#[test]
fn every_field_of_a_gzip_header_is_read() {
    let plain = gzip(b"text");
    let (fixed, body) = (&plain[..10], &plain[10..]);
    let with = |flags: u8, fields: &[u8]| {
        let mut header = fixed.to_vec();
        header[3] = flags;
        [&header, fields, body].concat()
    };
    let extra = b"\x04\0meta";
    let long = [&vec![b'n'; 300_000][..], b"\0"].concat();
    for (flags, fields) in [
        (0, &b""[..]),
        (4, extra),
        (4, b"\0\0"),
        (8, b"name\0"),
        (16, b"comment\0"),
        (28, b"\x04\0metaname\0comment\0"),
        (1, b""),
    ] {
        assert_eq!(
            decode(&with(flags, fields), Compression::Gzip).unwrap(),
            b"text"
        );
    }
    let long = with(8, &long);
    let mut decoder = Decoder::new(&long[..], Compression::Gzip).unwrap();
    let mut text = String::new();
    decoder.read_to_string(&mut text).unwrap();
    assert_eq!(text, "text");
    let mut checked = flate2::Crc::new();
    let header = [fixed, b""].concat();
    checked.update(&[&header[..3], &[2], &header[4..]].concat());
    let sum = (checked.sum() as u16).to_le_bytes();
    assert_eq!(decode(&with(2, &sum), Compression::Gzip).unwrap(), b"text");
    for (flags, fields) in [(2, &[!sum[0], sum[1]][..]), (0x20, b""), (0x80, b"")] {
        let error = decode(&with(flags, fields), Compression::Gzip).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}
