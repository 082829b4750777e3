//! Members of gzip (RFC 1952): a header, a deflate stream, and the checksum and the length of the
//! decompressed bytes.

use std::io::{self, BufRead, Read};

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::input::Input;

const HEADER_CRC: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0xe0;

/// Decompresses one member after the other.
pub(super) struct Gzip<R> {
    pub(super) input: Input<R>,
    inflate: Decompress,
    /// The checksum and length of what was decompressed.
    crc: Crc,
    state: State,
}

enum State {
    Header,
    Body,
    Ended,
}

impl<R: Read> Gzip<R> {
    pub(super) fn new(input: Input<R>) -> Self {
        Gzip {
            input,
            inflate: Decompress::new(false),
            crc: Crc::new(),
            state: State::Header,
        }
    }

    /// Begins the next member.
    pub(super) fn restart(&mut self) {
        self.inflate.reset(false);
        self.crc.reset();
        self.state = State::Header;
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
            let input = self.input.fill_buf()?;
            if input.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (consumed, produced) = (self.inflate.total_in(), self.inflate.total_out());
            let none = FlushDecompress::None;
            let status = self.inflate.decompress(input, out, none)?;
            self.input
                .consume((self.inflate.total_in() - consumed) as usize);
            let read = (self.inflate.total_out() - produced) as usize;
            self.crc.update(&out[..read]);
            if status == Status::StreamEnd {
                self.trailer()?;
                self.state = State::Ended;
            }
            if read > 0 {
                return Ok(read);
            }
        }
        Ok(0)
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
        if sum != self.crc.sum() || u32::from_le_bytes(length) != self.crc.amount() {
            return Err(io::Error::other(
                "the decompressed bytes do not match the checksum or the length in the trailer",
            ));
        }
        Ok(())
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
