//! Detects formats by their first bytes.

use std::fmt;

/// Number of bytes that are enough for [`detect`].
pub const MAGIC: usize = 8;

/// How the bytes of a layer are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not compressed.
    None,
    /// gzip, with one or more members.
    Gzip,
    /// Zstandard, with one or more frames, including skippable ones.
    Zstd,
    /// xz, with one or more streams.
    Xz,
    /// bzip2, with one or more streams.
    Bzip2,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::None => "uncompressed",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::Xz => "xz",
            Compression::Bzip2 => "bzip2",
        })
    }
}

/// Returns the compression of a stream, detected from its first bytes. Eight bytes are enough.
pub fn detect(magic: &[u8]) -> Compression {
    match *magic {
        [0x1f, 0x8b, 0x08, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
        // After `BZh`: the level, and the first bytes of a block or of the end of the stream.
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, ..]
        | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, ..] => Compression::Bzip2,
        _ => Compression::None,
    }
}

/// Returns whether bytes that follow a member are the beginning of another member, which may be
/// damaged.
pub(super) fn continues(compression: Compression, magic: &[u8]) -> bool {
    match compression {
        Compression::Gzip => magic.starts_with(&[0x1f, 0x8b]),
        Compression::Bzip2 => magic.starts_with(b"BZh"),
        other => other != Compression::None && detect(magic) == other,
    }
}

/// The first bytes of known formats that are not supported.
const FOREIGN: &[(&[u8], &str)] = &[
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "a zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"!<arch>\n", "an ar archive"),
    (b"070701", "a cpio archive"),
    (b"070702", "a cpio archive"),
    (b"\x04\x22\x4d\x18", "an lz4 stream"),
    (b"LZIP", "an lzip stream"),
    (b"\x5d\0\0", "an lzma stream"),
    (b"\x89LZO", "an lzop stream"),
    (b"\x1f\x9d", "a stream of `compress`"),
    (b"hsqs", "a squashfs file system"),
    (b"QFI\xfb", "a qcow2 disk"),
    (b"\x7fELF", "an ELF program"),
    (b"\0asm", "a WebAssembly module"),
    (b"%PDF", "a PDF document"),
    (b"-----BEGIN", "a PEM document"),
];

/// Returns whether these bytes are the beginning of an EROFS image. The first 1,024 bytes of an
/// image may be zeros, as in an empty tar.
pub(crate) fn is_erofs(bytes: &[u8]) -> bool {
    bytes.get(1024..1028) == Some(b"\xe2\xe1\xf5\xe0")
}

/// Returns the name of the unsupported format of the bytes, or `None` if the format is not known.
pub(crate) fn foreign(magic: &[u8]) -> Option<&'static str> {
    let known = FOREIGN.iter().find(|(first, _)| magic.starts_with(first));
    match magic.trim_ascii_start() {
        [b'{' | b'[', ..] => Some("a JSON document"),
        _ => known.map(|(_, name)| *name),
    }
}

/// Returns what the bytes after a stream are, in words, for a message.
pub(super) fn described(magic: &[u8]) -> String {
    match (detect(magic), foreign(magic)) {
        (Compression::None, Some(name)) => format!("the bytes of {name}"),
        (Compression::None, None) => format!("other bytes (\"{}\")", magic.escape_ascii()),
        (compression, _) => format!("bytes in the {compression} format"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        for (magic, expected) in [
            (&b"\x1f\x8b\x08\0\0\0\0\0"[..], Compression::Gzip),
            (b"\xfd7zXZ\0\0\x04", Compression::Xz),
            (b"BZh91AY&", Compression::Bzip2),
            (b"BZh1\x17rE8", Compression::Bzip2),
            // Names of files in a tar.
            (b"BZh9\0\0\0\0", Compression::None),
            (b"BZhello.", Compression::None),
            (b"\xfd7zXZ", Compression::None),
            (b"", Compression::None),
        ] {
            assert_eq!(detect(magic), expected, "{}", magic.escape_ascii());
        }
        assert_eq!(foreign(b"PK\x03\x04...."), Some("a zip archive"));
        assert_eq!(foreign(b" \n {\"a\":1"), Some("a JSON document"));
        assert_eq!(foreign(b"hello/\0\0"), None);
    }
}
