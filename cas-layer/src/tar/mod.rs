//! A strict, streaming tar reader, and a writer.
//!
//! The reader reads the formats v7, ustar, star, pax and GNU. It also reads the long names, the
//! base-256 numbers and all sparse formats of GNU tar. A malformed extension header is an error and
//! is never skipped. One size is used both for the body and for the position of the next header.
//! Extension headers apply to the next member only.
//!
//! Tar readers differ in how they interpret unusual archives. This reader refuses most of these
//! archives. It accepts the unusual properties that container engines accept, and interprets them
//! as these engines do. Most of these properties cause a warning. Examples:
//!
//! - The stream ends after a complete member, without padding or end blocks.
//! - A global pax header sets metadata, which is ignored. A global header with a record of a path,
//!   a link, a size or a sparse file is refused, even if the record is empty.
//! - A numeric field has a NUL before its number, or other bytes after the number. In the size of a
//!   file, and in the map of an old GNU sparse file, a NUL before a number is refused.
//! - The map of a sparse file does not reach the end of the file. Two different maps or sizes of a
//!   sparse file are refused.
//! - A header has a prefix, but its format does not define one.
//! - The name of a file ends with a slash.
//! - A member that is not a file has a size, which is ignored.

mod check;
mod entry;
mod header;
mod member;
mod message;
mod pax;
mod seek;
mod sparse;
mod stated;
mod write;

use std::io::{self, BufRead, Read};

use cas_core::{Error, Result, limit};

use crate::Warnings;
use crate::buffered::read_buffered;
pub use entry::{Device, Entry, EntryKind, Region, Time};
use header::{BLOCK, Header};
pub use message::Excerpt;
use pax::Pax;
pub use stated::Stated;
pub use write::Writer;
pub(crate) use write::{END, head, padding};

/// Reads the members of an archive from `R`. The implementations of [`Read`] and [`BufRead`] return
/// the stored bytes of the current member.
pub struct Reader<R> {
    input: R,
    /// Number of stored bytes of the current member that are not read yet.
    body: u64,
    /// Number of bytes from the end of the body to the next header.
    padding: u64,
    entries: u64,
    global: u64,
    ended: bool,
    warnings: Warnings,
}

/// Extension headers that apply to the next member.
#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.path.is_none() && self.link.is_none()
    }
}

impl<R: BufRead> Reader<R> {
    /// Creates a reader of the archive in `input`.
    pub fn new(input: R) -> Self {
        Reader {
            input,
            body: 0,
            padding: 0,
            entries: 0,
            global: 0,
            ended: false,
            warnings: Warnings::default(),
        }
    }

    /// Returns the input.
    pub fn get_ref(&self) -> &R {
        &self.input
    }

