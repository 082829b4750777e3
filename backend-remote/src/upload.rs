//! One storing of a blob: its parts, and the cell that names them.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use cas_core::content::{Stat, Version};
use cas_core::records::{Expect, Revision};
use cas_core::{Digest, Error, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::cell::{ATTEMPTS, contended};
use crate::place::Condition;
use crate::store::Remote;

/// Length of every part but the last, in bytes.
pub(crate) const PART: usize = 8 << 20;
/// Shortest part that is believed of a store; less would make a request for every few bytes.
const SHORTEST: u64 = 64 << 10;
/// Parts that are read at once.
const AT_ONCE: usize = 4;
/// Parts that are deleted at once.
const DELETED_AT_ONCE: usize = 16;

/// Where the bytes of a blob are, as its cell says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pointer {
    pub(crate) version: u64,
    pub(crate) size: u64,
    part: u64,
}

impl Pointer {
    pub(crate) fn new(version: u64, size: u64) -> Self {
        Pointer {
            version,
            size,
            part: PART as u64,
        }
    }

    /// The value of the cell of the blob `name`.
    pub(crate) fn parse(value: &[u8], name: &str) -> Result<Self> {
        let pointer = serde_json::from_slice(value).ok();
        let pointer = pointer.filter(|pointer: &Pointer| pointer.part >= SHORTEST);
        pointer.ok_or_else(|| {
            Error::corrupt("the cell of this blob does not say where its bytes are; delete it")
                .operation("read")
                .subject(name)
        })
    }

    pub(crate) fn stat(&self, digest: &Digest) -> Stat {
        Stat {
            digest: *digest,
            size: self.size,
            version: Version(self.version),
        }
    }

    fn parts(&self) -> u64 {
        self.size.div_ceil(self.part)
    }

    /// The parts of a range of the blob, and which bytes of each.
    fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> + use<> {
        let part = self.part;
        (range.start / part..range.end.div_ceil(part)).map(move |number| {
            let begin = number * part;
            let from = range.start.max(begin) - begin;
            (number, from..range.end.min(begin + part) - begin)
        })
    }
}

/// The object of a blob's cell.
pub(crate) fn cell_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// The object of a part.
pub(crate) fn part_path(version: u64, number: u64) -> String {
    format!("uploads/{version:020}.{number:08}")
}

impl Remote {
    /// What the cell of a blob says, and in which revision.
    pub(crate) async fn pointer(&self, digest: &Digest) -> Result<Option<(Pointer, Revision)>> {
        let path = cell_path(digest);
        let Some(cell) = self.cells.load(&path).await? else {
            return Ok(None);
        };
        Ok(Some((Pointer::parse(&cell.value, &path)?, cell.revision)))
    }

    /// Points the blob to these parts, unless it is there whole; whether it points there now.
    pub(crate) async fn point(
        &self,
        digest: &Digest,
        pointer: &Pointer,
        found: Option<(Pointer, Revision)>,
    ) -> Result<bool> {
        let value = serde_json::to_vec(pointer)
            .map_err(|error| Error::internal("a pointer does not serialise").source(error))?;
        let (damaged, expect) = match found {
            None => (None, Expect::Absent),
            Some((damaged, revision)) => (Some(damaged), Expect::Revision(revision)),
        };
        let path = cell_path(digest);
        let pointed = self.cells.swap(&path, &expect, Some(value.into())).await?;
        if let Some(damaged) = damaged.filter(|_| pointed) {
            // They are of no use whether they go or not.
            let _ = self.delete_parts(damaged.version, damaged.parts()).await;
        }
        Ok(pointed)
    }

    /// Whether the last part is there as long as it should be, and so all before it.
    pub(crate) async fn is_whole(&self, pointer: &Pointer) -> Result<bool> {
        let Some(last) = pointer.parts().checked_sub(1) else {
            return Ok(true);
        };
        let found = self
            .cells
            .place()
            .length(&part_path(pointer.version, last))
            .await?;
        Ok(found == Some(pointer.size - last * pointer.part))
    }

    /// Removes the blob where it is this version; whether it was.
    pub(crate) async fn remove(&self, digest: &Digest, version: u64) -> Result<bool> {
        let path = cell_path(digest);
        for _ in 0..ATTEMPTS {
            let Some((pointer, revision)) = self.pointer(digest).await? else {
                return Ok(false);
            };
            if pointer.version != version {
                return Ok(false);
            }
            if self
                .cells
                .swap(&path, &Expect::Revision(revision), None)
                .await?
            {
                self.delete_parts(version, pointer.parts()).await?;
                return Ok(true);
            }
        }
        Err(contended(&path))
    }

    pub(crate) async fn put_part(&self, version: u64, number: u64, body: Bytes) -> Result<()> {
        let path = part_path(version, number);
        self.cells.place().put(&path, body, Condition::Any).await?;
        Ok(())
    }

    pub(crate) async fn delete_parts(&self, version: u64, count: u64) -> Result<()> {
        stream::iter((0..count).map(Ok))
            .try_for_each_concurrent(DELETED_AT_ONCE, |number| async move {
                self.cells.place().delete(&part_path(version, number)).await
            })
            .await
    }

    /// Up to `length` bytes of a blob from `offset`.
    pub(crate) async fn read(&self, pointer: &Pointer, offset: u64, length: u64) -> Result<Bytes> {
        let end = offset.saturating_add(length).min(pointer.size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let mut pieces = stream::iter(pointer.pieces(offset..end))
            .map(|(number, range)| self.read_part(pointer.version, number, range))
            .buffered(AT_ONCE);
        let first = pieces.try_next().await?.unwrap_or_default();
        if first.len() as u64 == end - offset {
            return Ok(first);
        }
        let mut data = BytesMut::from(first);
        while let Some(piece) = pieces.try_next().await? {
            data.extend_from_slice(&piece);
        }
        Ok(data.freeze())
    }

    pub(crate) async fn read_part(
        &self,
        version: u64,
        number: u64,
        range: Range<u64>,
    ) -> Result<Bytes> {
        let path = part_path(version, number);
        let expected = range.end - range.start;
        let Some(data) = self.cells.place().get_range(&path, range).await? else {
            return Err(Error::not_found(
                "a part of the blob is gone: it was removed while it was read, or deleted by \
                 another program",
            )
            .operation("read")
            .subject(path));
        };
        let found = data.len() as u64;
        if found != expected {
            return Err(Error::corrupt(format!(
                "expected {expected} bytes of this part, found {found}; remove the blob and store \
                 it again"
            ))
            .operation("read")
            .subject(path));
        }
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_up_the_range() {
        let part = PART as u64;
        let pointer = Pointer::new(1, 3 * part - 5);
        let pieces = |range| pointer.pieces(range).collect::<Vec<_>>();
        assert_eq!(pieces(0..1), [(0, 0..1)]);
        assert_eq!(pieces(part - 1..part + 1), [(0, part - 1..part), (1, 0..1)]);
        assert_eq!(pieces(part..2 * part), [(1, 0..part)]);
        assert_eq!(pieces(2 * part..pointer.size), [(2, 0..part - 5)]);
        assert_eq!((pointer.parts(), Pointer::new(1, 0).parts()), (3, 0));
    }
}
