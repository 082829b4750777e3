//! Pulls that fetch and unpack in parallel, within limits that several pulls share.

use std::time::Duration;

use cas_core::transfer::{PullLimits, Quota};
use cas_core::{Error, Result};
use cas_layer::unpack::StreamingUnpacker;
use cas_layer::unpack::jobs::Jobs;

use crate::root::{PullMode, PullModes};

/// Maximum number of layers that one pull fetches in chunks at the same time. For each of these
/// layers, memory may hold one chunk that is being written to the store. The limit on requests
/// bounds how many other chunks are in memory.
const CHUNKED: usize = 8;

/// How pulls fetch and unpack in parallel. All pulls that use clones of one value share the limits
/// [`PullModes::downloads`] and [`PullModes::unpacks`]. The other limits apply to each pull alone.
#[derive(Clone, Debug)]
pub struct ParallelPull {
    requests: Quota,
    unpacks: Quota,
    chunk: Option<u64>,
    discards: bool,
    job_lifetime: Duration,
}

impl ParallelPull {
    /// Returns a value with the settings in `modes`. Only clones of this value share its limits.
    ///
    /// # Errors
    /// `FailedPrecondition` if [`PullModes::mode`] is [`PullMode::Off`]; `InvalidArgument` if
    /// limits in `modes` contradict each other.
    pub fn new(modes: &PullModes) -> Result<Self> {
        if modes.mode == PullMode::Off {
            return Err(Error::precondition(
                "the pull modes do not allow parallel pulls; set `enable = true` in \
                 [pull_modes.parallel_pull_unpack], or pull with --parallel",
            )
            .operation("pull"));
        }
        let (requests, unpacks) = modes.quotas()?;
        Ok(ParallelPull {
            requests,
            unpacks,
            chunk: modes.chunk,
            discards: modes.discard_unpacked_layers,
            job_lifetime: modes.unpack_job_lifetime,
        })
    }

    /// Returns the limits for one more pull. If the pull modes set no size of chunks, each layer is
    /// fetched in the ranges that `limits` describe.
    pub(super) fn limits(&self, limits: &PullLimits) -> PullLimits {
        let own = PullLimits::of_requests(self.requests.clone());
        match self.chunk {
            Some(bytes) => own
                .with_blobs(CHUNKED)
                .with_per_layer(PullLimits::MAX_RANGES)
                .with_range(bytes),
            None => own
                .with_per_layer(limits.per_layer())
                .with_range(limits.range()),
        }
    }

    /// Returns the unpacker with the limit on unpacks, with the choice to discard layers, and with
    /// `jobs`, whose lifetime the pull modes set.
    pub(super) fn limit<'a>(
        &self,
        unpacker: StreamingUnpacker<'a>,
        jobs: Jobs,
    ) -> StreamingUnpacker<'a> {
        unpacker
            .with_quota(self.unpacks.clone())
            .with_discard(self.discards)
            .with_jobs(jobs.with_lifetime(self.job_lifetime))
    }
}
