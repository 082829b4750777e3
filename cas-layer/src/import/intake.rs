//! The way of blobs into the store, and the way back when the import fails.

use std::collections::{BTreeSet, HashSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cas_core::content::{ContentExt, Durability, Expected};
use cas_core::error::Kind;
use cas_core::records::{Batch, BlobRecord, Blobs, Expect};
use cas_core::{Descriptor, Digest, Error, Result, Store, pool};

use super::contents::{Part, Place};
use crate::buffers::Buffers;
use crate::progress::Progress;
use crate::unique;

/// How long the writer of the same blob, in another import, is waited for.
const PATIENCE: Duration = Duration::from_secs(600);

/// Where the bytes of a blob come from, piece by piece.
pub(super) trait Pieces: Send {
    /// The next piece; nothing at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>>> + Send;
}

/// Takes blobs in, and remembers what to undo.
pub(super) struct Intake<'a> {
    pub(super) store: &'a Store,
    pub(super) progress: &'a dyn Progress,
    pub(super) buffers: Buffers,
    /// Set by the first failure, so that blobs under way stop at their next piece.
    failed: AtomicBool,
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    /// Blobs that were not there before.
    created: Vec<Digest>,
    /// Keys of ingests that are not published.
    begun: BTreeSet<String>,
}

impl<'a> Intake<'a> {
    pub(super) fn new(store: &'a Store, progress: &'a dyn Progress) -> Self {
        Intake {
            store,
            progress,
            buffers: Buffers::default(),
            failed: AtomicBool::new(false),
            ledger: Mutex::default(),
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the store has these bytes.
    pub(super) async fn has(&self, digest: &Digest, size: u64) -> Result<bool> {
        let stat = self.store.content.stat(digest).await?;
        Ok(stat.is_some_and(|stat| stat.size == size))
    }

    /// Makes sure that the store has the content of `descriptor`, from `part` where it has not.
    ///
    /// # Errors
    /// `Corrupt` when `part` is something else.
    pub(super) async fn copy(&self, descriptor: &Descriptor, part: &Part) -> Result<()> {
        if part.size != descriptor.size {
            let (expected, found) = (descriptor.size, part.size);
            return Err(
                Error::corrupt(format!("expected {expected} bytes, found {found}"))
                    .operation("read")
                    .subject(descriptor.digest),
            );
        }
        // A blob of another size is damaged: it is written again, and so repaired.
        if self.has(&descriptor.digest, descriptor.size).await? {
            return Ok(());
        }
        let key = descriptor.digest.to_string();
        let expected = Expected::exactly(descriptor.digest, descriptor.size);
        let outcome = match &part.place {
            Place::Stored(found) => Err(Error::corrupt(format!(
                "expected content {}, found {found}",
                descriptor.digest
            ))
            .operation("read")
            .subject(descriptor.digest)),
            _ => {
                self.write(&key, expected, &mut FromPart::new(self, part))
                    .await
            }
        };
        if outcome.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        outcome.map(|_| ())
    }

    /// Stores bytes whose digest is not known before.
    pub(super) async fn absorb(&self, size: u64, pieces: &mut impl Pieces) -> Result<Digest> {
        let key = unique::key("import");
        let expected = Expected {
            digest: None,
            size: Some(size),
        };
        self.write(&key, expected, pieces).await
    }

    /// The same of a part.
    pub(super) async fn absorb_part(&self, part: &Part) -> Result<Digest> {
        match part.place {
            Place::Stored(digest) => Ok(digest),
            _ => self.absorb(part.size, &mut FromPart::new(self, part)).await,
        }
    }

    /// Writes one blob; it is durable after [`Intake::settle`].
    pub(super) async fn write(
        &self,
        key: &str,
        expected: Expected,
        pieces: &mut impl Pieces,
    ) -> Result<Digest> {
        let content = &self.store.content;
        let mut writer = content.begin_or_wait(key, expected, PATIENCE).await?;
        self.ledger().begun.insert(key.to_owned());
        if writer.offset() > 0 {
            writer.rewind().await?;
        }
        self.progress.begin(key, expected.size);
        while let Some(piece) = pieces.next().await? {
            if self.failed.load(Ordering::Relaxed) {
                return Err(Error::cancelled("another blob of the import failed").subject(key));
            }
            let length = piece.len() as u64;
            writer.write(piece).await?;
            self.progress.advance(key, length);
        }
        self.progress.end(key);
        let digest = writer.digest()?;
        let new = content.stat(&digest).await?.is_none();
        let committed = writer.commit(&Batch::new(), Durability::Relaxed).await?;
        let mut ledger = self.ledger();
        ledger.begun.remove(key);
        if new {
            ledger.created.push(committed.digest);
        }
        Ok(committed.digest)
    }

    /// Makes all blobs durable, then their records, in this order, in one step where the store
    /// can.
    pub(super) async fn settle(&self, blobs: &[(Descriptor, Vec<Digest>)]) -> Result<()> {
        self.store.content.flush().await?;
        let records = self.store.blobs();
        let mut batch = Batch::new();
        for (descriptor, children) in blobs {
            if records.load(&descriptor.digest).await?.is_none() {
                let media_type = Some(descriptor.media_type.clone());
                let record = BlobRecord {
                    children: children.clone(),
                    ..BlobRecord::new(descriptor.size, media_type)
                };
                Blobs::put(&mut batch, &descriptor.digest, &record, Expect::Absent)?;
            } else {
                self.store.describe(descriptor, children.clone()).await?;
            }
        }
        match self.store.records.commit(&batch).await {
            // Another import wrote one of them meanwhile.
            Err(error) if error.kind() == Kind::Conflict => {
                for (descriptor, children) in blobs {
                    self.store.describe(descriptor, children.clone()).await?;
                }
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Removes the blobs that this import made and that are not in `wanted`.
    pub(super) async fn drop_unwanted(&self, wanted: &HashSet<Digest>) -> Result<()> {
        let unwanted: Vec<Digest> = {
            let mut ledger = self.ledger();
            let (keep, drop) = ledger
                .created
                .drain(..)
                .partition(|made| wanted.contains(made));
            ledger.created = keep;
            drop
        };
        self.remove(&unwanted).await
    }

    /// Takes back what was done, as far as it can be.
    pub(super) async fn undo(&self) {
        let Ledger { created, begun } = std::mem::take(&mut *self.ledger());
        for key in begun {
            if let Err(error) = self.store.content.discard(&key).await {
                self.progress
                    .warn(&format!("the ingest {key} stays: {error}"));
            }
        }
        if let Err(error) = self.remove(&created).await {
            self.progress
                .warn(&format!("blobs of the failed import stay: {error}"));
        }
    }

    /// Removes `made` without what an image reaches by now, latest first.
    async fn remove(&self, made: &[Digest]) -> Result<()> {
        if made.is_empty() {
            return Ok(());
        }
        let reached = self.reached().await?;
        for digest in made.iter().rev().filter(|digest| !reached.contains(digest)) {
            self.store.blobs().remove(digest).await?;
            self.store.content.remove(digest).await?;
        }
        Ok(())
    }

    /// What the images of the store reach, by the records of their blobs.
    async fn reached(&self) -> Result<HashSet<Digest>> {
        let images = self.store.images.list(&[]).await?;
        let mut waiting: Vec<Digest> = images.iter().map(|image| image.target.digest).collect();
        let mut reached = HashSet::new();
        while let Some(digest) = waiting.pop() {
            if reached.insert(digest)
                && let Some((record, _)) = self.store.blobs().load(&digest).await?
            {
                waiting.extend(record.children);
            }
        }
        Ok(reached)
    }
}

/// The pieces of a part that is in a file or in memory.
struct FromPart<'a> {
    part: Part,
    at: u64,
    buffers: &'a Buffers,
}

impl<'a> FromPart<'a> {
    fn new(intake: &'a Intake<'_>, part: &Part) -> Self {
        FromPart {
            part: part.clone(),
            at: 0,
            buffers: &intake.buffers,
        }
    }
}

impl Pieces for FromPart<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let left = self.part.size - self.at;
        if left == 0 {
            return Ok(None);
        }
        let piece = match &self.part.place {
            Place::Held(data) => data.slice(self.at as usize..),
            Place::File(file, offset) => {
                let (buffers, file, from) =
                    (self.buffers.clone(), Arc::clone(file), offset + self.at);
                pool::run(move || Ok(buffers.read(&mut At { file: &file, from }, left)?)).await?
            }
            Place::Stored(_) => return Err(Error::internal("a stored blob is not copied")),
        };
        if piece.is_empty() {
            return Err(Error::corrupt(format!(
                "the file ends {left} bytes too early"
            )));
        }
        self.at += piece.len() as u64;
        Ok(Some(piece))
    }
}

/// Reads a file by position, for its offset is shared.
struct At<'a> {
    file: &'a std::fs::File,
    from: u64,
}

impl std::io::Read for At<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(self.file, out, self.from)?;
        self.from += read as u64;
        Ok(read)
    }
}
