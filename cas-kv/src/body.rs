//! The bytes of an ingest. The last bytes are in memory, and all other bytes are in rows.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use cas_core::content::Durability;
use cas_core::records::Batch;
use cas_core::{Digest, Result};

use crate::batch::{apply, check};
use crate::engine::{BlobEntry, Failed, IngestEntry, Rows, View};
use crate::ingest_lock::IngestLock;
use crate::kv::Kv;
use crate::tx::Tx;

/// Minimum time between two syncs of the rows. A crash may lose what was written since the last
/// sync.
const SYNC_INTERVAL: Duration = Duration::from_secs(5);

/// The bytes of an ingest. If `save_tail` is set when the value is dropped, the tail is written to
/// rows, so that the ingest can be resumed.
pub(crate) struct Body {
    pub(crate) kv: Arc<Kv>,
    pub(crate) key: String,
    /// The number that identifies the rows, if there are any.
    pub(crate) number: Option<u64>,
    /// Number of bytes in rows.
    pub(crate) stored: u64,
    /// The bytes that are not in rows yet.
    pub(crate) tail: BytesMut,
    /// When the rows were last synced, or when the ingest was opened.
    pub(crate) synced_at: Instant,
    /// Whether to write the tail to rows on drop.
    pub(crate) save_tail: bool,
    /// Released after the tail is written.
    pub(crate) lock: IngestLock,
}

impl Body {
    fn offset(&self) -> u64 {
        self.stored + self.tail.len() as u64
    }

    /// Returns the rows of this ingest as a blob entry, or `None` if it has no rows.
    fn stored_rows(&self) -> Option<BlobEntry> {
        self.number.map(|number| BlobEntry {
            size: self.stored,
            number,
            rows: Rows::Many,
        })
    }

    /// Writes the tail and `data` to rows, except for the last bytes that do not fill a row.
    pub(crate) fn spill(&mut self, data: &[u8]) -> Result<()> {
        let row = self.kv.engine.row_size();
        let fill = data.len().min((row - self.tail.len() % row) % row);
        let (first, rest) = data.split_at(fill);
        self.tail.extend_from_slice(first);
        let (rows, left) = rest.split_at(rest.len() - rest.len() % row);
        let bytes = (self.tail.len() + rows.len()) as u64;
        self.kv.claim_space(bytes)?;
        let sync = self.synced_at.elapsed() >= SYNC_INTERVAL;
        let durability = if sync {
            Durability::Full
        } else {
            Durability::Relaxed
        };
        let (tail, offset) = (&self.tail, self.stored);
        let number = self.kv.write(durability, |tx| {
            let number = put_ingest(tx, &self.key, self.number, offset + bytes)?;
            tx.stage_rows(number, offset, tail)?;
            tx.stage_rows(number, offset + tail.len() as u64, rows)?;
            Ok(number)
        })?;
        self.number = Some(number);
        self.stored += bytes;
        if sync {
            self.synced_at = Instant::now();
        }
        self.tail.clear();
        self.tail.extend_from_slice(left);
        Ok(())
    }

    /// Returns up to `length` bytes from `offset`. Returns fewer at the end of the rows, and at the
    /// end of the tail.
    pub(crate) fn read(&self, offset: u64, length: usize) -> Result<Bytes> {
        let left = usize::try_from(self.stored.saturating_sub(offset)).unwrap_or(usize::MAX);
        if let Some(number) = self.number.filter(|_| left > 0) {
            let read = |view: &dyn View| view.read_rows(number, offset, length.min(left));
            return self.kv.read(read);
        }
        let skip = usize::try_from(offset - self.stored.min(offset)).unwrap_or(usize::MAX);
        let rest = self.tail.get(skip..).unwrap_or_default();
        Ok(Bytes::copy_from_slice(&rest[..rest.len().min(length)]))
    }

