//! How long things are kept without a name: every default lifetime, in one place.

use std::time::Duration;

/// The default lifetime of a lease: how long the lease of a job outlives the job if it is killed.
pub const LEASE_TTL: Duration = Duration::from_secs(10 * 60);
/// How long a blob, a snapshot or an ingest that no lease pins is kept.
pub const UNLEASED_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// How far the clocks of machines that share a store may differ: a lease is taken for expired
/// this much later than it says.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);
