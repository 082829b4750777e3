//! Bytes in rows: a little below a power of two each, in the order of their offsets.

use std::ops::RangeInclusive;

use bytes::{Bytes, BytesMut};
use cas_core::Digest;
use cas_core::content::Version;
use redb::ReadableTable;

use crate::error::{Failed, sort};
use crate::tables::{Key, Tables, View};

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
/// Most bytes that are reserved for a read before they are found.
const RESERVED: usize = 8 << 20;

/// All rows of a number.
fn all(number: u64) -> RangeInclusive<(u64, u64)> {
    (number, 0)..=(number, u64::MAX)
}

/// A blob that is there.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub(crate) size: u64,
    pub(crate) number: u64,
    /// Whether its bytes are in rows, and not beside its size.
    pub(crate) in_rows: bool,
}

/// A blob that was removed.
pub(crate) struct Gone {
    /// Bytes it had.
    pub(crate) bytes: u64,
    /// Whether some of its rows are left for [`Tables::reap`].
    pub(crate) left: bool,
}

impl Tables<'_> {
    /// Removes the blob where it is this version of it.
    pub(crate) fn remove_blob(
        &mut self,
        digest: &Digest,
        version: Version,
    ) -> Result<Option<Gone>, Failed> {
        let key = Key::of(digest);
        let Some(found) = self.find(&key)?.filter(|found| found.number == version.0) else {
            return Ok(None);
        };
        self.blobs.remove(key.bytes())?;
        let left = found.in_rows && self.remove_rows(found.number, found.size)?;
        Ok(Some(Gone {
            bytes: found.size,
            left,
        }))
    }

    /// What is there under a key.
    pub(crate) fn find(&self, key: &Key) -> Result<Option<Found>, Failed> {
        let found = self.blobs.get(key.bytes())?;
        Ok(found.map(|found| {
            let (size, number, bytes) = found.value();
            Found {
                size,
                number,
                in_rows: size > bytes.len() as u64,
            }
        }))
    }

    /// Adds `data` at `offset`, in as many rows as it needs.
    pub(crate) fn write_rows(
        &mut self,
        number: u64,
        offset: u64,
        data: &[u8],
    ) -> Result<(), Failed> {
        let mut offset = offset;
        for row in data.chunks(ROW) {
            self.rows.insert((number, offset), row)?;
            offset += row.len() as u64;
        }
        Ok(())
    }

    /// Removes the rows of a number that nothing points at any more; where there are many, the
    /// rest is noted for [`Tables::reap`] and the answer is true.
    pub(crate) fn remove_rows(&mut self, number: u64, bytes: u64) -> Result<bool, Failed> {
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
        let doomed = self.doomed.first()?.map(|(number, _)| number.value());
        if let Some(number) = doomed
            && !self.remove_some(number)?
        {
            self.doomed.remove(number)?;
        }
        Ok(())
    }

    /// Whether more of them are left.
    fn remove_some(&mut self, number: u64) -> Result<bool, Failed> {
        let mut removed = 0;
        for row in self
            .rows
            .extract_from_if(all(number), |_, _| true)?
            .take(REMOVED)
        {
            row?;
            removed += 1;
        }
        Ok(removed == REMOVED)
    }
}

impl View {
    /// Up to `length` bytes of the rows of a number; fewer where rows are missing or end.
    pub(crate) fn read_rows(
        &self,
        number: u64,
        offset: u64,
        length: usize,
    ) -> cas_core::Result<Bytes> {
        let mut data = BytesMut::with_capacity(length.min(RESERVED));
        let mut before = self
            .rows
            .range((number, 0)..=(number, offset))
            .map_err(sort)?;
        let Some(first) = before.next_back().transpose().map_err(sort)? else {
            return Ok(Bytes::new());
        };
        let first = first.0.value().1;
        let rows = self
            .rows
            .range((number, first)..=(number, u64::MAX))
            .map_err(sort)?;
        for row in rows {
            let (key, row) = row.map_err(sort)?;
            let at = offset + data.len() as u64;
            let (start, row) = (key.value().1, row.value());
            let skip = usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
            let Some(found) = row.get(skip..).filter(|_| start <= at) else {
                break;
            };
            let wanted = found.len().min(length - data.len());
            data.extend_from_slice(&found[..wanted]);
            if data.len() == length {
                break;
            }
        }
        Ok(data.freeze())
    }
}
