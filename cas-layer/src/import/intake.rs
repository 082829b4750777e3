//! The way of blobs into the store, and the way back when the import fails.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cas_core::content::{ContentExt, Durability, Expected, Writer};
use cas_core::gc;
use cas_core::image::Reference;
use cas_core::lease::{BlobRef, LeaseGuard};
use cas_core::records::Batch;
use cas_core::transfer::{self, Feed};
use cas_core::{Descriptor, Digest, Error, Image, Result, Store, pool, unique};
use futures_util::{StreamExt, stream};

use super::contents::{Part, Place};
use super::item::{AT_ONCE, Item};
use crate::buffers::{At, Buffers};
use crate::progress::Progress;
use crate::unpack::first_cause;

/// How long the writer of the same blob, in another import, is waited for.
const PATIENCE: Duration = Duration::from_secs(600);
/// Bytes of a file that are taken at once, where they need not come through memory.
const SHARED: u64 = 16 << 20;

/// Where the bytes of a blob come from, piece by piece.
pub(super) trait Pieces: Send {
    /// The next piece; nothing at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>>> + Send;

    /// Writes the next of them, and hands it on; how many bytes, none at the end.
    fn pour(
        &mut self,
        writer: &mut Writer,
        feed: Option<&Feed>,
    ) -> impl Future<Output = Result<u64>> + Send {
        write_next(self, writer, feed)
    }
}

async fn write_next(
    pieces: &mut (impl Pieces + ?Sized),
    writer: &mut Writer,
    feed: Option<&Feed>,
) -> Result<u64> {
    let Some(piece) = pieces.next().await? else {
        return Ok(0);
    };
    let length = piece.len() as u64;
    transfer::write_through(writer, piece, feed).await?;
    Ok(length)
}

/// Takes blobs in under a lease, and remembers what to undo.
pub(super) struct Intake<'a> {
    pub(super) store: &'a Store,
    guard: LeaseGuard,
    pub(super) progress: &'a dyn Progress,
    pub(super) buffers: Buffers,
    /// Set by the first failure, so that blobs under way stop at their next piece.
    failed: AtomicBool,
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    /// Blobs that were not there before.
    created: BTreeSet<Digest>,
    /// Keys of ingests that are not published.
    begun: BTreeSet<String>,
}

