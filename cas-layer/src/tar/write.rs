//! Writes archives in the pax format: ustar headers, and pax records for values that do not fit
//! into the headers. The same members give the same bytes.

use std::io::{self, Read, Write};
use std::ops::Range;

use cas_core::{Error, Result, limit};

use super::entry::{Entry, EntryKind, Time};
use super::header::BLOCK;
use super::member::{OCTAL, check_path, target};
use super::message::Excerpt;
use super::pax::{XATTR, check_xattrs};

/// The largest number in seven octal digits.
const SMALL: u64 = 0o777_7777;
/// Maximum length in bytes of a name in a header. A longer one needs a pax record.
const NAME: usize = 100;
/// Number of bytes of a file that are copied at once.
const PIECE: usize = 256 << 10;

/// Writes the members of an archive to `W`. The archive does not exceed the limits that
/// [`Reader`](super::Reader) enforces.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    entries: u64,
    bytes: u64,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Creates a writer of an archive.
    pub fn new(out: W) -> Self {
        Writer {
            out,
            entries: 0,
            bytes: 0,
            buffer: vec![0; PIECE],
        }
    }

    /// Writes a member. For a file, reads as many bytes from `body` as the size in `entry` states.
    /// The zeros of holes are among these bytes, because the regions in `entry` have no effect.
    ///
    /// # Errors
    /// `OutOfRange` if a bound of [`limit`] is exceeded, or if the mode or a device number does not
    /// fit into its header field; `Corrupt` for a link target that is empty or too long;
    /// `Unsupported` for an attribute whose name has a `=`; `FailedPrecondition` if `body` ends too
    /// early; errors of `body` and of the output. After an error, the archive is incomplete.
    pub fn append(&mut self, entry: &Entry, body: impl Read) -> Result<()> {
        let written = self.write(entry, body);
        written.map_err(|error| error.subject(Excerpt(&entry.path)))
    }

    /// Returns the number of members.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Ends the archive. Returns the output, which is not flushed.
    ///
    /// # Errors
    /// Errors of the output.
    pub fn finish(mut self) -> Result<W> {
        self.out.write_all(&END)?;
        Ok(self.out)
    }

    fn write(&mut self, entry: &Entry, body: impl Read) -> Result<()> {
        let head = head(entry)?;
        let padding = padding(entry.size);
        let size = entry.size.saturating_add((head.len() + padding) as u64);
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(size);
        let (entries, bytes) = (limit::ENTRIES, limit::LAYER);
        if self.entries > entries || self.bytes > bytes {
            return Err(Error::out_of_range(format!(
                "the layer has more than the {entries} members or {bytes} bytes allowed; make a \
                 layer of fewer changes"
            )));
        }
        self.out.write_all(&head)?;
        self.copy(entry.size, body)?;
        Ok(self.out.write_all(&[0; BLOCK][..padding])?)
    }

    fn copy(&mut self, size: u64, mut body: impl Read) -> Result<()> {
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
            let read = match body.read(&mut self.buffer[..most]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if read == 0 {
                let found = size - left;
                return Err(Error::precondition(format!(
                    "expected {size} bytes of the file, found {found}; repeat the command when \
                     no program changes the file"
                )));
            }
            self.out.write_all(&self.buffer[..read])?;
            left -= read as u64;
        }
        Ok(())
    }
}

/// The two blocks that end an archive.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Returns the number of bytes after a file of `size` bytes, up to the next block.
pub(crate) fn padding(size: u64) -> usize {
    (size.wrapping_neg() % BLOCK as u64) as usize
}

/// Returns the header blocks of a member, with a pax header if it needs one.
///
/// # Errors
/// `OutOfRange` if a bound of [`limit`] is exceeded; `Corrupt` for a link target that is empty or
/// too long; `Unsupported` for an attribute whose name has a `=`.
pub(crate) fn head(entry: &Entry) -> Result<Vec<u8>> {
    check_path(&entry.path)?;
    let (flag, link, device) = match &entry.kind {
        EntryKind::File => (b'0', None, None),
        EntryKind::Hardlink(link) => (b'1', Some(link), None),
        EntryKind::Symlink(link) => (b'2', Some(link), None),
        EntryKind::Char(device) => (b'3', None, Some(device)),
        EntryKind::Block(device) => (b'4', None, Some(device)),
        EntryKind::Directory => (b'5', None, None),
        EntryKind::Fifo => (b'6', None, None),
    };
    let mut head = Head::new(flag);
    head.name(0, "path", &entry.path);
    if let Some(link) = link {
        target(link)?;
        head.name(157, "linkpath", link);
    }
    head.small(100..108, "mode", entry.mode)?;
    head.number(124..136, "size", entry.size);
    head.number(108..116, "uid", u64::from(entry.uid));
    head.number(116..124, "gid", u64::from(entry.gid));
    head.time(entry.mtime);
    if let Some(device) = device {
        head.small(329..337, "major device number", device.major)?;
        head.small(337..345, "minor device number", device.minor)?;
    }
    check_xattrs(
        entry
            .xattrs
            .iter()
            .map(|(name, value)| (&name[..], &value[..])),
    )?;
    for (name, value) in &entry.xattrs {
        head.xattr(name, value)?;
    }
    if head.records.len() as u64 > limit::PAX {
        return Err(Error::out_of_range(format!(
            "the pax header of the member would have {} bytes; at most {} are allowed; use fewer \
             xattrs",
            head.records.len(),
            limit::PAX
        )));
    }
    Ok(head.blocks())
}

