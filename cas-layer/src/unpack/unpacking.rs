//! Unpacks an image into committed snapshots, each named by its chain ID.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cas_core::error::ErrorKind;
use cas_core::labels::{self, LEASE, VERIFIED_LAYER};
use cas_core::lease::{self, BlobRef, LeaseGuard};
use cas_core::progress::Progress;
use cas_core::snapshot::{Commit, SnapshotKind, chain_ids};
use cas_core::transfer::{ImageQuota, Quota};
use cas_core::{Descriptor, Digest, Labels, Manifest, Result, Snapshotter, Store, pool, unique};

use super::active_snapshot::ActiveSnapshot;
use super::cancel::Waiter;
use super::chain_lock::ChainLock;
use super::jobs::Jobs;
use super::kept_layer::{self, KeptLayer};
use super::on_demand::{LayerTable, Recorded, TableSource};
use super::standalone::StandaloneLayer;
use super::{
    StoredLayer, accepted_by, check_types, is_unverified, layers_with_diff_ids, on_demand, parts,
    record_diff_id,
};
use crate::apply::ImageCost;
use crate::flow::{self, Accept, Confine, LayerCheckpoints};

/// How many layers of an image are unpacked at the same time by default.
const AT_ONCE: i64 = 3;

/// The snapshotter and the locks that are used to make the snapshots of an image.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The snapshotter that makes the snapshots.
    pub snapshotter: &'a Arc<dyn Snapshotter>,
    /// A directory for the locks between processes. It is created if it is absent.
    pub locks: &'a Path,
    /// Whether layers are kept only as tars of the snapshotter, and not in the store. If so, a pull
    /// or an import does not store a layer again if the layer was verified and has a sound
    /// snapshot.
    pub only_tars: bool,
    /// Fetches the table of contents of a layer again if the layer is read on demand, and its
    /// snapshot is lost or damaged. If this field is `None`, an image that needs a table again
    /// cannot be unpacked.
    pub tables: Option<&'a dyn TableSource>,
    /// Whether the threads that unpack are [confined](cas_host::Confinement) to the directories of
    /// the snapshots.
    pub confine: bool,
}

/// Unpacks an image into committed snapshots:
///
/// - A layer that has no snapshot yet is unpacked.
/// - A layer whose snapshot has lost its directory is unpacked again. If the store does not have
///   the layer, the directory stays missing.
/// - A layer that is read on demand is not unpacked. Its table of contents is fetched again if its
///   snapshot is missing or has lost its directory, or if the table in the snapshot is damaged.
///
/// If this process or another one is unpacking the same layers already, waits until that unpack
/// ends. At the end, adds a gc label to the record of the configuration. The label refers to the
/// topmost snapshot, so a garbage collection keeps this snapshot as long as it keeps the image.
///
/// After an error, or if the future is dropped, unfinished snapshots are removed. Committed
/// snapshots stay, and a later call uses them, unless a garbage collection removes them first.
///
/// Returns the chain ID of the image, which is the name of its topmost snapshot. Returns `None` for
/// an image without layers.
///
/// # Errors
/// `NotFound` if the store lacks the configuration or a layer that has no snapshot yet, or if a
/// table of contents cannot be fetched again because [`Target::tables`] is `None` or no label of
/// the configuration states where to fetch the table; `Corrupt` if the configuration or a layer is
/// damaged, if a layer does not have its diff ID, or if the manifest and the configuration do not
/// match; `OutOfRange` if the configuration is too large to be read; `Unsupported` if the image is
/// an artifact or lists a blob that is not a layer, if the annotation `org.erofs.role` of a layer
/// states a role other than `overlay-lower`, or if the snapshotter does not support a layer because
/// the layer is an EROFS image or is read on demand; errors of [`flow::stream`] and of
/// [`Tree::apply`](crate::apply::Tree::apply); errors of the store, of the snapshotter, of the
/// locks and of [`Target::tables`].
pub async fn to_snapshots(
    store: &Store,
    target: Target<'_>,
    manifest: &Manifest,
    progress: &Arc<dyn Progress>,
) -> Result<Option<Digest>> {
    let how = How::default();
    let unpacking = Unpacking::begin(store, target, manifest, progress, &how).await?;
    unpacking.finish().await
}

