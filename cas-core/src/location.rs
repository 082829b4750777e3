//! The URL of a store: `redb:///path?cache=64MiB`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result};

/// The location of a store: a scheme, a place such as a path or a bucket, options, and the members
/// of a composition (a store that is made of other stores).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    scheme: String,
    place: String,
    options: BTreeMap<String, String>,
    members: BTreeMap<String, Location>,
}

impl Location {
    /// Returns the location of `scheme` at `path` in the file system, without options.
    ///
    /// # Errors
    /// `InvalidArgument` if the path is not UTF-8.
    pub fn of_path(scheme: &str, path: &Path) -> Result<Self> {
        Ok(Location {
            scheme: scheme.to_owned(),
            place: place(path)?,
            options: BTreeMap::new(),
            members: BTreeMap::new(),
        })
    }

    /// Sets the place to `path` if the place is empty.
    ///
    /// # Errors
    /// `InvalidArgument` if the place is empty and the path is not UTF-8.
    pub fn or_path(mut self, path: &Path) -> Result<Self> {
        if self.place.is_empty() {
            self.place = place(path)?;
        }
        Ok(self)
    }

    /// Replaces the place by a path in the file system.
    ///
    /// # Errors
    /// `InvalidArgument` if the path is not UTF-8.
    pub fn with_path(mut self, path: &Path) -> Result<Self> {
        self.place = place(path)?;
        Ok(self)
    }

    /// Sets an option.
    #[must_use]
    pub fn with_option(mut self, option: &str, value: impl Into<String>) -> Self {
        self.options.insert(option.to_owned(), value.into());
        self
    }

    /// Sets the location of a member of a composition. `option` is the option that names the
    /// member. `member` is used in place of the value of this option.
    #[must_use]
    pub fn with_member(mut self, option: &str, member: Location) -> Self {
        self.members.insert(option.to_owned(), member);
        self
    }

    /// Returns the scheme, which selects the backend.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Returns the text between `://` and `?`.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Returns the place as a path.
    ///
    /// # Errors
    /// `InvalidArgument` if the place is empty.
    pub fn path(&self) -> Result<PathBuf> {
        if self.place.is_empty() {
            return Err(
                Error::invalid("no path given: expected SCHEME:///absolute/path")
                    .operation("open")
                    .subject(self),
            );
        }
        Ok(PathBuf::from(&self.place))
    }

    /// Returns the options. A backend refuses an option that it does not support.
    pub fn options(&self) -> &BTreeMap<String, String> {
        &self.options
    }

    /// Returns the value of an option as a number of bytes. Returns `None` if the option is not
    /// given. The value must be a size, such as `512`, `64KiB`, `16MiB`, `1GiB` or `1TiB`.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the option, if its value is not a size.
    pub fn size_option(&self, option: &str) -> Result<Option<u64>> {
        let Some(value) = self.options.get(option) else {
            return Ok(None);
        };
        size(value).map(Some).ok_or_else(|| {
            Error::invalid(format!(
                "option {option:?} is not a size: found {value:?}, expected bytes or a whole \
                 number of KiB, MiB, GiB or TiB, as in 64KiB"
            ))
            .operation("open")
            .subject(self)
        })
    }

    /// Returns the parsed value of an option, or `None` if the option is not given. `expected`
    /// describes a valid value in the error message, as in "true or false".
    ///
    /// # Errors
    /// `InvalidArgument`, naming the option, if its value does not parse.
    pub fn parsed_option<T: FromStr>(&self, option: &str, expected: &str) -> Result<Option<T>> {
        let parse = |value: &String| {
            value.parse().map_err(|_| {
                Error::invalid(format!(
                    "option {option:?}: expected {expected}, found {value:?}"
                ))
                .operation("open")
                .subject(self)
            })
        };
        self.options.get(option).map(parse).transpose()
    }

    /// Returns the location of the member that an option of a composition names. If
    /// [`Location::with_member`] has set this location, the option is not read. Otherwise, the
    /// value of the option must be a URL or a scheme. If the value is a scheme, the place of the
    /// member is the place of the composition, followed by `/` and the name of the option. If the
    /// place of the composition is empty, the place of the member is empty, too.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the option, if neither `with_member` nor the option has set the
    /// location, or if the value of the option is neither a URL nor a scheme.
    pub fn member(&self, option: &str) -> Result<Location> {
        if let Some(member) = self.members.get(option) {
            return Ok(member.clone());
        }
        let value = self.options.get(option).ok_or_else(|| {
            let scheme = &self.scheme;
            Error::invalid(format!(
                "{scheme} needs a store for {option:?}; add {option}=SCHEME or {option}=URL"
            ))
            .operation("open")
            .subject(self)
        })?;
        let place = match self.place.as_str() {
            // A backend that needs a path reports that the path is missing.
            "" => PathBuf::new(),
            place => Path::new(place).join(option),
        };
        let named = if value.contains("://") {
            value.parse()
        } else if is_scheme(value) {
            Location::of_path(value, &place)
        } else {
            Err(Error::invalid("expected a scheme or a URL").subject(value))
        };
        named.map_err(|error: Error| error.within(format!("option {option:?} of {self}")))
    }

