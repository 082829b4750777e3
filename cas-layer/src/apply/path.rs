//! Paths of members, cleaned to be relative to the tree.

use cas_core::{Error, Result};

/// `path` without empty, `.` and `..` names; `..` takes a name away and ends at the root.
pub(super) fn clean(path: &[u8]) -> Vec<u8> {
    let mut clean = Vec::with_capacity(path.len());
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => clean.truncate(split(&clean).0.len()),
            _ => push(&mut clean, name),
        }
    }
    clean
}

/// Adds a name to a clean path.
pub(super) fn push(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

/// The names of a clean path.
pub(super) fn depth(path: &[u8]) -> usize {
    path.split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty())
        .count()
}

/// A clean path's parent and last name; both empty for the root.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// What the last name of a member asks to hide.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whiteout<'a> {
    /// The sibling of this name.
    Name(&'a [u8]),
    /// Everything in the directory that lower layers put there.
    Opaque,
}

impl<'a> Whiteout<'a> {
    /// The whiteout that `name` is, or nothing for an ordinary name.
    pub(super) fn parse(name: &'a [u8]) -> Result<Option<Self>> {
        match name.strip_prefix(b".wh.") {
            None => Ok(None),
            Some(b".wh..opq") => Ok(Some(Whiteout::Opaque)),
            Some(b"" | b"." | b"..") => Err(Error::corrupt(format!(
                "the whiteout {:?} names nothing that can be removed",
                name.escape_ascii().to_string()
            ))),
            Some(hidden) => Ok(Some(Whiteout::Name(hidden))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        for (path, expected) in [
            ("", ""),
            ("/", ""),
            ("./", ""),
            ("a", "a"),
            ("./a//b/", "a/b"),
            ("/abs", "abs"),
            ("../../a", "a"),
            ("a/../..", ""),
            ("a/b/../c", "a/c"),
            ("...", "..."),
        ] {
            assert_eq!(clean(path.as_bytes()), expected.as_bytes(), "{path}");
        }
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
    }

    #[test]
    fn whiteouts_that_name_nothing() {
        for bad in [".wh.", ".wh..", ".wh..."] {
            assert!(Whiteout::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let parse = |name| Whiteout::parse(name).ok().flatten();
        assert_eq!(parse(b".wh..wh..opq"), Some(Whiteout::Opaque));
        assert_eq!(parse(b".wh.x"), Some(Whiteout::Name(b"x")));
        assert_eq!(parse(b".whx"), None);
    }
}