/// How an image is unpacked.
#[derive(Clone)]
pub(super) struct How {
    /// How many layers are unpacked at the same time. Each needs four or five threads and a few MiB
    /// of buffers.
    pub(super) quota: Quota,
    /// Whether layers are not stored, if their snapshots can be made without storing them.
    pub(super) discards: bool,
    /// Where layers are unpacked first, so that a later process can use them.
    pub(super) jobs: Option<Jobs>,
    /// For each layer, its table if it is read on demand. May be empty if no layer is. If a layer
    /// has a table, no jobs are used.
    pub(super) tables: Vec<Option<LayerTable>>,
    /// Whether the image is unpacked for a pull or an import. Then only layers with a table in
    /// `tables` are read on demand. Otherwise, the layers that the last pull has recorded as such
    /// are read on demand, unless the store has all of them.
    pub(super) whole: bool,
    /// The paths of tars, by the digests of layers that need not be stored because of them.
    pub(super) tars: BTreeMap<Digest, PathBuf>,
}

impl Default for How {
    fn default() -> Self {
        How {
            quota: Quota::of_each_image(AT_ONCE),
            discards: false,
            jobs: None,
            tables: Vec::new(),
            whole: false,
            tars: BTreeMap::new(),
        }
    }
}

/// An image that is being unpacked into snapshots.
pub(super) struct Unpacking<'a> {
    pub(super) store: &'a Store,
    pub(super) target: Target<'a>,
    pub(super) progress: &'a Arc<dyn Progress>,
    pub(super) cost: ImageCost,
    guard: LeaseGuard,
    pub(super) config: Descriptor,
    manifest_id: String,
    /// The key of views that exist only for a moment.
    pub(super) look: String,
    /// Any layer in the job of the image, if there is a job. It gives access to the job.
    pub(super) kept: Option<KeptLayer>,
    /// All layers with their diff IDs, lowest first.
    pub(super) layers: Vec<(Descriptor, Digest)>,
    /// For each layer, its table, if the layer is read on demand and the table was fetched for this
    /// unpack. Empty if no table was. A table that only an earlier pull has recorded is here only
    /// if its layer had no snapshot at the beginning.
    pub(super) tables: Vec<Option<LayerTable>>,
    /// For each layer, what an earlier pull has recorded if the layer is read on demand. Empty if
    /// no layer is, or for a pull or an import.
    recorded: Vec<Option<Recorded>>,
    pub(super) chain: Vec<Digest>,
    /// How many layers, from the lowest up, have a snapshot already. Counted only if layers are
    /// unpacked in parallel.
    pub(super) existing: usize,
    /// The layers without a snapshot, lowest first, if they are unpacked in parallel. `None` stands
    /// for a layer that was committed, or that is being applied again on top of its parents.
    pub(super) standalone: Vec<Option<StandaloneLayer>>,
    /// An open directory on the file system of the trees in `standalone`. It is opened before the
    /// first write, so that its sync also reports a write error that the kernel has already
    /// reported to another process.
    pub(super) device: Option<Arc<File>>,
    lock: Option<ChainLock>,
    pub(super) quota: ImageQuota,
    pub(super) discards: bool,
    /// As [`How::whole`].
    pub(super) whole: bool,
    /// The indexes of the layers that were not in the store at the beginning, and whose committed
    /// snapshots had lost their directories.
    pub(super) lost: Vec<usize>,
    /// The indexes of the layers that have a snapshot and are known to have their diff ID. Filled
    /// only if layers are discarded, or if snapshots keep the only copy of layers. Unless layers
    /// are discarded, a layer whose snapshot has lost or changed files is left out.
    pub(super) verified: BTreeSet<usize>,
    /// The indexes of the missing layers whose new snapshots refer to ready layers.
    pub(super) ready: BTreeSet<usize>,
    /// The indexes of the missing layers whose new snapshots have copies of tars in [`How::tars`].
    pub(super) copied: BTreeSet<usize>,
    /// The checkpoints of the layers that are being unpacked, by their indexes.
    pub(super) checkpoints: Mutex<BTreeMap<usize, LayerCheckpoints>>,
}

