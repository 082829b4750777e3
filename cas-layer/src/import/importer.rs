//! Stores the blobs of an import under a lease, and removes them again if the import fails.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use cas_core::content::{ContentExt, Durability, Expected};
use cas_core::gc;
use cas_core::image::Reference;
use cas_core::lease::{BlobRef, LeaseGuard};
use cas_core::records::Batch;
use cas_core::sync::lock;
use cas_core::transfer::Feed;
use cas_core::{Descriptor, Digest, Error, Image, Result, Store, unique};
use futures_util::{StreamExt, stream};

use super::contents::{Location, Part};
use super::item::Item;
use super::pieces::{FromPart, Pieces};
use crate::buffers::Buffers;
use crate::progress::Progress;
use crate::unpack::first_cause;

/// How long to wait for another import that is writing the same blob.
const WRITER_TIMEOUT: Duration = Duration::from_secs(600);
/// Blobs that are stored at the same time.
const MAX_PARALLEL: usize = 3;

/// Stores blobs under a lease, and remembers what it created.
pub(super) struct BlobImporter<'a> {
    pub(super) store: &'a Store,
    guard: LeaseGuard,
    pub(super) progress: &'a dyn Progress,
    pub(super) buffers: Buffers,
    /// Set by the first failure. Blobs in progress then stop before their next piece.
    failed: AtomicBool,
    created: Mutex<Created>,
}

#[derive(Default)]
struct Created {
    /// Blobs that the store did not have before.
    blobs: BTreeSet<Digest>,
    /// Keys of ingests that are not published.
    ingests: BTreeSet<String>,
}

impl<'a> BlobImporter<'a> {
    pub(super) async fn begin(store: &'a Store, progress: &'a dyn Progress) -> Result<Self> {
        Ok(BlobImporter {
            store,
            guard: LeaseGuard::begin(store, "import").await?,
            progress,
            buffers: Buffers::default(),
            failed: AtomicBool::new(false),
            created: Mutex::default(),
        })
    }

