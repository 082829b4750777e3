//! What is in the database now. A read that finds rows gone says so: their number has no others.

use bytes::{Bytes, BytesMut};
use cas_core::records::Table;
use cas_core::{Digest, Result};
use cas_kv::{Found, Key, Staged, View};
use rocksdb::{DBPinnableSlice, DBRawIterator};

use crate::database::Database;
use crate::error::{corrupt, sort};
use crate::family::{self, CONTENT, INGESTS, META, ROW};

/// Most bytes that are reserved for a read before they are found.
const RESERVED: usize = 8 << 20;

/// Calls `each` with the rows of an iterator that was moved to the first, as long as it wants more.
fn pass(
    mut rows: DBRawIterator<'_>,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<bool>,
) -> Result<()> {
    while let Some((key, value)) = rows.item() {
        if !each(key, value)? {
            return Ok(());
        }
        rows.next();
    }
    rows.status().map_err(sort)
}

/// The key of a record or an ingest.
fn text(key: &[u8]) -> Result<String> {
    let text = String::from_utf8(key.to_vec());
    text.map_err(|_| corrupt("the key of a record is no text"))
}

impl View for Database {
    fn meta(&self, name: &str) -> Result<Option<u64>> {
        let found = self.get(META, name.as_bytes())?;
        found.as_deref().map(family::number).transpose()
    }

    fn find(&self, digest: &Digest) -> Result<Option<Found>> {
        let entry = self.get(CONTENT, Key::of(digest).bytes())?;
        let found = |entry| Ok(family::found(entry)?.0);
        entry.as_deref().map(found).transpose()
    }

    fn open(&self, digest: &Digest) -> Result<Option<(Found, Bytes)>> {
        let Some(entry) = self.get(CONTENT, Key::of(digest).bytes())? else {
            return Ok(None);
        };
        let (found, beside) = family::found(&entry)?;
        Ok(Some((found, Bytes::copy_from_slice(beside))))
    }

    fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<(Digest, Found)>> {
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
        pass(rows, |key, entry| {
            if page.len() == limit {
                return Ok(false);
            }
            let digest = Key::digest(key);
            let digest = digest.ok_or_else(|| corrupt("the key of a blob is no digest"))?;
            page.push((digest, family::found(entry)?.0));
            Ok(true)
        })?;
        Ok(page)
    }

    fn read(&self, number: u64, offset: u64, length: usize) -> Result<Bytes> {
        // Most rows begin where the length of a row says; the first is looked for where they do
        // not.
        let row = ROW as u64;
        let mut start = offset - offset % row;
        let mut found = self.row(number, start)?;
        let covers = |row: &DBPinnableSlice<'_>| start + row.len() as u64 > offset;
        if !found.as_ref().is_some_and(covers) {
            let Some((first, _)) = self.last(number, offset)? else {
                return Ok(Bytes::new());
            };
            start = first;
            found = self.row(number, start)?;
        }
        let mut data = BytesMut::with_capacity(length.min(RESERVED));
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

    fn ingest(&self, key: &str) -> Result<Option<Staged>> {
        let note = self.get(INGESTS, key.as_bytes())?;
        note.map(|note| self.staged(&note)).transpose()
    }

    fn ingests(&self) -> Result<Vec<(String, Staged)>> {
        let mut rows = self.iterate(INGESTS)?;
        rows.seek_to_first();
        let mut found = Vec::new();
        pass(rows, |key, note| {
            found.push((text(key)?, self.staged(note)?));
            Ok(true)
        })?;
        Ok(found)
    }

    fn record(&self, table: Table, key: &str) -> Result<Option<(u64, Bytes)>> {
        let record = self.get(table.name(), key.as_bytes())?;
        record.as_deref().map(family::recorded).transpose()
    }

    fn records(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, u64, Bytes)>> {
        let mut rows = self.iterate(table.name())?;
        rows.seek(after.unwrap_or(prefix));
        if after.is_some() && rows.key() == after.map(str::as_bytes) {
            rows.next();
        }
        let mut page = Vec::new();
        pass(rows, |key, record| {
            if page.len() == limit || !key.starts_with(prefix.as_bytes()) {
                return Ok(false);
            }
            let (revision, value) = family::recorded(record)?;
            page.push((text(key)?, revision, value));
            Ok(true)
        })?;
        Ok(page)
    }
}
