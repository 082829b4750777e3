//! Parts of an archive in messages: escaped, and shortened if they are long.

use std::fmt;

use cas_core::error::shortened;

/// Number of characters that are shown of each end of a long name.
const END: usize = 150;

/// A path, a link target or another name of a member in a message. Its escaped bytes are shown. If
/// these are more than 300 characters, only the first 150 and the last 150 are shown, and then the
/// number of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Excerpt<'a>(pub &'a [u8]);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escaped = self.0.escape_ascii().to_string();
        out.write_str(&shortened(&escaped, END, END, self.0.len()))
    }
}

/// Returns the first 60 bytes of a part of the archive for a message, quoted and escaped. If the
/// part is longer, its number of bytes follows.
pub(super) fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 60;
    match bytes.get(..MOST) {
        Some(start) if bytes.len() > MOST => {
            format!("\"{}…\" ({} bytes)", start.escape_ascii(), bytes.len())
        }
        _ => format!("\"{}\"", bytes.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_escaped_and_only_a_long_one_is_shortened() {
        assert_eq!(Excerpt(b"a/\x1b[2J\n").to_string(), "a/\\x1b[2J\\n");
        let longest = "n".repeat(300);
        assert_eq!(Excerpt(longest.as_bytes()).to_string(), longest);
        let (start, end) = ("a".repeat(150), "b".repeat(150));
        let long = format!("{start}x{end}");
        let short = format!("{start}…{end} (301 bytes)");
        assert_eq!(Excerpt(long.as_bytes()).to_string(), short);
        let escapes = Excerpt(&[0x1b; 4096]).to_string();
        assert!(escapes.ends_with("x1b (4096 bytes)"), "{escapes}");
        assert_eq!(escapes.chars().count(), 301 + " (4096 bytes)".len());
    }

    #[test]
    fn a_part_of_the_archive_is_quoted_and_only_a_long_one_is_shortened() {
        assert_eq!(shown(b"a\n\""), "\"a\\n\\\"\"");
        let longest = "n".repeat(60);
        assert_eq!(shown(longest.as_bytes()), format!("\"{longest}\""));
        let long = format!("{longest}x");
        assert_eq!(shown(long.as_bytes()), format!("\"{longest}…\" (61 bytes)"));
    }
}
