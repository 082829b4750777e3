//! zlib's inflate, which can stop at the end of a block and begin within a byte. All unsafe code of
//! this package is here.

use cas_core::{Error, Result};
use libz_rs_sys as zlib;

/// Maximum distance in bytes from which deflate copies earlier bytes. Decompression from a place
/// within a stream therefore needs only the last `WINDOW` decompressed bytes before this place.
pub const WINDOW: usize = 32 << 10;

/// A decompressor.
pub struct Inflate {
    /// zlib keeps the address of the stream.
    stream: Box<zlib::z_stream>,
}

// SAFETY: zlib keeps its state in memory that only this stream refers to, and in no thread.
unsafe impl Send for Inflate {}

/// The format of the bytes that a decompressor reads.
#[derive(Clone, Copy)]
pub enum Format {
    /// A member of gzip, with its header and its checksum.
    Gzip = 31,
    /// Blocks of deflate.
    Raw = -15,
}

/// How far one call decompresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// To the end of the input or of the room for the output.
    Full,
    /// At most to the end of a block.
    Block,
}

/// The numbers of bytes that one call has read and written.
pub struct Step {
    /// Number of bytes that were read from the input.
    pub read: usize,
    /// Number of bytes that were written to the output.
    pub written: usize,
    /// Where the call stopped.
    pub stop: Stop,
}

/// Where a call stopped.
pub enum Stop {
    /// Where the input ended, where the output was full, or at the end of the last block. At the
    /// end of the last block, further calls lead to [`Stop::End`].
    Within,
    /// Before a block.
    Before {
        /// The number of bits of the last byte read that belong to the block. 0 if the block begins
        /// with the next byte.
        bits: u8,
    },
    /// At the end of the stream: after the checksum of the member, which was verified, or, for
    /// [`Format::Raw`], after the last block.
    End,
}

impl Inflate {
    /// Creates a decompressor of a stream in this format.
    ///
    /// # Errors
    /// `Internal` if zlib cannot be set up.
    pub fn new(format: Format) -> Result<Self> {
        let mut inflate = Inflate {
            stream: Box::default(),
        };
        // SAFETY: the stream is initialised, and stays where it is for as long as zlib uses it.
        let code = unsafe {
            zlib::inflateInit2_(
                &raw mut *inflate.stream,
                format as i32,
                zlib::zlibVersion(),
                size_of::<zlib::z_stream>() as i32,
            )
        };
        check(code)?;
        Ok(inflate)
    }

    /// Begins again, with another stream.
    ///
    /// # Errors
    /// `Internal` if zlib fails.
    pub fn reset(&mut self, format: Format) -> Result<()> {
        // SAFETY: `new` has initialised the stream for zlib.
        check(unsafe { zlib::inflateReset2(&raw mut *self.stream, format as i32) })
    }

    /// Continues a raw stream at a block that begins with `bits` bits of the byte `first`, after
    /// the decompressed bytes in `window`, of which there are at most [`WINDOW`].
    ///
    /// # Errors
    /// `Internal` if zlib fails.
    pub fn resume(&mut self, bits: u8, first: u8, window: &[u8]) -> Result<()> {
        if bits > 0 {
            let value = i32::from(first >> (8 - bits));
            // SAFETY: `new` has initialised the stream for zlib.
            check(unsafe { zlib::inflatePrime(&raw mut *self.stream, bits.into(), value) })?;
        }
        if window.is_empty() {
            return Ok(());
        }
        // SAFETY: as above; zlib copies the bytes.
        check(unsafe {
            zlib::inflateSetDictionary(&raw mut *self.stream, window.as_ptr(), window.len() as u32)
        })
    }

    /// Returns the last decompressed bytes of the stream, at most [`WINDOW`] of them.
    ///
    /// # Errors
    /// `Internal` if zlib fails.
    pub fn window(&self) -> Result<Vec<u8>> {
        let (mut window, mut length) = (vec![0; WINDOW], 0);
        // SAFETY: `new` has initialised the stream for zlib, and a window has at most `WINDOW`
        // bytes.
        check(unsafe {
            zlib::inflateGetDictionary(
                &raw const *self.stream,
                window.as_mut_ptr(),
                &raw mut length,
            )
        })?;
        window.truncate(length as usize);
        Ok(window)
    }

    /// Decompresses bytes of `input` into `output`. A step that may go on after the end of a block
    /// can nevertheless stop there.
    ///
    /// # Errors
    /// `Corrupt` if the input is not valid; `Internal` if zlib fails otherwise.
    pub fn step(&mut self, input: &[u8], output: &mut [u8], until: Until) -> Result<Step> {
        let flush = match until {
            Until::Full => zlib::Z_NO_FLUSH,
            Until::Block => zlib::Z_BLOCK,
        };
        let most = u32::MAX as usize;
        let (given, room) = (input.len().min(most), output.len().min(most));
        self.stream.next_in = input.as_ptr().cast_mut();
        self.stream.avail_in = given as u32;
        self.stream.next_out = output.as_mut_ptr();
        self.stream.avail_out = room as u32;
        // SAFETY: `new` has initialised the stream for zlib, and both buffers have the lengths that
        // the stream states. zlib does not keep their addresses.
        let code = unsafe { zlib::inflate(&raw mut *self.stream, flush) };
        let step = |stop| Step {
            read: given - self.stream.avail_in as usize,
            written: room - self.stream.avail_out as usize,
            stop,
        };
        let found = self.stream.data_type;
        match code {
            zlib::Z_STREAM_END => Ok(step(Stop::End)),
            zlib::Z_OK if found & BEFORE_BLOCK != 0 && found & AFTER_LAST == 0 => {
                Ok(step(Stop::Before {
                    bits: (found & 7) as u8,
                }))
            }
            // `Z_BUF_ERROR`: no progress is possible without more input or output.
            zlib::Z_OK | zlib::Z_BUF_ERROR => Ok(step(Stop::Within)),
            _ => check(code).map(|()| step(Stop::Within)),
        }
    }
}

/// The flag of `data_type` that the header or a block has just ended.
const BEFORE_BLOCK: i32 = 128;
/// The flag of `data_type` that the last block has begun.
const AFTER_LAST: i32 = 64;

impl Drop for Inflate {
    fn drop(&mut self) {
        // SAFETY: `new` has initialised the stream for zlib, or has failed, and then zlib finds no
        // state in it.
        unsafe { zlib::inflateEnd(&raw mut *self.stream) };
    }
}

/// Returns the CRC-32 of bytes that follow other bytes, whose CRC-32 is `before` (0 if there are
/// none).
pub fn crc32(before: u32, bytes: &[u8]) -> u32 {
    // SAFETY: the length is that of the slice. The checksum of zlib has 32 bits.
    unsafe { zlib::crc32_z(before.into(), bytes.as_ptr(), bytes.len()) as u32 }
}

fn check(code: i32) -> Result<()> {
    match code {
        zlib::Z_OK => Ok(()),
        zlib::Z_DATA_ERROR | zlib::Z_NEED_DICT => Err(Error::corrupt(
            "the gzip stream is damaged; get an intact copy",
        )),
        _ => Err(Error::internal(format!(
            "zlib failed with the code {code}; please report it"
        ))),
    }
}