impl<'a> Unpacking<'a> {
    /// Begins to unpack an image: pins it, gives snapshots without a directory their files again,
    /// and prepares snapshots for missing layers if they are unpacked in parallel. The
    /// configuration must be in the store. The layers may arrive later.
    ///
    /// # Errors
    /// As [`to_snapshots`].
    pub(super) async fn begin(
        store: &'a Store,
        target: Target<'a>,
        manifest: &Manifest,
        progress: &'a Arc<dyn Progress>,
        how: &How,
    ) -> Result<Self> {
        let mut unpacking = Self::new(store, target, manifest, progress).await?;
        unpacking.quota = how.quota.for_image();
        unpacking.discards = how.discards && unpacking.rebases();
        unpacking.whole = how.whole;
        if how.tables.iter().any(Option::is_some) {
            unpacking.tables.clone_from(&how.tables);
        }
        if how.discards && !unpacking.discards {
            let name = unpacking.name();
            progress.warn(&format!(
                "the snapshotter {name} can only unpack stored layers, so all layers are stored"
            ));
        }
        match unpacking.prepare(manifest, how).await {
            Ok(()) => Ok(unpacking),
            Err(error) => unpacking.end(Err(error)).await,
        }
    }

    pub(super) async fn new(
        store: &'a Store,
        target: Target<'a>,
        manifest: &Manifest,
        progress: &'a Arc<dyn Progress>,
    ) -> Result<Self> {
        Ok(Unpacking {
            store,
            target,
            progress,
            cost: ImageCost::default(),
            guard: LeaseGuard::begin(store, "unpack").await?,
            config: manifest.config.clone(),
            manifest_id: String::new(),
            look: unique::key("look"),
            kept: None,
            layers: Vec::new(),
            tables: Vec::new(),
            recorded: Vec::new(),
            chain: Vec::new(),
            existing: 0,
            standalone: Vec::new(),
            device: None,
            lock: None,
            quota: How::default().quota.for_image(),
            discards: false,
            whole: false,
            lost: Vec::new(),
            verified: BTreeSet::new(),
            ready: BTreeSet::new(),
            copied: BTreeSet::new(),
            checkpoints: Mutex::default(),
        })
    }

    /// Pins the configuration, the snapshots of the layers, the views of them and, unless layers
    /// are discarded, the layers. Sets the layers and their chain IDs.
    pub(super) async fn pin(&mut self, manifest: &Manifest) -> Result<()> {
        if self.discards {
            let config = BlobRef::of(&manifest.config, Vec::new());
            self.guard.pin_all(&[config]).await?;
        } else {
            self.guard.pin_all(&parts(manifest)).await?;
        }
        self.layers = layers_with_diff_ids(self.store, manifest).await?;
        check_types(&self.layers, self.accept())?;
        self.manifest_id = on_demand::manifest_id(manifest)?;
        self.chain = if !self.tables.is_empty() {
            on_demand::chain_with(&self.layers, &self.tables)
        } else if self.whole {
            let diff_ids: Vec<Digest> = self.layers.iter().map(|(_, id)| *id).collect();
            chain_ids(&diff_ids)
        } else {
            self.recorded = on_demand::recorded(self.store, manifest, &self.layers).await?;
            on_demand::recorded_chain(&self.layers, &self.recorded)
        };
        let mut keys: Vec<String> = self.chain.iter().map(ToString::to_string).collect();
        keys.push(self.look.clone());
        self.pin_snapshots(&keys).await
    }

    async fn prepare(&mut self, manifest: &Manifest, how: &How) -> Result<()> {
        self.pin(manifest).await?;
        self.lost = self.rebuild_missing().await?;
        if self.rebases() {
            self.lock = self.lock_first_missing().await?;
            self.fetch_missing_tables().await?;
            self.prepare_standalone().await?;
            self.use_ready_layers().await?;
            self.copy_tars(&how.tars).await?;
            if self.discards || self.target.only_tars {
                self.find_verified().await?;
            }
            match &how.jobs {
                Some(jobs) if self.tables.is_empty() => self.keep_layers(jobs).await,
                _ => self.write_tables().await?,
            }
        }
        Ok(())
    }

