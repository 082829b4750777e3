//! Files that are fetched before others.

use std::ffi::OsStr;
use std::fmt;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use cas_core::{Error, Result};

/// Separates the path of a file from its parts.
const PARTS: &str = " bytes=";

/// A regular file of an image that is fetched before others, or parts of such a file.
///
/// The written form is the path, or the path and the parts: `usr/bin/node` is the whole file, and
/// the first and the third block of 64 KiB of the same file are
/// `usr/bin/node bytes=0-65535,131072-196607`. A part has the offsets of its first and its last
/// byte, as in the header `Range` of HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefetchFile {
    path: PathBuf,
    parts: Vec<Range<u64>>,
}

impl PrefetchFile {
    /// Returns the whole file at `path`. The path is relative to the root directory of the image,
    /// however it is written: `/usr/lib`, `./usr//lib/` and `usr/bin/../lib` are the same path.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let mut normal = PathBuf::new();
        for component in path.as_ref().components() {
            match component {
                Component::Normal(name) => normal.push(name),
                // As in a container, the parent of the root directory is the root directory.
                Component::ParentDir => drop(normal.pop()),
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            }
        }
        PrefetchFile {
            path: normal,
            parts: Vec::new(),
        }
    }

    /// Returns the file with only these parts, in bytes. An empty list means the whole file.
    #[must_use]
    pub fn with_parts(mut self, parts: Vec<Range<u64>>) -> Self {
        self.parts = parts;
        self
    }

    /// Parses the written form. If the text after the last ` bytes=` has other characters than
    /// digits, `-` and `,`, it is a part of the path.
    ///
    /// # Errors
    /// `InvalidArgument` if the parts are not ranges.
    pub fn parse(line: &[u8]) -> Result<Self> {
        let whole = |path| Self::new(OsStr::from_bytes(path));
        let is_of_part = |byte: &u8| byte.is_ascii_digit() || b"-,".contains(byte);
        let mark = (line.windows(PARTS.len())).rposition(|window| window == PARTS.as_bytes());
        let split = mark.map(|mark| (&line[..mark], &line[mark + PARTS.len()..]));
        let split = split.filter(|(_, parts)| parts.iter().all(is_of_part));
        let Some((path, parts)) = split else {
            return Ok(whole(line));
        };
        let parts = str::from_utf8(parts).unwrap_or_default().split(',');
        let parts = parts.map(parse_part).collect::<Result<_>>();
        let parts = parts.map_err(|error| error.subject(path.escape_ascii()))?;
        Ok(whole(path).with_parts(parts))
    }

    /// Returns the path, relative to the root directory of the image.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the parts of the file to fetch, in bytes. An empty list means the whole file.
    pub fn parts(&self) -> &[Range<u64>] {
        &self.parts
    }
}

/// Parses a part, such as `0-65535`.
fn parse_part(text: &str) -> Result<Range<u64>> {
    let ends = text.split_once('-').and_then(|(first, last)| {
        let range = first.parse::<u64>().ok()?..last.parse::<u64>().ok()?.checked_add(1)?;
        (!range.is_empty()).then_some(range)
    });
    ends.ok_or_else(|| {
        Error::invalid(format!(
            "expected the offsets of the first and the last byte of a part, such as 0-65535, found \
             `{text:.40}`"
        ))
    })
}

impl fmt::Display for PrefetchFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)?;
        for (index, part) in self.parts.iter().enumerate() {
            let before = if index == 0 { PARTS } else { "," };
            write!(f, "{before}{}-{}", part.start, part.end.saturating_sub(1))?;
        }
        Ok(())
    }
}

impl<P: AsRef<Path>> From<P> for PrefetchFile {
    fn from(path: P) -> Self {
        Self::new(path)
    }
}

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind;

    use super::*;

    #[test]
    fn a_path_is_the_same_however_it_is_written() {
        for path in [
            "usr/lib",
            "/usr/lib",
            "./usr/lib",
            "usr//lib/",
            "usr/./lib",
            "usr/bin/../lib",
            "../usr/lib",
        ] {
            let file = PrefetchFile::parse(path.as_bytes()).unwrap();
            assert_eq!(file, PrefetchFile::new("usr/lib"), "{path}");
        }
    }

    #[test]
    fn parts_are_read_as_they_are_written() {
        let parts = vec![0..65536, 131_072..131_073];
        let file = PrefetchFile::new("bin/node").with_parts(parts.clone());
        assert_eq!(file.to_string(), "bin/node bytes=0-65535,131072-131072");
        let read = PrefetchFile::parse(file.to_string().as_bytes()).unwrap();
        assert_eq!(
            (read.path(), read.parts()),
            (Path::new("bin/node"), &*parts)
        );
        let last =
            PrefetchFile::parse(b"a bytes=18446744073709551614-18446744073709551614").unwrap();
        assert_eq!(last.parts()[0], u64::MAX - 1..u64::MAX);
        // Not parts, but the end of a name.
        for name in ["a b", "a bytes=0-1 ", "a bytes:0-1", "a bytes=0x1-2"] {
            let file = PrefetchFile::parse(name.as_bytes()).unwrap();
            assert_eq!(file, PrefetchFile::new(name));
        }
        let odd = PrefetchFile::parse(b"a\xff bytes=0-0").unwrap();
        assert_eq!(odd.path().as_os_str().as_bytes(), b"a\xff");
    }

    #[test]
    fn wrong_parts_are_named() {
        for parts in [
            "",
            "5",
            "5-4",
            "-",
            "1-",
            "-1",
            "0-1,",
            ",0-1",
            "1-2-3",
            "0-18446744073709551615",
            "99999999999999999999-1",
        ] {
            let error = PrefetchFile::parse(format!("bin/a bytes={parts}").as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{parts}");
            assert!(error.to_string().contains("bin/a"), "{error}");
        }
    }
}
