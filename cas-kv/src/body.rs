//! What an ingest holds: the end of its bytes in memory, what is before it in rows.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use cas_core::content::Durability;
use cas_core::records::Batch;
use cas_core::{Digest, Result};

use crate::batch::{apply, check};
use crate::engine::{Failed, Found, Rows, Staged};
use crate::kv::Kv;
use crate::lease::Lease;
use crate::tables::Tables;

/// Time after which rows are synced, so that a kill does not cost a long download; bytes that come
/// fast are soon had again.
const SYNCED: Duration = Duration::from_secs(5);

/// What an ingest holds. Dropping it writes the end of the bytes, for whoever goes on with it.
pub(crate) struct Body {
    pub(crate) kv: Arc<Kv>,
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

    /// What is in rows.
    fn staged(&self) -> Option<Found> {
        self.number.map(|number| Found {
            size: self.stored,
            number,
            rows: Rows::Many,
        })
    }

    /// Turns the end and `data` into rows, but for what fills none.
    pub(crate) fn spill(&mut self, data: &[u8]) -> Result<()> {
        let row = self.kv.engine.row();
        let fill = data.len().min((row - self.tail.len() % row) % row);
        let (first, rest) = data.split_at(fill);
        self.tail.extend_from_slice(first);
        let (rows, left) = rest.split_at(rest.len() - rest.len() % row);
        let bytes = (self.tail.len() + rows.len()) as u64;
        self.kv.take(bytes)?;
        let sync = self.synced.elapsed() >= SYNCED;
        let durability = match sync {
            true => Durability::Full,
            false => Durability::Relaxed,
        };
        let (tail, offset) = (&self.tail, self.stored);
        let number = self.kv.write(durability, |tables| {
            let number = stage(tables, &self.key, self.number, offset + bytes)?;
            tables.stage(number, offset, tail)?;
            tables.stage(number, offset + tail.len() as u64, rows)?;
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
            let view = self.kv.engine.view()?;
            return view.read(number, offset, length.min(left));
        }
        let skip = usize::try_from(offset - self.stored.min(offset)).unwrap_or(usize::MAX);
        let held = self.tail.get(skip..).unwrap_or_default();
        Ok(Bytes::copy_from_slice(&held[..held.len().min(length)]))
    }

    /// Writes the end of the bytes.
    fn park(&self) -> Result<()> {
        let bytes = self.tail.len() as u64;
        self.kv.take(bytes)?;
        self.kv.write(Durability::Relaxed, |tables| {
            let number = stage(tables, &self.key, self.number, self.stored + bytes)?;
            tables.stage(number, self.stored, &self.tail)
        })
    }

    /// Drops the rows.
    pub(crate) fn forget(&mut self) -> Result<()> {
        discard(&self.kv, &self.key)?;
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
        let size = self.offset();
        let stale = match tables.tables.find(digest)? {
            // What is there stays, and our rows go.
            Some(found) if found.size == size => self.staged(),
            other => {
                self.enter(tables, digest)?;
                other.filter(Found::in_rows)
            }
        };
        let left = match stale {
            Some(found) => tables.tables.erase(found)?,
            None => false,
        };
        if self.number.is_some() {
            tables.tables.forget(&self.key)?;
        }
        apply(tables, batch)?;
        self.keep = false;
        Ok(left)
    }

    /// Enters the blob, with its bytes beside its size where they are few.
    fn enter(&self, tables: &mut Tables<'_>, digest: &Digest) -> Result<(), Failed> {
        let rows = match self.number {
            None if self.tail.len() <= tables.beside => Rows::Beside,
            None if self.tail.len() <= tables.row => Rows::One,
            _ => Rows::Many,
        };
        let number = match self.number {
            Some(number) => number,
            None => tables.number()?,
        };
        let found = Found {
            size: self.offset(),
            number,
            rows,
        };
        if found.in_rows() {
            tables.write(number, self.stored, &self.tail)?;
        }
        let beside = match rows {
            Rows::Beside => &*self.tail,
            _ => &[],
        };
        tables.tables.enter(digest, found, beside)
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
    let millis = now.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    });
    let staged = Staged {
        number,
        offset,
        millis,
    };
    tables.tables.note(key, staged)?;
    Ok(number)
}

/// Forgets the rows of an ingest that nobody writes; false when it has none.
pub(crate) fn discard(kv: &Kv, key: &str) -> Result<bool> {
    let removed = kv.write(Durability::Relaxed, |tables| {
        let tables = &mut *tables.tables;
        let Some(staged) = tables.forget(key)? else {
            return Ok(None);
        };
        let left = tables.erase(staged.rows())?;
        Ok(Some((staged.offset, left)))
    })?;
    let Some((bytes, left)) = removed else {
        return Ok(false);
    };
    kv.engine.space().give_back(kv.engine.footprint(bytes));
    if left {
        kv.engine.reap()?;
    }
    Ok(true)
}
