//! Unpacks an image while it arrives in the store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cas_core::progress::Progress;
use cas_core::sync::lock;
use cas_core::transfer::{LayerFeed, Quota, QuotaLease, Unpacker, Want, layer_channel};
use cas_core::{Descriptor, Digest, Error, Manifest, Result, Store};
use tokio::sync::RwLock;

use super::jobs::Jobs;
use super::on_demand::LayerTables;
use super::unpacking::{How, Target, Unpacking};
use super::{is_artifact, layers_with_diff_ids};

/// Unpacks one image into snapshots while it arrives in the store, if the snapshotter [can set the
/// parent of a snapshot at its commit](cas_core::Snapshotter::rebases). Otherwise the image is
/// unpacked from the store when it is complete. An artifact cannot be unpacked. If layers are kept
/// only as tars ([`Target::only_tars`]), an artifact is stored without being unpacked. Otherwise an
/// artifact is an error.
pub struct StreamingUnpacker<'a> {
    store: &'a Store,
    target: Target<'a>,
    progress: &'a Arc<dyn Progress>,
    how: How,
    tables: Option<Arc<dyn LayerTables>>,
    state: RwLock<State<'a>>,
    /// The leases of the layers that may be unpacked, but whose bytes have not begun to arrive, by
    /// the digest of the layer.
    admitted: Mutex<HashMap<Digest, QuotaLease>>,
}

enum State<'a> {
    Waiting,
    Running(Box<Unpacking<'a>>),
    Ended(Option<Digest>),
}

impl<'a> StreamingUnpacker<'a> {
    /// Creates an unpacker for an image that will arrive in `store`.
    pub fn new(store: &'a Store, target: Target<'a>, progress: &'a Arc<dyn Progress>) -> Self {
        StreamingUnpacker {
            store,
            target,
            progress,
            how: How {
                whole: true,
                ..How::default()
            },
            tables: None,
            state: RwLock::new(State::Waiting),
            admitted: Mutex::default(),
        }
    }

    /// Sets how many layers are unpacked at the same time. The default is three layers of each
    /// image. If a layer arrives when no more layers may be unpacked, it is stored and unpacked
    /// later. A layer that is not to be stored is fetched only when it may be unpacked.
    #[must_use]
    pub fn with_quota(mut self, quota: Quota) -> Self {
        self.how.quota = quota;
        self
    }

    /// Sets whether layers are unpacked without being stored. By default they are stored. Their
    /// digests and diff IDs are verified in any case.
    ///
    /// If `discards` is true, a layer is not even fetched in two cases:
    ///
    /// - A [job](Self::with_jobs) has unpacked the layer already.
    /// - The layer has a snapshot that is known to have been made of this layer, and that has not
    ///   lost its directory.
    ///
    /// If `discards` is true, a layer is still stored in three cases:
    ///
    /// - The layer must be applied on top of the layers below it.
    /// - The layer must be applied more than once.
    /// - The snapshot of the layer has lost its directory, or may have been made of another layer.
    ///
    /// If the image can only be unpacked from the store, all layers are stored, and a warning is
    /// reported.
    #[must_use]
    pub fn with_discard(mut self, discards: bool) -> Self {
        self.how.discards = discards;
        self
    }

    /// Returns the chain ID of the unpacked image, or `None` if the image has no layers or was not
    /// unpacked.
    pub fn into_chain_id(self) -> Option<Digest> {
        match self.state.into_inner() {
            State::Ended(chain_id) => chain_id,
            _ => None,
        }
    }

    /// Sets the [jobs](super::jobs) in which layers are unpacked before they are moved to their
    /// snapshots. If the process is killed or the pull fails, the next unpack of the image with the
    /// same jobs uses the layers that were unpacked completely. By default there are no jobs, and
    /// the next unpack starts from the beginning. The jobs are not used if any layer of the image
    /// is read on demand, or if the image can only be unpacked from the store.
    #[must_use]
    pub fn with_jobs(mut self, jobs: Jobs) -> Self {
        self.how.jobs = Some(jobs);
        self
    }

