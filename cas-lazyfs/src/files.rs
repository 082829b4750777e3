//! The data files of all layers, by the numbers of their snapshots.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cas_core::Result;
use cas_core::sync::lock;
use cas_lazy::StoredTable;

use crate::layer::Layer;
use crate::{Fetch, complete};

/// How long nothing is tried after a layer could not be completed.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait while there is nothing to complete.
const IDLE: Duration = Duration::from_millis(50);

/// Counts the bytes that are fetched.
struct Paced<'a> {
    fetch: &'a dyn Fetch,
    bytes: AtomicU64,
}

impl Fetch for Paced<'_> {
    fn fetch(&self, layer: &StoredTable, range: Range<u64>) -> Result<Vec<u8>> {
        let bytes = self.fetch.fetch(layer, range)?;
        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

/// The data files of the layers in a directory of snapshots. A layer is opened when it is first
/// used.
pub struct Files {
    /// The directory of the directories of snapshots.
    snapshots: PathBuf,
    fetch: Arc<dyn Fetch>,
    open: Mutex<BTreeMap<u64, Arc<Layer>>>,
    /// The most compressed bytes that are fetched in a second to complete layers.
    speed: u64,
    /// How many reads are being served.
    reads: AtomicUsize,
    /// The layers that could not be completed, and when that is tried again.
    failed: Mutex<BTreeMap<u64, Instant>>,
}

impl Files {
    /// Returns the data files of the layers in `snapshots`, which are fetched with `fetch`.
    pub fn new(snapshots: PathBuf, fetch: Arc<dyn Fetch>) -> Self {
        Files {
            snapshots,
            fetch,
            open: Mutex::default(),
            speed: u64::MAX,
            reads: AtomicUsize::new(0),
            failed: Mutex::default(),
        }
    }

    /// Sets how many compressed bytes are fetched in a second to complete layers that were opened;
    /// 0 for none. By default as many as arrive.
    #[must_use]
    pub fn with_speed(mut self, bytes: u64) -> Self {
        self.speed = bytes;
        self
    }

    /// Returns the length in bytes of the data file of the layer with this number.
    ///
    /// # Errors
    /// `NotFound` if no snapshot with this number has a layer that is read on demand; `Corrupt` if
    /// its table of contents is damaged; errors of the file system.
    pub(crate) fn length(&self, id: u64) -> Result<u64> {
        Ok(self.layer(id)?.length())
    }

    /// Reads from the data file of a layer. Returns the number of bytes read.
    ///
    /// # Errors
    /// As [`Files::length`]; `Corrupt` if what was fetched is not what the table of contents says;
    /// errors of the registry.
    pub(crate) fn read(&self, id: u64, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let layer = self.layer(id)?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        let read = layer.read(&*self.fetch, offset, buffer);
        self.reads.fetch_sub(1, Ordering::Relaxed);
        read
    }

    /// Fetches the next missing pieces of a layer that was opened, or completes a layer whose
    /// pieces have all arrived. Does nothing while a read is being served. Returns how long to wait
    /// before the next call.
    pub(crate) fn advance(&self) -> Duration {
        if self.speed == 0 || self.reads.load(Ordering::Relaxed) > 0 {
            return IDLE;
        }
        let Some((id, layer)) = self.incomplete() else {
            return IDLE;
        };
        let begun = Instant::now();
        let fetch = Paced {
            fetch: &*self.fetch,
            bytes: AtomicU64::new(0),
        };
        let advanced = match layer.first_missing() {
            Some(piece) if layer.layer.is_tar() => {
                let last = layer.layer.pieces().len();
                layer.want_some(&fetch, piece..last).map(drop)
            }
            _ => complete::complete(&layer, &fetch, &self.directory(id)),
        };
        if let Err(error) = advanced {
            tracing::warn!(%error, id, "cannot complete a layer that is read on demand");
            lock(&self.failed).insert(id, Instant::now() + PATIENCE);
        }
        let bytes = fetch.bytes.into_inner();
        let due = Duration::from_secs_f64(bytes as f64 / self.speed as f64);
        due.saturating_sub(begun.elapsed())
    }

    /// Returns a layer that was opened and is not complete.
    fn incomplete(&self) -> Option<(u64, Arc<Layer>)> {
        let open = lock(&self.open);
        let failed = lock(&self.failed);
        let now = Instant::now();
        let mut layers = open.iter().filter(|(id, layer)| {
            let may_try = failed.get(id).is_none_or(|again| *again <= now);
            may_try && !layer.is_complete() && !complete::is_complete(&self.directory(**id))
        });
        layers.next().map(|(id, layer)| (*id, Arc::clone(layer)))
    }

    fn directory(&self, id: u64) -> PathBuf {
        self.snapshots.join(id.to_string())
    }

    /// Records which pieces of all layers have arrived, and closes the layers whose snapshots were
    /// removed. Logs failures: the pieces are then fetched again by the next process.
    pub(crate) fn record(&self) {
        lock(&self.open).retain(|_, layer| !layer.is_removed());
        let layers: Vec<Arc<Layer>> = lock(&self.open).values().cloned().collect();
        for layer in layers {
            if let Err(error) = layer.record() {
                tracing::warn!(%error, "cannot record what has arrived of a layer");
            }
        }
    }

    fn layer(&self, id: u64) -> Result<Arc<Layer>> {
        // Two threads must not open one layer, because each would fetch the same pieces.
        let mut open = lock(&self.open);
        if let Some(layer) = open.get(&id) {
            return Ok(Arc::clone(layer));
        }
        let layer = Arc::new(Layer::open(&self.directory(id))?);
        open.insert(id, Arc::clone(&layer));
        Ok(layer)
    }
}
