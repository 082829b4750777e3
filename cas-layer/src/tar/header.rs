//! One header block of 512 bytes, and its fields.

use cas_core::{Error, Result};

use super::message::{Excerpt, shown};

/// Size of a block in bytes.
pub(super) const BLOCK: usize = 512;

/// Maximum length in bytes of the prefix in the format of star.
const STAR_PREFIX: usize = 130;

/// The warnings about a prefix in a header whose format does not have one. Such headers are read as
/// container engines read them.
const USED: &str = "a tar header has a path prefix, which its format does not define; the prefix \
                    is used, but some readers ignore it";
const IGNORED: &str = "a tar header has a path prefix, which its format does not define; the \
                       prefix is ignored, but some readers use it";

/// A header block with a valid checksum.
pub(super) struct Header(pub(super) [u8; BLOCK]);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

impl Header {
    /// Returns the header of a block if its checksum is valid, over unsigned bytes or, as some old
    /// writers computed it, over signed bytes. Other readers refuse a checksum in base 256.
    pub(super) fn new(block: [u8; BLOCK]) -> Result<Self> {
        let header = Header(block);
        let field = &block[148..156];
        let stored = octal(field).ok_or_else(|| malformed("checksum", field))?;
        // The checksum itself counts as spaces.
        let counted = [&block[..148], &[b' '; 8], &block[156..]];
        let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
        let unsigned = i64::from(counted.map(sum).into_iter().sum::<u32>());
        let signed = || {
            let negative = counted.iter().flat_map(|bytes| bytes.iter());
            unsigned - 256 * negative.filter(|byte| !byte.is_ascii()).count() as i64
        };
        if stored != unsigned && stored != signed() {
            return Err(Error::corrupt(format!(
                "the checksum of the tar header is {unsigned}, but the header states {stored}; get \
                 an intact copy of the archive, or create it again"
            )));
        }
        Ok(header)
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.0[156]
    }

    /// Returns whether this is an extension header. It belongs to the next member or, if it is
    /// global, to all members after it.
    pub(super) fn is_extension(&self) -> bool {
        matches!(self.type_flag(), b'x' | b'g' | b'L' | b'K')
    }

    /// Adds the name in the header to an error that does not name its member.
    pub(super) fn named(&self, error: Error) -> Error {
        error.subject(Excerpt(text(&self.0[0..100])))
    }

    /// Returns the path, and a warning if some readers find another path.
    ///
    /// # Errors
    /// `Corrupt` if a header in the format of star has a prefix that is too long, or invalid times
    /// after the prefix. Readers differ in where such a prefix ends.
    pub(super) fn path(&self) -> Result<(Vec<u8>, Option<&'static str>)> {
        let name = text(&self.0[0..100]);
        let field = text(&self.0[345..500]);
        let (prefix, warning) = match self.format() {
            Format::Ustar => (field, None),
            Format::Star if field.len() > STAR_PREFIX || !self.has_times(476) => {
                return Err(Error::corrupt(
                    "a tar header in the format of star has a prefix of more than 130 bytes, or \
                     invalid times after it; create the archive again",
                ));
            }
            Format::Star => (field, None),
            Format::Gnu if self.has_times(345) => (&[][..], None),
            // Old versions of Go wrote prefixes into such headers.
            Format::Gnu if field.is_ascii() => (field, Some(USED)),
            Format::V7 if field.is_empty() => (&[][..], None),
            Format::Gnu | Format::V7 => (&[][..], Some(IGNORED)),
        };
        if prefix.is_empty() {
            return Ok((name.to_vec(), warning));
        }
        Ok(([prefix, b"/", name].concat(), warning))
    }

    /// Returns whether each of the two fields for times that begin at the offset `at` has a time or
    /// is empty.
    fn has_times(&self, at: usize) -> bool {
        let time = |at: usize| self.0[at] == 0 || number(&self.0[at..at + 12]).is_some();
        time(at) && time(at + 12)
    }

    pub(super) fn link(&self) -> &[u8] {
        text(&self.0[157..257])
    }

    /// Returns the names of the user and the group. They are empty if the format has none.
    pub(super) fn owners(&self) -> (&[u8], &[u8]) {
        match self.format() {
            Format::V7 => (&[], &[]),
            _ => (text(&self.0[265..297]), text(&self.0[297..329])),
        }
    }

    pub(super) fn is_gnu(&self) -> bool {
        self.format() == Format::Gnu
    }

    /// Returns the major and minor number of a device. They are 0 if the format has none.
    pub(super) fn device(&self) -> Result<(i64, i64)> {
        if self.format() == Format::V7 {
            return Ok((0, 0));
        }
        let major = self.number(329..337, "device major")?;
        Ok((major, self.number(337..345, "device minor")?))
    }

