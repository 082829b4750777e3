//! Pax extension records, `LENGTH KEY=VALUE\n`. If one record is malformed, the whole header is
//! refused.

use std::collections::{BTreeMap, BTreeSet};

use cas_core::{Error, Result, limit};

use super::entry::{Region, Time};
use super::message::shown;

/// The beginning of the keys of extended attributes.
pub(super) const XATTR: &[u8] = b"SCHILY.xattr.";

/// The warnings about records that container engines and other readers understand differently.
const EMPTY: &str = "a pax record of a path, a link, a size, an owner, a group or a time is empty; \
                     it is ignored, but some readers use it";
const ODD_SIZE: &str = "the pax records of a sparse file have a size that its version of the \
                        format does not use; some readers take the map for bytes of the file, or \
                        do not make the file sparse";
const STAR: &str = "a pax record marks a file as sparse in the format of star; the file is read as \
                    a regular file, but some readers make it sparse";

/// The records that change the next member.
#[derive(Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The attributes that are left out, because Linux does not allow their name, or the length of
    /// their name or value. Only their names are kept, quoted for a warning.
    pub(super) left_out: Vec<String>,
    /// The names of these attributes.
    refused: BTreeSet<Vec<u8>>,
    pub(super) sparse: Sparse,
    /// Whether there is a record of a path, a link or a size, even an empty one.
    has_layout: bool,
    /// Warnings about records that some readers understand differently.
    pub(super) odd: BTreeSet<&'static str>,
}

/// The `GNU.sparse.*` records.
#[derive(Default)]
pub(super) struct Sparse {
    pub(super) name: Option<Vec<u8>>,
    /// Whether the map is at the start of the body, as in version 1.0.
    pub(super) in_body: bool,
    minor: Option<u8>,
    pub(super) size: Option<u64>,
    /// Whether the record of the size is the one of the versions before 1.0.
    has_old_size: bool,
    pub(super) count: Option<u64>,
    pub(super) map: Option<Vec<Region>>,
    /// Whether one record has the whole map.
    has_whole_map: bool,
    offset: Option<u64>,
}

impl Pax {
    /// Parses all records of one extension header.
    pub(super) fn parse(mut body: &[u8]) -> Result<Self> {
        let mut pax = Pax::default();
        while !body.is_empty() {
            let (key, value, rest) = record(body).ok_or_else(|| {
                Error::corrupt(format!(
                    "malformed pax record at {}; get an intact copy of the archive, or create it \
                     again",
                    shown(body)
                ))
            })?;
            pax.set(key, value)?;
            body = rest;
        }
        if pax.sparse.offset.is_some() {
            return Err(Error::corrupt(
                "the pax record GNU.sparse.offset is not followed by GNU.sparse.numbytes; create \
                 the archive again",
            ));
        }
        pax.sparse.check()?;
        if pax.sparse.is_some() && pax.sparse.has_odd_size(pax.size) {
            pax.odd.insert(ODD_SIZE);
        }
        pax.left_out = pax.refused.iter().map(|name| shown(name)).collect();
        check_xattrs(pax.xattrs.iter().map(|(n, v)| (&n[..], &v[..])))?;
        Ok(pax)
    }

    /// Returns whether a record may change the paths, the link targets or the bytes of members.
    /// Some readers use even an empty record.
    pub(super) fn affects_layout(&self) -> bool {
        self.has_layout || self.sparse.is_some()
    }

    /// Returns whether a record changes the metadata of members.
    pub(super) fn sets_metadata(&self) -> bool {
        let ids = self.uid.or(self.gid).is_some();
        ids || self.mtime.is_some() || !self.xattrs.is_empty()
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some(name) = key.strip_prefix(XATTR) {
            return self.set_xattr(name, value);
        }
        // POSIX: an empty value deletes the record.
        let some = !value.is_empty();
        let is_layout = matches!(key, b"path" | b"linkpath" | b"size");
        self.has_layout |= is_layout;
        if !some && (is_layout || matches!(key, b"uid" | b"gid" | b"mtime")) {
            self.odd.insert(EMPTY);
        }
        match key {
            b"path" => self.path = some.then(|| name(key, value)).transpose()?,
            b"linkpath" => self.link = some.then(|| name(key, value)).transpose()?,
            b"size" => self.size = some.then(|| decimal(key, value)).transpose()?,
            b"uid" => self.uid = some.then(|| decimal(key, value)).transpose()?,
            b"gid" => self.gid = some.then(|| decimal(key, value)).transpose()?,
            b"mtime" => self.mtime = some.then(|| time(value)).transpose()?,
            b"SCHILY.realsize" => _ = self.odd.insert(STAR),
            b"SCHILY.filetype" if value == b"sparse" => _ = self.odd.insert(STAR),
            _ => {
                if let Some(field) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(field, key, value)?;
                }
            }
        }
        Ok(())
    }

    fn set_xattr(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        if name.is_empty() {
            return Err(Error::corrupt(format!(
                "the pax record {} does not name an xattr; create the archive again",
                shown(XATTR)
            )));
        }
        if !is_storable(name, value) {
            self.xattrs.remove(name);
            self.refused.insert(name.to_vec());
            return Ok(());
        }
        // Of several records with one key, the last one counts.
        self.refused.remove(name);
        self.xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }
}

