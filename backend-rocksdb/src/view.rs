//! Read access to the current state of the database. This state may change between two reads. If
//! the rows of a blob were removed, a read of these rows returns fewer bytes than requested. The
//! read never returns bytes of another blob, because the number that identifies the rows of a blob
//! is not used again.

use bytes::{Bytes, BytesMut};
use cas_core::records::Table;
use cas_core::{Digest, ErrorKind, Result};
use cas_kv::{BlobEntry, IngestEntry, Key, View};
use rocksdb::{DBPinnableSlice, DBRawIterator};

use crate::database::Database;
use crate::error::{classify, corrupt};
use crate::family::{self, CONTENT, INGESTS, META, ROW_SIZE};

/// Maximum size in bytes of the buffer that a read allocates at first. The buffer grows if the read
/// finds more bytes.
const BUFFER_MAX: usize = 8 << 20;

/// Calls `each` with the rows of an iterator, from its current position on, until `each` returns
/// `false`.
fn for_each(
    mut rows: DBRawIterator<'_>,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<bool>,
) -> Result<()> {
    while let Some((key, value)) = rows.item() {
        if !each(key, value)? {
            return Ok(());
        }
        rows.next();
    }
    rows.status().map_err(classify)
}

/// Decodes the key of a record or an ingest.
fn text(key: &[u8]) -> Result<String> {
    let text = String::from_utf8(key.to_vec());
    text.map_err(|_| corrupt("the key of an entry is not UTF-8"))
}

impl View for Database {
    fn meta(&self, name: &str) -> Result<Option<u64>> {
        let found = self.get(META, name.as_bytes())?;
        found.as_deref().map(family::decode_number).transpose()
    }

    fn find_blob(&self, digest: &Digest) -> Result<Option<BlobEntry>> {
        let found = self.get(CONTENT, Key::of(digest).bytes());
        let found = found.and_then(|found| {
            let decode = |value| Ok(family::decode_blob(value)?.0);
            found.as_deref().map(decode).transpose()
        });
        match found {
            // A write does not read the damaged block, and what is written is read first.
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Some(BlobEntry::UNREADABLE)),
            found => found,
        }
    }

    fn open_blob(&self, digest: &Digest) -> Result<Option<(BlobEntry, Bytes)>> {
        let Some(value) = self.get(CONTENT, Key::of(digest).bytes())? else {
            return Ok(None);
        };
        let (blob, inline) = family::decode_blob(&value)?;
        Ok(Some((blob, Bytes::copy_from_slice(inline))))
    }

    fn list_blobs(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<(Digest, BlobEntry)>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut rows = self.iterate(CONTENT)?;
        match after.map(Key::of) {
            None => rows.seek_to_first(),
            Some(after) => {
                rows.seek(after.bytes());
                if rows.key() == Some(after.bytes()) {
                    rows.next();
                }
            }
        }
        let mut page = Vec::new();
        // The row that follows the page may be damaged, so it is not read.
        for_each(rows, |key, value| {
            let digest = Key::digest(key);
            let digest = digest.ok_or_else(|| corrupt("a blob has an invalid key"))?;
            page.push((digest, family::decode_blob(value)?.0));
            Ok(page.len() < limit)
        })?;
        Ok(page)
    }

    fn read_rows(&self, number: u64, offset: u64, length: usize) -> Result<Bytes> {
        // Most rows start at a multiple of the row size. If the row with the byte at `offset` does
        // not, search for it.
        let row_size = ROW_SIZE as u64;
        let mut start = offset - offset % row_size;
        let mut found = self.row(number, start)?;
        let covers = |row: &DBPinnableSlice<'_>| start + row.len() as u64 > offset;
        if !found.as_ref().is_some_and(covers) {
            let Some((first, _)) = self.last_row(number, offset)? else {
                return Ok(Bytes::new());
            };
            start = first;
            found = self.row(number, start)?;
        }
        let mut data = BytesMut::with_capacity(length.min(BUFFER_MAX));
        while let Some(row) = found {
            let at = offset + data.len() as u64;
            let skip = usize::try_from(at - start).unwrap_or(usize::MAX);
            let rest = row.get(skip..).unwrap_or_default();
            data.extend_from_slice(&rest[..rest.len().min(length - data.len())]);
            if data.len() == length || rest.is_empty() {
                break;
            }
            start += row.len() as u64;
            found = self.row(number, start)?;
        }
        Ok(data.freeze())
    }

    fn ingest(&self, key: &str) -> Result<Option<IngestEntry>> {
        let found = self.get(INGESTS, key.as_bytes())?;
        found.map(|value| self.ingest_entry(&value)).transpose()
    }

    fn ingests(&self) -> Result<Vec<(String, IngestEntry)>> {
        let mut rows = self.iterate(INGESTS)?;
        rows.seek_to_first();
        let mut found = Vec::new();
        for_each(rows, |key, value| {
            found.push((text(key)?, self.ingest_entry(value)?));
            Ok(true)
        })?;
        Ok(found)
    }

    fn record(&self, table: Table, key: &str) -> Result<Option<(u64, Bytes)>> {
        let (family, key) = family::record_key(table, key);
        let record = self.get(family, &key)?;
        record.as_deref().map(family::decode_record).transpose()
    }

    fn records(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, u64, Bytes)>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let (family, all) = family::record_key(table, "");
        let (_, wanted) = family::record_key(table, prefix);
        let mut rows = self.iterate(family)?;
        match after.map(|after| family::record_key(table, after).1) {
            None => rows.seek(&wanted),
            Some(after) => {
                rows.seek(&after);
                if rows.key() == Some(&*after) {
                    rows.next();
                }
            }
        }
        let mut page = Vec::new();
        for_each(rows, |key, record| {
            if !key.starts_with(&wanted) {
                return Ok(false);
            }
            let (revision, value) = family::decode_record(record)?;
            page.push((text(&key[all.len()..])?, revision, value));
            Ok(page.len() < limit)
        })?;
        Ok(page)
    }
}
