//! Options of a pruning.

use std::time::{Duration, SystemTime};

/// Options of [`prune`](super::prune). At least one bound must be set.
///
/// An image is removed if it is older than [`older_than`](Self::older_than), or if its removal is
/// needed to meet [`max_size`](Self::max_size) or [`keep_free`](Self::keep_free). The
/// [`keep_last`](Self::keep_last) most recently used images always stay. If `keep_last` is the only
/// bound, all other images are removed. Images that are mounted, leased or used by a job stay in
/// any case.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PruneOptions {
    /// The current time, against which ages are measured. Tests set it.
    pub now: SystemTime,
    /// Whether to report what would be removed, and remove nothing.
    pub dry_run: bool,
    /// An image is removed if its last use, its creation and its last change are all longer ago
    /// than this.
    pub older_than: Option<Duration>,
    /// How many of the most recently used images are never removed.
    pub keep_last: Option<usize>,
    /// Maximum number of bytes of the content that the images keep. A blob counts once. If the
    /// store is opened for an owner, only the images of this owner count. Otherwise, only the
    /// images without an owner count.
    pub max_size: Option<u64>,
    /// Minimum number of bytes that must be free on the file system of the store after the pruning.
    /// Content that a later collection frees counts as free.
    pub keep_free: Option<u64>,
    /// Number of bytes that are free now on the file system of the store. Must be set if
    /// `keep_free` is set.
    pub free: Option<u64>,
}

impl Default for PruneOptions {
    fn default() -> Self {
        PruneOptions {
            now: SystemTime::now(),
            dry_run: false,
            older_than: None,
            keep_last: None,
            max_size: None,
            keep_free: None,
            free: None,
        }
    }
}

impl PruneOptions {
    /// Sets [`now`](Self::now).
    #[must_use]
    pub fn with_now(mut self, now: SystemTime) -> Self {
        self.now = now;
        self
    }

    /// Sets [`dry_run`](Self::dry_run).
    #[must_use]
    pub fn with_dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Sets [`older_than`](Self::older_than).
    #[must_use]
    pub fn with_older_than(mut self, older_than: impl Into<Option<Duration>>) -> Self {
        self.older_than = older_than.into();
        self
    }

    /// Sets [`keep_last`](Self::keep_last).
    #[must_use]
    pub fn with_keep_last(mut self, keep_last: impl Into<Option<usize>>) -> Self {
        self.keep_last = keep_last.into();
        self
    }

    /// Sets [`max_size`](Self::max_size).
    #[must_use]
    pub fn with_max_size(mut self, max_size: impl Into<Option<u64>>) -> Self {
        self.max_size = max_size.into();
        self
    }

    /// Sets [`keep_free`](Self::keep_free).
    #[must_use]
    pub fn with_keep_free(mut self, keep_free: impl Into<Option<u64>>) -> Self {
        self.keep_free = keep_free.into();
        self
    }

    /// Sets [`free`](Self::free).
    #[must_use]
    pub fn with_free(mut self, free: impl Into<Option<u64>>) -> Self {
        self.free = free.into();
        self
    }

    /// Returns whether no bound is set.
    pub fn is_unbounded(&self) -> bool {
        self.has_no_other_bound() && self.keep_last.is_none()
    }

    /// Returns whether no bound is set except the number of images.
    pub(super) fn has_no_other_bound(&self) -> bool {
        self.older_than.is_none() && self.max_size.is_none() && self.keep_free.is_none()
    }

    /// Returns whether an image that was last used at `used_at` is removed whatever its size is.
    pub(super) fn is_too_old(&self, used_at: SystemTime) -> bool {
        let age = self.now.duration_since(used_at).unwrap_or_default();
        self.has_no_other_bound() || self.older_than.is_some_and(|oldest| age > oldest)
    }
}
