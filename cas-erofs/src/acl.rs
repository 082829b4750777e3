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

/// Returns the mode that a file of mode `mode` gets with this access list. Also returns whether the
/// list must be stored, because it contains more than the mode.
///
/// # Errors
/// `Corrupt` for a list that the kernel refuses.
pub(crate) fn access(value: &[u8], mode: u16) -> Result<(u16, bool)> {
    let entries = parse(value)?;
    let permissions = |tag| entries.iter().find(|entry| entry.0 == tag);
    let bits = |tag| permissions(tag).map_or(0, |entry| entry.1);
    if entries.is_empty() {
        return Ok((mode, false));
    }
    let group = permissions(MASK).map_or(bits(GROUP_OBJ), |mask| mask.1);
    let mode = mode & 0o7000 | bits(USER_OBJ) << 6 | group << 3 | bits(OTHER);
    Ok((mode, entries.len() > 3))
}

/// Returns whether a default list must be stored, because it is not empty.
///
/// # Errors
/// As [`access`].
pub(crate) fn default(value: &[u8]) -> Result<bool> {
    Ok(!parse(value)?.is_empty())
}

fn parse(value: &[u8]) -> Result<Vec<Entry>> {
    let malformed = || {
        Error::corrupt(
            "an access control list is malformed, and the kernel would refuse it; build the image \
             again",
        )
    };
    let (version, rest) = value.split_first_chunk().ok_or_else(malformed)?;
    let (entries, rest) = rest.as_chunks::<8>();
    if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
        return Err(malformed());
    }
    let entries: Vec<Entry> = entries
        .iter()
        .map(|entry| {
            let field = |at| u16::from_le_bytes([entry[at], entry[at + 1]]);
            (field(0), field(2))
        })
        .collect();
    is_valid(&entries).then_some(entries).ok_or_else(malformed)
}

/// Returns whether the kernel accepts a list. It accepts an empty list. In any other list, the
/// entries have known types in ascending order, and permissions of at most 7. The owner, the group
/// and others have exactly one entry each. There is at most one mask, and exactly one if other
/// users or groups are named.
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
        assert_eq!(access(&plain, 0o4644).unwrap(), (0o4751, false));
        let named = list(&[
            (USER_OBJ, 6),
            (USER, 7),
            (GROUP_OBJ, 4),
            (MASK, 3),
            (OTHER, 0),
        ]);
        assert_eq!(access(&named, 0o777).unwrap(), (0o630, true));
        assert_eq!(access(&list(&[]), 0o640).unwrap(), (0o640, false));
        assert!(default(&plain).unwrap());
        assert!(!default(&list(&[])).unwrap());
    }

    #[test]
    fn what_the_kernel_refuses_is_refused() {
        let three = [(USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 1)];
        let with = |more: &[(u16, u16)]| list(&[&three[..2], more, &three[2..]].concat());
        for bad in [
            Vec::new(),
            vec![2, 0, 0],
            list(&three)[..27].to_vec(),
            [&[1, 0, 0, 0], &list(&three)[4..]].concat(),
            list(&three[..2]),
            with(&[(GROUP, 7)]),
            with(&[(MASK, 7), (MASK, 7)]),
            with(&[(0x40, 7)]),
            with(&[(MASK, 8)]),
            list(&[three[1], three[0], three[2]]),
        ] {
            assert!(access(&bad, 0o644).is_err(), "{bad:?}");
        }
    }
}
