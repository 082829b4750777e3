//! Checks access control lists and derives the modes of files from them, as the kernel does when a
//! process sets a list.

use cas_core::{Error, Result};

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// One entry of a list: its type and its permissions, which are at most 7 in a valid list.
type Entry = (u16, u16);

/// What becomes of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It is stored.
    Stored,
    /// It is not stored, because it is empty or contains no more than the mode.
    Dropped,
    /// It is left out for this reason.
    LeftOut(&'static str),
}

/// Applies the access list of a file to its mode. Returns what becomes of the list. If the list is
/// left out, the mode does not change.
///
/// # Errors
/// `Corrupt` for a malformed list, which the kernel would refuse.
pub(crate) fn access(value: &[u8], mode: &mut u16, is_link: bool) -> Result<Effect> {
    let Some(entries) = parse(value)? else {
        return Ok(OTHER_VERSION);
    };
    if is_link {
        return Ok(OTHER_TYPE);
    }
    check(&entries)?;
    if entries.is_empty() {
        return Ok(Effect::Dropped);
    }
    let permissions = |tag| entries.iter().find(|entry| entry.0 == tag);
    let bits = |tag| permissions(tag).map_or(0, |entry| entry.1);
    let group = permissions(MASK).map_or(bits(GROUP_OBJ), |mask| mask.1);
    *mode = *mode & 0o7000 | bits(USER_OBJ) << 6 | group << 3 | bits(OTHER);
    Ok(if entries.len() > 3 {
        Effect::Stored
    } else {
        Effect::Dropped
    })
}

/// Returns what becomes of a default list.
///
/// # Errors
/// As [`access`].
pub(crate) fn default(value: &[u8], is_directory: bool) -> Result<Effect> {
    let Some(entries) = parse(value)? else {
        return Ok(OTHER_VERSION);
    };
    if entries.is_empty() {
        return Ok(Effect::Dropped);
    }
    if !is_directory {
        return Ok(OTHER_TYPE);
    }
    check(&entries)?;
    Ok(Effect::Stored)
}

const OTHER_VERSION: Effect =
    Effect::LeftOut("the kernel does not support the version of this list");
const OTHER_TYPE: Effect = Effect::LeftOut("this type of file cannot have it");

fn malformed() -> Error {
    Error::corrupt(
        "an access control list is malformed, and the kernel would refuse it; build the image \
         again",
    )
}

/// Returns the entries of a list, or `None` for another version. An empty value counts as a list
/// without entries, because the kernel removes the list of the file in both cases. The types of the
/// entries must be known, even if the file cannot have the list.
fn parse(value: &[u8]) -> Result<Option<Vec<Entry>>> {
    if value.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let (version, rest) = value.split_first_chunk().ok_or_else(malformed)?;
    if u32::from_le_bytes(*version) != VERSION {
        return Ok(None);
    }
    let (entries, rest) = rest.as_chunks::<8>();
    let entries: Vec<Entry> = entries
        .iter()
        .map(|entry| {
            let field = |at| u16::from_le_bytes([entry[at], entry[at + 1]]);
            (field(0), field(2))
        })
        .collect();
    let known = [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER];
    let is_known = entries.iter().all(|entry| known.contains(&entry.0));
    (is_known && rest.is_empty())
        .then_some(entries)
        .ok_or_else(malformed)
        .map(Some)
}

fn check(entries: &[Entry]) -> Result<()> {
    is_valid(entries).then_some(()).ok_or_else(malformed)
}

/// Returns whether the kernel accepts a list. It accepts an empty list. In any other list that it
/// accepts, the entries have known types in ascending order, and permissions of at most 7. The
/// owner, the group and others have exactly one entry each. There is at most one mask, and exactly
/// one if other users or groups are named.
fn is_valid(entries: &[Entry]) -> bool {
    if entries.is_empty() {
        return true;
    }
    let count = |tag| entries.iter().filter(|entry| entry.0 == tag).count();
    let named = count(USER) + count(GROUP);
    entries.is_sorted_by_key(|entry| entry.0)
        && entries.iter().all(|entry| entry.1 <= 7)
        && [USER_OBJ, GROUP_OBJ, OTHER].map(count) == [1; 3]
        && count(MASK) <= 1
        && (named == 0 || count(MASK) == 1)
        && named + count(MASK) + 3 == entries.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16)]) -> Vec<u8> {
        let mut list = VERSION.to_le_bytes().to_vec();
        for (tag, permissions) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(permissions.to_le_bytes());
            list.extend(1000u32.to_le_bytes());
        }
        list
    }

    #[test]
    fn a_list_sets_the_mode() {
        let plain = list(&[(USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 1)]);
        let named = list(&[
            (USER_OBJ, 6),
            (USER, 7),
            (GROUP_OBJ, 4),
            (MASK, 3),
            (OTHER, 0),
        ]);
        for (value, before, after, effect) in [
            (&plain, 0o4644, 0o4751, Effect::Dropped),
            (&named, 0o777, 0o630, Effect::Stored),
            (&list(&[]), 0o640, 0o640, Effect::Dropped),
            (&Vec::new(), 0o640, 0o640, Effect::Dropped),
        ] {
            let mut mode = before;
            assert_eq!(access(value, &mut mode, false).unwrap(), effect);
            assert_eq!(mode, after);
        }
        assert_eq!(default(&plain, true).unwrap(), Effect::Stored);
        assert_eq!(default(&list(&[]), true).unwrap(), Effect::Dropped);
        assert_eq!(default(&[], false).unwrap(), Effect::Dropped);
    }

    #[test]
    fn a_list_that_a_file_cannot_have_is_left_out() {
        let (mut mode, broken) = (0o640, list(&[(USER_OBJ, 9)]));
        assert_eq!(access(&broken, &mut mode, true).unwrap(), OTHER_TYPE);
        assert_eq!(default(&broken, false).unwrap(), OTHER_TYPE);
        let other = [&[1, 0, 0, 0], &broken[4..7]].concat();
        assert_eq!(access(&other, &mut mode, false).unwrap(), OTHER_VERSION);
        assert_eq!(default(&other, true).unwrap(), OTHER_VERSION);
        assert_eq!(mode, 0o640);
        assert!(access(&broken[..9], &mut mode, true).is_err());
        assert!(default(&list(&[(0x40, 7)]), false).is_err());
    }

    #[test]
    fn what_the_kernel_refuses_is_refused() {
        let three = [(USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 1)];
        let with = |more: &[(u16, u16)]| list(&[&three[..2], more, &three[2..]].concat());
        for bad in [
            vec![2, 0, 0],
            list(&three)[..27].to_vec(),
            list(&three[..2]),
            with(&[(GROUP, 7)]),
            with(&[(MASK, 7), (MASK, 7)]),
            with(&[(0x40, 7)]),
            with(&[(MASK, 8)]),
            list(&[three[1], three[0], three[2]]),
        ] {
            assert!(access(&bad, &mut 0o644, false).is_err(), "{bad:?}");
        }
    }
}
