//! Where a store is: `redb:///path?inline=16KiB`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result};

/// A scheme, a place and options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    scheme: String,
    place: String,
    options: BTreeMap<String, String>,
}

impl Location {
    /// A place of `scheme` in the file system.
    pub fn of_path(scheme: &str, path: &Path) -> Self {
        let place = path.to_string_lossy().into_owned();
        Location {
            scheme: scheme.to_owned(),
            place,
            options: BTreeMap::new(),
        }
    }

    /// The scheme: which backend.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// What stands between `://` and `?`.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The place as a path.
    ///
    /// # Errors
    /// `InvalidArgument` when it is empty.
    pub fn path(&self) -> Result<PathBuf> {
        if self.place.is_empty() {
            return Err(
                Error::invalid("names no path; expected SCHEME:///absolute/path")
                    .operation("open")
                    .subject(self),
            );
        }
        Ok(PathBuf::from(&self.place))
    }

    /// The options. A backend refuses those it does not know.
    pub fn options(&self) -> &BTreeMap<String, String> {
        &self.options
    }

    /// Checks that every option is one of `known`.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the option and what is known.
    pub fn check_options(&self, known: &[&str]) -> Result<()> {
        match self
            .options
            .keys()
            .find(|option| !known.contains(&option.as_str()))
        {
            None => Ok(()),
            Some(option) => Err(Error::invalid(format!(
                "option {option:?} is unknown; {} knows: {}",
                self.scheme,
                if known.is_empty() {
                    "none".to_owned()
                } else {
                    known.join(", ")
                }
            ))
            .operation("open")
            .subject(self)),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.place)?;
        let mut joint = '?';
        for (key, value) in &self.options {
            write!(f, "{joint}{key}={value}")?;
            joint = '&';
        }
        Ok(())
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fail = |why: &'static str| {
            Error::invalid(why)
                .operation("parse store")
                .subject(format!("{text:.200}"))
        };
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| fail("expected SCHEME://PLACE, as in fs:///var/lib/store"))?;
        let is_scheme =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if scheme.is_empty() || !scheme.bytes().all(is_scheme) {
            return Err(fail("a scheme has lower-case letters, digits and -"));
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut options = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| fail("options are KEY=VALUE, joined by &"))?;
            if options.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(fail("an option is given twice"));
            }
        }
        Ok(Location {
            scheme: scheme.to_owned(),
            place: place.to_owned(),
            options,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in [
            "redb:///path?inline=16KiB",
            "fs:///a b/c",
            "memory://",
            "s3://bucket/x",
        ] {
            assert_eq!(text.parse::<Location>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "fs",
            "fs:/x",
            "://x",
            "FS:///x",
            "fs:///x?a",
            "fs:///x?a=1&a=2",
        ] {
            assert!(text.parse::<Location>().is_err(), "{text}");
        }
    }
}
