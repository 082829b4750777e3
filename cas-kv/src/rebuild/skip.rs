//! Finds keys from which a table may be readable again, after rows that cannot be read.

use cas_core::{Algorithm, Digest};

/// Number of bytes at the start of a digest that determine its position. In a digest that is tried,
/// all other bytes are 0.
const VARIED: usize = 8;
/// The distance that is tried first. Even if a store has 2^32 blobs, a blob rarely lies between two
/// digests that are this far apart.
const LEAST: u128 = 1 << 24;
/// The last character that is tried in place of a character of a key.
const LAST: char = '~';

/// Returns digests after `after`, or after the start if it is `None`: first close to that place,
/// then farther away.
pub(super) fn digests_after(after: Option<&Digest>) -> Box<dyn Iterator<Item = Digest>> {
    let from = after.map_or(0, position);
    let mut distance = LEAST;
    Box::new(std::iter::from_fn(move || {
        let found = at(from + distance);
        distance += distance / 8;
        found
    }))
}

/// Returns the position of a digest among the digests of both algorithms, by its first bytes.
fn position(digest: &Digest) -> u128 {
    let first = digest.as_bytes().iter().take(VARIED);
    let number = first.fold(0, |number: u128, byte| number << 8 | u128::from(*byte));
    match digest.algorithm() {
        Algorithm::Sha256 => number,
        Algorithm::Sha512 => number + (1 << (8 * VARIED)),
    }
}

/// Returns the first digest at a position, or `None` after the last position.
fn at(position: u128) -> Option<Digest> {
    let algorithm = match position >> (8 * VARIED) {
        0 => Algorithm::Sha256,
        1 => Algorithm::Sha512,
        _ => return None,
    };
    let mut hash = vec![0; algorithm.size()];
    hash[..VARIED].copy_from_slice(&position.to_be_bytes()[16 - VARIED..]);
    Digest::from_bytes(algorithm, &hash)
}

/// Returns texts after `after`, in their order: first texts that differ from `after` at its end,
/// and then texts that differ earlier.
pub(super) fn keys_after(after: Option<&String>) -> Box<dyn Iterator<Item = String>> {
    let after = after.cloned().unwrap_or_default();
    let mut places: Vec<usize> = after.char_indices().map(|(at, _)| at).collect();
    places.push(after.len());
    Box::new(places.into_iter().rev().flat_map(move |at| {
        let (same, rest) = (after[..at].to_owned(), after[at..].chars().next());
        let first = match rest {
            Some(old) => char::from_u32(old as u32 + 1).unwrap_or(LAST),
            None => ' ',
        };
        (first..=LAST).map(move |next| format!("{same}{next}"))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_ascend_to_the_last_ones_of_both_algorithms() {
        for begin in [None, Some(Digest::sha256(b"x"))] {
            let found: Vec<Digest> = digests_after(begin.as_ref()).collect();
            assert!(found.is_sorted());
            assert!(begin.is_none_or(|begin| found[0] > begin));
            let is_512 = |digest: &&Digest| digest.algorithm() == Algorithm::Sha512;
            assert!(found.iter().find(is_512).is_some());
            assert!(found.len() < 500, "{}", found.len());
        }
    }

    #[test]
    fn texts_ascend_and_the_nearest_come_first() {
        let found: Vec<String> = keys_after(Some(&"ab}".to_owned())).collect();
        assert!(found.is_sorted());
        assert_eq!(found[0], "ab} ");
        assert!(found.contains(&"ab~".to_owned()) && found.contains(&"b".to_owned()));
        assert!(found.iter().all(|key| **key > *"ab}"));
        let strange: Vec<String> = keys_after(Some(&"é".to_owned())).collect();
        assert!(strange.iter().all(|key| **key > *"é"), "{strange:?}");
        assert_eq!(keys_after(None).next().as_deref(), Some(" "));
    }
}