/// Returns whether the kernel allows the name of an extended attribute, and the lengths of the name
/// and the value. On every file system, it refuses longer ones, and these three names.
pub(super) fn is_storable(name: &[u8], value: &[u8]) -> bool {
    let is_prefix = matches!(name, b"user." | b"trusted." | b"security.");
    !is_prefix && name.len() <= limit::COMPONENT && value.len() <= limit::XATTR
}

/// Checks the size of all extended attributes of one member together.
pub(super) fn check_xattrs<'a>(all: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<()> {
    let total: usize = all.map(|(name, value)| name.len() + value.len()).sum();
    if total > limit::XATTRS {
        return Err(Error::out_of_range(format!(
            "the xattrs of one entry have {total} bytes; at most {} are allowed; use fewer xattrs",
            limit::XATTRS
        )));
    }
    Ok(())
}

impl Sparse {
    pub(super) fn is_some(&self) -> bool {
        self.in_body
            || self.minor.is_some()
            || self.name.is_some()
            || self.size.is_some()
            || self.count.is_some()
            || self.map.is_some()
    }

    /// Returns whether the version of the format does not use the record of the full size, or the
    /// record `stored`, which gives the number of stored bytes.
    fn has_odd_size(&self, stored: Option<u64>) -> bool {
        self.in_body == self.has_old_size || (self.in_body && stored.is_some())
    }

    /// Refuses combinations that some readers take for a sparse file and others do not.
    fn check(&self) -> Result<()> {
        let whole = match (&self.map, self.in_body) {
            (None, true) => self.minor == Some(b'0'),
            (Some(_), in_body) => !in_body,
            (None, false) => !self.is_some(),
        };
        if whole {
            return Ok(());
        }
        Err(Error::corrupt(
            "the pax records of a sparse file must either contain a map or state version 1.0 of \
             the sparse format; create the archive again",
        ))
    }

    fn set(&mut self, field: &[u8], key: &[u8], value: &[u8]) -> Result<()> {
        match field {
            b"major" if value == b"1" => self.in_body = true,
            b"major" if value == b"0" => self.in_body = false,
            b"minor" if value == b"0" || value == b"1" => self.minor = Some(value[0]),
            b"major" | b"minor" => return Err(bad(key, value)),
            b"name" => self.name = Some(name(key, value)?),
            b"size" | b"realsize" => {
                self.has_old_size |= field == b"size";
                set_once(&mut self.size, key, value)?;
            }
            b"numblocks" => set_once(&mut self.count, key, value)?,
            b"offset" => {
                if self.has_whole_map {
                    return Err(given_twice(key));
                }
                if self.offset.replace(decimal(key, value)?).is_some() {
                    return Err(bad(key, value));
                }
            }
            b"numbytes" => {
                let offset = self.offset.take().ok_or_else(|| bad(key, value))?;
                self.push(offset, decimal(key, value)?)?;
            }
            b"map" => {
                if self.map.replace(Vec::new()).is_some() {
                    return Err(given_twice(key));
                }
                self.has_whole_map = true;
                let mut numbers = value.split(|&byte| byte == b',');
                while let Some(offset) = numbers.next().filter(|_| !value.is_empty()) {
                    let length = numbers.next().ok_or_else(|| bad(key, value))?;
                    self.push(decimal(key, offset)?, decimal(key, length)?)?;
                }
            }
            _ => return Err(bad(key, value)),
        }
        Ok(())
    }

    fn push(&mut self, offset: u64, length: u64) -> Result<()> {
        push(self.map.get_or_insert_default(), offset, length)
    }
}

/// Sets the number of a record. Of two numbers, some readers use the first, and others the last.
fn set_once(slot: &mut Option<u64>, key: &[u8], value: &[u8]) -> Result<()> {
    let number = decimal(key, value)?;
    match slot.replace(number) {
        Some(other) if other != number => Err(given_twice(key)),
        _ => Ok(()),
    }
}

fn given_twice(key: &[u8]) -> Error {
    Error::corrupt(format!(
        "the pax records of the sparse file give its size, its map or its number of regions twice, \
         the second time as {}; create the archive again",
        shown(key)
    ))
}

/// Adds a region to a map, up to the limit.
pub(super) fn push(map: &mut Vec<Region>, offset: u64, length: u64) -> Result<()> {
    if map.len() == limit::SPARSE_REGIONS {
        return Err(Error::out_of_range(format!(
            "the sparse file has more than the {} regions allowed; create the archive without \
             sparse files",
            limit::SPARSE_REGIONS
        )));
    }
    map.push(Region { offset, length });
    Ok(())
}

