//! Packing a tar as a blob, and finding out how a blob was packed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};

use cas_core::records::Packing;
use cas_core::{Digest, Hasher};
use flate2::Compression;
use flate2::write::GzEncoder;

/// Number of bytes that are read and compressed in one piece. The compressed bytes depend on it.
const PIECE: usize = 256 << 10;

/// The levels of gzip, the most usual first.
const LEVELS: [u32; 9] = [6, 1, 9, 5, 2, 3, 4, 7, 8];

/// The level at which a tar is packed if the original bytes of its blob cannot be made again.
const LEVEL: u32 = 6;

/// Returns how the blob that `open` opens was packed from `tar`. Each attempt ends at the first
/// byte that differs, so only the right one reads everything.
///
/// # Errors
/// Errors of the blob and of the tar.
pub(super) fn find<R: Read>(
    tar: &mut File,
    mut open: impl FnMut() -> io::Result<R>,
) -> io::Result<Packing> {
    for level in LEVELS {
        let blob = BufReader::with_capacity(PIECE, open()?);
        if is_packed_at(tar, blob, level)? {
            return Ok(Packing::Gzip(level));
        }
    }
    Ok(Packing::Unknown)
}

fn is_packed_at(tar: &mut File, blob: impl BufRead, level: u32) -> io::Result<bool> {
    tar.rewind()?;
    let same = Same {
        blob,
        differs: false,
    };
    let mut encoder = GzEncoder::new(same, Compression::new(level));
    let copied = io::copy(&mut BufReader::with_capacity(PIECE, tar), &mut encoder);
    let finished = copied.and_then(|_| encoder.try_finish());
    if encoder.get_ref().differs {
        return Ok(false);
    }
    finished?;
    Ok(encoder.get_mut().blob.fill_buf()?.is_empty())
}

/// Compares what is written with a blob. A write fails at the first byte that differs.
struct Same<R> {
    blob: R,
    differs: bool,
}

impl<R: BufRead> Write for Same<R> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let stored = self.blob.fill_buf()?;
        let length = stored.len().min(data.len());
        self.differs |= length == 0 || stored[..length] != data[..length];
        if self.differs {
            return Err(io::Error::other("the blob has other bytes"));
        }
        self.blob.consume(length);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a tar to `out`, packed as `packing` states, or compressed with gzip if the packing is
/// unknown. Returns the digest of the tar, which has the same algorithm as `diff_id`, and `out`.
///
/// # Errors
/// Errors of the tar and of `out`.
pub(super) fn pack<W: Write>(
    tar: File,
    packing: Packing,
    diff_id: &Digest,
    mut out: W,
) -> io::Result<(Digest, W)> {
    let level = match packing {
        Packing::Plain => {
            let found = copy(tar, diff_id, &mut out)?;
            return Ok((found, out));
        }
        Packing::Gzip(level) => level.min(9),
        _ => LEVEL,
    };
    let mut encoder = GzEncoder::new(out, Compression::new(level));
    let found = copy(tar, diff_id, &mut encoder)?;
    Ok((found, encoder.finish()?))
}

/// Copies a tar. Returns its digest.
fn copy(tar: File, diff_id: &Digest, out: &mut impl Write) -> io::Result<Digest> {
    let mut hasher = Hasher::new(diff_id.algorithm());
    let mut tar = BufReader::with_capacity(PIECE, tar);
    loop {
        let piece = tar.fill_buf()?;
        if piece.is_empty() {
            return Ok(hasher.finish());
        }
        hasher.update(piece);
        out.write_all(piece)?;
        let length = piece.len();
        tar.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text that compresses differently at each level that the tests use.
    fn text() -> Vec<u8> {
        let lines = (0..40_000u64).map(|n| format!("{} {n}\n", n.wrapping_mul(n) % 977));
        lines.collect::<String>().into_bytes()
    }

    fn tar(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
        for piece in bytes.chunks(PIECE) {
            encoder.write_all(piece).unwrap();
        }
        encoder.finish().unwrap()
    }

    #[test]
    fn a_blob_of_every_level_is_recognized_and_made_again() {
        let text = text();
        let diff_id = Digest::sha256(&text);
        for level in LEVELS {
            let blob = gzip(&text, level);
            let found = find(&mut tar(&text), || Ok(&blob[..])).unwrap();
            assert_ne!(found, Packing::Unknown, "{level}");
            let (hash, made) = pack(tar(&text), found, &diff_id, Vec::new()).unwrap();
            assert!(made == blob && hash == diff_id, "{level}");
        }
    }

    #[test]
    fn a_blob_that_differs_anywhere_is_unknown() {
        let text = text();
        let blob = gzip(&text, 6);
        let mut other = blob.clone();
        let last = other.len() - 1;
        other[last] ^= 1;
        let longer = [&blob[..], &[0]].concat();
        let shorter = blob[..last].to_vec();
        for other in [other, longer, shorter, Vec::new()] {
            let found = find(&mut tar(&text), || Ok(&other[..])).unwrap();
            assert_eq!(found, Packing::Unknown);
        }
        let (_, made) = pack(
            tar(&text),
            Packing::Unknown,
            &Digest::sha256(b""),
            Vec::new(),
        )
        .unwrap();
        assert!(made == blob);
    }
}