    /// Waits for the lock of the lowest layer without a snapshot. Returns `None` if all layers have
    /// a snapshot.
    async fn lock_first_missing(&mut self) -> Result<Option<ChainLock>> {
        loop {
            self.existing = self.count_committed().await?;
            let Some(missing) = self.chain.get(self.existing) else {
                return Ok(None);
            };
            let lock = self.lock(missing).await?;
            if self.count_committed().await? == self.existing {
                return Ok(Some(lock));
            }
        }
    }

    pub(super) async fn lock(&self, chain_id: &Digest) -> Result<ChainLock> {
        ChainLock::wait(self.target.locks, chain_id, self.progress.as_ref()).await
    }

    /// Returns how many layers, from the lowest up, have a snapshot.
    pub(super) async fn count_committed(&self) -> Result<usize> {
        let mut existing = self.chain.len();
        while existing > 0 && !self.pin_committed(&self.chain[existing - 1]).await? {
            existing -= 1;
        }
        Ok(existing)
    }

    /// Unpacks the remaining layers, and commits them. Returns what [`to_snapshots`] returns.
    ///
    /// # Errors
    /// As [`to_snapshots`].
    pub(super) async fn finish(mut self) -> Result<Option<Digest>> {
        let outcome = self.complete().await;
        self.end(outcome).await
    }

    async fn complete(&mut self) -> Result<Option<Digest>> {
        // Layers that were lost may have arrived since, and layers above them need their files.
        if !self.lost.is_empty() {
            self.rebuild_missing().await?;
        }
        if self.rebases() {
            self.unpack_parallel().await?;
        } else {
            self.unpack_serial().await?;
        }
        if !self.tables.is_empty() {
            let (store, config) = (self.store, &self.config);
            let (id, layers) = (&self.manifest_id, &self.layers);
            on_demand::record(store, config, id, layers, &self.tables).await?;
        } else if self.whole {
            let reference = self.reference_on_demand();
            on_demand::forget(self.store, &self.config, &self.manifest_id, &reference).await?;
        }
        if let Some(top) = self.chain.last() {
            self.keep_without_records(top).await?;
            let label = Labels::from([(self.reference(), top.to_string())]);
            lease::set_labels(self.store, &self.config, &label).await?;
        }
        self.end_job(KeptLayer::end_job).await;
        Ok(self.chain.last().copied())
    }

    /// Returns the label that refers from the configuration to the topmost snapshot.
    fn reference(&self) -> String {
        match self.tables.is_empty() && self.recorded.is_empty() {
            true => labels::gc_ref_snapshot(self.name()),
            false => self.reference_on_demand(),
        }
    }

    /// Returns the label that refers to the topmost snapshot if layers are read on demand. The key
    /// has the id of the manifest, because the label for the whole layers may exist, too.
    fn reference_on_demand(&self) -> String {
        let reference = labels::gc_ref_snapshot(self.name());
        format!("{reference}/{}", self.manifest_id)
    }

    /// Returns the table of a layer that is read on demand, if it was fetched.
    pub(super) fn table(&self, index: usize) -> Option<&LayerTable> {
        self.tables.get(index)?.as_ref()
    }

    /// Returns whether a layer is read on demand.
    pub(super) fn reads_on_demand(&self, index: usize) -> bool {
        self.table(index).is_some() || self.recorded.get(index).is_some_and(Option::is_some)
    }

    /// Returns the table of a layer that is read on demand, and `None` for any other layer. Fetches
    /// the table if `tables` does not have it.
    ///
    /// # Errors
    /// As [`Recorded::fetch`].
    pub(super) async fn find_table(&self, index: usize) -> Result<Option<LayerTable>> {
        let recorded = self.recorded.get(index).and_then(Option::as_ref);
        match (self.table(index), recorded) {
            (Some(table), _) => Ok(Some(table.clone())),
            (None, Some(recorded)) => recorded.fetch(self.target.tables).await.map(Some),
            (None, None) => Ok(None),
        }
    }

