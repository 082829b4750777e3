//! Compression of layers and archives: detection, and a streaming decoder with size limits.
//!
//! A decoder decompresses all bytes of its source, or returns an error. After a gzip member, a zstd
//! frame, or a stream of xz or bzip2, another one of the same format may follow, and so may zeros,
//! which tapes and block devices leave. If other bytes follow, the error is `Unsupported` and
//! describes these bytes. It is not `Corrupt`, because what precedes them is intact.

mod bzip2;
mod checkpoint;
mod format;
mod gzip;
pub mod inflate;
mod input;
mod spans;
mod xz;
mod zstd;

use std::io::{self, ErrorKind, Read};

use cas_core::{Error, limit};

pub use checkpoint::Checkpoints;
pub(crate) use checkpoint::{LARGEST as CHECKPOINTS_SIZE, Recorder};
pub use format::{Compression, MAGIC, detect};
pub(crate) use format::{foreign, is_erofs};
pub(crate) use spans::{Spans, threads as span_threads};

use self::bzip2::Bzip2;
use self::checkpoint::Place;
use self::gzip::{Gzip, Watch};
use self::input::Input;
use self::xz::Xz;
use self::zstd::Zstd;

/// Number of decompressed bytes up to which the compression ratio of gzip is not checked.
const RATIO_FLOOR_GZIP: u64 = 1 << 20;
/// Number of decompressed bytes up to which other compression ratios are not checked.
const RATIO_FLOOR: u64 = 1 << 30;

/// A reader of the decompressed bytes of `R`.
///
/// Errors are [`cas_core::Error`] inside [`io::Error`]: `Corrupt` for a damaged or truncated
/// stream; `Unsupported` for bytes after the stream that are neither zeros nor another stream of
/// the same format, and for a filter or a checksum of xz that is not supported; `OutOfRange` for an
/// exceeded limit; `Unavailable` for a lack of memory; errors of the source.
pub struct Decoder<R: Read> {
    stream: Stream<R>,
    compression: Compression,
    produced: u64,
    budget: u64,
}

/// A stream of members, each of which is compressed on its own.
enum Stream<R: Read> {
    Plain(Input<R>),
    Gzip(Box<Gzip<R>>),
    Zstd(Zstd<R>),
    Xz(Box<Xz<R>>),
    Bzip2(Bzip2<R>),
}

impl<R: Read> Stream<R> {
    fn new(input: Input<R>, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Stream::Plain(input),
            Compression::Gzip => Stream::Gzip(Box::new(Gzip::new(input)?)),
            Compression::Zstd => Stream::Zstd(Zstd::new(input)?),
            Compression::Xz => Stream::Xz(Box::new(Xz::new(input))),
            Compression::Bzip2 => Stream::Bzip2(Bzip2::new(input)),
        })
    }

    /// Reads decompressed bytes. Returns 0 at the verified end of a member.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(input) => input.read(out),
            Stream::Gzip(gzip) => gzip.read(out),
            Stream::Zstd(zstd) => zstd.read(out),
            Stream::Xz(xz) => xz.read(out),
            Stream::Bzip2(bzip2) => bzip2.read(out),
        }
    }

    /// Begins the next member.
    fn restart(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(_) => {}
            Stream::Gzip(gzip) => gzip.restart()?,
            Stream::Zstd(zstd) => zstd.restart()?,
            Stream::Xz(xz) => xz.restart(),
            Stream::Bzip2(bzip2) => bzip2.restart()?,
        }
        Ok(())
    }

    fn input(&self) -> Option<&Input<R>> {
        match self {
            Stream::Plain(input) => Some(input),
            Stream::Gzip(gzip) => Some(&gzip.input),
            Stream::Zstd(zstd) => Some(&zstd.input),
            Stream::Xz(xz) => xz.input(),
            Stream::Bzip2(bzip2) => Some(&bzip2.input),
        }
    }

    fn input_mut(&mut self) -> Option<&mut Input<R>> {
        match self {
            Stream::Plain(input) => Some(input),
            Stream::Gzip(gzip) => Some(&mut gzip.input),
            Stream::Zstd(zstd) => Some(&mut zstd.input),
            Stream::Xz(xz) => xz.input_mut(),
            Stream::Bzip2(bzip2) => Some(&mut bzip2.input),
        }
    }
}

