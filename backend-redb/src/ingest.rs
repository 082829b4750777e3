//! Bytes on their way in: the end of them in memory, what is before it in rows.
//!
//! A blob that fits into memory costs one transaction, its publish. The rows of a larger one have
//! the number that the blob will have, so that to publish it is to write one entry.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use cas_core::content::{Durability, Verified};
use cas_core::records::Batch;
use cas_core::{Context, Digest, Error, Ingest, Result, pool};
use redb::ReadableTable;

use crate::engine::{Engine, lock};
use crate::error::Failed;
use crate::group::Change;
use crate::records::{apply, check};
use crate::rows::ROW;
use crate::tables::{Key, Staged, Tables};

/// Bytes that are held in memory before they become rows.
const HELD: usize = 4 * ROW;
/// Bytes after which rows are synced, so that a kill does not cost a long download.
const SYNCED: u64 = 64 << 20;

/// One ingest; its body is away while work on the pool has it, and gone when that failed.
pub(crate) struct RedbIngest {
    key: String,
    offset: u64,
    body: Option<Body>,
}

/// What an ingest holds. Dropping it writes the end of the bytes, for whoever goes on with it.
struct Body {
    engine: Arc<Engine>,
    key: String,
    /// The number of the rows, where there are any.
    number: Option<u64>,
    /// Bytes in rows.
    stored: u64,
    /// Bytes after them.
    tail: BytesMut,
    /// Bytes in rows that a crash would take.
    unsynced: u64,
    /// Whether the end is to be kept.
    keep: bool,
    /// Released at the end of everything.
    _lease: Lease,
}

/// The right to write under a key.
pub(crate) struct Lease {
    engine: Arc<Engine>,
    key: String,
}

impl Lease {
    /// The right, or `Busy`.
    pub(crate) fn take(engine: &Arc<Engine>, key: &str) -> Result<Self> {
        use std::collections::btree_map::Entry;
        match lock(&engine.held).entry(key.to_owned()) {
            Entry::Occupied(_) => Err(Error::busy(
                "another writer holds this ingest; wait for it to end",
            )),
            Entry::Vacant(free) => {
                free.insert((0, SystemTime::now()));
                Ok(Lease {
                    engine: Arc::clone(engine),
                    key: key.to_owned(),
                })
            }
        }
    }

    fn note(&self, offset: u64) {
        lock(&self.engine.held).insert(self.key.clone(), (offset, SystemTime::now()));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.engine.held).remove(&self.key);
    }
}

impl RedbIngest {
    /// Begins the ingest or resumes it; nothing is written.
    pub(crate) fn begin(engine: &Arc<Engine>, key: &str) -> Result<Self> {
        let lease = Lease::take(engine, key)?;
        let found = engine
            .view()?
            .ingests
            .get(key)
            .map_err(crate::error::sort)?;
        let found: Option<Staged> = found.map(|found| found.value());
        let stored = found.map_or(0, |(_, offset, _)| offset);
        lease.note(stored);
        let body = Body {
            engine: Arc::clone(engine),
            key: key.to_owned(),
            number: found.map(|(number, ..)| number),
            stored,
            tail: BytesMut::new(),
            unsynced: 0,
            keep: true,
            _lease: lease,
        };
        Ok(RedbIngest {
            key: key.to_owned(),
            offset: stored,
            body: Some(body),
        })
    }

    fn body(&mut self) -> Result<&mut Body> {
        self.body.as_mut().ok_or_else(|| gone(&self.key))
    }

    /// Lends the body to work on the pool, where it ends with the work that fails or that nobody
    /// waits for.
    async fn lend<F>(&mut self, work: F) -> Result<()>
    where
        F: FnOnce(&mut Body) -> Result<()> + Send + 'static,
    {
        let mut body = self.body.take().ok_or_else(|| gone(&self.key))?;
        let body = pool::run(move || {
            let done = work(&mut body);
            body.keep = done.is_ok();
            done.map(|()| body)
        });
        self.body = Some(body.await?);
        Ok(())
    }
}

#[async_trait]
impl Ingest for RedbIngest {
    fn key(&self) -> &str {
        &self.key
    }

    fn offset(&self) -> u64 {
        self.offset
    }

    async fn append(&mut self, data: Bytes) -> Result<()> {
        let length = data.len();
        let body = self.body()?;
        if body.tail.len() + length < HELD {
            body.tail.extend_from_slice(&data);
        } else {
            let spilled = self.lend(move |body| body.spill(&data)).await;
            spilled.during("append to ingest", &self.key)?;
        }
        self.offset += length as u64;
        let offset = self.offset;
        self.body()?._lease.note(offset);
        Ok(())
    }

