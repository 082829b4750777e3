//! Writing a blob. The last bytes stay in memory, and all other bytes are written to rows.
//!
//! A blob of less than 1 MiB is written in the one transaction that publishes it. The rows of a
//! larger blob are stored under the number of its ingest before the blob is published. The
//! published blob keeps this number, so publishing writes only the last bytes and one entry.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use cas_core::content::{Durability, Verified};
use cas_core::records::Batch;
use cas_core::{Context, Error, Ingest, Result, pool};

use crate::body::Body;
use crate::ingest_lock::IngestLock;
use crate::job::{Change, weight};
use crate::kv::Kv;
use crate::tx::Tx;

/// Maximum number of bytes of an ingest that wait in memory before they are written to rows.
const TAIL_MAX: usize = 1 << 20;

/// An open ingest. `body` is `None` while work on the pool uses it, and stays `None` if the work
/// fails or is cancelled.
pub(crate) struct KvIngest {
    key: String,
    offset: u64,
    body: Option<Body>,
}

impl KvIngest {
    /// Begins the ingest or resumes it. Writes nothing.
    pub(crate) fn begin(kv: &Arc<Kv>, key: &str) -> Result<Self> {
        kv.check_usable()?;
        let lock = IngestLock::acquire(kv, key)?;
        let found = kv.read(|view| view.ingest(key))?;
        let stored = found.map_or(0, |ingest| ingest.offset);
        lock.set_offset(stored);
        let body = Body {
            kv: Arc::clone(kv),
            key: key.to_owned(),
            number: found.map(|ingest| ingest.number),
            stored,
            tail: BytesMut::new(),
            synced_at: Instant::now(),
            save_tail: true,
            lock,
        };
        Ok(KvIngest {
            key: key.to_owned(),
            offset: stored,
            body: Some(body),
        })
    }

    fn body(&mut self) -> Result<&mut Body> {
        self.body.as_mut().ok_or_else(|| failed(&self.key))
    }

    /// Runs `work` on the pool with the body. The body is dropped if `work` fails, or if this
    /// future is dropped before `work` ends.
    async fn run<F>(&mut self, work: F) -> Result<()>
    where
        F: FnOnce(&mut Body) -> Result<()> + Send + 'static,
    {
        let mut body = self.body.take().ok_or_else(|| failed(&self.key))?;
        let body = pool::run(move || {
            let done = work(&mut body);
            body.save_tail = done.is_ok();
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
        if body.tail.len() + length < TAIL_MAX {
            body.tail.extend_from_slice(&data);
        } else {
            let spilled = self.run(move |body| body.spill(&data)).await;
            spilled.during("append to ingest", &self.key)?;
        }
        self.offset += length as u64;
        let offset = self.offset;
        self.body()?.lock.set_offset(offset);
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
            let removed = self.run(Body::remove_rows).await;
            removed.during("rewind", &self.key)?;
        }
        self.offset = 0;
        self.body()?.lock.set_offset(0);
        Ok(())
    }

    async fn publish(
        mut self: Box<Self>,
        verified: &Verified,
        batch: &Batch,
        durability: Durability,
    ) -> Result<bool> {
        verified.check(&self.key, self.offset)?;
        let body = self.body.take().ok_or_else(|| failed(&self.key))?;
        let (kv, digest, batch) = (Arc::clone(&body.kv), *verified.digest(), batch.clone());
        let staged = body.number.is_some();
        let bytes = body.tail.len() as u64;
        let change = Change {
            state: body,
            weight: weight(1, bytes),
            low_priority: false,
            durability,
        };
        let published = async {
            kv.claim_space(bytes)?;
            if staged {
                let kv = Arc::clone(&kv);
                pool::run(move || kv.engine.flush_staged()).await?;
            }
            let work = move |body: &mut Body, tx: &mut Tx<'_>| body.publish(tx, &digest, &batch);
            let left = kv.submit(change, work).await?;
            if left {
                let kv = Arc::clone(&kv);
                pool::run(move || kv.engine.finish_removals()).await?;
            }
            Ok::<_, Error>(true)
        };
        published.await.during("publish", verified.digest())
    }
}

fn failed(key: &str) -> Error {
    Error::precondition("an earlier write failed or was cancelled; begin the ingest again")
        .subject(key)
}
