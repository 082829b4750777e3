//! Bytes in rows: a little below a power of two each, in the order of their offsets.

use std::ops::RangeInclusive;

use cas_kv::Failed;
use redb::{ReadableTable, StorageError};

use crate::error::broken;
use crate::tables::Tables;

/// Most bytes of a row.
///
/// The engine gives each large row pages of its own, of a power of two together with a few bytes
/// of theirs: a row of exactly a power of two would leave half of its pages empty.
pub(crate) const ROW: usize = (256 << 10) - 512;
/// Most bytes of a blob that are kept beside its size: a row of their own would cost a page more
/// to change, and neighbours by digest go together.
pub(crate) const BESIDE: usize = 512;
/// Most rows that one transaction removes, so that no other waits long.
const REMOVED: usize = 64;
/// Most rows that one transaction moves, and most bytes of them but for the last.
const MOVED: usize = 4096;
const MOVED_BYTES: usize = 8 << 20;

/// All rows of a number.
fn all(number: u64) -> RangeInclusive<(u64, u64)> {
    (number, 0)..=(number, u64::MAX)
}

impl Tables<'_> {
    /// Removes the rows of a number that nothing points at any more; where there are many, the
    /// rest is noted for [`Tables::reap`] and the answer is true.
    pub(crate) fn remove_rows(&mut self, number: u64, bytes: u64) -> Result<bool, StorageError> {
        // The one row of a small blob is found without a search.
        let first = self.rows.remove((number, 0))?;
        let whole = first.is_some_and(|row| row.value().len() as u64 == bytes);
        let left = !whole && self.remove_some(number)?;
        if left {
            self.doomed.insert(number, bytes)?;
        }
        Ok(left)
    }

    /// Removes some of the rows that are to go.
    pub(crate) fn reap(&mut self) -> Result<(), Failed> {
        let doomed = self.doomed.first().map_err(broken)?;
        let doomed = doomed.map(|(number, _)| number.value());
        if let Some(number) = doomed
            && !self.remove_some(number).map_err(broken)?
        {
            self.doomed.remove(number).map_err(broken)?;
        }
        Ok(())
    }

    /// Writes some rows from `first` on anew, which puts them into the lowest free pages; the first
    /// of those that are left.
    pub(crate) fn move_rows(&mut self, first: (u64, u64)) -> Result<Option<(u64, u64)>, Failed> {
        let (mut moved, mut bytes, mut left) = (Vec::new(), 0, None);
        for row in self.rows.range(first..).map_err(broken)? {
            let (key, row) = row.map_err(broken)?;
            if moved.len() == MOVED || bytes >= MOVED_BYTES {
                left = Some(key.value());
                break;
            }
            bytes += row.value().len();
            moved.push((key.value(), row.value().to_vec()));
        }
        for (key, row) in moved {
            self.rows.insert(key, row.as_slice()).map_err(broken)?;
        }
        Ok(left)
    }

    /// Whether more of them are left.
    fn remove_some(&mut self, number: u64) -> Result<bool, StorageError> {
        let rows = self.rows.extract_from_if(all(number), |_, _| true)?;
        let mut removed = 0;
        for row in rows.take(REMOVED) {
            row?;
            removed += 1;
        }
        Ok(removed == REMOVED)
    }
}
