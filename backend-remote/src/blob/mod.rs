//! Blobs. The bytes of a blob are in parts, each of which is an object that is written only once. A
//! blob also has a cell, which points to its parts.

mod pointer;
mod strays;

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cas_core::content::{Stat, Version};
use cas_core::error::REPAIR_BYTES;
use cas_core::records::{Expect, Revision};
use cas_core::{Digest, Error, ErrorKind, Result};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::cell::{Cell, Cells};
use crate::error::foreign_object;
use crate::prefix::Status;
use crate::retry::{ATTEMPTS, contended};

pub(crate) use pointer::{FOLDER, PART_SIZE, Pointer, cell_path, etags_digest};

const PARTS: &str = "uploads/";
/// The version of a blob whose cell is damaged. No upload has it.
const DAMAGED: u64 = 0;
/// Maximum number of parts that are read concurrently.
const PARALLEL_READS: usize = 4;
/// Maximum number of parts that are deleted concurrently.
const PARALLEL_DELETES: usize = 16;

/// The blobs of a store.
#[derive(Clone)]
pub(crate) struct Blobs {
    cells: Arc<Cells>,
}

fn part_path(version: u64, number: u64) -> String {
    format!("{PARTS}{version:020}.{number:08}")
}

impl Blobs {
    pub(crate) fn new(cells: Arc<Cells>) -> Self {
        Blobs { cells }
    }

