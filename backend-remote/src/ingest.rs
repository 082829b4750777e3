//! Bytes on their way in: whole parts go to the bucket at once, the rest waits in memory.
//!
//! An ingest that is let go keeps both, so it can be read back and resumed by this process.

mod desk;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use cas_core::content::{Durability, Verified};
use cas_core::records::Batch;
use cas_core::{Digest, Error, Ingest, Result};
use tokio::task::JoinSet;

pub(crate) use desk::Desk;

use crate::cell::{ATTEMPTS, contended, random};
use crate::runtime;
use crate::store::Remote;
use crate::upload::{PART, Pointer, cell_path};

/// Parts that are on their way at once; more memory than these and the rest is not held.
const FLYING: usize = 3;

/// An upload that no cell names yet.
struct Upload {
    version: u64,
    /// Parts that were sent, or are on their way.
    sent: u64,
    rest: BytesMut,
    flying: JoinSet<Result<()>>,
    /// Whether a cell may name it, for a swap that failed may have been done.
    offered: bool,
}

impl Upload {
    fn new() -> Result<Self> {
        Ok(Upload {
            version: random()?,
            sent: 0,
            rest: BytesMut::new(),
            flying: JoinSet::new(),
            offered: false,
        })
    }

    /// Bytes it holds, while no short part was sent.
    fn offset(&self) -> u64 {
        self.sent * PART as u64 + self.rest.len() as u64
    }

    /// Sends the parts that are whole. Given up in the middle, it holds what it held.
    async fn send_whole(&mut self, remote: &Arc<Remote>) -> Result<()> {
        while self.rest.len() >= PART {
            self.land(FLYING - 1).await?;
            let part = self.rest.split_to(PART).freeze();
            self.send(remote, part)?;
        }
        Ok(())
    }

    fn send(&mut self, remote: &Arc<Remote>, part: Bytes) -> Result<()> {
        let (remote, version, number) = (Arc::clone(remote), self.version, self.sent);
        let put = async move { remote.put_part(version, number, part).await };
        self.flying.spawn_on(put, runtime::handle()?);
        self.sent += 1;
        Ok(())
    }

    /// Waits until no more than `flying` parts are on their way.
    async fn land(&mut self, flying: usize) -> Result<()> {
        while self.flying.len() > flying {
            match runtime::patiently(self.flying.join_next()).await {
                None | Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => return Err(error),
                Some(Err(_)) => return Err(Error::internal("the upload of a part panicked")),
            }
        }
        Ok(())
    }

    /// Sends what there is yet; no bytes can be added afterwards.
    async fn finish(&mut self, remote: &Arc<Remote>) -> Result<()> {
        self.send_whole(remote).await?;
        if !self.rest.is_empty() {
            let rest = self.rest.split().freeze();
            self.send(remote, rest)?;
        }
        self.land(0).await
    }

    /// Makes it the blob, unless that is there whole; whether it did.
    async fn publish(&mut self, remote: &Arc<Remote>, digest: &Digest, size: u64) -> Result<bool> {
        for _ in 0..ATTEMPTS {
            let found = remote.pointer(digest).await?;
            if let Some((pointer, _)) = &found
                && pointer.size == size
                && remote.is_whole(pointer).await?
            {
                return Ok(false);
            }
            self.finish(remote).await?;
            let pointer = Pointer::new(self.version, size);
            self.offered = true;
            if remote.point(digest, &pointer, found).await? {
                return Ok(true);
            }
            self.offered = false;
        }
        Err(contended(&cell_path(digest)))
    }

    /// Deletes what was sent, unless it may be a blob by now.
    async fn clear(mut self, remote: &Remote) -> Result<()> {
        if self.offered {
            return Ok(());
        }
        // A part that arrives after its deletion would stay.
        while self.flying.join_next().await.is_some() {}
        remote.delete_parts(self.version, self.sent).await
    }
}

pub(crate) struct RemoteIngest {
    remote: Arc<Remote>,
    key: String,
    /// Nothing once it failed, or is on its way to be published.
    upload: Option<Upload>,
}