    /// Fetches the tables of the layers that an earlier pull has recorded as read on demand, and
    /// that have no snapshot any more.
    async fn fetch_missing_tables(&mut self) -> Result<()> {
        for index in self.existing..self.chain.len() {
            if let Some(table) = self.find_table(index).await? {
                self.tables.resize(self.chain.len(), None);
                self.tables[index] = Some(table);
            }
        }
        Ok(())
    }

    /// Returns whether the configuration refers to the topmost snapshot, which means that the image
    /// was unpacked to the end before.
    pub(super) async fn is_recorded(&self) -> Result<bool> {
        let found = self.store.blobs().load(&self.config.digest).await?;
        let label = found.and_then(|(mut record, _)| record.labels.remove(&self.reference()));
        Ok(label == self.chain.last().map(ToString::to_string))
    }

    /// Ends the work with this outcome, and returns it. After an error, unfinished snapshots are
    /// removed.
    pub(super) async fn end<T>(self, outcome: Result<T>) -> Result<T> {
        if outcome.is_err() {
            self.end_job(KeptLayer::abandon_job).await;
            for layer in self.standalone.iter().flatten() {
                self.remove_unfinished(&layer.snapshot).await;
            }
        }
        self.guard.finish_with(outcome).await
    }

    /// Assigns the missing layers to the job of the image, in which they are then unpacked, and
    /// takes the layers that an earlier process has unpacked there. If that fails, warns, and the
    /// layers are unpacked without a job.
    async fn keep_layers(&mut self, jobs: &Jobs) {
        let missing = self.existing..self.layers.len();
        let missing: Vec<usize> = missing.filter(|one| !self.ready.contains(one)).collect();
        let layers = missing.iter().map(|index| self.layers[*index].clone());
        let layers: Vec<_> = layers.collect();
        if layers.is_empty() {
            return;
        }
        let (jobs, image) = (jobs.clone(), self.config.digest);
        let kept = pool::run(move || kept_layer::keep_layers(&jobs, image, &layers)).await;
        let kept = match kept {
            Ok(kept) => kept,
            Err(error) => {
                self.progress.warn(&format!(
                    "unpacked layers cannot be kept, so if this unpack fails, the next one must \
                     unpack the layers again: {error}"
                ));
                return;
            }
        };
        for (index, (place, effects)) in missing.into_iter().zip(kept) {
            self.kept.get_or_insert_with(|| place.clone());
            if let Some(layer) = &mut self.standalone[index - self.existing] {
                layer.keep(place, effects);
            }
        }
    }

    /// Ends the job of the image with `end`, if there is a job. If that fails, warns, and a
    /// collection deletes what is left.
    pub(super) async fn end_job(&self, end: fn(&KeptLayer) -> Result<()>) {
        let Some(kept) = self.kept.clone() else {
            return;
        };
        if let Err(left) = pool::run(move || end(&kept)).await {
            self.progress.warn(&format!(
                "an unpack job could not be removed: {left}; a garbage collection will remove it"
            ));
        }
    }

    pub(super) fn rebases(&self) -> bool {
        self.target.snapshotter.rebases()
    }

    /// Returns which layers the snapshotter can have: only tars, or also EROFS images.
    pub(super) fn accept(&self) -> Accept {
        accepted_by(&**self.target.snapshotter)
    }

