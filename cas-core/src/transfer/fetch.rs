//! Fetches blobs and documents from a remote.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use super::layer_feed::{LayerFeed, LayerSender};
use super::options::PullOptions;
use super::pull_limits::PullLimits;
use super::quota::ImageQuota;
use super::remote::Fetcher;
use super::remote_blob::RemoteBlob;
use super::source::{BlobSource, StoredBlob};
use super::store_blob::{BlobWrite, RecordOrder, Resume, first_cause, is_corrupt, store_blob};
use super::unpacker::Unpacker;
use crate::content::{BlobReader, Durability, WRITER_TIMEOUT};
use crate::descriptor::Descriptor;
use crate::digest::{Digest, Hasher};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::lease::{BlobRef, LeaseGuard, stored_copy};
use crate::progress::Progress;
use crate::store::Store;
use crate::{limit, pool};

/// The result of [`fetch`]: content that is in the store.
pub struct Fetched {
    /// Reads the bytes of the content.
    pub reader: Arc<dyn BlobReader>,
    /// Whether the store had the content before, so that nothing was fetched.
    pub was_stored: bool,
}

/// Fetches the content of `descriptor` into the store if it is missing or damaged there, and pins
/// it under the lease of `guard`. The content is durable after the next
/// [`flush`](crate::content::ContentStore::flush). Returns the stored content.
///
/// Bytes that an earlier attempt left are kept, and only the rest is fetched. If the complete
/// content then has a wrong digest, all bytes are fetched again. The bytes of a layer that is
/// fetched are also fed to the unpacker of `options` if [`Unpacker::wants`] requests this and no
/// earlier attempt left bytes.
///
/// # Errors
/// `Corrupt` if the remote sends other bytes than `descriptor` specifies (then no bytes are kept),
/// or if the bytes that an earlier attempt left cannot be read back; `Busy` if another job still
/// writes the same blob after a wait of ten minutes; `Unavailable` if the blob was removed
/// meanwhile; errors of the remote, the store and the unpacker.
pub async fn fetch(
    store: &Store,
    guard: &LeaseGuard,
    fetcher: &dyn Fetcher,
    descriptor: &Descriptor,
    options: &PullOptions<'_>,
) -> Result<Fetched> {
    let was_stored = fetch_into(store, guard, fetcher, descriptor, options).await?;
    let reader = store.content.open(&descriptor.digest).await?;
    let reader = reader.ok_or_else(|| {
        Error::unavailable("the blob was removed while it was fetched; repeat the command")
            .operation("fetch")
            .subject(descriptor.digest)
    })?;
    Ok(Fetched { reader, was_stored })
}

/// Fetches content as [`fetch`] does, but does not open it. Returns whether the store had it.
///
/// # Errors
/// As [`fetch`].
pub(crate) async fn fetch_into(
    store: &Store,
    guard: &LeaseGuard,
    fetcher: &dyn Fetcher,
    descriptor: &Descriptor,
    options: &PullOptions<'_>,
) -> Result<bool> {
    let fetch = Fetch {
        store,
        guard,
        fetcher,
        limits: &options.limits,
        requests: &options.limits.requests().for_image(),
        progress: &*options.progress,
    };
    let unpacker = options.unpacker;
    let unpacker = unpacker.filter(|unpacker| unpacker.wants(descriptor).is_fed());
    fetch.store(descriptor, unpacker).await
}

/// What the fetches of one pull have in common.
#[derive(Clone, Copy)]
pub(super) struct Fetch<'a> {
    pub(super) store: &'a Store,
    pub(super) guard: &'a LeaseGuard,
    pub(super) fetcher: &'a dyn Fetcher,
    pub(super) limits: &'a PullLimits,
    pub(super) requests: &'a ImageQuota,
    pub(super) progress: &'a dyn Progress,
}