    /// Returns the input. A caller must not read from it, because the reader would lose its
    /// position.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// Returns the input.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// Skips the rest of the current member. Returns the next member. At the end of the archive,
    /// reads `input` to its end and returns `None`.
    ///
    /// # Errors
    /// `Corrupt` if the archive is malformed or truncated, or if the target of a link is empty or
    /// too long; `OutOfRange` if the archive exceeds a bound of [`limit`] other than the length of
    /// link targets, or if an owner, a group or a device number is out of range; errors of `input`.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.next_member(None)
    }

    /// Returns the next member as [`Reader::next_entry`] does, and the information in its headers
    /// that the [`Entry`] does not have.
    ///
    /// # Errors
    /// As [`Reader::next_entry`].
    pub fn next_stated(&mut self) -> Result<Option<(Entry, Stated)>> {
        let mut stated = Stated::default();
        let entry = self.next_member(Some(&mut stated))?;
        Ok(entry.map(|entry| (entry, stated)))
    }

    fn next_member(&mut self, mut stated: Option<&mut Stated>) -> Result<Option<Entry>> {
        let mut waiting = Extensions::default();
        let mut follows_global = false;
        while let Some(header) = self.header(&waiting)? {
            match header.type_flag() {
                b'x' => {
                    let body = self.extension(&header, limit::PAX)?;
                    let pax = Pax::parse(&body).map_err(|error| self.of_next(error))?;
                    once(&mut waiting.pax, pax)?;
                    if let Some(stated) = &mut stated {
                        stated.records = pax::records(&body);
                    }
                }
                b'g' => {
                    if waiting.pax.is_some() || waiting.path.is_some() || waiting.link.is_some() {
                        self.warn(
                            "a global pax header is between a member and its own pax or GNU \
                             header; other readers may ignore the member's own pax or GNU header",
                        );
                    }
                    self.global(&header)?;
                    follows_global = true;
                    if let Some(stated) = &mut stated {
                        stated.follows_global = true;
                    }
                }
                b'L' => {
                    let body = self.extension(&header, limit::GNU_LONG)?;
                    let path = header::text(&body).to_vec();
                    if path.is_empty() {
                        self.warn(
                            "a GNU header states an empty name; other readers may use the name in \
                             the header of the member",
                        );
                    }
                    once(&mut waiting.path, path)?;
                }
                b'K' => {
                    let body = self.extension(&header, limit::GNU_LONG)?;
                    once(&mut waiting.link, header::text(&body).to_vec())?;
                }
                _ => {
                    let member = self.member(&header, waiting);
                    let member = member.map_err(|error| header.named(error))?;
                    if let Some(stated) = stated {
                        stated.add(&header)?;
                    }
                    return Ok(Some(member));
                }
            }
        }
        if follows_global {
            self.warn("a global pax header is the last member; some readers refuse it");
        }
        Ok(None)
    }

    /// Returns the error of an extension header. If the header of the member follows, adds the name
    /// of the member to the error.
    fn of_next(&mut self, error: Error) -> Error {
        match self.block().map(|block| block.map(Header::new)) {
            Ok(Some(Ok(next))) if !next.is_extension() => next.named(error),
            _ => error,
        }
    }

    /// Returns warnings about unusual properties of the archive that were accepted: at most
    /// [`limit::WARNINGS`] different warnings. If there were more, one further warning states how
    /// many are not listed. A warning that is not listed is counted each time it occurred.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.list()
    }

    /// Returns the next header, or `None` at the end.
    fn header(&mut self, waiting: &Extensions) -> Result<Option<Header>> {
        if self.ended || !self.skip()? {
            return self.end(waiting);
        }
        let Some(block) = self.block()? else {
            self.warn("the archive has no end blocks");
            return self.end(waiting);
        };
        if block != [0; BLOCK] {
            let header = Header::new(block)?;
            if header.has_odd_number() {
                self.warn(
                    "a numeric field in a header does not have a valid number, has a NUL before \
                     the number, or has bytes other than spaces and NULs after the number; some \
                     readers refuse the field, or find another number in it",
                );
            }
            return Ok(Some(header));
        }
        match self.block()? {
            None => self.warn("the archive has one end block instead of two"),
            Some(second) if second != [0; BLOCK] => {
                return Err(Error::corrupt(
                    "the block after the first end block is not an end block; create the archive \
                     again",
                ));
            }
            Some(_) => {}
        }
        self.end(waiting)
    }

    fn end(&mut self, waiting: &Extensions) -> Result<Option<Header>> {
        if !waiting.is_empty() {
            return Err(Error::corrupt(
                "an extension header is not followed by a member; create the archive again",
            ));
        }
        self.drain()?;
        self.ended = true;
        Ok(None)
    }

    /// Reads the bytes that follow the archive, because the digests of the layer cover them too.
    fn drain(&mut self) -> Result<()> {
        let mut junk = false;
        loop {
            let rest = self.input.fill_buf()?;
            if rest.is_empty() {
                break;
            }
            junk |= rest.iter().any(|&byte| byte != 0);
            let amount = rest.len();
            self.input.consume(amount);
        }
        if junk {
            self.warn("bytes follow the end of the archive");
        }
        Ok(())
    }

    /// Skips the rest of the body and its padding. Returns `false` if the stream ends in the
    /// padding.
    fn skip(&mut self) -> Result<bool> {
        loop {
            let amount = self.fill_buf()?.len();
            if amount == 0 {
                break;
            }
            self.consume(amount);
        }
        while self.padding > 0 {
            let amount = (self.input.fill_buf()?.len() as u64).min(self.padding);
            if amount == 0 {
                self.padding = 0;
                self.warn("the archive has no padding after its last member, and no end blocks");
                return Ok(false);
            }
            self.input.consume(amount as usize);
            self.padding -= amount;
        }
        Ok(true)
    }

    /// Reads one block. Returns `None` at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => {
                    return Err(Error::corrupt(format!(
                        "the archive ends after {filled} of the {BLOCK} bytes of a block; get an \
                         intact copy, or create it again"
                    )));
                }
                read => filled += read,
            }
        }
        Ok(Some(block))
    }

    /// Reads the next block of the current body, for a sparse map.
    fn body_block(&mut self) -> Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        self.read_exact(&mut block)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => Error::corrupt(
                    "the sparse map continues past the end of the file; create the archive again",
                ),
                _ => error.into(),
            })?;
        Ok(block)
    }

    /// Reads the whole body of an extension header.
    fn extension(&mut self, header: &Header, most: u64) -> Result<Vec<u8>> {
        let size = header.size()?;
        if size > most {
            return Err(Error::out_of_range(format!(
                "an extension header of the archive has {size} bytes; at most {most} are allowed; \
                 use shorter names and fewer xattrs"
            )));
        }
        self.begin(size);
        let mut body = Vec::new();
        self.read_to_end(&mut body)?;
        if !self.skip()? {
            return Err(Error::corrupt(
                "the archive ends in an extension header; get an intact copy, or create it again",
            ));
        }
        Ok(body)
    }

    fn global(&mut self, header: &Header) -> Result<()> {
        let body = self.extension(header, limit::PAX_GLOBAL)?;
        self.global += body.len() as u64;
        if self.global > limit::PAX_GLOBAL {
            return Err(Error::out_of_range(format!(
                "the global pax headers have more than the {} bytes allowed; create the archive \
                 without them",
                limit::PAX_GLOBAL
            )));
        }
        let pax = Pax::parse(&body)?;
        if pax.affects_layout() {
            return Err(Error::corrupt(
                "a global pax header has a record of a path, a link, a size or a sparse file; \
                 create the archive again without this header",
            ));
        }
        for odd in &pax.odd {
            self.warn(odd);
        }
        if pax.sets_metadata() {
            self.warn("a global pax header is ignored, as container engines ignore it");
        }
        Ok(())
    }

    /// Makes the next `size` bytes the current body.
    fn begin(&mut self, size: u64) {
        self.body = size;
        self.padding = padding(size) as u64;
    }

    fn warn(&mut self, warning: &str) {
        self.warnings.add(warning);
    }
}

