//! Bounds on concurrent fetches.

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::{Error, Result};

/// How many blobs are fetched at once.
///
/// Clones share the overall limit: give clones to pulls that run at the same time. A value outside
/// of its bounds is replaced by the nearest one within.
#[derive(Clone, Debug)]
pub struct PullLimits {
    overall: Arc<Semaphore>,
    per_image: usize,
    per_layer: usize,
}

impl PullLimits {
    /// Blobs fetched at once, by all pulls together and by one pull, if nothing else is said.
    pub const DEFAULT_BLOBS: usize = 3;
    /// Most blobs that may be fetched at once.
    pub const MAX_BLOBS: usize = 64;
    /// Most ranges of one layer that may be fetched at once.
    pub const MAX_RANGES: usize = 8;
    /// Bytes of one range. A layer that is fetched in n ranges at once has at most n + 1 of them in
    /// memory.
    pub const RANGE: u64 = 8 << 20;

    /// Fetches at most `overall` blobs at once in all pulls that share these limits, from 1 to
    /// [`Self::MAX_BLOBS`]; by default [`Self::DEFAULT_BLOBS`].
    pub fn new(overall: usize) -> Self {
        PullLimits {
            overall: Arc::new(Semaphore::new(overall.clamp(1, Self::MAX_BLOBS))),
            per_image: Self::DEFAULT_BLOBS,
            per_layer: 1,
        }
    }

    /// Handles at most `blobs` blobs at once in one pull, from 1 to [`Self::MAX_BLOBS`]; by
    /// default [`Self::DEFAULT_BLOBS`].
    #[must_use]
    pub fn with_per_image(mut self, blobs: usize) -> Self {
        self.per_image = blobs.clamp(1, Self::MAX_BLOBS);
        self
    }

    /// Fetches at most `ranges` ranges of one layer at once, from 1 to [`Self::MAX_RANGES`]; by
    /// default 1, which is one request for the whole layer.
    #[must_use]
    pub fn with_per_layer(mut self, ranges: usize) -> Self {
        self.per_layer = ranges.clamp(1, Self::MAX_RANGES);
        self
    }

    /// Returns the most blobs that one pull handles at once.
    pub fn per_image(&self) -> usize {
        self.per_image
    }

    /// Returns the most ranges of one layer that are fetched at once.
    pub fn per_layer(&self) -> usize {
        self.per_layer
    }

    /// Waits until one more blob may be fetched. The permit must be taken before anything that
    /// another fetch waits for.
    pub(super) async fn permit(&self) -> Result<SemaphorePermit<'_>> {
        let permit = self.overall.acquire().await;
        permit.map_err(|closed| Error::internal("the limits were closed").source(closed))
    }
}

impl Default for PullLimits {
    fn default() -> Self {
        Self::new(Self::DEFAULT_BLOBS)
    }
}
