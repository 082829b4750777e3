//! Stores a blob that comes from a source.
//!
//! An ingest is begun or resumed, filled from a source, verified and published. An ingest whose
//! bytes turn out to be wrong must not be resumed. So it is discarded, except if another writer has
//! already opened it.

use std::time::Duration;

use super::layer_feed::{LayerFeed, LayerSender};
use super::source::BlobSource;
use crate::content::{ContentExt, Durability, Expected, Writer, discard_unless_open};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::lease::{BlobRef, LeaseGuard};
use crate::progress::Progress;
use crate::records::Batch;
use crate::store::Store;

/// A blob to store, and how to store it.
pub struct BlobWrite<'a> {
    /// The store that receives the blob.
    pub store: &'a Store,
    /// The lease under which the blob is pinned.
    pub guard: &'a LeaseGuard,
    /// Which blob is stored, and when its record is written.
    pub record: RecordOrder<'a>,
    /// How durable the blob is when it is published.
    pub durability: Durability,
    /// What to do with the bytes that an earlier attempt left.
    pub resume: Resume,
    /// Maximum time to wait for another writer of the same blob.
    pub writer_timeout: Duration,
    /// Returns the feed that passes the bytes to an unpacker while they are stored, or `None` if
    /// the bytes are only stored. The function is called only if the blob is written from its
    /// first byte.
    pub feed: Option<&'a (dyn Fn() -> Option<LayerFeed<'a>> + Sync)>,
    /// Receives the progress.
    pub progress: &'a dyn Progress,
}

/// Which blob is stored, and when its record is written.
#[derive(Clone, Copy)]
pub enum RecordOrder<'a> {
    /// The record is written with the bytes, in one commit if the store supports this. The caller
    /// has pinned the blob and found it missing or damaged. If another writer has stored the blob
    /// since then, nothing is written.
    WithBytes(&'a Descriptor),
    /// The record was written when the caller pinned the blob. The bytes are committed without a
    /// record, even if another writer has stored the blob since then.
    BeforeBytes {
        /// The digest.
        digest: Digest,
        /// The size in bytes.
        size: u64,
    },
    /// The digest is not known until all bytes are read. Then the record is written, and after the
    /// record the bytes are committed. If the store already has an intact copy of the blob, the
    /// bytes are not committed, and the ingest is discarded.
    OnceKnown {
        /// The key of the ingest.
        key: &'a str,
        /// The size in bytes, if it is known.
        size: Option<u64>,
        /// This function is called with the digest before the bytes are committed, if the store
        /// does not have an intact copy of the blob.
        created: &'a (dyn Fn(Digest) + Sync),
    },
}

/// What to do with the bytes that an earlier attempt left in the ingest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Drop them.
    Never,
    /// Keep them. If the whole blob turns out to be damaged, write the blob again only if
    /// [`BlobSource::distrust`] returns `true`. Otherwise fail, although the kept bytes may be the
    /// cause.
    Once,
    /// Keep them. If the whole blob turns out to be damaged, drop them, because they may be the
    /// cause, and write the blob again from its first byte.
    OrRestart,
}

/// Stores a blob. Returns the digest of the blob. [`BlobWrite::record`] determines what happens if
/// another writer stores the same blob meanwhile.
///
/// # Errors
/// `Corrupt` if the bytes do not have the expected digest and size (then the ingest is discarded),
/// or if an ingest that an earlier attempt left cannot be read back completely; `Busy` if another
/// writer has the ingest open for longer than the timeout; errors of the source, the store and the
/// feed.
pub async fn store_blob(write: &BlobWrite<'_>, source: &mut dyn BlobSource) -> Result<Digest> {
    let mut may_restart = write.resume == Resume::OrRestart;
    loop {
        let writer = match write.begin().await? {
            Begun::Stored(digest) => return Ok(digest),
            Begun::Writer(writer) => writer,
        };
        let is_resumed = writer.offset() > 0;
        let (outcome, is_fed) = write.attempt(writer, source).await;
        if !is_corrupt(&outcome) {
            return outcome;
        }
        let is_old = is_resumed && std::mem::take(&mut may_restart);
        // What was fed cannot be taken back.
        if !is_old && !source.distrust() || is_fed {
            return outcome;
        }
    }
}

pub(super) fn is_corrupt<T>(outcome: &Result<T>) -> bool {
    let error = outcome.as_ref().err();
    error.is_some_and(|error| error.kind() == ErrorKind::Corrupt)
}

enum Begun {
    Writer(Writer),
    /// Another writer has stored the blob.
    Stored(Digest),
}

impl RecordOrder<'_> {
    /// Returns the key of the ingest: the digest if it is known, otherwise the key in
    /// [`RecordOrder::OnceKnown`].
    pub fn key(&self) -> String {
        match self {
            RecordOrder::WithBytes(descriptor) => descriptor.digest.to_string(),
            RecordOrder::BeforeBytes { digest, .. } => digest.to_string(),
            RecordOrder::OnceKnown { key, .. } => (*key).to_owned(),
        }
    }

    fn expected(&self) -> Expected {
        match *self {
            RecordOrder::WithBytes(descriptor) => {
                Expected::exactly(descriptor.digest, descriptor.size)
            }
            RecordOrder::BeforeBytes { digest, size } => Expected::exactly(digest, size),
            RecordOrder::OnceKnown { size, .. } => Expected { digest: None, size },
        }
    }
}

