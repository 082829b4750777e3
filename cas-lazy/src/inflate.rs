//! zlib's inflate, which can stop at the end of a block and begin within a byte. All unsafe code of
//! this package is here.

use cas_core::{Error, Result};
use libz_rs_sys as zlib;

/// A decompressor.
pub(crate) struct Inflate {
    /// zlib keeps the address of the stream.
    stream: Box<zlib::z_stream>,
}

/// The format of the bytes that a decompressor reads.
#[derive(Clone, Copy)]
pub(crate) enum Format {
    /// A member of gzip, with its header and its checksum.
    Gzip = 31,
    /// Blocks of deflate.
    Raw = -15,
}

/// The numbers of bytes that one call has read and written.
pub(crate) struct Step {
    pub(crate) read: usize,
    pub(crate) written: usize,
    pub(crate) stop: Stop,
}

/// Where a call stopped.
pub(crate) enum Stop {
    /// Where the input ended, where the output was full, or at the end of the last block. At the
    /// end of the last block, further calls lead to [`Stop::End`].
    Within,
    /// Before a block. The block begins with this number of bits of the last byte that was read.
    Before { bits: u8 },
    /// At the end of the stream: after the checksum of the member, which was verified, or, for
    /// [`Format::Raw`], after the last block.
    End,
}

impl Inflate {
    pub(crate) fn new(format: Format) -> Result<Self> {
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
    pub(crate) fn reset(&mut self, format: Format) -> Result<()> {
        // SAFETY: `new` has initialised the stream for zlib.
        check(unsafe { zlib::inflateReset2(&raw mut *self.stream, format as i32) })
    }

    /// Continues a raw stream at a block that begins with `bits` bits of the byte `first`, after
    /// the decompressed bytes in `window`.
    pub(crate) fn resume(&mut self, bits: u8, first: u8, window: &[u8]) -> Result<()> {
        if bits > 0 {
            let value = i32::from(first >> (8 - bits));
            // SAFETY: `new` has initialised the stream for zlib.
            check(unsafe { zlib::inflatePrime(&raw mut *self.stream, bits.into(), value) })?;
        }
        // SAFETY: as above; zlib copies the bytes.
        check(unsafe {
            zlib::inflateSetDictionary(&raw mut *self.stream, window.as_ptr(), window.len() as u32)
        })
    }

    /// Decompresses bytes of `input` into `output`, at most up to the end of a block.
    ///
    /// # Errors
    /// `Corrupt` if the input is not valid; `Internal` if zlib fails otherwise.
    pub(crate) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step> {
        let most = u32::MAX as usize;
        let (given, room) = (input.len().min(most), output.len().min(most));
        self.stream.next_in = input.as_ptr().cast_mut();
        self.stream.avail_in = given as u32;
        self.stream.next_out = output.as_mut_ptr();
        self.stream.avail_out = room as u32;
        // SAFETY: `new` has initialised the stream for zlib, and both buffers have the lengths that
        // the stream states. zlib does not keep their addresses.
        let code = unsafe { zlib::inflate(&raw mut *self.stream, zlib::Z_BLOCK) };
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
