//! Spans: the parts of a compressed layer that begin at its checkpoints.

use std::ops::Range;

use cas_core::{Digest, Error, Result, limit};
use cas_layer::codec::inflate::{Format, Inflate, Stop, Until};

use crate::checkpoint::Checkpoint;

/// Size in bytes of the buffer for decompressed bytes.
const BUFFER: usize = 128 << 10;
/// Size in bytes of the checksum and the length at the end of a gzip member.
const TRAILER: usize = 8;

/// A part of a compressed layer. It is decompressed without the parts before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span<'a> {
    /// The range of the compressed bytes in the layer. If a span ends within a byte, this byte is
    /// also the first byte of the next span.
    pub compressed: Range<u64>,
    /// Where the decompressed bytes begin and end in the tar. The end is `None` for the last span,
    /// which extends to the end of the tar.
    pub decompressed: (u64, Option<u64>),
    /// The digest of the compressed bytes.
    pub digest: Digest,
    /// The checkpoint at which the span begins.
    pub checkpoint: &'a Checkpoint,
}

impl Span<'_> {
    /// Checks that `compressed` has the digest of the span, and decompresses it. Returns the
    /// decompressed bytes.
    ///
    /// # Errors
    /// `Corrupt` if the bytes do not have the digest, do not decompress, or decompress to fewer
    /// bytes than the span has; `OutOfRange` for more than [`limit::SPAN`] decompressed bytes.
    pub fn inflate(&self, compressed: &[u8]) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.inflate_to(compressed, |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Decompresses the span as [`Span::inflate`] does, and passes the bytes to `write` in order.
    /// Returns the number of bytes.
    ///
    /// # Errors
    /// As [`Span::inflate`], which may be found only after bytes were passed to `write`; errors of
    /// `write`.
    pub fn inflate_to(
        &self,
        compressed: &[u8],
        write: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<u64> {
        let found = Digest::sha256(compressed);
        if found != self.digest {
            return Err(Error::corrupt(format!(
                "the bytes {}..{} of the layer have the digest {found}, expected {}; fetch them \
                 again",
                self.compressed.start, self.compressed.end, self.digest
            )));
        }
        let (begin, end) = self.decompressed;
        let wanted = end.map(|end| end - begin);
        if wanted.is_some_and(|wanted| wanted > limit::SPAN) {
            return Err(too_large());
        }
        let shared = usize::from(self.checkpoint.bits != 0);
        let (first, blocks) = (compressed.first(), compressed.get(shared..));
        let (&first, blocks) = first.zip(blocks).ok_or_else(short)?;
        let mut inflate = Inflate::new(Format::Raw)?;
        inflate.resume(self.checkpoint.bits, first, &self.checkpoint.window)?;
        let written = members(inflate, blocks, wanted, write)?;
        match wanted {
            Some(wanted) if written < wanted => Err(short()),
            _ => Ok(written),
        }
    }
}

/// Decompresses the rest of a gzip member and the gzip members after it, until `write` has received
/// `wanted` bytes. Returns the number of bytes.
fn members(
    mut inflate: Inflate,
    mut input: &[u8],
    wanted: Option<u64>,
    mut write: impl FnMut(&[u8]) -> Result<()>,
) -> Result<u64> {
    let most = wanted.unwrap_or(limit::SPAN + 1);
    let (mut buffer, mut written) = (vec![0; BUFFER], 0);
    // The first member is decompressed from within, as raw deflate. In this mode, zlib does not
    // read the trailer of the member. So the trailer is skipped here.
    let mut raw = true;
    while written < most {
        let room = (most - written).min(BUFFER as u64) as usize;
        let step = inflate.step(input, &mut buffer[..room], Until::Block)?;
        write(&buffer[..step.written])?;
        written += step.written as u64;
        input = &input[step.read..];
        match step.stop {
            Stop::End => {
                if raw {
                    input = input.get(TRAILER..).ok_or_else(short)?;
                    raw = false;
                }
                // Zeros may follow the last member.
                if input.first().is_none_or(|&byte| byte == 0) {
                    break;
                }
                inflate.reset(Format::Gzip)?;
            }
            Stop::Within if step.read == 0 && step.written == 0 => return Err(short()),
            _ => {}
        }
    }
    if written > limit::SPAN {
        return Err(too_large());
    }
    Ok(written)
}

fn short() -> Error {
    Error::corrupt("a span of the layer ends too early; create the zTOC again")
}

pub(crate) fn too_large() -> Error {
    Error::out_of_range(format!(
        "a span or a stream of the layer has more than the {} bytes allowed; choose smaller spans, \
         or compress the layer in smaller blocks or chunks",
        limit::SPAN
    ))
}
