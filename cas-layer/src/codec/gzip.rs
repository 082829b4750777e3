//! Members of gzip (RFC 1952): a header, a deflate stream, and the checksum and the length of the
//! decompressed bytes.

use std::io::{self, BufRead, Read};

use cas_core::{Error, ErrorKind};
use flate2::Crc;

use super::checkpoint::{Begins, Place, Recorder};
use super::inflate::{Format, Inflate, Stop, Until, crc32};
use super::input::Input;

const HEADER_CRC: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0xe0;

/// Decompresses one member after the other.
pub(super) struct Gzip<R> {
    pub(super) input: Input<R>,
    inflate: Inflate,
    /// The checksum and the length of what was decompressed of the member.
    sum: u32,
    length: u32,
    /// The number of decompressed bytes of all members.
    decompressed: u64,
    /// The last byte that was inflated.
    last: u8,
    state: State,
    pub(super) watch: Watch,
}

enum State {
    Header,
    Body,
    Ended,
}

/// What is done with the places in the stream from which it can be inflated.
pub(super) enum Watch {
    /// Nothing.
    Off,
    /// Some are recorded as checkpoints.
    Record(Recorder),
    /// One place is expected. The window at this place, once it was found.
    Expect(Place, Option<Vec<u8>>),
}

impl Watch {
    /// Returns whether a place after this number of decompressed bytes, or after more, matters.
    fn wants(&self, decompressed: u64) -> bool {
        match self {
            Watch::Off => false,
            Watch::Record(recorder) => recorder.wants(decompressed),
            Watch::Expect(place, _) => decompressed >= place.decompressed,
        }
    }
}

impl<R: Read> Gzip<R> {
    pub(super) fn new(input: Input<R>) -> cas_core::Result<Self> {
        Ok(Gzip {
            input,
            inflate: Inflate::new(Format::Raw)?,
            sum: 0,
            length: 0,
            decompressed: 0,
            last: 0,
            state: State::Header,
            watch: Watch::Off,
        })
    }

    /// Continues at `place`, after the decompressed bytes in `window`.
    pub(super) fn resume(input: Input<R>, place: &Place, window: &[u8]) -> cas_core::Result<Self> {
        let mut gzip = Self::new(input)?;
        gzip.decompressed = place.decompressed;
        gzip.state = match place.begins {
            Begins::Member => State::Ended,
            Begins::Block { bits, last } => {
                gzip.inflate.resume(bits, last, window)?;
                gzip.last = last;
                State::Body
            }
        };
        (gzip.sum, gzip.length) = (place.sum, place.length);
        Ok(gzip)
    }

    /// Begins the next member.
    pub(super) fn restart(&mut self) -> cas_core::Result<()> {
        self.inflate.reset(Format::Raw)?;
        (self.sum, self.length) = (0, 0);
        self.state = State::Header;
        Ok(())
    }