/// Returns all records of an extension header, ordered by key. Of several records with one key, the
/// last one counts.
pub(super) fn records(mut body: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut records = BTreeMap::new();
    while let Some((key, value, rest)) = record(body) {
        records.insert(key.to_vec(), value.to_vec());
        body = rest;
    }
    records
}

/// Returns the key and value of the first record, and the rest. Returns `None` if the record is
/// malformed.
fn record(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = body.iter().take(20).position(|&byte| byte == b' ')?;
    let length = usize::try_from(digits(&body[..space])?).ok()?;
    let text = body.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|&byte| byte == b'=')?;
    let (key, value) = (&text[..equals], &text[equals + 1..]);
    let sound = !key.is_empty() && !key.contains(&0);
    sound.then(|| (key, value, &body[length..]))
}

fn digits(text: &[u8]) -> Option<u64> {
    let sound = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    str::from_utf8(text).ok().filter(|_| sound)?.parse().ok()
}

/// Parses the decimal number of a record. The error names the record.
pub(super) fn decimal(key: &[u8], value: &[u8]) -> Result<u64> {
    digits(value).ok_or_else(|| bad(key, value))
}

fn name(key: &[u8], value: &[u8]) -> Result<Vec<u8>> {
    if value.is_empty() || value.contains(&0) {
        return Err(bad(key, value));
    }
    Ok(value.to_vec())
}

/// Parses decimal seconds with an optional fraction, truncated to nanoseconds.
fn time(value: &[u8]) -> Result<Time> {
    parse_time(value).ok_or_else(|| bad(b"mtime", value))
}

fn parse_time(value: &[u8]) -> Option<Time> {
    let (negative, plain) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = plain.splitn(2, |&byte| byte == b'.');
    let seconds = i64::try_from(digits(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or(b"");
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanoseconds = (0..9).fold(0, |value, index| {
        value * 10
            + fraction
                .get(index)
                .map_or(0, |&digit| u32::from(digit - b'0'))
    });
    Some(match (negative, nanoseconds) {
        (false, _) => Time {
            seconds,
            nanoseconds,
        },
        (true, 0) => Time {
            seconds: -seconds,
            nanoseconds,
        },
        (true, _) => Time {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

fn bad(key: &[u8], value: &[u8]) -> Error {
    Error::corrupt(format!(
        "the pax record {} with the value {} is invalid; create the archive again",
        shown(key),
        shown(value)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_records_are_errors() {
        let bad: [&[u8]; 16] = [
            b"0 path=x\n",
            b"-9 path=x\n",
            b"99999999999999999999999 path=x\n",
            b"8 path=x\n",
            b"11 path=x\n",
            b"10 path=x\n\0",
            b"10 path=xy",
            b"path=x\n",
            b" 10 path=x\n",
            b"+10 path=x\n",
            b"6 =xy\n",
            b"6 abc\n",
            b"10 size=-\n",
            b"11 size=+1\n",
            b"13 mtime=NaN\n",
            b"14 mtime=1e30\n",
        ];
        for body in bad {
            assert!(Pax::parse(body).is_err(), "{}", body.escape_ascii());
        }
        assert_eq!(Pax::parse(b"9 path=x\n").err().map(|e| e.to_string()), None);
    }

    #[test]
    fn an_xattr_without_a_name_is_refused_and_the_error_says_so() {
        let error = Pax::parse(b"19 SCHILY.xattr.=v\n").err().unwrap();
        let said = error.to_string();
        assert!(said.contains("does not name an xattr"), "{said}");
    }

    #[test]
    fn an_xattr_is_left_out_only_if_its_last_record_is_refused() {
        let record = |value: usize| {
            let value = "v".repeat(value);
            let rest = format!(" SCHILY.xattr.user.x={value}\n");
            let length =
                (1..).find(|length: &usize| length.to_string().len() + rest.len() == *length);
            format!("{}{rest}", length.unwrap())
        };
        let (good, bad) = (record(1), record(limit::XATTR + 1));
        for (records, is_left_out) in [
            (format!("{bad}{good}"), false),
            (format!("{good}{bad}"), true),
            (format!("{bad}{bad}"), true),
        ] {
            let pax = Pax::parse(records.as_bytes()).unwrap();
            assert_eq!(
                pax.left_out.len(),
                usize::from(is_left_out),
                "{records:.80}"
            );
            assert!(pax.left_out.iter().all(|name| name == "\"user.x\""));
            assert_eq!(pax.xattrs.is_empty(), is_left_out);
        }
    }

    #[test]
    fn times_run_forward() {
        let time = |text: &[u8]| parse_time(text).map(|t| (t.seconds, t.nanoseconds));
        assert_eq!(time(b"1.5"), Some((1, 500_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        assert_eq!(time(b"7.1234567899"), Some((7, 123_456_789)));
        assert_eq!(time(b"1.x"), None);
        assert_eq!(time(b""), None);
    }
}
