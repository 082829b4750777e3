//! The pieces that a layer arrives in, and how each is verified.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::Range;

use cas_core::{Digest, Error, Result, limit};
use cas_layer::codec::{Compression, Decoder};

use super::{Member, Piece};
use crate::layer_toc::{LayerToc, damaged};
use crate::span::too_large;
use crate::ztoc::Ztoc;

/// Size in bytes of the buffer for decompressed bytes that belong to no chunk.
const SKIP: usize = 64 << 10;

/// How pieces are decompressed and verified.
#[derive(Debug)]
pub(super) enum Source {
    /// Each span is a piece.
    /// A zTOC without its files.
    Ztoc(Ztoc),
    /// Each compressed stream is a piece.
    Toc {
        streams: Vec<Stream>,
        compression: Compression,
    },
}

/// A gzip member or a zstd frame with one or more chunks of files.
#[derive(Debug)]
pub(super) struct Stream {
    /// In the order of the decompressed bytes.
    chunks: Vec<StreamChunk>,
}

#[derive(Debug)]
struct StreamChunk {
    /// Offset of the chunk in the decompressed bytes of the stream.
    inner: u64,
    size: u64,
    /// Offset of the chunk in the data file.
    offset: u64,
    digest: Digest,
}

pub(super) fn of_ztoc(ztoc: &Ztoc, length: u64) -> Result<Vec<Piece>> {
    let mut pieces = Vec::with_capacity(ztoc.checkpoints.len());
    for span in ztoc.spans() {
        let (begin, end) = span.decompressed;
        let data = begin..end.unwrap_or(length).max(begin);
        let compressed = span.compressed;
        if data.end - data.start > limit::SPAN || compressed.end - compressed.start > limit::SPAN {
            return Err(too_large());
        }
        pieces.push(Piece { compressed, data });
    }
    Ok(pieces)
}

pub(super) fn of_toc(
    toc: &LayerToc,
    members: &[Member],
    end: u64,
) -> Result<(Vec<Piece>, Vec<Stream>)> {
    let mut streams: BTreeMap<u64, Vec<StreamChunk>> = BTreeMap::new();
    for (file, member) in toc.files.iter().zip(members) {
        for chunk in &file.chunks {
            let (Some(begin), Some(digest)) = (chunk.compressed, chunk.digest) else {
                continue;
            };
            streams.entry(begin).or_default().push(StreamChunk {
                inner: chunk.inner,
                size: chunk.size,
                offset: member.offset + chunk.offset,
                digest,
            });
        }
    }
    let begins: Vec<u64> = streams.keys().copied().collect();
    let ends = begins.iter().skip(1).copied().chain([end]);
    let mut found = Vec::with_capacity(streams.len());
    for ((begin, mut chunks), end) in streams.into_iter().zip(ends) {
        chunks.sort_by_key(|chunk| chunk.inner);
        found.push((piece(begin..end, &chunks)?, Stream { chunks }));
    }
    found.sort_by_key(|(piece, _)| piece.data.start);
    for pair in found.windows(2) {
        if pair[0].0.data.end > pair[1].0.data.start {
            return Err(damaged("a chunk is between the chunks of another stream"));
        }
    }
    Ok(found.into_iter().unzip())
}

/// Returns the piece and the stream of a file that occupies `data` of the data file, and begins at
/// `inner` in the decompressed bytes.
pub(super) fn of_file(
    compressed: Range<u64>,
    inner: u64,
    data: Range<u64>,
    digest: Digest,
) -> Result<(Piece, Stream)> {
    let chunks = vec![StreamChunk {
        inner,
        size: data.end - data.start,
        offset: data.start,
        digest,
    }];
    Ok((piece(compressed, &chunks)?, Stream { chunks }))
}

/// Returns the piece of a stream.
fn piece(compressed: Range<u64>, chunks: &[StreamChunk]) -> Result<Piece> {
    let mut inner = 0;
    for chunk in chunks {
        if chunk.inner < inner {
            return Err(damaged("the chunks of a stream overlap"));
        }
        inner = chunk.inner.saturating_add(chunk.size);
    }
    if inner > limit::SPAN || compressed.end - compressed.start > limit::SPAN {
        return Err(too_large());
    }
    let begin = chunks.iter().map(|chunk| chunk.offset).min();
    let end = chunks.iter().map(|chunk| chunk.offset + chunk.size).max();
    Ok(Piece {
        compressed,
        // The range includes the padding between files, but not the padding after the last file.
        data: begin.unwrap_or(0)..end.unwrap_or(0),
    })
}

impl Source {
    pub(super) fn decode(
        &self,
        piece: usize,
        compressed: &[u8],
        write: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        match self {
            Source::Ztoc(ztoc) => {
                let span = ztoc.spans().nth(piece).ok_or_else(no_such_piece)?;
                let mut offset = span.decompressed.0;
                span.inflate_to(compressed, |part| {
                    let at = offset;
                    offset += part.len() as u64;
                    write(at, part)
                })?;
                // Otherwise the end of the last files would be read as zeros.
                if piece + 1 == ztoc.checkpoints.len() && offset < ztoc.decompressed_size {
                    return Err(Error::corrupt(format!(
                        "the decompressed layer ends at the byte {offset}, and not at {} as the \
                         zTOC states; create the zTOC again",
                        ztoc.decompressed_size
                    )));
                }
                Ok(())
            }
            Source::Toc {
                streams,
                compression,
            } => {
                let stream = streams.get(piece).ok_or_else(no_such_piece)?;
                stream.decode(compressed, *compression, write)
            }
        }
    }
}

fn no_such_piece() -> Error {
    Error::internal("the layer does not have the requested piece; please report it")
}

impl Stream {
    fn decode(
        &self,
        compressed: &[u8],
        compression: Compression,
        write: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut decoder = Decoder::with_budget(compressed, compression, limit::SPAN)?;
        let mut position = 0;
        for chunk in &self.chunks {
            skip(&mut decoder, chunk.inner - position)?;
            let mut bytes = Vec::new();
            decoder.by_ref().take(chunk.size).read_to_end(&mut bytes)?;
            let found = Digest::of(chunk.digest.algorithm(), &bytes);
            if bytes.len() as u64 != chunk.size {
                return Err(Error::corrupt(format!(
                    "a chunk of a file has {} bytes, and not {} as the table of contents states; \
                     build the layer again",
                    bytes.len(),
                    chunk.size
                )));
            }
            if found != chunk.digest {
                return Err(Error::corrupt(format!(
                    "a chunk of a file has the digest {found}, expected {}; fetch it again",
                    chunk.digest
                )));
            }
            position = chunk.inner + chunk.size;
            write(chunk.offset, &bytes)?;
        }
        Ok(())
    }
}

/// Reads `amount` bytes that no chunk has.
fn skip(decoder: &mut impl Read, amount: u64) -> io::Result<()> {
    let mut buffer = vec![0; SKIP.min(amount as usize)];
    let mut left = amount;
    while left > 0 {
        let most = buffer.len().min(left as usize);
        match decoder.read(&mut buffer[..most])? {
            // The next chunk is then too short, which is an error.
            0 => break,
            read => left -= read as u64,
        }
    }
    Ok(())
}