impl<R: Read> Decoder<R> {
    /// Creates a decoder of `source`. The decoder returns an error if `source` has more than
    /// [`limit::LAYER`] decompressed bytes.
    ///
    /// # Errors
    /// `Internal` if the codec cannot be set up.
    pub fn new(source: R, compression: Compression) -> cas_core::Result<Self> {
        Self::with_budget(source, compression, limit::LAYER)
    }

    /// Creates a decoder of `source`. The decoder returns an error if `source` has more
    /// decompressed bytes than `budget` or [`limit::LAYER`].
    ///
    /// # Errors
    /// `Internal` if the codec cannot be set up.
    pub fn with_budget(source: R, compression: Compression, budget: u64) -> cas_core::Result<Self> {
        let stream = Stream::new(Input::new(source), compression).map_err(|error| {
            Error::internal("the decoder could not be set up; please report it").source(error)
        })?;
        Ok(Decoder {
            stream,
            compression,
            produced: 0,
            budget: budget.min(limit::LAYER),
        })
    }

    /// Creates a decoder of the rest of a gzip stream, which begins at `place`. `source` has the
    /// bytes from there on, and `window` has the decompressed bytes before it. The decoder counts
    /// and checks the bytes as if it had decompressed the stream from its beginning.
    ///
    /// # Errors
    /// `Internal` if the codec cannot be set up.
    fn resume(source: R, place: &Place, window: &[u8]) -> cas_core::Result<Self> {
        let input = Input::at(source, place.compressed);
        Ok(Decoder {
            stream: Stream::Gzip(Box::new(Gzip::resume(input, place, window)?)),
            compression: Compression::Gzip,
            produced: place.decompressed,
            budget: limit::LAYER,
        })
    }

    /// Begins to record checkpoints, if the stream is gzip.
    pub(crate) fn record(&mut self, recorder: Recorder) {
        if let Stream::Gzip(gzip) = &mut self.stream {
            gzip.watch = Watch::Record(recorder);
        }
    }

    /// Returns the checkpoints that were recorded, if the layer is so large that they are of use.
    /// The decoder must have reached the end of the stream.
    pub(crate) fn recorded(self) -> Option<Checkpoints> {
        match self.stream {
            Stream::Gzip(gzip) => match gzip.watch {
                Watch::Record(recorder) => recorder.finish(),
                _ => None,
            },
            _ => None,
        }
    }

    /// Expects a place in a gzip stream.
    fn expect(&mut self, place: Place) {
        if let Stream::Gzip(gzip) = &mut self.stream {
            gzip.watch = Watch::Expect(place, None);
        }
    }