impl RemoteIngest {
    pub(crate) fn begin(remote: Arc<Remote>, key: &str) -> Result<Self> {
        let upload = Some(remote.desk.take(key)?);
        Ok(RemoteIngest {
            remote,
            key: key.to_owned(),
            upload,
        })
    }

    pub(crate) async fn discard(remote: Arc<Remote>, key: &str) -> Result<bool> {
        let Some(upload) = remote.desk.discard(key)? else {
            return Ok(false);
        };
        runtime::run(async move { upload.clear(&remote).await.map(|()| true) }).await
    }

    fn upload(&mut self) -> Result<&mut Upload> {
        self.upload.as_mut().ok_or_else(|| {
            Error::precondition("an earlier write failed; begin the ingest anew").subject(&self.key)
        })
    }

    /// After an error what arrived is not known, so nothing of it is used again.
    async fn poison<T>(&mut self, error: Error) -> Result<T> {
        if let Some(upload) = self.upload.take() {
            let remote = Arc::clone(&self.remote);
            // The service just failed; what cannot be deleted now takes space and nothing else.
            let _ = runtime::run(async move { upload.clear(&remote).await }).await;
        }
        Err(error)
    }

    async fn finish(&mut self, digest: Digest, size: u64) -> Result<()> {
        let remote = Arc::clone(&self.remote);
        let outcome = self.upload()?.publish(&remote, &digest, size).await;
        match (outcome, self.upload.take()) {
            (Ok(true), _) => Ok(()),
            (Ok(false), Some(upload)) => upload.clear(&remote).await,
            (Ok(false), None) => Ok(()),
            (Err(error), upload) => {
                self.upload = upload;
                self.poison(error.operation("publish").subject(digest))
                    .await
            }
        }
    }
}

#[async_trait]
impl Ingest for RemoteIngest {
    fn key(&self) -> &str {
        &self.key
    }

    fn offset(&self) -> u64 {
        self.upload.as_ref().map_or(0, Upload::offset)
    }

    async fn append(&mut self, data: Bytes) -> Result<()> {
        let remote = Arc::clone(&self.remote);
        let upload = self.upload()?;
        upload.rest.extend_from_slice(&data);
        let sent = upload.send_whole(&remote).await;
        let offset = upload.offset();
        remote.desk.note(&self.key, offset);
        match sent {
            Ok(()) => Ok(()),
            Err(error) => self.poison(error).await,
        }
    }

    async fn read_back(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        let remote = Arc::clone(&self.remote);
        let upload = self.upload()?;
        let sent = upload.sent * PART as u64;
        if offset < sent {
            if let Err(error) = upload.land(0).await {
                return self.poison(error).await;
            }
            let pointer = Pointer::new(upload.version, sent);
            return runtime::run(async move { remote.read(&pointer, offset, length as u64).await })
                .await;
        }
        let held = upload.rest.len();
        let start = usize::try_from(offset - sent).map_or(held, |start| start.min(held));
        let end = start.saturating_add(length).min(held);
        Ok(Bytes::copy_from_slice(&upload.rest[start..end]))
    }

    async fn rewind(&mut self) -> Result<()> {
        let fresh = Upload::new()?;
        self.remote.desk.note(&self.key, 0);
        let remote = Arc::clone(&self.remote);
        match self.upload.replace(fresh) {
            Some(old) => runtime::run(async move { old.clear(&remote).await }).await,
            None => Ok(()),
        }
    }

    /// Leaves the batch to whoever is its home: no bucket changes two objects in one step.
    async fn publish(
        mut self: Box<Self>,
        verified: &Verified,
        _: &Batch,
        _: Durability,
    ) -> Result<bool> {
        verified.check(&self.key, self.offset())?;
        let (digest, size) = (*verified.digest(), verified.size());
        runtime::run(async move { self.finish(digest, size).await.map(|()| false) }).await
    }
}

impl Drop for RemoteIngest {
    fn drop(&mut self) {
        self.remote.desk.put_back(&self.key, self.upload.take());
    }
}
