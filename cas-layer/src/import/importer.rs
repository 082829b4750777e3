//! Stores the blobs of an import under a lease, and removes them again if the import fails.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use cas_core::content::{Durability, Ingest, OwnIngest};
use cas_core::image::Reference;
use cas_core::lease::{BlobRef, LeaseGuard};
use cas_core::progress::Progress;
use cas_core::sync::lock;
use cas_core::transfer::{
    BlobSource, BlobWrite, LayerFeed, RecordOrder, Resume, Unpacker, store_blob,
};
use cas_core::{Descriptor, Digest, Image, Result, Store, unique};
use futures_util::{StreamExt, stream};

use super::contents::{Location, Part};
use super::decoded_source::DecodedSource;
use super::item::Item;
use super::part_source::PartSource;
use super::undo::{Created, Undo, collect_unreferenced, discard_all, not_removed};
use super::watched_source::WatchedSource;
use crate::buffers::Buffers;
use crate::codec::Compression;
use crate::unpack::first_cause;

/// Maximum time to wait for another writer of the same blob.
const WRITER_TIMEOUT: Duration = Duration::from_secs(600);
/// Maximum number of blobs that are stored concurrently.
const MAX_PARALLEL: usize = 3;

/// Stores blobs under a lease, and keeps a list of the blobs and ingests that it created.
pub(super) struct BlobImporter<'a> {
    pub(super) store: &'a Store,
    guard: LeaseGuard,
    pub(super) progress: &'a dyn Progress,
    pub(super) buffers: Buffers,
    /// Set by the first failure. Blobs in progress then stop before their next piece.
    failed: AtomicBool,
    created: Mutex<Created>,
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

    /// Reports warnings about the source.
    pub(super) fn warn(&self, warnings: &[String]) {
        for warning in warnings {
            self.progress.warn(&format!("in the source: {warning}"));
        }
    }

    fn created(&self) -> MutexGuard<'_, Created> {
        lock(&self.created)
    }

    /// Pins a blob. Returns whether the store has it. A damaged blob counts as absent, so it is
    /// written again.
    pub(super) async fn pin(&self, digest: &Digest, size: u64) -> Result<bool> {
        let pin = BlobRef {
            size: Some(size),
            ..BlobRef::existing(*digest)
        };
        let present = self.guard.pin_intact(pin).await?;
        if !present {
            self.created().blobs.insert(*digest);
        }
        Ok(present)
    }

    /// Pins blobs that the import will refer to. Returns for each whether the store has it, as
    /// [`BlobImporter::pin`] does. Records are written before the bytes, so that a collection finds
    /// what a killed import left.
    pub(super) async fn pin_all(&self, pins: &[BlobRef]) -> Result<Vec<bool>> {
        let present = self.guard.pin_all_intact(pins).await?;
        let missing = pins.iter().zip(&present).filter(|(_, present)| !**present);
        let missing = missing.map(|(pin, _)| pin.digest);
        self.created().blobs.extend(missing);
        Ok(present)
    }

    /// Pins those of the blobs that the store has. The documents of the import list them, but the
    /// import need not contain them.
    pub(super) async fn pin_listed(&self, blobs: &[BlobRef]) -> Result<()> {
        self.guard.pin_all(blobs).await.map(|_| ())
    }

    /// Pins an image, with everything that the store has of it. A child that is recorded as absent
    /// and is in the store by now is recorded as stored.
    pub(super) async fn pin_tree(&self, root: &Descriptor) -> Result<()> {
        self.guard.pin_tree_found(root).await
    }

    /// Makes what was stored durable, and records the children of the documents.
    pub(super) async fn record_children(&self, documents: Vec<BlobRef>) -> Result<()> {
        self.store.content.flush().await?;
        self.guard.record_children(documents).await
    }

    /// Records a referrer of `subject`. Collections then keep the referrer for as long as they keep
    /// `subject`.
    pub(super) async fn record_referrer(
        &self,
        subject: &Descriptor,
        referrer: Digest,
    ) -> Result<()> {
        self.guard.record_referrers(subject, &[referrer]).await
    }

    /// Stores blobs one after the other.
    pub(super) async fn store_in_order(&self, items: &[Item]) -> Result<()> {
        for item in items {
            self.store(item, None).await?;
        }
        Ok(())
    }

    /// Stores blobs concurrently.
    pub(super) async fn store_all(&self, items: impl Iterator<Item = &Item>) -> Result<()> {
        in_parallel(items.map(|item| self.store(item, None))).await
    }

    /// Makes blobs in progress stop before their next piece.
    pub(super) fn stop(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Stores an item, which is pinned, and feeds it to `unpacker` meanwhile.
    ///
    /// # Errors
    /// `Corrupt` if the bytes do not match the descriptor; `Conflict` if the blob was in the store
    /// and has been removed; `Cancelled` if another blob of the import failed; errors of the
    /// source, of the store and of the unpacker.
    pub(super) async fn store(&self, item: &Item, unpacker: Option<&dyn Unpacker>) -> Result<()> {
        let stored = match item.check() {
            Ok(()) => self.store_part(item, unpacker).await,
            Err(error) => Err(error),
        };
        stored.inspect_err(|_| self.stop())
    }

    async fn store_part(&self, item: &Item, unpacker: Option<&dyn Unpacker>) -> Result<()> {
        let record = RecordOrder::BeforeBytes {
            digest: item.descriptor.digest,
            size: item.descriptor.size,
        };
        let feed = || self.feed(unpacker?, &item.descriptor);
        let mut source = PartSource::new(&item.part, &self.buffers);
        let stored = self.write(record, &mut source, Some(&feed)).await;
        stored.map(|_| ())
    }

    /// Returns the channel through which the unpacker receives a layer while the layer is stored.
    /// Returns `None` if the unpacker does not unpack the layer at that time. A layer that cannot
    /// be unpacked stops the import.
    fn feed<'b>(&'b self, unpacker: &'b dyn Unpacker, layer: &Descriptor) -> Option<LayerFeed<'b>> {
        let LayerFeed { sender, unpacked } = unpacker.receive(layer)?;
        let unpacked = async move { unpacked.await.inspect_err(|_| self.stop()) };
        Some(LayerFeed {
            sender,
            unpacked: Box::pin(unpacked),
        })
    }

    /// Stores the bytes of a file whose path contains `digest`, which is pinned.
    pub(super) async fn store_pinned(
        &self,
        digest: Digest,
        size: u64,
        source: &mut dyn BlobSource,
    ) -> Result<()> {
        let record = RecordOrder::BeforeBytes { digest, size };
        self.write(record, source, None).await.map(|_| ())
    }

    /// Stores bytes whose digest is not known yet. Returns their digest.
    pub(super) async fn store_unnamed(
        &self,
        size: Option<u64>,
        source: &mut dyn BlobSource,
    ) -> Result<Digest> {
        let record = RecordOrder::OnceKnown {
            key: &unique::key("import"),
            size,
            created: &|digest| {
                self.created().blobs.insert(digest);
            },
        };
        self.write(record, source, None).await
    }

    /// Stores a part whose digest is not known yet, unless it was stored while the source was read.
    /// Returns its digest.
    pub(super) async fn store_unnamed_part(&self, part: &Part) -> Result<Digest> {
        if let Location::Stored(digest) = part.location {
            return Ok(digest);
        }
        let mut source = PartSource::new(part, &self.buffers);
        self.store_unnamed(Some(part.size), &mut source).await
    }

    /// Stores the decompressed bytes of a part. Returns their digest, and a part with these bytes.
    pub(super) async fn store_decoded(
        &self,
        part: &Part,
        compression: Compression,
    ) -> Result<(Digest, Part)> {
        let begun = DecodedSource::begin(self.store, part, compression, &self.buffers);
        let mut source = begun.await?;
        let digest = self.store_unnamed(None, &mut source).await?;
        let stored = Part {
            size: source.produced,
            location: Location::Stored(digest),
        };
        Ok((digest, stored))
    }

    /// Stores one blob. It is durable after [`BlobImporter::record_children`]. Returns its digest.
    async fn write<'b>(
        &'b self,
        record: RecordOrder<'b>,
        source: &mut dyn BlobSource,
        feed: Option<&'b (dyn Fn() -> Option<LayerFeed<'b>> + Sync)>,
    ) -> Result<Digest> {
        let key = record.key();
        let write = BlobWrite {
            store: self.store,
            guard: &self.guard,
            record,
            durability: Durability::Relaxed,
            resume: Resume::Never,
            writer_timeout: WRITER_TIMEOUT,
            feed,
            progress: self.progress,
        };
        let mut source = WatchedSource {
            source,
            opened: &|| {
                let ingest = || OwnIngest::of(&self.store.content, key.as_str());
                let mut created = self.created();
                created.ingests.entry(key.clone()).or_insert_with(ingest);
            },
            failed: &self.failed,
        };
        let digest = store_blob(&write, &mut source).await?;
        if let Some(ingest) = self.created().ingests.remove(&key) {
            ingest.published();
        }
        Ok(digest)
    }

    /// Begins an ingest that is not published. It is discarded when the import ends.
    pub(super) async fn begin_spill(&self) -> Result<Box<dyn Ingest>> {
        let own = OwnIngest::new(&self.store.content, "import");
        let ingest = self.store.content.begin(own.key()).await?;
        self.created().ingests.insert(own.key().to_owned(), own);
        Ok(ingest)
    }

    /// Ends the lease. The stored blobs are kept for a day.
    pub(super) async fn finish_kept(self) -> Result<()> {
        self.guard.finish_kept().await
    }

    /// Names images, whose blobs must be durable, and ends the lease. Then removes ingests and
    /// blobs that this import created: those blobs that are not in `planned`, or all if the images
    /// could not be named. Blobs to which something refers stay. Returns the named images.
    pub(super) async fn finish(
        self,
        named: BTreeMap<Reference, Descriptor>,
        planned: &HashSet<Digest>,
    ) -> Result<Vec<Image>> {
        let images = named
            .into_iter()
            .map(|(name, target)| Image::new(name, target))
            .collect();
        let Created { mut blobs, ingests } = std::mem::take(&mut *self.created());
        let named = self.guard.name(images, &["target"]).await;
        if named.is_ok() {
            blobs.retain(|blob| !planned.contains(blob));
        }
        for warning in discard_all(ingests).await {
            self.progress.warn(&warning);
        }
        if let Err(error) = collect_unreferenced(self.store, blobs).await {
            self.progress.warn(&not_removed(&error));
        }
        named
    }

    /// Removes what this import created, and ends the lease. If something cannot be removed, there
    /// is a warning.
    pub(super) async fn roll_back(self) {
        let progress = self.progress;
        for warning in self.into_undo().run().await {
            progress.warn(&warning);
        }
    }

    /// Returns an [`Undo`], which removes everything that this import created and ends the lease.
    pub(super) fn into_undo(self) -> Undo {
        let created = std::mem::take(&mut *self.created());
        Undo {
            store: self.store.clone(),
            guard: self.guard,
            created,
        }
    }
}

/// Runs all jobs, some of them concurrently. Jobs in progress stop by themselves after one has
/// failed.
pub(super) async fn in_parallel(
    jobs: impl Iterator<Item: Future<Output = Result<()>>>,
) -> Result<()> {
    let outcomes = stream::iter(jobs).buffer_unordered(MAX_PARALLEL);
    first_cause(outcomes.collect().await)
}
