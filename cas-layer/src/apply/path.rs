//! Paths of members, relative to the tree.

/// Returns `path` as a clean path: without empty, `.` and `..` names. `..` also removes the name
/// before it, if there is one.
pub fn clean(path: &[u8]) -> Vec<u8> {
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
pub fn push(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

/// Returns the number of names in a clean path.
pub fn depth(path: &[u8]) -> usize {
    path.split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty())
        .count()
}

/// Returns the parent and the last name of a clean path. Both are empty for the root.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
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
}
