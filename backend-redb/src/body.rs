//! What an ingest holds: the end of its bytes in memory, what is before it in rows.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use cas_core::content::Durability;
use cas_core::records::Batch;
use cas_core::{Digest, Result};

use crate::engine::Engine;
use crate::error::Failed;
use crate::lease::Lease;
use crate::records::{apply, check};
use crate::rows::{BESIDE, ROW};
use crate::tables::{Key, Tables};

/// Time after which rows are synced, so that a kill does not cost a long download; bytes that come
/// fast are soon had again.
const SYNCED: Duration = Duration::from_secs(5);

/// What an ingest holds. Dropping it writes the end of the bytes, for whoever goes on with it.
pub(crate) struct Body {
    pub(crate) engine: Arc<Engine>,
    pub(crate) key: String,
    /// The number of the rows, where there are any.
    pub(crate) number: Option<u64>,
    /// Bytes in rows.
    pub(crate) stored: u64,
    /// Bytes after them.
    pub(crate) tail: BytesMut,
    /// When rows were last synced, or the ingest was begun.
    pub(crate) synced: Instant,
    /// Whether the end is to be kept.
    pub(crate) keep: bool,
    /// Released when all is done.
    pub(crate) lease: Lease,
}

impl Body {
    fn offset(&self) -> u64 {
        self.stored + self.tail.len() as u64
    }

    /// Turns the end and `data` into rows, but for what fills none.
    pub(crate) fn spill(&mut self, data: &[u8]) -> Result<()> {
        let fill = data.len().min((ROW - self.tail.len() % ROW) % ROW);
        let (first, rest) = data.split_at(fill);
        self.tail.extend_from_slice(first);
        let (rows, left) = rest.split_at(rest.len() - rest.len() % ROW);
        let bytes = (self.tail.len() + rows.len()) as u64;
        self.engine.space.take(bytes)?;
        let sync = self.synced.elapsed() >= SYNCED;
        let durability = match sync {
            true => Durability::Full,
            false => Durability::Relaxed,
        };
        let (tail, offset) = (&self.tail, self.stored);
        let number = self.engine.write(durability, |tables| {
            let number = stage(tables, &self.key, self.number, offset + bytes)?;
            tables.write_rows(number, offset, tail)?;
            tables.write_rows(number, offset + tail.len() as u64, rows)?;
            Ok(number)
        })?;
        self.number = Some(number);
        self.stored += bytes;
        if sync {
            self.synced = Instant::now();
        }
        self.tail.clear();
        self.tail.extend_from_slice(left);
        Ok(())
    }

    pub(crate) fn read(&self, offset: u64, length: usize) -> Result<Bytes> {
        let left = usize::try_from(self.stored.saturating_sub(offset)).unwrap_or(usize::MAX);
        if let Some(number) = self.number.filter(|_| left > 0) {
            return self
                .engine
                .view()?
                .read_rows(number, offset, length.min(left));
        }
        let skip = usize::try_from(offset - self.stored.min(offset)).unwrap_or(usize::MAX);
        let held = self.tail.get(skip..).unwrap_or_default();
        Ok(Bytes::copy_from_slice(&held[..held.len().min(length)]))
    }

    /// Writes the end of the bytes.
    fn park(&self) -> Result<()> {
        let bytes = self.tail.len() as u64;
        self.engine.space.take(bytes)?;
        self.engine.write(Durability::Relaxed, |tables| {
            let number = stage(tables, &self.key, self.number, self.stored + bytes)?;
            tables.write_rows(number, self.stored, &self.tail)
        })
    }

    /// Drops the rows.
    pub(crate) fn forget(&mut self) -> Result<()> {
        discard(&self.engine, &self.key)?;
        (self.number, self.stored) = (None, 0);
        Ok(())
    }

    /// Makes a blob of the bytes, unless there is one, and applies the batch; whether rows are
    /// left to remove.
    pub(crate) fn publish(
        &mut self,
        tables: &mut Tables<'_>,
        digest: &Digest,
        batch: &Batch,
    ) -> Result<bool, Failed> {
        check(tables, batch)?;
        let (key, size) = (Key::of(digest), self.offset());
        let stale = match tables.find(&key)? {
            // What is there stays, and our rows go.
            Some(found) if found.size == size => self.number.map(|ours| (ours, self.stored)),
            other => {
                self.insert(tables, &key)?;
                let other = other.filter(|other| other.in_rows);
                other.map(|other| (other.number, other.size))
            }
        };
        let left = match stale {
            Some((number, bytes)) => tables.remove_rows(number, bytes)?,
            None => false,
        };
        if self.number.is_some() {
            tables.ingests.remove(&*self.key)?;
        }
        apply(tables, batch)?;
        self.keep = false;
        Ok(left)
    }

    /// Enters the blob, with its bytes beside its size where they are few.
    fn insert(&self, tables: &mut Tables<'_>, key: &Key) -> Result<(), Failed> {
        let size = self.offset();
        let (number, beside) = match self.number {
            None if self.tail.len() <= BESIDE => (tables.number()?, &*self.tail),
            None => (tables.number()?, &[][..]),
            Some(number) => (number, &[][..]),
        };
        if beside.is_empty() {
            tables.write_rows(number, self.stored, &self.tail)?;
        }
        tables.blobs.insert(key.bytes(), (size, number, beside))?;
        Ok(())
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if !self.keep || self.tail.is_empty() {
            return;
        }
        if let Err(error) = self.park() {
            tracing::warn!(key = self.key, %error, "the end of an unfinished ingest is lost");
        }
    }
}

/// Notes that an ingest has so many bytes in rows; the number of its rows.
fn stage(
    tables: &mut Tables<'_>,
    key: &str,
    known: Option<u64>,
    offset: u64,
) -> Result<u64, Failed> {
    let number = match known {
        Some(number) => number,
        None => tables.number()?,
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    });
    tables.ingests.insert(key, (number, offset, now))?;
    Ok(number)
}

/// Forgets the rows of an ingest that nobody writes; false when it has none.
pub(crate) fn discard(engine: &Engine, key: &str) -> Result<bool> {
    let removed = engine.write(Durability::Relaxed, |tables| {
        let found = tables.ingests.remove(key)?.map(|found| found.value());
        match found {
            Some((number, bytes, _)) => Ok(Some((bytes, tables.remove_rows(number, bytes)?))),
            None => Ok(None),
        }
    })?;
    let Some((bytes, left)) = removed else {
        return Ok(false);
    };
    engine.space.give_back(bytes);
    if left {
        engine.reap()?;
    }
    Ok(true)
}