/// A header that is being filled, and the pax records before it.
struct Head {
    header: [u8; BLOCK],
    records: Vec<u8>,
}

impl Head {
    fn new(flag: u8) -> Self {
        let mut header = [0; BLOCK];
        header[156] = flag;
        header[257..265].copy_from_slice(b"ustar\x0000");
        Head {
            header,
            records: Vec::new(),
        }
    }

    /// Writes a number that fits into its field.
    fn octal(&mut self, field: Range<usize>, value: u64) {
        let digits = field.len() - 1;
        let text = format!("{value:0digits$o}");
        self.header[field][..digits].copy_from_slice(text.as_bytes());
    }

    /// Writes a number that has no record into a field.
    ///
    /// # Errors
    /// `OutOfRange` if it does not fit.
    fn small(&mut self, field: Range<usize>, what: &str, value: u32) -> Result<()> {
        if u64::from(value) > SMALL {
            return Err(Error::out_of_range(format!(
                "the {what} {value} is greater than {SMALL}, the largest number that a tar can \
                 have here; change it"
            )));
        }
        self.octal(field, u64::from(value));
        Ok(())
    }

    /// Writes a number into a field, or 0 and a record if it does not fit.
    fn number(&mut self, field: Range<usize>, key: &str, value: u64) {
        let most = OCTAL >> (3 * (12 - field.len()));
        let fits = value <= most;
        self.octal(field, if fits { value } else { 0 });
        if !fits {
            self.record(key.as_bytes(), value.to_string().as_bytes());
        }
    }

    /// Writes a name into its field, or its beginning and a record if it is too long.
    fn name(&mut self, at: usize, key: &str, name: &[u8]) {
        let length = name.len().min(NAME);
        self.header[at..at + length].copy_from_slice(&name[..length]);
        if name.len() > NAME {
            self.record(key.as_bytes(), name);
        }
    }

    /// Writes the whole seconds, or 0 if they do not fit. Adds a record if what was written is not
    /// the exact time.
    fn time(&mut self, time: Time) {
        let seconds = u64::try_from(time.seconds).ok();
        let seconds = seconds.filter(|&seconds| seconds <= OCTAL);
        self.octal(136..148, seconds.unwrap_or(0));
        if seconds.is_some() && time.nanoseconds == 0 {
            return;
        }
        let nanoseconds = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
        let sign = if nanoseconds < 0 { "-" } else { "" };
        let size = nanoseconds.unsigned_abs();
        let text = format!("{sign}{}.{:09}", size / 1_000_000_000, size % 1_000_000_000);
        self.record(b"mtime", text.as_bytes());
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        if name.contains(&b'=') {
            return Err(Error::unsupported(format!(
                "the extended attribute {} has a `=` in its name, and a layer cannot store such \
                 names; rename the attribute",
                Excerpt(name)
            )));
        }
        self.record(&[XATTR, name].concat(), value);
        Ok(())
    }

    /// Adds a pax record: its own length, a space, the key, `=`, the value and a line break.
    fn record(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + b" =\n".len();
        let mut length = rest;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        let start = format!("{length} ");
        let parts = [start.as_bytes(), key, b"=", value, b"\n"];
        self.records.extend(parts.concat());
    }

    /// Returns the pax header, if there are records, and the header.
    fn blocks(mut self) -> Vec<u8> {
        let mut blocks = Vec::new();
        if !self.records.is_empty() {
            let mut pax = Head::new(b'x');
            pax.name(0, "path", b"pax");
            pax.octal(100..108, 0o644);
            for field in [108..116, 116..124, 136..148] {
                pax.octal(field, 0);
            }
            pax.octal(124..136, self.records.len() as u64);
            pax.seal();
            blocks.extend(pax.header);
            blocks.extend(&self.records);
            blocks.resize(blocks.len() + padding(self.records.len() as u64), 0);
        }
        self.seal();
        blocks.extend(self.header);
        blocks
    }

