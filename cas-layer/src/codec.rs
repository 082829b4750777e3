//! Compression of layers: detection, and a streaming decoder with size limits.
//!
//! A stream is either complete or an error. Only another member or frame may follow a gzip member
//! or zstd frame. Anything else, including zero padding, is an error, as in Go's gzip and
//! therefore in every container engine.

use std::io::{self, BufRead, ErrorKind, Read};

use cas_core::{Error, limit};
use flate2::bufread::MultiGzDecoder;

/// Size in bytes of the input buffer.
const INPUT: usize = 256 << 10;
/// Number of decompressed bytes below which the compression ratio of gzip is not checked.
const RATIO_FLOOR_GZIP: u64 = 1 << 20;
/// Number of decompressed bytes below which the compression ratio of zstd is not checked.
const RATIO_FLOOR_ZSTD: u64 = 1 << 30;

/// How the bytes of a layer are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not compressed.
    None,
    /// gzip, with one or more members.
    Gzip,
    /// Zstandard, with one or more frames, including skippable ones.
    Zstd,
}

/// Returns the compression of a stream, detected from its first bytes. Eight bytes are enough.
pub fn detect(magic: &[u8]) -> Compression {
    match *magic {
        [0x1f, 0x8b, 0x08, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// A reader of the decompressed bytes of `R`.
///
/// Errors are [`cas_core::Error`] inside [`io::Error`]: `Corrupt` for a damaged or truncated
/// stream, `OutOfRange` for an exceeded limit, and errors of the source unchanged.
pub struct Decoder<R: Read> {
    stream: Stream<Input<R>>,
    produced: u64,
    budget: u64,
}

enum Stream<I: BufRead> {
    Plain(I),
    Gzip(Box<MultiGzDecoder<I>>),
    Zstd(zstd::stream::read::Decoder<'static, I>),
}

impl<R: Read> Decoder<R> {
    /// Creates a decoder of `source` that returns at most [`limit::LAYER`] bytes.
    ///
    /// # Errors
    /// `Internal` if the codec cannot be set up.
    pub fn new(source: R, compression: Compression) -> cas_core::Result<Self> {
        Self::with_budget(source, compression, limit::LAYER)
    }

    /// Creates a decoder of `source` that returns at most `budget` bytes, and never more than
    /// [`limit::LAYER`].
    ///
    /// # Errors
    /// `Internal` if the codec cannot be set up.
    pub fn with_budget(source: R, compression: Compression, budget: u64) -> cas_core::Result<Self> {
        let input = Input::new(source);
        let stream = match compression {
            Compression::None => Stream::Plain(input),
            Compression::Gzip => Stream::Gzip(Box::new(MultiGzDecoder::new(input))),
            Compression::Zstd => Stream::Zstd(zstd(input).map_err(|error| {
                Error::internal("the zstd decoder could not be set up").source(error)
            })?),
        };
        Ok(Decoder {
            stream,
            produced: 0,
            budget: budget.min(limit::LAYER),
        })
    }

    /// Returns the number of compressed bytes read from the source so far.
    pub fn consumed(&self) -> u64 {
        self.input().total
    }

    /// Returns the number of decompressed bytes returned so far.
    pub fn produced(&self) -> u64 {
        self.produced
    }

    fn input(&self) -> &Input<R> {
        match &self.stream {
            Stream::Plain(input) => input,
            Stream::Gzip(decoder) => decoder.get_ref(),
            Stream::Zstd(decoder) => decoder.get_ref(),
        }
    }

    fn check(&self) -> Result<(), Error> {
        if self.produced > self.budget {
            return Err(Error::out_of_range(format!(
                "the layer has more than the {} decompressed bytes allowed",
                self.budget
            )));
        }
        let (floor, ratio) = match self.stream {
            Stream::Plain(_) => return Ok(()),
            Stream::Gzip(_) => (RATIO_FLOOR_GZIP, limit::RATIO_GZIP),
            Stream::Zstd(_) => (RATIO_FLOOR_ZSTD, limit::RATIO_ZSTD),
        };
        let consumed = self.consumed();
        if self.produced > floor && self.produced > consumed.saturating_mul(ratio) {
            return Err(Error::out_of_range(format!(
                "{consumed} compressed bytes became {}; at most {ratio} per byte are allowed",
                self.produced
            )));
        }
        Ok(())
    }
}

fn zstd<I: BufRead>(input: I) -> io::Result<zstd::stream::read::Decoder<'static, I>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
    decoder.window_log_max(limit::ZSTD_WINDOW_LOG)?;
    Ok(decoder)
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.stream {
            Stream::Plain(input) => input.read(out),
            Stream::Gzip(decoder) => decoder.read(out).map_err(|e| damaged("gzip", e)),
            Stream::Zstd(decoder) => decoder.read(out).map_err(|e| damaged("zstd", e)),
        }?;
        let compressed = !matches!(self.stream, Stream::Plain(_));
        if read == 0 && !out.is_empty() && compressed && self.consumed() == 0 {
            return Err(Error::corrupt("expected a compressed stream, found no bytes").into());
        }
        self.produced += read as u64;
        self.check()?;
        Ok(read)
    }
}

/// Classifies an error of a codec. An error of the source is returned unchanged.
fn damaged(codec: &str, error: io::Error) -> io::Error {
    if error.get_ref().is_some_and(|inner| inner.is::<Error>()) {
        return error;
    }
    // The zstd library distinguishes its errors by text only.
    if error.to_string().contains("too much memory") {
        let allowed = 1u64 << limit::ZSTD_WINDOW_LOG;
        return Error::out_of_range(format!(
            "the zstd frame needs a larger window than the {allowed} bytes allowed"
        ))
        .source(error)
        .into();
    }
    let found = match error.kind() {
        ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
        _ => error.to_string(),
    };
    Error::corrupt(format!("the {codec} stream is damaged: {found}"))
        .source(error)
        .into()
}

/// The source, with a buffer, a byte count, and classified errors.
struct Input<R> {
    source: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    total: u64,
}

impl<R: Read> Input<R> {
    fn new(source: R) -> Self {
        Input {
            source,
            buffer: vec![0; INPUT].into_boxed_slice(),
            start: 0,
            end: 0,
            total: 0,
        }
    }

    fn pull(source: &mut R, out: &mut [u8], total: &mut u64) -> io::Result<usize> {
        loop {
            match source.read(out) {
                Ok(read) => {
                    *total += read as u64;
                    return Ok(read);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::from(error).into()),
            }
        }
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        // The bytes of an uncompressed stream go straight to a caller with a large buffer. The
        // header of a gzip member is read byte by byte.
        if self.start == self.end && out.len() >= self.buffer.len() {
            return Self::pull(&mut self.source, out, &mut self.total);
        }
        let available = self.fill_buf()?;
        let read = available.len().min(out.len());
        out[..read].copy_from_slice(&available[..read]);
        self.consume(read);
        Ok(read)
    }
}

impl<R: Read> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            self.end = Self::pull(&mut self.source, &mut self.buffer, &mut self.total)?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, amount: usize) {
        self.start = (self.start + amount).min(self.end);
    }
}