    /// Writes the tail to rows.
    fn write_tail(&self) -> Result<()> {
        let bytes = self.tail.len() as u64;
        self.kv.claim_space(bytes)?;
        self.kv.write(Durability::Relaxed, |tx| {
            let number = put_ingest(tx, &self.key, self.number, self.stored + bytes)?;
            tx.stage_rows(number, self.stored, &self.tail)
        })
    }

    /// Removes the rows and the entry of the ingest.
    pub(crate) fn remove_rows(&mut self) -> Result<()> {
        discard(&self.kv, &self.key)?;
        (self.number, self.stored) = (None, 0);
        Ok(())
    }

    /// Turns the ingest into a blob. If the store already has the blob with the same size, removes
    /// the rows of the ingest instead. Applies the batch in both cases. Returns whether rows remain
    /// for `Engine::finish_removals`.
    pub(crate) fn publish(
        &mut self,
        tx: &mut Tx<'_>,
        digest: &Digest,
        batch: &Batch,
    ) -> Result<bool, Failed> {
        check(tx, batch)?;
        let size = self.offset();
        let stale = match tx.inner.find_blob(digest)? {
            // The stored blob is kept, and the rows of this ingest are removed.
            Some(found) if found.is_readable() && found.size == size => self.stored_rows(),
            other => {
                self.insert_blob(tx, digest)?;
                other.filter(BlobEntry::in_rows)
            }
        };
        let left = match stale {
            Some(stale) => {
                tx.removed += self.kv.engine.footprint(stale.size);
                tx.inner.remove_rows(stale)?
            }
            None => false,
        };
        if self.number.is_some() {
            tx.inner.remove_ingest(&self.key)?;
        }
        apply(tx, batch)?;
        self.save_tail = false;
        Ok(left)
    }

    /// Inserts the entry of the blob, and its bytes that are not in rows yet.
    fn insert_blob(&self, tx: &mut Tx<'_>, digest: &Digest) -> Result<(), Failed> {
        let rows = match self.number {
            None if self.tail.len() <= tx.inline_max => Rows::Inline,
            None if self.tail.len() <= tx.row_size => Rows::One,
            _ => Rows::Many,
        };
        let number = match self.number {
            Some(number) => number,
            None => tx.next_number()?,
        };
        let blob = BlobEntry {
            size: self.offset(),
            number,
            rows,
        };
        if blob.in_rows() {
            tx.write_rows(number, self.stored, &self.tail)?;
        }
        let inline = match rows {
            Rows::Inline => &*self.tail,
            _ => &[],
        };
        tx.inner.insert_blob(digest, blob, inline)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if !self.save_tail || self.tail.is_empty() {
            return;
        }
        if let Err(error) = self.write_tail() {
            let key = &*self.key;
            tracing::warn!(key, %error, "the last bytes of an ingest are lost; write them again");
        }
    }
}

/// Records that an ingest has `offset` bytes in rows. Returns the number that identifies its rows.
fn put_ingest(tx: &mut Tx<'_>, key: &str, known: Option<u64>, offset: u64) -> Result<u64, Failed> {
    let number = match known {
        Some(number) => number,
        None => tx.next_number()?,
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let millis = now.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    });
    let ingest = IngestEntry {
        number,
        offset,
        millis,
    };
    tx.inner.put_ingest(key, ingest)?;
    Ok(number)
}

/// Removes an ingest and its rows. The caller holds its lock. Returns whether it had rows.
pub(crate) fn discard(kv: &Kv, key: &str) -> Result<bool> {
    let removed = kv.write(Durability::Relaxed, |tx| {
        let Some(ingest) = tx.inner.remove_ingest(key)? else {
            return Ok(None);
        };
        let left = tx.inner.remove_rows(ingest.as_blob())?;
        let freed = kv.engine.footprint(ingest.offset);
        tx.removed += freed;
        Ok(Some((freed, left)))
    })?;
    let Some((freed, left)) = removed else {
        return Ok(false);
    };
    kv.engine.space().add_removed(freed);
    if left {
        kv.engine.finish_removals()?;
    }
    Ok(true)
}
