//! Facts about the tree that became true while one layer was applied. Each fact is stored as a
//! keyed hash of 8 bytes. A layer with [`limit::ENTRIES`] members needs about 16 MB if each member
//! adds one fact.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use cas_core::limit;

/// The identity of a file: device and inode number.
pub(super) type Inode = (u64, u64);

/// A fact about the tree that this layer made true.
///
/// Directories are identified by inode, so it does not matter through which links a path led to
/// them. If an inode number is reused, the new directory was created by this layer, and so was its
/// content. Therefore an old fact is still true.
#[derive(Hash)]
pub(super) enum Fact<'a> {
    /// The name in the directory was added by this layer.
    Added(Inode, &'a [u8]),
    /// The directory, or something below it, belongs to this layer.
    Kept(Inode),
    /// Everything below the directory belongs to this layer.
    Purged(Inode),
    /// The layer hides the name, which did not exist in the directory.
    Hidden(Inode, &'a [u8]),
    /// A member of this layer describes the directory, which existed before.
    Described(Inode),
    /// The layer has a device with this name in the directory, and the device was left out.
    LeftOut(Inode, &'a [u8]),
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
            // The old part is already sorted, so the stable sort only has to sort the new part and
            // merge it.
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
