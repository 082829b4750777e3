//! What was read of a layer.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cas_core::{Context, Digest, Result};
use cas_host::{TREE, read_file};
use cas_lazy::{Member, PrefetchFile, StoredTable};
use serde::{Deserialize, Serialize};

use crate::bytes;

/// Reads are noted in blocks of this many bytes, the size with which the kernel begins to read
/// ahead.
const BLOCK: u64 = 64 << 10;

/// Maximum number of ranges that are noted. Without this bound, the notes about a very large layer
/// could take as long as its reads.
const RANGES: usize = 1 << 14;

/// The files of a layer that were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesRead {
    /// The digest of the layer.
    pub layer: Digest,
    /// The files in the order in which they were first read, with the parts that were read.
    pub files: Vec<PrefetchFile>,
}

impl FilesRead {
    /// Returns which files of a snapshot's layer were read, in all sessions so far. `directory` is
    /// the directory of the snapshot. The process that serves the layer notes the files there once
    /// a second, and when the session ends. If these notes are missing or damaged, or if the layer
    /// does not have a zTOC, the list of files is empty.
    ///
    /// # Errors
    /// `NotFound` if the snapshot has no layer that is read on demand, or if the layer's table of
    /// contents is missing; `Corrupt` if the table is damaged, or if `lazy.json`, which describes
    /// the layer, is damaged; `Unsupported` or `OutOfRange` if the table cannot be used; errors of
    /// the file system.
    pub fn of_snapshot(directory: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = directory.join(TREE).join(name);
            read_file(&path).during("read", path.display())
        };
        let stored = StoredTable::from_bytes(&read(StoredTable::FILE)?)?;
        let mut files = Vec::new();
        let reads = Reads::of_snapshot(directory);
        if !reads.members.is_empty() {
            let table = stored.read(&read(StoredTable::TABLE_FILE)?)?;
            let indexes = reads.members.iter();
            let members = indexes.filter_map(|index| table.members().get(*index));
            files.extend(members.map(|member| reads.file(member)));
        }
        let layer = stored.layer.digest;
        Ok(FilesRead { layer, files })
    }
}

/// What was read of a layer that has a zTOC, in all sessions so far. The content of the file
/// [`StoredTable::READ_FILE`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reads {
    /// The indexes of the members in ranges that were read, in the order of the first reads.
    /// Members of any type are listed. A member that an earlier process has listed may be listed
    /// again.
    members: Vec<usize>,
    /// The beginnings and ends of the ranges of the tar that were read, in bytes. They consist of
    /// whole blocks of [`BLOCK`] bytes, are in order, and do not touch.
    ranges: Vec<(u64, u64)>,
}

impl Reads {
    /// Returns what the process that serves the layer has noted in the directory of the snapshot,
    /// without repetitions. If the notes are missing or damaged, returns no reads.
    pub(crate) fn of_snapshot(directory: &Path) -> Self {
        let stored: Reads = bytes::read(directory, StoredTable::READ_FILE);
        let mut known = BTreeSet::new();
        let mut reads = Reads {
            members: stored.members,
            ranges: Vec::new(),
        };
        reads.members.retain(|index| known.insert(*index));
        for (begin, end) in stored.ranges {
            reads.add_range(begin..end);
        }
        reads
    }

    /// Adds a member.
    pub(crate) fn add_member(&mut self, index: usize) {
        self.members.push(index);
    }

    /// Adds a range of the tar, in bytes. Returns whether a part of it was not yet noted. If there
    /// are too many ranges, the range is left out.
    pub(crate) fn add_range(&mut self, range: Range<u64>) -> bool {
        if range.is_empty() {
            return false;
        }
        let mut begin = range.start - range.start % BLOCK;
        let mut end = range
            .end
            .checked_next_multiple_of(BLOCK)
            .unwrap_or(range.end);
        let first = self.ranges.partition_point(|noted| noted.1 < begin);
        let after = self.ranges.partition_point(|noted| noted.0 <= end);
        match &self.ranges[first..after] {
            [noted] if noted.0 <= begin && end <= noted.1 => return false,
            [] if self.ranges.len() >= RANGES => return false,
            [] => {}
            [lowest, ..] => {
                begin = begin.min(lowest.0);
                end = end.max(self.ranges[after - 1].1);
            }
        }
        self.ranges.splice(first..after, [(begin, end)]);
        true
    }

    /// Returns the file of a member, with the parts of it that were read.
    fn file(&self, member: &Member) -> PrefetchFile {
        let file = PrefetchFile::new(OsStr::from_bytes(&member.entry.path));
        let end = member.offset + member.entry.size;
        let of_file = |noted: &(u64, u64)| {
            let begin = noted.0.clamp(member.offset, end) - member.offset;
            begin..noted.1.clamp(member.offset, end) - member.offset
        };
        let parts = self.ranges.iter().map(of_file);
        let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
        match &parts[..] {
            [all] if *all == (0..member.entry.size) => file,
            _ => file.with_parts(parts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_become_one() {
        let mut reads = Reads::default();
        for (range, is_new, expected) in [
            (0..0, false, vec![]),
            (1..2, true, vec![(0, 1)]),
            (BLOCK * 4..BLOCK * 5, true, vec![(0, 1), (4, 5)]),
            (BLOCK * 4 + 1..BLOCK * 5 - 1, false, vec![(0, 1), (4, 5)]),
            (BLOCK * 8..BLOCK * 9, true, vec![(0, 1), (4, 5), (8, 9)]),
            (BLOCK * 5..BLOCK * 6, true, vec![(0, 1), (4, 6), (8, 9)]),
            (BLOCK * 7..BLOCK * 8, true, vec![(0, 1), (4, 6), (7, 9)]),
            (BLOCK..BLOCK * 10, true, vec![(0, 10)]),
            (BLOCK * 11..BLOCK * 12, true, vec![(0, 10), (11, 12)]),
        ] {
            assert_eq!(reads.add_range(range.clone()), is_new, "{range:?}");
            let blocks = reads
                .ranges
                .iter()
                .map(|(begin, end)| (begin / BLOCK, end / BLOCK));
            assert_eq!(blocks.collect::<Vec<_>>(), expected, "{range:?}");
        }
        assert!(reads.add_range(u64::MAX - 1..u64::MAX));
        let mut many = Reads::default();
        for index in 0..=RANGES as u64 {
            assert_eq!(
                many.add_range(index * 2 * BLOCK..index * 2 * BLOCK + 1),
                index < RANGES as u64
            );
        }
    }
}