    /// Reads decompressed bytes of the member. Returns 0 at its verified end, or for an empty
    /// buffer.
    pub(super) fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        if let State::Header = self.state {
            self.header()?;
            self.state = State::Body;
        }
        while let State::Body = self.state {
            // Whether a place is found does not depend on the sizes of the buffers.
            let until = match self.watch.wants(self.decompressed + out.len() as u64) {
                true => Until::Block,
                false => Until::Full,
            };
            let input = self.input.fill_buf()?;
            if input.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let step = self.inflate.step(input, out, until).map_err(invalid)?;
            self.last = input[..step.read].last().copied().unwrap_or(self.last);
            self.input.consume(step.read);
            self.sum = crc32(self.sum, &out[..step.written]);
            self.length = self.length.wrapping_add(step.written as u32);
            self.decompressed += step.written as u64;
            match step.stop {
                Stop::End => {
                    self.trailer()?;
                    self.state = State::Ended;
                    self.note(Begins::Member)?;
                }
                Stop::Before { bits } if until == Until::Block => {
                    let last = if bits == 0 { 0 } else { self.last };
                    self.note(Begins::Block { bits, last })?;
                }
                _ => {}
            }
            if step.written > 0 {
                return Ok(step.written);
            }
        }
        Ok(0)
    }

    /// Notes that a member or a block may begin here, if the watch needs this place.
    fn note(&mut self, begins: Begins) -> cas_core::Result<()> {
        if !self.watch.wants(self.decompressed) {
            return Ok(());
        }
        let (sum, length) = match begins {
            Begins::Member => (0, 0),
            Begins::Block { .. } => (self.sum, self.length),
        };
        let place = Place {
            compressed: self.input.position(),
            decompressed: self.decompressed,
            begins,
            sum,
            length,
        };
        let inflate = &self.inflate;
        let window = || match begins {
            Begins::Member => Ok(Vec::new()),
            Begins::Block { .. } => inflate.window(),
        };
        match &mut self.watch {
            Watch::Record(recorder) => recorder.note(place, &window()?),
            Watch::Expect(expected, found) if *expected == place => *found = Some(window()?),
            Watch::Expect(..) | Watch::Off => {}
        }
        Ok(())
    }

    /// Reads the header of a member. Extra fields, names and comments in it are skipped.
    fn header(&mut self) -> io::Result<()> {
        let mut header = Header {
            input: &mut self.input,
            crc: Crc::new(),
        };
        let [magic @ .., flags, _, _, _, _, _, _] = header.take::<10>()?;
        if magic != [0x1f, 0x8b, 8] || flags & RESERVED != 0 {
            return Err(io::Error::other("invalid gzip header"));
        }
        if flags & EXTRA != 0 {
            let length = u16::from_le_bytes(header.take()?);
            header.skip(usize::from(length))?;
        }
        for text in [NAME, COMMENT] {
            if flags & text != 0 {
                header.skip_text()?;
            }
        }
        let expected = header.crc.sum() as u16;
        if flags & HEADER_CRC != 0 && u16::from_le_bytes(header.take()?) != expected {
            return Err(io::Error::other("the checksum of a header does not match"));
        }
        Ok(())
    }

    fn trailer(&mut self) -> io::Result<()> {
        let mut trailer = [0; 8];
        self.input.read_exact(&mut trailer)?;
        let [a, b, c, d, length @ ..] = trailer;
        let sum = u32::from_le_bytes([a, b, c, d]);
        if sum != self.sum || u32::from_le_bytes(length) != self.length {
            return Err(io::Error::other(
                "the decompressed bytes do not match the checksum or the length in the trailer",
            ));
        }
        Ok(())
    }
}

/// Returns the error for bytes that are not deflate, which the decoder then describes. Other errors
/// of zlib stay as they are.
fn invalid(error: Error) -> io::Error {
    match error.kind() {
        ErrorKind::Corrupt => io::Error::other("invalid deflate stream"),
        _ => error.into(),
    }
}

/// A header that is being read.
struct Header<'a, R> {
    input: &'a mut Input<R>,
    crc: Crc,
}

impl<R: Read> Header<'_, R> {
    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        self.crc.update(&bytes);
        Ok(bytes)
    }

    fn skip(&mut self, mut length: usize) -> io::Result<()> {
        while length > 0 {
            let amount = self.fill()?.len().min(length);
            self.consume(amount)?;
            length -= amount;
        }
        Ok(())
    }

    /// Skips a text and the NUL that ends it.
    fn skip_text(&mut self) -> io::Result<()> {
        loop {
            let available = self.fill()?;
            let end = available.iter().position(|&byte| byte == 0);
            let amount = end.map_or(available.len(), |end| end + 1);
            self.consume(amount)?;
            if end.is_some() {
                return Ok(());
            }
        }
    }

    fn fill(&mut self) -> io::Result<&[u8]> {
        match self.input.fill_buf()? {
            [] => Err(io::ErrorKind::UnexpectedEof.into()),
            available => Ok(available),
        }
    }

    fn consume(&mut self, amount: usize) -> io::Result<()> {
        self.crc.update(&self.input.fill_buf()?[..amount]);
        self.input.consume(amount);
        Ok(())
    }
}
