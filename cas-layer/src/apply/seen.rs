//! What this layer has placed, kept as 64-bit keyed hashes: 8 bytes each, 16 MB for the most
//! entries a layer may have.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use cas_core::limit;

/// An inode: device and number.
pub(super) type Inode = (u64, u64);

/// A fact about the tree that this layer made true.
///
/// Directories are told by their inodes, so it does not matter through which links a path led to
/// them. A number that is used again belongs to a directory made by this layer, whose content is
/// of this layer too, so a stale fact is still right.
#[derive(Hash)]
pub(super) enum Fact<'a> {
    /// The name in the directory is of this layer.
    Added(Inode, &'a [u8]),
    /// The directory is, or something below it is, of this layer.
    Kept(Inode),
    /// All below the directory is of this layer.
    Purged(Inode),
    /// The layer hides the name in the directory, which was not there.
    Hidden(Inode, &'a [u8]),
    /// A member of this layer describes the directory, which was there before it.
    Described(Inode),
}

/// A set of [`Fact`]s.
#[derive(Default)]
pub(super) struct Seen {
    keys: RandomState,
    recent: HashSet<u64>,
    sorted: Vec<u64>,
}

impl Seen {
    pub(super) fn insert(&mut self, fact: &Fact<'_>) {
        self.recent.insert(self.keys.hash_one(fact));
        if self.recent.len() >= limit::ENTRIES_IN_MEMORY {
            self.sorted.extend(self.recent.drain());
            // The old part is sorted already: the stable sort only merges.
            self.sorted.sort();
            self.sorted.dedup();
        }
    }

    pub(super) fn contains(&self, fact: &Fact<'_>) -> bool {
        let key = self.keys.hash_one(fact);
        self.recent.contains(&key) || self.sorted.binary_search(&key).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_across_merges() {
        let mut seen = Seen::default();
        let count = limit::ENTRIES_IN_MEMORY as u64 * 2 + 7;
        for n in 0..count {
            seen.insert(&Fact::Added((1, n % 10), &n.to_le_bytes()));
        }
        for n in 0..count {
            assert!(seen.contains(&Fact::Added((1, n % 10), &n.to_le_bytes())));
            assert!(!seen.contains(&Fact::Added((2, n % 10), &n.to_le_bytes())));
            assert!(!seen.contains(&Fact::Kept((1, n))));
        }
    }
}