    /// Sets the provider of the tables of contents. A layer for which it provides a table is not
    /// fetched, but read on demand. By default all layers are fetched.
    #[must_use]
    pub fn with_tables(mut self, tables: Arc<dyn LayerTables>) -> Self {
        self.tables = Some(tables);
        self
    }

    async fn end(&self, came: Result<()>) -> Result<()> {
        let mut state = self.state.write().await;
        if let State::Running(unpacking) = std::mem::replace(&mut *state, State::Ended(None)) {
            let ended = match came {
                Ok(()) => unpacking.finish().await,
                Err(error) => unpacking.end(Err(error)).await,
            };
            *state = State::Ended(ended?);
        }
        Ok(())
    }
}

#[async_trait]
impl Unpacker for StreamingUnpacker<'_> {
    async fn begin(&self, root: &Descriptor, own: &Descriptor, manifest: &Manifest) -> Result<()> {
        let mut state = self.state.write().await;
        if self.target.only_tars && is_artifact(self.store, manifest).await? {
            return Ok(());
        }
        if let State::Waiting = *state {
            let (store, target, progress) = (self.store, self.target, self.progress);
            let mut how = self.how.clone();
            if let Some(tables) = &self.tables {
                let layers = layers_with_diff_ids(store, manifest).await?;
                how.tables = tables.tables(root, own, manifest, &layers).await?;
            }
            let begun = Unpacking::begin(store, target, manifest, progress, &how);
            *state = State::Running(Box::new(begun.await?));
        }
        Ok(())
    }

    fn wants(&self, layer: &Descriptor) -> Want {
        // If `begin` runs for another image at this moment, it holds the lock. The layer is then
        // stored.
        match self.state.try_read().as_deref() {
            Ok(State::Running(unpacking)) => unpacking.want(&layer.digest),
            _ => Want::StoreAndFeed,
        }
    }

    async fn admit(&self, layer: &Descriptor) -> Result<()> {
        let quota = match &*self.state.read().await {
            State::Running(unpacking) => unpacking.quota.clone(),
            _ => return Ok(()),
        };
        let lease = quota.acquire().await?;
        lock(&self.admitted).insert(layer.digest, lease);
        Ok(())
    }

    fn receive(&self, layer: &Descriptor) -> Option<LayerFeed<'_>> {
        // If `begin` runs for another image at this moment, it holds the lock. The layer is then
        // read from the store.
        let state = self.state.try_read().ok()?;
        let State::Running(unpacking) = &*state else {
            return None;
        };
        let admitted = lock(&self.admitted).remove(&layer.digest);
        let lease = match admitted {
            Some(lease) => lease,
            None => unpacking.quota.try_acquire().ok()??,
        };
        let index = unpacking.claim(&layer.digest)?;
        let (sender, bytes) = layer_channel();
        let unpacked = async move {
            match &*self.state.read().await {
                State::Running(unpacking) => unpacking.apply_incoming(index, bytes, lease).await,
                _ => Err(Error::internal(
                    "a layer arrived after its image was finished; please report it",
                )),
            }
        };
        Some(LayerFeed {
            sender,
            unpacked: Box::pin(unpacked),
        })
    }

    fn needs(&self) -> Vec<Descriptor> {
        match self.state.try_read().as_deref() {
            Ok(State::Running(unpacking)) => unpacking.needs(),
            _ => Vec::new(),
        }
    }

    async fn finish(&self) -> Result<()> {
        self.end(Ok(())).await
    }

    async fn abandon(&self) {
        // The caller already has the error that matters.
        let message = "the image was not unpacked, because its pull or import failed; repeat \
                       the pull or import";
        let _ = self.end(Err(Error::cancelled(message))).await;
    }
}
