//! Names as the appc specification writes them.

use cas_core::error::excerpt;
use cas_core::{Error, Result, limit};

/// Checks an AC identifier, which is the name of an image or a label. It consists of words of
/// lower-case letters and digits, with one of `- . _ ~ /` between two words. It has at most
/// [`limit::NAME`] bytes.
///
/// # Errors
/// `InvalidArgument` if `text` is not an AC identifier.
pub fn check_identifier(text: &str) -> Result<()> {
    check(text, b"-._~/", "one of - . _ ~ /")
}

/// Checks an AC name, which is the name of a mount point or a port. It consists of words of
/// lower-case letters and digits, with a `-` between two words. It has at most [`limit::NAME`]
/// bytes.
///
/// # Errors
/// `InvalidArgument` if the text is not such a name.
pub(super) fn check_name(text: &str) -> Result<()> {
    check(text, b"-", "a -")
}

fn check(text: &str, separators: &[u8], shown: &str) -> Result<()> {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut words = text.as_bytes().split(|byte| separators.contains(byte));
    let valid = |word: &[u8]| !word.is_empty() && word.iter().copied().all(is_word);
    if text.len() <= limit::NAME && words.all(valid) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "invalid name: expected words of lower-case letters and digits with {shown} between two \
         words, 1 to {} bytes in all",
        limit::NAME
    ))
    .subject(format!("\"{}\"", excerpt(text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_those_of_the_specification() {
        for good in ["a", "example.com/a", "a~b/c-d_e.f", "0/1", &"a".repeat(512)] {
            check_identifier(good).unwrap();
        }
        for bad in [
            "",
            "A",
            "a//b",
            "/a",
            "a/",
            "a b",
            "a:b",
            "ä",
            "../a",
            &"a".repeat(513),
        ] {
            let error = check_identifier(bad).unwrap_err();
            assert_eq!(error.kind(), cas_core::ErrorKind::InvalidArgument, "{bad}");
        }
        check_name("data-1").unwrap();
        assert!(check_name("a.b").is_err());
    }
}