    /// Returns the blob's size and version, or `None` if it does not exist. A blob whose cell is
    /// damaged has no bytes and the version [`DAMAGED`], so that a job that has the right bytes
    /// replaces it.
    pub(crate) async fn stat(&self, digest: &Digest) -> Result<Option<Stat>> {
        match self.pointer(digest).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Some(Stat {
                digest: *digest,
                size: 0,
                version: Version(DAMAGED),
            })),
            found => Ok(found?.map(|(pointer, _)| pointer.stat(digest))),
        }
    }

    /// Returns at most `limit` blobs after `after`, in digest order.
    pub(crate) async fn list(&self, after: Option<Digest>, limit: usize) -> Result<Vec<Stat>> {
        let after = after.map(|digest| cell_path(&digest).split_off(FOLDER.len()));
        let page = self.cells.list(FOLDER, "", after, limit).await?;
        let stat = |(name, cell): (String, Cell)| {
            let digest = name.replace('/', ":").parse();
            let digest: Digest =
                digest.map_err(|_| foreign_object(format_args!("{FOLDER}{name}")))?;
            Ok(Pointer::parse(&cell.value, &digest)?.stat(&digest))
        };
        page.into_iter().map(stat).collect()
    }

    /// Returns the blob's pointer and the revision of its cell, or `None` if the blob does not
    /// exist.
    pub(crate) async fn pointer(&self, digest: &Digest) -> Result<Option<(Pointer, Revision)>> {
        let Some(cell) = self.cells.load(&cell_path(digest)).await? else {
            return Ok(None);
        };
        Ok(Some((Pointer::parse(&cell.value, digest)?, cell.revision)))
    }

    /// Returns whether the blob exists and has this version.
    pub(crate) async fn has_version(&self, digest: &Digest, version: u64) -> Result<bool> {
        let found = self.pointer(digest).await?;
        Ok(found.is_some_and(|(pointer, _)| pointer.version == version))
    }

    /// As [`Blobs::pointer`], but first removes a damaged cell. A caller that has the bytes of the
    /// blob calls this.
    pub(crate) async fn pointer_to_replace(
        &self,
        digest: &Digest,
    ) -> Result<Option<(Pointer, Revision)>> {
        match self.pointer(digest).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.remove_damaged(digest).await?;
                self.pointer(digest).await
            }
            found => found,
        }
    }

    /// Stores `pointer` in the blob's cell. `found` is the result of [`Blobs::pointer`]: `None`, or
    /// a pointer to a damaged blob. Afterwards deletes the parts of the damaged blob. Returns
    /// false, and deletes nothing, if another writer changed the cell first.
    pub(crate) async fn set_pointer(
        &self,
        digest: &Digest,
        pointer: &Pointer,
        found: Option<(Pointer, Revision)>,
    ) -> Result<bool> {
        let value = serde_json::to_vec(pointer).map_err(|error| {
            Error::internal("cannot serialize a blob's pointer; please report it").source(error)
        })?;
        let (damaged, expect) = match found {
            None => (None, Expect::Absent),
            Some((damaged, revision)) => (Some(damaged), Expect::Revision(revision)),
        };
        let path = cell_path(digest);
        let swapped = self.cells.swap(&path, &expect, Some(value.into())).await?;
        if let Some(damaged) = damaged.filter(|_| swapped) {
            // If this fails, the old parts only waste space.
            let _ = self.delete_own_parts(&damaged).await;
        }
        Ok(swapped)
    }

    /// Returns whether the last part exists and has the right length, or the blob has no parts.
    /// Does not check the other parts, because a publish writes all parts before the cell.
    pub(crate) async fn is_complete(&self, pointer: &Pointer) -> Result<bool> {
        let Some((last, length)) = pointer.last_part() else {
            return Ok(true);
        };
        let path = part_path(pointer.version, last);
        let found = self.cells.prefix().stat(&path).await?;
        Ok(found.is_some_and(|found| found.length == length))
    }

    /// Returns whether this version of the blob has all its parts, and no program has written a
    /// part again. Compares the ETags of the parts with the pointer. If the pointer has no ETags,
    /// checks that no part is younger than the cell, because a publish writes the cell last. In a
    /// directory, programs can set these times. So a pointer of an older release, which did not
    /// store what takes the place of ETags there, does not show that nothing has changed.
    pub(crate) async fn is_unchanged(&self, digest: &Digest, version: u64) -> Result<bool> {
        let prefix = self.cells.prefix();
        let found = self.pointer(digest).await?;
        let Some((pointer, _)) = found.filter(|(pointer, _)| pointer.version == version) else {
            return Ok(false);
        };
        let parts = stream::iter(pointer.pieces(0..pointer.size))
            .map(|(number, range)| async move {
                let part = prefix.stat(&part_path(version, number)).await?;
                Ok::<_, Error>(part.filter(|part| part.length == range.end))
            })
            .buffered(PARALLEL_READS);
        let parts: Vec<Option<Status>> = parts.try_collect().await?;
        let Some(parts) = parts.into_iter().collect::<Option<Vec<_>>>() else {
            return Ok(false);
        };
        if let Some(expected) = pointer.etags {
            let found = etags_digest(parts.iter().map(|part| part.etag.as_deref()));
            return Ok(found == Some(expected));
        }
        if prefix.folder().is_some() {
            return Ok(false);
        }
        let cell = prefix.stat(&cell_path(digest)).await?;
        let written = cell.and_then(|cell| cell.modified);
        // `None` is less than any time.
        let is_older = |part: &Status| part.modified.is_some() && part.modified <= written;
        Ok(parts.iter().all(is_older))
    }

    /// Removes this version of the blob. Returns false if the blob does not exist or has another
    /// version.
    pub(crate) async fn remove(&self, digest: &Digest, version: u64) -> Result<bool> {
        if version == DAMAGED {
            return self.remove_damaged(digest).await;
        }
        let path = cell_path(digest);
        for _ in 0..ATTEMPTS {
            let Some((pointer, revision)) = self.pointer(digest).await? else {
                return Ok(false);
            };
            if pointer.version != version {
                return Ok(false);
            }
            let expect = Expect::Revision(revision);
            if self.cells.swap(&path, &expect, None).await? {
                self.delete_own_parts(&pointer).await?;
                return Ok(true);
            }
        }
        Err(contended(&path))
    }

    /// Removes a cell that does not point to parts of its blob. Returns whether it was removed. A
    /// collection removes the parts of the blob, which are strays then.
    pub(crate) async fn remove_damaged(&self, digest: &Digest) -> Result<bool> {
        let path = cell_path(digest);
        match self.cells.load(&path).await {
            Ok(Some(cell)) if Pointer::parse(&cell.value, digest).is_err() => {
                let expect = Expect::Revision(cell.revision);
                self.cells.swap(&path, &expect, None).await
            }
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.cells.remove_damaged(&path).await
            }
            Err(error) => Err(error),
        }
    }

    /// Writes a part of a blob. Returns its ETag, if the service returned one.
    pub(crate) async fn put_part(
        &self,
        version: u64,
        number: u64,
        body: Bytes,
    ) -> Result<Option<String>> {
        let path = part_path(version, number);
        self.cells.prefix().put_tagged(&path, body).await
    }

    /// Deletes the parts of a pointer whose cell was changed. If the pointer does not state its
    /// blob, the cell may have been a copy of another blob's cell, which still points to the parts.
    /// Then leaves the parts to a collection, which removes parts that no cell points to.
    async fn delete_own_parts(&self, pointer: &Pointer) -> Result<()> {
        match pointer.blob {
            Some(_) => self.delete_parts(pointer.version, pointer.parts()).await,
            None => Ok(()),
        }
    }

    /// Deletes the first `count` parts of one version of a blob.
    pub(crate) async fn delete_parts(&self, version: u64, count: u64) -> Result<()> {
        stream::iter((0..count).map(Ok))
            .try_for_each_concurrent(PARALLEL_DELETES, |number| async move {
                let path = part_path(version, number);
                self.cells.prefix().delete(&path).await
            })
            .await
    }

    /// Returns up to `length` bytes of a blob from `offset`.
    pub(crate) async fn read(&self, pointer: &Pointer, offset: u64, length: u64) -> Result<Bytes> {
        let end = offset.saturating_add(length).min(pointer.size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let mut pieces = stream::iter(pointer.pieces(offset..end))
            .map(|(number, range)| self.read_part(pointer.version, number, range))
            .buffered(PARALLEL_READS);
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

    async fn read_part(&self, version: u64, number: u64, range: Range<u64>) -> Result<Bytes> {
        let path = part_path(version, number);
        let expected = range.end - range.start;
        let end = range.end;
        let read = match self.cells.prefix().get_range(&path, range).await {
            // Services report a range beyond the end of the object in different ways.
            Err(error) => match self.cells.prefix().stat(&path).await {
                Ok(Some(part)) if part.length < end => Some(Bytes::new()),
                _ => return Err(error),
            },
            read => read?,
        };
        let Some(data) = read else {
            return Err(Error::not_found(
                "a part of the blob is missing: the blob was removed during the read, or another \
                 program deleted the part; store the blob again",
            )
            .operation("read")
            .subject(path));
        };
        let found = data.len() as u64;
        if found != expected {
            return Err(Error::corrupt(format!(
                "the stored blob is damaged: expected {expected} bytes of this part, found {found}"
            ))
            .advice(REPAIR_BYTES)
            .operation("read")
            .subject(path));
        }
        Ok(data)
    }
}