    /// Checks that every option is one of `known`.
    ///
    /// # Errors
    /// `InvalidArgument` if an option is unknown. The message names this option and all known
    /// options.
    pub fn check_options(&self, known: &[&str]) -> Result<()> {
        match self
            .options
            .keys()
            .find(|option| !known.contains(&option.as_str()))
        {
            None => Ok(()),
            Some(option) => Err(Error::invalid(format!(
                "unknown option {option:?}: the options of {} are: {}",
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

/// Returns a path as the place of a location. A path that is not UTF-8 is refused, because its
/// lossy conversion to text would name another directory.
fn place(path: &Path) -> Result<String> {
    let text = path.to_str().ok_or_else(|| {
        Error::invalid("the path is not UTF-8; choose another path")
            .operation("open")
            .subject(path.display())
    })?;
    Ok(text.to_owned())
}

fn is_scheme(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(good)
}

/// Parses a size: bytes, or a whole number of KiB, MiB, GiB or TiB, as in `20GiB`. Returns the
/// number of bytes.
///
/// # Errors
/// `InvalidArgument` for any other text, and for a size that does not fit a `u64`.
pub fn parse_size(text: &str) -> Result<u64> {
    size(text).ok_or_else(|| {
        Error::invalid("expected bytes, or a whole number of KiB, MiB, GiB or TiB, as in 20GiB")
            .operation("parse size")
            .subject(format!("{text:.40}"))
    })
}

/// Returns the size in bytes that a text such as `64KiB` states, or `None` if it is not a size or
/// does not fit a `u64`.
pub(crate) fn size(text: &str) -> Option<u64> {
    const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let unit = |(name, shift): &(&str, u32)| Some((text.strip_suffix(*name)?, *shift));
    let (number, shift) = UNITS.iter().find_map(unit).unwrap_or((text, 0));
    // `parse` would accept a sign.
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
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
        if !is_scheme(scheme) {
            return Err(fail(
                "invalid scheme: expected lower-case letters, digits and -",
            ));
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut options = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| fail("invalid options: expected KEY=VALUE, joined by &"))?;
            if options.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(fail("an option is given twice; remove one of the two"));
            }
        }
        Ok(Location {
            scheme: scheme.to_owned(),
            place: place.to_owned(),
            options,
            members: BTreeMap::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_printed_as_it_was_parsed() {
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

    #[test]
    fn a_path_that_is_not_text_is_refused_and_not_replaced_by_another() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        for bytes in [
            &b"/r\xe9pertoire"[..],
            b"/\xff",
            b"\xc0\x80",
            b"/a/\xed\xa0\x80/b",
            b"/cut\xe2\x82",
        ] {
            let path = Path::new(OsStr::from_bytes(bytes));
            let named: Location = "redb:///x".parse().unwrap();
            assert_eq!(named.clone().or_path(path).unwrap(), named);
            let open: Location = "redb://".parse().unwrap();
            for refused in [Location::of_path("fs", path), open.or_path(path)] {
                let error = refused.unwrap_err();
                assert_eq!(error.kind(), crate::error::ErrorKind::InvalidArgument);
                let text = error.to_string();
                assert!(text.contains(&path.display().to_string()), "{text}");
            }
        }
        for text in ["/répertoire", "/\u{fffd}", ""] {
            let location = Location::of_path("fs", Path::new(text)).unwrap();
            assert_eq!(location.place(), text);
        }
    }

    #[test]
    fn sizes_are_bytes_or_binary_units() {
        let read = |value: &str| {
            let location = Location::of_path("redb", Path::new("/x")).unwrap();
            location.with_option("cache", value).size_option("cache")
        };
        let good = [
            ("0", 0),
            ("512", 512),
            ("64KiB", 64 << 10),
            ("16MiB", 16 << 20),
            ("1GiB", 1 << 30),
            ("3TiB", 3 << 40),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in good {
            assert_eq!(read(text).unwrap(), Some(bytes), "{text}");
        }
        let bad = [
            "",
            "KiB",
            "-1",
            "+1",
            "1.5MiB",
            "64 KiB",
            "64KB",
            "64kib",
            "1KiBMiB",
            "18446744073709551616",
            "16777216TiB",
        ];
        for text in bad {
            let error = read(text).unwrap_err();
            assert_eq!(
                error.kind(),
                crate::error::ErrorKind::InvalidArgument,
                "{text}"
            );
            assert!(error.to_string().contains("\"cache\""), "{error}");
        }
        let plain = Location::of_path("redb", Path::new("/x")).unwrap();
        assert_eq!(plain.size_option("cache").unwrap(), None);
    }

    #[test]
    fn members_are_urls_or_schemes_below_the_place() {
        let text = "by-size:///x?small=redb:///y?cache=1MiB&large=fs";
        let location: Location = text.parse().unwrap();
        let member = |option| location.member(option).map(|one| one.to_string());
        assert_eq!(member("small").unwrap(), "redb:///y?cache=1MiB");
        assert_eq!(member("large").unwrap(), "fs:///x/large");
        let fast = Location::of_path("redb", Path::new("/z")).unwrap();
        let named = location.clone().with_member("small", fast.clone());
        assert_eq!(named.member("small").unwrap(), fast);
        let message = member("cold").unwrap_err().to_string();
        assert!(message.contains("add cold=SCHEME"), "{message}");
        let bad = location.with_option("large", "No Scheme").member("large");
        let message = bad.unwrap_err().to_string();
        assert!(message.contains("option \"large\""), "{message}");
    }
}
