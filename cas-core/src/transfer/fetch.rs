//! Fetches one blob from a remote into a store.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use super::remote::Fetcher;
use crate::content::{ContentExt, Durability, Expected, Writer};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::lease::{BlobRef, LeaseGuard};
use crate::limit;
use crate::progress::Progress;
use crate::store::Store;

use super::unpacker::{Feed, Receiving, Unpacker, write_through};

/// How long the writer of the same blob, in another pull, is waited for.
const PATIENCE: Duration = Duration::from_secs(600);

/// Fetches the content of `descriptor` into the store, where it is not there yet, held by `guard`.
/// It is durable after the next flush.
///
/// What an earlier attempt has left is kept, and only the rest is fetched. A layer that comes from
/// its first byte on is offered to `unpacker`.
///
/// # Errors
/// `Corrupt` when the remote has other bytes than `descriptor` says, and nothing is kept of them
/// then; `Busy` when another job has been fetching it for ten minutes; those of both sides.
pub async fn fetch(
    store: &Store,
    guard: &LeaseGuard,
    fetcher: &dyn Fetcher,
    descriptor: &Descriptor,
    unpacker: Option<&dyn Unpacker>,
    progress: &dyn Progress,
) -> Result<()> {
    let job = Job {
        store,
        guard,
        fetcher,
        descriptor,
        unpacker,
        progress,
    };
    let mut resumed = false;
    let mut outcome = job.attempt(&mut resumed).await;
    if resumed && is_corrupt(&outcome) {
        // The damage may be in what was there before.
        outcome = job.attempt(&mut resumed).await;
    }
    outcome.during("fetch", descriptor.digest)
}

fn is_corrupt(outcome: &Result<()>) -> bool {
    let error = outcome.as_ref().err();
    error.is_some_and(|error| error.kind() == ErrorKind::Corrupt)
}

/// Whether the content of `descriptor` is there; in another size it is damaged, and counts as
/// absent.
async fn is_there(store: &Store, descriptor: &Descriptor) -> Result<bool> {
    let stat = store.content.stat(&descriptor.digest).await?;
    Ok(stat.is_some_and(|stat| stat.size == descriptor.size))
}

struct Job<'a> {
    store: &'a Store,
    guard: &'a LeaseGuard,
    fetcher: &'a dyn Fetcher,
    descriptor: &'a Descriptor,
    unpacker: Option<&'a dyn Unpacker>,
    progress: &'a dyn Progress,
}

impl Job<'_> {
    /// Fetches it once, and says whether it went on from what was there.
    async fn attempt(&self, resumed: &mut bool) -> Result<()> {
        let key = self.descriptor.digest.to_string();
        let content = &self.store.content;
        let wanted = BlobRef::of(self.descriptor, Vec::new());
        if self.guard.pin(wanted.clone()).await? {
            return Ok(());
        }
        let expected = Expected::exactly(self.descriptor.digest, self.descriptor.size);
        let mut writer = content.begin_or_wait(&key, expected, PATIENCE).await?;
        if is_there(self.store, self.descriptor).await? {
            // Whoever was waited for has stored it.
            drop(writer);
            content.discard(&key).await?;
            return Ok(());
        }
        if writer.offset() > self.descriptor.size {
            writer.rewind().await?;
        }
        *resumed = writer.offset() > 0;
        let receiving = self.unpacker.filter(|_| !*resumed);
        let receiving = receiving.and_then(|unpacker| unpacker.receive(self.descriptor));
        let Some(Receiving { feed, unpacked }) = receiving else {
            return self.poured(writer, &wanted, None).await;
        };
        let poured = self.poured(writer, &wanted, Some(feed));
        let (poured, unpacked) = tokio::join!(poured, unpacked);
        poured.and(unpacked)
    }

    async fn poured(&self, writer: Writer, wanted: &BlobRef, feed: Option<Feed>) -> Result<()> {
        let key = writer.key().to_owned();
        let outcome = self.pour(writer, wanted, feed).await;
        if is_corrupt(&outcome) {
            // What the ingest holds is no beginning of the blob, so it must not be resumed.
            self.store.content.discard(&key).await?;
        }
        outcome
    }

    async fn pour(&self, mut writer: Writer, wanted: &BlobRef, feed: Option<Feed>) -> Result<()> {
        let item = self.descriptor.digest.to_string();
        self.progress.begin(&item, Some(self.descriptor.size));
        self.progress.advance(&item, writer.offset());
        if writer.offset() < self.descriptor.size {
            let start = writer.offset();
            let mut pieces = self.fetcher.fetch(self.descriptor, start).await?;
            while let Some(piece) = pieces.next().await.transpose()? {
                let length = piece.len() as u64;
                write_through(&mut writer, piece, feed.as_ref()).await?;
                self.progress.advance(&item, length);
            }
        }
        self.guard
            .publish(writer, wanted, Durability::Relaxed)
            .await?;
        if let Some(feed) = feed {
            feed.end().await;
        }
        self.progress.end(&item);
        Ok(())
    }
}

/// The whole of a document, checked.
///
/// # Errors
/// As [`fetch`]; `OutOfRange` over [`limit::DOCUMENT_READ`].
pub(super) async fn document(fetcher: &dyn Fetcher, descriptor: &Descriptor) -> Result<Bytes> {
    read(fetcher, descriptor)
        .await
        .during("fetch", descriptor.digest)
}

async fn read(fetcher: &dyn Fetcher, descriptor: &Descriptor) -> Result<Bytes> {
    let expected = descriptor.size;
    if expected > limit::DOCUMENT_READ {
        let allowed = limit::DOCUMENT_READ;
        return Err(Error::out_of_range(format!(
            "a document of {expected} bytes, at most {allowed} are read"
        )));
    }
    let mut data = BytesMut::new();
    let mut pieces = fetcher.fetch(descriptor, 0).await?;
    while let Some(piece) = pieces.next().await.transpose()? {
        data.extend_from_slice(&piece);
        if data.len() as u64 > expected {
            return Err(Error::corrupt(format!(
                "expected {expected} bytes, found more"
            )));
        }
    }
    let found = Digest::of(descriptor.digest.algorithm(), &data);
    if data.len() as u64 != expected || found != descriptor.digest {
        return Err(Error::corrupt(format!(
            "expected {expected} bytes of this digest, found {} bytes of {found}",
            data.len()
        )));
    }
    Ok(data.freeze())
}