    /// Returns the stored size in bytes.
    pub(super) fn size(&self) -> Result<u64> {
        let field = &self.0[124..136];
        let size = self.number(124..136, "size")?;
        // If the first byte of a number is NUL, some readers end the number there, and others skip
        // this byte.
        let agreed = size == 0 || field[0] != 0;
        let size = u64::try_from(size).ok().filter(|_| agreed);
        size.ok_or_else(|| malformed("size", field))
    }

    /// Returns whether some readers refuse a numeric field, or find another number in it: see
    /// [`is_odd`]. Some readers also check the numbers of a device if the member is not a device.
    pub(super) fn has_odd_number(&self) -> bool {
        let fields = [100..108, 108..116, 116..124, 124..136, 136..148, 148..156];
        let devices = [329..337, 337..345].map(|field| &self.0[field]);
        fields.into_iter().any(|field| is_odd(&self.0[field]))
            || devices
                .iter()
                .any(|field| is_odd(field) || number(field).is_none())
    }

    /// Returns whether the name ends with a slash, before extensions give the member another name.
    pub(super) fn has_slash(&self) -> bool {
        text(&self.0[0..100]).ends_with(b"/")
    }

    /// Returns a numeric field, octal or base-256. An empty field is zero.
    pub(super) fn number(&self, field: std::ops::Range<usize>, name: &str) -> Result<i64> {
        let bytes = &self.0[field];
        number(bytes).ok_or_else(|| malformed(name, bytes))
    }

    fn format(&self) -> Format {
        match (&self.0[257..263], &self.0[263..265], &self.0[508..512]) {
            (b"ustar\0", _, b"tar\0") => Format::Star,
            (b"ustar\0", ..) => Format::Ustar,
            (b"ustar ", b" \0", _) => Format::Gnu,
            _ => Format::V7,
        }
    }
}

fn malformed(name: &str, bytes: &[u8]) -> Error {
    Error::corrupt(format!(
        "invalid {name} in the tar header: {} is not a valid number; get an intact copy of the \
         archive, or create it again",
        shown(bytes)
    ))
}

/// Returns the bytes before the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or(field)
}

/// Returns the number in a field: octal digits, padded with spaces and NULs, or base-256 in two's
/// complement. Returns `None` if it is neither, or does not fit into an `i64`.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field),
        _ => octal(field),
    }
}

/// Returns whether a field in octal digits has only spaces, or has bytes other than NULs and spaces
/// after its first NUL. Some readers end a number at this NUL, even at the beginning of the field.
pub(super) fn is_odd(field: &[u8]) -> bool {
    let digits = text(field);
    let is_padding = |byte: &u8| [0, b' '].contains(byte);
    let is_blank = !digits.is_empty() && digits.iter().all(is_padding);
    let is_octal = field.first().is_some_and(|first| first & 0x80 == 0);
    is_octal && (is_blank || !field[digits.len()..].iter().all(is_padding))
}

fn base256(field: &[u8]) -> Option<i64> {
    let invert = if field[0] & 0x40 != 0 { 0xff } else { 0 };
    let mut value: u64 = 0;
    for (index, &byte) in field.iter().enumerate() {
        let mut byte = byte ^ invert;
        if index == 0 {
            byte &= 0x7f;
        }
        if value >> 56 != 0 {
            return None;
        }
        value = value << 8 | u64::from(byte);
    }
    let value = i64::try_from(value).ok()?;
    Some(if invert == 0 { value } else { !value })
}

fn octal(field: &[u8]) -> Option<i64> {
    let start = field.iter().position(|&byte| byte != b' ' && byte != 0);
    let digits = text(&field[start.unwrap_or(field.len())..]).trim_ascii_end();
    digits.iter().try_fold(0i64, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_form() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"77777777777\0"), Some(0o77_777_777_777));
        assert_eq!(number(b"\x80\0\0\0\0\0\x01\x02"), Some(0x102));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(-2));
        assert_eq!(
            number(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"),
            Some(i64::MAX)
        );
        for odd in [
            &b"\x0000017\0"[..],
            b"17\x0017\0\0\0",
            b"        ",
            b" \0\0\0",
        ] {
            assert!(is_odd(odd), "{}", odd.escape_ascii());
        }
        for usual in [
            &b"0000644\0"[..],
            b"   644 \0",
            b"644\0 \0",
            b"\0\0\0\0",
            b"\x80\0\x01",
        ] {
            assert!(!is_odd(usual), "{}", usual.escape_ascii());
        }
        for bad in [
            &b"0000648\0"[..],
            b"-000644\0",
            b"12 34 \0\0",
            b"\x80\0\0\0\x80\0\0\0\0\0\0\0",
            b"\x80\x01\0\0\0\0\0\0\0\0\0\0",
        ] {
            assert_eq!(number(bad), None, "{}", bad.escape_ascii());
        }
    }
}