    fn created(&self) -> MutexGuard<'_, Created> {
        lock(&self.created)
    }

    /// Pins a blob. Returns whether the store has it. A stored blob of another size is damaged: it
    /// counts as absent, so it is written again and thereby repaired.
    pub(super) async fn pin(&self, digest: &Digest, size: u64) -> Result<bool> {
        let pin = BlobRef {
            size: Some(size),
            ..BlobRef::existing(*digest)
        };
        let present = self.guard.pin(pin).await?;
        if !present {
            self.created().blobs.insert(*digest);
        }
        Ok(present)
    }

    /// Pins all blobs that the import will refer to. Returns for each whether the store has it.
    /// Records are written before the bytes, so that a collection finds what a killed import left.
    pub(super) async fn pin_all(&self, pins: &[BlobRef]) -> Result<Vec<bool>> {
        let present = self.guard.pin_all(pins).await?;
        let missing = pins.iter().zip(&present).filter(|(_, present)| !**present);
        let missing = missing.map(|(pin, _)| pin.digest);
        self.created().blobs.extend(missing);
        Ok(present)
    }

    /// Stores blobs one after the other.
    pub(super) async fn store_in_order(&self, items: &[Item]) -> Result<()> {
        for item in items {
            self.store(item, None).await?;
        }
        Ok(())
    }

    /// Stores blobs, several at once.
    pub(super) async fn store_all(&self, items: &[Item]) -> Result<()> {
        in_parallel(items.iter().map(|item| self.store(item, None))).await
    }

    /// Makes blobs in progress stop before their next piece.
    pub(super) fn stop(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Stores an item, which is pinned, and sends its bytes to `feed`.
    ///
    /// # Errors
    /// `Corrupt` if the bytes do not match the descriptor.
    pub(super) async fn store(&self, item: &Item, feed: Option<Feed>) -> Result<()> {
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
        let outcome = match &part.location {
            Location::Stored(found) if *found == descriptor.digest => Err(Error::conflict(
                "the blob was removed from the store during the import; import again",
            )
            .subject(descriptor.digest)),
            Location::Stored(found) => Err(Error::corrupt(format!(
                "expected content {}, found {found}",
                descriptor.digest
            ))
            .operation("read")
            .subject(descriptor.digest)),
            _ => {
                self.write(
                    &key,
                    expected,
                    &mut FromPart::new(part, &self.buffers),
                    feed,
                )
                .await
            }
        };
        if outcome.is_err() {
            self.stop();
        }
        outcome.map(|_| ())
    }

    /// Stores bytes whose digest is not known yet. Returns their digest.
    pub(super) async fn store_unnamed(
        &self,
        size: u64,
        pieces: &mut impl Pieces,
    ) -> Result<Digest> {
        let key = unique::key("import");
        let expected = Expected {
            digest: None,
            size: Some(size),
        };
        self.write(&key, expected, pieces, None).await
    }

    /// Stores a part whose digest is not known yet. Returns its digest.
    pub(super) async fn store_unnamed_part(&self, part: &Part) -> Result<Digest> {
        if let Location::Stored(digest) = part.location {
            return Ok(digest);
        }
        let mut pieces = FromPart::new(part, &self.buffers);
        self.store_unnamed(part.size, &mut pieces).await
    }

    /// Writes one blob and sends its bytes to `feed`. The blob is durable after
    /// [`BlobImporter::finish`]. Returns its digest.
    pub(super) async fn write(
        &self,
        key: &str,
        expected: Expected,
        pieces: &mut impl Pieces,
        feed: Option<Feed>,
    ) -> Result<Digest> {
        let content = &self.store.content;
        let mut writer = content.begin_or_wait(key, expected, WRITER_TIMEOUT).await?;
        self.created().ingests.insert(key.to_owned());
        if writer.offset() > 0 {
            writer.rewind().await?;
        }
        self.progress.begin(key, expected.size);
        loop {
            if self.failed.load(Ordering::Relaxed) {
                return Err(Error::cancelled("another blob of the import failed").subject(key));
            }
            match pieces.copy_next(&mut writer, feed.as_ref()).await? {
                0 => break,
                length => self.progress.advance(key, length),
            }
        }
        if let Some(feed) = feed {
            feed.end().await;
        }
        self.progress.end(key);
        let digest = writer.digest().await?;
        if expected.digest.is_none() && self.pin(&digest, writer.offset()).await? {
            drop(writer);
            content.discard(key).await?;
        } else {
            writer.commit(&Batch::new(), Durability::Relaxed).await?;
            self.guard.stored(&digest);
        }
        self.created().ingests.remove(key);
        Ok(digest)
    }

    /// Makes all blobs durable, writes the names, and ends the lease. Blobs that this import
    /// created and that are not in `planned` are removed. Returns the named images.
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
        let mut blobs = std::mem::take(&mut self.created().blobs);
        let named = self.guard.name(images, &["target"]).await;
        if named.is_ok() {
            blobs.retain(|blob| !planned.contains(blob));
        }
        collect_unreferenced(self.store, blobs, self.progress).await;
        named
    }

    /// Removes what this import created, and ends the lease. What cannot be removed is a warning.
    pub(super) async fn roll_back(self) {
        let Created { blobs, ingests } = std::mem::take(&mut *self.created());
        for key in ingests {
            if let Err(error) = self.store.content.discard(&key).await {
                self.progress
                    .warn(&format!("the ingest {key} could not be removed: {error}"));
            }
        }
        if let Err(error) = self.guard.finish().await {
            self.progress.warn(&format!(
                "the lease of the import could not be ended, it will expire: {error}"
            ));
        }
        collect_unreferenced(self.store, blobs, self.progress).await;
    }
}

/// Waits for all jobs, several at once. Jobs in progress stop by themselves after one has failed.
pub(super) async fn in_parallel(
    jobs: impl Iterator<Item: Future<Output = Result<()>>>,
) -> Result<()> {
    let outcomes = stream::iter(jobs).buffer_unordered(MAX_PARALLEL);
    first_cause(outcomes.collect().await)
}

/// Removes the blobs that nothing references, by a garbage collection of these blobs alone.
async fn collect_unreferenced(store: &Store, blobs: BTreeSet<Digest>, progress: &dyn Progress) {
    if blobs.is_empty() {
        return;
    }
    let options = gc::GcOptions {
        only: Some(blobs),
        ..gc::GcOptions::default()
    };
    if let Err(error) = gc::collect(store, &[], &options).await {
        progress.warn(&format!("unreferenced blobs could not be removed: {error}"));
    }
}
