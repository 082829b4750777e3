//! Bounds on concurrent fetches.

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::{Error, Result};

/// How many blobs, and how many ranges of one layer, are fetched concurrently.
///
/// Clones share the overall limit: give clones to pulls that run at the same time. A value out of
/// bounds is replaced by the nearest bound.
#[derive(Clone, Debug)]
pub struct PullLimits {
    overall: Arc<Semaphore>,
    per_image: usize,
    per_layer: usize,
}

impl PullLimits {
    /// Default maximum number of blobs that are fetched concurrently, by all pulls together and by
    /// one pull.
    pub const DEFAULT_BLOBS: usize = 3;
    /// Maximum number of blobs that may be fetched concurrently.
    pub const MAX_BLOBS: usize = 64;
    /// Maximum number of ranges of one layer that may be fetched concurrently.
    pub const MAX_RANGES: usize = 8;
    /// Size of one range in bytes. A layer that is fetched in n concurrent ranges has at most n + 1
    /// of them in memory.
    pub const RANGE: u64 = 8 << 20;

    /// Returns limits under which all pulls that share them fetch at most `overall` blobs
    /// concurrently, from 1 to [`Self::MAX_BLOBS`]; by default [`Self::DEFAULT_BLOBS`].
    pub fn new(overall: usize) -> Self {
        PullLimits {
            overall: Arc::new(Semaphore::new(overall.clamp(1, Self::MAX_BLOBS))),
            per_image: Self::DEFAULT_BLOBS,
            per_layer: 1,
        }
    }

    /// Sets how many blobs one pull handles concurrently, from 1 to [`Self::MAX_BLOBS`]; by default
    /// [`Self::DEFAULT_BLOBS`].
    #[must_use]
    pub fn with_per_image(mut self, blobs: usize) -> Self {
        self.per_image = blobs.clamp(1, Self::MAX_BLOBS);
        self
    }

    /// Sets how many ranges of one layer are fetched concurrently, from 1 to [`Self::MAX_RANGES`];
    /// by default 1, which is one request for the whole layer.
    #[must_use]
    pub fn with_per_layer(mut self, ranges: usize) -> Self {
        self.per_layer = ranges.clamp(1, Self::MAX_RANGES);
        self
    }

    /// Returns the maximum number of blobs that one pull handles concurrently.
    pub fn per_image(&self) -> usize {
        self.per_image
    }

    /// Returns the maximum number of ranges of one layer that are fetched concurrently.
    pub fn per_layer(&self) -> usize {
        self.per_layer
    }

    /// Waits until one more blob may be fetched. Returns the permit. A caller that waits here must
    /// not hold anything that another fetch waits for.
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