impl Fetch<'_> {
    /// Pins a blob and stores it if it is missing or damaged. While it is stored, it is also fed to
    /// `unpacker`. Returns whether the store had it.
    ///
    /// # Errors
    /// As [`fetch`].
    pub(super) async fn store(
        &self,
        descriptor: &Descriptor,
        unpacker: Option<&dyn Unpacker>,
    ) -> Result<bool> {
        let outcome = self.pin_or_store(descriptor, unpacker).await;
        outcome.during("fetch", descriptor.digest)
    }

    async fn pin_or_store(
        &self,
        descriptor: &Descriptor,
        unpacker: Option<&dyn Unpacker>,
    ) -> Result<bool> {
        let blob = BlobRef::of(descriptor, Vec::new());
        if self.guard.pin_intact(blob).await? {
            return Ok(true);
        }
        let feed = || unpacker?.receive(descriptor);
        let write = BlobWrite {
            store: self.store,
            guard: self.guard,
            record: RecordOrder::WithBytes(descriptor),
            durability: Durability::Relaxed,
            resume: Resume::OrRestart,
            writer_timeout: WRITER_TIMEOUT,
            feed: Some(&feed),
            progress: self.progress,
        };
        let mut source = self.remote_blob(descriptor);
        store_blob(&write, &mut source).await.map(|_| false)
    }

    /// Verifies a layer and feeds it to `unpacker`, but does not store it. Its bytes come from the
    /// store if the store has them and they are not damaged. Does nothing if `unpacker` does not
    /// receive the layer.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not those of `layer`; errors of the remote, the store and the
    /// unpacker.
    pub(super) async fn feed(&self, layer: &Descriptor, unpacker: &dyn Unpacker) -> Result<()> {
        let outcome = self.feed_admitted(layer, unpacker).await;
        outcome.during("fetch", layer.digest)
    }

    async fn feed_admitted(&self, layer: &Descriptor, unpacker: &dyn Unpacker) -> Result<()> {
        // The unpacker admits the layer before the request is made. A request that waited for the
        // unpacker would count in the quota, and delay the requests of other layers.
        unpacker.admit(layer).await?;
        match self.open_intact(layer).await? {
            Some(reader) => {
                let mut source = StoredBlob::new(reader);
                self.feed_from(&mut source, layer, unpacker).await
            }
            None => {
                let mut source = self.remote_blob(layer);
                self.feed_from(&mut source, layer, unpacker).await
            }
        }
    }

    /// Opens the stored copy of a layer. Returns `None` if the copy is absent or damaged. An
    /// unpacker takes a layer only once, so the copy is checked before it is fed.
    async fn open_intact(&self, layer: &Descriptor) -> Result<Option<Arc<dyn BlobReader>>> {
        match stored_copy(self.store, &layer.digest, layer.size).await? {
            Some((_, true)) => self.store.content.open(&layer.digest).await,
            _ => Ok(None),
        }
    }

    fn remote_blob<'a>(&'a self, descriptor: &'a Descriptor) -> RemoteBlob<'a> {
        RemoteBlob::new(self.fetcher, descriptor, self.limits, self.requests)
    }

    async fn feed_from(
        &self,
        source: &mut dyn BlobSource,
        layer: &Descriptor,
        unpacker: &dyn Unpacker,
    ) -> Result<()> {
        let Some(LayerFeed { sender, unpacked }) = unpacker.receive(layer) else {
            return Ok(());
        };
        let (sent, unpacked) = tokio::join!(self.send(source, layer, sender), unpacked);
        let fed = first_cause(sent, unpacked);
        if is_corrupt(&fed) {
            // The unpacker takes a layer only once, so this pull fails. If the caller repeats the
            // pull with this fetcher, the layer comes from another place, if there is one.
            source.distrust();
        }
        fed
    }

    /// Sends all bytes of a layer, and its end once they are verified.
    async fn send(
        &self,
        source: &mut dyn BlobSource,
        layer: &Descriptor,
        sender: LayerSender,
    ) -> Result<()> {
        let item = layer.digest.to_string();
        let (mut hasher, mut size) = (Hasher::new(layer.digest.algorithm()), 0);
        source.open(0).await?;
        self.progress.begin(&item, Some(layer.size));
        while let Some(piece) = source.next().await? {
            let length = piece.len() as u64;
            size += length;
            check_size(layer.size, size)?;
            let hashed = piece.clone();
            let hashing = pool::run(move || {
                hasher.update(&hashed);
                Ok(hasher)
            });
            let (hashing, ()) = tokio::join!(hashing, sender.send(piece));
            hasher = hashing?;
            self.progress.advance(&item, length);
        }
        check(layer, size, hasher.finish())?;
        sender.end().await;
        self.progress.end(&item);
        Ok(())
    }

    /// Returns the whole of a document from the remote, verified. Does not store it.
    ///
    /// # Errors
    /// `Corrupt` if the remote sends other bytes than `descriptor` specifies; `OutOfRange` for more
    /// than [`limit::DOCUMENT_READ`] bytes; errors of the remote.
    pub(super) async fn document(&self, descriptor: &Descriptor) -> Result<Bytes> {
        let _lease = self.requests.acquire().await?;
        let data = self.read(descriptor).await;
        data.during("fetch", descriptor.digest)
    }

    async fn read(&self, descriptor: &Descriptor) -> Result<Bytes> {
        let (size, allowed) = (descriptor.size, limit::DOCUMENT_READ);
        if size > allowed {
            return Err(Error::out_of_range(format!(
                "the document has {size} bytes; at most {allowed} are read; push the image again \
                 with fewer entries"
            )));
        }
        loop {
            match self.read_once(descriptor).await {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    if !self.fetcher.distrust(descriptor) {
                        return Err(error);
                    }
                }
                read => return read,
            }
        }
    }

    async fn read_once(&self, descriptor: &Descriptor) -> Result<Bytes> {
        let (size, mut data) = (descriptor.size, BytesMut::new());
        let mut pieces = self.fetcher.fetch(descriptor, 0..size).await?;
        while let Some(piece) = pieces.next().await.transpose()? {
            data.extend_from_slice(&piece);
            check_size(size, data.len() as u64)?;
        }
        let found = Digest::of(descriptor.digest.algorithm(), &data);
        check(descriptor, data.len() as u64, found)?;
        Ok(data.freeze())
    }
}

fn check_size(expected: u64, found: u64) -> Result<()> {
    if found <= expected {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "expected {expected} bytes, found more; check the source of these bytes"
    )))
}

fn check(descriptor: &Descriptor, size: u64, digest: Digest) -> Result<()> {
    if size == descriptor.size && digest == descriptor.digest {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "expected {} bytes of this digest, found {size} bytes of {digest}; check the source of \
         these bytes",
        descriptor.size
    )))
}