    fn name(&self) -> &'static str {
        self.target.snapshotter.name()
    }

    pub(super) async fn pin_snapshots(&self, keys: &[String]) -> Result<()> {
        self.guard.pin_snapshots(self.name(), keys).await
    }

    /// Protects a pinned snapshot from a collection that has begun already. Returns whether the
    /// snapshot exists and is committed.
    pub(super) async fn pin_committed(&self, chain_id: &Digest) -> Result<bool> {
        let (snapshotter, key) = (self.target.snapshotter, chain_id.to_string());
        let found = snapshotter.stat(&key).await?;
        let committed = found.is_some_and(|info| info.kind == SnapshotKind::Committed);
        Ok(committed && self.guard.bump_snapshot(&**snapshotter, &key).await?)
    }

    /// Returns a key for the active snapshot of a layer.
    pub(super) fn extract_key(&self, index: usize) -> String {
        format!("{} {}", unique::key("extract"), self.chain[index])
    }

    /// Returns the label that ties a new snapshot to the lease. If the snapshot is left behind, a
    /// collection removes it after the lease has ended. Without the label, a collection would keep
    /// it for a day.
    pub(super) fn labels(&self) -> Labels {
        Labels::from([(LEASE.to_owned(), self.guard.id().to_owned())])
    }

    /// Commits a layer. If another job has committed the layer already, keeps the snapshot of that
    /// job, and removes `snapshot`.
    pub(super) async fn commit(
        &self,
        index: usize,
        snapshot: &Arc<ActiveSnapshot>,
        options: Commit,
    ) -> Result<()> {
        let chain_id = &self.chain[index];
        let (layer, diff_id) = &self.layers[index];
        let content = &self.store.content;
        let is_on_demand = self.table(index).is_some();
        let is_ready = self.ready.contains(&index);
        let may_be_absent = self.discards || is_ready || self.copied.contains(&index);
        let is_stored =
            !is_on_demand && (!may_be_absent || content.stat(&layer.digest).await?.is_some());
        let mut labels = self.labels();
        // The blob of a ready layer was not fetched, so its diff ID is not known.
        if !is_stored && !is_on_demand && !is_ready {
            labels.insert(VERIFIED_LAYER.to_owned(), layer.digest.to_string());
        }
        let options = Commit { labels, ..options };
        match snapshot.commit(chain_id.to_string(), options).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if !self.pin_committed(chain_id).await? {
                    return Err(error);
                }
                snapshot.remove().await?;
            }
            committed => committed?,
        }
        if is_stored {
            record_diff_id(self.store, layer, diff_id, self.progress.as_ref()).await;
            self.keep_checkpoints(index).await;
        }
        Ok(())
    }

    /// Verifies a layer whose snapshot exists already, or refers to a ready layer. The snapshot has
    /// the files of a layer with this diff ID, but the blob that this image lists may have another
    /// diff ID. Does nothing if the diff ID of the blob is known already, or if a job may have
    /// verified and discarded the blob.
    pub(super) async fn verify_existing(&self, index: usize) -> Result<()> {
        let (layer, diff_id) = self.layers[index].clone();
        if !is_unverified(self.store, &layer, &diff_id).await? {
            return Ok(());
        }
        let mut stored = StoredLayer::open(self.store, (layer.clone(), diff_id)).await?;
        stored.checkpoints = self.begin_checkpoints(index, stored.checkpoints);
        let progress = Arc::clone(self.progress);
        let confine = Confine::if_set(self.target.confine, Confine::Decoding);
        let waiter = Waiter::new();
        let watch = waiter.watch();
        let item = layer.digest.to_string();
        pool::apart("cas-verify", move || {
            progress.begin(&item, Some(stored.descriptor.size));
            let advance = |bytes| progress.advance(&item, bytes);
            // The closure reads nothing; all bytes are verified nevertheless.
            let layers = vec![watch.layer(stored.source())];
            flow::stream(layers, Accept::TarsAndImages, confine, &advance, |_, _| {
                Ok(())
            })?;
            progress.end(&item);
            Ok(())
        })
        .await?;
        record_diff_id(self.store, &layer, &diff_id, self.progress.as_ref()).await;
        self.keep_checkpoints(index).await;
        Ok(())
    }

    /// Removes an unfinished snapshot. If that fails, warns.
    pub(super) async fn remove_unfinished(&self, snapshot: &Arc<ActiveSnapshot>) {
        if let Err(left) = snapshot.remove().await {
            let key = snapshot.key();
            let message = format!(
                "the unfinished snapshot {key:?} could not be removed: {left}; a garbage \
                 collection will remove it"
            );
            self.progress.warn(&message);
        }
    }
}
