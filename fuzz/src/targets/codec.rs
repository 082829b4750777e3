//! Compressed streams.

use std::io::{self, Read, Write as _};

use cas_core::Result;
use cas_layer::codec::{Checkpoints, Compression, Decoder, detect};
use cas_layer::fuzzing;

use super::accepted;
use crate::Target;

/// Maximum number of bytes that an input may decompress to.
const BUDGET: u64 = 16 << 20;

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "gzip",
        run: gzip,
        seeds: || PLAIN.iter().map(|plain| gzipped(plain)).collect(),
        longest: 4096,
    },
    Target {
        name: "zstd",
        run: zstd,
        seeds: || PLAIN.iter().map(|plain| zstd_of(plain)).collect(),
        longest: 4096,
    },
    Target {
        name: "xz",
        run: |input| one_kind(input, Compression::Xz),
        seeds: || {
            PLAIN
                .iter()
                .map(|plain| testkit::compress::xz(plain))
                .collect()
        },
        longest: 4096,
    },
    Target {
        name: "bzip2",
        run: |input| one_kind(input, Compression::Bzip2),
        seeds: || {
            PLAIN
                .iter()
                .map(|plain| testkit::compress::bzip2(plain))
                .collect()
        },
        longest: 4096,
    },
    Target {
        name: "compression",
        run: any_kind,
        seeds: || {
            let plain = b"hello";
            vec![
                plain.to_vec(),
                gzipped(plain),
                zstd_of(plain),
                testkit::compress::xz(plain),
                testkit::compress::bzip2(plain),
                [gzipped(plain), gzipped(b""), vec![0; 20]].concat(),
            ]
        },
        longest: 4096,
    },
    Target {
        name: "checkpoints",
        run: checkpoints,
        seeds: checkpointed,
        longest: 8192,
    },
];

const PLAIN: &[&[u8]] = &[
    b"",
    b"hello",
    b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabaaaaaaaaaaaa",
];

/// Decompresses an input that arrives in one piece.
fn decode(input: &[u8], compression: Compression) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut decoder = Decoder::with_budget(input, compression, BUDGET)?;
    decoder.read_to_end(&mut out)?;
    assert_eq!(decoder.produced(), out.len() as u64);
    Ok(out)
}

/// Returns the input one byte at a time, so that a decoder runs out of input in each of its states.
struct Slow<'a>(&'a [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = out.len().min(1);
        self.0.read(&mut out[..most])
    }
}

/// Decompresses an input that arrives one byte at a time.
fn decode_slowly(input: &[u8], compression: Compression) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut decoder = Decoder::with_budget(Slow(input), compression, BUDGET)?;
    decoder.read_to_end(&mut out)?;
    Ok(out)
}

/// Decompresses an input in one piece and byte by byte. Both give the same bytes, or both fail.
fn one_kind(input: &[u8], compression: Compression) -> bool {
    let whole = decode(input, compression);
    let slow = decode_slowly(input, compression);
    assert_eq!(
        whole.as_ref().ok(),
        slow.as_ref().ok(),
        "{whole:?} {slow:?}"
    );
    accepted(whole)
}

fn any_kind(input: &[u8]) -> bool {
    accepted(decode(input, detect(input)))
}

/// Decompresses gzip. If the input is accepted and has the usual header, then miniz, which is
/// another implementation, must inflate the first member, and our bytes must begin with the bytes
/// of this member.
fn gzip(input: &[u8]) -> bool {
    let ours = decode(input, Compression::Gzip);
    // The usual header has no optional fields, so the deflate stream begins after ten bytes.
    if let (Ok(ours), [0x1f, 0x8b, 8, 0, _, _, _, _, _, _, body @ ..]) = (&ours, input) {
        let most = BUDGET as usize;
        match miniz_oxide::inflate::decompress_to_vec_with_limit(body, most) {
            Ok(first) => assert!(ours.starts_with(&first)),
            Err(error) => panic!("miniz refuses an input that `cas` accepts: {error}"),
        }
    }
    one_kind(input, Compression::Gzip);
    accepted(ours)
}

/// Decompresses zstd. An input that is accepted in one piece must also be accepted byte by byte,
/// and give the same bytes. If the crate `ruzstd`, which is another implementation, decodes the
/// first frame of such an input, our bytes must begin with the bytes of this frame. An input that
/// is refused in one piece may be accepted byte by byte: libzstd refuses an empty block of another
/// type than `raw` only if it receives the frame in one piece.
fn zstd(input: &[u8]) -> bool {
    let ours = decode(input, Compression::Zstd);
    let slow = decode_slowly(input, Compression::Zstd);
    if let Ok(ours) = &ours {
        assert!(slow.as_ref().is_ok_and(|slow| slow == ours), "{slow:?}");
        let mut first = Vec::new();
        if let Ok(mut peer) = ruzstd::decoding::StreamingDecoder::new(input)
            && peer.read_to_end(&mut first).is_ok()
        {
            assert!(ours.starts_with(&first));
        }
    }
    accepted(slow);
    accepted(ours)
}

/// Returns streams with their checkpoints: the length of the stream in two bytes, the stream, and
/// the stored checkpoints.
fn checkpointed() -> Vec<Vec<u8>> {
    let several = [b"one".as_slice(), b"", b"three"].map(gzipped).concat();
    let noise: Vec<u8> = (0..400_u32)
        .flat_map(|at| (at * at).to_le_bytes())
        .collect();
    let mut blocks = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for piece in noise.chunks(400) {
        // Writing to a vector does not fail.
        let _ = blocks.write_all(piece).and_then(|()| blocks.flush());
    }
    let streams = [
        several,
        blocks.finish().unwrap_or_default(),
        gzipped(b"one"),
    ];
    let joined = |stream: Vec<u8>| {
        let checkpoints = fuzzing::record_checkpoints(&stream).ok()??;
        let length = (stream.len() as u16).to_le_bytes();
        Some([&length[..], &stream, &checkpoints.encode()].concat())
    };
    streams.into_iter().filter_map(joined).collect()
}

/// Decodes checkpoints. Encoded again, they are the same bytes. Then decompresses a stream with
/// them. Whatever they are, the bytes are those of one decoder without checkpoints, or both refuse
/// the stream with the same message.
fn checkpoints(input: &[u8]) -> bool {
    let Some((length, rest)) = input.split_first_chunk() else {
        return false;
    };
    let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (stream, stored) = rest.split_at(length);
    let decoded = Checkpoints::decode(stored.to_vec().into());
    if let Ok(checkpoints) = &decoded {
        assert_eq!(checkpoints.encode(), stored);
        if let Some(ours) = fuzzing::decompress_with(checkpoints.clone(), stream) {
            let mut plain = Vec::new();
            let read = Decoder::new(stream, Compression::Gzip)
                .and_then(|mut decoder| Ok(decoder.read_to_end(&mut plain)?));
            match (ours, read) {
                (Ok(ours), Ok(_)) => assert!(ours == plain),
                (Err(ours), Err(error)) => assert_eq!(ours.to_string(), error.to_string()),
                (ours, read) => panic!("{:?} {read:?}", ours.map(|bytes| bytes.len())),
            }
        }
    }
    accepted(decoded)
}

/// Compresses with gzip.
pub(super) fn gzipped(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    // Writing to a vector does not fail.
    let _ = encoder.write_all(plain);
    encoder.finish().unwrap_or_default()
}

/// Compresses with zstd.
pub(super) fn zstd_of(plain: &[u8]) -> Vec<u8> {
    zstd::encode_all(plain, 3).unwrap_or_default()
}