    /// Sets the checksum.
    fn seal(&mut self) {
        self.header[148..156].fill(b' ');
        let sum: u32 = self.header.iter().map(|&byte| u32::from(byte)).sum();
        self.header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::Reader;

    fn entry() -> Entry {
        Entry::plain("f", EntryKind::File, 0o644, 0)
    }

    /// Checks that a member is read back as it is, from as many blocks as are expected.
    fn check(entry: &Entry, blocks: usize) {
        let head = head(entry).unwrap();
        assert_eq!(head.len(), blocks * BLOCK);
        let mut reader = Reader::new(&head[..]);
        assert_eq!(reader.next_entry().unwrap().as_ref(), Some(entry));
        assert!(reader.warnings().is_empty(), "{:?}", reader.warnings());
    }

    #[test]
    fn numbers_beyond_their_fields_are_read_back() {
        for (size, blocks) in [(0, 1), (OCTAL, 1), (OCTAL + 1, 3), (64 << 30, 3)] {
            check(&Entry { size, ..entry() }, blocks);
        }
        for (id, blocks) in [(0o777_7777, 1), (0o1000_0000, 3), (u32::MAX - 1, 3)] {
            check(&Entry { uid: id, ..entry() }, blocks);
            check(&Entry { gid: id, ..entry() }, blocks);
        }
    }

    #[test]
    fn long_names_are_read_back() {
        for (length, blocks) in [(1, 1), (NAME, 1), (NAME + 1, 3), (141, 3), (255, 3)] {
            let path = vec![b'n'; length];
            let kind = EntryKind::Symlink(path.clone());
            check(&Entry { path, ..entry() }, blocks);
            check(&Entry { kind, ..entry() }, blocks);
        }
    }

    #[test]
    fn times_before_1970_and_parts_of_seconds_are_read_back() {
        for (seconds, nanoseconds, blocks) in [
            (OCTAL.cast_signed(), 0, 1),
            (OCTAL.cast_signed() + 1, 0, 3),
            (7, 1, 3),
            (-1, 0, 3),
            (-1, 999_999_999, 3),
            (-2, 1, 3),
        ] {
            let mtime = Time {
                seconds,
                nanoseconds,
            };
            check(&Entry { mtime, ..entry() }, blocks);
        }
    }

    #[test]
    fn attributes_of_any_bytes_are_read_back() {
        let xattr = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
        let xattrs = vec![
            xattr(b"trusted.\xff", b""),
            xattr(b"user.a b", b"\0=\n"),
            xattr(b"user.long", &[b'9'; 4000]),
        ];
        check(&Entry { xattrs, ..entry() }, 10);
        let xattrs = vec![xattr(b"user.a=b", b"")];
        let error = head(&Entry { xattrs, ..entry() }).unwrap_err();
        assert_eq!(error.kind(), cas_core::ErrorKind::Unsupported);
    }

    #[test]
    fn a_pax_header_is_as_long_as_the_reader_accepts_and_no_longer() {
        // The record of each attribute has 22 bytes.
        let most = limit::PAX as usize / 22;
        let with = |count: usize| {
            let name = |number: usize| (format!("{number:04x}").into_bytes(), Vec::new());
            let xattrs = (0..count).map(name).collect();
            Entry { xattrs, ..entry() }
        };
        check(&with(most), 2 + limit::PAX as usize / BLOCK);
        let error = head(&with(most + 1)).unwrap_err();
        assert_eq!(error.kind(), cas_core::ErrorKind::OutOfRange);
        assert!(error.to_string().contains("1048586 bytes"), "{error}");
    }

    #[test]
    fn files_end_on_blocks() {
        for (size, expected) in [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511)] {
            assert_eq!(padding(size), expected, "{size}");
        }
    }

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        let entry = Entry { size: 4, ..entry() };
        let error = Writer::new(io::sink())
            .append(&entry, &b"abc"[..])
            .unwrap_err();
        assert_eq!(error.kind(), cas_core::ErrorKind::FailedPrecondition);
        assert!(
            error
                .to_string()
                .contains("expected 4 bytes of the file, found 3")
        );
    }

    #[test]
    fn what_no_reader_accepts_is_not_written() {
        let deep = Entry {
            path: b"d/".repeat(limit::PATH_DEPTH + 1),
            ..entry()
        };
        let large = Entry {
            size: limit::LAYER,
            ..entry()
        };
        let value = vec![0; limit::XATTR];
        let xattrs = (0..5).map(|n: u8| (vec![b'u', n], value.clone())).collect();
        let attributes = Entry { xattrs, ..entry() };
        for entry in [deep, large, attributes] {
            let error = Writer::new(io::sink())
                .append(&entry, io::empty())
                .unwrap_err();
            assert_eq!(error.kind(), cas_core::ErrorKind::OutOfRange, "{error}");
        }
        let mut writer = Writer::new(io::sink());
        writer.entries = limit::ENTRIES - 1;
        assert!(writer.append(&entry(), io::empty()).is_ok());
        assert!(writer.append(&entry(), io::empty()).is_err());
    }
}
