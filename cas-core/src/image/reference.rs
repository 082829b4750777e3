//! Names of images, as they are stored.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result, excerpt};
use crate::limit;

/// The name of an image: 1 to [`limit::NAME`] bytes of visible text without blanks. No part between
/// slashes is `.` or `..`.
///
/// A store does not change the names that other systems give to images, so this type accepts more
/// names than docker does. A [`FullName`](super::FullName) is a name by docker's rules.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Reference(String);

impl Reference {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name with this text. The caller has checked that it follows docker's grammar.
    pub(super) fn known(text: String) -> Self {
        Reference(text)
    }

    /// Returns the digest that the name states, or `None` if it states none. The digest is the part
    /// after the last `@`. A name without `@` states a digest only if the whole name is a digest:
    /// an image without a name is stored under its digest.
    pub fn digest(&self) -> Option<Digest> {
        let after = self.0.rsplit_once('@').map(|(_, digest)| digest);
        after.unwrap_or(&self.0).parse().ok()
    }

    /// Returns whether an image with this digest may have the name. A name that states a digest may
    /// only belong to the image with this digest.
    pub fn allows(&self, digest: &Digest) -> bool {
        self.digest().is_none_or(|stated| stated == *digest)
    }

    /// Checks that the name [allows](Self::allows) an image with the digest `found`.
    ///
    /// # Errors
    /// `InvalidArgument` if the name states another digest.
    pub fn check_digest(&self, found: &Digest) -> Result<()> {
        if self.allows(found) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the image has the digest {found}; use a name with this digest, or without a digest"
        ))
        .operation("name image")
        .subject(self))
    }

    /// Returns whether the name follows the grammar that OCI gives to
    /// `org.opencontainers.image.ref.name`: components that are joined by `/`. A component consists
    /// of words of ASCII letters and digits. Two words are separated by one of `- . _ : @ +` or by
    /// `--`. Some programs that read image layouts do not find an image whose name breaks this
    /// grammar.
    pub fn is_layout_name(&self) -> bool {
        self.0.split('/').all(is_component)
    }
}

/// An image without a name is stored under its digest.
impl From<Digest> for Reference {
    fn from(digest: Digest) -> Self {
        Reference(digest.to_string())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let climbs = text.split('/').any(|part| matches!(part, "." | ".."));
        if text.is_empty() || text.len() > limit::NAME || text.contains(is_invisible) || climbs {
            return Err(Error::invalid(format!(
                "invalid image name: expected 1 to {} bytes of visible text without blanks, and \
                 neither . nor .. between slashes",
                limit::NAME
            ))
            .operation("parse name")
            .subject(excerpt(text)));
        }
        Ok(Reference(text.to_owned()))
    }
}

/// Returns whether a character is not visible: a blank, a control character, or a character that at
/// most changes how others are shown.
fn is_invisible(character: char) -> bool {
    character.is_whitespace()
        || character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

fn is_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let ends_well = bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric);
    let separator = |run: &[u8]| matches!(run, [b'-' | b'.' | b'_' | b':' | b'@' | b'+'] | b"--");
    ends_well
        && bytes
            .split(u8::is_ascii_alphanumeric)
            .all(|run| run.is_empty() || separator(run))
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_systems_are_accepted_and_the_stricter_ones_are_known() {
        for (name, in_layouts) in [
            ("a", true),
            ("a--b", true),
            ("a+b", true),
            ("x.io/y/z:1.2@sha256:ab", true),
            ("foo__bar:1", false),
            ("a_", false),
            ("a..b", false),
            ("a---b", false),
            ("/a//b/.../c", false),
            ("example.com/app~1,os=linux", false),
            ("[::1]:5000/a:1", false),
            ("6ba7b810-9dad-11d1-80b4-00c04fd430c8-library/a:1", true),
            ("größe/名前", false),
        ] {
            let parsed = name.parse::<Reference>();
            assert_eq!(parsed.unwrap().is_layout_name(), in_layouts, "{name}");
        }
    }

    #[test]
    fn a_name_that_states_a_digest_allows_only_this_digest() {
        let (right, other) = (Digest::sha256(b"right"), Digest::sha256(b"other"));
        let long = Digest::of(crate::Algorithm::Sha512, b"right");
        for (name, stated) in [
            (format!("app@{right}"), Some(right)),
            (format!("x.io/größe:1@{right}"), Some(right)),
            (format!("a@{other}@{right}"), Some(right)),
            (format!("app:1@{long}"), Some(long)),
            (right.to_string(), Some(right)),
            (format!("app@{}", right.short()), None),
            (format!("app@{right}:1"), None),
            (right.hex().to_string(), None),
            ("app:1".to_owned(), None),
        ] {
            let parsed: Reference = name.parse().unwrap();
            assert_eq!(parsed.digest(), stated, "{name}");
            for found in [right, other, long] {
                let allowed = stated.is_none_or(|stated| stated == found);
                assert_eq!(parsed.allows(&found), allowed, "{name} {found}");
                let refused = parsed.check_digest(&found).err();
                let kind = refused.map(|error| error.kind());
                let expected = (!allowed).then_some(crate::ErrorKind::InvalidArgument);
                assert_eq!(kind, expected, "{name} {found}");
            }
        }
    }

    #[test]
    fn what_is_not_visible_is_not_part_of_a_name() {
        for bad in [
            "",
            " ",
            "..",
            "../x",
            "a/./b",
            "a/..",
            "a b",
            " a",
            "a\t",
            "a\n",
            "a\u{0}",
            "a\u{7f}",
            "a\u{9b}m",
            "a\u{a0}b",
            "a\u{202e}b",
            "a\u{200b}",
            "\u{feff}a",
            "a\u{ad}b",
            "a\u{3000}b",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(limit::NAME + 1).parse::<Reference>().is_err());
    }
}