    async fn read_back(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        let body = self.body()?;
        body.read(offset, length).during("read ingest", &self.key)
    }

    async fn rewind(&mut self) -> Result<()> {
        let body = self.body()?;
        body.tail.clear();
        if body.number.is_some() {
            let forgotten = self.lend(Body::forget).await;
            forgotten.during("rewind", &self.key)?;
        }
        self.offset = 0;
        self.body()?._lease.note(0);
        Ok(())
    }

    async fn publish(
        mut self: Box<Self>,
        verified: &Verified,
        batch: &Batch,
        durability: Durability,
    ) -> Result<bool> {
        verified.check(&self.key, self.offset)?;
        let body = self.body.take().ok_or_else(|| gone(&self.key))?;
        let (engine, digest, batch) = (Arc::clone(&body.engine), *verified.digest(), batch.clone());
        let bytes = body.tail.len() as u64;
        let change = Change {
            state: body,
            bytes,
            durability,
        };
        let published = async {
            engine.space.take(bytes)?;
            let work = move |body: &mut Body, tables: &mut Tables<'_>| {
                body.publish(tables, &digest, &batch)
            };
            let left = engine.together(change, work).await?;
            if left {
                let engine = Arc::clone(&engine);
                pool::run(move || engine.reap()).await?;
            }
            Ok::<_, Error>(true)
        };
        published.await.during("publish", verified.digest())
    }
}

impl Body {
    fn offset(&self) -> u64 {
        self.stored + self.tail.len() as u64
    }

    /// Turns the end and `data` into rows, but for what fills none.
    fn spill(&mut self, data: &[u8]) -> Result<()> {
        let fill = data.len().min((ROW - self.tail.len() % ROW) % ROW);
        let (first, rest) = data.split_at(fill);
        self.tail.extend_from_slice(first);
        let (rows, left) = rest.split_at(rest.len() - rest.len() % ROW);
        let bytes = (self.tail.len() + rows.len()) as u64;
        self.engine.space.take(bytes)?;
        let sync = self.unsynced + bytes >= SYNCED;
        let durability = match sync {
            true => Durability::Full,
            false => Durability::Relaxed,
        };
        let (tail, key, offset) = (&self.tail, &self.key, self.stored);
        let known = self.number;
        let number = self.engine.write(durability, |tables| {
            let number = stage(tables, key, known, offset + bytes)?;
            tables.write_rows(number, offset, tail)?;
            tables.write_rows(number, offset + tail.len() as u64, rows)?;
            Ok(number)
        })?;
        self.number = Some(number);
        self.stored += bytes;
        self.unsynced = if sync { 0 } else { self.unsynced + bytes };
        self.tail.clear();
        self.tail.extend_from_slice(left);
        Ok(())
    }

    fn read(&self, offset: u64, length: usize) -> Result<Bytes> {
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

    /// Drops the rows.
    fn forget(&mut self) -> Result<()> {
        discard(&self.engine, &self.key)?;
        (self.number, self.stored, self.unsynced) = (None, 0, 0);
        Ok(())
    }

    /// Makes a blob of the bytes, unless there is one, and applies the batch; whether rows are
    /// left to remove.
    fn publish(
        &mut self,
        tables: &mut Tables<'_>,
        digest: &Digest,
        batch: &Batch,
    ) -> Result<bool, Failed> {
        check(tables, batch)?;
        let (key, size) = (Key::of(digest), self.offset());
        let found = tables.blobs.get(key.bytes())?.map(|found| found.value());
        let stale = match found {
            // What is there stays, and our rows go.
            Some((there, _)) if there == size => self.number.map(|ours| (ours, self.stored)),
            other => {
                let number = match self.number {
                    Some(number) => number,
                    None => tables.number()?,
                };
                tables.write_rows(number, self.stored, &self.tail)?;
                tables.blobs.insert(key.bytes(), (size, number))?;
                other.map(|(size, number)| (number, size))
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
}

impl Drop for Body {
    fn drop(&mut self) {
        if !self.keep || self.tail.is_empty() {
            return;
        }
        let (tail, key, offset, known) = (&self.tail, &self.key, self.stored, self.number);
        let kept = self.engine.write(Durability::Relaxed, |tables| {
            let number = stage(tables, key, known, offset + tail.len() as u64)?;
            tables.write_rows(number, offset, tail)
        });
        if let Err(error) = kept {
            tracing::warn!(key, %error, "the end of an unfinished ingest is lost");
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

fn gone(key: &str) -> Error {
    Error::precondition("an earlier write failed; begin the ingest anew").subject(key)
}