impl<'a> Intake<'a> {
    pub(super) async fn begin(store: &'a Store, progress: &'a dyn Progress) -> Result<Self> {
        Ok(Intake {
            store,
            guard: LeaseGuard::begin(store, "import").await?,
            progress,
            buffers: Buffers::default(),
            failed: AtomicBool::new(false),
            ledger: Mutex::default(),
        })
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a blob; true when the store has it. A blob of another size is damaged: it counts as
    /// absent, is written again, and so repaired.
    pub(super) async fn hold(&self, digest: &Digest, size: u64) -> Result<bool> {
        let wanted = BlobRef {
            size: Some(size),
            ..BlobRef::existing(*digest)
        };
        let there = self.guard.pin(wanted).await?;
        if !there {
            self.ledger().created.insert(*digest);
        }
        Ok(there)
    }

    /// Holds all that the import is going to refer to; which of them the store has. Their records
    /// come before their bytes, so that a collection finds what a killed import has left.
    pub(super) async fn hold_all(&self, wanted: &[BlobRef]) -> Result<Vec<bool>> {
        let there = self.guard.pin_all(wanted).await?;
        let missing = wanted.iter().zip(&there).filter(|(_, there)| !**there);
        let missing = missing.map(|(wanted, _)| wanted.digest);
        self.ledger().created.extend(missing);
        Ok(there)
    }

    /// Stores blobs one after the other.
    pub(super) async fn copy_each(&self, items: &[Item]) -> Result<()> {
        for item in items {
            self.copy(item, None).await?;
        }
        Ok(())
    }

    /// Stores blobs, several at once.
    pub(super) async fn copy_all(&self, items: &[Item]) -> Result<()> {
        let copies = items.iter().map(|item| self.copy(item, None));
        // All are waited for: those under way stop by themselves once one has failed.
        first_cause(
            stream::iter(copies)
                .buffer_unordered(AT_ONCE)
                .collect()
                .await,
        )
    }

    /// Has the blobs under way stop at their next piece.
    pub(super) fn stop(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Stores an item, which is held, and hands its bytes on.
    ///
    /// # Errors
    /// `Corrupt` when its part is something else.
    pub(super) async fn copy(&self, item: &Item, feed: Option<Feed>) -> Result<()> {
        let Item {
            descriptor, part, ..
        } = item;
        if part.size != descriptor.size {
            let (expected, found) = (descriptor.size, part.size);
            return Err(
                Error::corrupt(format!("expected {expected} bytes, found {found}"))
                    .operation("read")
                    .subject(descriptor.digest),
            );
        }
        let key = descriptor.digest.to_string();
        let expected = Expected::exactly(descriptor.digest, descriptor.size);
        let outcome = match &part.place {
            Place::Stored(found) if *found == descriptor.digest => Err(Error::conflict(
                "was removed from the store meanwhile; import again",
            )
            .subject(descriptor.digest)),
            Place::Stored(found) => Err(Error::corrupt(format!(
                "expected content {}, found {found}",
                descriptor.digest
            ))
            .operation("read")
            .subject(descriptor.digest)),
            _ => {
                self.write(&key, expected, &mut FromPart::new(self, part), feed)
                    .await
            }
        };
        if outcome.is_err() {
            self.stop();
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
        self.write(&key, expected, pieces, None).await
    }

    /// The same of a part.
    pub(super) async fn absorb_part(&self, part: &Part) -> Result<Digest> {
        match part.place {
            Place::Stored(digest) => Ok(digest),
            _ => self.absorb(part.size, &mut FromPart::new(self, part)).await,
        }
    }

    /// Writes one blob, and hands its bytes on; it is durable after [`Intake::finish`].
    pub(super) async fn write(
        &self,
        key: &str,
        expected: Expected,
        pieces: &mut impl Pieces,
        feed: Option<Feed>,
    ) -> Result<Digest> {
        let content = &self.store.content;
        let mut writer = content.begin_or_wait(key, expected, PATIENCE).await?;
        self.ledger().begun.insert(key.to_owned());
        if writer.offset() > 0 {
            writer.rewind().await?;
        }
        self.progress.begin(key, expected.size);
        loop {
            if self.failed.load(Ordering::Relaxed) {
                return Err(Error::cancelled("another blob of the import failed").subject(key));
            }
            match pieces.pour(&mut writer, feed.as_ref()).await? {
                0 => break,
                length => self.progress.advance(key, length),
            }
        }
        if let Some(feed) = feed {
            feed.end().await;
        }
        self.progress.end(key);
        let digest = writer.digest().await?;
        if expected.digest.is_none() && self.hold(&digest, writer.offset()).await? {
            drop(writer);
            content.discard(key).await?;
        } else {
            writer.commit(&Batch::new(), Durability::Relaxed).await?;
            self.guard.stored(&digest);
        }
        self.ledger().begun.remove(key);
        Ok(digest)
    }

    /// Makes all blobs durable, then the names, and ends the lease. What came with the import and
    /// is not in `planned` goes again.
    pub(super) async fn finish(
        self,
        named: BTreeMap<Reference, Descriptor>,
        planned: &HashSet<Digest>,
    ) -> Result<Vec<Image>> {
        self.store.content.flush().await?;
        let images = named
            .into_iter()
            .map(|(name, target)| Image::new(name, target))
            .collect();
        let mut created = std::mem::take(&mut self.ledger().created);
        let named = self.guard.name(images, &["target"]).await;
        if named.is_ok() {
            created.retain(|made| !planned.contains(made));
        }
        discard(self.store, created, self.progress).await;
        named
    }

    /// Takes back what was done, as far as it can be.
    pub(super) async fn undo(self) {
        let Ledger { created, begun } = std::mem::take(&mut *self.ledger());
        for key in begun {
            if let Err(error) = self.store.content.discard(&key).await {
                self.progress
                    .warn(&format!("the ingest {key} stays: {error}"));
            }
        }
        if let Err(error) = self.guard.finish().await {
            self.progress.warn(&format!(
                "the lease of the import stays for a while: {error}"
            ));
        }
        discard(self.store, created, self.progress).await;
    }
}

/// Removes those of the blobs that nothing holds.
async fn discard(store: &Store, created: BTreeSet<Digest>, progress: &dyn Progress) {
    if created.is_empty() {
        return;
    }
    let options = gc::GcOptions {
        only: Some(created),
        ..gc::GcOptions::default()
    };
    if let Err(error) = gc::collect(store, &[], &options).await {
        progress.warn(&format!("blobs that nothing refers to stay: {error}"));
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
        self.took(piece.len() as u64)?;
        Ok(Some(piece))
    }

    /// Where nobody else wants the bytes of a file, they need not come through memory.
    async fn pour(&mut self, writer: &mut Writer, feed: Option<&Feed>) -> Result<u64> {
        let (Place::File(file, offset), None) = (&self.part.place, feed) else {
            return write_next(self, writer, feed).await;
        };
        let some = (self.part.size - self.at).min(SHARED);
        let written = writer.write_file(file, offset + self.at, some).await?;
        if some > 0 {
            self.took(written)?;
        }
        Ok(written)
    }
}

impl FromPart<'_> {
    fn took(&mut self, length: u64) -> Result<()> {
        if length == 0 {
            let left = self.part.size - self.at;
            return Err(Error::corrupt(format!(
                "the file ends {left} bytes too early"
            )));
        }
        self.at += length;
        Ok(())
    }
}