impl BlobWrite<'_> {
    async fn begin(&self) -> Result<Begun> {
        let content = &self.store.content;
        let (key, expected) = (self.record.key(), self.record.expected());
        let begun = content.begin_or_wait(&key, expected, self.writer_timeout);
        let mut writer = begun.await?;
        if let RecordOrder::WithBytes(descriptor) = self.record
            && self.is_stored_meanwhile(descriptor).await?
        {
            drop(writer);
            discard_unless_open(&**content, &key).await?;
            self.guard.stored(&descriptor.digest);
            return Ok(Begun::Stored(descriptor.digest));
        }
        let is_too_long = expected.size.is_some_and(|size| writer.offset() > size);
        if self.resume == Resume::Never && writer.offset() > 0 || is_too_long {
            writer.rewind().await?;
        }
        Ok(Begun::Writer(writer))
    }

    /// Returns whether another writer has stored the blob since it was pinned.
    async fn is_stored_meanwhile(&self, descriptor: &Descriptor) -> Result<bool> {
        let stat = self.store.content.stat(&descriptor.digest).await?;
        Ok(stat.is_some_and(|stat| stat.size == descriptor.size && !self.guard.is_damaged(&stat)))
    }

    /// Writes the blob. If it is fed, unpacks it at the same time. Returns the outcome, and whether
    /// the blob was fed.
    async fn attempt(&self, writer: Writer, source: &mut dyn BlobSource) -> (Result<Digest>, bool) {
        let feed = self.feed.filter(|_| writer.offset() == 0);
        let Some(LayerFeed { sender, unpacked }) = feed.and_then(|feed| feed()) else {
            return (self.fill_or_discard(writer, source, None).await, false);
        };
        let stored = self.fill_or_discard(writer, source, Some(sender));
        let (stored, unpacked) = tokio::join!(stored, unpacked);
        (first_cause(stored, unpacked), true)
    }

    async fn fill_or_discard(
        &self,
        writer: Writer,
        source: &mut dyn BlobSource,
        sender: Option<LayerSender>,
    ) -> Result<Digest> {
        let key = writer.key().to_owned();
        let outcome = self.fill(writer, source, sender).await;
        if is_corrupt(&outcome) {
            discard_unless_open(&*self.store.content, &key).await?;
        }
        outcome
    }

    async fn fill(
        &self,
        mut writer: Writer,
        source: &mut dyn BlobSource,
        sender: Option<LayerSender>,
    ) -> Result<Digest> {
        let item = writer.key().to_owned();
        let expected = self.record.expected();
        self.progress.begin(&item, expected.size);
        self.progress.advance(&item, writer.offset());
        source.open(writer.offset()).await?;
        loop {
            match source.write_next(&mut writer, sender.as_ref()).await? {
                0 => break,
                length => self.progress.advance(&item, length),
            }
        }
        let digest = self.publish(writer).await?;
        if let Some(sender) = sender {
            sender.end().await;
        }
        self.progress.end(&item);
        Ok(digest)
    }

    async fn publish(&self, mut writer: Writer) -> Result<Digest> {
        let digest = match self.record {
            RecordOrder::WithBytes(descriptor) => {
                let blob = BlobRef::of(descriptor, Vec::new());
                let published = self.guard.publish(writer, &blob, self.durability);
                return Ok(published.await?.digest);
            }
            RecordOrder::BeforeBytes { digest, .. } => digest,
            RecordOrder::OnceKnown { key, created, .. } => {
                let digest = writer.digest().await?;
                let blob = BlobRef {
                    size: Some(writer.offset()),
                    ..BlobRef::existing(digest)
                };
                if self.guard.pin_intact(blob).await? {
                    drop(writer);
                    discard_unless_open(&*self.store.content, key).await?;
                    return Ok(digest);
                }
                created(digest);
                digest
            }
        };
        self.guard.replace_damaged(&mut writer, &digest).await?;
        writer.commit(&Batch::new(), self.durability).await?;
        self.guard.note_published(&digest).await?;
        Ok(digest)
    }
}

/// Returns the outcome of both halves of a fed layer. If both fail and one error is `Cancelled`,
/// the other error caused it and is returned.
pub(super) fn first_cause<T>(stored: Result<T>, unpacked: Result<()>) -> Result<T> {
    match (stored, unpacked) {
        (Ok(_), Err(unpacked)) => Err(unpacked),
        (Err(stored), Err(unpacked)) if is_cancelled(&stored) => Err(unpacked),
        (stored, _) => stored,
    }
}

fn is_cancelled(error: &Error) -> bool {
    error.kind() == ErrorKind::Cancelled
}
