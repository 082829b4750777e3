//! Bounds on concurrent fetches.

use super::quota::Quota;

/// How many requests a pull makes concurrently, how many blobs it handles concurrently, and how it
/// divides large layers into ranges.
///
/// Clones share the limit on the requests of all pulls together. To apply this limit to several
/// pulls that run at the same time, give each of them a clone. Each `with_` method replaces a value
/// that is out of bounds by the nearest bound.
#[derive(Clone, Debug)]
pub struct PullLimits {
    requests: Quota,
    blobs: usize,
    per_layer: usize,
    range: u64,
}

impl PullLimits {
    /// Default maximum number of blobs that one pull handles concurrently.
    pub const DEFAULT_BLOBS: usize = 3;
    /// Maximum number of blobs that one pull may handle concurrently.
    pub const MAX_BLOBS: usize = 64;
    /// Maximum number of ranges of one layer that may be fetched concurrently.
    pub const MAX_RANGES: usize = 8;
    /// Default size of one range in bytes. While a layer is fetched in n concurrent ranges, at most
    /// n + 1 of its ranges are in memory.
    pub const RANGE: u64 = 4 << 20;
    /// Smallest size of a range in bytes.
    pub const MIN_RANGE: u64 = 64 << 10;
    /// Largest size of a range in bytes.
    pub const MAX_RANGE: u64 = 64 << 20;

    /// Returns limits that keep the requests for documents, blobs and ranges within the quota
    /// `requests`. With these limits, one pull handles up to [`Self::MAX_BLOBS`] blobs
    /// concurrently.
    pub fn of_requests(requests: Quota) -> Self {
        PullLimits {
            requests,
            blobs: Self::MAX_BLOBS,
            ..Self::default()
        }
    }

    /// Sets how many blobs one pull handles concurrently, from 1 to [`Self::MAX_BLOBS`]; by default
    /// [`Self::DEFAULT_BLOBS`].
    #[must_use]
    pub fn with_blobs(mut self, blobs: usize) -> Self {
        self.blobs = blobs.clamp(1, Self::MAX_BLOBS);
        self
    }

    /// Sets how many ranges of one layer are fetched concurrently, from 1 to [`Self::MAX_RANGES`];
    /// by default 1, which is one request for the whole layer.
    #[must_use]
    pub fn with_per_layer(mut self, ranges: usize) -> Self {
        self.per_layer = ranges.clamp(1, Self::MAX_RANGES);
        self
    }

    /// Sets the size of a range in bytes, from [`Self::MIN_RANGE`] to [`Self::MAX_RANGE`]; by
    /// default [`Self::RANGE`].
    #[must_use]
    pub fn with_range(mut self, bytes: u64) -> Self {
        self.range = bytes.clamp(Self::MIN_RANGE, Self::MAX_RANGE);
        self
    }

    /// Returns the quota of concurrent requests. The quota has two limits: one for each pull, and
    /// one for all pulls together that use clones of these limits.
    pub fn requests(&self) -> &Quota {
        &self.requests
    }

    /// Returns the maximum number of blobs that one pull handles concurrently.
    pub fn blobs(&self) -> usize {
        self.blobs
    }

    /// Returns the maximum number of ranges of one layer that are fetched concurrently.
    pub fn per_layer(&self) -> usize {
        self.per_layer
    }

    /// Returns the size of a range in bytes.
    pub fn range(&self) -> u64 {
        self.range
    }
}

impl Default for PullLimits {
    /// Returns limits of three blobs at a time, each fetched by one request.
    fn default() -> Self {
        PullLimits {
            requests: Quota::of_each_image(0),
            blobs: Self::DEFAULT_BLOBS,
            per_layer: 1,
            range: Self::RANGE,
        }
    }
}
