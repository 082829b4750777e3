//! What the pipeline does with the checkpoints of a layer.

use std::sync::{Arc, Mutex};

use cas_core::sync::lock;

use crate::codec::Checkpoints;

/// The checkpoints with which a layer is decompressed, and those that were recorded meanwhile. A
/// clone shares the recorded checkpoints.
#[derive(Clone, Debug, Default)]
pub struct LayerCheckpoints {
    /// The checkpoints of this layer, if they are known. They only save time: if they are wrong,
    /// the layer is decompressed without them.
    pub(crate) known: Option<Arc<Checkpoints>>,
    found: Arc<Mutex<Found>>,
}

/// What was found out while a layer was decompressed to its end.
#[derive(Debug, Default)]
pub struct Found {
    /// The checkpoints that were recorded, because none were known, or because some of them were
    /// wrong. `None` if the layer is not compressed with gzip, or is too small.
    pub recorded: Option<Checkpoints>,
    /// The number of parts of the layer that several threads have decompressed at the same time. 0
    /// if one thread has decompressed the whole layer.
    pub spans: usize,
}

impl LayerCheckpoints {
    /// Returns the checkpoints of a layer before it is decompressed. If none are known, some are
    /// recorded.
    pub fn new(known: Option<Checkpoints>) -> Self {
        LayerCheckpoints {
            known: known.map(Arc::new),
            found: Arc::default(),
        }
    }

    /// Returns what was found out, and forgets it. Callers wait until the layer is verified: before
    /// that, the decompressed bytes may be wrong, and with them the recorded checkpoints.
    pub fn take(&self) -> Found {
        std::mem::take(&mut lock(&self.found))
    }

    pub(super) fn set(&self, found: Found) {
        *lock(&self.found) = found;
    }
}
