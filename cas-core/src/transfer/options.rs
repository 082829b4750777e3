//! Options of pull, push and copy.

use std::sync::Arc;

use super::pull_limits::PullLimits;
use super::referrers::Referrers;
use super::unpacker::Unpacker;
use crate::platform::Platforms;
use crate::progress::{Progress, Silent};

/// How an image is pulled.
#[derive(Clone)]
#[non_exhaustive]
pub struct PullOptions<'a> {
    /// The platforms to pull. By default, the platform of this machine. With [`Platforms::One`], an
    /// image without an index must match the platform that `One` names. With the other variants, an
    /// image without an index is pulled, whatever its platform is.
    pub platforms: Platforms,
    /// Unpacks the image while it arrives. By default, the image is only stored.
    pub unpacker: Option<&'a dyn Unpacker>,
    /// Lists the referrers of the image, which are pulled, too. By default, no referrers are
    /// pulled.
    pub referrers: Option<&'a dyn Referrers>,
    /// Receives the progress of each blob. By default, progress is ignored.
    pub progress: Arc<dyn Progress>,
    /// Limits on concurrent requests, on concurrent blobs, and on concurrent ranges of one layer.
    pub limits: PullLimits,
}

impl Default for PullOptions<'_> {
    fn default() -> Self {
        PullOptions {
            platforms: Platforms::default(),
            unpacker: None,
            referrers: None,
            progress: Arc::new(Silent),
            limits: PullLimits::default(),
        }
    }
}

impl<'a> PullOptions<'a> {
    /// Sets the platforms to pull.
    #[must_use]
    pub fn with_platforms(mut self, platforms: impl Into<Platforms>) -> Self {
        self.platforms = platforms.into();
        self
    }

    /// Sets the unpacker, which unpacks the image while it arrives.
    #[must_use]
    pub fn with_unpacker(mut self, unpacker: &'a dyn Unpacker) -> Self {
        self.unpacker = Some(unpacker);
        self
    }

    /// Sets the repository or store that lists the referrers of the image. Referrers of any type
    /// are then pulled, too, and so are their own referrers.
    #[must_use]
    pub fn with_referrers(mut self, referrers: &'a dyn Referrers) -> Self {
        self.referrers = Some(referrers);
        self
    }

    /// Sets where progress is reported.
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// Sets the limits on concurrent requests, on concurrent blobs, and on concurrent ranges of one
    /// layer.
    #[must_use]
    pub fn with_limits(mut self, limits: PullLimits) -> Self {
        self.limits = limits;
        self
    }
}

/// How an image is pushed.
#[derive(Clone)]
#[non_exhaustive]
pub struct PushOptions {
    /// The platforms to push. By default, [`Platforms::Host`].
    ///
    /// [`Platforms::Host`] and [`Platforms::Like`] push all platforms if the manifests for all
    /// platforms are complete in the store and no digest has an unknown algorithm. Otherwise,
    /// `Host` pushes only the manifest for this machine, and `Like` pushes only the manifest for
    /// the platform that it names. [`Platforms::One`] always pushes only the manifest for the
    /// platform that it names. [`Platforms::All`] pushes all platforms or fails.
    pub platforms: Platforms,
    /// Whether the referrers of the image are pushed, too, as far as the store has them. By
    /// default, referrers are not pushed.
    pub referrers: bool,
    /// Receives the progress of each blob. By default, progress is ignored.
    pub progress: Arc<dyn Progress>,
    /// Maximum number of blobs that are pushed concurrently, from 1 to [`PushOptions::MAX_BLOBS`].
    /// By default, 3.
    pub blobs: usize,
}

impl Default for PushOptions {
    fn default() -> Self {
        PushOptions {
            platforms: Platforms::default(),
            referrers: false,
            progress: Arc::new(Silent),
            blobs: 3,
        }
    }
}

impl PushOptions {
    /// Maximum number of blobs that may be pushed concurrently.
    pub const MAX_BLOBS: usize = 64;

    /// Sets the platforms to push.
    #[must_use]
    pub fn with_platforms(mut self, platforms: impl Into<Platforms>) -> Self {
        self.platforms = platforms.into();
        self
    }

    /// Sets whether the referrers of the image, and their own referrers, are pushed, too, as far as
    /// the store has them.
    #[must_use]
    pub fn with_referrers(mut self, referrers: bool) -> Self {
        self.referrers = referrers;
        self
    }

    /// Sets where progress is reported.
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// Sets how many blobs are pushed concurrently, from 1 to [`PushOptions::MAX_BLOBS`]. A value
    /// out of these bounds is replaced by the nearest bound.
    #[must_use]
    pub fn with_blobs(mut self, blobs: usize) -> Self {
        self.blobs = blobs.clamp(1, Self::MAX_BLOBS);
        self
    }
}

/// How an image is copied from one store into another.
#[derive(Clone)]
#[non_exhaustive]
pub struct CopyOptions {
    /// The platforms to copy. By default, all platforms that the source has.
    pub platforms: Platforms,
    /// Receives the progress of each blob, and a warning for each part that is left out because the
    /// source does not have it. By default, progress is ignored.
    pub progress: Arc<dyn Progress>,
}

impl Default for CopyOptions {
    fn default() -> Self {
        CopyOptions {
            platforms: Platforms::All,
            progress: Arc::new(Silent),
        }
    }
}

impl CopyOptions {
    /// Sets the platforms to copy.
    #[must_use]
    pub fn with_platforms(mut self, platforms: impl Into<Platforms>) -> Self {
        self.platforms = platforms.into();
        self
    }

    /// Sets where progress is reported.
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }
}
