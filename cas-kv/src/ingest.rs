//! Bytes on their way in: the end of them in memory, what is before it in rows.
//!
//! A blob that fits into memory costs one transaction, its publish. The rows of a larger one have
//! the number that the blob will have, so that to publish it is to write one entry.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use cas_core::content::{Durability, Verified};
use cas_core::records::Batch;
use cas_core::{Context, Error, Ingest, Result, pool};

use crate::body::Body;
use crate::job::{Change, weight};
use crate::kv::Kv;
use crate::lease::Lease;
use crate::tables::Tables;

/// Bytes that are held in memory before they become rows.
const HELD: usize = 1 << 20;

/// One ingest; its body is away while work on the pool has it, and gone when that failed.
pub(crate) struct KvIngest {
    key: String,
    offset: u64,
    body: Option<Body>,
}

impl KvIngest {
    /// Begins the ingest or resumes it; nothing is written.
    pub(crate) fn begin(kv: &Arc<Kv>, key: &str) -> Result<Self> {
        kv.check_whole()?;
        let lease = Lease::take(kv, key)?;
        let found = kv.engine.view()?.ingest(key)?;
        let stored = found.map_or(0, |staged| staged.offset);
        lease.note(stored);
        let body = Body {
            kv: Arc::clone(kv),
            key: key.to_owned(),
            number: found.map(|staged| staged.number),
            stored,
            tail: BytesMut::new(),
            synced: Instant::now(),
            keep: true,
            lease,
        };
        Ok(KvIngest {
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
impl Ingest for KvIngest {
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
        self.body()?.lease.note(offset);
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
        self.body()?.lease.note(0);
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
        let (kv, digest, batch) = (Arc::clone(&body.kv), *verified.digest(), batch.clone());
        let staged = body.number.is_some();
        let bytes = body.tail.len() as u64;
        let change = Change {
            state: body,
            weight: weight(1, bytes),
            patient: false,
            durability,
        };
        let published = async {
            kv.take(bytes)?;
            if staged {
                let kv = Arc::clone(&kv);
                pool::run(move || kv.engine.settle()).await?;
            }
            let work = move |body: &mut Body, tables: &mut Tables<'_>| {
                body.publish(tables, &digest, &batch)
            };
            let left = kv.together(change, work).await?;
            if left {
                let kv = Arc::clone(&kv);
                pool::run(move || kv.engine.reap()).await?;
            }
            Ok::<_, Error>(true)
        };
        published.await.during("publish", verified.digest())
    }
}

fn gone(key: &str) -> Error {
    Error::precondition("an earlier write failed; begin the ingest anew").subject(key)
}