/// Returns whether an archive may begin with these bytes: if the first block is a valid header, is
/// a damaged header with the magic `ustar`, or has only zeros. A block of zeros may be cut short,
/// even to no bytes.
pub(crate) fn may_begin(bytes: &[u8]) -> bool {
    let is_header =
        |block: &[u8; BLOCK]| block[257..262] == *b"ustar" || Header::new(*block).is_ok();
    bytes.first_chunk().is_some_and(is_header) || bytes.iter().take(BLOCK).all(|&byte| byte == 0)
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::corrupt(
            "a member has two extension headers of the same kind; create the archive again",
        )),
    }
}

impl<R: BufRead> Read for Reader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, out)
    }
}

impl<R: BufRead> BufRead for Reader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.body == 0 {
            return Ok(&[]);
        }
        let available = self.input.fill_buf()?;
        if available.is_empty() {
            let missing = self.body;
            return Err(Error::corrupt(format!(
                "the archive ends before the end of a member's data (missing bytes: {missing}); \
                 get an intact copy, or create it again"
            ))
            .into());
        }
        let amount = (available.len() as u64).min(self.body);
        Ok(&available[..amount as usize])
    }

    fn consume(&mut self, amount: usize) {
        let amount = (amount as u64).min(self.body);
        self.input.consume(amount as usize);
        self.body -= amount;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns an archive of `members` empty files, without end blocks.
    fn archive(members: usize) -> Vec<u8> {
        let mut header = [0; BLOCK];
        header[0] = b'f';
        header[100..107].copy_from_slice(b"0000644");
        header[124..135].copy_from_slice(b"00000000000");
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        header.repeat(members)
    }

    #[test]
    fn as_many_members_as_are_allowed_are_read_and_no_more() {
        let archive = archive(3);
        let mut reader = Reader::new(&archive[..]);
        reader.entries = limit::ENTRIES - 2;
        for _ in 0..2 {
            assert!(reader.next_entry().unwrap().is_some());
        }
        let error = reader.next_entry().unwrap_err();
        assert_eq!(error.kind(), cas_core::ErrorKind::OutOfRange);
        assert!(error.to_string().contains("2000000 members"), "{error}");
    }
}
