//! The data files of all layers, by the numbers of their snapshots.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use cas_core::Result;
use cas_core::sync::lock;

use crate::Fetch;
use crate::layer::Layer;

/// The data files of the layers in a directory of snapshots. A layer is opened when it is first
/// used.
pub struct Files {
    /// The directory of the directories of snapshots.
    snapshots: PathBuf,
    fetch: Arc<dyn Fetch>,
    open: Mutex<BTreeMap<u64, Arc<Layer>>>,
}

impl Files {
    /// Returns the data files of the layers in `snapshots`, which are fetched with `fetch`.
    pub fn new(snapshots: PathBuf, fetch: Arc<dyn Fetch>) -> Self {
        Files {
            snapshots,
            fetch,
            open: Mutex::default(),
        }
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
        self.layer(id)?.read(&*self.fetch, offset, buffer)
    }

    /// Records which pieces of all layers have arrived. Logs failures: the pieces are then fetched
    /// again by the next process.
    pub(crate) fn record(&self) {
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
        let layer = Arc::new(Layer::open(&self.snapshots.join(id.to_string()))?);
        open.insert(id, Arc::clone(&layer));
        Ok(layer)
    }
}