    /// Returns the decompressed bytes before the expected place, if it was found.
    fn found(self) -> Option<Vec<u8>> {
        match self.stream {
            Stream::Gzip(gzip) => match gzip.watch {
                Watch::Expect(_, window) => window,
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns the number of compressed bytes read from the source so far.
    pub fn consumed(&self) -> u64 {
        self.stream.input().map_or(0, |input| input.total)
    }

    /// Returns the number of decompressed bytes returned so far.
    pub fn produced(&self) -> u64 {
        self.produced
    }

    /// Reads decompressed bytes of this member or of the members that follow. Returns 0 at the end
    /// of the last member.
    fn read_members(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.stream.read(out)?;
            if read > 0 || out.is_empty() || self.compression == Compression::None {
                return Ok(read);
            }
            let input = self.stream.input_mut();
            let more = input.map_or(Ok(false), |input| input.has_member(self.compression))?;
            if !more {
                return Ok(0);
            }
            self.stream.restart()?;
        }
    }

    fn check(&self) -> Result<(), Error> {
        if self.produced > self.budget {
            return Err(Error::out_of_range(format!(
                "the stream has more than the {} decompressed bytes allowed; build the image with \
                 smaller layers, or make an archive of fewer images",
                self.budget
            )));
        }
        check_ratio(self.compression, self.consumed(), self.produced)
    }
}

/// Checks the number of decompressed bytes against the number of compressed bytes.
fn check_ratio(compression: Compression, consumed: u64, produced: u64) -> Result<(), Error> {
    let (floor, ratio) = match compression {
        Compression::None => return Ok(()),
        Compression::Gzip => (RATIO_FLOOR_GZIP, limit::RATIO_GZIP),
        _ => (RATIO_FLOOR, limit::RATIO),
    };
    if produced > floor && produced > consumed.saturating_mul(ratio) {
        return Err(Error::out_of_range(format!(
            "{consumed} compressed bytes became {produced} bytes; at most {ratio} bytes for \
             each compressed byte are allowed; compress the data less"
        )));
    }
    Ok(())
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self
            .read_members(out)
            .map_err(|error| damaged(self.compression, error))?;
        self.produced += read as u64;
        self.check()?;
        Ok(read)
    }
}

/// Classifies an error of a codec. An error that is classified already, such as an error of the
/// source, is returned unchanged.
fn damaged(compression: Compression, error: io::Error) -> io::Error {
    if error.get_ref().is_some_and(|inner| inner.is::<Error>()) {
        return error;
    }
    // The zstd library distinguishes its errors by text only.
    if error.to_string().contains("too much memory") {
        let allowed = 1u64 << limit::ZSTD_WINDOW_LOG;
        return Error::out_of_range(format!(
            "the zstd frame needs a larger window than the {allowed} bytes allowed; compress it \
             again with a smaller window"
        ))
        .source(error)
        .into();
    }
    // A lack of memory does not mean that the stream is damaged.
    if error.kind() == ErrorKind::OutOfMemory {
        return Error::from(error).into();
    }
    let found = match error.kind() {
        ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
        _ => error.to_string(),
    };
    Error::corrupt(format!(
        "the {compression} stream is damaged: {found}; get an intact copy"
    ))
    .source(error)
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_of_compression_has_a_bound() {
        use Compression::{Bzip2, Gzip, None, Xz, Zstd};
        for (compression, floor, ratio) in [
            (Gzip, RATIO_FLOOR_GZIP, limit::RATIO_GZIP),
            (Zstd, RATIO_FLOOR, limit::RATIO),
            (Xz, RATIO_FLOOR, limit::RATIO),
            (Bzip2, RATIO_FLOOR, limit::RATIO),
        ] {
            let consumed = floor / ratio + 1;
            let most = consumed * ratio;
            check_ratio(compression, consumed, most).unwrap();
            let error = check_ratio(compression, consumed, most + 1).unwrap_err();
            assert_eq!(error.kind(), cas_core::ErrorKind::OutOfRange, "{error}");
            assert!(error.to_string().contains(&ratio.to_string()), "{error}");
            check_ratio(compression, 1, floor).unwrap();
            check_ratio(compression, 1, floor + 1).unwrap_err();
        }
        check_ratio(None, 1, u64::MAX).unwrap();
    }

    #[test]
    fn a_lack_of_memory_is_not_damage() {
        for (found, expected) in [
            (ErrorKind::OutOfMemory, cas_core::ErrorKind::Unavailable),
            (ErrorKind::UnexpectedEof, cas_core::ErrorKind::Corrupt),
        ] {
            let error = Error::from(damaged(Compression::Bzip2, found.into()));
            assert_eq!(error.kind(), expected, "{error}");
        }
    }
}
